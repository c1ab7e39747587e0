"""The processes of a run, and what is asked of them. All of them end with the run, however that ends."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from benchmarks.raw import daemon_path
from benchmarks.rows import ROUND_TRIPS, Carrier, Effort, Face, Row

ROOT = Path(__file__).resolve().parent.parent
# A process that has not answered by then has failed or hangs. Many start at once, and other work may be going on.
ANSWER_SECONDS = 30.0
END_SECONDS = 5.0

_ENDS = {Face.TRIO: "benchmarks.trio_ends", Face.SYNC: "benchmarks.blocking_ends"}
_PLAIN = frozenset({Carrier.PIPE, Carrier.PYZMQ})
_PLAIN_ENDS = "benchmarks.plain_ends"


class BenchmarkFailed(Exception):
    """A process of the run failed; the text carries what it logged."""


class Worker:
    """One process; it is ended with the block. ``name`` is for messages."""

    def __init__(self, directory: Path, name: str, *command: str) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
                # An interrupt from the terminal is for the run; it ends its processes in order.
                process_group=0,
            )
        self._received = b""

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self.process
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def line(self) -> str:
        """The next line it prints. Raises BenchmarkFailed when none comes."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = monotonic() + ANSWER_SECONDS
        while b"\n" not in self._received:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - monotonic()))
            chunk = os.read(descriptor, 65536) if readable else b""
            if not chunk:
                what = "ended" if readable else f"did not answer in {ANSWER_SECONDS:g} s"
                raise BenchmarkFailed(f"{self.name} {what}\n{self._logs()}")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _logs(self) -> str:
        """The end of what it logged, and of what the daemon did, which may know why."""
        logs = dict.fromkeys([self._log, self._log.with_name("vmbusd.log")])
        texts = [(path.name, path.read_text(errors="replace")[-4000:]) for path in logs if path.exists()]
        return "\n".join(f"{name}:\n{text}" for name, text in texts if text)

    def ask(self, question: object) -> Any:
        """Its answer to a line of JSON."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the answer that does not come will say it
            os.write(self.process.stdin.fileno(), json.dumps(question).encode() + b"\n")
        return json.loads(self.line())


class Stage:
    """Every process of a run, ready to measure. Made by ``set_up``."""

    def __init__(self, workers: list[Worker], near: dict[tuple[Face, Carrier], Worker]) -> None:
        self._workers = workers
        self._near = near
        self._cpus = os.sched_getaffinity(0)
        # What `taskset -c 0` would choose where all cpus are allowed.
        self.pinned_cpu = min(self._cpus)

    def measure(self, row: Row, carrier: Carrier, effort: Effort) -> dict[str, float]:
        """One measurement of a row: round trips with every process on one cpu, rates on all of them."""
        self._place({self.pinned_cpu} if row.measure in ROUND_TRIPS else self._cpus)
        question = (row.measure, row.message_bytes, effort.seconds, effort.warm_up)
        answer: dict[str, float] = self._near[row.face, carrier].ask(question)
        return answer

    def _place(self, cpus: Iterable[int]) -> None:
        for worker in self._workers:
            try:
                os.sched_setaffinity(worker.process.pid, cpus)
            except ProcessLookupError:
                raise BenchmarkFailed(f"{worker.name} has ended\n{worker.line()}") from None


@contextmanager
def _away_from(cpu: int) -> Iterator[None]:
    """Keep this process, which draws the progress, off the cpu that is measured on; where there is another."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus - {cpu} or cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


@contextmanager
def set_up(wanted: Iterable[tuple[Face, Carrier]]) -> Iterator[Stage]:
    """Start the daemon, the echo, the relays, and two ends for each face and carrier that is wanted."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmbus-bench-")))
        workers: list[Worker] = []

        def start(name: str, *command: str) -> Worker:
            workers.append(stack.enter_context(Worker(directory, name, *command)))
            return workers[-1]

        socket = str(daemon_path(str(directory)))
        daemon = start("vmbusd", "emulator", "--log-level", "warning", "--socket", socket)
        echo_port = start("echo", "benchmarks.echo").line()
        relay = start("relay", "benchmarks.relay", str(directory), echo_port)
        daemon.line()
        relay.line()
        ends: dict[tuple[str, Face, Carrier], Worker] = {}
        for face, carrier in wanted:
            module = _PLAIN_ENDS if carrier in _PLAIN else _ENDS[face]
            for end in ("near", "far"):
                setting = (end, face, carrier, str(directory), echo_port)
                ends[end, face, carrier] = start(f"{end}-{face}-{carrier}", module, *setting)
        for worker in ends.values():
            worker.line()
        near = {(face, carrier): worker for (end, face, carrier), worker in ends.items() if end == "near"}
        stage = Stage(workers, near)
        stack.enter_context(_away_from(stage.pinned_cpu))
        yield stage

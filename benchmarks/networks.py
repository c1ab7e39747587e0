"""The networks' benchmark: ``python -m benchmarks.networks``; what is measured and met is in networks.md.

*Lossless* is the highest paced rate with less than 0.1 % loss, found by the same search for everything compared: twice
the rate until datagrams are lost or the sender is at its end, then halving the interval. Everything is measured in turn
inside a repetition, and a ratio is taken there too, so that a busy machine hardly shows in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.goals import Newest, parser, show
from clients import sync

HERE = Path(__file__).parent
PAGE = HERE / "networks.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- newest table: written by benchmarks.networks --save -->", "<!-- end of it -->"
LOSS = 0.001
SIZES = (64, 1_400)
FIRST_RATE, HALVINGS = 10_000.0, 4
# What processor time is measured at.
STEADY_RATE = 20_000.0
# A sender that keeps less than this part of its rate is at its end.
KEPT = 0.9
BURST = 256
IDLE_ADDRESSES, BUSY_ADDRESSES = 990, 10


class Trial(NamedTuple):
    """One paced run: how many a second were sent, and which part of them was lost."""

    rate: float
    lost: float


Send = Callable[[int, float, float], tuple[int, float]]
"""Send datagrams of so many bytes at a rate for so many seconds; how many, and how long it took."""


class Sink:
    """A program that counts what comes."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, encoding="ascii"
        )
        self.port = self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None, "it was started with a pipe"
        return int(self._process.stdout.readline())

    def count(self) -> int:
        """What came since the last time, once nothing comes any more."""
        assert self._process.stdin is not None, "it was started with a pipe"
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def lossless(sink: Sink, send: Send, size: int, seconds: float) -> float:
    """The highest rate with less than LOSS lost, as far as the search comes."""

    def try_rate(rate: float) -> Trial:
        sent, took = send(size, rate, seconds)
        return Trial(sent / took, 1 - sink.count() / max(sent, 1))

    sink.count()
    good, wanted = 0.0, FIRST_RATE
    while True:
        trial = try_rate(wanted)
        if trial.lost >= LOSS:
            break
        good = max(good, trial.rate)
        if trial.rate < KEPT * wanted:
            return good
        wanted *= 2
    low = good or wanted / 16
    for _ in range(HALVINGS):
        middle = (low + wanted) / 2
        trial = try_rate(middle)
        if trial.lost < LOSS:
            low, good = middle, max(good, trial.rate)
        else:
            wanted = middle
    return good


# ---- what is compared


def paced(program: str, how: str, where: str) -> Send:
    """The sender in C."""

    def send(size: int, rate: float, seconds: float) -> tuple[int, float]:
        command = [program, how, where, str(size), str(rate), str(seconds)]
        sent, took = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return int(sent), float(took)

    return send


def paced_client(path: Path, port: int) -> Send:
    """A client of the daemon, in a process of its own, a burst for each call."""

    def send(size: int, rate: float, seconds: float) -> tuple[int, float]:
        command = [sys.executable, "-m", "benchmarks.networks", "--client", str(path)]
        command += [str(each) for each in (port, size, rate, seconds)]
        sent, took = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return int(sent), float(took)

    return send


def client(path: str, port: str, size: str, rate: str, seconds: str) -> None:
    """What that process does: the datagrams that are due, up to a burst, in one call."""
    with sync.connect(path) as connection:
        address = connection.machine("vm1").open_address(("127.0.0.1", 0))
        datagrams = [bytes(int(size))] * BURST
        sent, began, until, pace = 0, time.monotonic(), float(seconds), float(rate)
        while (passed := time.monotonic() - began) < until:
            due = min(int(passed * pace) - sent, BURST)
            if due > 0:
                address.send_many(datagrams[:due], ("127.0.0.1", int(port)))
                sent += due
        sys.stdout.write(f"{sent} {time.monotonic() - began:.6f}\n")


@contextmanager
def daemon(directory: Path, config: str = "") -> Iterator[tuple[Path, int]]:
    """A daemon; the path of its socket, and its process."""
    path, text = directory / "vmbusd.sock", directory / "vmbusd.toml"
    text.write_text(config or "[machines.vm1]\n")
    command = [sys.executable, "-m", "emulator", "--socket", str(path), "--config", str(text)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None, "it was started with a pipe"
        process.stdout.readline()
        yield path, process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def relay(command: list[str]) -> Iterator[int]:
    """A program that is there until its standard input ends, or it is told to; its process."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)  # none of them says when it is ready
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def gateway_config(port: int, inside: int, outside: int) -> str:
    """From one gateway port to another: what comes in at ``inside`` leaves at ``outside`` for ``port``."""
    return (
        '[machines.vm1]\nsegments = { lan = "10.0.0.1" }\n[segments.lan.gateway]\nports = [\n'
        f'{{ inside = "10.0.0.8:1", outside = "127.0.0.1:{inside}", to = "10.0.0.9:1" }},\n'
        f'{{ inside = "10.0.0.9:1", outside = "127.0.0.1:{outside}", to = "10.0.0.8:1", '
        f'peer = "127.0.0.1:{port}" }},\n]\n'
    )


def free_ports(count: int) -> list[int]:
    """UDP ports that were free a moment ago."""

    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


# ---- the measurements


def rates(program: str, directory: Path, seconds: float) -> dict[str, float]:
    """One repetition of every lossless rate."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        sink = Sink([program, "sink", "0"])
        stack.callback(sink.close)
        inside, outside, relayed = free_ports(3)
        path, pid = stack.enter_context(daemon(directory, gateway_config(sink.port, inside, outside)))
        relays = {"gateway": pid}
        ways: dict[str, tuple[Sink, Send]] = {
            "C": (sink, paced(program, "pace", str(sink.port))),
            "client": (sink, paced_client(path, sink.port)),
            "gateway": (sink, paced(program, "pace", str(inside))),
        }
        if shutil.which("socat"):
            options = f"UDP-RECV:{relayed},bind=127.0.0.1,rcvbuf=4194304"
            relays["socat"] = stack.enter_context(relay(["socat", "-u", options, f"UDP-SENDTO:127.0.0.1:{sink.port}"]))
            ways["socat"] = sink, paced(program, "pace", str(relayed))
        if shutil.which("vde_switch"):
            switch = str(directory / "vde")
            relays["vde_switch"] = stack.enter_context(relay(["vde_switch", "-s", switch]))
            frames = Sink([program, "vde-sink", switch])
            stack.callback(frames.close)
            ways["vde_switch"] = frames, paced(program, "vde-pace", switch)
        for size in SIZES:
            for name, (counting, send) in ways.items():
                found[f"{name} {size}"] = lossless(counting, send, size, seconds)
            for name, process in relays.items():
                counting, send = ways[name]
                before = processor_microseconds(process)
                send(size, STEADY_RATE, seconds)
                found[f"{name} cost {size}"] = (processor_microseconds(process) - before) / max(counting.count(), 1)
    return found


def busy_times(directory: Path, rounds: int) -> dict[str, float]:
    """What a datagram from one busy address to another costs, few addresses open and many; and memory for an idle one.

    Processor time of the daemon, since the machine's other work is in every other time.
    """
    found: dict[str, float] = {}
    with daemon(directory) as (path, pid), sync.connect(path, map_memory=False) as connection:
        machine = connection.machine("vm1")
        busy = [machine.open_address(("127.0.0.1", 0)) for _ in range(BUSY_ADDRESSES)]

        def work() -> float:
            began = processor_microseconds(pid)
            for number in range(rounds):
                sender, receiver = busy[number % BUSY_ADDRESSES], busy[(number + 1) % BUSY_ADDRESSES]
                sender.send_datagram(b"x" * 64, receiver.local)
                next(receiver)
            return (processor_microseconds(pid) - began) / rounds

        work()
        few, many, sizes = [], [], []
        # In turn: a machine that grows slower meanwhile does so for both.
        for _ in range(3):
            few.append(work())
            before = anonymous_bytes(pid)
            idle = [machine.open_address(("127.0.0.1", 0)) for _ in range(IDLE_ADDRESSES)]
            sizes.append((anonymous_bytes(pid) - before) / IDLE_ADDRESSES)
            many.append(work())
            for address in idle:
                address.close()
        found["few"], found["many"], found["memory"] = median(few), median(many), max(sizes)
    return found


def processor_microseconds(pid: int) -> float:
    """Processor time a process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1_000


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Row(NamedTuple):
    """A goal: one measured thing in units of another; ``at_least`` or at most that much is asked."""

    name: str
    measured: str
    unit: str
    goal: float | None
    at_least: bool = True

    def verdict(self, ratio: float) -> str:
        """Whether it is met."""
        if self.goal is None:
            return "reported"
        met = ratio >= self.goal if self.at_least else ratio <= self.goal
        return f"{'≥' if self.at_least else '≤'} {self.goal:g}: {'met' if met else 'missed'}"


ROWS = (
    *(Row(f"client → daemon → UDP sink, {size:,} B, lossless", f"client {size}", f"C {size}", 0.35) for size in SIZES),
    *(
        Row(f"gateway to gateway, {size:,} B, against vde_switch", f"gateway {size}", f"vde_switch {size}", 1.0)
        for size in SIZES
    ),
    *(Row(f"gateway to gateway, {size:,} B, against socat", f"gateway {size}", f"socat {size}", 1.3) for size in SIZES),
    *(
        Row(
            f"gateway to gateway, {size:,} B, processor time against {name}",
            f"gateway cost {size}",
            f"{name} cost {size}",
            None,
        )
        for name in ("socat", "vde_switch")
        for size in SIZES
    ),
    Row("10 busy of 1,000 addresses, processor time against 10 of 10", "many", "few", 1.1, at_least=False),
    Row("KiB for an idle address", "memory", "KiB", 8, at_least=False),
)


def table(results: list[dict[str, float]]) -> str:
    """Ratios with their goals, then what they were taken from."""
    lines = ["| what | ratio (lowest to highest) | goal |", "|---|---|---|"]
    for row in ROWS:
        ratios = [
            result[row.measured] / result[row.unit]
            for result in results
            if row.measured in result and row.unit in result
        ]
        if ratios:
            span = f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"| {row.name} | {span} | {row.verdict(median(ratios))} |")
        else:
            lines.append(f"| {row.name} | not measured: {row.unit.split()[0]} is not installed | |")
    lines += ["", "| figure | median | lowest | highest |", "|---|---:|---:|---:|"]
    for name in results[0]:
        if name != "KiB":
            values = [result[name] for result in results]
            digits = 1 if "cost" in name else 0
            shown = " | ".join(f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
            lines.append(f"| {_label(name)} | {shown} |")
    return "\n".join(lines) + "\n"


def _label(name: str) -> str:
    named = {
        "few": "processor µs of the daemon for a datagram, 10 addresses open",
        "many": "the same, 1,000 open",
        "memory": "bytes for an idle address",
    }
    if " cost " in name:
        return f"{name.replace(' cost', '')} B, processor µs a datagram"
    return named.get(name) or f"{name} B, datagrams/s"


def run(repetitions: int, seconds: float, rounds: int) -> list[dict[str, float]]:
    """Measure everything so often."""
    results = []
    with tempfile.TemporaryDirectory() as place:
        program = str(Path(place) / "datagrams")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-o", program, str(HERE / "c" / "datagrams.c")], check=True)
        for number in range(repetitions):
            directory = Path(place) / str(number)
            directory.mkdir()
            results.append(rates(program, directory, seconds) | busy_times(directory, rounds) | {"KiB": 1024.0})
    return results


def main() -> None:
    words = parser(__doc__, 5, PAGE)
    words.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    options = words.parse_args()
    if options.client:
        client(*options.client)
        return
    load = os.getloadavg()[0]
    results = run(1, 0.02, 20) if options.quick else run(options.repetitions, 0.3, 500)
    show(Newest(PAGE, TABLE_BEGINS, TABLE_ENDS), table(results), len(results), load, save=options.save)


if __name__ == "__main__":
    main()

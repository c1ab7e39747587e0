"""Real operating-system processes for end-to-end tests: the daemon, clients, and whatever else has to run beside them.

Every process here ends with the block that started it, however that block is left. What a process prints comes through
a pipe, so that a test can wait for a line of it; what it logs goes to a file. No background task reads along:
exceptions reach the test runner as they were raised, not in groups.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 15.0
PIPE_BYTES = 1 << 20  # nobody reads between two waits, and a child must not have to stop for that


Child = TypeVar("Child", bound="Running")


class ProcessFailed(AssertionError):
    """A process did not start, did not end, or ended otherwise than expected; the message carries what it printed."""


class Finished(NamedTuple):
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str


class ProcessMemory(NamedTuple):
    """Memory of a process in bytes: all that is resident, and the part of it no file or shared memory stands behind."""

    resident_bytes: int
    anonymous_bytes: int


@dataclass
class Running:
    """A live child process; ``stdout`` is what was read of its output so far."""

    process: trio.Process
    command: Sequence[str | Path]
    stderr_path: Path | None
    _output: bytearray = field(default_factory=bytearray)
    _seen_bytes: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def _stdout(self) -> trio.lowlevel.FdStream:
        stream = self.process.stdout
        assert isinstance(stream, trio.lowlevel.FdStream)
        return stream

    @property
    def stdout(self) -> str:
        """What it printed, as far as it was read: up to the last line waited for, and all of it after its end."""
        return self._output.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has logged so far; empty where that is part of ``stdout``."""
        return self.stderr_path.read_text(errors="replace") if self.stderr_path else ""

    def memory(self) -> ProcessMemory:
        return process_memory(self.pid)

    def descriptor_count(self) -> int:
        return descriptor_count(self.pid)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say goodbye."""
        self.process.kill()

    async def wait_for_line(self, text: str, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> str:
        """The next line it prints with ``text`` in it; lines that were waited for before are not looked at again.

        Raises ProcessFailed when the output ends first, or in ``timeout_seconds``.
        """
        with trio.move_on_after(timeout_seconds):
            while (line := self._next_line(text)) is None:
                if not await self._read():
                    await self.process.wait()
                    raise ProcessFailed(f"it ended before it said {text!r}\n{self.report()}")
            return line
        raise ProcessFailed(f"it did not say {text!r} in {timeout_seconds} s\n{self.report()}")

    def report(self) -> str:
        """The process and its output, for the message of a failure."""
        command = " ".join(map(str, self.command))
        return f"{command}\nexit code: {self.process.returncode}\nstdout:\n{self.stdout}\nstderr:\n{self.stderr}"

    async def end(self) -> None:
        """SIGTERM if it still lives, SIGKILL if that did not help; then read what it printed last."""
        if self.process.poll() is None:
            self.process.terminate()
            with trio.move_on_after(STOP_TIMEOUT_SECONDS):
                await self.process.wait()
        if self.process.poll() is None:
            self.process.kill()
            await self.process.wait()
        with trio.move_on_after(STOP_TIMEOUT_SECONDS):  # a grandchild may hold the pipe open
            while await self._read():
                pass
        await self._stdout.aclose()

    def _next_line(self, text: str) -> str | None:
        while (end := self._output.find(b"\n", self._seen_bytes)) >= 0:
            line = self._output[self._seen_bytes : end].decode(errors="replace")
            self._seen_bytes = end + 1
            if text in line:
                return line
        return None

    async def _read(self) -> bool:
        """Take in what it printed meanwhile; False at the end of its output."""
        chunk = await self._stdout.receive_some(65536)
        self._output += chunk
        return bool(chunk)


@dataclass
class Daemon(Running):
    """A running ``vmbusd`` that listens on ``socket_path``."""

    socket_path: Path = Path()


@asynccontextmanager
async def start_process(
    tmp_path: Path,
    name: str,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    merge_output: bool = False,
) -> AsyncIterator[Running]:
    """Run ``command`` for the length of the block, then end it: SIGTERM if it still lives, SIGKILL if that failed.

    ``name`` must be unique below ``tmp_path``: what it logs is kept there in ``name.stderr``, or, with
    ``merge_output``, is part of what it prints. ``environment`` is added to this process's own.
    """
    running = await _open(Running, tmp_path, name, command, environment, merge_output=merge_output)
    try:
        yield running
    finally:
        with trio.CancelScope(shield=True):
            await running.end()


@asynccontextmanager
async def start_daemon(
    tmp_path: Path,
    config: str | None = None,
    *args: str,
    name: str = "vmbusd",
    socket_path: Path | None = None,
    expect_exit: int | None = 0,
    inside: Sequence[str] = (),
) -> AsyncIterator[Daemon]:
    """A ``vmbusd`` that is ready for clients, for the length of the block.

    ``config`` is the text of its configuration file. When the block ends well, the daemon gets SIGTERM and must exit
    with ``expect_exit`` (None: any way it likes); when the block raises, it is ended quietly and the exception goes on.
    ``inside`` are words before its command, such as those that start it in a network namespace.
    """
    path = socket_path or tmp_path / f"{name}.sock"
    command: list[str | Path] = [*inside, sys.executable, "-m", "emulator", "--socket", path]
    if config is not None:
        config_path = tmp_path / f"{name}.toml"
        config_path.write_text(config)
        command += ["--config", config_path]
    daemon = await _open(Daemon, tmp_path, name, [*command, *args])
    daemon.socket_path = path
    try:
        line = await daemon.wait_for_line("ready on ")
        if line != f"vmbusd: ready on {path}":
            raise ProcessFailed(f"it should be ready on {path}, but says {line!r}\n{daemon.report()}")
        yield daemon
        if expect_exit is not None:
            await _expect_clean_end(daemon, expect_exit)
    finally:
        with trio.CancelScope(shield=True):
            await daemon.end()


@asynccontextmanager
async def start_client(
    tmp_path: Path, name: str, target: str | Path, *args: str, daemon: Daemon | None = None
) -> AsyncIterator[Running]:
    """A Python client process that runs beside the test; ``target`` is the path of a script or the name of a module."""
    async with start_process(tmp_path, name, _python(target, args), environment=_for_client(daemon)) as running:
        yield running


async def run_client(
    target: str | Path,
    *args: str,
    daemon: Daemon | None = None,
    stdin: bytes = b"",
    expect_exit: int | None = 0,
    timeout_seconds: float = 60.0,
) -> Finished:
    """Run a Python client to its end; ``target`` is the path of a script or the name of a module.

    With ``daemon`` it finds that one through VMBUS_SOCKET. Raises ProcessFailed when it takes longer than
    ``timeout_seconds`` or ends otherwise than with ``expect_exit`` (None: any way it likes).
    """
    command = _python(target, args)
    done: subprocess.CompletedProcess[bytes] | None = None
    with trio.move_on_after(timeout_seconds):
        done = await trio.run_process(
            command,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_environment(_for_client(daemon)),
        )
    if done is None:
        raise ProcessFailed(f"{' '.join(command)} did not end in {timeout_seconds} s")
    finished = Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if expect_exit is not None and finished.returncode != expect_exit:
        raise ProcessFailed(
            f"{' '.join(command)}\nexit code: {finished.returncode}, not {expect_exit}\n"
            f"stdout:\n{finished.stdout}\nstderr:\n{finished.stderr}"
        )
    return finished


def free_udp_port(host: str = "127.0.0.1") -> int:
    """A UDP port that nobody on ``host`` had a moment ago; for servers that have to be told theirs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def process_memory(pid: int) -> ProcessMemory:
    """What a process holds in memory now, from ``/proc/PID/status``."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return ProcessMemory(*(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")))


def descriptor_count(pid: int) -> int:
    """How many file descriptors a process has open now."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _python(target: str | Path, args: Sequence[str]) -> list[str]:
    return [sys.executable, *([str(target)] if isinstance(target, Path) else ["-m", target]), *args]


def _for_client(daemon: Daemon | None) -> dict[str, str]:
    return {} if daemon is None else {"VMBUS_SOCKET": str(daemon.socket_path)}


def _environment(added: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment and ``added``; children find the project from anywhere and print without delay."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(added or {})}
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    return environment


async def _open(
    kind: type[Child],
    tmp_path: Path,
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    merge_output: bool = False,
) -> Child:
    stderr_path = None if merge_output else tmp_path / f"{name}.stderr"
    with stderr_path.open("xb") if stderr_path else nullcontext(subprocess.STDOUT) as stderr:
        process = await trio.lowlevel.open_process(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(environment),
        )
    child = kind(process, command, stderr_path)
    fcntl.fcntl(child._stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return child


async def _expect_clean_end(daemon: Daemon, expect_exit: int) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_TIMEOUT_SECONDS):
        await daemon.process.wait()
    if daemon.process.returncode != expect_exit:
        wanted = f"exit code {expect_exit} within {STOP_TIMEOUT_SECONDS} s of SIGTERM"
        raise ProcessFailed(f"the daemon should end with {wanted}\n{daemon.report()}")

"""The processes of the demonstration: started apart from the terminal, watched, and ended whatever happens.

Each is in a session of its own, so that Ctrl-C reaches only the demonstration, which then ends them in order. When
something fails, several processes fail one after another; the one that was started first is to blame, since the
others live by it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from clients.demo.failure import DemoFailed

# A child that says nothing for so long, though it should, is stuck.
SILENT_SECONDS = 60.0
END_SECONDS = 5.0
# How long the processes that others live by get to show that they are dead, before one of the others is blamed.
BLAME_SECONDS = 0.5
LOG_LINES = 15
LONGEST_LINE_BYTES = 64 * 1024


class ChildFailed(Exception):
    """A child ended, or fell silent, before its work was done."""

    def __init__(self, child: Child, message: str) -> None:
        super().__init__(message)
        self.child = child


class Child:
    """One process. ``lasts`` says that it works until it is ended."""

    def __init__(self, name: str, process: trio.Process, log: Path, *, lasts: bool) -> None:
        self.name = name
        self.process = process
        self.lasts = lasts
        self.is_ending = False
        self._log = log
        self._pending = bytearray()

    async def line(self) -> str | None:
        """The next line it prints; None when there are no more."""
        assert self.process.stdout is not None
        while (end := self._pending.find(b"\n")) < 0:
            with trio.move_on_after(SILENT_SECONDS) as scope:
                chunk = await self.process.stdout.receive_some()
            if scope.cancelled_caught:
                raise ChildFailed(self, f"said nothing for {SILENT_SECONDS:g} s")
            if not chunk or len(self._pending) > LONGEST_LINE_BYTES:
                return None
            self._pending += chunk
        line = self._pending[:end].decode(errors="replace")
        del self._pending[: end + 1]
        return line

    async def wait_for_line(self, beginning: str) -> str:
        """The next line, which must begin so."""
        line = await self.line()
        if line is None or not line.startswith(beginning):
            raise ChildFailed(self, await self.fate())
        return line

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What it tells, until its output ends."""
        while (line := await self.line()) is not None:
            try:
                yield json.loads(line)
            except ValueError:
                raise ChildFailed(self, f"told something unreadable: {line[:200]!r}") from None

    async def expect(self, event: str) -> dict[str, Any]:
        """The next message, which must be of this event."""
        async for message in self.messages():
            if message["event"] == event:
                return message
            break
        raise ChildFailed(self, await self.fate())

    async def fate(self) -> str:
        """How it ended, in words; it has closed its output, so the end is near."""
        with trio.move_on_after(END_SECONDS):
            await self.process.wait()
        code = self.process.returncode
        if code is None:
            return "closed its output and goes on"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        last_words = self.log_tail().rpartition("\n")[2] if code else ""
        return f"ended with exit code {code}" + (f": {last_words}" if last_words else "")

    async def watch(self) -> None:
        """Return when it is ended; ChildFailed when it ends by itself."""
        await self.process.wait()
        if not self.is_ending:
            raise ChildFailed(self, await self.fate())

    async def end(self) -> None:
        """SIGTERM if it still lives, SIGKILL if that does not help."""
        self.is_ending = True
        if self.process.poll() is None:
            self.process.terminate()
            with trio.move_on_after(END_SECONDS):
                await self.process.wait()
        if self.process.poll() is None:
            self.process.kill()
            await self.process.wait()
        if self.process.stdout is not None:
            await self.process.stdout.aclose()

    def log_tail(self) -> str:
        """The last lines it logged."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        except OSError:
            return ""


class Children:
    """All processes, in the order they were started; ended in the other order when the block ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            for child in reversed(self._all):
                await child.end()

    async def start(self, name: str, module: str, *arguments: str | Path | int, lasts: bool = False) -> Child:
        """Start a module of the project as a process."""
        log = self._folder / f"{len(self._all)}.log"
        command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
        with log.open("wb") as stderr:
            process = await _open(command, stderr.fileno())
        child = Child(name, process, log, lasts=lasts)
        self._all.append(child)
        return child

    async def reason(self, failure: ChildFailed) -> DemoFailed:
        """What went wrong at the root, once a child has failed."""
        for child in self._all:
            if child is failure.child:
                break
            if not child.lasts or child.is_ending:
                continue
            with trio.move_on_after(BLAME_SECONDS):
                await child.process.wait()
            if child.process.returncode is not None:
                return self._blame(child, await child.fate())
        return self._blame(failure.child, str(failure))

    def _blame(self, child: Child, what: str) -> DemoFailed:
        """The failure in words, with the end of the child's log, and of the log of the first, whom all others use."""
        logs = [f"--- log of the {each.name}:\n{each.log_tail()}" for each in dict.fromkeys((self._all[0], child))]
        return DemoFailed(f"the {child.name} (process {child.process.pid}) {what}", "\n".join(logs))


async def _open(command: Sequence[str], stderr: int) -> trio.Process:
    return await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
    )

"""The child's side: it tells the demonstration what it does as JSON objects, one a line, each with an ``event``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable

import trio

from clients.demo.failure import first_of
from clients.protocol import ConnectionLost, RequestFailed
from emulator.status import Refused

# Telling of progress more often than anyone can see would be work for nothing.
TICK_SECONDS = 0.1


class WrongAnswer(Exception):
    """The other side answered, but not with what it should have."""


def tell(event: str, **fields: object) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Ticker:
    """Tells of progress, at most every TICK_SECONDS."""

    def __init__(self) -> None:
        self._untold = 0
        self._due = 0.0

    def advance(self, amount: int) -> None:
        """So much more is done."""
        self._untold += amount
        now = trio.current_time()
        if now >= self._due:
            self._due = now + TICK_SECONDS
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told."""
        if self._untold:
            tell("progress", amount=self._untold)
            self._untold = 0


def run_child(work: Callable[..., Awaitable[None]]) -> None:
    """Run a child's program with the arguments of its command line; what went wrong is the last line it logs."""
    try:
        trio.run(work, *sys.argv[1:])
    except BrokenPipeError:
        # Whoever started this is gone; nobody is left to hear of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as group:
        error = first_of(group)
        if not isinstance(error, RequestFailed | ConnectionLost | Refused | WrongAnswer | OSError):
            raise
        sys.exit(str(error))

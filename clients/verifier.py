"""Verifier mode: misuse of driver channels becomes a report that names the rule and both places in the program.

A machine has it by ``verifier = true`` in the daemon's configuration. What a kernel's driver verifier would stop the
machine for is raised here as ``VerifierReport``, out of the call that was wrong or, where the wrong is in a callback,
out of the connection. ``reports`` keeps them.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import CodeType
from typing import Any

from emulator.status import Misuse

# Whose frames are not the program's.
_OURS = frozenset({"clients", "emulator", "trio", "contextlib", "functools"})
# Places remembered of one kind: more than can be outstanding on a channel of the usual size.
_MOST_PLACES = 4096


class VerifierReport(Misuse):
    """What was wrong, the rule it broke, and where: ``first`` is what it collided with, ``second`` what was wrong."""

    def __init__(self, rule: str, what: str, first: str, second: str) -> None:
        super().__init__(f"{what} [{rule}]: {second}; before that: {first}")
        self.rule = rule
        self.what = what
        self.first = first
        self.second = second


def call_site() -> str:
    """Where in the program, ``file:line``, the call comes from that is going on."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _OURS:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "an unknown place"


def function_site(function: Callable[..., Any] | None) -> str:
    """Where a callback of the program's begins."""
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        return f"{code.co_filename}:{code.co_firstlineno}"
    return repr(function)


class Verifier:
    """What one driver channel has done, and where; off until ``is_on``."""

    def __init__(self) -> None:
        self.is_on = False
        self.reports: list[VerifierReport] = []
        self._places: OrderedDict[Hashable, str] = OrderedDict()
        self._buffers: dict[Hashable, tuple[bytearray | memoryview, bytes]] = {}

    def remember(self, what: Hashable) -> None:
        """The program does this here."""
        if self.is_on:
            self._places[what] = call_site()
            self._places.move_to_end(what)
            while len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)

    def place(self, kind: str, number: int, place: str) -> None:
        """The program did this there."""
        if self.is_on:
            self._places[kind, number] = place

    def forget(self, what: Hashable) -> None:
        """It is over, as it should be."""
        self._places.pop(what, None)

    def place_of(self, what: Hashable) -> str:
        """Where that was done."""
        return self._places.get(what, "a place long ago")

    def report(self, rule: str, what: str, first: str, second: str | None = None) -> None:
        """Raise a report; ``second`` is where the program is now, if not given. Does nothing while off."""
        if self.is_on:
            report = VerifierReport(rule, what, first, second or call_site())
            self.reports.append(report)
            raise report

    # ---- buffers

    def lend(self, send: Hashable, buffer: bytes | bytearray | memoryview) -> None:
        """A packet was sent from a buffer that PAGED_BUFFER does not protect: it may be read until it is complete."""
        if self.is_on and not isinstance(buffer, bytes):
            self._buffers[send] = buffer, bytes(buffer)
            self.remember(send)

    def take_back(self, send: Hashable) -> None:
        """The packet is complete. Raises VerifierReport if its buffer was changed meanwhile (K4)."""
        lent = self._buffers.pop(send, None)
        if lent is not None and bytes(lent[0]) != lent[1]:
            what = "a buffer was changed before its packet was complete, and PAGED_BUFFER (0x4) was not set"
            self.report("K4", what, self.place_of(send))

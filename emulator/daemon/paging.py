"""Telling a client which pages of a machine are out: as much at a time as its outbox has room for, the latest only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emulator.status import PeerViolation
from emulator.wire.codec import encode_notification
from emulator.wire.runs import pack_pfns
from emulator.wire.schema import MEMORY_PAGED

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

# Pages in one message: far below what it could name, so that an outbox never grows by much at once.
TURN_PAGES = 8192


class PagingNotice:
    """What one session has not been told of one machine's pages. Bounded by the pages the machine has."""

    def __init__(self, session: Session, machine: Machine, number: int) -> None:
        self.machine = machine
        self._session = session
        self._number = number
        self._untold: dict[int, bool] = {}  # page -> whether it is out

    def mark(self, pfns: Iterable[int], *, out: bool) -> None:
        """Pages went out, or came in."""
        for pfn in pfns:
            self._untold.pop(pfn, None)
            self._untold[pfn] = out
        self._session.mark_ready(self)

    @property
    def is_open(self) -> bool:
        """Whether there is anybody to tell."""
        return self._session.is_open

    def drain(self) -> bool:
        """One bounded turn: pages that went the same way, in the order they did. True when another is due."""
        told: list[int] = []
        way: bool | None = None
        for pfn, out in self._untold.items():
            if way not in (None, out) or len(told) == TURN_PAGES:
                break
            way = out
            told.append(pfn)
        for pfn in told:
            del self._untold[pfn]
        if way is not None:
            self._session.put(encode_notification(MEMORY_PAGED, self._number, pack_pfns(told), way))
        return bool(self._untold)

    def violated(self, violation: PeerViolation) -> None:
        """Nothing is read from anybody here."""

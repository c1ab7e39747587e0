"""What has arrived for a bus guest and waits to be taken. Pure, and of no face."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from emulator.status import NtStatus


class BusMessage(NamedTuple):
    """A control message of the host's, and the message slot it stood in."""

    vp: int
    sint: int
    payload: bytes


class BusEvent(NamedTuple):
    """An event flag the host set."""

    vp: int
    sint: int
    flag: int


class Arrivals:
    """Things of one kind, in order. As event flags do, equal ones fall together while nobody takes them."""

    def __init__(self, *, falls_together: bool) -> None:
        self.items: deque[Any] = deque()
        self.closed: tuple[NtStatus, str] | None = None
        self.waiter: Any = None
        self._falls_together = falls_together
        self._there: set[Any] = set()

    def arrived(self, item: Any) -> None:
        """One more; what it is bounded by is the daemon's (a message in each slot) or the number of flags."""
        if not self._falls_together:
            self.items.append(item)
        elif item not in self._there:
            self._there.add(item)
            self.items.append(item)

    def take(self) -> Any:
        """The oldest."""
        item = self.items.popleft()
        self._there.discard(item)
        return item


class BusState:
    """A machine's guest side as this client has it; ``number`` is the machine's in the session."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages = Arrivals(falls_together=False)
        self.events = Arrivals(falls_together=True)

    @property
    def closed(self) -> tuple[NtStatus, str] | None:
        """(status, reason) once it is over."""
        return self.messages.closed

    def close(self, status: NtStatus, reason: str) -> None:
        """Nothing more comes. What came before can still be taken."""
        for each in (self.messages, self.events):
            each.closed = each.closed or (status, reason)

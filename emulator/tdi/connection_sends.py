"""What one connection still has to send: normal sends in order, expedited ones in order before them (C21).

A medium takes bytes from the head as it has room. A send ends when its last byte was taken. Its data were copied when
it was submitted, so a send that completed early (NON_BLOCKING) waits here like the others, without its request.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from emulator.tdi.irp import Irp


class QueuedData:
    """One accepted send, as far as it is not taken yet."""

    __slots__ = ("data", "end_of_record", "expedited", "irp", "taken")

    def __init__(self, irp: Irp | None, data: bytes, *, end_of_record: bool, expedited: bool) -> None:
        self.irp = irp
        self.data = data
        self.end_of_record = end_of_record
        self.expedited = expedited
        self.taken = 0

    @property
    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self.data) - self.taken


class Piece(NamedTuple):
    """What a medium may take now."""

    data: memoryview
    end_of_record: bool
    """Whether the record ends with the last of these bytes."""
    expedited: bool


class Outgoing:
    """The two queues of one connection, and its release behind them."""

    def __init__(self) -> None:
        self._normal: deque[QueuedData] = deque()
        self._expedited: deque[QueuedData] = deque()
        self.queued_bytes = 0
        self.waits_since: float | None = None
        """When the oldest of what waits began to, or something was taken the last time; None while nothing waits."""
        self.is_released = False
        """The client releases: behind the last send comes the end."""
        self.end_taken = False
        """The medium has taken the end too."""

    def __len__(self) -> int:
        return len(self._normal) + len(self._expedited)

    @property
    def end_is_due(self) -> bool:
        """Whether the medium shall carry the end now."""
        return self.is_released and not self.end_taken and not len(self)

    def put(self, queued: QueuedData, now: float) -> None:
        """Queue an accepted send."""
        (self._expedited if queued.expedited else self._normal).append(queued)
        self.queued_bytes += queued.left
        if self.waits_since is None:
            self.waits_since = now

    def piece(self, most: int, *, expedited: bool) -> Piece | None:
        """Up to ``most`` bytes of the oldest send of one kind; None when there is none, or no room for any of it."""
        queue = self._expedited if expedited else self._normal
        if not queue or most <= 0:
            return None
        head = queue[0]
        view = memoryview(head.data)[head.taken : head.taken + most]
        return Piece(view, head.end_of_record and len(view) == head.left, expedited)

    def took(self, byte_count: int, now: float, *, expedited: bool) -> QueuedData | None:
        """The medium took so much of the oldest of that kind; that send, if this was the last of it."""
        queue = self._expedited if expedited else self._normal
        head = queue[0]
        head.taken += byte_count
        self.queued_bytes -= byte_count
        if not head.left:
            queue.popleft()
        self.waits_since = now if len(self) else None
        return None if head.left else head

    def remove(self, irp: Irp) -> QueuedData | None:
        """Take a send back of which nothing was taken yet, wherever it stands."""
        for queue in (self._normal, self._expedited):
            for queued in queue:
                if queued.irp is irp and not queued.taken:
                    queue.remove(queued)
                    self.queued_bytes -= queued.left
                    if not len(self):
                        self.waits_since = None
                    return queued
        return None

    def left(self) -> list[QueuedData]:
        """Everything not taken yet, in the order it would go."""
        return [*self._expedited, *self._normal]

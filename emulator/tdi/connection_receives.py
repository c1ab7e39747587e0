"""What has arrived on one connection and was not taken yet, and the receives that wait for it.

Normal data are kept in order with the ends of their records, expedited data apart from them; both are bounded, and a
medium asks for ``room`` before it brings more. ``serve`` gives data to receives as far as the rules allow:

* a receive that takes either kind gets expedited data first (C21, C26);
* a stream's receive completes with what there is, or in the other style when it is full (C27);
* a message's receive completes at the end of the record, or with BUFFER_OVERFLOW when it is full before (C27);
* expedited data complete a partly filled normal receive with what it has (C28).
"""

from __future__ import annotations

from collections import deque

from emulator.status import NtStatus
from emulator.tdi.connection_profile import ConnectionMode, ConnectionProfile, ReceiveStyle
from emulator.tdi.connection_requests import Receive
from emulator.tdi.constants import ReceiveFlags
from emulator.tdi.effects import Complete
from emulator.tdi.irp import Irp

LEAST_CHUNKS, CHUNK_BYTES = 16, 64
"""Pieces that may always wait, and for how many bytes of the limit another one may."""


class Arrived:
    """Bytes that came together, of one send."""

    __slots__ = ("data", "end_of_record", "taken")

    def __init__(self, data: bytes, *, end_of_record: bool) -> None:
        self.data = data
        self.end_of_record = end_of_record
        self.taken = 0

    @property
    def left(self) -> int:
        """Bytes nobody has taken yet."""
        return len(self.data) - self.taken


class Store:
    """Arrived data of one kind."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._most_chunks = LEAST_CHUNKS + limit_bytes // CHUNK_BYTES
        self.chunks: deque[Arrived] = deque()
        self.byte_count = 0

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @property
    def room(self) -> int:
        """Bytes that may still come; none when there are very many small pieces, which cost more than their bytes."""
        return self.room_beside(0, 0)

    def room_beside(self, byte_count: int, pieces: int) -> int:
        """The same, when so much is on its way already."""
        if len(self.chunks) + pieces >= self._most_chunks:
            return 0
        return self._limit_bytes - self.byte_count - byte_count

    def put(self, data: bytes, *, end_of_record: bool) -> None:
        """Keep what came; an empty record counts as one byte, so that a flood of them is bounded too."""
        self.chunks.append(Arrived(data, end_of_record=end_of_record))
        self.byte_count += len(data) or 1

    def put_back(self, data: bytes) -> None:
        """What was taken and not used is the oldest again."""
        self.chunks.appendleft(Arrived(data, end_of_record=False))
        self.byte_count += len(data)

    def take(self, most: int, *, by_records: bool, keep: bool = False) -> tuple[bytes, bool]:
        """Up to ``most`` bytes, no further than one record's end if asked; whether a record's end was reached.

        With ``keep`` they stay (PEEK).
        """
        parts: list[bytes] = []
        ended = False
        left = most
        for chunk in list(self.chunks):
            size = min(left, chunk.left)
            parts.append(chunk.data[chunk.taken : chunk.taken + size])
            whole = size == chunk.left
            left -= size
            if not keep:
                self._took(chunk, size, whole=whole)
            if not whole or (by_records and chunk.end_of_record):
                ended = whole
                break
            if not left and not by_records:
                break
        return b"".join(parts), ended

    def _took(self, chunk: Arrived, size: int, *, whole: bool) -> None:
        chunk.taken += size
        self.byte_count -= size if chunk.data else 1
        if whole:
            self.chunks.popleft()

    def first_record(self, most: int) -> tuple[int, bool]:
        """How many bytes stand before the first end of a record, and whether that end is there; for indications."""
        total = 0
        for chunk in self.chunks:
            total += chunk.left
            if chunk.end_of_record or total >= most:
                return total, chunk.end_of_record
        return total, False


class Posted:
    """A receive that waits, with what it has been given so far."""

    __slots__ = ("filled", "irp", "request")

    def __init__(self, irp: Irp, request: Receive) -> None:
        self.irp = irp
        self.request = request
        self.filled = bytearray()

    @property
    def room(self) -> int:
        """Bytes it still has room for."""
        return self.request.length - len(self.filled)

    def complete(self, status: NtStatus, message: str = "", rule: str | None = None) -> Complete:
        """End it with what it has; with nothing on an error."""
        self.irp.returned = b"" if status.is_error else bytes(self.filled)
        count = 0 if status.is_error else len(self.filled)
        return self.irp.complete(status, count, message, rule)


class Incoming:
    """The receive side of one connection."""

    def __init__(self, profile: ConnectionProfile) -> None:
        self._profile = profile
        self._by_records = profile.mode is ConnectionMode.MESSAGE
        self.normal = Store(profile.receive_buffer_bytes)
        self.expedited = Store(profile.expedited_buffer_bytes)
        self.posted: deque[Posted] = deque()
        self.is_finished = False
        """The peer has released: nothing comes behind what is kept here."""
        self.finish_data = b""
        """The user data that came with that."""
        self.held = False
        """A handler has refused or left something: no handler is called until a receive is posted (C29)."""
        self.asking = False
        """A handler has what is there: receives wait for its answer."""

    @property
    def is_drained(self) -> bool:
        """Whether the peer has released and everything before that was taken."""
        return self.is_finished and not self.normal and not self.expedited

    def post(self, irp: Irp, request: Receive, *, first: bool = False) -> None:
        """A receive waits from now on, behind the others or before them; handlers may be called again (C29)."""
        self.held = False
        if first:
            self.posted.appendleft(Posted(irp, request))
        else:
            self.posted.append(Posted(irp, request))

    def find(self, irp: Irp) -> Posted | None:
        """The waiting receive of a request."""
        return next((posted for posted in self.posted if posted.irp is irp), None)

    def take_back(self, irp: Irp) -> Posted | None:
        """Take a waiting receive out; what it had been given goes to the next one."""
        posted = self.find(irp)
        if posted is not None:
            self.posted.remove(posted)
            if posted.filled:
                self.normal.put_back(bytes(posted.filled))
        return posted

    def serve(self) -> list[Complete]:
        """Give what is there to those who wait for it."""
        done: list[Complete] = []
        while not self.asking and (completed := self._serve_expedited() or self._serve_normal()) is not None:
            done.append(completed)
        return done

    def _serve_expedited(self) -> Complete | None:
        taker = next((posted for posted in self.posted if posted.request.takes_expedited), None)
        if not self.expedited or (taker is None and not self._partly_filled()):
            return None
        partly = self._partly_filled()
        if partly is not None:
            self.posted.remove(partly)
            whole = NtStatus.RECEIVE_PARTIAL if self._by_records else NtStatus.SUCCESS
            return partly.complete(whole)
        assert taker is not None, "one of the two was found"
        keep = bool(taker.request.flags & ReceiveFlags.PEEK)
        data, ended = self.expedited.take(taker.room, by_records=True, keep=keep)
        self.posted.remove(taker)
        taker.filled += data
        return taker.complete(NtStatus.RECEIVE_EXPEDITED if ended else NtStatus.RECEIVE_PARTIAL_EXPEDITED)

    def _partly_filled(self) -> Posted | None:
        """The one receive that normal data have begun to fill."""
        return next((posted for posted in self.posted if posted.filled), None)

    def _serve_normal(self) -> Complete | None:
        taker = next((posted for posted in self.posted if posted.request.takes_normal), None)
        if taker is None or not (self.normal or (self.is_finished and taker.filled)):
            return None
        if taker.request.flags & ReceiveFlags.PEEK:
            data, ended = self.normal.take(taker.room, by_records=self._by_records, keep=True)
        else:
            data, ended = self.normal.take(taker.room, by_records=self._by_records)
        taker.filled += data
        status = self._outcome(taker, ended=ended)
        if status is None:
            return None
        self.posted.remove(taker)
        text = "the record is longer than the buffer: the rest is for the next receive" if not status.is_success else ""
        return taker.complete(status, text, "C27" if text else None)

    def _outcome(self, taker: Posted, *, ended: bool) -> NtStatus | None:
        """How a receive ends that has got what there is for it now; None when it goes on waiting."""
        if self._by_records:
            if ended:
                return NtStatus.SUCCESS
            if not taker.room:
                return NtStatus.BUFFER_OVERFLOW
            at_once = bool(taker.request.flags & ReceiveFlags.PEEK) or self.is_finished
            return NtStatus.RECEIVE_PARTIAL if at_once else None
        waits = self._profile.receive_style is ReceiveStyle.FILL and taker.room and not self.is_finished
        return None if waits and not taker.request.flags & ReceiveFlags.PEEK else NtStatus.SUCCESS

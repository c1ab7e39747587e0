"""What of a session's may have more for its client: channels whose doorbell rang, addresses with datagrams."""

from __future__ import annotations

from emulator.daemon.obligations import Drainable
from emulator.daemon.streams import Stream
from emulator.status import PeerViolation

# Above this much unsent, rings are left alone: they are the queue, the outbox is not.
OUTBOX_HIGH_BYTES = 512 * 1024
# Looked at in one turn; the others keep their place in line.
SOURCES_PER_TURN = 64


class ReadySources:
    """A line of channel ends and addresses in front of one client's stream; each stands in it once."""

    __slots__ = ("_line", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._line: dict[Drainable, None] = {}

    def add(self, source: Drainable) -> None:
        """It may have something, and comes last unless it waits already."""
        self._line[source] = None

    def clear(self) -> None:
        """The session is over."""
        self._line.clear()

    def drain(self) -> bool:
        """One turn, while there is room: many channels at once could fill an outbox to its bound. True when another is
        due now; while there is no room none is, and the stream's writer goes on.
        """
        line, again = self._line, []
        for _ in range(min(len(line), SOURCES_PER_TURN)):
            if not self._has_room():
                break
            source = next(iter(line))
            del line[source]
            if source.is_open and _drained(source):
                again.append(source)
        for source in again:
            line[source] = None
        return bool(line) and self._has_room()

    def _has_room(self) -> bool:
        if self._stream.queued_bytes >= OUTBOX_HIGH_BYTES:
            self._stream.flush()
        return self._stream.queued_bytes < OUTBOX_HIGH_BYTES


def _drained(source: Drainable) -> bool:
    try:
        try:
            return source.drain()
        except PeerViolation as violation:
            source.violated(violation)
    except Exception as error:  # noqa: BLE001 -- a fault in a core ends its machine, and only that
        source.machine.fail(error)
    return False

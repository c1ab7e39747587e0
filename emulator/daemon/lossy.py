"""Datagrams of clients over UDP: their sends come each in a DATAGRAM frame, which waits for no lost packet of others.

The client's QUIC learns of a frame that was lost, and the client then sends the same request by the stream: each has
its one answer, and none can be lost for good. A frame that was only late must not be carried out twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from emulator.wire.codec import FrameDecoder, FrameLimits, Request, WireError
from emulator.wire.schema import ADDRESS_SEND_DATAGRAM, Direction, Method

# Requests remembered: many times what a client may have unanswered on a busy address.
REMEMBERED = 4096


class LossySends:
    """Which requests of one client's came already, by their msgids; from its first DATAGRAM frame on."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}
        self._has_begun = False

    def take(self, frames: list[bytes]) -> Iterator[Request]:
        """What DATAGRAM frames hold. Raises WireError."""
        for data in frames:
            self._has_begun = True
            yield parse_lossy_untrusted(data)

    def is_new(self, msgid: int, method: Method) -> bool:
        """Whether a request is to be carried out: a send only if it has not come before."""
        if not self._has_begun or method is not ADDRESS_SEND_DATAGRAM:
            return True
        if msgid in self._seen:
            return False
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[msgid] = None
        return True


def parse_lossy_untrusted(data: bytes) -> Request:
    """The one thing a client's DATAGRAM frame may hold: a whole request to send a datagram. Raises WireError."""
    decoder = FrameDecoder(Direction.TO_DAEMON, FrameLimits())
    messages = list(decoder.feed(data))
    if len(messages) == 1 and not decoder.has_partial_frame:
        (message,) = messages
        if isinstance(message, Request) and message.method is ADDRESS_SEND_DATAGRAM:
            return message
    raise WireError("a DATAGRAM frame holds one whole address.send_datagram, and nothing else")

"""A pipe in byte mode: a stream of bytes over the packets of a ring, both ways of it. Message mode is in ``packets``.

The writer cuts its bytes into packets, each with the pipe header that says its exact size. The reader takes as many
bytes as it is asked for, so it may use half a packet now and the rest later. What it has not used it keeps here; when
it has to hand the stream to a later reader of the same ring, ``rest`` is that packet as such a reader finds it in the
ring: type 2, with the size and how much of it has been used. A packet without data ends the stream, once all before it
was read.

"Not now" is no error: ``write`` may accept nothing, ``read`` may return nothing.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from emulator.status import Misuse
from emulator.vmbus.packets import (
    PIPE_HEADER_BYTES,
    PIPE_MAX_PAYLOAD_BYTES,
    PacketKind,
    RingCorruption,
    encode_in_band,
    packet_cost,
    parse_packet_untrusted,
)
from emulator.vmbus.ring import RingReceiver, RingSender

DATA, PARTIAL = 1, 2
CHUNK_BYTES = 2048  # what senders in use today put into one packet; any size up to 16,384 is legal
_SOME_PACKETS = 64
_header = struct.Struct("<II")


class Written(NamedTuple):
    """How many of the bytes are in the ring, and whether to ring the peer's doorbell."""

    byte_count: int
    signal: bool


class Read(NamedTuple):
    """Bytes of the stream, and whether to ring the peer's doorbell.

    ``end``: there will be no more; then ``data`` is empty. ``empty``: all that had come was read; ``go_idle`` of the
    ring before sleeping on it.
    """

    data: bytes
    end: bool
    signal: bool
    empty: bool


class PipeByteWriter:
    """The writing end of a byte stream. ``chunk_bytes`` is the most data of one packet."""

    def __init__(self, sender: RingSender, chunk_bytes: int = CHUNK_BYTES) -> None:
        if not 0 < chunk_bytes <= PIPE_MAX_PAYLOAD_BYTES:
            raise Misuse(f"a pipe packet has 1 to {PIPE_MAX_PAYLOAD_BYTES} bytes of data, not {chunk_bytes}")
        room = (sender.largest_cost - packet_cost(PIPE_HEADER_BYTES)) & ~7
        self._chunk_bytes = min(chunk_bytes, room)
        self._sender = sender
        self._ended = False

    def write(self, data: bytes | bytearray | memoryview) -> Written:
        """Put as much of ``data`` into the ring as fits, in one publication. Raises RingCorruption."""
        if self._ended:
            raise Misuse("the stream was ended; nothing can be written to it any more")
        view = memoryview(data).cast("B")
        chunks = list(self._chunks(view))
        sent = self._sender.send_batch([encode_in_band(chunk) for chunk in chunks])
        accepted = sum(len(chunk) - PIPE_HEADER_BYTES for chunk in chunks[: sent.written])
        return Written(accepted, sent.signal)

    def _chunks(self, view: memoryview) -> Iterator[bytes]:
        """Packets for as much as there is room for now; the last one may be a little less than a whole chunk."""
        room = self._sender.free_bytes()
        at = 0
        while at < view.nbytes:
            most = room - packet_cost(PIPE_HEADER_BYTES)
            count = min(view.nbytes - at, self._chunk_bytes, most & ~7)
            if count <= 0:
                return
            yield _header.pack(DATA, count) + view[at : at + count]
            at += count
            room -= packet_cost(PIPE_HEADER_BYTES + count)

    def end(self) -> Written:
        """Say that there will be no more; (0, …) when there is no room for that yet. Raises RingCorruption."""
        if self._ended:
            raise Misuse("the stream was ended already")
        sent = self._sender.send_batch((encode_in_band(_header.pack(DATA, 0)),))
        self._ended = sent.written == 1
        return Written(sent.written, sent.signal)


class PipeByteReader:
    """The reading end of a byte stream. What the peer breaks ends it for good: ``RingCorruption``, from then on."""

    def __init__(self, receiver: RingReceiver) -> None:
        self._receiver = receiver
        self._waiting: deque[memoryview] = deque()  # data taken out of the ring and not read yet; b"" ends the stream
        self._sizes: deque[int] = deque()  # of the packets they are of
        self._ended = False
        self._problem: str | None = None

    def read(self, max_bytes: int) -> Read:
        """At most ``max_bytes`` of the stream. Raises RingCorruption, but not before all good data was read."""
        if max_bytes <= 0:
            raise Misuse(f"read at least one byte, not {max_bytes}")
        signal, empty = False, False
        if not self._waiting and not self._ended:
            signal, empty = self._take(max_bytes)
        parts: list[memoryview] = []
        left = max_bytes
        while left and self._waiting and self._waiting[0]:
            head = self._waiting[0]
            parts.append(head[:left])
            left -= len(parts[-1])
            self._waiting[0] = head[len(parts[-1]) :]
            if not self._waiting[0]:
                self._waiting.popleft()
                self._sizes.popleft()
        if not parts and self._waiting:  # the packet without data, which is used up only when nothing else is returned
            self._ended = True
        return Read(b"".join(parts), self._ended and not parts, signal, empty and not self._waiting)

    def _take(self, max_bytes: int) -> tuple[bool, bool]:
        """Get more out of the ring; (ring the peer's doorbell, the ring was emptied)."""
        if self._problem is not None:
            raise RingCorruption(self._problem)
        received = self._receiver.receive_batch(_SOME_PACKETS, max_bytes + packet_cost(PIPE_HEADER_BYTES))
        try:
            for image in received.images:
                packet = parse_packet_untrusted(image)
                if packet.kind is not PacketKind.IN_BAND:
                    raise RingCorruption(f"a packet of type {packet.kind} in a byte pipe, which has in-band data only")
                data, size = unframe_pipe_bytes_untrusted(packet.payload)
                self._waiting.append(memoryview(data))
                self._sizes.append(size)
        except RingCorruption as corruption:
            self._problem = str(corruption)
            if not self._waiting and not received.signal:
                raise
        return received.signal, received.empty

    def rest(self) -> bytes | None:
        """The packet that was read in part as a later reader finds it, descriptor to padding; None without one."""
        if not self._waiting or len(self._waiting[0]) == self._sizes[0]:
            return None
        size = self._sizes[0]
        used = size - len(self._waiting[0])
        return encode_in_band(_header.pack(PARTIAL, size | used << 16) + bytes(used) + self._waiting[0])


def unframe_pipe_bytes_untrusted(framed: bytes) -> tuple[bytes, int]:
    """The data of a byte pipe's packet that is still to be read, and how much it was when it was sent.

    Raises RingCorruption for what no writer sends and no reader leaves behind.
    """
    if len(framed) < PIPE_HEADER_BYTES:
        raise RingCorruption(f"a pipe packet of {len(framed)} bytes has no room for its 8-byte header")
    kind, size = _header.unpack_from(framed)
    used = 0
    if kind == PARTIAL:
        size, used = size & 0xFFFF, size >> 16
        if used >= size:
            raise RingCorruption(f"a pipe packet of {size} bytes of which {used} were read would not be there any more")
    elif kind != DATA:
        raise RingCorruption(f"pipe packet type {kind} is neither data (1) nor partly read data (2)")
    held = len(framed) - PIPE_HEADER_BYTES
    if size > held:
        raise RingCorruption(f"{size} bytes of pipe data in a packet that holds {held}")
    return framed[PIPE_HEADER_BYTES + used : PIPE_HEADER_BYTES + size], size

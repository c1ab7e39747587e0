"""Packet formats inside a ring: encoding what we send, parsing what a stranger sent.

A packet is a 16-byte descriptor, then (for two kinds) a list of ranges, then the payload, zero-padded to 8 bytes. The
ring adds an 8-byte footer. Lengths count 8-byte units, so a receiver cannot see the exact payload length: 5 bytes sent
are 8 received, unless a pipe header carries the size.

Encoders return descriptor to padding without the footer. The parser takes a *private copy* of the same and either
returns a legal ``Packet`` or raises ``RingCorruption``. Ranges that make no sense spoil that one packet only: its
payload stays readable and ``range_error`` says what is wrong with the ranges.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from emulator.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, GpaRange, pages_spanned
from emulator.status import Misuse, PeerViolation

FOOTER_BYTES = 8
MAX_LENGTH8 = 0xFFFF  # the length is a u16 in 8-byte units, whatever the size of the ring
COMPLETION_REQUESTED = 0x0001  # the only flag there is
PIPE_HEADER_BYTES = 8
PIPE_MAX_PAYLOAD_BYTES = 16384
_PIPE_DATA = 1

_descriptor = struct.Struct("<HHHHQ")
_range_descriptor = struct.Struct("<HHHHQII")
_transfer_descriptor = struct.Struct("<HHHHQHBBI")
_pair = struct.Struct("<II")
_new = tuple.__new__  # a third of the price of calling a named tuple's class
_pack_descriptor = _descriptor.pack
_unpack_descriptor = _descriptor.unpack_from
_PADDING = tuple(bytes(-n & 7) for n in range(8))


class RingCorruption(PeerViolation):
    """The peer put something illegal into a ring. It is sticky: nothing more is taken from that ring.

    ``transaction_id`` is the transaction it was about, if it was about one.
    """

    def __init__(self, message: str, transaction_id: int | None = None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id


class PacketKind(IntEnum):
    """The packet types in use today; any other is corruption."""

    IN_BAND = 6
    TRANSFER_PAGES = 7
    GPA_DIRECT = 9
    COMPLETION = 11


_KINDS = {kind.value: kind for kind in PacketKind}
_IN_BAND = PacketKind.IN_BAND
_COMPLETION = PacketKind.COMPLETION
_GPA_DIRECT = PacketKind.GPA_DIRECT


class TransferRange(NamedTuple):
    """Bytes of a buffer that both sides agreed on before, by offset into that buffer."""

    byte_count: int
    byte_offset: int


class TransferPages(NamedTuple):
    """The extra fields of a packet that points into an agreed buffer."""

    set_id: int
    sender_owns_set: bool
    ranges: tuple[TransferRange, ...]


class Packet(NamedTuple):
    """One parsed packet. ``payload`` is padded to 8 bytes. With ``range_error`` there are no ranges."""

    kind: PacketKind
    flags: int
    transaction_id: int
    payload: bytes
    ranges: tuple[GpaRange, ...] = ()
    transfer: TransferPages | None = None
    range_error: str | None = None


def packet_cost(payload_bytes: int, range_pages: Sequence[int] = ()) -> int:
    """Bytes a packet takes in the ring, footer included; ``range_pages`` has the page count of each GPA range.

    A pipe packet's payload includes its 8-byte header. A client can count its window with this.
    """
    descriptor = 24 + 8 * len(range_pages) + 8 * sum(range_pages) if range_pages else 16
    return descriptor + ((payload_bytes + 7) & ~7) + FOOTER_BYTES


def ring_bytes(image_or_length: bytes | int) -> int:
    """Bytes an encoded packet, or a packet of that many bytes before padding, takes in the ring with its footer."""
    length = image_or_length if isinstance(image_or_length, int) else len(image_or_length)
    return ((length + 7) & ~7) + FOOTER_BYTES


def _length8(descriptor_bytes: int, payload: bytes) -> int:
    length8 = (descriptor_bytes + len(payload) + 7) >> 3
    if length8 > MAX_LENGTH8:
        total = descriptor_bytes + len(payload)
        raise Misuse(f"a packet of {total} bytes does not fit its length field, which ends at {MAX_LENGTH8 * 8}")
    return length8


def encode_in_band(payload: bytes, transaction_id: int = 0, completion_requested: bool = False) -> bytes:
    """A packet that carries nothing but its payload. Raises Misuse when it is longer than its length field can say."""
    count = len(payload)
    length8 = 2 + ((count + 7) >> 3)
    if length8 > MAX_LENGTH8:
        _length8(16, payload)
    return _pack_descriptor(6, 2, length8, completion_requested, transaction_id) + payload + _PADDING[count & 7]


def encode_completion(payload: bytes, transaction_id: int) -> bytes:
    """The answer to a packet that asked for one; ``transaction_id`` is the asker's. Raises Misuse when too long."""
    count = len(payload)
    length8 = 2 + ((count + 7) >> 3)
    if length8 > MAX_LENGTH8:
        _length8(16, payload)
    return _pack_descriptor(11, 2, length8, 0, transaction_id) + payload + _PADDING[count & 7]


def encode_gpa_direct(ranges: Sequence[GpaRange], payload: bytes, transaction_id: int) -> bytes:
    """A packet that points at guest memory, which must stay as it is until the completion it always asks for (rule K7).

    Raises Misuse without ranges, with a range no receiver accepts (2.7), or when too long.
    """
    if not ranges:
        raise Misuse("a GPA-direct packet needs at least one range")
    parts = [b""]
    total = 24
    for count, offset, pfns in ranges:
        legal = count > 0 and 0 <= offset < PAGE_SIZE
        if not legal or len(pfns) != pages_spanned(offset, count):
            raise Misuse(f"{count} bytes at offset {offset} in {len(pfns)} pages is not a legal range")
        parts.append(struct.pack(f"<II{len(pfns)}Q", count, offset, *pfns))
        total += 8 + 8 * len(pfns)
    length8 = _length8(total, payload)
    parts[0] = _range_descriptor.pack(9, total >> 3, length8, COMPLETION_REQUESTED, transaction_id, 0, len(ranges))
    parts += (payload, _PADDING[len(payload) & 7])
    return b"".join(parts)


def encode_transfer_pages(
    transfer: TransferPages, payload: bytes, transaction_id: int, completion_requested: bool = True
) -> bytes:
    """A packet that points into an agreed buffer. Raises Misuse without ranges or when too long."""
    ranges = transfer.ranges
    if not ranges:
        raise Misuse("a transfer-page packet needs at least one range")
    total = 24 + 8 * len(ranges)
    length8 = _length8(total, payload)
    common = (7, total >> 3, length8, completion_requested, transaction_id)
    head = _transfer_descriptor.pack(*common, transfer.set_id, transfer.sender_owns_set, 0, len(ranges))
    return head + b"".join(_pair.pack(*rng) for rng in ranges) + payload + _PADDING[len(payload) & 7]


def parse_packet_untrusted(image: bytes) -> Packet:
    """Make a Packet of a private copy, descriptor to padding. Raises RingCorruption and nothing else (3.6)."""
    total = len(image)
    if total < 16:
        raise RingCorruption(f"a packet of {total} bytes is shorter than its 16-byte descriptor")
    type_number, data_offset8, length8, flags, transaction_id = _unpack_descriptor(image)
    if data_offset8 < 2 or length8 < data_offset8 or length8 << 3 != total:
        raise RingCorruption(f"payload at {data_offset8 * 8}, length {length8 * 8} makes no sense in {total} bytes")
    kind = _KINDS.get(type_number)
    if kind is None:
        raise RingCorruption(f"packet type {type_number} is not one of 6, 7, 9 and 11")
    if flags > 1:
        raise RingCorruption(f"packet flags 0x{flags:04X} have bits other than 0x1")
    payload = image[data_offset8 << 3 :]
    if kind is _IN_BAND or kind is _COMPLETION:
        return _new(Packet, (kind, flags, transaction_id, payload, (), None, None))
    if data_offset8 < 3:
        raise RingCorruption(f"a packet of type {type_number} has its payload at 16, inside its own 24-byte header")
    range_count = int.from_bytes(image[20:24], "little")
    if range_count == 0:
        raise RingCorruption(f"a packet of type {type_number} with no range")
    area = image[24 : data_offset8 << 3]
    if kind is _GPA_DIRECT:
        ranges, problem = _walk_gpa_ranges(area, range_count)
        return Packet(kind, flags, transaction_id, payload, ranges, None, problem)
    transfer, problem = _read_transfer(image, area, range_count)
    return Packet(kind, flags, transaction_id, payload, (), transfer, problem)


def _walk_gpa_ranges(area: bytes, range_count: int) -> tuple[tuple[GpaRange, ...], str | None]:
    """The ranges, or none and what is wrong (2.7). Nothing is allocated before the area was seen to hold it."""
    if range_count * 16 > len(area):
        return (), f"{range_count} ranges do not fit the {len(area)} bytes they are said to be in"
    ranges = []
    position = 0
    for number in range(range_count):
        if position + 8 > len(area):
            return (), f"range {number} of {range_count} begins past the end of the list"
        count, offset = _pair.unpack_from(area, position)
        position += 8
        if count == 0 or offset >= PAGE_SIZE:
            return (), f"range {number}: {count} bytes at offset {offset} is not a legal range"
        pages = pages_spanned(offset, count)  # a sum beyond 32 bits spans more pages than any list can hold
        if position + 8 * pages > len(area):
            return (), f"range {number} spans {pages} pages, more than the list holds"
        ranges.append(GpaRange(count, offset, struct.unpack_from(f"<{pages}Q", area, position)))
        position += 8 * pages
    return tuple(ranges), None


def _read_transfer(image: bytes, area: bytes, range_count: int) -> tuple[TransferPages, str | None]:
    set_id = image[16] | image[17] << 8
    if range_count * 8 > len(area):
        problem = f"{range_count} transfer ranges do not fit the {len(area)} bytes they are said to be in"
        return TransferPages(set_id, bool(image[18]), ()), problem
    ranges = tuple(map(TransferRange._make, _pair.iter_unpack(area[: range_count * 8])))
    return TransferPages(set_id, bool(image[18]), ranges), None


def resolve_transfer_range(buffer: GpaRange, rng: TransferRange) -> GpaRange:
    """Where in guest memory a transfer range of an agreed buffer lies. Raises RingCorruption when it is not inside."""
    if rng.byte_count == 0 or rng.byte_offset + rng.byte_count > buffer.byte_count:
        wanted = f"{rng.byte_count} bytes from {rng.byte_offset}"
        raise RingCorruption(f"{wanted} do not lie in the agreed buffer of {buffer.byte_count} bytes")
    start = buffer.byte_offset + rng.byte_offset
    first, offset = start >> PAGE_SHIFT, start & PAGE_MASK
    return GpaRange(rng.byte_count, offset, buffer.pfns[first : first + pages_spanned(offset, rng.byte_count)])


def frame_pipe_message(payload: bytes) -> bytes:
    """The payload of a pipe packet: exact size, then the message. Raises Misuse above 16,384 bytes."""
    if len(payload) > PIPE_MAX_PAYLOAD_BYTES:
        raise Misuse(f"a pipe message has at most {PIPE_MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
    return _pair.pack(_PIPE_DATA, len(payload)) + payload


def unframe_pipe_message_untrusted(framed: bytes) -> bytes:
    """The exact message inside a pipe packet's padded payload. Raises RingCorruption unless it is one whole message."""
    if len(framed) < PIPE_HEADER_BYTES:
        raise RingCorruption(f"a pipe packet of {len(framed)} bytes has no room for its 8-byte header")
    kind, size = _pair.unpack_from(framed)
    if kind != _PIPE_DATA:
        raise RingCorruption(f"pipe packet type {kind} is not data (1)")
    if size > len(framed) - PIPE_HEADER_BYTES:
        raise RingCorruption(f"a pipe message of {size} bytes in a packet that holds {len(framed) - PIPE_HEADER_BYTES}")
    return framed[PIPE_HEADER_BYTES : PIPE_HEADER_BYTES + size]

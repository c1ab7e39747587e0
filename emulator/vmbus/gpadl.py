"""GPADLs: lists of guest pages, cut into control messages by the guest and put together again by the host.

The list is an array of 64-bit values. Each range is one value with its byte count (low half) and the offset into its
first page (high half), then one value for every page it touches, in any order and with repetition. The first message
(8) holds up to 27 values, each further one (9) up to 28; the announced byte total says when the list is complete, never
the length of a message, because some guests always send all 240 bytes. Nothing is believed before the last value is in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from emulator.memory import PAGE_MASK, PAGE_SIZE, GpaRange, pages_spanned
from emulator.status import Misuse
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.message_types import GpadlBody, GpadlHeader

VALUE_BYTES = 8
HEADER_VALUES = 27  # 240 bytes minus the 20 of message 8, in whole values
BODY_VALUES = 28  # 240 bytes minus the 16 of message 9
MAX_LIST_BYTES = 0xFFFF // VALUE_BYTES * VALUE_BYTES  # the byte total travels in 16 bits

_range_header = struct.Struct("<II")


def encode_ranges(ranges: Sequence[GpaRange]) -> bytes:
    """The 64-bit values of a page list. Raises Misuse for a range that is not legal or a list that is too long."""
    parts: list[bytes] = []
    for rng in ranges:
        count, offset, pfns = rng
        if not 0 < count <= 0xFFFFFFFF or not 0 <= offset <= PAGE_MASK or count + offset + PAGE_MASK > 0xFFFFFFFF:
            raise Misuse(f"a GPADL range of {count} bytes at offset {offset} is not legal")
        if len(pfns) != pages_spanned(offset, count):
            raise Misuse(
                f"a GPADL range of {count} bytes at offset {offset} touches {pages_spanned(offset, count)} pages, "
                f"not {len(pfns)}"
            )
        parts.append(_range_header.pack(count, offset))
        parts.append(struct.pack(f"<{len(pfns)}Q", *pfns))
    image = b"".join(parts)
    if not 0 < len(image) <= MAX_LIST_BYTES:
        raise Misuse(f"a GPADL is 8 to {MAX_LIST_BYTES} bytes of ranges, not {len(image)}")
    return image


def build_gpadl_messages(
    channel_id: int, gpadl_id: int, ranges: Sequence[GpaRange]
) -> tuple[GpadlHeader | GpadlBody, ...]:
    """The header and the bodies that tell the host about these ranges, in order. Raises Misuse like encode_ranges."""
    image = encode_ranges(ranges)
    first = HEADER_VALUES * VALUE_BYTES
    step = BODY_VALUES * VALUE_BYTES
    header = GpadlHeader(channel_id, gpadl_id, len(image), len(ranges), image[:first])
    bodies = (
        GpadlBody(number, gpadl_id, image[start : start + step])
        for number, start in enumerate(range(first, len(image), step))
    )
    return (header, *bodies)


def parse_ranges_untrusted(image: bytes, range_count: int) -> tuple[GpaRange, ...]:
    """The ranges in a complete page list (rule 2.7). Values behind the last range are noise. Raises BusError."""
    values = struct.unpack_from(f"<{len(image) // VALUE_BYTES}Q", image)
    if not range_count or not values:
        raise BusError(BusFault.INVALID_GPA_RANGE, f"{range_count} ranges in {len(values)} values")
    ranges: list[GpaRange] = []
    position = 0
    for index in range(range_count):
        if position >= len(values):
            raise BusError(BusFault.INVALID_GPA_RANGE, f"range {index} of {range_count} is missing")
        count, offset = values[position] & 0xFFFFFFFF, values[position] >> 32
        position += 1
        if not count or offset > PAGE_MASK or count + offset + PAGE_MASK > 0xFFFFFFFF:
            raise BusError(BusFault.INVALID_GPA_RANGE, f"range {index} of {count} bytes at offset 0x{offset:X}")
        end = position + pages_spanned(offset, count)
        if end > len(values):
            raise BusError(BusFault.INVALID_GPA_RANGE, f"range {index} names {len(values) - position} pages too few")
        ranges.append(GpaRange(count, offset, values[position:end]))
        position = end
    return tuple(ranges)


@dataclass(slots=True)
class GpadlAssembly:
    """A page list on its way in. Holds what arrived, never more than the announced byte total (at most 64 KiB)."""

    range_buflen: int
    range_count: int
    values: bytes = field(default=b"")

    @property
    def expected_bytes(self) -> int:
        """How many bytes of whole values the header announced."""
        return self.range_buflen // VALUE_BYTES * VALUE_BYTES

    def append(self, data: bytes) -> bool:
        """Take what this message adds and drop its padding; True once the list is complete."""
        room = self.expected_bytes - len(self.values)
        self.values += data[: min(len(data) // VALUE_BYTES * VALUE_BYTES, room)]
        return len(self.values) == self.expected_bytes

    def ranges(self) -> tuple[GpaRange, ...]:
        """The ranges of a complete list. Raises BusError."""
        return parse_ranges_untrusted(self.values, self.range_count)


class RingPages(NamedTuple):
    """The two rings of a channel as page numbers, control page first."""

    guest_to_host: tuple[int, ...]
    host_to_guest: tuple[int, ...]


def split_ring_untrusted(
    ranges: Sequence[GpaRange], downstream_page_offset: int, allow_empty_rings: bool = False
) -> RingPages:
    """Cut an open request's GPADL into its two rings (rule 2.6, open parameters). Raises BusError.

    ``allow_empty_rings`` lets a ring consist of its control page alone, as some hosts do; such a ring is useless.
    """
    if len(ranges) != 1 or ranges[0].byte_offset or ranges[0].byte_count % PAGE_SIZE:
        raise BusError(BusFault.INVALID_RING, f"{len(ranges)} ranges, or not whole pages")
    pfns = ranges[0].pfns
    smallest = 1 if allow_empty_rings else 2
    if not smallest <= downstream_page_offset <= len(pfns) - smallest:
        raise BusError(BusFault.INVALID_RING, f"{len(pfns)} pages split at page {downstream_page_offset}")
    return RingPages(pfns[:downstream_page_offset], pfns[downstream_page_offset:])

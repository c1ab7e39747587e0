"""Runs: many things of one kind as one binary, so that a frame stays a handful of elements whatever it carries.

=============  =====================================================================================================
MDL chain      for each MDL: byte_count u32, byte_offset u32, flags u32, page_count u32, then its page numbers, u64 each
page numbers   u64 each
packets        as they stand in a ring, without footers: a descriptor says its packet's length in 8-byte units
datagrams      for each: data_length u32, flags u16, address_length u16, then a TRANSPORT_ADDRESS, then the data
=============  =====================================================================================================

All integers are little-endian; a TRANSPORT_ADDRESS keeps its own rules (ports and IP addresses in network order).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from emulator.memory import PAGE_MASK, Mdl, MdlFlags, pages_spanned
from emulator.status import NtStatus, PeerViolation, Refused

_MDL_HEADER = struct.Struct("<IIII")
_DATAGRAM_HEADER = struct.Struct("<IHH")
_LENGTH8 = struct.Struct("<4xH")
_MDL_FLAG_BITS = sum(MdlFlags)

# Long enough for any chain a channel accepts by default (32) many times over; short enough to stay cheap.
MOST_MDLS = 512


def pack_pfns(pfns: Sequence[int]) -> bytes:
    """Page numbers as a run."""
    return struct.pack(f"<{len(pfns)}Q", *pfns)


def unpack_pfns(run: bytes) -> tuple[int, ...]:
    """A run of page numbers whose length was checked to be a multiple of 8."""
    return struct.unpack(f"<{len(run) // 8}Q", run)


def pack_mdl_chain(mdl: Mdl | None) -> bytes:
    """An MDL chain as a run; empty for NULL."""
    if mdl is None:
        return b""
    parts: list[bytes] = []
    for link in mdl.chain():
        parts.append(_MDL_HEADER.pack(link.byte_count, link.byte_offset, link.flags, len(link.pfns)))
        parts.append(pack_pfns(link.pfns))
    return b"".join(parts)


def parse_mdl_chain_untrusted(run: bytes) -> Mdl | None:
    """The chain a run describes, or None for an empty run; Refused (INVALID_PARAMETER) says what is wrong with it."""
    if not run:
        return None
    links: list[tuple[int, int, MdlFlags, tuple[int, ...]]] = []
    at = 0
    while at < len(run):
        if len(links) == MOST_MDLS:
            raise _bad_mdl(len(links), f"the chain is longer than {MOST_MDLS}")
        if at + 16 > len(run):
            raise _bad_mdl(len(links), "its header is cut short")
        count, offset, flags, pages = _MDL_HEADER.unpack_from(run, at)
        end = at + 16 + 8 * pages
        if end > len(run):
            raise _bad_mdl(len(links), f"it names {pages} pages, more than the run holds")
        if offset > PAGE_MASK:
            raise _bad_mdl(len(links), f"its byte offset {offset} is beyond the first page")
        if pages < pages_spanned(offset, count):
            raise _bad_mdl(len(links), f"{count} bytes at offset {offset} do not fit its {pages} pages")
        links.append((offset, count, MdlFlags(flags & _MDL_FLAG_BITS), unpack_pfns(run[at + 16 : end])))
        at = end
    head: Mdl | None = None
    for offset, count, mdl_flags, pfns in reversed(links):
        head = Mdl(offset, count, pfns, mdl_flags, head)
    return head


def _bad_mdl(index: int, reason: str) -> Refused:
    return Refused(NtStatus.INVALID_PARAMETER, f"MDL {index} of the chain: {reason}")


def split_packets_untrusted(run: bytes) -> Iterator[bytes]:
    """The packets of a run, each still to be parsed; PeerViolation when the lengths do not add up."""
    at, size = 0, len(run)
    while at < size:
        if at + 16 > size:
            raise PeerViolation(f"a run of packets ends inside a descriptor, {size - at} bytes before its end")
        (length8,) = _LENGTH8.unpack_from(run, at)
        if length8 < 2 or at + 8 * length8 > size:
            raise PeerViolation(f"a packet in a run claims {8 * length8} bytes where {size - at} are left")
        yield run[at : at + 8 * length8]
        at += 8 * length8


def pack_datagrams(datagrams: Iterable[tuple[bytes, int, bytes]]) -> bytes:
    """Datagrams as a run; each is (source TRANSPORT_ADDRESS, TDI_RECEIVE_* flags, data)."""
    parts: list[bytes] = []
    for address, flags, data in datagrams:
        parts += (_DATAGRAM_HEADER.pack(len(data), flags, len(address)), address, data)
    return b"".join(parts)


def split_datagrams_untrusted(run: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(source TRANSPORT_ADDRESS, flags, data) for each datagram of a run.

    PeerViolation when the lengths do not add up.
    """
    at, size = 0, len(run)
    while at < size:
        if at + 8 > size:
            raise PeerViolation("a run of datagrams ends inside a header")
        data_length, flags, address_length = _DATAGRAM_HEADER.unpack_from(run, at)
        data_at = at + 8 + address_length
        end = data_at + data_length
        if end > size:
            raise PeerViolation(f"a datagram in a run claims {end - at} bytes where {size - at} are left")
        yield run[at + 8 : data_at], flags, run[data_at:end]
        at = end

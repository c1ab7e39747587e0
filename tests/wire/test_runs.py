"""Runs: what was packed comes back; a stranger's run is taken, refused, or breaks the protocol, and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import PAGE_MASK, Mdl, MdlFlags, pages_spanned
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.wire.runs import (
    MOST_MDLS,
    pack_datagrams,
    pack_mdl_chain,
    pack_pfns,
    parse_mdl_chain_untrusted,
    split_datagrams_untrusted,
    split_packets_untrusted,
    unpack_pfns,
)

PFNS = st.integers(0, (1 << 64) - 1)
ALL_FLAGS = MdlFlags(sum(MdlFlags))

Link = tuple[int, int, tuple[int, ...], MdlFlags]


def links(mdl: Mdl | None) -> list[Link]:
    return [] if mdl is None else [(each.byte_offset, each.byte_count, each.pfns, each.flags) for each in mdl.chain()]


def chain(described: list[Link]) -> Mdl | None:
    head: Mdl | None = None
    for offset, count, pfns, flags in reversed(described):
        head = Mdl(offset, count, pfns, flags, head)
    return head


@st.composite
def described_links(draw: st.DrawFn) -> Link:
    offset, count = draw(st.integers(0, PAGE_MASK)), draw(st.integers(0, 5 * 4096))
    least = pages_spanned(offset, count)
    pfns = draw(st.lists(PFNS, min_size=least, max_size=least + 2))
    return offset, count, tuple(pfns), MdlFlags(draw(st.integers(0, 0xFFFF)) & ALL_FLAGS)


def mdl_bytes(count: int, offset: int, flags: int, pages: int, *pfns: int) -> bytes:
    return struct.pack(f"<IIII{len(pfns)}Q", count, offset, flags, pages, *pfns)


# ---- page numbers


def test_the_bytes_of_page_numbers() -> None:
    assert pack_pfns([1, 0x0102]) == bytes.fromhex("0100000000000000 0201000000000000")
    assert pack_pfns([]) == b""


@given(st.lists(PFNS))
def test_page_numbers_come_back(pfns: list[int]) -> None:
    assert unpack_pfns(pack_pfns(pfns)) == tuple(pfns)


# ---- MDL chains


def test_the_bytes_of_an_mdl() -> None:
    mdl = Mdl(0x123, 0x1000, (7, 9), MdlFlags.PAGES_LOCKED, Mdl(0, 0, ()))
    assert pack_mdl_chain(mdl) == bytes.fromhex(
        "00100000 23010000 02000000 02000000 0700000000000000 090000000000000000000000 00000000 02000000 00000000"
    )


def test_null_is_an_empty_run() -> None:
    assert pack_mdl_chain(None) == b""
    assert parse_mdl_chain_untrusted(b"") is None


@given(st.lists(described_links(), max_size=5))
def test_an_mdl_chain_comes_back(described: list[Link]) -> None:
    assert links(parse_mdl_chain_untrusted(pack_mdl_chain(chain(described)))) == described


def test_the_longest_chain_comes_back_and_a_longer_one_is_refused() -> None:
    one = mdl_bytes(1, 0, 2, 1, 5)
    assert len(links(parse_mdl_chain_untrusted(one * MOST_MDLS))) == MOST_MDLS
    with pytest.raises(Refused, match=f"MDL {MOST_MDLS} of the chain: the chain is longer than {MOST_MDLS}"):
        parse_mdl_chain_untrusted(one * (MOST_MDLS + 1))


def test_unknown_flags_are_dropped() -> None:
    [(_, _, _, flags)] = links(parse_mdl_chain_untrusted(mdl_bytes(1, 0, 0xFFFFFFFF, 1, 5)))
    assert flags == ALL_FLAGS


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (b"\x00" * 8, "MDL 0 of the chain: its header is cut short"),
        (mdl_bytes(1, 0, 2, 1, 5) + b"\x00" * 8, "MDL 1 of the chain: its header is cut short"),
        (mdl_bytes(1, 0, 2, 2, 5), "MDL 0 of the chain: it names 2 pages, more than the run holds"),
        (mdl_bytes(1, 0, 2, 0xFFFFFFFF, 5), "MDL 0 of the chain: it names 4294967295 pages, more than the run holds"),
        (mdl_bytes(1, 4096, 2, 1, 5), "MDL 0 of the chain: its byte offset 4096 is beyond the first page"),
        (mdl_bytes(4096, 1, 2, 1, 5), "MDL 0 of the chain: 4096 bytes at offset 1 do not fit its 1 pages"),
        (mdl_bytes(0xFFFFFFFF, 4095, 2, 1, 5), "MDL 0 of the chain: 4294967295 bytes at offset 4095 do not fit"),
    ],
)
def test_a_bad_mdl_is_refused_by_its_place_in_the_chain(run: bytes, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_mdl_chain_untrusted(run)
    assert refused.value.status is NtStatus.INVALID_PARAMETER
    assert refused.value.message.startswith(sentence)


def small_numbers(size: int) -> st.SearchStrategy[bytes]:
    """Integers of so many bytes that are often small, so that a hostile header is sometimes nearly right."""
    return st.one_of(st.integers(0, 40), st.integers(0, (1 << 8 * size) - 1)).map(
        lambda value: value.to_bytes(size, "little")
    )


HOSTILE_MDLS = st.lists(small_numbers(4) | small_numbers(8), max_size=30).map(b"".join) | st.binary(max_size=200)


@given(HOSTILE_MDLS)
def test_a_hostile_chain_is_taken_or_refused(run: bytes) -> None:
    try:
        taken = parse_mdl_chain_untrusted(run)
    except Refused as refused:
        status = refused.status
    else:
        status = NtStatus.SUCCESS
        known = b"".join(
            mdl_bytes(count, offset, flags, len(pfns), *pfns) for offset, count, pfns, flags in links(taken)
        )
        assert len(known) == len(run)
        assert all(len(pfns) >= pages_spanned(offset, count) for offset, count, pfns, _ in links(taken))
    assert status in (NtStatus.SUCCESS, NtStatus.INVALID_PARAMETER)


# ---- packets


def packet(length8: int, kind: int = 6) -> bytes:
    return struct.pack("<HHHHQ", kind, 2, length8, 0, 0x1122) + bytes(8 * length8 - 16)


@given(st.lists(st.integers(2, 40), max_size=10))
def test_packets_come_apart_as_they_were_put_together(lengths: list[int]) -> None:
    images = [packet(length8) for length8 in lengths]
    assert list(split_packets_untrusted(b"".join(images))) == images


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (bytes(8), "ends inside a descriptor, 8 bytes before its end"),
        (packet(2) + bytes(15), "ends inside a descriptor, 15 bytes before its end"),
        (packet(3)[:-8], "claims 24 bytes where 16 are left"),
        (packet(2)[:4] + b"\x00\x00" + packet(2)[6:], "claims 0 bytes where 16 are left"),
        (packet(2)[:4] + b"\x01\x00" + packet(2)[6:], "claims 8 bytes where 16 are left"),
        (packet(2)[:4] + b"\xff\xff" + packet(2)[6:], "claims 524280 bytes where 16 are left"),
    ],
)
def test_packets_that_do_not_add_up_break_the_protocol(run: bytes, sentence: str) -> None:
    with pytest.raises(PeerViolation, match=sentence):
        list(split_packets_untrusted(run))


@given(st.lists(small_numbers(2), max_size=100).map(b"".join) | st.binary(max_size=200))
def test_a_hostile_run_of_packets_is_split_or_breaks_the_protocol(run: bytes) -> None:
    taken: list[bytes] = []
    whole = True
    try:
        for image in split_packets_untrusted(run):
            taken.append(image)
    except PeerViolation:
        whole = False
    assert run.startswith(b"".join(taken))
    assert (len(b"".join(taken)) == len(run)) is whole
    assert all(len(image) >= 16 and len(image) == 8 * int.from_bytes(image[4:6], "little") for image in taken)


# ---- datagrams

ADDRESS = bytes.fromhex("01000000 0e00 0200 0035 7f000001 0000000000000000")


def test_the_bytes_of_a_datagram() -> None:
    assert pack_datagrams([(ADDRESS, 0x0404, b"hi")]) == bytes.fromhex("02000000 0404 1600") + ADDRESS + b"hi"


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 0xFFFF), st.binary(max_size=60)), max_size=8))
def test_datagrams_come_back(datagrams: list[tuple[bytes, int, bytes]]) -> None:
    assert list(split_datagrams_untrusted(pack_datagrams(datagrams))) == datagrams


def test_an_empty_datagram_comes_back() -> None:
    assert list(split_datagrams_untrusted(pack_datagrams([(ADDRESS, 0, b"")] * 2))) == [(ADDRESS, 0, b"")] * 2


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (bytes(7), "ends inside a header"),
        (bytes(8) + bytes(1), "ends inside a header"),
        (struct.pack("<IHH", 1, 0, 0), "claims 9 bytes where 8 are left"),
        (struct.pack("<IHH", 0, 0, 1), "claims 9 bytes where 8 are left"),
        (struct.pack("<IHH", 0xFFFFFFFF, 0, 0xFFFF), "claims 4295032838 bytes where 8 are left"),
    ],
)
def test_datagrams_that_do_not_add_up_break_the_protocol(run: bytes, sentence: str) -> None:
    with pytest.raises(PeerViolation, match=sentence):
        list(split_datagrams_untrusted(run))


@given(st.lists(small_numbers(2) | small_numbers(4), max_size=60).map(b"".join) | st.binary(max_size=200))
def test_a_hostile_run_of_datagrams_is_split_or_breaks_the_protocol(run: bytes) -> None:
    taken: list[tuple[bytes, int, bytes]] = []
    whole = True
    try:
        for datagram in split_datagrams_untrusted(run):
            taken.append(datagram)
    except PeerViolation:
        whole = False
    again = pack_datagrams(taken)
    assert run.startswith(again)
    assert (len(again) == len(run)) is whole

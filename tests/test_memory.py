"""Guest memory is bounded, and ranges and MDLs name the bytes they say."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import (
    PAGE_SIZE,
    AddressOutsideMemory,
    GpaRange,
    GuestMemory,
    Mdl,
    MdlFlags,
    mdl_from_ranges,
    pages_spanned,
)
from emulator.status import Misuse

PAGES = 8


def make_memory(pages: int = PAGES) -> tuple[GuestMemory, bytearray]:
    backing = bytearray(pages * PAGE_SIZE)
    return GuestMemory(memoryview(backing)), backing


def addresses_of(offset: int, count: int, pfns: tuple[int, ...]) -> list[int]:
    """The address of each byte, the slow and obvious way."""
    return [pfns[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for at in range(offset, offset + count)]


# ---- pages


@pytest.mark.parametrize(
    ("offset", "count", "pages"),
    [
        (0, 0, 0),
        (0, 1, 1),
        (0, 4096, 1),
        (0, 4097, 2),
        (4095, 1, 1),
        (4095, 2, 2),
        (1, 4096, 2),
        (4095, 4098, 3),
        (1, 0, 1),
    ],
)
def test_pages_spanned_at_its_edges(offset: int, count: int, pages: int) -> None:
    assert pages_spanned(offset, count) == pages


@given(st.integers(0, 4095), st.integers(1, 5 * PAGE_SIZE))
def test_pages_spanned_counts_the_pages_that_bytes_touch(offset: int, count: int) -> None:
    assert pages_spanned(offset, count) == len({at // PAGE_SIZE for at in range(offset, offset + count)})


# ---- memory


@pytest.mark.parametrize("byte_count", [0, 1, 4095, 4097])
def test_memory_is_a_whole_number_of_pages(byte_count: int) -> None:
    with pytest.raises(Misuse, match=f"not {byte_count} bytes"):
        GuestMemory(memoryview(bytearray(byte_count)))


def test_memory_knows_its_size() -> None:
    memory, _ = make_memory(3)
    assert (memory.byte_count, memory.page_count) == (3 * 4096, 3)


OUTSIDE = [
    (-1, 1),
    (-4096, 4096),
    (PAGES * 4096, 1),
    (PAGES * 4096 - 1, 2),
    (0, PAGES * 4096 + 1),
    (1 << 64, 1),
    (5, -1),
]


@pytest.mark.parametrize(("gpa", "count"), OUTSIDE)
def test_no_read_or_view_leaves_the_memory(gpa: int, count: int) -> None:
    memory, _ = make_memory()
    for access in (memory.read, memory.view):
        with pytest.raises(AddressOutsideMemory, match="outside this machine's memory"):
            access(gpa, count)


@pytest.mark.parametrize(("gpa", "count"), [each for each in OUTSIDE if each[1] > 0])
def test_no_write_leaves_the_memory_or_changes_it(gpa: int, count: int) -> None:
    memory, backing = make_memory()
    with pytest.raises(AddressOutsideMemory):
        memory.write(gpa, b"x" * count)
    assert not any(backing)


def test_the_first_and_the_last_byte_can_be_had() -> None:
    memory, backing = make_memory()
    end = memory.byte_count
    memory.write(0, b"a")
    memory.write(end - 1, b"z")
    assert (backing[0], backing[-1]) == (ord("a"), ord("z"))
    assert memory.read(0, 1) + memory.read(end - 1, 1) == b"az"
    assert memory.read(end, 0) == b""
    assert memory.read(0, end) == bytes(backing)


def test_a_read_is_a_copy_and_a_view_is_the_memory_itself() -> None:
    memory, backing = make_memory()
    copy, view = memory.read(10, 3), memory.view(10, 3)
    backing[10:13] = b"new"
    assert copy == b"\0\0\0"
    assert bytes(view) == b"new"
    view[:] = b"via"
    assert memory.read(10, 3) == b"via"


@pytest.mark.parametrize("pfn", [-1, PAGES, 1 << 52, (1 << 64) - 1])
def test_a_page_number_outside_is_found_wherever_it_stands(pfn: int) -> None:
    memory, _ = make_memory()
    memory.check_pages(range(PAGES))
    for pfns in ([pfn], [0, pfn], [pfn, 0], [0, pfn, 1]):
        with pytest.raises(AddressOutsideMemory, match="outside this machine's memory"):
            memory.check_pages(pfns)


# ---- ranges


@st.composite
def ranges(draw: st.DrawFn, unique: bool = False) -> GpaRange:
    offset, count = draw(st.integers(0, 4095)), draw(st.integers(0, 4 * PAGE_SIZE))
    pages = pages_spanned(offset, count)
    pfns = draw(st.lists(st.integers(0, PAGES - 1), min_size=pages, max_size=pages, unique=unique))
    return GpaRange(count, offset, tuple(pfns))


@st.composite
def parts(draw: st.DrawFn, unique: bool = False) -> tuple[GpaRange, int, int]:
    rng = draw(ranges(unique))
    skip = draw(st.integers(0, rng.byte_count))
    return rng, skip, draw(st.integers(0, rng.byte_count - skip))


@given(parts())
def test_spans_are_the_bytes_of_the_range_in_order(part: tuple[GpaRange, int, int]) -> None:
    rng, skip, count = part
    memory, _ = make_memory()
    spans = list(memory.spans(rng, skip, count))
    expected = addresses_of(rng.byte_offset, rng.byte_count, rng.pfns)[skip : skip + count]
    assert [gpa + at for gpa, run in spans for at in range(run)] == expected
    assert all(run > 0 for _, run in spans)


@given(parts())
def test_spans_join_neighbouring_pages(part: tuple[GpaRange, int, int]) -> None:
    rng, skip, count = part
    memory, _ = make_memory()
    for (gpa, run), (following, _) in pairwise(memory.spans(rng, skip, count)):
        assert gpa + run != following


def test_spans_of_a_known_range() -> None:
    memory, _ = make_memory()
    rng = GpaRange(3 * 4096, 100, (2, 3, 5, 4))
    assert list(memory.spans(rng)) == [(2 * 4096 + 100, 8092), (5 * 4096, 4096), (4 * 4096, 100)]
    assert list(memory.spans(rng, 3996)) == [(3 * 4096, 4096), (5 * 4096, 4096), (4 * 4096, 100)]
    assert list(memory.spans(rng, 3996, 1)) == [(3 * 4096, 1)]
    assert list(memory.spans(rng, 3 * 4096)) == []
    assert list(memory.spans(rng, 5, 0)) == []


@pytest.mark.parametrize(("skip", "count"), [(-1, 1), (0, 101), (100, 1), (101, 0), (101, None), (50, -1)])
def test_no_part_of_a_range_lies_outside_it(skip: int, count: int | None) -> None:
    memory, _ = make_memory()
    with pytest.raises(Misuse, match="do not lie in a range of 100 bytes"):
        list(memory.spans(GpaRange(100, 0, (1,)), skip, count))


def test_a_range_with_too_few_pages_is_misuse() -> None:
    memory, _ = make_memory()
    for rng in (GpaRange(1, 0, ()), GpaRange(4097, 0, (1,)), GpaRange(2, 4095, (1,)), GpaRange(3 * 4096, 0, (1, 2))):
        with pytest.raises(Misuse, match="pages of a range"):
            memory.read_range(rng)


@given(parts(unique=True), st.integers(0, 255))
def test_what_is_written_to_a_range_is_read_from_it_and_nothing_else_changes(
    part: tuple[GpaRange, int, int], seed: int
) -> None:
    rng, skip, count = part
    memory, backing = make_memory()
    data = bytes((seed + at * 7) % 251 + 1 for at in range(count))
    memory.write_range(rng, data, skip)
    assert memory.read_range(rng, skip, count) == data
    touched = addresses_of(rng.byte_offset, rng.byte_count, rng.pfns)[skip : skip + count]
    assert {at for at, byte in enumerate(backing) if byte} == set(touched)


@given(ranges(), st.integers(0, 255))
def test_a_repeated_page_reads_what_was_written_to_it_last(rng: GpaRange, seed: int) -> None:
    memory, _ = make_memory()
    data = bytes((seed + at * 11) % 256 for at in range(rng.byte_count))
    memory.write_range(rng, data)
    addresses = addresses_of(rng.byte_offset, rng.byte_count, rng.pfns)
    last = dict(zip(addresses, data, strict=True))
    assert memory.read_range(rng) == bytes(last[address] for address in addresses)


def test_a_range_outside_memory_cannot_be_read_or_written() -> None:
    memory, _ = make_memory()
    rng = GpaRange(8192, 0, (1, PAGES))
    with pytest.raises(AddressOutsideMemory):
        memory.read_range(rng)
    with pytest.raises(AddressOutsideMemory):
        memory.write_range(rng, bytes(8192))


def test_a_range_takes_any_buffer_by_its_bytes() -> None:
    memory, _ = make_memory()
    rng = GpaRange(8, 4092, (3, 1))
    memory.write_range(rng, memoryview(b"\1\0\2\0\3\0\4\0").cast("H"))
    assert memory.read_range(rng) == b"\1\0\2\0\3\0\4\0"


# ---- MDLs


@pytest.mark.parametrize(
    ("offset", "count", "pfns", "sentence"),
    [
        (-1, 0, (), "byte offset is 0..4095, not -1"),
        (4096, 0, (1, 2), "byte offset is 0..4095, not 4096"),
        (0, -1, (1,), "byte count is an unsigned 32-bit number, not -1"),
        (0, 1 << 32, (1,), "byte count is an unsigned 32-bit number"),
        (0, 1, (), "spans 1 pages, but names 0"),
        (4095, 2, (1,), "spans 2 pages, but names 1"),
        (0, 4097, (1,), "spans 2 pages, but names 1"),
    ],
)
def test_an_impossible_mdl_is_misuse(offset: int, count: int, pfns: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        Mdl(offset, count, pfns)


@pytest.mark.parametrize(
    ("flags", "locked"),
    [
        (MdlFlags(0), False),
        (MdlFlags.MAPPED_TO_SYSTEM_VA, False),
        (MdlFlags.PARTIAL | MdlFlags.IO_SPACE, False),
        (MdlFlags.PAGES_LOCKED, True),
        (MdlFlags.SOURCE_IS_NONPAGED_POOL, True),
        (MdlFlags.PAGES_LOCKED | MdlFlags.PARTIAL, True),
    ],
)
def test_k25_an_mdl_is_locked_by_either_flag(flags: MdlFlags, locked: bool) -> None:
    assert Mdl(0, 1, (1,), flags).is_locked is locked


def test_a_chain_is_walked_in_order() -> None:
    last = Mdl(0, 3, (3,))
    head = Mdl(0, 1, (1,), next=Mdl(0, 2, (2,), next=last))
    assert [link.byte_count for link in head.chain()] == [1, 2, 3]
    assert list(last.chain()) == [last]


@st.composite
def mdls(draw: st.DrawFn) -> Mdl:
    rng = draw(ranges())
    return Mdl(rng.byte_offset, rng.byte_count, (*rng.pfns, *draw(st.lists(st.integers(0, PAGES - 1), max_size=2))))


@given(mdls(), st.data())
def test_k17_a_cut_is_the_bytes_asked_for_with_only_the_pages_they_touch(mdl: Mdl, data: st.DataObject) -> None:
    skip = data.draw(st.integers(0, mdl.byte_count))
    count = data.draw(st.integers(0, mdl.byte_count - skip))
    cut = mdl.cut(skip, count)
    whole = addresses_of(mdl.byte_offset, mdl.byte_count, mdl.pfns)
    assert addresses_of(cut.byte_offset, cut.byte_count, cut.pfns) == whole[skip : skip + count]
    assert 0 <= cut.byte_offset < PAGE_SIZE
    if count:
        assert len(cut.pfns) == len({at // PAGE_SIZE for at in range(cut.byte_offset, cut.byte_offset + count)})


@given(mdls())
def test_the_whole_of_an_mdl_is_its_bytes_without_spare_pages(mdl: Mdl) -> None:
    whole = mdl.whole()
    assert (whole.byte_count, whole.byte_offset) == (mdl.byte_count, mdl.byte_offset)
    assert whole.pfns == mdl.pfns[: pages_spanned(mdl.byte_offset, mdl.byte_count)]


@given(st.lists(ranges(), max_size=4))
def test_r6_ranges_become_a_chain_of_locked_unmapped_mdls(described: list[GpaRange]) -> None:
    head = mdl_from_ranges(iter(described))
    chain = [] if head is None else list(head.chain())
    assert [link.whole() for link in chain] == described
    assert all(link.flags == MdlFlags.PAGES_LOCKED for link in chain)

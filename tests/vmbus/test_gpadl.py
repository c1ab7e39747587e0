"""Page lists: cut into messages, put together again, and everything that can be wrong with them (rule 2.7)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import GpaRange, pages_spanned
from emulator.status import Misuse
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.gpadl import (
    GpadlAssembly,
    build_gpadl_messages,
    encode_ranges,
    parse_ranges_untrusted,
    split_ring_untrusted,
)
from emulator.vmbus.message_types import GpadlBody, GpadlHeader
from emulator.vmbus.messages import pack_message


def values(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def span(count: int, offset: int = 0) -> int:
    return count | offset << 32


@st.composite
def gpa_ranges(draw: st.DrawFn) -> GpaRange:
    offset = draw(st.integers(0, 4095))
    count = draw(st.integers(1, 40 * 4096))
    pages = pages_spanned(offset, count)
    pfns = draw(st.lists(st.integers(0, 1 << 40), min_size=pages, max_size=pages))
    return GpaRange(count, offset, tuple(pfns))


@given(st.lists(gpa_ranges(), min_size=1, max_size=4), st.booleans())
def test_a_list_survives_header_and_bodies_even_padded_to_240_bytes(ranges: list[GpaRange], padded: bool) -> None:
    header, *bodies = build_gpadl_messages(1, 2, ranges)
    assert isinstance(header, GpadlHeader)
    assembly = GpadlAssembly(header.range_buflen, header.range_count)
    noise = b"\xee" * 240 if padded else b""
    done = [
        assembly.append((message.ranges + noise)[: 220 if message is header else 224]) for message in (header, *bodies)
    ]
    assert done == [False] * len(bodies) + [True]
    assert list(assembly.ranges()) == ranges


def test_26_pages_fit_the_header_and_28_each_body() -> None:
    def sizes(pages: int) -> list[int]:
        messages = build_gpadl_messages(1, 1, [GpaRange(pages * 4096, 0, tuple(range(pages)))])
        assert all(len(pack_message(message)) <= 240 for message in messages)
        return [len(message.ranges) // 8 for message in messages]

    assert sizes(26) == [27]
    assert sizes(27) == [27, 1]
    assert sizes(26 + 28) == [27, 28]
    assert sizes(26 + 29) == [27, 28, 1]


def test_one_range_holds_at_most_8190_pages() -> None:
    messages = build_gpadl_messages(1, 1, [GpaRange(8190 * 4096, 0, tuple(range(8190)))])
    assert isinstance(messages[0], GpadlHeader)
    assert messages[0].range_buflen == 65528
    with pytest.raises(Misuse, match="65528"):
        encode_ranges([GpaRange(8191 * 4096, 0, tuple(range(8191)))])


def test_message_numbers_of_bodies_do_not_matter_to_the_host() -> None:
    _, body, second = build_gpadl_messages(1, 1, [GpaRange(60 * 4096, 0, tuple(range(60)))])
    assert isinstance(body, GpadlBody)
    assert isinstance(second, GpadlBody)
    assert (body.message_number, second.message_number) == (0, 1)


BAD_LISTS = {
    "no range": (values(span(4096), 1), 0),
    "no value": (b"", 1),
    "byte count zero": (values(span(0), 1), 1),
    "offset of a whole page": (values(span(16, 0x1000), 1, 2), 1),
    "byte count overflows": (values(span(0xFFFFFFFF), 1), 1),
    "count plus offset overflows": (values(span(0xFFFFF000, 2), 1), 1),
    "page missing": (values(span(4097), 1), 1),
    "second range missing": (values(span(4096), 1), 2),
    "second range without pages": (values(span(4096), 1, span(1)), 2),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_is_refused_after_its_last_value(name: str) -> None:
    image, count = BAD_LISTS[name]
    with pytest.raises(BusError) as caught:
        parse_ranges_untrusted(image, count)
    assert caught.value.fault is BusFault.INVALID_GPA_RANGE


def test_pages_may_repeat_in_any_order_and_unused_values_are_dropped() -> None:
    (rng,) = parse_ranges_untrusted(values(span(3 * 4096), 9, 2, 9, 0xDEAD), 1)
    assert rng == GpaRange(3 * 4096, 0, (9, 2, 9))


def test_a_byte_total_that_is_no_multiple_of_8_counts_whole_values() -> None:
    assembly = GpadlAssembly(16 + 7, 1)
    assert assembly.append(values(span(4096), 5, 77))
    assert assembly.ranges() == (GpaRange(4096, 0, (5,)),)


def test_an_assembly_never_holds_more_than_was_announced() -> None:
    assembly = GpadlAssembly(24, 1)
    assert not assembly.append(b"x" * 15)
    assert len(assembly.values) == 8
    assert assembly.append(b"x" * 220)
    assert len(assembly.values) == 24


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_hostile_lists_parse_or_raise_the_typed_error(image: bytes, range_count: int) -> None:
    try:
        ranges = parse_ranges_untrusted(image, range_count)
    except BusError:
        return
    assert encode_ranges(ranges) == image[: len(encode_ranges(ranges))]


BAD_RANGES = [GpaRange(0, 0, ()), GpaRange(1, 4096, (1,)), GpaRange(1, 0, (1, 2)), GpaRange(4097, 0, (1,))]


@pytest.mark.parametrize("rng", BAD_RANGES)
def test_our_own_bad_ranges_are_misuse(rng: GpaRange) -> None:
    with pytest.raises(Misuse):
        encode_ranges([rng])


def ring(pages: int, offset: int = 0) -> list[GpaRange]:
    return [GpaRange(pages * 4096, offset, tuple(range(100, 100 + pages_spanned(offset, pages * 4096))))]


def test_a_ring_splits_into_the_guests_and_the_hosts_part() -> None:
    assert split_ring_untrusted(ring(5), 2) == ((100, 101), (102, 103, 104))


@pytest.mark.parametrize("downstream", [0, 1, 4, 5, 6, 0xFFFFFFFF])
def test_a_split_that_leaves_a_ring_without_data_is_refused(downstream: int) -> None:
    with pytest.raises(BusError) as caught:
        split_ring_untrusted(ring(5), downstream)
    assert caught.value.fault is BusFault.INVALID_RING


@pytest.mark.parametrize(("downstream", "legal"), [(0, False), (1, True), (4, True), (5, False)])
def test_rings_of_a_control_page_alone_are_a_choice(downstream: int, legal: bool) -> None:
    if legal:
        assert len(split_ring_untrusted(ring(5), downstream, allow_empty_rings=True).guest_to_host) == downstream
    else:
        with pytest.raises(BusError):
            split_ring_untrusted(ring(5), downstream, allow_empty_rings=True)


@pytest.mark.parametrize(
    "ranges", [[], ring(4) + ring(4), ring(4, offset=16), [GpaRange(4 * 4096 - 1, 0, (1, 2, 3, 4))]]
)
def test_a_ring_is_one_range_of_whole_pages(ranges: list[GpaRange]) -> None:
    with pytest.raises(BusError) as caught:
        split_ring_untrusted(ranges, 2)
    assert caught.value.fault is BusFault.INVALID_RING

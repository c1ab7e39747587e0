"""Packet formats: byte vectors, and what a stranger's bytes are turned into."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.memory import GpaRange
from emulator.status import Misuse
from emulator.vmbus.packets import (
    Packet,
    PacketKind,
    RingCorruption,
    TransferPages,
    TransferRange,
    encode_completion,
    encode_gpa_direct,
    encode_in_band,
    encode_transfer_pages,
    frame_pipe_message,
    packet_cost,
    parse_packet_untrusted,
    resolve_transfer_range,
    ring_bytes,
    unframe_pipe_message_untrusted,
)

TWO_RANGES = (GpaRange(4096, 20, (3, 9)), GpaRange(200, 0, (4,)))


def test_vector_v12_in_band() -> None:
    image = encode_in_band(b"\x01\x02\x03", 0, False)
    assert image.hex() == "06000200030000000000000000000000" + "010203" + "00" * 5
    assert parse_packet_untrusted(image) == Packet(PacketKind.IN_BAND, 0, 0, b"\x01\x02\x03" + bytes(5))


def test_vector_v13_completion() -> None:
    image = encode_completion(bytes(4), 0x1122)
    assert image.hex() == "0b000200030000002211" + "00" * 14
    assert parse_packet_untrusted(image) == Packet(PacketKind.COMPLETION, 0, 0x1122, bytes(8))


def test_vector_v14_gpa_direct() -> None:
    image = encode_gpa_direct([GpaRange(0x1000, 0x20, (0x10, 0x11))], b"\xaa" * 8, 5)
    assert image.hex() == (
        "09000600070001000500000000000000"
        "0000000001000000"
        "0010000020000000"
        "1000000000000000"
        "1100000000000000"
        "aaaaaaaaaaaaaaaa"
    )


def test_vector_v15_pipe_data() -> None:
    framed = frame_pipe_message(b"hello")
    image = encode_in_band(framed)
    assert image.hex() == "06000200040000000000000000000000" + "0100000005000000" + "68656c6c6f000000"
    assert unframe_pipe_message_untrusted(parse_packet_untrusted(image).payload) == b"hello"


def test_vector_v17_transfer_pages() -> None:
    pages = TransferPages(0xCAFE, False, (TransferRange(0x40, 0x1000),))
    image = encode_transfer_pages(pages, b"", 9)
    assert image.hex() == "07000400040001000900000000000000" + "feca000001000000" + "4000000000100000"
    assert parse_packet_untrusted(image) == Packet(PacketKind.TRANSFER_PAGES, 1, 9, b"", (), pages)


@pytest.mark.parametrize("kind", [7, 9])
@pytest.mark.parametrize("data_offset8", [0, 1, 2])
def test_checklist_28_payload_inside_the_typed_header_is_corruption(kind: int, data_offset8: int) -> None:
    image = struct.pack("<HHHHQII", kind, data_offset8, 4, 1, 0, 0, 1) + bytes(8)
    with pytest.raises(RingCorruption, match="payload at"):
        parse_packet_untrusted(image)


@pytest.mark.parametrize(
    ("count", "offset", "pages"),
    [(8, 0x1000, 1), (0, 0, 1), (0xFFFFFFFF, 0, 1), (0xFFFFF001, 0, 1), (0x1001, 0, 1), (0x1000, 1, 1)],
)
def test_checklist_29_illegal_range_spoils_the_packet_only(count: int, offset: int, pages: int) -> None:
    area = struct.pack(f"<II{pages}Q", count, offset, *range(pages))
    image = struct.pack("<HHHHQII", 9, 5, 6, 1, 77, 0xDEAD, 1) + area + b"readable"
    packet = parse_packet_untrusted(image)
    assert packet.payload == b"readable"
    assert packet.ranges == ()
    assert packet.range_error


def test_checklist_30_two_ranges_round_trip() -> None:
    image = encode_gpa_direct(TWO_RANGES, bytes(range(24)), 1 << 63)
    packet = parse_packet_untrusted(image)
    assert packet == Packet(PacketKind.GPA_DIRECT, 1, 1 << 63, bytes(range(24)), TWO_RANGES)
    assert packet_cost(24, [2, 1]) == ring_bytes(image) == len(image) + 8


def test_checklist_30_empty_range_leaves_the_payload_readable() -> None:
    area = struct.pack("<IIQIIQ", 16, 0, 7, 0, 0, 8)
    image = struct.pack("<HHHHQII", 9, 7, 8, 1, 1, 0, 2) + area + b"payload!"
    packet = parse_packet_untrusted(image)
    assert packet.payload == b"payload!"
    assert packet.range_error is not None
    assert "range 1" in packet.range_error


def test_checklist_31_transfer_ranges_resolve_to_pages() -> None:
    buffer = GpaRange(0x3000, 0, (50, 60, 70))
    assert resolve_transfer_range(buffer, TransferRange(0x10, 0x10)) == GpaRange(0x10, 0x10, (50,))
    assert resolve_transfer_range(buffer, TransferRange(0x10, 0xFFF)) == GpaRange(0x10, 0xFFF, (50, 60))
    assert resolve_transfer_range(buffer, TransferRange(0x10, 0x1000)) == GpaRange(0x10, 0, (60,))


@pytest.mark.parametrize("rng", [(0, 0), (1, 0x3000), (0x3001, 0), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_transfer_range_outside_its_buffer_is_corruption(rng: tuple[int, int]) -> None:
    with pytest.raises(RingCorruption, match="agreed buffer"):
        resolve_transfer_range(GpaRange(0x3000, 0, (50, 60, 70)), TransferRange(*rng))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "shorter"),
        (bytes(15), "shorter"),
        (struct.pack("<HHHHQ", 6, 1, 2, 0, 0), "payload at 8"),
        (struct.pack("<HHHHQ", 6, 3, 2, 0, 0), "makes no sense"),
        (struct.pack("<HHHHQ", 6, 2, 3, 0, 0), "makes no sense"),
        (struct.pack("<HHHHQ", 0, 2, 2, 0, 0), "type 0"),
        (struct.pack("<HHHHQ", 8, 2, 2, 0, 0), "type 8"),
        (struct.pack("<HHHHQ", 10, 2, 2, 0, 0), "type 10"),
        (struct.pack("<HHHHQ", 6, 2, 2, 2, 0), "flags 0x0002"),
        (struct.pack("<HHHHQ", 6, 2, 2, 0x8001, 0), "flags 0x8001"),
        (struct.pack("<HHHHQII", 9, 3, 3, 1, 0, 0, 0), "no range"),
        (struct.pack("<HHHHQII", 7, 3, 3, 1, 0, 0, 0), "no range"),
    ],
)
def test_illegal_packets_are_corruption(image: bytes, message: str) -> None:
    with pytest.raises(RingCorruption, match=message):
        parse_packet_untrusted(image)


@pytest.mark.parametrize("kind", [7, 9])
def test_huge_range_count_costs_nothing_and_spoils_the_packet(kind: int) -> None:
    image = struct.pack("<HHHHQII", kind, 4, 5, 1, 0, 0, 0xFFFFFFFF) + bytes(8) + b"payload!"
    packet = parse_packet_untrusted(image)
    assert packet.payload == b"payload!"
    assert packet.range_error is not None
    assert "4294967295" in packet.range_error


def test_a_list_of_ranges_may_end_in_unused_values() -> None:
    area = struct.pack("<IIQQ", 16, 8, 5, 6)
    image = struct.pack("<HHHHQII", 9, 6, 6, 1, 0, 0, 1) + area
    assert parse_packet_untrusted(image).ranges == (GpaRange(16, 8, (5,)),)


def test_length_is_checked_not_truncated() -> None:
    most = 0xFFFF * 8 - 16
    assert len(encode_in_band(bytes(most))) == 0xFFFF * 8
    with pytest.raises(Misuse, match="length field"):
        encode_in_band(bytes(most + 1))
    with pytest.raises(Misuse, match="length field"):
        encode_completion(bytes(most + 1), 1)
    with pytest.raises(Misuse, match="length field"):
        encode_gpa_direct([GpaRange(4096, 0, (1,))], bytes(most), 1)
    with pytest.raises(Misuse, match="length field"):
        encode_transfer_pages(TransferPages(1, False, (TransferRange(1, 0),)), bytes(most), 1)


def test_k27_most_pages_of_one_range_without_payload() -> None:
    pages = 65_531
    assert len(encode_gpa_direct([GpaRange(pages << 12, 0, tuple(range(pages)))], b"", 1)) == 0xFFFF * 8
    with pytest.raises(Misuse, match="length field"):
        encode_gpa_direct([GpaRange((pages + 1) << 12, 0, tuple(range(pages + 1)))], b"", 1)


@pytest.mark.parametrize(
    "rng", [GpaRange(0, 0, ()), GpaRange(1, 4096, (1,)), GpaRange(4097, 0, (1,)), GpaRange(1, 0, (1, 2))]
)
def test_ranges_no_receiver_accepts_are_not_sent(rng: GpaRange) -> None:
    with pytest.raises(Misuse, match="not a legal range"):
        encode_gpa_direct([rng], b"", 1)
    with pytest.raises(Misuse, match="at least one"):
        encode_gpa_direct([], b"", 1)


@pytest.mark.parametrize(
    ("framed", "message"),
    [
        (b"", "no room"),
        (struct.pack("<II", 1, 1), "holds 0"),
        (struct.pack("<II", 1, 0xFFFFFFFF) + bytes(8), "holds 8"),
        (struct.pack("<II", 2, 0) + bytes(8), "type 2"),
    ],
)
def test_pipe_framing_that_lies_is_corruption(framed: bytes, message: str) -> None:
    with pytest.raises(RingCorruption, match=message):
        unframe_pipe_message_untrusted(framed)


def test_pipe_message_limit() -> None:
    assert len(frame_pipe_message(bytes(16384))) == 16392
    with pytest.raises(Misuse, match="16385"):
        frame_pipe_message(bytes(16385))


@given(payload=st.binary(max_size=200), transaction_id=st.integers(0, 2**64 - 1), wants=st.booleans())
def test_in_band_round_trip_pads_with_zeros(payload: bytes, transaction_id: int, wants: bool) -> None:
    image = encode_in_band(payload, transaction_id, wants)
    packet = parse_packet_untrusted(image)
    assert packet == (PacketKind.IN_BAND, wants, transaction_id, payload + bytes(-len(payload) % 8), (), None, None)
    assert packet_cost(len(payload)) == len(image) + 8


@settings(max_examples=500)
@given(
    kind=st.sampled_from([6, 7, 9, 11, 0, 0xFFFF]),
    offset8=st.integers(0, 9),
    flags=st.integers(0, 2),
    body=st.binary(max_size=80),
    count=st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF]),
    claim=st.integers(-1, 1),
)
def test_only_ring_corruption_comes_out(
    kind: int, offset8: int, flags: int, body: bytes, count: int, claim: int
) -> None:
    body = body[: len(body) & ~7]
    length8 = 3 + len(body) // 8 + claim
    image = struct.pack("<HHHHQII", kind, offset8, length8, flags, 1, 0, count) + body
    try:
        packet = parse_packet_untrusted(image)
    except RingCorruption:
        return
    assert packet.kind in (6, 7, 9, 11)
    assert claim == 0
    assert packet.payload == image[offset8 * 8 :]
    assert sum(8 + 8 * len(rng.pfns) for rng in packet.ranges) <= offset8 * 8 - 24 or not packet.ranges

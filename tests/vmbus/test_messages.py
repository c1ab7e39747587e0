"""The control messages against byte vectors and a second, hand-written transcription of their table."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import GpaRange
from emulator.status import Misuse
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.gpadl import build_gpadl_messages
from emulator.vmbus.message_types import Direction, FeatureFlags, Negotiated, Version
from emulator.vmbus.messages import MESSAGES, message_number, pack_message, parse_message_untrusted

HEARTBEAT = UUID("57164f39-9115-4e78-ab55-382f3bd5422d")
HEARTBEAT_INSTANCE = UUID("fd149e91-82e0-4a7d-afa6-2a4166cbd7c0")
G, H = Direction.GUEST_TO_HOST, Direction.HOST_TO_GUEST
ALL_FEATURES = FeatureFlags(0xFF)
NEWEST = Negotiated(Version.V6_0, ALL_FEATURES)
NO_DATA = bytes(120)

VECTORS = {
    "V1": (
        m.InitiateContact2(0x60000, 0, 0x00000003_00000002, 0, 0, m.NO_GUID),
        "0e0000000000000000000600000000000200000003" + "00" * 35,
        G,
        None,
    ),
    "V2": (m.VersionResponse(0, 0, 0), "0f" + "00" * 15, H, None),
    "V3": (m.VersionResponse(1, 0, 0x40000), "0f000000000000000100000000000400", H, None),
    "V4": (m.VersionResponse(1, 0, 1), "0f000000000000000100000001000000", H, None),
    "V5": (m.VersionResponse2(1, 0, 1, 3), "0f00000000000000010000000100000003000000", H, None),
    "V6": (
        m.OfferChannel(HEARTBEAT, HEARTBEAT_INSTANCE, 0x10, 0, b"\x04" + bytes(119), 0, 0, 1, 0xFF, 0, 1, 0x2001),
        "0100000000000000394f16571591784eab55382f3bd5422d919e14fde0827d4aafa62a4166cbd7c0"
        + "00" * 16
        + "1000000004"
        + "00" * 123
        + "01000000ff00010001200000",
        H,
        NEWEST,
    ),
    "V7": (
        m.OpenChannel(1, 1, 0xE1E10, 0, 4, NO_DATA),
        "05000000000000000100000001000000101e0e000000000004" + "00" * 123,
        G,
        Negotiated(Version.V5_3),
    ),
    "V8": (m.OpenChannelResult(1, 1, 0), "0600000000000000010000000100000000000000", H, NEWEST),
    "V9": (
        m.GpadlHeader(1, 0xE1E10, 24, 1, bytes.fromhex("002000000000000000010000000000000101000000000000")),
        "080000000000000001000000101e0e0018000100002000000000000000010000000000000101000000000000",
        G,
        NEWEST,
    ),
    "V10": (m.GpadlCreated(1, 0xE1E10, 0), "0a0000000000000001000000101e0e0000000000", H, NEWEST),
    "V11": (m.GpadlCreated(1, 0xE1E10, 0x8000FFFF), "0a0000000000000001000000101e0e00ffff0080", H, NEWEST),
    "V16": (
        m.TlConnectRequestResult(
            UUID(bytes_le=bytes(range(16))), UUID(bytes_le=bytes(range(16, 32))), m.STATUS_CONNECTION_REFUSED
        ),
        "1700000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f360200c0",
        H,
        NEWEST,
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector_packs_to_its_bytes(name: str) -> None:
    message, image, _, _ = VECTORS[name]
    assert pack_message(message).hex() == image


@pytest.mark.parametrize("name", VECTORS)
def test_vector_parses_to_its_message(name: str) -> None:
    message, image, direction, negotiated = VECTORS[name]
    assert parse_message_untrusted(bytes.fromhex(image), negotiated, direction) == message


def test_v9_is_what_a_page_list_becomes() -> None:
    (header,) = build_gpadl_messages(1, 0xE1E10, [GpaRange(0x2000, 0, (0x100, 0x101))])
    assert pack_message(header).hex() == VECTORS["V9"][1]


# Written out from the reference: number -> direction, sizes, minimum version, needed features.
V = Version
EXPECTED: dict[int, tuple[Direction, tuple[int, ...], Version | None]] = {
    1: (H, (196,), V.V0_13),
    2: (H, (12,), V.V0_13),
    3: (G, (8,), V.V0_13),
    4: (H, (8,), V.V0_13),
    5: (G, (148, 156), V.V0_13),
    6: (H, (20,), V.V0_13),
    7: (G, (12,), V.V0_13),
    8: (G, (20,), V.V0_13),
    9: (G, (16,), V.V0_13),
    10: (H, (20,), V.V0_13),
    11: (G, (16,), V.V0_13),
    12: (H, (12,), V.V0_13),
    13: (G, (12,), V.V0_13),
    14: (G, (40, 56), None),
    15: (H, (16, 20, 40), None),
    16: (G, (8,), V.V0_13),
    17: (H, (8,), V.V1_1),
    18: (G, (28,), V.V4_0),
    19: (G, (20,), None),
    20: (H, (12,), V.V4_0),
    21: (G, (40, 56), V.V4_0),
    22: (G, (16,), V.V4_1),
    23: (H, (44,), V.V4_1),
    24: (H, (16,), V.V5_3),
    25: (G, (24,), V.V6_0),
    26: (H, (9,), V.V6_0),
    27: (G, (8,), V.V6_0),
    28: (H, (8,), V.V6_0),
    29: (G, (8,), V.V6_0),
}
NEEDS = {25: 0x4, 26: 0x4, 27: 0x20, 28: 0x20, 29: 0x20}


def accepts(number: int, size: int, negotiated: Negotiated | None, direction: Direction) -> bool:
    image = number.to_bytes(4, "little") + bytes(size - 4)
    try:
        parse_message_untrusted(image, negotiated, direction)
    except BusError:
        return False
    return True


def test_every_message_and_layout_is_in_the_table_once() -> None:
    assert sorted((row.number, row.size) for row in MESSAGES) == [
        (number, size) for number, (_, sizes, _) in EXPECTED.items() for size in sizes
    ]


@pytest.mark.parametrize("number", EXPECTED)
@pytest.mark.parametrize("version", [None, *Version])
def test_rule_2_1_a_type_is_legal_from_its_minimum_version(number: int, version: Version | None) -> None:
    direction, sizes, minimum = EXPECTED[number]
    negotiated = None if version is None else Negotiated(version, ALL_FEATURES)
    legal = minimum is None or (version is not None and version >= minimum)
    assert accepts(number, sizes[0], negotiated, direction) is legal


@pytest.mark.parametrize("number", NEEDS)
def test_rule_2_1_a_feature_must_be_granted(number: int) -> None:
    direction, sizes, _ = EXPECTED[number]
    without = ALL_FEATURES & ~FeatureFlags(NEEDS[number])
    assert not accepts(number, sizes[0], Negotiated(Version.V6_0, without), direction)
    assert accepts(number, sizes[0], Negotiated(Version.V6_0, FeatureFlags(NEEDS[number])), direction)


@pytest.mark.parametrize("number", EXPECTED)
def test_rule_2_1_one_byte_less_is_too_small(number: int) -> None:
    direction, sizes, _ = EXPECTED[number]
    with pytest.raises(BusError) as caught:
        parse_message_untrusted(number.to_bytes(4, "little") + bytes(sizes[0] - 5), NEWEST, direction)
    assert caught.value.fault is (BusFault.MESSAGE_TOO_SMALL)


@pytest.mark.parametrize("number", EXPECTED)
def test_a_message_of_the_wrong_direction_is_unknown(number: int) -> None:
    direction, sizes, _ = EXPECTED[number]
    assert not accepts(number, sizes[-1], NEWEST, G if direction is H else H)


@pytest.mark.parametrize("number", [0, 30, 0xFFFFFFFF])
@pytest.mark.parametrize("direction", [G, H])
def test_unknown_numbers_are_unknown(number: int, direction: Direction) -> None:
    with pytest.raises(BusError) as caught:
        parse_message_untrusted(number.to_bytes(4, "little") + bytes(236), NEWEST, direction)
    assert caught.value.fault is BusFault.INVALID_MESSAGE_TYPE


@pytest.mark.parametrize("features", [FeatureFlags(1), FeatureFlags(2)])
def test_open_channel_has_its_long_layout_with_either_signal_feature(features: FeatureFlags) -> None:
    image = pack_message(m.OpenChannel2(1, 2, 3, 4, 5, NO_DATA, 6, 7, 8))
    assert len(image) == 156
    long = parse_message_untrusted(image, Negotiated(Version.V6_0, features), G)
    assert long == m.OpenChannel2(1, 2, 3, 4, 5, NO_DATA, 6, 7, 8)
    short = m.OpenChannel(1, 2, 3, 4, 5, NO_DATA)
    assert parse_message_untrusted(image, Negotiated(Version.V6_0, FeatureFlags(4)), G) == short
    assert parse_message_untrusted(image, Negotiated(Version.V5_3, features), G) == short
    assert parse_message_untrusted(image[:155], Negotiated(Version.V6_0, features), G) == short


def test_tl_connect_request_has_its_long_layout_from_5_2_if_the_size_fits() -> None:
    image = pack_message(m.TlConnectRequest2(HEARTBEAT, HEARTBEAT_INSTANCE, HEARTBEAT))
    assert isinstance(parse_message_untrusted(image, Negotiated(Version.V5_2), G), m.TlConnectRequest2)
    assert type(parse_message_untrusted(image, Negotiated(Version.V5_1), G)) is m.TlConnectRequest
    assert type(parse_message_untrusted(image[:40], Negotiated(Version.V5_2), G)) is m.TlConnectRequest


def test_header_padding_is_ignored_and_sent_as_zero() -> None:
    image = bytes.fromhex("07000000efbeadde01000000")
    assert parse_message_untrusted(image, NEWEST, G) == m.CloseChannel(1)
    assert pack_message(m.CloseChannel(1)) == bytes.fromhex("070000000000000001000000")


def test_trailing_bytes_are_allowed_and_are_data_in_8_and_9() -> None:
    padded = pack_message(m.CloseChannel(1)).ljust(240, b"\xee")
    assert parse_message_untrusted(padded, NEWEST, G) == m.CloseChannel(1)
    body = pack_message(m.GpadlBody(0, 9, b"12345678"))
    assert parse_message_untrusted(body, NEWEST, G) == m.GpadlBody(0, 9, b"12345678")


def test_messages_of_more_than_240_bytes_do_not_exist() -> None:
    with pytest.raises(BusError) as caught:
        parse_message_untrusted(bytes.fromhex("07000000") + bytes(237), NEWEST, G)
    assert caught.value.fault is BusFault.MESSAGE_TOO_LARGE
    with pytest.raises(Misuse, match="does not fit 240"):
        pack_message(m.GpadlBody(0, 1, bytes(232)))


def test_a_field_out_of_range_is_our_own_fault() -> None:
    with pytest.raises(Misuse, match="cannot be packed"):
        pack_message(m.CloseChannel(1 << 32))


@given(st.binary(max_size=260), st.sampled_from([None, *Version]), st.integers(0, 255), st.sampled_from([G, H]))
def test_hostile_bytes_parse_or_raise_the_typed_error(
    tail: bytes, version: Version | None, features: int, direction: Direction
) -> None:
    negotiated = None if version is None else Negotiated(version, FeatureFlags(features))
    for number in range(31):
        image = number.to_bytes(4, "little") + tail
        try:
            message = parse_message_untrusted(image, negotiated, direction)
        except BusError:
            continue
        again = pack_message(message)
        assert message_number(again) == number
        assert parse_message_untrusted(again, negotiated, direction) == message

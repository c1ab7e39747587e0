"""Bytes from a stranger: every limit of a frame, and that nothing but messages and WireError ever comes of them."""

from __future__ import annotations

import random
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.wire.codec import (
    FrameDecoder,
    FrameLimits,
    Message,
    Request,
    Response,
    WireError,
    encode_request,
    encode_response,
)
from emulator.wire.schema import PING, Direction
from tests.wire.frames import conversations, decode

SMALL = FrameLimits(frame_bytes=100, elements=12, depth=3)


def result_frame(result: bytes) -> bytes:
    """A response with some MessagePack as its result; 4 bytes and 4 elements more than that."""
    return b"\x94\x01\x05\xc0" + result


def decode_result(result: bytes, limits: FrameLimits = SMALL) -> Message:
    [message] = decode(result_frame(result), Direction.TO_CLIENT, limits)
    return message


def nested(first: bytes, last: bytes, levels: int) -> bytes:
    return first * levels + last


# ---- bytes


def test_a_frame_may_have_exactly_the_limit_of_bytes() -> None:
    assert decode_result(b"\xc4\x5e" + bytes(94)) == Response(5, None, bytes(94))
    with pytest.raises(WireError, match="longer than 100 bytes"):
        decode_result(b"\xc4\x5f" + bytes(95))


@pytest.mark.parametrize("count", [0, 1, 95])
def test_a_frame_that_is_too_long_is_refused_with_its_length_and_before_its_bytes(count: int) -> None:
    decoder = FrameDecoder(Direction.TO_CLIENT, SMALL)
    with pytest.raises(WireError, match="longer than 100 bytes"):
        list(decoder.feed(result_frame(b"\xc4\x5f" + bytes(count))))


@pytest.mark.parametrize("first", [0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB], ids=hex)
def test_the_largest_declared_length_is_refused_before_its_bytes_arrive(first: int) -> None:
    width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}[first]
    header = bytes([first]) + b"\xff" * width
    decoder = FrameDecoder(Direction.TO_CLIENT, SMALL)
    for byte in result_frame(header)[:-1]:
        assert list(decoder.feed(bytes([byte]))) == []
    with pytest.raises(WireError, match="longer than 100 bytes"):
        list(decoder.feed(header[-1:]))


def test_many_values_together_cannot_pass_the_limit_of_bytes() -> None:
    with pytest.raises(WireError, match="longer than 100 bytes"):
        decode_result(b"\x93" + (b"\xc4\x1e" + bytes(30)) * 3)


def test_the_limit_is_for_one_frame_not_for_the_stream() -> None:
    frame = encode_response(5, bytes(80))
    assert len(decode(frame * 50, Direction.TO_CLIENT, SMALL)) == 50


def test_a_frame_that_began_behind_another_has_the_same_limit() -> None:
    decoder = FrameDecoder(Direction.TO_CLIENT, SMALL)
    assert len(list(decoder.feed(encode_response(5, bytes(80)) + result_frame(b"")))) == 1
    with pytest.raises(WireError, match="longer than 100 bytes"):
        list(decoder.feed(b"\xc4\x5f"))


# ---- elements


def test_a_frame_may_have_exactly_the_limit_of_elements() -> None:
    assert decode_result(b"\x97" + bytes(7)) == Response(5, None, [0] * 7)
    with pytest.raises(WireError, match="more than 12 MessagePack elements"):
        decode_result(b"\x98" + bytes(8))


def test_a_map_counts_its_keys_and_its_values() -> None:
    assert decode_result(b"\x83" + b"\xa1a\x00\xa1b\x00\xa1c\x00") == Response(5, None, {"a": 0, "b": 0, "c": 0})
    with pytest.raises(WireError, match="more than 12 MessagePack elements"):
        decode_result(b"\x84")


@pytest.mark.parametrize(
    "header",
    [
        b"\x9f",
        b"\x8f",
        b"\xdc\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xde\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdc\x00\x09",
    ],
    ids=bytes.hex,
)
def test_a_huge_declared_count_is_refused_before_its_elements_arrive(header: bytes) -> None:
    with pytest.raises(WireError, match="more than 12 MessagePack elements"):
        decode_result(header)


@pytest.mark.parametrize("empty", [b"\x90", b"\x80", b"\xdc\x00\x00", b"\xdf\x00\x00\x00\x00"], ids=bytes.hex)
def test_empty_arrays_and_maps_count_as_elements(empty: bytes) -> None:
    assert isinstance(decode_result(b"\x97" + empty * 7), Response)
    with pytest.raises(WireError, match="more than 12 MessagePack elements"):
        decode_result(b"\x98" + empty * 8)


# ---- depth


@pytest.mark.parametrize("first", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"], ids=bytes.hex)
def test_arrays_may_nest_exactly_to_the_limit(first: bytes) -> None:
    assert decode_result(nested(first, b"\x07", 2)) == Response(5, None, [[7]])
    with pytest.raises(WireError, match="nests arrays or maps deeper than 3"):
        decode_result(nested(first, b"\x07", 3))


@pytest.mark.parametrize("first", [b"\x81\xa1k", b"\xde\x00\x01\xa1k", b"\xdf\x00\x00\x00\x01\xa1k"], ids=bytes.hex)
def test_maps_may_nest_exactly_to_the_limit(first: bytes) -> None:
    assert decode_result(nested(first, b"\x07", 2)) == Response(5, None, {"k": {"k": 7}})
    with pytest.raises(WireError, match="nests arrays or maps deeper than 3"):
        decode_result(nested(first, b"\x07", 3))


def test_depth_ends_with_the_array_that_made_it() -> None:
    assert decode_result(b"\x92\x91\x01\x91\x02") == Response(5, None, [[1], [2]])


def test_a_million_open_brackets_are_refused_at_once() -> None:
    with pytest.raises(WireError, match="deeper"):
        decode(b"\x91" * 1_000_000)


# ---- what MessagePack has and this protocol has not

EXT = {
    **{first: bytes([first, 1]) + bytes(1 << (first - 0xD4)) for first in range(0xD4, 0xD9)},
    0xC7: b"\xc7\x04\xff" + bytes(4),
    0xC8: b"\xc8\x00\x04\x05" + bytes(4),
    0xC9: b"\xc9\x00\x00\x00\x04\x05" + bytes(4),
}


@pytest.mark.parametrize("first", EXT, ids=hex)
def test_no_ext_type_is_decoded_wherever_it_stands(first: int) -> None:
    assert not isinstance(msgpack.unpackb(EXT[first], strict_map_key=False), list), "each example is valid MessagePack"
    for frame in (EXT[first], result_frame(EXT[first]), result_frame(b"\x91" + EXT[first]), EXT[first][:1]):
        with pytest.raises(WireError, match=f"ext types are not part of this protocol .byte 0x{first:02X}"):
            decode(frame, Direction.TO_CLIENT, SMALL)


def test_the_byte_that_messagepack_never_uses_is_refused() -> None:
    for frame in (b"\xc1", result_frame(b"\xc1"), result_frame(b"\x91\xc1")):
        with pytest.raises(WireError, match="0xC1"):
            decode(frame, Direction.TO_CLIENT, SMALL)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"a\x80"])
@pytest.mark.parametrize("place", ["method", "argument", "key"])
def test_text_that_is_not_utf8_ends_the_stream(text: bytes, place: str) -> None:
    packed = bytes([0xA0 | len(text)]) + text
    frame = {
        "method": b"\x94\x00\x01" + packed + b"\x90",
        "argument": b"\x94\x00\x01\xa4ping\x91" + packed,
        "key": b"\x94\x00\x01\xa4ping\x81" + packed + b"\x00",
    }[place]
    with pytest.raises(WireError, match="cannot be decoded"):
        decode(frame)


@pytest.mark.parametrize("key", [b"\x90", b"\x80", b"\x91\x01", b"\x81\xa1a\x01", b"\xc0", b"\x01", b"\xcb" + bytes(8)])
def test_a_map_key_that_is_no_text_ends_the_stream(key: bytes) -> None:
    with pytest.raises(WireError, match="cannot be decoded"):
        decode(result_frame(b"\x81" + key + b"\x00"), Direction.TO_CLIENT)


def test_every_first_byte_is_understood_as_messagepack_has_it() -> None:
    for first in range(256):
        if first in EXT or first == 0xC1:
            continue
        body = bytes([first]) + bytes(40)
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(body)
        unpacker.skip()
        frame = result_frame(body[: unpacker.tell()])
        decoder = FrameDecoder(Direction.TO_CLIENT)
        assert list(decoder.feed(frame[:-1])) == [], f"0x{first:02X} ended early"
        if 0x80 <= first <= 0x8F and first != 0x80:
            with pytest.raises(WireError, match="cannot be decoded"):  # its keys are numbers
                list(decoder.feed(frame[-1:]))
        else:
            [message] = decoder.feed(frame[-1:])
            assert isinstance(message, Response), f"0x{first:02X} ended late"


# ---- anything at all


def messages_or_wire_error(data: bytes, sender: Direction, limits: FrameLimits | None = None) -> list[Message]:
    """What comes out of the bytes; any exception but WireError passes through and fails the test."""
    messages: list[Message] = []
    refusal = "none"
    try:
        for message in FrameDecoder(sender, limits).feed(data):
            messages.append(message)
    except WireError as error:
        refusal = str(error)
    assert 0 < len(refusal) < 300
    return messages


@pytest.mark.parametrize("sender", [Direction.TO_DAEMON, Direction.TO_CLIENT])
@given(data=st.binary(max_size=300))
def test_any_bytes_yield_messages_or_a_wire_error(sender: Direction, data: bytes) -> None:
    messages_or_wire_error(data, sender)


MAP_KEYS = st.text(max_size=3) | st.integers(-3, 3) | st.binary(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(MAP_KEYS, inner, max_size=3),
    max_leaves=12,
)
HEADS = st.sampled_from([0, 1, 2])
METHOD_NAMES = st.sampled_from(["ping", "hello", "cancel", "goodbye", "packet.send", "channel.packets", "x"])


@pytest.mark.parametrize("sender", [Direction.TO_DAEMON, Direction.TO_CLIENT])
@given(frame=VALUES | st.tuples(HEADS, VALUES, METHOD_NAMES | VALUES, VALUES) | st.tuples(HEADS, METHOD_NAMES, VALUES))
def test_any_messagepack_yields_a_message_or_a_wire_error(sender: Direction, frame: object) -> None:
    assert len(messages_or_wire_error(msgpack.packb(frame), sender)) <= 1


@given(
    frames=conversations(Direction.TO_DAEMON), place=st.integers(0, 1 << 16), noise=st.binary(min_size=1, max_size=4)
)
def test_a_damaged_stream_yields_the_messages_before_the_damage(
    frames: list[tuple[bytes, Message]], place: int, noise: bytes
) -> None:
    stream = b"".join(frame for frame, _ in frames)
    at = place % (len(stream) + 1)
    came = messages_or_wire_error(stream[:at] + noise + stream[at + len(noise) :], Direction.TO_DAEMON)
    whole: list[Message] = []
    end = 0
    for frame, message in frames:
        end += len(frame)
        if end <= at:
            whole.append(message)
    assert came[: len(whole)] == whole


def test_ten_thousand_random_strings_yield_messages_or_a_wire_error() -> None:
    chance = random.Random(20240511)
    starts = [b"", b"\x94\x00", b"\x94\x01\x05", b"\x93\x02", b"\x94\x00\x01\xa4ping", encode_request(1, PING)]
    seen = 0
    for number in range(10_000):
        data = chance.choice(starts) + chance.randbytes(chance.randrange(40))
        if number % 3 == 0:
            data += struct.pack(">BI", chance.choice((0xC6, 0xDB, 0xDD, 0xDF)), chance.getrandbits(32))
        limits = SMALL if number % 2 else None
        seen += len(messages_or_wire_error(data, chance.choice((Direction.TO_DAEMON, Direction.TO_CLIENT)), limits))
    assert seen > 1000


def test_a_good_stream_is_not_taken_for_a_hostile_one() -> None:
    assert messages_or_wire_error(encode_request(1, PING) * 3, Direction.TO_DAEMON) == [Request(1, PING, ())] * 3

"""Messages to frames and back, however the bytes arrive, and what each kind of wrong message is answered with."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import NtStatus, Refused
from emulator.wire.codec import (
    BadRequest,
    FrameDecoder,
    Message,
    Notification,
    Request,
    Response,
    WireError,
    check_result,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
)
from emulator.wire.schema import (
    CANCEL,
    CHANNEL_CLOSED,
    CHANNEL_WINDOW,
    GOODBYE,
    HELLO,
    MEMORY_ALLOCATE,
    METHODS,
    PACKET_COMPLETE,
    PACKET_SEND,
    PING,
    Direction,
    Kind,
    Method,
)
from tests.wire.frames import conversations, decode, decode_pieces, pieces_of

BOTH = (Direction.TO_DAEMON, Direction.TO_CLIENT)


def test_the_bytes_of_each_kind_of_message() -> None:
    assert encode_request(5, PING) == bytes.fromhex("94 00 05 a4 70696e67 90")
    assert encode_response(5) == bytes.fromhex("94 01 05 c0 90")
    assert encode_error(5, NtStatus.CANCELLED, "no") == bytes.fromhex("94 01 05 92 ce c0000120 a2 6e6f c0")
    assert encode_notification(CANCEL, 5) == bytes.fromhex("93 02 a6 63616e63656c 91 05")
    assert encode_notification(PACKET_COMPLETE, 1, 2, b"ok") == b"\x93\x02\xaf" + b"packet.complete" + bytes.fromhex(
        "93 01 02 c4 02 6f6b"
    )


@pytest.mark.parametrize("sender", BOTH)
@given(data=st.data())
def test_every_message_survives_both_ways_however_its_bytes_are_cut(sender: Direction, data: st.DataObject) -> None:
    frames = data.draw(conversations(sender))
    stream = b"".join(frame for frame, _ in frames)
    expected = [message for _, message in frames]
    assert decode(stream, sender) == expected
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    decoder = FrameDecoder(sender)
    assert decode_pieces(decoder, pieces_of(stream, cuts)) == expected
    assert not decoder.has_partial_frame


@pytest.mark.parametrize("sender", BOTH)
@given(data=st.data())
def test_fed_byte_by_byte_each_message_comes_with_its_last_byte(sender: Direction, data: st.DataObject) -> None:
    frames: Sequence[tuple[bytes, Message]] = data.draw(conversations(sender))
    decoder = FrameDecoder(sender)
    for frame, message in frames:
        for number in range(len(frame) - 1):
            assert list(decoder.feed(frame[number : number + 1])) == []
            assert decoder.has_partial_frame
        assert list(decoder.feed(frame[-1:])) == [message]
        assert not decoder.has_partial_frame


def test_a_memoryview_can_be_fed_and_reused() -> None:
    received = bytearray(encode_request(1, PING) + encode_request(2, PING)[:3])
    decoder = FrameDecoder(Direction.TO_DAEMON)
    with memoryview(received) as view:
        assert list(decoder.feed(view)) == [Request(1, PING, ())]
    received[:] = bytes(len(received))
    assert list(decoder.feed(encode_request(2, PING)[3:])) == [Request(2, PING, ())]


def test_a_consumer_that_stops_in_the_middle_loses_only_what_it_was_given() -> None:
    decoder = FrameDecoder(Direction.TO_DAEMON)
    stream = b"".join(encode_request(msgid, PING) for msgid in range(4))
    for message in decoder.feed(stream):
        assert message == Request(0, PING, ())
        break
    assert list(decoder.feed(b"")) == [Request(msgid, PING, ()) for msgid in (1, 2, 3)]


# ---- requests that get an error as their answer


def refusal(frame: object, sender: Direction = Direction.TO_DAEMON) -> BadRequest:
    [message] = decode(msgpack.packb(frame), sender)
    assert isinstance(message, BadRequest)
    return message


@pytest.mark.parametrize(
    "name", ["nothing", "", "PING", "cancel", "goodbye", "channel.packets", b"ping", 7, None, [], {}, "x" * 100_000]
)
def test_a_request_that_does_not_exist_is_answered_with_not_implemented(name: object) -> None:
    bad = refusal([0, 77, name, []])
    assert (bad.msgid, bad.status) == (77, NtStatus.NOT_IMPLEMENTED)
    assert bad.message.startswith("there is no request ")
    assert len(bad.message) < 120


@pytest.mark.parametrize("params", [None, 5, "text", b"bytes", {}, {"machine": 1}, [], [1], [1, 2, 3], [[1], 2]])
def test_wrong_arguments_are_answered_with_invalid_parameter(params: object) -> None:
    bad = refusal([0, 78, MEMORY_ALLOCATE.name, params])
    assert (bad.msgid, bad.status) == (78, NtStatus.INVALID_PARAMETER)
    assert bad.message.startswith("memory.allocate")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([1, -1], "memory.allocate: 'pages' must be an unsigned 32-bit integer, not -1"),
        ([1], "memory.allocate has 1 values where it takes 2 (machine, pages)"),
        ([{}, 1], "memory.allocate: 'machine' must be an unsigned 32-bit integer, not a map of 0"),
        ([1, "x" * 30], f"memory.allocate: 'pages' must be an unsigned 32-bit integer, not {'x' * 24!r}…"),
    ],
)
def test_the_answer_names_the_argument_and_what_is_wrong(args: list[object], sentence: str) -> None:
    assert refusal([0, 1, MEMORY_ALLOCATE.name, args]).message == sentence


def test_a_good_request_behind_a_bad_one_is_still_good() -> None:
    stream = msgpack.packb([0, 1, "nothing", []]) + encode_request(2, PING)
    bad, good = decode(stream)
    assert isinstance(bad, BadRequest)
    assert good == Request(2, PING, ())


# ---- messages nobody may send


@pytest.mark.parametrize(
    "method", [row for row in METHODS if row.direction is not Direction.BOTH], ids=lambda row: row.name
)
def test_a_method_is_refused_from_the_side_that_may_not_send_it(method: Method) -> None:
    wrong = Direction.TO_CLIENT if method.direction is Direction.TO_DAEMON else Direction.TO_DAEMON
    if method.kind is Kind.REQUEST:
        assert refusal([0, 1, method.name, []], wrong).status == NtStatus.NOT_IMPLEMENTED
    else:
        with pytest.raises(WireError, match=f"there is no notification '{method.name}'"):
            decode(msgpack.packb([2, method.name, []]), wrong)


@pytest.mark.parametrize(
    ("name", "params", "sentence"),
    [
        ("nothing", [], "there is no notification 'nothing'"),
        ("ping", [], "there is no notification 'ping'"),
        (b"cancel", [1], "there is no notification named by a bytes"),
        (None, [1], "there is no notification named by a NoneType"),
        ("cancel", [], r"cancel has 0 values where it takes 1 \(msgid\)"),
        ("cancel", [1 << 32], "cancel: 'msgid' must be an unsigned 32-bit integer"),
        ("cancel", [True], "cancel: 'msgid' must be an unsigned 32-bit integer, not True"),
        ("cancel", {}, "cancel must be an array, not a map of 0"),
    ],
)
def test_a_bad_notification_ends_the_stream(name: object, params: object, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        decode(msgpack.packb([2, name, params]))


WRONG_SHAPES: list[object] = [
    None, True, 0, 1.5, "text", b"bytes", {}, {"a": 1}, [], [0], [3, 1, None, None], [-1, 1, "ping", []],
    [0, 1, "ping"], [0, 1, "ping", [], []], [1, 1, None], [2, "cancel"], [2, "cancel", [1], 1], ["0", 1, "ping", []],
    [None, 1, "ping", []], [[], 1, "ping", []], [False, 1, "ping", []], [True, 1, None, []], [0.0, 1, "ping", []],
    [1.0, 1, None, []], [2.0, "cancel", [1]],
]  # fmt: skip


@pytest.mark.parametrize("frame", WRONG_SHAPES, ids=repr)
def test_what_is_no_message_ends_the_stream(frame: object) -> None:
    with pytest.raises(WireError, match="a frame must be"):
        decode(msgpack.packb(frame))


@pytest.mark.parametrize("msgid", [-1, 1 << 32, True, None, "1", 1.0, [1]])
@pytest.mark.parametrize("head", [0, 1])
def test_a_msgid_is_an_unsigned_32_bit_integer(head: int, msgid: object) -> None:
    frame = [0, msgid, "ping", []] if head == 0 else [1, msgid, None, []]
    with pytest.raises(WireError, match="a msgid must be"):
        decode(msgpack.packb(frame))


@pytest.mark.parametrize(
    "error", [False, 5, "text", [], [1], [1, "a", 2], ["1", "a"], [1, b"a"], [True, "a"], [-1, "a"], [1 << 32, "a"], {}]
)
def test_a_responses_error_is_nil_or_a_status_and_a_sentence(error: object) -> None:
    with pytest.raises(WireError, match="a response's error must be"):
        decode(msgpack.packb([1, 1, error, None]), Direction.TO_CLIENT)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [(b"\xc1", "0xC1"), (b"\xc0", "a frame must be"), (b"\x93\x02\xa1x\x90", "no notification 'x'")],
)
def test_after_a_wire_error_nothing_more_is_decoded(wrong: bytes, sentence: str) -> None:
    decoder = FrameDecoder(Direction.TO_DAEMON)
    messages = decoder.feed(encode_request(1, PING) + wrong + encode_request(2, PING))
    assert next(messages) == Request(1, PING, ())
    with pytest.raises(WireError, match=sentence):
        next(messages)
    for _ in range(2):
        with pytest.raises(WireError, match=sentence):
            list(decoder.feed(encode_request(3, PING)))


# ---- what a response means


def test_a_good_response_is_checked_against_its_method() -> None:
    assert check_result(PING, Response(1, None, [])) == ()
    assert check_result(PACKET_SEND, Response(1, None, [0, b"done"])) == (0, b"done")


@pytest.mark.parametrize("result", [None, [], [0], [0, "text"], [0, b"", 1], [-1, b""], {}])
def test_a_malformed_result_is_the_peers_fault(result: object) -> None:
    with pytest.raises(WireError, match=r"the result of packet\.send"):
        check_result(PACKET_SEND, Response(1, None, result))


def test_an_error_response_is_a_refusal_with_its_status() -> None:
    [response] = decode(encode_error(1, NtStatus.NO_SUCH_DEVICE, "nobody offers it"), Direction.TO_CLIENT)
    assert isinstance(response, Response)
    with pytest.raises(Refused) as refused:
        check_result(PING, response)
    assert refused.value.status is NtStatus.NO_SUCH_DEVICE
    assert refused.value.message == "nobody offers it"


def test_a_status_this_side_does_not_know_is_unsuccessful_and_keeps_its_number() -> None:
    with pytest.raises(Refused) as refused:
        check_result(PING, Response(1, (0xC0FFEE00, "odd"), None))
    assert refused.value.status is NtStatus.UNSUCCESSFUL
    assert refused.value.message == "odd (0xC0FFEE00)"


def test_an_errors_sentence_is_cut_to_1024_characters() -> None:
    [response] = decode(encode_error(1, NtStatus.UNSUCCESSFUL, "ä" * 5000), Direction.TO_CLIENT)
    assert response == Response(1, (NtStatus.UNSUCCESSFUL, "ä" * 1024), None)


def test_both_sides_may_send_what_goes_both_ways() -> None:
    for sender in BOTH:
        assert decode(encode_notification(CHANNEL_WINDOW, 1, 2, 3), sender) == [Notification(CHANNEL_WINDOW, (1, 2, 3))]
        assert decode(encode_request(9, PING), sender) == [Request(9, PING, ())]
    assert decode(encode_notification(GOODBYE, 0, "bye"), Direction.TO_CLIENT) == [Notification(GOODBYE, (0, "bye"))]
    closed = encode_notification(CHANNEL_CLOSED, 4, NtStatus.CANCELLED, "")
    assert decode(closed, Direction.TO_CLIENT) == [Notification(CHANNEL_CLOSED, (4, 0xC0000120, ""))]
    assert decode(encode_request(1, HELLO, 1, 1, "c"), Direction.TO_DAEMON) == [Request(1, HELLO, (1, 1, "c"))]

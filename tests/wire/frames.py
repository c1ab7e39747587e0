"""Frames for the tests of the wire: legal messages of every kind, and a decoder run over bytes in given pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from emulator.wire.codec import (
    BadRequest,
    FrameDecoder,
    FrameLimits,
    Message,
    Notification,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
)
from emulator.wire.fields import Binary, FieldType, Flag, Maybe, Text, Unsigned
from emulator.wire.schema import METHODS, Direction, Kind, Method

MSGIDS = st.integers(0, 0xFFFFFFFF)


def decode(data: bytes, sender: Direction = Direction.TO_DAEMON, limits: FrameLimits | None = None) -> list[Message]:
    """Every message of some bytes, fed whole."""
    return list(FrameDecoder(sender, limits).feed(data))


def decode_pieces(decoder: FrameDecoder, pieces: Iterable[bytes]) -> list[Message]:
    """Every message of some bytes, fed piece by piece."""
    return [message for piece in pieces for message in decoder.feed(piece)]


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The bytes cut at these offsets; empty pieces included."""
    edges = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def methods(sender: Direction, kind: Kind) -> list[Method]:
    """The methods of one kind that one side may send."""
    return [row for row in METHODS if row.kind is kind and row.direction in (sender, Direction.BOTH)]


def values_of(field: FieldType) -> st.SearchStrategy[Any]:
    """Legal values of a field, short ones for the long types."""
    match field:
        case Unsigned(bits):
            return st.integers(0, (1 << bits) - 1)
        case Flag():
            return st.booleans()
        case Text(most):
            return st.text(max_size=min(most, 20))
        case Binary(most, exactly=True):
            return st.binary(min_size=most, max_size=most)
        case Binary(most, unit=unit):
            return st.binary(max_size=min(most, 64) // unit).map(lambda value: value * unit)
        case Maybe(inner):
            return st.none() | values_of(inner)
    raise AssertionError(f"no values known for {field}")


def arguments_of(method: Method) -> st.SearchStrategy[tuple[Any, ...]]:
    """Legal arguments of a method."""
    return st.tuples(*(values_of(field.type) for field in method.params))


@st.composite
def framed_messages(draw: st.DrawFn, sender: Direction) -> tuple[bytes, Message]:
    """A frame that ``sender`` may send, and the message it decodes to."""
    match draw(st.sampled_from(["request", "notification", "response", "error", "bad"])):
        case "request":
            method = draw(st.sampled_from(methods(sender, Kind.REQUEST)))
            msgid, args = draw(MSGIDS), draw(arguments_of(method))
            return encode_request(msgid, method, *args), Request(msgid, method, args)
        case "notification":
            method = draw(st.sampled_from(methods(sender, Kind.NOTIFICATION)))
            args = draw(arguments_of(method))
            return encode_notification(method, *args), Notification(method, args)
        case "response":
            msgid = draw(MSGIDS)
            result = draw(st.lists(st.none() | st.booleans() | st.integers(0, 1 << 40) | st.binary(max_size=40)))[:40]
            return encode_response(msgid, *result), Response(msgid, None, result)
        case "error":
            msgid, status, text = draw(MSGIDS), draw(st.integers(0, 0xFFFFFFFF)), draw(st.text(max_size=40))
            return encode_error(msgid, status, text), Response(msgid, (status, text), None)
    msgid = draw(MSGIDS)
    [bad] = decode(wrong := encode_request(msgid, draw(st.sampled_from(methods(sender, Kind.REQUEST))), [[]]), sender)
    assert isinstance(bad, BadRequest)
    return wrong, bad


def conversations(sender: Direction) -> st.SearchStrategy[Sequence[tuple[bytes, Message]]]:
    """Several frames after each other."""
    return st.lists(framed_messages(sender), max_size=6)

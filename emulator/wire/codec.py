"""Frames to checked messages, and back. Every limit of decoding and every failure of it is here.

A frame is one MessagePack-RPC message; nothing else delimits it. Before anything is built from it, a resumable scan
walks its bytes: it finds where the frame ends, counts elements and depth, and refuses ext types. Only a frame that
passed is unpacked. So a frame of N bytes never costs more than 8 N bytes of memory (beyond a few KiB that any frame
costs), and a frame that arrives byte by byte is never walked twice.

Two kinds of failure come out. ``WireError``: the stream cannot be trusted any more, and the session ends.
``BadRequest``: a request that is well framed but names an unknown method or has wrong arguments; it gets an error as
its response, and the session goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from emulator.status import NtStatus, Refused
from emulator.wire.fields import FieldError, check_fields
from emulator.wire.scanner import FrameLimits, FrameScanner, WireError
from emulator.wire.schema import BY_NAME, Direction, Kind, Method

__all__ = [
    "BadRequest",
    "FrameDecoder",
    "FrameLimits",
    "FrameScanner",
    "Message",
    "Notification",
    "Request",
    "Response",
    "WireError",
    "check_result",
    "encode_error",
    "encode_notification",
    "encode_request",
    "encode_response",
]


class Request(NamedTuple):
    """``[0, msgid, method, params]``, checked."""

    msgid: int
    method: Method
    args: tuple[Any, ...]


class Response(NamedTuple):
    """``[1, msgid, error, result]``; the result is still to be checked against the request's method."""

    msgid: int
    error: tuple[int, str] | None
    result: object


class Notification(NamedTuple):
    """``[2, method, params]``, checked."""

    method: Method
    args: tuple[Any, ...]


class BadRequest(NamedTuple):
    """A request that can only be answered with this error."""

    msgid: int
    status: NtStatus
    message: str


Message = Request | Response | Notification | BadRequest


class FrameDecoder:
    """One direction of a connection: bytes in, checked messages out. Any failure is a WireError, and final."""

    def __init__(self, sender: Direction, limits: FrameLimits | None = None) -> None:
        self._limits = limits or FrameLimits()
        self._forbidden = Direction.TO_CLIENT if sender is Direction.TO_DAEMON else Direction.TO_DAEMON
        self._buffer = bytearray()
        self._scanner = FrameScanner(self._limits)
        self._failure = ""

    @property
    def has_partial_frame(self) -> bool:
        """Whether bytes of an unfinished frame are held."""
        return bool(self._buffer)

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """Take received bytes and yield each message they complete; to be exhausted before the next call.

        After one WireError nothing is decoded any more: every later call raises it again.
        """
        if self._failure:
            raise WireError(self._failure)
        # Whole frames are taken where they lie; only an unfinished one is kept.
        source: bytes | bytearray | memoryview = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        start = 0
        try:
            while (end := self._scanner.find_end(source)) is not None:
                frame, start = source[start:end], end
                yield self._parse(self._unpack(frame))
        except WireError as error:
            self._failure = str(error)
            raise
        finally:
            self._keep_rest(source, start)

    def _keep_rest(self, source: bytes | bytearray | memoryview, start: int) -> None:
        """What is behind the last whole frame waits for its end."""
        if source is self._buffer:
            if start:
                del self._buffer[:start]
        else:
            self._buffer += source[start:]
        self._scanner.rebase(start)

    @staticmethod
    def _unpack(frame: bytes | bytearray | memoryview) -> object:
        try:
            return msgpack.unpackb(frame)
        except (ValueError, TypeError, RecursionError) as error:
            # msgpack's own errors, and bad UTF-8, are all ValueErrors; an unhashable map key is a TypeError.
            raise WireError(f"a frame cannot be decoded: {str(error) or type(error).__name__}") from None

    def _parse(self, frame: object) -> Message:
        # The type is checked first, since False and 0.0 are equal to 0.
        if type(frame) is not list or not frame or type(frame[0]) is not int:
            raise WireError("a frame must be a MessagePack-RPC array: [0, msgid, method, params] or its siblings")
        match frame:
            case [0, msgid, method, params]:
                return self._parse_request(_checked_msgid(msgid), method, params)
            case [1, msgid, error, result]:
                return Response(_checked_msgid(msgid), _checked_error(error), result)
            case [2, method, params]:
                return self._parse_notification(method, params)
        raise WireError("a frame must be [0, msgid, method, params], [1, msgid, error, result] or [2, method, params]")

    def _parse_request(self, msgid: int, name: object, params: object) -> Request | BadRequest:
        method = BY_NAME.get(name) if type(name) is str else None
        if method is None or method.kind is not Kind.REQUEST or method.direction is self._forbidden:
            return BadRequest(msgid, NtStatus.NOT_IMPLEMENTED, f"there is no request {_named(name)}")
        try:
            return Request(msgid, method, check_fields(method.params, params, method.name))
        except FieldError as error:
            return BadRequest(msgid, NtStatus.INVALID_PARAMETER, str(error))

    def _parse_notification(self, name: object, params: object) -> Notification:
        method = BY_NAME.get(name) if type(name) is str else None
        if method is None or method.kind is not Kind.NOTIFICATION or method.direction is self._forbidden:
            raise WireError(f"there is no notification {_named(name)}")
        try:
            return Notification(method, check_fields(method.params, params, method.name))
        except FieldError as error:
            raise WireError(str(error)) from None


def _named(name: object) -> str:
    return repr(name[:64]) if isinstance(name, str) else f"named by a {type(name).__name__}"


def _checked_msgid(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 0xFFFFFFFF:
        raise WireError("a msgid must be an unsigned 32-bit integer")
    return value


def _checked_error(value: object) -> tuple[int, str] | None:
    match value:
        case None:
            return None
        case [int(status), str(message)] if type(status) is int and 0 <= status <= 0xFFFFFFFF:
            return status, message
    raise WireError("a response's error must be nil or [status, message]")


def check_result(method: Method, response: Response) -> tuple[Any, ...]:
    """The checked results of a response to ``method``; raises Refused for an error, WireError for a malformed one."""
    if response.error is not None:
        status, message = response.error
        try:
            known = NtStatus(status)
        except ValueError:
            known, message = NtStatus.UNSUCCESSFUL, f"{message} (0x{status:08X})"
        raise Refused(known, message)
    try:
        return check_fields(method.result, response.result, f"the result of {method.name}")
    except FieldError as error:
        raise WireError(str(error)) from None


_pack = msgpack.Packer(use_bin_type=True).pack


def encode_request(msgid: int, method: Method, *args: object) -> bytes:
    """One request as bytes."""
    return _packed([0, msgid, method.name, args])


def encode_response(msgid: int, *result: object) -> bytes:
    """A good response as bytes."""
    return _packed([1, msgid, None, result])


def encode_error(msgid: int, status: int, message: str) -> bytes:
    """A response that carries an error, as bytes."""
    return _packed([1, msgid, [status, message[:1024]], None])


def encode_notification(method: Method, *args: object) -> bytes:
    """One notification as bytes."""
    return _packed([2, method.name, args])


def _packed(frame: list[object]) -> bytes:
    packed: bytes = _pack(frame)
    return packed

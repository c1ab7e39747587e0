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
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from emulator.status import NtStatus, PeerViolation, Refused
from emulator.wire.fields import FieldError, check_fields
from emulator.wire.schema import BY_NAME, Direction, Kind, Method


class WireError(PeerViolation):
    """The peer broke the wire protocol. The session ends; the text goes to the peer and to the log."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one frame may cost."""

    # The largest legal request carries a ring packet (524,280 bytes) and its page list (524,288 bytes).
    frame_bytes: int = 1_200_000
    # The widest row of the schema has 8 values; the envelope adds 5. The rest is room to grow.
    elements: int = 64
    # Envelope 1, params 2; error and result arrays 2. The rest is room to grow.
    depth: int = 4


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

# For each first byte: (what follows, its number). A fixed size counts the first byte too.
_FIXED, _SIZED, _ITEMS, _ITEMS_SIZED, _EXT, _NEVER = range(6)


def _classify(first: int) -> tuple[int, int, int]:
    """(class, size or size-field bytes or item count, items per unit) of a MessagePack first byte."""
    if first <= 0x7F or first >= 0xE0:
        return _FIXED, 1, 0
    if first <= 0x8F:
        return _ITEMS, first & 0x0F, 2
    if first <= 0x9F:
        return _ITEMS, first & 0x0F, 1
    if first <= 0xBF:
        return _FIXED, 1 + (first & 0x1F), 0
    sizes = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
    sizes |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    if first in sizes:
        return _FIXED, sizes[first], 0
    if first in (0xC4, 0xC5, 0xC6):
        return _SIZED, 1 << (first - 0xC4), 0
    if first in (0xD9, 0xDA, 0xDB):
        return _SIZED, 1 << (first - 0xD9), 0
    if first in (0xDC, 0xDD):
        return _ITEMS_SIZED, 2 << (first - 0xDC), 1
    if first in (0xDE, 0xDF):
        return _ITEMS_SIZED, 2 << (first - 0xDE), 2
    return (_NEVER, 0, 0) if first == 0xC1 else (_EXT, 0, 0)


_CLASSES = tuple(_classify(first) for first in range(256))


class FrameScanner:
    """Finds where frames end, incrementally, and enforces ``FrameLimits`` before anything is built."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._start_frame(0)

    def _start_frame(self, start: int) -> None:
        self._start = start
        self._next = start  # offset of the next element's first byte
        self._elements = 0
        self._open = [1]  # items still missing, for each open array or map; the frame itself is one item

    def rebase(self, dropped: int) -> None:
        """The buffer lost its first ``dropped`` bytes."""
        self._start -= dropped
        self._next -= dropped

    def find_end(self, buffer: bytearray) -> int | None:
        """The offset just behind the current frame, or None while bytes are missing; raises WireError."""
        limits, open_items, size = self._limits, self._open, len(buffer)
        position = self._next
        while position < size:
            kind, number, per_unit = _CLASSES[buffer[position]]
            items = 0
            if kind == _FIXED:
                after = position + number
            elif kind == _ITEMS:
                after, items = position + 1, number * per_unit
            elif kind in (_SIZED, _ITEMS_SIZED):
                after = position + 1 + number
                if after > size:
                    break
                value = int.from_bytes(buffer[position + 1 : after], "big")
                if kind == _SIZED:
                    after += value
                else:
                    items = value * per_unit
            else:
                raise WireError(self._refusal(kind, buffer[position]))
            self._elements += 1
            if self._elements + items > limits.elements:
                raise WireError(f"a frame holds more than {limits.elements} MessagePack elements")
            if after - self._start > limits.frame_bytes:
                raise WireError(f"a frame is longer than {limits.frame_bytes} bytes")
            open_items[-1] -= 1
            if items:
                if len(open_items) > limits.depth:
                    raise WireError(f"a frame nests arrays or maps deeper than {limits.depth}")
                open_items.append(items)
            while not open_items[-1]:
                open_items.pop()
                if not open_items:
                    if after > size:
                        # The last element's bytes are still to come: look again when they are.
                        open_items.append(1)
                        self._elements -= 1
                        self._next = position
                        return None
                    self._start_frame(after)
                    return after
            position = after
        self._next = position
        return None

    @staticmethod
    def _refusal(kind: int, first: int) -> str:
        if kind == _EXT:
            return f"MessagePack ext types are not part of this protocol (byte 0x{first:02X})"
        return "the bytes are not MessagePack (0xC1 never occurs in it)"


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
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while (end := self._scanner.find_end(buffer)) is not None:
                frame, start = buffer[start:end], end
                yield self._parse(self._unpack(frame))
        except WireError as error:
            self._failure = str(error)
            raise
        finally:
            if start:
                del buffer[:start]
                self._scanner.rebase(start)

    @staticmethod
    def _unpack(frame: bytearray) -> object:
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

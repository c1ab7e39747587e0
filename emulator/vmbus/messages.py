"""The VMBus control messages 1..29: one numbered table of every layout, parse and pack.

A message is an 8-byte header (type, padding) and a little-endian structure, at most 240 bytes in all. GUIDs travel in
Windows order.

A receiver processes a message only if its type exists in this direction, the connection has reached the type's minimum
version (with no connection, only types without one pass), one of the needed features was granted, and the bytes hold
the structure. Of several layouts the newest that fits wins. Trailing bytes are allowed, and are data in 8 and 9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast
from uuid import UUID

from emulator.status import Misuse
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.message_types import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Direction,
    FeatureFlags,
    Message,
    Negotiated,
    Version,
)


class Layout:
    """One row of the table: a message type in one of its layouts."""

    def __init__(
        self,
        number: int,
        message: type[Message],
        direction: Direction,
        body: str,
        minimum: Version | None,
        features: FeatureFlags = FeatureFlags.NONE,
        tail: bool = False,
    ) -> None:
        self.number, self.message, self.direction, self.minimum = number, message, direction, minimum
        self.features = features  # any one of them is enough
        self.tail = tail  # whatever follows the structure is the last field
        self._struct = struct.Struct("<I4x" + body)
        self.size = self._struct.size
        names = [f.name for f in fields(message)]
        self._guids = tuple(f.type == "UUID" for f in fields(message))
        self._names = tuple(names[:-1] if tail else names)

    def is_legal(self, negotiated: Negotiated | None) -> bool:
        """Whether a connection that speaks this (None: no connection) may carry this layout."""
        if self.minimum is None:
            return True
        if negotiated is None or negotiated.version < self.minimum:
            return False
        return not self.features or bool(self.features & negotiated.features)

    def unpack(self, payload: bytes) -> Message:
        """The message in bytes that are known to be long enough."""
        values: list[Any] = list(self._struct.unpack_from(payload)[1:])
        values = [UUID(bytes_le=v) if guid else v for v, guid in zip(values, self._guids, strict=False)]
        if self.tail:
            values.append(payload[self.size :])
        return cast("Callable[..., Message]", self.message)(*values)

    def pack(self, message: Message) -> bytes:
        """The bytes of a message; reserved fields are zero."""
        values = [getattr(message, name) for name in self._names]
        values = [v.bytes_le if guid else v for v, guid in zip(values, self._guids, strict=False)]
        try:
            image = self._struct.pack(self.number, *values)
        except struct.error as error:
            raise Misuse(f"{type(message).__name__} cannot be packed: {error}") from error
        return image + cast("m.GpadlHeader | m.GpadlBody", message).ranges if self.tail else image


_G, _H = Direction.GUEST_TO_HOST, Direction.HOST_TO_GUEST
_ANY, _WIN7, _WIN10, _RS3, _IRON, _COPPER = (
    Version.V0_13,
    Version.V1_1,
    Version.V4_0,
    Version.V4_1,
    Version.V5_3,
    Version.V6_0,
)
_SIGNAL = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS | FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION
_MODIFY, _PAUSE = FeatureFlags.MODIFY_CONNECTION, FeatureFlags.PAUSE_RESUME

# Longer layouts stand before shorter ones of the same number: the first that fits is taken.
MESSAGES: tuple[Layout, ...] = (
    Layout(1, m.OfferChannel, _H, "16s16s16xHH120sHHIBBHI", _ANY),
    Layout(2, m.RescindChannelOffer, _H, "I", _ANY),
    Layout(3, m.RequestOffers, _G, "", _ANY),
    Layout(4, m.AllOffersDelivered, _H, "", _ANY),
    Layout(5, m.OpenChannel2, _G, "IIIII120sIHH", _COPPER, _SIGNAL),
    Layout(5, m.OpenChannel, _G, "IIIII120s", _ANY),
    Layout(6, m.OpenChannelResult, _H, "III", _ANY),
    Layout(7, m.CloseChannel, _G, "I", _ANY),
    Layout(8, m.GpadlHeader, _G, "IIHH", _ANY, tail=True),
    Layout(9, m.GpadlBody, _G, "II", _ANY, tail=True),
    Layout(10, m.GpadlCreated, _H, "III", _ANY),
    Layout(11, m.GpadlTeardown, _G, "II", _ANY),
    Layout(12, m.GpadlTorndown, _H, "I", _ANY),
    Layout(13, m.RelIdReleased, _G, "I", _ANY),
    Layout(14, m.InitiateContact2, _G, "IIQQQ16s", None),
    Layout(14, m.InitiateContact, _G, "IIQQQ", None),
    Layout(15, m.VersionResponse3, _H, "BBxxII4xQQ", None),
    Layout(15, m.VersionResponse2, _H, "BBxxII", None),
    Layout(15, m.VersionResponse, _H, "BBxxI", None),
    Layout(16, m.Unload, _G, "", _ANY),
    Layout(17, m.UnloadComplete, _H, "", _WIN7),
    Layout(18, m.OpenReservedChannel, _G, "IIIII", _WIN10),
    Layout(19, m.CloseReservedChannel, _G, "III", None),
    Layout(20, m.CloseReservedChannelResponse, _H, "I", _WIN10),
    Layout(21, m.TlConnectRequest2, _G, "16s16s16s", Version.V5_2),
    Layout(21, m.TlConnectRequest, _G, "16s16s", _WIN10),
    Layout(22, m.ModifyChannel, _G, "II", _RS3),
    Layout(23, m.TlConnectRequestResult, _H, "16s16sI", _RS3),
    Layout(24, m.ModifyChannelResponse, _H, "II", _IRON),
    Layout(25, m.ModifyConnection, _G, "QQ", _COPPER, _MODIFY),
    Layout(26, m.ModifyConnectionResponse, _H, "B", _COPPER, _MODIFY),
    Layout(27, m.Pause, _G, "", _COPPER, _PAUSE),
    Layout(28, m.PauseResponse, _H, "", _COPPER, _PAUSE),
    Layout(29, m.Resume, _G, "", _COPPER, _PAUSE),
)

_BY_MESSAGE = {row.message: row for row in MESSAGES}
_TYPE = struct.Struct("<I")


def message_number(payload: bytes) -> int | None:
    """The type in a message's header; None when the bytes cannot hold a header."""
    return int(_TYPE.unpack_from(payload)[0]) if len(payload) >= HEADER_BYTES else None


def parse_message_untrusted(payload: bytes, negotiated: Negotiated | None, direction: Direction) -> Message:
    """The message in these bytes, as legal on a connection that speaks ``negotiated`` (None: not connected).

    Raises BusError, and nothing else, for anything that must be dropped (rule 2.1).
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise BusError(BusFault.MESSAGE_TOO_LARGE, f"a message of {len(payload)} bytes")
    number = message_number(payload)
    if number is None:
        raise BusError(BusFault.MESSAGE_TOO_SMALL, f"a message of {len(payload)} bytes has no whole header")
    legal = [
        row for row in MESSAGES if row.number == number and row.direction is direction and row.is_legal(negotiated)
    ]
    if not legal:
        speaks = f"a {negotiated.version!s} connection" if negotiated else "no connection"
        raise BusError(BusFault.INVALID_MESSAGE_TYPE, f"message type {number}, {direction.value}, on {speaks}")
    for row in legal:
        if len(payload) >= row.size:
            return row.unpack(payload)
    needed = legal[-1].size
    raise BusError(BusFault.MESSAGE_TOO_SMALL, f"message type {number} needs {needed} bytes, not {len(payload)}")


def pack_message(message: Message) -> bytes:
    """The bytes of a message, header included. Raises Misuse for a field out of range or more than 240 bytes."""
    image = _BY_MESSAGE[type(message)].pack(message)
    if len(image) > MAX_PAYLOAD_BYTES:
        raise Misuse(f"{type(message).__name__} of {len(image)} bytes does not fit {MAX_PAYLOAD_BYTES}")
    return image

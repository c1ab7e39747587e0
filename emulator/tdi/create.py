"""The extended attributes of a create request: which of the three kinds of file it opens, and with what.

An address is opened with one attribute named ``TransportAddress``, a connection endpoint with ``ConnectionContext``, a
control channel with none. A value begins right behind its name and the zero byte that follows it, on no particular
boundary. The length given for the whole list is an upper bound: clients round it up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind
from emulator.tdi.structures import Bytes, SocketAddress, parse_transport_address_untrusted

TRANSPORT_ADDRESS = b"TransportAddress"
CONNECTION_CONTEXT = b"ConnectionContext"

MAX_ATTRIBUTE_BYTES = 65_536
"""Longest list looked at, which is what the value length of one attribute can express."""

_HEADER = struct.Struct("<IBBH")


class OpenAddress(NamedTuple):
    """The create opens an address object."""

    local: SocketAddress


class OpenConnection(NamedTuple):
    """The create opens a connection endpoint.

    ``context`` is the client's own, 8 or 4 bytes, never interpreted (CR10).
    """

    context: bytes


class OpenControl(NamedTuple):
    """The create opens a control channel."""


CreateRequest: TypeAlias = OpenAddress | OpenConnection | OpenControl

FILE_KINDS = {OpenAddress: FileKind.ADDRESS, OpenConnection: FileKind.CONNECTION, OpenControl: FileKind.CONTROL}


class _Attribute(NamedTuple):
    name: bytes
    value: bytes | None
    """None when it would lie past the end of the list."""


def parse_create_untrusted(
    attributes: Bytes | None, *, pointer_bytes: int = 8, unknown_status: NtStatus = NtStatus.INVALID_EA_NAME
) -> CreateRequest:
    """What a create request with this attribute list opens. Windows: FILE_FULL_EA_INFORMATION.

    Raises Refused: INVALID_PARAMETER for both names at once, NONEXISTENT_EA_ENTRY for a value that is missing, short or
    no address, ``unknown_status`` when no name is known (CR4), EA_LIST_INCONSISTENT for a list that does not hold
    together.
    """
    if not attributes:
        return OpenControl()
    if len(attributes) > MAX_ATTRIBUTE_BYTES:
        text = f"an attribute list has at most {MAX_ATTRIBUTE_BYTES} bytes, not {len(attributes)}"
        raise Refused(NtStatus.EA_TOO_LARGE, text, rule="CR2")
    found: dict[bytes, bytes | None] = {}
    for attribute in _walk(bytes(attributes)):
        found.setdefault(attribute.name, attribute.value)
    if TRANSPORT_ADDRESS in found and CONNECTION_CONTEXT in found:
        text = "a create names TransportAddress or ConnectionContext, not both: open the two files one by one"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="CR4")
    if TRANSPORT_ADDRESS in found:
        return OpenAddress(_address_value(found[TRANSPORT_ADDRESS]))
    if CONNECTION_CONTEXT in found:
        return OpenConnection(_context_value(found[CONNECTION_CONTEXT], pointer_bytes))
    name = next(iter(found))
    text = (
        f"the attribute {name[:32]!r} is unknown: "
        "use TransportAddress or ConnectionContext, or no list for a control channel"
    )
    raise Refused(unknown_status, text, rule="CR4")


def _walk(data: bytes) -> Iterator[_Attribute]:
    """The attributes of a list; each must begin behind the one before, so a walk ends."""
    at = 0
    while True:
        name_at = at + _HEADER.size
        if name_at > len(data):
            raise Refused(
                NtStatus.EA_LIST_INCONSISTENT, f"the attribute at byte {at} has no room for its header", rule="CR2"
            )
        next_offset, _flags, name_length, value_length = _HEADER.unpack_from(data, at)
        value_at = name_at + name_length + 1
        if name_at + name_length > len(data):
            raise Refused(
                NtStatus.EA_LIST_INCONSISTENT, f"the name of the attribute at byte {at} ends past the list", rule="CR2"
            )
        fits = value_at + value_length <= len(data)
        yield _Attribute(data[name_at : value_at - 1], data[value_at : value_at + value_length] if fits else None)
        if next_offset == 0:
            return
        if at + next_offset < value_at + value_length:
            raise Refused(
                NtStatus.EA_LIST_INCONSISTENT, f"the attribute at byte {at} overlaps the next one", rule="CR2"
            )
        at += next_offset


def _address_value(value: bytes | None) -> SocketAddress:
    if not value:
        text = "TransportAddress has no value, or it ends past the list: an IPv4 address has 22 bytes"
        raise Refused(NtStatus.NONEXISTENT_EA_ENTRY, text, rule="CR4")
    try:
        return parse_transport_address_untrusted(value)
    except Refused as bad:
        raise Refused(NtStatus.NONEXISTENT_EA_ENTRY, f"TransportAddress: {bad.message}", rule="CR4") from bad


def _context_value(value: bytes | None, pointer_bytes: int) -> bytes:
    if value is None or len(value) < pointer_bytes:
        text = f"ConnectionContext has a value of {pointer_bytes} bytes"
        raise Refused(NtStatus.NONEXISTENT_EA_ENTRY, text, rule="CR4")
    return value[:pointer_bytes]

"""TDI_QUERY_INFORMATION: what a device, or an address on it, says about itself.

Which question may be asked of which kind of file is a table; a missing kind is the refusal. All answers are about the
whole provider, except what an address says about itself (Q9). The three answers that name the datagram limit come from
one setting, the one sends are checked against, so they agree (S9).
"""

from __future__ import annotations

from typing import NamedTuple

from emulator.status import NtStatus, Refused
from emulator.tdi.address import AddressObject, OpenFile
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_structures import pack_connection_info
from emulator.tdi.constants import FileKind, QueryType, ServiceFlags
from emulator.tdi.device import Device
from emulator.tdi.profile import QueryOverflow
from emulator.tdi.structures import (
    ProviderInfo,
    pack_address_info,
    pack_data_link_address,
    pack_datagram_info,
    pack_max_datagram_info,
    pack_transport_address,
)

_CONTROL = frozenset({FileKind.CONTROL})
_ANY = frozenset({FileKind.CONTROL, FileKind.ADDRESS, FileKind.CONNECTION})

_ASKED_OF: dict[QueryType, frozenset[FileKind]] = {
    QueryType.BROADCAST_ADDRESS: _CONTROL,
    QueryType.PROVIDER_INFO: _CONTROL,
    QueryType.ADDRESS_INFO: frozenset({FileKind.ADDRESS, FileKind.CONNECTION}),
    QueryType.CONNECTION_INFO: frozenset({FileKind.CONNECTION}),
    QueryType.PROVIDER_STATISTICS: _CONTROL,
    QueryType.DATAGRAM_INFO: _ANY,  # Q8: clients ask these two of address files and fail without an answer
    QueryType.DATA_LINK_ADDRESS: _CONTROL,
    QueryType.NETWORK_ADDRESS: _CONTROL,
    QueryType.MAX_DATAGRAM_INFO: _ANY,
}


class QueryResult(NamedTuple):
    """The answer: ``data`` is what to write into the client's buffer, ``information`` how many bytes that is."""

    status: NtStatus
    information: int
    data: bytes
    message: str = ""
    rule: str | None = None


def answer(device: Device, file: OpenFile, query_type: int, buffer_bytes: int | None) -> QueryResult:
    """Answer one query into a buffer of ``buffer_bytes`` (None: there is no buffer). Never pends (Q1)."""
    try:
        image = _image(device, file, query_type, buffer_bytes)
    except Refused as refusal:
        return QueryResult(refusal.status, 0, b"", refusal.message, refusal.rule)
    room = buffer_bytes or 0
    if len(image) <= room:
        return QueryResult(NtStatus.SUCCESS, len(image), image)
    text = f"the answer has {len(image)} bytes and the buffer {room}"
    if device.profile.query_overflow is QueryOverflow.TOO_SMALL:
        return QueryResult(NtStatus.BUFFER_TOO_SMALL, 0, b"", text, "Q2")
    return QueryResult(NtStatus.BUFFER_OVERFLOW, room, image[:room], text, "Q2")


def _image(device: Device, file: OpenFile, query_type: int, buffer_bytes: int | None) -> bytes:
    """The whole answer, or a refusal."""
    profile = device.profile
    if file.closing:
        raise Refused(
            profile.after_cleanup_status, "the file has been cleaned up and answers no more queries", rule="CL7"
        )
    if buffer_bytes is None:
        raise Refused(profile.null_query_buffer_status, "a query needs a buffer for its answer", rule="Q3")
    if buffer_bytes < 0:
        raise Refused(NtStatus.INVALID_PARAMETER, f"a buffer length is not negative: {buffer_bytes}", rule="Q2")
    try:
        kind = QueryType(query_type)
    except ValueError:
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"there is no query type {query_type}", rule="Q6") from None
    asked_of = _ASKED_OF.get(kind)
    if asked_of is None:
        raise Refused(
            NtStatus.NOT_IMPLEMENTED, f"{kind.name} is for NetBIOS providers, and {device.network} is none", rule="Q6"
        )
    if file.kind not in asked_of:
        names = " or ".join(sorted(f"{allowed.name.lower()}" for allowed in asked_of))
        text = f"{kind.name} is asked of a {names} file, not of a {file.kind.name.lower()} file"
        raise Refused(profile.wrong_query_file_status, text, rule="Q5")
    if isinstance(file, AddressObject) and kind is QueryType.ADDRESS_INFO:
        return pack_address_info(device.table.activity(file.local), file.local)
    if isinstance(file, ConnectionEndpoint) and kind is QueryType.CONNECTION_INFO:
        return pack_connection_info(file)
    if isinstance(file, ConnectionEndpoint) and kind is QueryType.ADDRESS_INFO:
        if file.address is None:
            text = "the endpoint is not associated with an address: associate it first"
            raise Refused(NtStatus.INVALID_CONNECTION, text, rule="C5")
        return pack_address_info(device.table.activity(file.address.local), file.address.local)
    return _provider_image(device, kind)


def _provider_info(device: Device, limit: int) -> ProviderInfo:
    """What the device can do with datagrams and with connections (6.1, 6.2)."""
    profile = device.profile
    connections = None if device.connections is None else device.connections.profile
    flags = profile.service_flags if device.carries_datagrams else ServiceFlags.NONE
    lookahead = limit if profile.maximum_lookahead_bytes is None else profile.maximum_lookahead_bytes
    if connections is None:
        return ProviderInfo(limit, flags, profile.minimum_lookahead_bytes, lookahead, device.start_filetime)
    return ProviderInfo(
        limit,
        flags | connections.service_flags,
        profile.minimum_lookahead_bytes,
        lookahead or connections.receive_buffer_bytes,
        device.start_filetime,
        connections.max_send_bytes,
        connections.max_user_data_bytes,
    )


def _provider_image(device: Device, kind: QueryType) -> bytes:
    """What is the same for every file of the device."""
    profile = device.profile
    limit = profile.max_datagram_bytes if device.carries_datagrams else 0
    match kind:
        case QueryType.PROVIDER_INFO:
            return _provider_info(device, limit).pack()
        case QueryType.DATAGRAM_INFO:
            return pack_datagram_info(limit, profile.max_queued_datagrams)
        case QueryType.MAX_DATAGRAM_INFO:
            return pack_max_datagram_info(limit)
        case QueryType.PROVIDER_STATISTICS:
            return device.statistics.pack()
        case QueryType.BROADCAST_ADDRESS:
            return pack_transport_address(device.broadcast_address())
        case QueryType.NETWORK_ADDRESS:
            return pack_transport_address(device.network_address())
        case QueryType.DATA_LINK_ADDRESS:
            return pack_data_link_address(device.data_link_address())
        case _:
            raise Refused(NtStatus.NOT_IMPLEMENTED, f"{kind.name} has no answer on {device.network}", rule="Q7")

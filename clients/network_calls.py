"""The client API's calls about networks, as both faces make them: bursts, groups, options of sends, segments."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from clients.calls import Burst, Call, RequestFailed
from clients.inbox import AddressState
from clients.protocol import ClientProtocol
from clients.requests import IoStatus
from emulator.status import NtStatus
from emulator.wire.fields import FieldError, check_fields
from emulator.wire.method import DATAGRAM
from emulator.wire.schema import (
    ADDRESS_JOIN,
    ADDRESS_LEAVE,
    ADDRESS_OPTIONS,
    ADDRESS_SEND_BURST,
    SEGMENT_CHANGE,
)


def send_burst(
    protocol: ClientProtocol, state: AddressState, datagrams: Iterable[bytes], destination: tuple[str, int]
) -> Burst:
    """Many TDI_SEND_DATAGRAM to one destination. Raises RequestFailed for what the daemon would refuse unread."""
    burst = Burst([bytes(each) for each in datagrams], destination)
    longest = max(map(len, burst.payloads), default=0)
    try:
        check_fields(ADDRESS_SEND_BURST.params, [state.number, *destination, b"", b""], ADDRESS_SEND_BURST.name)
        if longest > DATAGRAM.most:
            raise FieldError(f"a datagram has at most {DATAGRAM.most} bytes, not {longest}")
    except FieldError as error:
        raise RequestFailed(NtStatus.INVALID_PARAMETER, str(error)) from None
    return protocol.burst(state, burst)


def burst_statuses(burst: Burst) -> list[IoStatus]:
    """How each datagram of a burst that is done ended, errors too. Raises what ended the burst as a whole."""
    burst.outcome()
    if not burst.statuses:
        return [IoStatus(NtStatus.SUCCESS, len(each)) for each in burst.payloads]
    ends = (NtStatus(status) for status in burst.statuses)
    return [IoStatus(end, 0 if end.is_error else len(each)) for end, each in zip(ends, burst.payloads, strict=True)]


def join(protocol: ClientProtocol, state: AddressState, group: str, interface: str | None) -> Call:
    """Become a member of a multicast group."""
    return protocol.call(ADDRESS_JOIN, state.number, group, _interface(group, interface))


def leave(protocol: ClientProtocol, state: AddressState, group: str, interface: str | None) -> Call:
    """End one join."""
    return protocol.call(ADDRESS_LEAVE, state.number, group, _interface(group, interface))


def _interface(group: str, interface: str | None) -> str:
    if interface is not None:
        return interface
    return "::" if ":" in group else "0.0.0.0"


def options(protocol: ClientProtocol, state: AddressState, changes: dict[str, Any]) -> Call:
    """Change options of sends; builds all of them."""
    return protocol.call(ADDRESS_OPTIONS, state.number, json.dumps(changes), build=_document)


def change_segment(protocol: ClientProtocol, name: str, changes: dict[str, Any]) -> Call:
    """Change settings of a segment; builds what it is like then."""
    return protocol.call(SEGMENT_CHANGE, name, json.dumps(changes), build=_document)


def _document(result: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result[0])
    return found

"""Address objects and their datagrams, as calls of the pure protocol: awaited or waited for by the faces."""

from __future__ import annotations

from typing import Any

from clients.inbox import AddressState, Datagram
from clients.protocol import GRANT, Call, ClientProtocol
from emulator.wire.schema import ADDRESS_CLOSE, ADDRESS_OPEN, ADDRESS_QUERY, ADDRESS_SEND_DATAGRAM
from emulator.wire.window import PACKET_OVERHEAD_BYTES


def open_address(protocol: ClientProtocol, machine: int, network: str, local: tuple[str, int], share: bool) -> Call:
    """Open an address object; builds its AddressState and what it is bound to."""

    def build(result: tuple[Any, ...]) -> tuple[AddressState, tuple[str, int]]:
        number, host, port, packets, byte_count = result
        state = AddressState(number, (packets, byte_count), GRANT, machine, network)
        protocol.add_address(state)
        return state, (host, port)

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None:
            close_address(protocol, call.built[0])
        else:
            protocol.call(ADDRESS_CLOSE, result[0])

    call = protocol.call(ADDRESS_OPEN, machine, network, local[0], local[1], share, *GRANT, build=build, undo=undo)
    return call


def close_address(protocol: ClientProtocol, state: AddressState) -> Call | None:
    """Close an address; None when it is closed already."""
    if state.closed is not None:
        return None
    call = protocol.call(ADDRESS_CLOSE, state.number)
    protocol.drop_address(state)
    return call


def send_datagram(protocol: ClientProtocol, state: AddressState, data: bytes, destination: tuple[str, int]) -> Call:
    """TDI_SEND_DATAGRAM."""
    host, port = destination
    cost = len(data) + PACKET_OVERHEAD_BYTES
    return protocol.call_in_window(state, cost, ADDRESS_SEND_DATAGRAM, state.number, host, port, bytes(data))


def take_datagram(protocol: ClientProtocol, state: AddressState) -> Datagram:
    """The oldest datagram of an address's inbox, its room given back."""
    datagram: Datagram = state.items.popleft()
    protocol.taken(state, len(datagram.data) + PACKET_OVERHEAD_BYTES)
    return datagram


def query_address(protocol: ClientProtocol, state: AddressState, query_type: int, buffer_bytes: int) -> Call:
    """TDI_QUERY_INFORMATION."""
    return protocol.call(ADDRESS_QUERY, state.number, query_type, buffer_bytes)

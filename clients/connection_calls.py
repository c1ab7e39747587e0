"""Requests on connection endpoints, as calls of the pure protocol: shared by both faces."""

from __future__ import annotations

from typing import Any, NamedTuple

from clients.calls import Call, RequestFailed
from clients.inbox import AddressState, ConnectionState
from clients.protocol import ClientProtocol
from clients.requests import raise_on_error
from emulator.status import NtStatus
from emulator.tdi.constants import DisconnectFlags, ListenFlags
from emulator.wire.schema import (
    CONNECTION_ACCEPT,
    CONNECTION_ASSOCIATE,
    CONNECTION_CLOSE,
    CONNECTION_CONNECT,
    CONNECTION_DISASSOCIATE,
    CONNECTION_DISCONNECT,
    CONNECTION_LISTEN,
    CONNECTION_OPEN,
    CONNECTION_QUERY,
    CONNECTION_RECEIVE,
    CONNECTION_SEND,
)
from emulator.wire.window import PACKET_OVERHEAD_BYTES

RECEIVE_BYTES = 65_536
"""The buffer of a receive that names none."""

ENDED = frozenset({NtStatus.REMOTE_DISCONNECT, NtStatus.GRACEFUL_DISCONNECT})
"""How a receive ends when the peer has released: what iterates over a connection stops there."""


class Peer(NamedTuple):
    """The other side of a connection, and what its client sent along."""

    address: tuple[str, int]
    user_data: bytes = b""


class Received(bytes):
    """Bytes received, with the status they came with: BUFFER_OVERFLOW where a record was longer than the buffer."""

    status: NtStatus = NtStatus.SUCCESS


def units(timeout_seconds: float | None) -> int | None:
    """A time-out as it travels."""
    return None if timeout_seconds is None else max(0, round(timeout_seconds * 10_000_000))


def open_connection(protocol: ClientProtocol, machine: int, network: str) -> Call:
    """Open a connection endpoint; builds its ConnectionState."""

    def build(result: tuple[Any, ...]) -> ConnectionState:
        state = ConnectionState(result[0], (result[1], result[2]), context, network)
        protocol.add_connection(state)
        return state

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None:
            close(protocol, call.built)
        else:
            protocol.call(CONNECTION_CLOSE, result[0])

    context = protocol.new_context()
    call = protocol.call(CONNECTION_OPEN, machine, network, context, build=build, undo=undo)
    return call


def close(protocol: ClientProtocol, state: ConnectionState) -> Call | None:
    """Close an endpoint; None when it is closed already."""
    if state.closed is not None:
        return None
    call = protocol.call(CONNECTION_CLOSE, state.number)
    protocol.drop_connection(state)
    return call


def associate(protocol: ClientProtocol, state: ConnectionState, address: AddressState) -> Call:
    """TDI_ASSOCIATE_ADDRESS."""
    return protocol.call(CONNECTION_ASSOCIATE, state.number, address.number)


def disassociate(protocol: ClientProtocol, state: ConnectionState) -> Call:
    """TDI_DISASSOCIATE_ADDRESS."""
    return protocol.call(CONNECTION_DISASSOCIATE, state.number)


def connect(
    protocol: ClientProtocol,
    state: ConnectionState,
    to: tuple[str, int],
    timeout_seconds: float | None,
    user_data: bytes,
) -> Call:
    """TDI_CONNECT."""
    return protocol.call(CONNECTION_CONNECT, state.number, *to, units(timeout_seconds), bytes(user_data))


def listen(
    protocol: ClientProtocol,
    state: ConnectionState,
    query_accept: bool,
    source: tuple[str, int] | None,
    user_data: bytes,
) -> Call:
    """TDI_LISTEN."""
    flags = int(ListenFlags.QUERY_ACCEPT) if query_accept else 0
    return protocol.call(CONNECTION_LISTEN, state.number, flags, *(source or ("", 0)), bytes(user_data))


def accept(protocol: ClientProtocol, state: ConnectionState, user_data: bytes) -> Call:
    """TDI_ACCEPT."""
    return protocol.call(CONNECTION_ACCEPT, state.number, bytes(user_data))


def disconnect(
    protocol: ClientProtocol, state: ConnectionState, abort: bool, timeout_seconds: float | None, user_data: bytes
) -> Call:
    """TDI_DISCONNECT."""
    flags = DisconnectFlags.ABORT if abort else DisconnectFlags.RELEASE
    return protocol.call(CONNECTION_DISCONNECT, state.number, int(flags), units(timeout_seconds), bytes(user_data))


def send(protocol: ClientProtocol, state: ConnectionState, data: bytes, flags: int) -> Call:
    """TDI_SEND, when the window has room."""
    cost = len(data) + PACKET_OVERHEAD_BYTES
    return protocol.call_in_window(state, cost, CONNECTION_SEND, state.number, int(flags), bytes(data))


def receive(protocol: ClientProtocol, state: ConnectionState, length: int, flags: int) -> Call:
    """TDI_RECEIVE."""
    return protocol.call(CONNECTION_RECEIVE, state.number, int(flags), length)


def query(protocol: ClientProtocol, state: ConnectionState, query_type: int, buffer_bytes: int) -> Call:
    """TDI_QUERY_INFORMATION."""
    return protocol.call(CONNECTION_QUERY, state.number, query_type, buffer_bytes)


def peer(state: ConnectionState, result: tuple[Any, ...]) -> Peer:
    """Who a connect, listen or accept has found; RequestFailed for an error."""
    status, information, message, host, port, *user_data = result
    raise_on_error(status, information, message)
    state.peer = host, port
    return Peer((host, port), bytes(user_data[0]) if user_data else b"")


def received(result: tuple[Any, ...]) -> Received:
    """What a receive brought; RequestFailed for an error."""
    status, information, message, data = result
    found = Received(data)
    found.status = raise_on_error(status, information, message).status
    return found


def goodbye(result: tuple[Any, ...]) -> bytes:
    """The user data of the peer's release; RequestFailed for an error."""
    status, information, message, user_data = result
    raise_on_error(status, information, message)
    return bytes(user_data)


def is_the_end(failure: RequestFailed) -> bool:
    """Whether a receive failed because the peer has released: no more comes, and all that came was taken."""
    return failure.status in ENDED

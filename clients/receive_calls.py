"""The requests of receiving, for both faces."""

from __future__ import annotations

from collections.abc import Iterable

from clients.calls import RequestFailed
from clients.inbox import AddressState
from clients.protocol import Call, ClientProtocol
from emulator.tdi.constants import ReceiveFlags
from emulator.wire.runs import pack_pfns
from emulator.wire.schema import ADDRESS_RECEIVE_DATAGRAM, MACHINE_RETURN_CHAINED


def receive_datagram(
    protocol: ClientProtocol, state: AddressState, length: int, source: tuple[str, int] | None, peek: bool
) -> Call:
    """TDI_RECEIVE_DATAGRAM."""
    if state.closed is not None:
        raise RequestFailed(*state.closed)
    host, port = source or ("", 0)
    flags = int(ReceiveFlags.PEEK) if peek else 0
    return protocol.call(ADDRESS_RECEIVE_DATAGRAM, state.number, length, host, port, flags)


def return_chained(protocol: ClientProtocol, state: AddressState, descriptors: Iterable[int]) -> Call:
    """TdiReturnChainedReceives."""
    return protocol.call(MACHINE_RETURN_CHAINED, state.machine, pack_pfns(tuple(descriptors)))

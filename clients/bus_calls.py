"""What both faces of a bus guest ask of the daemon, and make of its answers."""

from __future__ import annotations

import socket

from clients.bus_inbox import Arrivals, BusEvent, BusMessage, BusState
from clients.calls import Call, ConnectionLost, RequestFailed
from clients.protocol import ClientProtocol
from emulator.status import NtStatus
from emulator.wire.schema import BUS_ATTACH, BUS_DETACH, BUS_MESSAGE_TAKEN


def attach(protocol: ClientProtocol, number: int) -> Call:
    """Become the bus guest of the machine of this number; the call builds a BusState."""

    def build(_result: tuple[int, ...]) -> BusState:
        state = BusState(number)
        protocol.add_bus(state)
        return state

    def undo(_result: tuple[int, ...]) -> None:
        if call.built is not None:
            protocol.drop_bus(call.built, NtStatus.CANCELLED, "attaching was given up")
        protocol.call(BUS_DETACH, number)

    call = protocol.call(BUS_ATTACH, number, build=build, undo=undo)
    return call


def detach(protocol: ClientProtocol, state: BusState) -> Call | None:
    """Leave; None when it is over already."""
    if state.closed is not None:
        return None
    protocol.drop_bus(state, NtStatus.CANCELLED, "the bus guest was detached here")
    return protocol.call(BUS_DETACH, state.number)


def doorbell_of(call: Call) -> socket.socket:
    """The doorbell that came with the answer, to be closed by whoever has it."""
    assert call.descriptor is not None, "a doorbell comes with its answer"
    bell = socket.socket(fileno=call.descriptor)
    call.descriptor = None
    bell.setblocking(False)
    return bell


def must_wait(protocol: ClientProtocol, arrivals: Arrivals) -> bool:
    """Whether nothing is there to be taken. Raises when nothing will come: ConnectionLost, or RequestFailed."""
    if arrivals.items:
        return False
    if protocol.lost is not None:
        raise ConnectionLost(str(protocol.lost))
    if arrivals.closed is not None:
        raise RequestFailed(*arrivals.closed)
    return True


def take_event(state: BusState) -> BusEvent:
    """The oldest event."""
    event: BusEvent = state.events.take()
    return event


def take_message(protocol: ClientProtocol, state: BusState) -> BusMessage:
    """The oldest message. What is to be sent then frees its slot for the next."""
    message: BusMessage = state.messages.take()
    if state.closed is None:
        protocol.notify(BUS_MESSAGE_TAKEN, state.number, message.vp, message.sint)
    return message

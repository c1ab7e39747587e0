"""The bus guest: this client has the whole guest side of a machine's bus, in place of the daemon's own.

It speaks the control conversation itself, in its bytes, lays out rings in buffers of guest memory and works them with
code of its own: a driver stack under test, in other words. There is one to a machine, and no other guest beside it.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING

from clients import bus_calls
from clients.bus_inbox import Arrivals, BusEvent, BusMessage, BusState
from clients.calls import RequestFailed
from emulator.vmbus.synic import HvStatus
from emulator.wire.schema import BUS_DOORBELL, BUS_EVENT_FLAGS_PAGE, BUS_POST, BUS_SIGNAL

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.vmbus import Machine


class BusGuest:
    """The guest side of one machine's bus. Iterate over it for the host's messages. Made by ``attach_bus``."""

    def __init__(self, connection: Connection, state: BusState, processors: int) -> None:
        self.processors = processors
        self._connection = connection
        self._state = state

    async def post(self, connection_id: int, payload: bytes) -> HvStatus:
        """Post a control message of at most 240 bytes. Windows: HvPostMessage.

        INSUFFICIENT_BUFFERS says that the host waits for its messages to be taken: take some, then post it again.
        """
        (status,) = await self._connection.request(BUS_POST, self._state.number, connection_id, bytes(payload))
        return HvStatus(status)

    async def signal(self, connection_id: int, flag: int = 0) -> HvStatus:
        """Ring the doorbell a channel's offer names, or below 2.4 the shared one, 2. Windows: HvSignalEvent."""
        (status,) = await self._connection.request(BUS_SIGNAL, self._state.number, connection_id, flag)
        return HvStatus(status)

    async def doorbell(self, channel_id: int) -> socket.socket:
        """The doorbell of an open channel, for both directions: any byte, without waiting, says "look at the ring".

        It does not block; read it empty before looking. At its end the host has let go of the channel. The caller
        closes it. Events of this channel do not come any more.
        """
        call = self._connection.protocol.call(BUS_DOORBELL, self._state.number, channel_id)
        await self._connection.finish(call)
        return bus_calls.doorbell_of(call)

    async def set_event_flags_page(self, address: int | None, vp: int = 0) -> None:
        """Where in guest memory the host's event flags for a processor stand from now on; None for nowhere.

        The page holds 256 bytes of flags for each SINT. Clear them with ``emulator.vmbus.synic.take_event_flags``,
        then look at the rings: an event comes when a flag was clear. Hypervisor: the register HV_X64_MSR_SIEFP. Raises
        RequestFailed on a machine without ``event_flags_page`` in its configuration.
        """
        await self._connection.request(BUS_EVENT_FLAGS_PAGE, self._state.number, vp, address)

    async def next_event(self) -> BusEvent:
        """Wait for an event flag: a channel without a descriptor was rung. Raises RequestFailed once over."""
        await self._arrival(self._state.events)
        return bus_calls.take_event(self._state)

    async def next_message(self) -> BusMessage:
        """Wait for a message; taking it frees its slot for the next. Raises RequestFailed once over."""
        await self._arrival(self._state.messages)
        message = bus_calls.take_message(self._connection.protocol, self._state)
        self._connection.flush()
        return message

    async def _arrival(self, arrivals: Arrivals) -> None:
        while bus_calls.must_wait(self._connection.protocol, arrivals):
            await self._connection.wait_for(arrivals)

    def __aiter__(self) -> BusGuest:
        return self

    async def __anext__(self) -> BusMessage:
        try:
            return await self.next_message()
        except RequestFailed:
            raise StopAsyncIteration from None

    async def detach(self) -> None:
        """Leave: the host's ends of all channels close, and the machine is free for other guests."""
        call = bus_calls.detach(self._connection.protocol, self._state)
        if call is not None:
            await self._connection.finish(call)

    async def __aenter__(self) -> BusGuest:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.detach()


async def attach_bus(connection: Connection, machine: Machine) -> BusGuest:
    """Become the bus guest of a machine that ``connection`` attached to; ``machine.attach_bus()`` is the same.

    Raises RequestFailed, naming the holder, while another client has one of its channels open or is its bus guest.
    """
    call = bus_calls.attach(connection.protocol, machine.number)
    (processors,) = await connection.finish(call)
    return BusGuest(connection, call.built, processors)

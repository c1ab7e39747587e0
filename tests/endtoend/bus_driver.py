"""A driver stack that is foreign to the daemon: its own control conversation and its own rings, over a bus guest.

The parts are the project's own, but they run on the client's side of the socket and know of the daemon only what a
message slot, an event flag, a doorbell and guest memory tell them. Run as a module, it opens a channel, sends packets
that nobody completes, and waits to be killed.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from collections.abc import Iterable
from typing import TypeVar

import trio

from clients import Machine, connect
from clients.bus import BusGuest, attach_bus
from emulator.memory import GpaRange, Mdl
from emulator.vmbus.endpoint import ChannelEndpoint, EndpointLimits, ReceivedPacket, Side
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelOpened, GuestEffect, OfferArrived, OffersDelivered, PostMessage
from emulator.vmbus.message_types import OfferChannel
from emulator.vmbus.profile import KmclProfile
from emulator.vmbus.ring import RingMemory, RingReceiver, RingSender, initialise_as_guest
from emulator.vmbus.synic import HvStatus

E = TypeVar("E")
P = TypeVar("P", bound="Port")
RING_PAGES = 2
_lock = threading.Lock()


def fence() -> None:
    with _lock:
        pass


class Driver:
    """The control half: speaks as a guest, and keeps what happened until a test asks for it."""

    def __init__(self, bus: BusGuest, machine: Machine) -> None:
        self.bus = bus
        self.machine = machine
        self.guest = GuestBus()
        self.bells: list[socket.socket] = []
        self._happened: deque[GuestEffect] = deque()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        for bell in self.bells:
            bell.close()

    async def perform(self, effects: Iterable[GuestEffect]) -> None:
        for effect in effects:
            if isinstance(effect, PostMessage):
                assert await self.bus.post(effect.connection_id, effect.payload) is HvStatus.SUCCESS
            else:
                self._happened.append(effect)

    async def until(self, kind: type[E]) -> E:
        """Take messages until something of that kind has happened."""
        while True:
            for effect in self._happened:
                if isinstance(effect, kind):
                    self._happened.remove(effect)
                    return effect
            message = await self.bus.next_message()
            assert (message.vp, message.sint) == (0, 2)
            await self.perform(self.guest.message_arrived(message.payload))

    async def contact(self) -> list[OfferChannel]:
        """Negotiate, and ask what there is."""
        await self.perform(self.guest.connect())
        await self.until(OffersDelivered)
        offers = [effect.offer for effect in self._happened if isinstance(effect, OfferArrived)]
        self._happened.clear()
        return offers

    async def open(self, offer: OfferChannel, *, with_descriptor: bool) -> Port:
        """Lay out rings, open the channel, and get its doorbell."""
        return await self.open_as(Port, offer, with_descriptor=with_descriptor)

    async def open_as(self, kind: type[P], offer: OfferChannel, *, with_descriptor: bool) -> P:
        """The same, for another kind of port."""
        port = kind(self, offer)
        whole = GpaRange(len(port.pfns) * 4096, 0, port.pfns)
        _, effects = self.guest.open_channel(offer.channel_id, (whole,), RING_PAGES + 1)
        await self.perform(effects)
        opened = await self.until(ChannelOpened)
        assert (opened.channel_id, opened.status) == (offer.channel_id, 0)
        port.event_flag = opened.event_flag
        if with_descriptor:
            port.bell = await self.bus.doorbell(offer.channel_id)
            self.bells.append(port.bell)
        return port


class Port:
    """The ring half: one channel's guest end, worked by hand."""

    def __init__(self, driver: Driver, offer: OfferChannel) -> None:
        self.driver = driver
        self.channel_id = offer.channel_id
        self.event_flag = 0
        self.bell: socket.socket | None = None
        self.received: deque[ReceivedPacket] = deque()
        self._connection_id = offer.connection_id
        memory = driver.machine.memory
        self.pfns = memory.allocate((RING_PAGES + 1) * 2 * 4096).pfns
        self.to_host = RingMemory.over(memory.mapped, self.pfns[: RING_PAGES + 1])
        to_guest = RingMemory.over(memory.mapped, self.pfns[RING_PAGES + 1 :])
        initialise_as_guest(self.to_host, to_guest)
        self.endpoint = ChannelEndpoint(
            Side.GUEST,
            RingReceiver(to_guest, fence),
            RingSender(self.to_host, fence),
            memory.mapped,
            KmclProfile(hold_unasked_packets=False),
            EndpointLimits(),
        )
        self._ended: dict[object, bytes] = {}

    async def ring(self) -> None:
        if self.bell is not None:
            self.bell.send(b"\0")
        else:
            assert await self.driver.bus.signal(self._connection_id) is HvStatus.SUCCESS

    async def heard(self) -> None:
        """Wait until the host rings. Raises EndOfChannel when it has let go."""
        if self.bell is None:
            event = await self.driver.bus.next_event()
            assert event == (0, 2, self.event_flag)
            return
        await trio.lowlevel.wait_readable(self.bell)
        if not self.bell.recv(4096):
            raise trio.EndOfChannel

    async def until_let_go(self) -> None:
        """Return when the host has let go of the channel, as its doorbell says."""
        try:
            while True:
                await self.heard()
        except (trio.EndOfChannel, ConnectionResetError):
            return  # a reset is an end with doorbells left unheard

    async def look(self) -> None:
        """Take what the rings hold; sleep no deeper than the rules allow."""
        while True:
            progress = self.endpoint.receive(64, 1 << 20)
            self.received.extend(progress.packets)
            for completed in progress.completed:
                self._ended[completed.context] = completed.payload
            if progress.doorbell:
                await self.ring()
            if not progress.more and self.endpoint.go_idle():
                return

    async def send(self, payload: bytes) -> None:
        """A packet that asks for no completion."""
        if self.endpoint.send(payload, None, 0, object()).doorbell:
            await self.ring()

    async def ask(self, payload: bytes, mdl: Mdl | None = None) -> bytes:
        """A packet, with what ``mdl`` describes, and its completion."""
        context = object()
        if self.endpoint.send(payload, mdl, 1, context).doorbell:
            await self.ring()
        await self.look()
        while context not in self._ended:
            await self.heard()
            await self.look()
        return self._ended.pop(context)

    async def answer(self) -> ReceivedPacket:
        """Wait for a packet of the host's and complete it with what it said."""
        await self.look()
        while not self.received:
            await self.heard()
            await self.look()
        packet = self.received.popleft()
        if packet.completion_requested and self.endpoint.complete(packet.handle, packet.payload).doorbell:
            await self.ring()
        return packet


async def _be_killed() -> None:
    async with connect(name="driver") as daemon:
        machine = await daemon.machine("vm1")
        driver = Driver(await attach_bus(daemon, machine), machine)
        port = await driver.open((await driver.contact())[0], with_descriptor=sys.argv[1] == "descriptor")
        for _ in range(4):
            if port.endpoint.send(b"unheard!", None, 1, object()).doorbell:
                await port.ring()
        print("sent", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_be_killed)

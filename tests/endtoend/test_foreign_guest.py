"""A guest whose rings are worked by a library nobody here wrote, through the daemon, with both kinds of hosts.

Guest, daemon and host are processes of their own. Run as a module, this is the host: it answers every packet with a
checksum of it, and meanwhile sends packets of its own, which have to come back.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections import deque
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import trio

import clients
from clients import OfferedChannel
from clients.bus import attach_bus
from emulator.memory import PAGE_SIZE, GpaRange
from emulator.vmbus.packets import packet_cost
from tests.endtoend.bus_driver import RING_PAGES, Driver, Port, fence
from tests.endtoend.programs import ECHO, checksum, pattern
from tests.support.processes import start_client, start_daemon
from tests.vmbus.channel_pair import MASK, PENDING
from tests.vmbus.foreign_ring import ForeignChannel, find_library

COUNT = 2000
FLIGHT = 50
IN_BAND, COMPLETION = 6, 11


def told(number: int) -> bytes:
    """What the host sends."""
    return pattern(number, 8 * (number % 90 + 1))


class Outgoing(NamedTuple):
    """A packet of the guest's that waits for room."""

    kind: int
    payload: bytes
    transaction_id: int
    ranges: tuple[GpaRange, ...] = ()


class ForeignGuest:
    """The data half of a driver: what waits, what is out, and the loop that sleeps and wakes by the rules."""

    def __init__(self, library: ctypes.CDLL, port: Port) -> None:
        first = port.pfns[0]
        assert port.pfns == tuple(range(first, first + 2 * (RING_PAGES + 1)))
        middle = first + RING_PAGES + 1
        outgoing, incoming = range(first, middle), range(middle, middle + RING_PAGES + 1)
        memory = port.driver.machine.memory
        self.channel = ForeignChannel(library, memory.mapped, incoming=incoming, outgoing=outgoing)
        self.port = port
        self.waiting: deque[Outgoing] = deque()
        self.expected: dict[int, bytes] = {}
        self.heard_of = self.blocked = self.slept = 0
        self._data = memory.allocate(64 * PAGE_SIZE)

    def ask(self, random: Random, count: int) -> None:
        """Prepare packets that ask for completions, some with data in guest memory, and what the answers must be."""
        self._data.write(0, random.randbytes(64 * PAGE_SIZE))
        for number in range(count):
            payload = random.randbytes(8 * random.randrange(1, 100))
            ranges, external = [], b""
            for pfn in random.sample(self._data.pfns, random.choice((0, 0, 0, 1, 3))):
                offset = random.randrange(PAGE_SIZE)
                ranges.append(GpaRange(random.randint(1, PAGE_SIZE - offset), offset, (pfn,)))
                external += self.port.driver.machine.memory.mapped.read_range(ranges[-1])
            self.waiting.append(Outgoing(IN_BAND, payload, number, tuple(ranges)))
            self.expected[number] = checksum(payload, external)

    def _send_one(self, packet: Outgoing) -> bool | None:
        if packet.ranges:
            return self.channel.send_ranges(packet.ranges, packet.payload, packet.transaction_id)
        asks = packet.kind == IN_BAND
        return self.channel.send(packet.kind, packet.payload, packet.transaction_id, int(asks))

    def send_waiting(self) -> bool:
        """Send what there is room for; whether to ring."""
        ring = False
        while self.waiting:
            packet = self.waiting[0]
            signal = self._send_one(packet)
            if signal is None:
                self.channel.out_control[PENDING] = packet_cost(len(packet.payload), [1] * len(packet.ranges))
                fence()
                signal = self._send_one(packet)
                if signal is None:
                    self.blocked += 1
                    return ring
            ring |= signal
            self.waiting.popleft()
        self.channel.out_control[PENDING] = 0
        return ring

    def take_all(self) -> tuple[int, bool]:
        """Take what there is: how many packets, and whether to ring."""
        count, ring = 0, False
        for image, cost in iter(self.channel.take, None):
            count += 1
            # After each: the library's arithmetic fails for more than the ring holds, which a busy host makes possible.
            ring |= self.channel.signal_after_taking(cost)
            kind, transaction_id = image[0], int.from_bytes(image[8:16], "little")
            if kind == COMPLETION:
                assert image[16:] == self.expected.pop(transaction_id)
                continue
            assert (kind, image[6], image[16:]) == (IN_BAND, 1, told(self.heard_of))
            self.heard_of += 1
            self.waiting.append(Outgoing(COMPLETION, image[16:], transaction_id))
        return count, ring

    def is_done(self) -> bool:
        return not (self.expected or self.waiting or self.heard_of < COUNT)

    async def run(self) -> None:
        """Until everything asked is answered, and everything the host says is heard and answered."""
        control = self.channel.in_control
        while not self.is_done():
            control[MASK] = 1
            taken, ring = self.take_all()
            if self.send_waiting() or ring:
                await self.port.ring()
            if not taken and not self.is_done():  # it may have been what was just sent that was missing
                control[MASK] = 0
                fence()
                if self.channel.is_empty():
                    self.slept += 1
                    await self.port.heard()


@pytest.mark.parametrize("bells", ["descriptor", "events"])
@pytest.mark.parametrize("mode", ["hosted", "direct"])
async def test_the_library_as_a_guest_with_both_rings_crowded(tmp_path: Path, mode: str, bells: str) -> None:
    library = find_library()
    async with (
        start_daemon(tmp_path) as daemon,
        start_client(tmp_path, "host", "tests.endtoend.test_foreign_guest", mode, daemon=daemon) as host,
        clients.connect(daemon.socket_path, name="driver") as connection,
    ):
        with trio.fail_after(60):
            await host.wait_for_line("offered")
            machine = await connection.machine("vm1")
            with Driver(await attach_bus(connection, machine), machine) as driver:
                port = await driver.open((await driver.contact())[0], with_descriptor=bells == "descriptor")
                guest = ForeignGuest(library, port)
                guest.ask(Random(1), COUNT)
                await guest.run()
                await host.wait_for_line(f"told {COUNT}")
            (entry,) = await connection.inspect("machines", "vm1")
            assert entry["vmbus_violations"] == {}
            assert guest.blocked
            # Who rings by a request waits for its answer, and may find something to do each time it comes.
            assert guest.slept or bells == "events"


async def _answer(offered: OfferedChannel) -> None:
    async for packet in offered:
        await packet.complete(checksum(packet.payload, packet.external_data() if packet.has_external_data else b""))


async def _tell(offered: OfferedChannel, numbers: itertools.count[int]) -> None:
    for number in numbers:
        if number >= COUNT:
            return
        assert await offered.send(told(number)) == told(number)


async def _host() -> None:
    async with clients.connect(name="host") as daemon, trio.open_nursery() as answering:
        offered = await (await daemon.machine("vm1")).offer_channel(ECHO, mode=sys.argv[1])
        print("offered", flush=True)
        await offered.opened()
        answering.start_soon(_answer, offered)
        numbers = itertools.count()
        async with trio.open_nursery() as telling:
            for _ in range(FLIGHT):
                telling.start_soon(_tell, offered, numbers)
        print(f"told {COUNT}", flush=True)  # and go on answering until ended


if __name__ == "__main__":
    trio.run(_host)

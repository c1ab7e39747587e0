"""A host that offers a channel to each of several guests, and completes each packet with the packet's own bytes."""

from __future__ import annotations

from uuid import UUID, uuid5

import trio

from clients.commands.interfaces import DEMO_ECHO_INTERFACE
from clients.connection import connect
from clients.demo.telling import run_child, tell
from clients.vmbus import OfferedChannel


def instance(guest: int) -> UUID:
    """The instance that guest opens."""
    return uuid5(DEMO_ECHO_INTERFACE, str(guest))


async def main(socket: str, machine_name: str, guests: str) -> None:
    """Offer the channels, and serve them until ended."""
    async with connect(socket, name="demo-echo-host") as daemon:
        machine = await daemon.machine(machine_name)
        offers = [await machine.offer_channel(DEMO_ECHO_INTERFACE, instance(guest)) for guest in range(int(guests))]
        tell("ready")
        async with trio.open_nursery() as nursery:
            for offered in offers:
                nursery.start_soon(_serve, offered)


async def _serve(offered: OfferedChannel) -> None:
    async for packet in offered:
        await packet.complete(packet.payload)


if __name__ == "__main__":
    run_child(main)

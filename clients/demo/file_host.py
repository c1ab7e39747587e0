"""A host that takes a file: reads the external data of each packet from guest memory, in order, and hashes it.

A packet with external data says in its own bytes where in the file they belong, and is completed with the number of
bytes the host then has. A packet without external data ends the file, and is completed with its SHA-256.
"""

from __future__ import annotations

import hashlib
import struct

from clients.commands.interfaces import DEMO_FILE_INTERFACE
from clients.connection import connect
from clients.demo.telling import WrongAnswer, run_child, tell

OFFSET = struct.Struct("<Q")


async def main(socket: str, machine_name: str) -> None:
    """Offer the channel, and take one file after another until ended."""
    async with connect(socket, name="demo-file-host") as daemon:
        machine = await daemon.machine(machine_name)
        offered = await machine.offer_channel(DEMO_FILE_INTERFACE)
        tell("ready")
        digest, received = hashlib.sha256(), 0
        async for packet in offered:
            if not packet.has_external_data:
                await packet.complete(digest.digest())
                digest, received = hashlib.sha256(), 0
                continue
            (offset,) = OFFSET.unpack(packet.payload)
            if offset != received:
                raise WrongAnswer(f"the packet for byte {offset:,} of the file came when byte {received:,} was due")
            data = packet.external_data()
            digest.update(data)
            received += len(data)
            await packet.complete(OFFSET.pack(received))


if __name__ == "__main__":
    run_child(main)

"""What the three programs have in common: their command line, and what the two guests do with a disk."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from clients import Machine, connect
from examples.block_device.protocol import BLOCK_BYTES

TRIED_BLOCKS = 64


class GuestDisk(Protocol):
    """A disk, as either guest has it."""

    async def read(self, first: int, blocks: int) -> bytes:
        """The content of blocks."""

    async def write(self, first: int, content: bytes) -> None:
        """Change whole blocks."""


async def try_out(disk: GuestDisk) -> None:
    """Write many blocks at once, read them back, and compare."""
    contents = [bytes([number]) * BLOCK_BYTES for number in range(TRIED_BLOCKS)]
    async with trio.open_nursery() as nursery:
        for number, content in enumerate(contents):
            nursery.start_soon(disk.write, number, content)
    found = await disk.read(0, TRIED_BLOCKS)
    if found != b"".join(contents):
        raise SystemExit("what was read is not what was written")
    print(f"{TRIED_BLOCKS} blocks written and read back")


def run(description: str | None, main: Callable[[Machine, str, int], Awaitable[None]]) -> None:
    """Read the command line, connect, and run ``main`` with the machine, the mode and the number of blocks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", help="the machine's name, such as vm1")
    parser.add_argument("--mode", choices=["hosted", "direct"], default="hosted", help="who works the rings")
    parser.add_argument("--blocks", type=int, default=4096, help="the disk's size; the host's business")
    parser.add_argument("--socket", help="the daemon's socket, if it is not the default one")
    arguments = parser.parse_args()

    async def connected() -> None:
        async with connect(arguments.socket) as daemon:
            await main(await daemon.machine(arguments.machine), arguments.mode, arguments.blocks)

    trio.run(connected)

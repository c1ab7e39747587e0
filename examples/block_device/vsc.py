"""The guest's driver: it finds the disk, negotiates, and reads and writes it.

python -m examples.block_device.vsc vm1
"""

from __future__ import annotations

import trio

from clients import ChannelCallbacks, DriverChannel, Machine, Side
from examples.block_device.programs import run, try_out
from examples.block_device.protocol import (
    ANSWER_BYTES,
    BLOCK_BYTES,
    INTERFACE,
    MOST_BLOCKS,
    VERSION,
    Answer,
    Operation,
    Outcome,
    Request,
    parse_answer_untrusted,
)

PATIENCE_SECONDS = 5.0


class DiskError(Exception):
    """The disk did not do what it was asked; the text says why."""


class BlockDevice:
    """A disk, as its guest has it. ``blocks`` is its size, once it is ready."""

    def __init__(self, machine: Machine, *, mode: str = "hosted") -> None:
        self._machine = machine
        self._ready = trio.Event()
        self.blocks = 0
        callbacks = ChannelCallbacks(post_started=self._negotiate, closed=self._gone)
        self.channel: DriverChannel = machine.allocate_channel(Side.GUEST, callbacks=callbacks, mode=mode)
        self.channel.setup.set_target(INTERFACE)  # any instance
        self.channel.setup.set_ring_pages(16, 16)

    async def open(self) -> None:
        """Return when the disk is there and has said how large it is. It may be offered later than this is called."""
        await self.channel.enable()
        await self._ready.wait()

    async def close(self) -> None:
        """Let go of the disk."""
        await self.channel.disable()
        await self.channel.cleanup()

    async def _negotiate(self, channel: DriverChannel) -> None:
        """PostStarted: packets flow, so this is the place to ask and wait."""
        completion = await channel.send_synchronous(
            Request(Operation.NEGOTIATE, VERSION).pack(),
            completion_bytes=ANSWER_BYTES,
            timeout_seconds=PATIENCE_SECONDS,
        )
        answer = parse_answer_untrusted(completion)
        if answer.outcome is Outcome.GOOD:
            self.blocks = answer.blocks
            self._ready.set()

    def _gone(self, channel: DriverChannel) -> None:
        self._ready = trio.Event()
        self.blocks = 0

    async def read(self, first: int, blocks: int) -> bytes:
        """The content of blocks."""
        with await self._machine.allocate(blocks * BLOCK_BYTES) as data:
            completion = await self.channel.send_with_external_mdl(
                Request(Operation.READ, blocks, first).pack(), data.mdl
            )
            self._check(parse_answer_untrusted(completion), first, blocks)
            return data.read()

    async def write(self, first: int, content: bytes) -> None:
        """Change whole blocks, as many as a request may have at a time."""
        for start in range(0, len(content), MOST_BLOCKS * BLOCK_BYTES):
            part = content[start : start + MOST_BLOCKS * BLOCK_BYTES]
            blocks = len(part) // BLOCK_BYTES
            with await self._machine.allocate(len(part)) as data:
                data.write(0, part)
                completion = await self.channel.send_with_external_mdl(
                    Request(Operation.WRITE, blocks, first).pack(), data.mdl
                )
                self._check(parse_answer_untrusted(completion), first, blocks)
            first += blocks

    def _check(self, answer: Answer, first: int, blocks: int) -> None:
        if answer.outcome is not Outcome.GOOD:
            raise DiskError(f"blocks {first} to {first + blocks - 1} of {self.blocks}: {answer.outcome.name}")


async def main(machine: Machine, mode: str, blocks: int) -> None:
    """The program."""
    disk = BlockDevice(machine, mode=mode)
    await disk.open()
    print(f"a disk of {disk.blocks} blocks")
    await try_out(disk)
    await disk.close()


if __name__ == "__main__":
    run(__doc__, main)

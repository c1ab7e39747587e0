"""The host's driver: it offers a disk, and serves a guest's reads and writes out of the guest's own memory.

python -m examples.block_device.vsp vm1 --blocks 4096
"""

from __future__ import annotations

import trio

from clients import ChannelCallbacks, DriverChannel, DriverPacket, Machine, Side
from examples.block_device.programs import run
from examples.block_device.protocol import (
    BLOCK_BYTES,
    INSTANCE,
    INTERFACE,
    MOST_BLOCKS,
    VERSION,
    Answer,
    Operation,
    Outcome,
    Request,
    parse_request_untrusted,
)

# Requests in hand at once. With so many taken, the rest stay in the ring, and the guest notices.
QUOTA = 8


class Disk:
    """The blocks, all in memory."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._content = bytearray(blocks * BLOCK_BYTES)

    def has(self, first: int, count: int) -> bool:
        """Whether these blocks are all there."""
        return 0 < count <= MOST_BLOCKS and first + count <= self.blocks

    def read(self, first: int, count: int) -> bytes:
        """The content of blocks."""
        return bytes(self._content[first * BLOCK_BYTES : (first + count) * BLOCK_BYTES])

    def write(self, first: int, data: bytes) -> None:
        """Change blocks."""
        self._content[first * BLOCK_BYTES : first * BLOCK_BYTES + len(data)] = data


class Vsp:
    """One disk, offered on one machine."""

    def __init__(self, machine: Machine, disk: Disk, *, mode: str = "hosted") -> None:
        self._machine = machine
        self._disk = disk
        self._negotiated = False
        self.most_in_hand = 0
        self._in_hand = 0
        callbacks = ChannelCallbacks(opened=self._opened)
        self.channel: DriverChannel = machine.allocate_channel(Side.HOST, callbacks=callbacks, mode=mode)
        self.channel.setup.set_target_interface(INTERFACE, INSTANCE)
        self.channel.setup.set_maximum_external_data(MOST_BLOCKS * BLOCK_BYTES, 32)
        self.channel.setup.set_friendly_name("block device")

    def _opened(self, channel: DriverChannel) -> None:
        self._negotiated = False  # each guest says which version it speaks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Offer the disk and serve guests, one after the other, until cancelled."""
        await self.channel.set_transaction_quota(QUOTA)
        await self.channel.enable()
        await self.channel.start()  # a host's channel begins paused
        task_status.started()
        async with trio.open_nursery() as nursery:
            async for packet in self.channel:
                nursery.start_soon(self._serve, packet)

    async def _serve(self, packet: DriverPacket) -> None:
        self._in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self._in_hand)
        try:
            request = parse_request_untrusted(packet.payload)
        except ValueError:
            await packet.fail()  # a broken guest: nothing more is delivered until it opens the channel again
        else:
            await trio.lowlevel.checkpoint()  # where a real disk would take its time
            answer = self._carry_out(request, packet)
            await packet.complete(answer.pack())
        self._in_hand -= 1

    def _carry_out(self, request: Request, packet: DriverPacket) -> Answer:
        disk = self._disk
        operation, number, first = request
        if operation is Operation.NEGOTIATE:
            self._negotiated = number == VERSION
            outcome = Outcome.GOOD if self._negotiated else Outcome.UNKNOWN_VERSION
            return Answer(outcome, BLOCK_BYTES, disk.blocks)
        size = number * BLOCK_BYTES
        if not self._negotiated:
            return Answer(Outcome.UNKNOWN_VERSION)
        if not disk.has(first, number) or sum(each.byte_count for each in packet.ranges) != size:
            return Answer(Outcome.OUT_OF_RANGE)
        if operation is Operation.WRITE:
            disk.write(first, packet.external_data())
        else:
            self._fill(packet, disk.read(first, number))
        return Answer(Outcome.GOOD)

    def _fill(self, packet: DriverPacket, data: bytes) -> None:
        """The guest's memory, described by the packet, becomes ``data``."""
        done = 0
        for part in packet.external_mdl().chain():
            self._machine.memory.mapped.write_range(part.whole(), data[done : done + part.byte_count])
            done += part.byte_count


async def main(machine: Machine, mode: str, blocks: int) -> None:
    """The program."""
    print(f"offering a disk of {blocks} blocks on {machine.name}, {mode}")
    await Vsp(machine, Disk(blocks), mode=mode).run()


if __name__ == "__main__":
    run(__doc__, main)

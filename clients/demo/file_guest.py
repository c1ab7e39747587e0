"""A guest that sends a file: buffers of guest memory, several under way, each sent as external data of a packet."""

from __future__ import annotations

import time
from io import BufferedReader

import trio

from clients.commands.interfaces import DEMO_FILE_INTERFACE
from clients.connection import connect
from clients.demo.file_host import OFFSET
from clients.demo.telling import Ticker, WrongAnswer, run_child, tell
from clients.memory import Buffer
from clients.vmbus import Channel

BUFFERS = 8


class FileSender:
    """One file on its way through a channel."""

    def __init__(self, channel: Channel, source: BufferedReader) -> None:
        self._channel = channel
        self._source = source
        self._ticker = Ticker()
        self.sent_bytes = 0
        self.packets = 0
        self.completions = 0

    async def send_with(self, buffer: Buffer) -> None:
        """Send parts of the file through one buffer until it is all sent.

        Between reading a part and handing its packet to the channel nothing waits, so parts go out in their order
        however many buffers are at work.
        """
        while data := self._source.read(len(buffer)):
            buffer.write(0, data)
            offset = self.sent_bytes
            self.sent_bytes += len(data)
            self.packets += 1
            answer = await self._channel.send_with_external_mdl(
                OFFSET.pack(offset), buffer.mdl, offset=0, length=len(data)
            )
            if answer != OFFSET.pack(offset + len(data)):
                raise WrongAnswer(f"the host completed the packet for byte {offset:,} with {answer.hex()}")
            self.completions += 1
            self._ticker.advance(len(data))

    async def finish(self) -> str:
        """End the file; the SHA-256 of what the host has, in hex."""
        self._ticker.flush()
        answer = await self._channel.send(b"the end!")
        self.packets += 1
        self.completions += 1
        return answer.hex()


async def main(socket: str, machine_name: str, path: str, buffer_bytes: str) -> None:
    """Send the file and tell what the host made of it."""
    async with connect(socket, name="demo-file-guest") as daemon:
        machine = await daemon.machine(machine_name)
        async with await machine.open_channel(DEMO_FILE_INTERFACE) as channel:
            buffers = [await machine.allocate(int(buffer_bytes)) for _ in range(BUFFERS)]
            began = time.monotonic()
            with open(path, "rb") as source:  # noqa: ASYNC230 -- reading waits for the disk, and nothing else is to do
                sender = FileSender(channel, source)
                async with trio.open_nursery() as nursery:
                    for buffer in buffers:
                        nursery.start_soon(sender.send_with, buffer)
            sha256 = await sender.finish()
            tell(
                "done",
                began=began,
                ended=time.monotonic(),
                packets=sender.packets,
                completions=sender.completions,
                bytes=sender.sent_bytes,
                sha256=sha256,
            )


if __name__ == "__main__":
    run_child(main)

"""A guest that sends many small packets, several under way, and compares each completion with what it sent."""

from __future__ import annotations

import struct
import time

import trio

from clients.commands.interfaces import DEMO_ECHO_INTERFACE
from clients.connection import connect
from clients.demo.echo_host import instance
from clients.demo.telling import Ticker, WrongAnswer, run_child, tell
from clients.vmbus import Channel

IN_FLIGHT = 32
# Multiples of 8 bytes, which is what a packet is counted in.
NUMBER = struct.Struct("<Q")
FILLING = bytes(range(56))


async def main(socket: str, machine_name: str, guest: str, packets: str) -> None:
    """Send the packets and tell how it went."""
    async with connect(socket, name="demo-echo-guest") as daemon:
        machine = await daemon.machine(machine_name)
        async with await machine.open_channel(DEMO_ECHO_INTERFACE, instance(int(guest))) as channel:
            began = time.monotonic()
            byte_count = await _send_all(channel, int(packets))
            tell(
                "done",
                began=began,
                ended=time.monotonic(),
                packets=int(packets),
                completions=int(packets),
                bytes=byte_count,
            )


async def _send_all(channel: Channel, packets: int) -> int:
    """Send them and check the answers; the bytes sent."""
    numbers = iter(range(packets))
    ticker = Ticker()
    byte_count = 0

    async def send_some() -> None:
        nonlocal byte_count
        for number in numbers:
            payload = NUMBER.pack(number) + FILLING
            answer = await channel.send(payload)
            if answer != payload:
                raise WrongAnswer(f"packet {number} was completed with {answer.hex()}, not with its own bytes")
            byte_count += len(payload)
            ticker.advance(1)

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(send_some)
    ticker.flush()
    return byte_count


if __name__ == "__main__":
    run_child(main)

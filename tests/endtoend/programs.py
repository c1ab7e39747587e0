"""Guests, hosts and datagram programs that end-to-end tests run as processes of their own.

``python -m tests.endtoend.programs PROGRAM ARGUMENTS``. Each prints a line when it has come somewhere, so that a test
can wait for it, and exits with 0 only if everything it checked was right. The daemon is the one in VMBUS_SOCKET,
or, over UDP, the one at VMBUS_PLACE, with the credentials in VMBUS_CREDENTIALS.
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Awaitable, Callable

import trio

from clients import Channel, Machine, OfferedChannel, RequestFailed, connect

ECHO = "5f1d2b6c-7f10-4b6e-9c53-0e6d0c5a0001"


def checksum(payload: bytes, external: bytes) -> bytes:
    """What a host answers: it shows that both parts of a packet came over whole."""
    return zlib.crc32(external, zlib.crc32(payload)).to_bytes(8, "little")


def pattern(number: int, byte_count: int) -> bytes:
    """Bytes that differ from packet to packet."""
    return (number.to_bytes(8, "little") * (byte_count // 8 + 1))[:byte_count]


async def host(machine: Machine, options: argparse.Namespace) -> None:
    """Offer a channel and answer every packet with the checksum of what it carries."""
    offered = await machine.offer_channel(options.interface)
    print("offered", flush=True)
    taken = 0
    async for packet in offered:
        taken += 1
        if options.hold:
            if taken == options.hold:
                print("holding", flush=True)
            continue
        external = b""
        if packet.has_external_data:
            external = packet.external_data() if machine.memory.is_mapped else await packet.read_external_data()
        await packet.complete(checksum(packet.payload, external))


async def guest(machine: Machine, options: argparse.Namespace) -> None:
    """Send numbered packets with external data, several at once, and check every completion."""
    channel = await machine.open_channel(options.interface)
    print("opened", flush=True)
    numbers = iter(range(options.count))
    done = 0

    async def send(size: int) -> None:
        nonlocal done
        buffer = await machine.allocate(size + 8)
        for number in numbers:
            external = pattern(number, size)
            await machine.write_memory(buffer.range, external)
            payload = number.to_bytes(8, "little")
            reply = await channel.send_with_external_mdl(payload, buffer.mdl, offset=0, length=size)
            if reply != checksum(payload, external):
                raise SystemExit(f"packet {number} was answered with {reply.hex()}")
            done += 1
            if options.every and done % options.every == 0:
                print(f"done {done}", flush=True)

    async with trio.open_nursery() as nursery:
        for index in range(options.flight):
            nursery.start_soon(send, 64 + 61 * (index % 64))
    print(f"finished {done}", flush=True)


async def flood(machine: Machine, options: argparse.Namespace) -> None:
    """Send packets that wait for a completion, and say with what status each one ended."""
    channel = await machine.open_channel(options.interface)
    ended: list[str] = []

    async def send(number: int) -> None:
        try:
            await channel.send(number.to_bytes(8, "little"))
            ended.append("SUCCESS")
        except RequestFailed as failure:
            ended.append(failure.status.name)

    async with trio.open_nursery() as nursery:
        for number in range(options.count):
            nursery.start_soon(send, number)
        print("flooding", flush=True)
    print("ended " + " ".join(sorted(set(ended))) + f" {len(ended)}", flush=True)


async def both(machine: Machine, options: argparse.Namespace) -> None:
    """Guest of one channel and host of another, both crowded: packets both ways on each, in rings of one page."""
    offered = await machine.offer_channel(options.offer)
    print("offered", flush=True)
    channel = await machine.open_channel(options.interface, send_pages=1, receive_pages=1)
    await offered.opened()
    answered = 0

    async def answer(end: Channel | OfferedChannel) -> None:
        async for packet in end:
            await packet.complete(checksum(packet.payload, b""))

    async def send(end: Channel | OfferedChannel, first: int) -> None:
        nonlocal answered
        for number in range(first, options.count, options.flight):
            payload = pattern(number, 8 * (number % 100 + 1))
            if await end.send(payload) != checksum(payload, b""):
                raise SystemExit(f"packet {number} was answered wrongly")
            answered += 1

    async with trio.open_nursery() as answering:
        for end in (channel, offered):
            answering.start_soon(answer, end)
        async with trio.open_nursery() as sending:
            for end in (channel, offered):
                for first in range(options.flight):
                    sending.start_soon(send, end, first)
        print(f"finished {answered}", flush=True)  # and go on answering until ended


async def datagrams(machine: Machine, options: argparse.Namespace) -> None:
    """Answer every datagram with itself, reversed."""
    address = await machine.open_address((options.address, options.port), network=options.network)
    print(f"listening {address.local[0]} {address.local[1]}", flush=True)
    async for datagram in address:
        await address.send_datagram(datagram.data[::-1], datagram.source)


PROGRAMS: dict[str, Callable[[Machine, argparse.Namespace], Awaitable[None]]] = {
    "host": host,
    "guest": guest,
    "flood": flood,
    "both": both,
    "datagrams": datagrams,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--machine", default="vm1")
    parser.add_argument("--interface", default=ECHO)
    parser.add_argument("--offer", default=ECHO)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--flight", type=int, default=16)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--unmapped", action="store_true")
    parser.add_argument("--network", default="udp")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()

    async def run() -> None:
        place, keys = os.environ.get("VMBUS_PLACE"), os.environ.get("VMBUS_CREDENTIALS")
        async with connect(place, name=options.program, map_memory=not options.unmapped, credentials=keys) as daemon:
            await PROGRAMS[options.program](await daemon.machine(options.machine), options)

    trio.run(run)


if __name__ == "__main__":
    main()

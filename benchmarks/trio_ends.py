"""The two ends with trio: through ``clients.connect``, or plain trio streams through a relay.

``python -m benchmarks.trio_ends near|far FACE CARRIER DIRECTORY ECHO_PORT``. The near end takes measurements from
standard input; the far end serves until it is killed. The near end waits for its next measurement without giving trio
its turn: between two measurements there is nothing to do.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import repeat
from time import perf_counter_ns
from typing import Protocol

import trio

from benchmarks import timing
from benchmarks.raw import (
    ANSWER_BYTES,
    HEADER_BYTES,
    QUESTION,
    RECEIVE_BYTES,
    UDP,
    Batch,
    answer,
    daemon_path,
    relay_path,
    require,
)
from benchmarks.rows import (
    BY_LIBRARY,
    COALESCED_PACKETS,
    CONCURRENT_SENDERS,
    DIRECT_RING_PAGES,
    EXTERNAL_BYTES,
    INTERFACES,
    MACHINE,
    ROUND_TRIPS,
    Carrier,
    Measure,
)
from benchmarks.timing import Command, Setting
from clients import Address, Buffer, Channel, OfferedChannel, connect


class Link(Protocol):
    """The near end of a carrier."""

    async def exchange(self, batch: Batch) -> Callable[[], Awaitable[None]]:
        """Announce a batch of round trips; the call that does one of them."""

    async def pour(self, batch: Batch) -> int:
        """Send a batch one way; how many messages the far end counted."""


class LibraryLink:
    """A guest of the daemon's, hosted or direct as the carrier says."""

    def __init__(self, channel: Channel, buffer: Buffer, address: Address, echo_port: int) -> None:
        self._channel = channel
        self._buffer = buffer
        self._address = address
        self._echo = "127.0.0.1", echo_port

    async def exchange(self, batch: Batch) -> Callable[[], Awaitable[None]]:
        payload = bytes(batch.message_bytes)
        send, address, echo = self._channel.send, self._address, self._echo

        async def packet() -> None:
            require(len(await send(payload)), len(payload), "bytes of a completion")

        async def datagram() -> None:
            await address.send_datagram(payload, echo)
            require(len((await anext(address)).data), len(payload), "bytes of a datagram")

        if batch.measure is Measure.EXTERNAL:
            return self._exchange_external(payload)
        return datagram if batch.measure is Measure.DATAGRAM else packet

    def _exchange_external(self, payload: bytes) -> Callable[[], Awaitable[None]]:
        buffer = self._buffer
        mdl, send = buffer.mdl, self._channel.send_with_external_mdl

        async def external() -> None:
            buffer.write(0, payload)
            require(int.from_bytes(await send(b"take", mdl), "little"), len(payload), "bytes of external data")

        return external

    async def pour(self, batch: Batch) -> int:
        payload = bytes(batch.message_bytes)
        if batch.measure is Measure.SENDS:
            await self._send_concurrently(payload, batch.messages)
        else:
            await self._channel.post(repeat(payload, batch.messages))
        return int.from_bytes(await self._channel.send(QUESTION), "little")

    async def _send_concurrently(self, payload: bytes, count: int) -> None:
        numbers = iter(range(count))

        async def sender() -> None:
            for _ in numbers:
                await self._channel.send(payload, flags=0)

        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENT_SENDERS):
                nursery.start_soon(sender)


class RawLink:
    """A client of a relay."""

    def __init__(self, stream: trio.SocketStream, datagrams: trio.SocketStream | None) -> None:
        self._stream = stream
        self._datagrams = datagrams

    async def exchange(self, batch: Batch) -> Callable[[], Awaitable[None]]:
        payload = bytes(batch.message_bytes)
        stream, answer_bytes = self._stream, batch.message_bytes
        if batch.measure is Measure.DATAGRAM and self._datagrams is not None:
            stream = self._datagrams
        else:
            await stream.send_all(batch.pack())
        if batch.measure is Measure.EXTERNAL:
            answer_bytes = ANSWER_BYTES

        async def trip() -> None:
            await stream.send_all(payload)
            await receive(stream, answer_bytes)

        return trip

    async def pour(self, batch: Batch) -> int:
        """Coalesced as ``post`` does it, or one write for each message as ``send`` does it."""
        stream, left = self._stream, batch.messages
        await stream.send_all(batch.pack())
        messages = COALESCED_PACKETS if batch.measure is Measure.POST else 1
        run = bytes(batch.message_bytes) * messages
        while left >= messages:
            await stream.send_all(run)
            left -= messages
        await stream.send_all(run[: left * batch.message_bytes])
        return int.from_bytes(await receive(stream, ANSWER_BYTES), "little")


async def receive(stream: trio.SocketStream, byte_count: int) -> bytes:
    """So many bytes; EOFError when the peer has gone."""
    data = await stream.receive_some(byte_count)
    if len(data) == byte_count:
        return bytes(data)
    parts = bytearray(data)
    while data and len(parts) < byte_count:
        data = await stream.receive_some(byte_count - len(parts))
        parts += data
    if not data:
        raise EOFError
    return bytes(parts)


# ---- near


async def time_round_trips(link: Link, batch: Batch) -> list[int]:
    """What each of a batch took, in nanoseconds."""
    trip = await link.exchange(batch)
    samples = []
    before = perf_counter_ns()
    for _ in range(batch.messages):
        await trip()
        after = perf_counter_ns()
        samples.append(after - before)
        before = after
    return samples


async def time_pouring(link: Link, batch: Batch) -> int:
    """What a whole batch took, until the far end said how many had come; in nanoseconds."""
    before = perf_counter_ns()
    came = await link.pour(batch)
    elapsed = perf_counter_ns() - before
    require(came, batch.messages, "packets at the far end")
    return elapsed


async def measure(link: Link, command: Command) -> dict[str, float]:
    """One measurement, after a trial that warms up and says how many messages are a batch."""
    batch = Batch(command.measure, command.message_bytes, command.warm_up)
    nanoseconds, left = command.nanoseconds, command.nanoseconds
    if command.measure in ROUND_TRIPS:
        batch = timing.sized(batch, command, sum(await time_round_trips(link, batch)))
        samples: list[int] = []
        while left > 0:
            samples += (taken := await time_round_trips(link, batch))
            left -= sum(taken)
        return timing.round_trip(samples)
    while timing.says_little(command, elapsed := await time_pouring(link, batch)):
        batch = batch._replace(messages=4 * batch.messages)
    batch = timing.sized(batch, command, elapsed)
    messages = 0
    while left > 0:
        left -= await time_pouring(link, batch)
        messages += batch.messages
    return timing.rate(messages, nanoseconds - left)


async def near(setting: Setting) -> None:
    """Take measurements as they are asked for."""
    async with AsyncExitStack() as stack:
        link: Link
        if setting.carrier in BY_LIBRARY:
            connection = await stack.enter_async_context(connect(daemon_path(setting.directory), name="near"))
            machine = await connection.machine(MACHINE)
            pages = DIRECT_RING_PAGES if setting.carrier is Carrier.DIRECT else 0
            channel = await machine.open_channel(
                INTERFACES[setting.face], mode=setting.carrier, send_pages=pages, receive_pages=pages
            )
            address = await machine.open_address(("127.0.0.1", 0))
            link = LibraryLink(channel, await machine.allocate(EXTERNAL_BYTES), address, setting.echo_port)
        else:
            stream = await stack.enter_async_context(await _connected(setting, setting.carrier))
            datagrams = None
            if setting.carrier is Carrier.RELAY:
                datagrams = await stack.enter_async_context(await _connected(setting, UDP))
            link = RawLink(stream, datagrams)
        timing.say("ready")
        for command in timing.commands():
            timing.say(await measure(link, command))


async def _connected(setting: Setting, name: str) -> trio.SocketStream:
    stream = await trio.open_unix_socket(relay_path(setting.directory, name, setting.face))
    assert isinstance(stream, trio.SocketStream)
    return stream


# ---- far


async def far(setting: Setting) -> None:
    """Serve the near end until it goes."""
    if setting.carrier in BY_LIBRARY:
        async with connect(daemon_path(setting.directory), name="far") as connection:
            machine = await connection.machine(MACHINE)
            offered = await machine.offer_channel(INTERFACES[setting.face], mode=setting.carrier)
            timing.say("ready")
            await (serve_runs if setting.carrier is Carrier.DIRECT else serve_packets)(offered)
    else:
        async with await _connected(setting, setting.carrier) as stream:
            timing.say("ready")
            while True:
                await serve_batch(stream, Batch.unpack(await receive(stream, HEADER_BYTES)))


async def serve_packets(offered: OfferedChannel) -> None:
    """Complete with the payload, with the length of external data, or with the count of packets to be counted."""
    counted = 0
    async for packet in offered:
        if packet.has_external_data:
            await packet.complete(answer(len(packet.external_data())))
        elif not packet.wants_completion:
            counted += 1
        elif packet.payload == QUESTION:
            await packet.complete(answer(counted))
            counted = 0
        else:
            await packet.complete(packet.payload)


async def serve_runs(offered: OfferedChannel) -> None:
    """The same for a host that collects what needs no completion once some has come; no packet has external data."""
    counted = 0
    async for packet in offered:
        if not packet.wants_completion:
            counted += 1
            while payloads := await offered.collect():
                counted += len(payloads)
        elif packet.payload == QUESTION:
            await packet.complete(answer(counted))
            counted = 0
        else:
            await packet.complete(packet.payload)


async def serve_batch(stream: trio.SocketStream, batch: Batch) -> None:
    """Do the far end's part of a batch."""
    if batch.measure is Measure.ROUND_TRIP:
        for _ in range(batch.messages):
            await stream.send_all(await receive(stream, batch.message_bytes))
    elif batch.measure is Measure.EXTERNAL:
        for _ in range(batch.messages):
            await stream.send_all(answer(len(await receive(stream, batch.message_bytes))))
    else:
        came, wanted = 0, batch.messages * batch.message_bytes
        while came < wanted:
            came += len(await receive(stream, min(RECEIVE_BYTES, wanted - came)))
        await stream.send_all(answer(came // batch.message_bytes))


if __name__ == "__main__":
    chosen = timing.setting_from(sys.argv[1:])
    trio.run(near if chosen.end == "near" else far, chosen)

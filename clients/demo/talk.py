"""A conversation in datagrams: one side asks with numbered datagrams, the other sends each back as it came.

It knows only how to send and how to receive, so it serves a TDI address and an ordinary socket alike.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import trio

from clients.demo.telling import WrongAnswer

Peer = tuple[str, int]
Send = Callable[[bytes, Peer], Awaitable[None]]
Receive = Callable[[], Awaitable[tuple[bytes, Peer]]]
Progress = Callable[[int], None]

# Few enough that no receive buffer overflows: a datagram that is lost is not sent again.
IN_FLIGHT = 16
LOST_SECONDS = 10.0
NUMBER = struct.Struct("<Q")
FILLING = bytes(range(256)) * 2


async def echo(send: Send, receive: Receive, count: int) -> None:
    """Send back the next ``count`` datagrams to where each came from."""
    for _ in range(count):
        data, source = await receive()
        await send(data, source)


async def ask(send: Send, receive: Receive, peer: Peer, count: int, advance: Progress) -> int:
    """Send ``count`` datagrams to ``peer`` and wait for each to come back; the bytes sent."""
    waiting: dict[int, bytes] = {}
    room = trio.Semaphore(IN_FLIGHT)

    async def send_all() -> None:
        for number in range(count):
            await room.acquire()
            waiting[number] = NUMBER.pack(number) + FILLING
            await send(waiting[number], peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        for _ in range(count):
            with trio.move_on_after(LOST_SECONDS) as scope:
                data, source = await receive()
            if scope.cancelled_caught:
                missing = ", ".join(map(str, sorted(waiting))) or "none"
                raise WrongAnswer(f"nothing came back in {LOST_SECONDS:g} s; unanswered datagrams: {missing}")
            _check(waiting, data, source, peer)
            room.release()
            advance(1)
    return count * (NUMBER.size + len(FILLING))


def _check(waiting: dict[int, bytes], data: bytes, source: Peer, peer: Peer) -> None:
    """A datagram came: it must be one that is waited for, unchanged, from the peer."""
    number = NUMBER.unpack_from(data)[0] if len(data) >= NUMBER.size else -1
    if source != peer or waiting.pop(number, None) != data:
        raise WrongAnswer(f"{len(data)} bytes came from {source} that are no answer to a datagram sent to {peer}")

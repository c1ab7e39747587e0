"""The datagrams of the demonstration: between the machines, and with an ordinary UDP socket outside, both ways."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from clients.demo.report import Result
from clients.demo.talk import Peer, ask, echo

if TYPE_CHECKING:
    from clients.demo.story import Stage

LOOPBACK = "127.0.0.1"
END_OF_SEGMENT = "10.0.0.2"

Conversation = Callable[[], Awaitable[Any]]


class OutsideSocket:
    """A UDP socket that knows nothing of machines."""

    def __init__(self) -> None:
        self._socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)

    async def bind(self) -> Peer:
        """Take a free port; where it is."""
        await self._socket.bind((LOOPBACK, 0))
        host, port = self._socket.getsockname()
        return host, port

    async def send(self, data: bytes, peer: Peer) -> None:
        """Send one datagram."""
        await self._socket.sendto(data, peer)

    async def receive(self) -> tuple[bytes, Peer]:
        """The next datagram, and where it is from."""
        data, (host, port) = await self._socket.recvfrom(65535)
        return data, (host, port)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


async def exchange_datagrams(stage: Stage, count: int) -> list[Result]:
    """``count`` questions and answers on each of the three ways."""
    results = [await _between_machines(stage, count)]
    outside = OutsideSocket()
    try:
        peer = await outside.bind()
        results.append(await _machine_asks_outside(stage, count, outside, peer))
        results.append(await _outside_asks_machine(stage, count, outside))
    finally:
        outside.close()
    return results


async def _between_machines(stage: Stage, count: int) -> Result:
    answering = await stage.start("datagram program of vm2", "datagram_peer", "vm2", "lan", END_OF_SEGMENT, count)
    local = await answering.expect("ready")
    name = "lan, vm1 and vm2"
    step = stage.display.step(f"datagrams: {name}", count)
    peer = local["host"], local["port"]
    asking = await stage.start("datagram program of vm1", "datagram_peer", "vm1", "lan", "0.0.0.0", count, *peer)
    await asking.expect("ready")
    asked = await stage.follow(asking, step)
    answered = await stage.follow(answering, None)
    return _result(name, count, asked, asked["completions"] + answered["completions"])


async def _machine_asks_outside(stage: Stage, count: int, outside: OutsideSocket, peer: Peer) -> Result:
    name = "udp, vm1 asks"
    step = stage.display.step(f"datagrams: {name}", count)
    asking = await stage.start("datagram program of vm1", "datagram_peer", "vm1", "udp", LOOPBACK, count, *peer)
    await asking.expect("ready")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, outside.send, outside.receive, count)
        asked = await stage.follow(asking, step)
    return _result(name, count, asked, asked["completions"])


async def _outside_asks_machine(stage: Stage, count: int, outside: OutsideSocket) -> Result:
    name = "udp, vm2 answers"
    step = stage.display.step(f"datagrams: {name}", count)
    answering = await stage.start("datagram program of vm2", "datagram_peer", "vm2", "udp", LOOPBACK, count)
    local = await answering.expect("ready")
    peer = local["host"], local["port"]
    began = time.monotonic()
    byte_count = await ask(outside.send, outside.receive, peer, count, step.advance)
    ended = time.monotonic()
    answered = await stage.follow(answering, None)
    asked = {"began": began, "ended": ended, "bytes": byte_count}
    return _result(name, count, asked, answered["completions"])


def _result(name: str, count: int, asked: dict[str, Any], completions: int) -> Result:
    """Every question came back: twice as many datagrams, and bytes, as were asked."""
    return Result(name, 2 * count, completions, 2 * asked["bytes"], asked["ended"] - asked["began"])

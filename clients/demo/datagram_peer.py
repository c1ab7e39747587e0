"""A program that talks in datagrams through a transport address: it sends back what comes, or asks a peer."""

from __future__ import annotations

import time

from clients.connection import connect
from clients.demo.talk import Peer, ask, echo
from clients.demo.telling import Ticker, WrongAnswer, run_child, tell
from clients.tdi import Address


class Talker:
    """An address as a conversation sees it; counts how many sends were completed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.completions = 0

    async def send(self, data: bytes, peer: Peer) -> None:
        """Send one, and see that all of it went."""
        outcome = await self._address.send_datagram(data, peer)
        if outcome.information != len(data):
            raise WrongAnswer(f"a send of {len(data)} bytes was completed with {outcome}")
        self.completions += 1

    async def receive(self) -> tuple[bytes, Peer]:
        """The next one that arrives."""
        datagram = await anext(self._address)
        return datagram.data, (datagram.source[0], datagram.source[1])


async def main(
    socket: str, machine_name: str, network: str, host: str, count: str, peer_host: str = "", peer_port: str = "0"
) -> None:
    """Open an address and tell which. With a peer, ask it ``count`` times; without, answer so often."""
    async with connect(socket, name="demo-datagrams", map_memory=False) as daemon:
        machine = await daemon.machine(machine_name)
        async with await machine.open_address((host, 0), network=network) as address:
            talker = Talker(address)
            tell("ready", host=address.local[0], port=address.local[1])
            began, byte_count = time.monotonic(), 0
            if peer_host:
                ticker = Ticker()
                peer = peer_host, int(peer_port)
                byte_count = await ask(talker.send, talker.receive, peer, int(count), ticker.advance)
                ticker.flush()
            else:
                await echo(talker.send, talker.receive, int(count))
            ended = time.monotonic()
            tell("done", began=began, ended=ended, completions=talker.completions, bytes=byte_count)


if __name__ == "__main__":
    run_child(main)

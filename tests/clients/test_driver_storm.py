"""Two drivers that do whatever comes to mind, through a daemon: callbacks in order, packets end, nothing is left."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from clients import RequestFailed
from clients.driver import DriverSend
from clients.driver_channel import DriverChannel
from emulator.status import Refused
from tests.clients.driver_pair import Seen, guest_of, host_of, machines

LETTERS = {"opened": "O", "started": "S", "post_started": "P", "suspend": "U", "closed": "C"}
LIVES = re.compile(r"(O((SPU)*C)?)*")
STEPS = 60
STEP_SECONDS = 0.02

PAIRS = [("hosted", "hosted"), ("direct", "hosted"), ("hosted", "direct"), ("direct", "direct")]
MODES = pytest.mark.parametrize(("guest_mode", "host_mode"), PAIRS)


class Whim:
    """One driver that acts at random."""

    def __init__(self, channel: DriverChannel, chance: random.Random) -> None:
        self.channel = channel
        self.sent: list[DriverSend] = []
        self._chance = chance

    async def step(self) -> None:
        """Something, legal or not, for as long as a step lasts."""
        calls: list[Callable[[], Awaitable[object]]] = [
            self.channel.enable,
            self.channel.enable,
            self.channel.disable,
            self.channel.start,
            self.channel.start,
            self.channel.pause,
            self._send,
            self._send,
            self._send,
            self._quota,
        ]
        with trio.move_on_after(STEP_SECONDS):
            try:
                await self._chance.choice(calls)()
            except (RequestFailed, Refused):
                await trio.lowlevel.checkpoint()

    async def _send(self) -> None:
        for _ in range(self._chance.randrange(8)):
            flags = self._chance.randrange(2)
            self.sent.append(self.channel.submit(bytes(self._chance.randrange(600)), flags=flags))
        await trio.lowlevel.checkpoint()

    async def _quota(self) -> None:
        await self.channel.set_transaction_quota(self._chance.randrange(1, 9))

    async def receive(self) -> None:
        """Complete what comes, some of it late, for ever."""
        while True:
            async for packet in self.channel:
                if self._chance.random() < 0.2:
                    packet.defer()
                    continue
                await trio.sleep(self._chance.choice((0, 0, 0.002)))
                await packet.complete(b"answer")
            await trio.lowlevel.checkpoint()


@MODES
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_two_drivers_do_every_packet_ends_and_nothing_is_left(
    tmp_path: Path, guest_mode: str, host_mode: str, seed: int
) -> None:
    chance = random.Random(seed)
    seen_by_guest, seen_by_host = Seen(), Seen()
    async with machines(tmp_path) as (server, near, far):
        machine = server.machines["vm1"]
        await near._connection.ping()
        free = machine.pages.free_pages
        guest = Whim(guest_of(near, seen_by_guest, guest_mode), chance)
        host = Whim(host_of(far, seen_by_host, host_mode), chance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.receive)
            nursery.start_soon(host.receive)
            await host.channel.enable()
            for _ in range(STEPS):
                await chance.choice((guest, host)).step()
            for each in (guest, host):
                await each.channel.disable()
            nursery.cancel_scope.cancel()
        for each in (guest, host):
            await each.channel.cleanup()
            assert all(sent.done for sent in each.sent)
        for seen in (seen_by_guest, seen_by_host):
            names = [name for name in seen.names if not name.startswith("pnp_failure")]
            assert LIVES.fullmatch("".join(LETTERS[name] for name in names)), seen.names
        await near._connection.ping()
        await far._connection.ping()
        assert machine.describe_channels() == []
        assert machine.pages.free_pages == free
        assert machine.failure is None

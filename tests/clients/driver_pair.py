"""Two programs with driver channels against one daemon in this process, and what they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import trio

from clients import Machine, connect
from clients.driver import ChannelCallbacks, DriverPhase
from clients.driver_channel import DriverChannel
from emulator.config import Config
from emulator.daemon.server import Server
from emulator.vmbus.profile import Side
from tests.daemon.raw import served

DISK = UUID("0e2f8f35-64b1-4f4c-9d2c-5a1e000000d1")
PATIENCE_SECONDS = 20.0
NAMES = ("opened", "closed", "started", "post_started", "suspend")

State = Callable[[DriverChannel], Awaitable[object]]


class Seen:
    """The callbacks of one channel, in order. ``also`` runs inside one of them, and may return its status."""

    def __init__(self, **also: State) -> None:
        self.names: list[str] = []
        self.running = 0
        self._also = also
        self._changed = trio.Event()

    async def until(self, *names: str) -> None:
        """Until these have been called, and no others."""
        while self.names != list(names) or self.running:
            await self._changed.wait()

    def callbacks(self) -> ChannelCallbacks:
        return ChannelCallbacks(**{name: self._one(name) for name in NAMES}, pnp_failure=self._pnp_failure)

    def _one(self, name: str) -> State:
        async def run(channel: DriverChannel) -> object:
            assert not self.running, "one at a time"
            self.running += 1
            self.names.append(name)
            try:
                also = self._also.get(name)
                return await also(channel) if also is not None else None
            finally:
                self.running -= 1
                self._changed.set()
                self._changed = trio.Event()

        return run

    async def _pnp_failure(self, channel: DriverChannel, status: object) -> None:
        self.names.append(f"pnp_failure {status!s}")


def host_of(machine: Machine, seen: Seen, mode: str = "hosted") -> DriverChannel:
    channel = machine.allocate_channel(Side.HOST, callbacks=seen.callbacks(), mode=mode)
    channel.setup.set_target_interface(DISK)
    return channel


def guest_of(machine: Machine, seen: Seen, mode: str = "hosted") -> DriverChannel:
    channel = machine.allocate_channel(Side.GUEST, callbacks=seen.callbacks(), mode=mode)
    channel.setup.set_target(DISK)
    return channel


@asynccontextmanager
async def machines(tmp_path: Path, config: Config | None = None) -> AsyncIterator[tuple[Server, Machine, Machine]]:
    """A daemon, and two connections of one machine: a guest's and a host's."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with served(tmp_path, config) as (server, path), connect(path) as one, connect(path) as two:
            yield server, await one.machine("vm1"), await two.machine("vm1")


async def both_active(guest: DriverChannel, host: DriverChannel) -> None:
    """Enable both, and wait until both are active."""
    await host.enable()
    await host.start()
    await guest.enable()
    await active(guest)
    await active(host)


async def active(channel: DriverChannel) -> None:
    """Until it is active, and PostStarted has returned."""
    await channel.until(DriverPhase.OPEN, active=True)
    while channel._state.running is not None:
        await channel._connection.wait_for(channel._state)


async def echo(channel: DriverChannel) -> None:
    """Complete every packet with its own bytes."""
    async for packet in channel:
        await packet.complete(packet.payload)

"""A session that ends lets go of things on several machines: a fault in one machine's core keeps none of the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from emulator.daemon.server import Server
from emulator.tdi.constants import FileKind
from tests.daemon.raw import GRANT, RawClient, raw_client, served
from tests.daemon.test_driver_requests import allocated

INTERFACE = bytes(16)
ADDRESSES = {1: "10.0.0.1", 2: "10.0.0.2"}
Holding = Callable[[RawClient, int], Awaitable[object]]


async def an_offer(client: RawClient, machine: int) -> object:
    return await client.offer(INTERFACE, machine)


async def a_channel(client: RawClient, machine: int) -> object:
    await client.offer(INTERFACE, machine)
    return await client.open(INTERFACE, machine)


async def an_address(client: RawClient, machine: int) -> object:
    return await client.call("address.open", machine, "lan", ADDRESSES[machine], 0, False, *GRANT)


async def a_connection(client: RawClient, machine: int) -> object:
    return await client.call("connection.open", machine, "lan", 0)


async def a_bus(client: RawClient, machine: int) -> object:
    return await client.call("bus.attach", machine)


async def a_filter(client: RawClient, machine: int) -> object:
    return await client.call("filter.attach", machine, "lan", False)


async def memory(client: RawClient, machine: int) -> object:
    return await client.call("memory.allocate", machine, 5)


def fault(*_args: object, **_named: object) -> None:
    raise ZeroDivisionError("a fault in the core")


HOLDINGS: list[tuple[Holding, str, str]] = [
    (an_offer, "bus", "revoke"),
    (a_channel, "bus", "revoke"),
    (an_address, "datagrams._transport", "cleanup"),
    (a_connection, "datagrams._transport", "cleanup"),
    (a_bus, "bus", "detach"),
    (a_filter, "datagrams.filters", "remove"),
    (memory, "pages", "release"),
]


@pytest.mark.parametrize(("hold", "where", "what"), HOLDINGS, ids=[each[0].__name__ for each in HOLDINGS])
async def test_a_fault_while_a_session_ends_ends_its_machine_alone(
    tmp_path: Path, hold: Holding, where: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as watcher:
        await watcher.hello()
        idle = state(server)
        async with raw_client(path) as client:
            await client.attach()
            await client.call("machine.attach", "vm2", False)
            for machine in (1, 2):
                await hold(client, machine)
            assert state(server) != idle
            owner: object = server.machines["vm1"]
            for name in where.split("."):
                owner = getattr(owner, name)
            monkeypatch.setattr(owner, what, fault)
        while server.session_count > 1:
            await trio.lowlevel.checkpoint()
        assert (server.machines["vm1"].failure or "").startswith("ZeroDivisionError")
        assert server.machines["vm2"].failure is None
        assert state(server) == idle, "vm2 has nothing of that session's any more"
        await watcher.call("ping")


async def test_a_fault_in_a_driver_channels_life_ends_its_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as watcher:
        await watcher.hello()
        async with raw_client(path) as client:
            await client.attach()
            await allocated(client, True)
            monkeypatch.setattr("emulator.vmbus.life_cycle.LifeCycle.abort", fault)
        while server.session_count > 1:
            await trio.lowlevel.checkpoint()
        assert (server.machines["vm1"].failure or "").startswith("ZeroDivisionError")
        assert server.machines["vm2"].failure is None
        await watcher.call("ping")


def state(server: Server) -> list[object]:
    """What is held on vm2."""
    machine = server.machines["vm2"]
    files = sum(machine.datagrams._transport.open_files(kind) for kind in FileKind)
    return [
        len(machine.offers),
        len(machine.channels),
        machine.pages.free_pages,
        machine.bus.bus_guest is None,
        len(machine.datagrams.filters._ends),
        files,
        len(machine.attached_sessions),
    ]

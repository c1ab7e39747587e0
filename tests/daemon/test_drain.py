"""What holds up a daemon that stops: what is on its way, and not what waits for something others may never do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from emulator.daemon.server import Server
from emulator.memory import PAGE_SIZE, Mdl
from emulator.tdi import builders
from emulator.tdi.constants import DisconnectFlags
from emulator.tdi.layout import Arch
from emulator.wire.runs import pack_mdl_chain, unpack_pfns
from tests.daemon.raw import GRANT, RawClient, raw_client, served
from tests.daemon.test_driver_requests import DISK, OPENED, both_started, called, enabled
from tests.daemon.test_tcp_requests import opened

SEGMENT = "lan"
Start = Callable[[RawClient], Awaitable[int]]


def is_quiet(server: Server) -> list[bool]:
    """Of each session with a request that waits, in the order they came: whether it would let the daemon stop."""
    return [session.is_quiet for session in server.sessions() if session.pending]


async def listen(client: RawClient) -> int:
    return await client.start("connection.listen", 2, 0, "", 0, b"")


async def raw_listen(client: RawClient) -> int:
    return await client.start("irp.submit", 2, 8, builders.listen(Arch.X64, 0, 0, 0).image, b"", 0, b"")


async def receive_datagram(client: RawClient) -> int:
    return await client.start("address.receive_datagram", 1, 100, "", 0, 0)


async def raw_receive_datagram(client: RawClient) -> int:
    pfns = unpack_pfns((await client.call("memory.allocate", 1, 1))[0])
    location = builders.receive_datagram(Arch.X64, 0, 0, 0, 0x20).image
    return await client.start("irp.submit", 1, 8, location, b"", 0, pack_mdl_chain(Mdl(0, PAGE_SIZE, pfns)))


@pytest.mark.parametrize("start", [listen, raw_listen, receive_datagram, raw_receive_datagram])
async def test_what_waits_for_a_peer_to_come_holds_nothing_up(tmp_path: Path, start: Start) -> None:
    async with opened(tmp_path, SEGMENT) as it:
        waiting = await start(it.far)
        await it.far.call("ping")
        assert is_quiet(it.server) == [True]
        assert waiting not in it.far.answers


async def receive(client: RawClient) -> int:
    return await client.start("connection.receive", 2, 0, 100)


async def raw_receive(client: RawClient) -> int:
    pfns = unpack_pfns((await client.call("memory.allocate", 1, 1))[0])
    location = builders.receive(Arch.X64, 100, 0x20).image
    return await client.start("irp.submit", 2, 8, location, b"", 0, pack_mdl_chain(Mdl(0, PAGE_SIZE, pfns)))


async def release(client: RawClient) -> int:
    return await client.start("connection.disconnect", 2, int(DisconnectFlags.RELEASE), None, b"")


@pytest.mark.parametrize("start", [receive, raw_receive, release])
async def test_what_waits_for_the_peer_of_a_connection_holds_nothing_up(tmp_path: Path, start: Start) -> None:
    async with opened(tmp_path, SEGMENT) as it:
        await it.connect()
        waiting = await start(it.near)
        await it.near.call("ping")
        assert is_quiet(it.server) == [True]
        assert waiting not in it.near.answers


async def test_data_that_wait_for_their_peer_to_receive_are_on_their_way(tmp_path: Path) -> None:
    async with opened(tmp_path, SEGMENT) as it:
        await it.connect()
        for _ in range(2):
            await it.near.start("connection.send", 2, 0, bytes(60_000))
        await receive(it.near)
        await it.near.call("ping")
        assert is_quiet(it.server) == [False]


async def test_an_open_that_waits_for_an_offer_holds_nothing_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest:
        await guest.attach()
        await guest.start("channel.open", 1, DISK, None, True, 0, 0, *GRANT)
        await guest.call("ping")
        assert is_quiet(server) == [True]


async def test_an_open_that_waits_for_a_hosts_driver_holds_nothing_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await enabled(host, is_host=True)
        await guest.attach()
        await guest.start("channel.open", 1, DISK, None, True, 0, 0, *GRANT)
        _, args = await host.question("driver.callback")
        assert args[1] == OPENED
        assert is_quiet(server) == [True]


async def test_a_pause_that_waits_for_packets_holds_nothing_up_and_the_packets_do(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        channel, _ = await both_started(guest, host)
        sent = await guest.start("packet.send", channel, 1, b"asked", b"")
        _, packets = await host.notice("channel.packets"), await host.start("driver.pause", 1, False)
        await host.call("ping")
        assert is_quiet(server) == [False, True]
        assert not {sent, packets} & {*guest.answers, *host.answers}


async def test_a_disable_that_waits_for_its_driver_holds_nothing_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await both_started(guest, host)
        await host.start("driver.disable", 1, False)
        await called(host, 5)
        await host.call("ping")
        assert is_quiet(server) == [True]

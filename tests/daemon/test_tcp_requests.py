"""Connection endpoints as the daemon serves them to a client that says whatever it likes, on a segment and over TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from emulator.config import Config, LimitsConfig
from emulator.daemon.server import Server
from emulator.status import NtStatus
from emulator.tdi.constants import DisconnectFlags
from tests.daemon.raw import GRANT, Answered, RawClient, open_descriptors, raw_client, served

SUCCESS = int(NtStatus.SUCCESS)
RELEASE = int(DisconnectFlags.RELEASE)
NETWORKS = {"lan": ("10.0.0.1", "10.0.0.2"), "tcp": ("127.0.0.1", "127.0.0.1")}
on_both = pytest.mark.parametrize("network", NETWORKS)


class Pair:
    """Two clients with an address and an associated endpoint each: 1 is the address, 2 the endpoint."""

    def __init__(self, server: Server, near: RawClient, far: RawClient, to: tuple[str, int]) -> None:
        self.server = server
        self.near = near
        self.far = far
        self.to = to

    async def connect(self) -> None:
        listen = await self.far.start("connection.listen", 2, 0, "", 0, b"")
        await self.far.call("ping")
        found = await self.near.call("connection.connect", 2, *self.to, None, b"")
        assert (found[0], tuple(found[3:5])) == (SUCCESS, self.to)
        assert (await self.far.answer(listen))[0] == SUCCESS


@asynccontextmanager
async def opened(tmp_path: Path, network: str, **limits: Any) -> AsyncIterator[Pair]:
    config = Config(limits=LimitsConfig(**limits))
    async with served(tmp_path, config) as (server, path), raw_client(path) as near, raw_client(path) as far:
        to = ("", 0)
        for client, machine, host in ((near, "vm1", NETWORKS[network][0]), (far, "vm2", NETWORKS[network][1])):
            await client.attach(machine)
            _, host, port, *_ = await client.call("address.open", 1, network, host, 0, False, *GRANT)
            number, *window = await client.call("connection.open", 1, network, 0xC0FFEE)
            assert number == 2, "addresses and connections count together"
            assert window == [config.limits.connection_window_sends, config.limits.connection_window_bytes]
            assert (await client.call("connection.associate", 2, 1))[0] == SUCCESS
            to = (host, port)
        yield Pair(server, near, far, to)


@on_both
async def test_requests_travel_as_the_table_has_them(tmp_path: Path, network: str) -> None:
    async with opened(tmp_path, network) as it:
        await it.connect()
        assert await it.near.call("connection.send", 2, 0, b"question") == [SUCCESS, 8, ""]
        assert await it.far.call("connection.receive", 2, 0, 100) == [SUCCESS, 8, "", b"question"]
        status, information, _, data = await it.far.call("connection.query", 2, 4, 100)
        assert (status, information, len(data)) == (SUCCESS, 56, 56)
        release = await it.near.start("connection.disconnect", 2, RELEASE, None, b"")
        refused = await it.far.call("connection.receive", 2, 0, 100)
        assert (refused[0], refused[3]) == (NtStatus.REMOTE_DISCONNECT, b"")
        assert refused[2].endswith("[C38]")
        assert (await it.far.call("connection.disconnect", 2, RELEASE, None, b""))[0] == SUCCESS
        assert (await it.near.answer(release))[0] == SUCCESS
        assert (await it.near.call("connection.disassociate", 2))[0] == SUCCESS


@on_both
async def test_c12_what_waits_can_be_cancelled(tmp_path: Path, network: str) -> None:
    async with opened(tmp_path, network) as it:
        listen = await it.far.start("connection.listen", 2, 0, "", 0, b"")
        await it.far.notify("cancel", listen)
        assert (await it.far.answer(listen))[0] == NtStatus.CANCELLED
        await it.connect()
        receive = await it.near.start("connection.receive", 2, 0, 10)
        await it.near.notify("cancel", receive)
        assert (await it.near.answer(receive))[0] == NtStatus.CANCELLED
        late = await it.near.call("connection.disconnect", 2, RELEASE, 0, b"")
        assert late[0] == NtStatus.IO_TIMEOUT


async def test_numbers_of_nobody_and_of_somebody_else(tmp_path: Path) -> None:
    async with opened(tmp_path, "lan") as it:
        with pytest.raises(Answered, match="has been closed") as closed:
            await it.near.call("connection.send", 1, 0, b"x")  # an address, which is no connection
        assert closed.value.status is NtStatus.FILE_CLOSED
        await it.near.call("machine.attach", "vm2", False)
        await it.near.call("address.open", 2, "lan", "0.0.0.0", 0, False, *GRANT)
        other = await it.near.call("connection.open", 2, "lan", 1)
        elsewhere = await it.near.call("connection.associate", other[0], 1)
        assert (elsewhere[0], elsewhere[2][-4:]) == (NtStatus.INVALID_HANDLE, "[C1]")
        await it.near.call("connection.close", 2)
        await it.near.call("connection.close", 2)
        with pytest.raises(Answered, match="has been closed"):
            await it.near.call("connection.receive", 2, 0, 1)
        await it.near.start("connection.receive", 99, 0, 1)
        assert (await it.near.goodbye())[0] is NtStatus.INVALID_PARAMETER


async def test_sending_past_the_window_ends_the_session(tmp_path: Path) -> None:
    async with opened(tmp_path, "lan", connection_window_sends=4) as it:
        await it.connect()
        reading = await it.far.start("connection.receive", 2, 0, 10)
        for _ in range(6):
            await it.near.start("connection.send", 2, 0, bytes(60_000))
        assert "although the window was used up" in (await it.near.goodbye())[1]
        answer = await it.far.answer(reading)
        assert answer[0] == NtStatus.BUFFER_OVERFLOW
        while answer[0] in (SUCCESS, NtStatus.BUFFER_OVERFLOW):
            answer = await it.far.call("connection.receive", 2, 0, 65_536)
        assert answer[0] == NtStatus.CONNECTION_RESET


async def test_limits_and_lengths_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, "lan", connections_per_session=2) as it:
        with pytest.raises(Answered, match="at most 262144 bytes"):
            await it.near.call("connection.receive", 2, 0, 262_145)
        await it.near.call("connection.open", 1, "lan", 1)
        with pytest.raises(Answered, match="already has 2 connections") as many:
            await it.near.call("connection.open", 1, "lan", 1)
        assert many.value.status is NtStatus.INSUFFICIENT_RESOURCES
        await it.near.call("connection.close", 2)
        await it.near.call("connection.open", 1, "lan", 1)
        with pytest.raises(Answered, match="carries datagrams only") as datagrams:
            await it.far.call("connection.open", 1, "udp", 1)
        assert datagrams.value.status is NtStatus.INVALID_PARAMETER


async def test_answers_wait_for_a_client_that_reads_late(tmp_path: Path) -> None:
    """Fifty receives end at once, with more data than the session's outbox may hold; all of them arrive."""
    async with opened(tmp_path, "lan", outbox_bytes=2 << 20, connection_window_bytes=64 << 20) as it:
        posted = []
        for number in range(3, 53):
            assert (await it.near.call("connection.open", 1, "lan", number))[0] == number
            assert (await it.far.call("connection.open", 1, "lan", number))[0] == number
            for client in (it.near, it.far):
                await client.call("connection.associate", number, 1)
            listen = await it.far.start("connection.listen", number, 0, "", 0, b"")
            await it.far.call("ping")
            await it.near.call("connection.connect", number, *it.to, None, b"")
            await it.far.answer(listen)
            posted.append(await it.far.start("connection.receive", number, 0, 65_536))
        await it.far.call("ping")
        for number in range(3, 53):
            assert (await it.near.call("connection.send", number, 0, bytes([number]) * 65_536))[0] == SUCCESS
        for number, msgid in enumerate(posted, 3):
            answer = await it.far.answer(msgid)
            assert (answer[0], answer[3]) == (SUCCESS, bytes([number]) * 65_536)


async def test_a_client_that_never_reads_its_receives_is_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, "lan", outbox_bytes=2 << 20, held_receive_bytes=1 << 20) as it:
        await it.connect()
        for _ in range(100):
            await it.far.start("connection.receive", 2, 0, 65_536)
        ended = False
        for _ in range(100):
            ended = ended or (await it.near.call("connection.send", 2, 0, bytes(65_536)))[0] != SUCCESS
        assert ended
        while await it.far.hear():
            pass  # up to the end: a goodbye finds no room in a socket nobody reads


async def test_a_host_that_is_no_address_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, "tcp") as it:
        for host, port in (("example.org", 80), ("", 80), ("127.0.0.1", 0), ("::1", 80)):
            refused = await it.near.call("connection.connect", 2, host, port, None, b"")
            assert refused[0] == NtStatus.INVALID_ADDRESS, host
        refused = await it.near.call("connection.listen", 2, 0, "nowhere", 0, b"")
        assert refused[0] == NtStatus.INVALID_ADDRESS


async def test_tcp_sockets_go_with_their_client(tmp_path: Path) -> None:
    async with opened(tmp_path, "tcp") as it:
        [described] = [machine.describe() for name, machine in it.server.machines.items() if name == "vm2"]
        assert (described["tcp_addresses"], described["tcp_connections"]) == (1, 0)
        before = open_descriptors()
        for _ in range(20):
            await it.connect()
            await it.near.call("connection.disconnect", 2, 2, None, b"")
            reset = await it.far.call("connection.receive", 2, 0, 10)
            assert reset[0] == NtStatus.CONNECTION_RESET
        assert open_descriptors() == before
        await it.connect()
        it.far.close()
        reset = await it.near.call("connection.receive", 2, 0, 10)
        assert reset[0] == NtStatus.CONNECTION_RESET
        await it.near.call("ping")
        described = it.server.machines["vm2"].describe()
        assert (described["tcp_addresses"], described["tcp_connections"]) == (0, 0)

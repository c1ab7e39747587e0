"""Datagrams between programs: over real UDP sockets, over a segment of the daemon's, and what the rules say of both."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
import trio

from clients import Address, RequestFailed, connect
from emulator.status import NtStatus
from emulator.tdi.constants import QueryType
from tests.support.processes import start_client, start_daemon

PROGRAMS = "tests.endtoend.programs"
UDP_LIMIT = 65_507
SEGMENT_LIMIT = 1_472
PATIENCE_SECONDS = 20.0


async def received(address: Address) -> bytes:
    with trio.fail_after(PATIENCE_SECONDS):
        return (await anext(aiter(address))).data


@pytest.mark.parametrize(
    ("network", "here", "there", "limit"),
    [("udp", "127.0.0.1", "127.0.0.1", UDP_LIMIT), ("lan", "10.0.0.1", "10.0.0.2", SEGMENT_LIMIT)],
    ids=["udp", "segment"],
)
async def test_programs_of_two_machines_exchange_datagrams(
    tmp_path: Path, network: str, here: str, there: str, limit: int
) -> None:
    where = ["--machine", "vm2", "--network", network, "--address", there]
    async with (
        start_daemon(tmp_path) as daemon,
        start_client(tmp_path, "peer", PROGRAMS, "datagrams", *where, daemon=daemon) as peer,
        connect(daemon.socket_path) as attached,
    ):
        port = int((await peer.wait_for_line("listening")).split()[2])
        machine = await attached.machine("vm1")
        address = await machine.open_address((here, 0), network=network)
        for size in (0, 1, 100, limit):
            data = bytes(index % 251 for index in range(size))
            sent = await address.send_datagram(data, (there, port))
            assert sent == (NtStatus.SUCCESS, size)
            assert await received(address) == data[::-1]
        with pytest.raises(RequestFailed, match=f"{limit + 1} bytes do not fit in one datagram") as refused:
            await address.send_datagram(bytes(limit + 1), (there, port))
        assert refused.value.status is NtStatus.INVALID_PARAMETER
        assert refused.value.information == 0
        assert (await address.send_datagram(b"goes on", (there, port))).information == 7
        assert await received(address) == b"no seog"


async def test_an_ordinary_udp_socket_is_a_peer(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        address = await machine.open_address(("127.0.0.1", 0))
        outside = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with outside:
            await outside.bind(("127.0.0.1", 0))
            for number in range(200):
                await address.send_datagram(number.to_bytes(2, "big"), outside.getsockname())
                with trio.fail_after(PATIENCE_SECONDS):
                    data, source = await outside.recvfrom(100)
                assert (data, source) == (number.to_bytes(2, "big"), address.local)
                await outside.sendto(data * 2, source)
                assert await received(address) == data * 2


@pytest.mark.parametrize("network", ["udp", "lan"])
async def test_address_objects_that_share_an_address_each_get_every_datagram(tmp_path: Path, network: str) -> None:
    host = "127.0.0.1" if network == "udp" else "10.0.0.1"
    async with (
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as one,
        connect(daemon.socket_path) as two,
        connect(daemon.socket_path) as three,
    ):
        first = await (await one.machine("vm1")).open_address((host, 0), network=network, share=True)
        second = await (await two.machine("vm1")).open_address(first.local, network=network, share=True)
        sender = await (await three.machine("vm2")).open_address(
            ("127.0.0.1" if network == "udp" else "10.0.0.2", 0), network=network
        )
        for number in range(100):
            await sender.send_datagram(bytes([number]), first.local)
        for address in (first, second):
            assert [await received(address) for _ in range(100)] == [bytes([number]) for number in range(100)]
        await second.close()
        await sender.send_datagram(b"last", first.local)
        assert await received(first) == b"last"


async def test_an_address_in_use_is_refused(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        one, two = await attached.machine("vm1"), await attached.machine("vm2")
        mine = await one.open_address(("127.0.0.1", 0))
        with pytest.raises(RequestFailed) as refused:
            await one.open_address(mine.local)
        assert refused.value.status is NtStatus.SHARING_VIOLATION
        with pytest.raises(RequestFailed, match="could not be bound: Address already in use") as refused:
            await two.open_address(mine.local)
        assert refused.value.status is NtStatus.ADDRESS_ALREADY_EXISTS
        with pytest.raises(RequestFailed, match=r"8\.8\.8\.8 is not in a network this machine may reach") as refused:
            await mine.send_datagram(b"out", ("8.8.8.8", 53))
        assert refused.value.status is NtStatus.NETWORK_UNREACHABLE
        await mine.close()
        assert (await two.open_address(mine.local)).local == mine.local


@pytest.mark.parametrize(("network", "limit"), [("udp", UDP_LIMIT), ("lan", SEGMENT_LIMIT)])
async def test_s9_the_three_queries_name_the_same_limit(tmp_path: Path, network: str, limit: int) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        host = "127.0.0.1" if network == "udp" else "10.0.0.1"
        address = await machine.open_address((host, 0), network=network)
        answers = [
            await machine.query_network(QueryType.PROVIDER_INFO, network=network),
            await machine.query_network(QueryType.DATAGRAM_INFO, network=network),
            await machine.query_network(QueryType.MAX_DATAGRAM_INFO, network=network),
            await address.query(QueryType.DATAGRAM_INFO),
            await address.query(QueryType.MAX_DATAGRAM_INFO),
        ]
        named = [struct.unpack_from("<I", answer, 12 if index == 0 else 0)[0] for index, answer in enumerate(answers)]
        assert named == [limit] * 5


async def test_datagrams_that_are_not_taken_are_dropped_at_the_bound_and_counted(tmp_path: Path) -> None:
    async with (
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as one,
        connect(daemon.socket_path) as two,
    ):
        slow = await (await one.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        quick = await (await one.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        sender = await (await two.machine("vm2")).open_address(("10.0.0.2", 0), network="lan")
        for number in range(3000):
            await sender.send_datagram(number.to_bytes(2, "big") * 500, slow.local)
        await sender.send_datagram(b"quick", quick.local)
        assert await received(quick) == b"quick", "a slow address holds up no other of the same client"
        taken = [await received(slow)]
        while slow.dropped == 0:
            taken.append(await received(slow))
        while len(taken) + slow.dropped < 3000:
            taken.append(await received(slow))
        kept = [int.from_bytes(data[:2], "big") for data in taken]
        assert kept == list(range(len(kept))), "the newest are dropped, and the others come in order"
        await sender.send_datagram(b"room again", slow.local)
        assert await received(slow) == b"room again"

"""TDI addresses talk to programs that know nothing of this project: relays, a load, a time server, a file server."""

from __future__ import annotations

import json
import os
import re
import secrets
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clients import RequestFailed, connect
from clients.inbox import Datagram
from clients.tdi import Address
from emulator.status import NtStatus
from emulator.tdi.constants import ReceiveFlags
from tests.support.namespaces import joined_namespaces, namespaces, within
from tests.support.processes import Running, free_udp_port, start_daemon, start_process
from tests.support.tools import TOOLS, require_tool

LATE_SECONDS = 30.0
GROUP = "239.88.1.1"
SECONDS_FROM_1900_TO_1970 = 2_208_988_800


def tool(name: str) -> str:
    return require_tool(name, TOOLS[name])


async def next_of(address: Address) -> Datagram:
    with trio.fail_after(LATE_SECONDS):
        return await anext(aiter(address))


@asynccontextmanager
async def udp_address(tmp_path: Path) -> AsyncIterator[Address]:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as connection:
        async with await (await connection.machine("vm1")).open_address() as address:
            yield address


async def test_socat_sends_to_an_address(tmp_path: Path) -> None:
    program = tool("socat")
    async with udp_address(tmp_path) as address:
        command = [program, "-u", "EXEC:echo from outside", f"UDP-SENDTO:127.0.0.1:{address.local[1]}"]
        async with start_process(tmp_path, "socat", command):
            assert (await next_of(address)).data == b"from outside\n"


async def test_socat_hears_an_address(tmp_path: Path) -> None:
    port = free_udp_port()
    command = [tool("socat"), "-d", "-d", "-u", f"UDP-RECV:{port},bind=127.0.0.1", "STDOUT"]
    async with (
        udp_address(tmp_path) as address,
        start_process(tmp_path, "socat", command, merge_output=True) as running,
    ):
        await running.wait_for_line("starting data transfer")
        await address.send_many([b"one\n", b"two\n", b"three\n"], ("127.0.0.1", port))
        for line in ("one", "two", "three"):
            await running.wait_for_line(line)


async def test_socat_answers_both_ways(tmp_path: Path) -> None:
    port = free_udp_port()
    command = [tool("socat"), "-d", "-d", f"UDP-LISTEN:{port},bind=127.0.0.1", "PIPE"]
    async with (
        udp_address(tmp_path) as address,
        start_process(tmp_path, "socat", command, merge_output=True) as running,
    ):
        await running.wait_for_line("listening on")
        for number in range(20):
            data = bytes([number]) * (number * 50 + 1)
            await address.send_datagram(data, ("127.0.0.1", port))
            echo = await next_of(address)
            assert (echo.data, tuple(echo.source)) == (data, ("127.0.0.1", port))


async def _carry(inside: Address, outside: list[tuple[str, int]], other: tuple[str, int]) -> None:
    """A machine as a relay: what comes from its neighbour goes to whoever is outside, everything else to it."""
    async for each in inside:
        if tuple(each.source) == other:
            await inside.send_datagram(each.data, outside[0])
        else:
            outside[:] = [each.source]
            await inside.send_datagram(each.data, other)


async def test_iperf_goes_from_gateway_port_to_gateway_port_through_two_machines(tmp_path: Path) -> None:
    program = tool("iperf")
    server_port, one_port, two_port = (free_udp_port() for _ in range(3))
    ports = ", ".join(
        f'{{ inside = "10.0.0.{number}:5001", outside = "127.0.0.1:{port}" }}'
        for number, port in ((1, one_port), (2, two_port))
    )
    machines = "".join(f'[machines.vm{n}]\nsegments = {{ lan = "10.0.0.{n}" }}\n' for n in (1, 2))
    config = f"{machines}[segments.lan.gateway]\nports = [{ports}]\n"
    server = [program, "-s", "-u", "-B", "127.0.0.1", "-p", str(server_port)]
    client = [program, "-u", "-c", "127.0.0.1", "-p", str(one_port), "-b", "2M", "-l", "1000", "-t", "1"]
    one, two = ("10.0.0.1", 5001), ("10.0.0.2", 5001)
    async with (
        start_daemon(tmp_path, config) as daemon,
        connect(daemon.socket_path) as connection,
        start_process(tmp_path, "iperf-server", server, merge_output=True) as serving,
        trio.open_nursery() as nursery,
    ):
        await serving.wait_for_line("listening on UDP port")
        for name, local, other, outside in (
            ("vm1", one, two, []),
            ("vm2", two, one, [("127.0.0.1", server_port)]),
        ):
            address = await (await connection.machine(name)).open_address(local, network="lan")
            nursery.start_soon(_carry, address, outside, other)
        async with start_process(tmp_path, "iperf", client, merge_output=True) as running:
            await running.wait_for_line("Server Report", LATE_SECONDS)
            with trio.fail_after(LATE_SECONDS):
                await running.process.wait()
        (shown,) = await connection.inspect("segments")
        assert shown["sent"] > 500
        assert shown["gateway"]["dropped"] == 0
        nursery.cancel_scope.cancel()
    found = re.search(r"ms\s+(\d+)/\s*(\d+)", running.stdout.partition("Server Report")[2])
    assert found, running.report()
    assert int(found[1]) == 0, f"of {found[2]} datagrams {found[1]} were lost\n{running.report()}"
    assert int(found[2]) > 150


@asynccontextmanager
async def time_server(tmp_path: Path) -> AsyncIterator[int]:
    """A chronyd without privileges, that serves this machine's own clock and touches nothing; its port."""
    port = free_udp_port()
    command = [tool("chronyd"), "-U", "-x", "-d"]
    if os.geteuid() == 0:
        command = [tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", *command, "-u", "nobody"]
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)  # whoever it runs as, its pid goes there
        directives = [f"port {port}", "cmdport 0", "bindcmdaddress /", "allow 127.0.0.1", "bindaddress 127.0.0.1"]
        directives += ["local stratum 7", f"pidfile {place}/pid"]
        async with start_process(tmp_path, "chronyd", [*command, *directives], merge_output=True):
            yield port


async def ask_until_answered(address: Address, question: bytes, server: tuple[str, int]) -> bytes:
    """The first answer; a server that does not say when it is ready is asked until it is."""
    with trio.fail_after(LATE_SECONDS):
        while True:
            await address.send_datagram(question, server)
            with trio.move_on_after(0.2):
                return (await anext(aiter(address))).data


async def test_a_time_server_tells_the_time(tmp_path: Path) -> None:
    async with time_server(tmp_path) as port, udp_address(tmp_path) as address:
        cookie = secrets.token_bytes(8)
        question = struct.pack("!BBbb", 4 << 3 | 3, 0, 0, 0) + bytes(36) + cookie
        answer = await ask_until_answered(address, question, ("127.0.0.1", port))
        first, stratum = answer[:2]
        assert len(answer) == 48
        assert (first & 7, first >> 3 & 7, stratum) == (4, 4, 7), "a server's answer in version 4, of stratum 7"
        assert answer[24:32] == cookie, "the answer names the question"
        (transmitted,) = struct.unpack("!I", answer[40:44])
        assert abs(transmitted - SECONDS_FROM_1900_TO_1970 - time.time()) < 60


RRQ, DATA, ACK = 1, 3, 4
BLOCK_BYTES = 512


async def test_a_file_comes_over_tftp(tmp_path: Path) -> None:
    program = tool("dnsmasq")
    root = tmp_path / "files"
    root.mkdir()
    content = secrets.token_bytes(10 * BLOCK_BYTES + 99)
    (root / "boot.img").write_bytes(content)
    with namespaces(1) as (name,):
        command = [
            *within(name),
            program,
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--enable-tftp",
            f"--tftp-root={root}",
            "--user=root",
            "--pid-file=",
        ]
        async with (
            start_process(tmp_path, "dnsmasq", command, merge_output=True) as server,
            start_daemon(tmp_path, inside=within(name)) as daemon,
            connect(daemon.socket_path) as connection,
            await (await connection.machine("vm1")).open_address() as address,
        ):
            await server.wait_for_line("TFTP root is")
            await address.send_datagram(struct.pack("!H", RRQ) + b"boot.img\0octet\0", ("127.0.0.1", 69))
            received, block = b"", 0
            while len(received) == block * BLOCK_BYTES:
                each = await next_of(address)
                opcode, number = struct.unpack_from("!HH", each.data)
                assert (opcode, number) == (DATA, block + 1), each.data[:80]
                assert each.source[1] != 69, "a transfer has a port of its own"
                received, block = received + each.data[4:], block + 1
                await address.send_datagram(struct.pack("!HH", ACK, block), each.source)
            assert received == content


HOSTS = ("10.99.0.1", "10.99.0.2")
HOSTS_6 = ("fd99::1", "fd99::2")


@asynccontextmanager
async def two_daemons(
    tmp_path: Path, reach: str, hosts: tuple[str, str] = HOSTS
) -> AsyncIterator[tuple[list[Address], list[Running]]]:
    """Daemons on two computers with a cable between, each with a wildcard address on port 7000 of its machine."""
    with joined_namespaces(*hosts) as names:
        async with (
            _one_of_two(tmp_path, names[0], hosts[0], reach) as (one, daemon_one),
            _one_of_two(tmp_path, names[1], hosts[1], reach) as (two, daemon_two),
        ):
            yield [one, two], [daemon_one, daemon_two]


@asynccontextmanager
async def _one_of_two(tmp_path: Path, name: str, host: str, reach: str) -> AsyncIterator[tuple[Address, Running]]:
    config = f'[machines.vm1]\n[udp]\nbind = ["{host}"]\nreach = {reach}\n'
    async with (
        start_daemon(tmp_path, config, name=f"vmbusd-{host[-1]}", inside=within(name)) as daemon,
        connect(daemon.socket_path) as connection,
        await (await connection.machine("vm1")).open_address(("::" if ":" in host else "0.0.0.0", 7000)) as address,
    ):
        yield address, daemon


async def test_o9_s25_multicasts_go_from_one_daemon_to_another_and_home_again_while_the_loop_is_on(
    tmp_path: Path,
) -> None:
    async with two_daemons(tmp_path, json.dumps(["10.99.0.0/24", "239.0.0.0/8"])) as ((one, two), _):
        for address in (one, two):
            await address.join(GROUP)
        await one.send_datagram(b"to both", (GROUP, 7000))
        for address in (one, two):
            came = await next_of(address)
            assert (came.data, came.source, came.flags & ReceiveFlags.MULTICAST) == (
                b"to both",
                (HOSTS[0], 7000),
                ReceiveFlags.MULTICAST,
            )
        await one.options(multicast_loop=False)
        await one.send_datagram(b"not home", (GROUP, 7000))
        assert (await next_of(two)).data == b"not home"
        await two.leave(GROUP)
        await one.options(multicast_loop=True, multicast_ttl=0)
        await one.send_datagram(b"only home", (GROUP, 7000))
        assert (await next_of(one)).data == b"only home"
        await one.send_datagram(b"to one", (HOSTS[1], 7000))
        assert (await next_of(two)).data == b"to one"


@pytest.mark.parametrize("group", ["ff02::77:1", "ff05::77:1"])
async def test_o7_multicasts_of_version_6_go_from_one_daemon_to_another(tmp_path: Path, group: str) -> None:
    reach = json.dumps(["fd99::/64", "ff00::/8"])
    async with two_daemons(tmp_path, reach, HOSTS_6) as ((one, two), _):
        for address in (one, two):
            await address.join(group)
        await one.send_datagram(b"to both", (group, 7000))
        for address in (one, two):
            came = await next_of(address)
            assert (came.data, came.source[0], bool(came.flags & ReceiveFlags.MULTICAST)) == (
                b"to both",
                HOSTS_6[0],
                True,
            )
        await two.leave(group)
        await two.send_datagram(b"to one", (HOSTS_6[0], 7000))
        assert (await next_of(one)).data == b"to one"


async def test_r1_s25_broadcasts_of_an_interface_reach_wildcards_the_senders_own_included(tmp_path: Path) -> None:
    async with two_daemons(tmp_path, json.dumps(["10.99.0.0/24"])) as ((one, two), _):
        await one.send_datagram(b"all", ("10.99.0.255", 7000))
        for address in (one, two):
            came = await next_of(address)
            assert (came.data, came.flags & ReceiveFlags.BROADCAST) == (b"all", ReceiveFlags.BROADCAST)


async def test_s22_what_may_not_be_reached_is_refused_on_a_real_network_too(tmp_path: Path) -> None:
    async with two_daemons(tmp_path, json.dumps(["10.99.0.1/32"])) as ((one, _two), _):
        for destination in (HOSTS[1], "127.0.0.1", GROUP, "192.0.2.1"):
            with pytest.raises(RequestFailed) as refused:
                await one.send_datagram(b"x", (destination, 7000))
            assert refused.value.status is NtStatus.NETWORK_UNREACHABLE

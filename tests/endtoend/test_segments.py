"""Segments of a running daemon: changed while it runs, the same luck for the same seed, and reached from outside."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from clients import RequestFailed, connect
from clients import sync as synchronous
from clients.connection import Connection
from clients.handlers import HandlerEvent
from clients.inbox import Datagram
from clients.tdi import Address
from emulator.status import NtStatus
from emulator.tdi.constants import EventType, ReceiveFlags
from tests.support.processes import Daemon, free_udp_port, start_daemon

LATE_SECONDS = 20.0
GROUP = "239.5.5.5"


def configuration(gateway: str = "") -> str:
    machines = "".join(f'[machines.vm{n}]\nsegments = {{ lan = "10.0.0.{n}" }}\n' for n in (1, 2, 3))
    return machines + "[segments.lan]\n" + gateway


@asynccontextmanager
async def lan(tmp_path: Path, gateway: str = "") -> AsyncIterator[tuple[Daemon, Connection, list[Address]]]:
    """A daemon, a client, and an address object on port 9000 of each of three machines."""
    async with start_daemon(tmp_path, configuration(gateway)) as daemon, connect(daemon.socket_path) as connection:
        addresses = []
        for name in ("vm1", "vm2", "vm3"):
            machine = await connection.machine(name)
            addresses.append(await machine.open_address(("0.0.0.0", 9000), network="lan"))
        yield daemon, connection, addresses


async def next_of(address: Address) -> Datagram:
    with trio.fail_after(LATE_SECONDS):
        return await anext(aiter(address))


@contextmanager
def outside(port: int = 0) -> Iterator[socket.socket]:
    """A program outside, on the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", port))
        made.settimeout(LATE_SECONDS)
        yield made


async def heard(program: socket.socket) -> tuple[bytes, tuple[str, int]]:
    data, source = await trio.to_thread.run_sync(program.recvfrom, 65_536)
    return data, source


async def test_latency_delays_and_can_be_taken_away(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, connection, (one, two, _three)):
        shown = await connection.change_segment("lan", latency_seconds=0.3)
        assert shown["latency_seconds"] == 0.3
        began = trio.current_time()
        await one.send_datagram(b"slow", ("10.0.0.2", 9000))
        assert (await next_of(two)).data == b"slow"
        assert trio.current_time() - began >= 0.3
        await connection.change_segment("lan", latency_seconds=0)
        await one.send_datagram(b"quick", ("10.0.0.2", 9000))
        assert (await next_of(two)).data == b"quick"


async def test_a_partition_cuts_and_heals(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, connection, (one, two, three)):
        await connection.change_segment("lan", partition=[["vm1"], ["vm2", "vm3"]])
        assert (await one.send_datagram(b"cut", ("10.0.0.2", 9000))).status is NtStatus.SUCCESS
        await three.send_datagram(b"together", ("10.0.0.2", 9000))
        await connection.change_segment("lan", partition=[])
        await one.send_datagram(b"healed", ("10.0.0.2", 9000))
        assert [(await next_of(two)).data for _ in range(2)] == [b"together", b"healed"]
        (shown,) = await connection.inspect("segments")
        assert (shown["cut"], shown["sent"]) == (1, 3)


async def test_the_same_seed_gives_the_same_losses_again(tmp_path: Path) -> None:
    async def run(name: str) -> list[bytes]:
        directory = tmp_path / name
        directory.mkdir()
        async with lan(directory) as (_, connection, (one, two, _three)):
            await connection.change_segment("lan", loss=0.4, duplication=0.3, seed=5)
            for number in range(60):
                await one.send_datagram(bytes([number]), ("10.0.0.2", 9000))
            await connection.change_segment("lan", loss=0, duplication=0)
            await one.send_datagram(b"end", ("10.0.0.2", 9000))
            found: list[bytes] = []
            while not found or found[-1] != b"end":
                found.append((await next_of(two)).data)
            return found

    first = await run("first")
    assert first == await run("second")
    assert 20 < len(set(first)) < 55


async def test_a_stalled_segment_keeps_sends_waiting_until_it_goes_on(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, connection, (one, two, _three)):
        await connection.change_segment("lan", stalled=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_datagram, b"waits", ("10.0.0.2", 9000))
            await connection.ping()
            await connection.change_segment("lan", stalled=False)
        assert (await next_of(two)).data == b"waits"


IMPOSSIBLE: tuple[tuple[dict[str, object], str], ...] = (
    ({"loss": 2}, "loss"),
    ({"latency_seconds": float("nan")}, "latency_seconds"),
    ({"colour": "red"}, "colour"),
    ({"subnet": "10.1.0.0/24"}, "cannot be changed"),
    ({"partition": [["vm9"]]}, "no machine 'vm9'"),
    ({"partition": [["vm1"], ["vm1"]]}, "two sides"),
    ({"maximum_datagram_bytes": 0}, "maximum_datagram_bytes"),
)


async def test_what_a_segment_cannot_be_is_refused(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, connection, _addresses):
        before = await connection.inspect("segments")
        for changes, expected in IMPOSSIBLE:
            with pytest.raises(RequestFailed, match=expected) as refused:
                await connection.change_segment("lan", **changes)
            assert refused.value.status is NtStatus.INVALID_PARAMETER
        assert await connection.inspect("segments") == before
        with pytest.raises(RequestFailed, match="there is no segment"):
            await connection.change_segment("wan")


async def test_multicast_and_broadcast_on_a_segment(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, _connection, (one, two, three)):
        await two.join(GROUP)
        await one.send_datagram(b"members", (GROUP, 9000))
        await one.send_datagram(b"all", ("10.0.0.255", 9000))
        member = await next_of(two)
        assert (member.data, member.flags & ReceiveFlags.MULTICAST) == (b"members", ReceiveFlags.MULTICAST)
        for address in (one, two, three):
            everyone = await next_of(address)
            assert (everyone.data, everyone.flags & ReceiveFlags.BROADCAST) == (b"all", ReceiveFlags.BROADCAST)
        await two.leave(GROUP)
        with pytest.raises(RequestFailed) as refused:
            await two.leave(GROUP)
        assert refused.value.status is NtStatus.INVALID_ADDRESS


async def test_programs_outside_reach_in_and_machines_reach_out(tmp_path: Path) -> None:
    forwarded, played = free_udp_port(), free_udp_port()
    gateway = (
        "[segments.lan.gateway]\nports = [\n"
        f'  {{ inside = "10.0.0.1:9000", outside = "127.0.0.1:{forwarded}" }},\n'
        f'  {{ inside = "10.0.0.77:7000", outside = "127.0.0.1:{played}", to = "10.0.0.2:9000" }},\n]\n'
    )
    async with lan(tmp_path, gateway) as (_, _connection, (one, two, _three)):
        with outside() as program, outside() as server:
            program.sendto(b"in", ("127.0.0.1", forwarded))
            came = await next_of(one)
            assert (came.data, came.source) == (b"in", program.getsockname())
            await one.send_datagram(b"answer", came.source)
            assert await heard(program) == (b"answer", ("127.0.0.1", forwarded))
            await one.send_datagram(b"out", server.getsockname())
            assert await heard(server) == (b"out", ("127.0.0.1", forwarded))
            with pytest.raises(RequestFailed) as refused:
                await two.send_datagram(b"out", server.getsockname())
            assert refused.value.status is NtStatus.NETWORK_UNREACHABLE
            server.sendto(b"as a machine", ("127.0.0.1", played))
            came = await next_of(two)
            assert (came.data, came.source) == (b"as a machine", ("10.0.0.77", 7000))
            await two.send_datagram(b"to a machine", came.source)
            assert await heard(server) == (b"to a machine", ("127.0.0.1", played))


async def test_a_gateway_port_that_is_taken_stops_the_daemon_with_a_sentence(tmp_path: Path) -> None:
    with outside() as taken:
        port = taken.getsockname()[1]
        gateway = f'[segments.lan.gateway]\nports = [{{ inside = "10.0.0.1:9", outside = "127.0.0.1:{port}" }}]\n'
        with pytest.raises(AssertionError, match=f"gateway of segment lan cannot have 127.0.0.1:{port}"):
            async with lan(tmp_path, gateway):
                pass


@pytest.mark.parametrize("lengths", [[100] * 300, [0, 5, 5, 1_000, 1_000, 3]])
@pytest.mark.parametrize("network", ["lan", "udp"])
async def test_s26_a_burst_arrives_in_order_each_datagram_with_its_own_outcome(
    tmp_path: Path, network: str, lengths: list[int]
) -> None:
    async with start_daemon(tmp_path, configuration()) as daemon, connect(daemon.socket_path) as connection:
        machine = await connection.machine("vm1")
        async with (
            await machine.open_address(("0.0.0.0", 9001 if network == "lan" else 0), network=network) as sender,
            await machine.open_address(("0.0.0.0", 9002 if network == "lan" else 0), network=network) as receiver,
        ):
            host = "10.0.0.1" if network == "lan" else "127.0.0.1"
            datagrams = [bytes((number + at) & 0xFF for at in range(size)) for number, size in enumerate(lengths)]
            ends = await sender.send_many(datagrams, (host, receiver.local[1]))
            assert [(end.status, end.information) for end in ends] == [(NtStatus.SUCCESS, size) for size in lengths]
            assert [(await next_of(receiver)).data for _ in datagrams] == datagrams
            assert await sender.send_many([], (host, receiver.local[1])) == []


async def test_a_burst_in_which_some_are_too_long_sends_the_others(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, _connection, (one, two, _three)):
        ends = await one.send_many([b"a", bytes(2_000), b"b"], ("10.0.0.2", 9000))
        assert [end.status for end in ends] == [NtStatus.SUCCESS, NtStatus.INVALID_PARAMETER, NtStatus.SUCCESS]
        assert [end.information for end in ends] == [1, 0, 1]
        assert [(await next_of(two)).data for _ in range(2)] == [b"a", b"b"]
        ends = await one.send_many([b"a"] * 3, ("198.51.100.1", 9))
        assert [end.status for end in ends] == [NtStatus.NETWORK_UNREACHABLE] * 3


async def test_s33_a_burst_on_a_stalled_segment_waits_and_expires_datagram_by_datagram(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, connection, (one, _two, _three)):
        await connection.change_segment("lan", stalled=True)
        ends = await one.send_many([b"x"] * 20, ("10.0.0.2", 9000))
        assert [end.status for end in ends] == [NtStatus.IO_TIMEOUT] * 16 + [NtStatus.INSUFFICIENT_RESOURCES] * 4


async def test_a_burst_on_a_closed_address_is_refused(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, _connection, (one, _two, _three)):
        await one.close()
        with pytest.raises(RequestFailed):
            await one.send_many([b"x"], ("10.0.0.2", 9000))


async def test_options_of_sends(tmp_path: Path) -> None:
    async with lan(tmp_path) as (_, _connection, (one, _two, _three)):
        assert (await one.options())["multicast_ttl"] == 1
        assert (await one.options(ttl=5, multicast_interface="0.0.0.0"))["multicast_interface"] == "10.0.0.1"
        assert (await one.options())["ttl"] == 5
        for wrong in ({"ttl": 300}, {"ttl": "5"}, {"hops": 3}, {"multicast_interface": "192.0.2.1"}):
            with pytest.raises(RequestFailed):
                await one.options(**wrong)


async def test_the_face_without_an_event_loop_does_the_same(tmp_path: Path) -> None:
    def work(path: Path) -> None:
        with synchronous.connect(path, timeout_seconds=LATE_SECONDS) as connection:
            one, two = (
                connection.machine(name).open_address(("0.0.0.0", 9000), network="lan") for name in ("vm1", "vm2")
            )
            two.join(GROUP)
            ends = one.send_many([b"1", b"22"], (GROUP, 9000))
            assert [end.information for end in ends] == [1, 2]
            assert [next(two).data for _ in range(2)] == [b"1", b"22"]
            two.leave(GROUP)
            assert one.options(multicast_loop=False)["multicast_loop"] is False
            assert connection.change_segment("lan", loss=0.5)["loss"] == 0.5
            assert connection.inspect("segments")[0]["loss"] == 0.5

    async with start_daemon(tmp_path, configuration()) as daemon:
        await trio.to_thread.run_sync(work, daemon.socket_path)


async def test_s25b_a_late_error_of_one_destination_fails_no_send_to_another(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as connection:
        machine = await connection.machine("vm1")
        async with await machine.open_address() as sender, await machine.open_address() as receiver:
            nobody = ("127.0.0.1", free_udp_port())
            for number in range(100):
                assert (await sender.send_datagram(b"into the void", nobody)).status is NtStatus.SUCCESS
                await sender.send_datagram(bytes([number]), ("127.0.0.1", receiver.local[1]))
            assert [(await next_of(receiver)).data[0] for _ in range(100)] == list(range(100))
            (described,) = await connection.inspect("machines", "vm1")
            assert described["late_errors"] > 0


async def test_multicast_on_real_sockets_stays_on_the_loopback_and_needs_permission(tmp_path: Path) -> None:
    port = free_udp_port()
    config = '[machines.vm1]\n[machines.vm2]\n[udp]\nreach = ["127.0.0.0/8", "239.0.0.0/8"]\n'
    async with start_daemon(tmp_path, config) as daemon, connect(daemon.socket_path) as connection:
        one, two = [await connection.machine(name) for name in ("vm1", "vm2")]
        async with (
            await one.open_address() as sender,
            await one.open_address(("0.0.0.0", port)) as member,
            await two.open_address() as stranger,
        ):
            await member.join(GROUP)
            with pytest.raises(RequestFailed):
                await stranger.join(GROUP, interface="192.0.2.1")
            await sender.send_datagram(b"real", (GROUP, port))
            came = await next_of(member)
            assert (came.data, came.flags & ReceiveFlags.MULTICAST) == (b"real", ReceiveFlags.MULTICAST)
            await member.leave(GROUP)


async def test_a_wildcard_hears_every_own_address_and_broadcasts_and_reports_the_wildcard(tmp_path: Path) -> None:
    config = '[machines.vm1]\n[udp]\nbind = ["127.0.0.1", "127.0.0.2"]\n'
    async with start_daemon(tmp_path, config) as daemon, connect(daemon.socket_path) as connection:
        machine = await connection.machine("vm1")
        async with await machine.open_address() as everywhere:
            assert everywhere.local[0] == "0.0.0.0"
            port = everywhere.local[1]
            with outside() as program:
                program.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for host in ("127.0.0.1", "127.0.0.2", "127.255.255.255"):
                    program.sendto(host.encode(), (host, port))
                    came = await next_of(everywhere)
                    assert came.data == host.encode()
                    assert bool(came.flags & ReceiveFlags.BROADCAST) == host.endswith("255")
                await everywhere.send_datagram(b"back", program.getsockname())
                assert await heard(program) == (b"back", ("127.0.0.1", port))


async def test_s22_each_machine_binds_and_reaches_what_it_may(tmp_path: Path) -> None:
    config = """[machines.vm1]
[machines.vm2]
bind = ["127.0.0.3"]
reach = ["127.0.0.3/32"]
"""
    async with start_daemon(tmp_path, config) as daemon, connect(daemon.socket_path) as connection:
        usual, bounded = [await connection.machine(name) for name in ("vm1", "vm2")]
        async with await usual.open_address() as one, await bounded.open_address() as two:
            port = two.local[1]
            await one.send_datagram(b"to it", ("127.0.0.3", port))
            assert (await next_of(two)).data == b"to it"
            await two.send_datagram(b"to itself", ("127.0.0.3", port))
            assert (await next_of(two)).data == b"to itself"
            with pytest.raises(RequestFailed) as refused:
                await two.send_datagram(b"to another", ("127.0.0.1", one.local[1]))
            assert refused.value.status is NtStatus.NETWORK_UNREACHABLE
        for machine, host in ((usual, "127.0.0.3"), (bounded, "127.0.0.1"), (bounded, "::")):
            with pytest.raises(RequestFailed) as refused:
                await machine.open_address((host, 0))
            assert refused.value.status is NtStatus.INVALID_ADDRESS


async def test_s25b_a_late_error_is_an_event_with_its_status_and_the_peer(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as connection:
        machine = await connection.machine("vm1")
        async with await machine.open_address() as sender:
            told: list[HandlerEvent] = []
            await sender.set_handler(EventType.ERROR_EX, told.append)
            nobody = ("127.0.0.1", free_udp_port())
            assert (await sender.send_datagram(b"into the void", nobody)).status is NtStatus.SUCCESS
            with trio.fail_after(LATE_SECONDS):
                await sender.serve(1)
            assert told[0].status == NtStatus.PORT_UNREACHABLE
            assert told[0].source == nobody


@pytest.mark.parametrize("wildcard_first", [True, False])
async def test_r1_s22_a_wildcard_and_an_address_on_one_port_hear_and_send_as_what_they_are(
    tmp_path: Path, wildcard_first: bool
) -> None:
    config = '[machines.vm1]\n[udp]\nbind = ["127.0.0.1", "127.0.0.2"]\n'
    port = free_udp_port()
    async with start_daemon(tmp_path, config) as daemon, connect(daemon.socket_path) as connection:
        machine = await connection.machine("vm1")
        hosts = ["0.0.0.0", "127.0.0.2"] if wildcard_first else ["127.0.0.2", "0.0.0.0"]
        opened = {host: await machine.open_address((host, port), share=True) for host in hosts}
        with outside() as program:
            for host, hearers in (("127.0.0.1", ["0.0.0.0"]), ("127.0.0.2", ["0.0.0.0", "127.0.0.2"])):
                program.sendto(host.encode(), (host, port))
                for hearer in hearers:
                    assert (await next_of(opened[hearer])).data == host.encode()
            await opened["127.0.0.2"].send_datagram(b"one", program.getsockname())
            assert await heard(program) == (b"one", ("127.0.0.2", port))
            await opened["127.0.0.2"].send_many([b"two", b"six"], program.getsockname())
            assert [await heard(program) for _ in range(2)] == [
                (b"two", ("127.0.0.2", port)),
                (b"six", ("127.0.0.2", port)),
            ]
            await opened["0.0.0.0"].send_datagram(b"any", program.getsockname())
            assert await heard(program) == (b"any", ("127.0.0.1", port))

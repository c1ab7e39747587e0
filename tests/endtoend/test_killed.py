"""A program that dies in the middle of its work takes nothing with it: its peers learn why, the machine lives on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from clients import Connection, ConnectionLost, Machine, RequestFailed, connect
from emulator.status import NtStatus
from tests.endtoend.programs import ECHO, checksum
from tests.support.processes import Daemon, ProcessFailed, start_client, start_daemon

PROGRAMS = "tests.endtoend.programs"
OTHER = ECHO[:-1] + "2"
FLIGHT = 40
PATIENCE_SECONDS = 60.0


async def free_bytes(watcher: Connection, machine: str = "vm1") -> int:
    free: int = (await watcher.inspect("machines", machine))[0]["free_bytes"]
    return free


async def round_trip(daemon: Daemon, interface: str = OTHER) -> None:
    """A new guest and a new host find each other and exchange a packet."""
    async with connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        offered = await host.offer_channel(interface)
        channel = await guest.open_channel(interface)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                packet = await anext(aiter(offered))
                await packet.complete(checksum(packet.payload, b""))

            nursery.start_soon(answer)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await channel.send(b"all well") == checksum(b"all well", b"")


async def all_pages_come_back(watcher: Connection, free: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while await free_bytes(watcher) != free:
            await trio.lowlevel.checkpoint()


async def test_a_guest_killed_with_packets_in_flight(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        free = await free_bytes(attached)
        machine: Machine = await attached.machine("vm1")
        offered = await machine.offer_channel(ECHO)
        arguments = ["flood", "--count", str(FLIGHT)]
        async with start_client(tmp_path, "guest", PROGRAMS, *arguments, daemon=daemon) as guest:
            packets = [await anext(aiter(offered)) for _ in range(FLIGHT)]
            failures: list[RequestFailed] = []

            async def send() -> None:
                with pytest.raises(RequestFailed) as failed:
                    await offered.send(b"unheard!")
                failures.append(failed.value)

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(send)
                while (await attached.inspect("channels"))[0]["host_outstanding"] != 5:
                    await trio.lowlevel.checkpoint()
                guest.kill()
            await guest.process.wait()
        assert [failure.status for failure in failures] == [NtStatus.CANCELLED] * 5
        assert all("(client 'flood', process " in failure.message for failure in failures)
        assert all(failure.message.endswith(" ended: the client went away") for failure in failures)
        assert not offered.is_open
        for packet in packets:
            await packet.complete(b"too late")
        held = 512 * 4096  # this client's own pool
        await all_pages_come_back(attached, free - held)
        channel = await machine.open_channel(ECHO, wait=False)
        await channel.close()
        await round_trip(daemon)


async def test_a_host_killed_with_packets_in_flight(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        free = await free_bytes(attached)
        async with start_client(tmp_path, "host", PROGRAMS, "host", "--hold", str(FLIGHT), daemon=daemon) as host:
            machine = await attached.machine("vm1")
            channel = await machine.open_channel(ECHO)
            failures: list[RequestFailed] = []

            async def send() -> None:
                with pytest.raises(RequestFailed) as failed:
                    await channel.send(b"12345678")
                failures.append(failed.value)

            async with trio.open_nursery() as nursery:
                for _ in range(FLIGHT):
                    nursery.start_soon(send)
                await host.wait_for_line("holding")
                host.kill()
            await host.process.wait()
        assert [failure.status for failure in failures] == [NtStatus.DEVICE_REMOVED] * FLIGHT
        assert all("(client 'host', process " in failure.message for failure in failures)
        assert channel.closed is not None
        assert channel.closed[0] is NtStatus.DEVICE_REMOVED
        with pytest.raises(RequestFailed) as failed:
            await channel.send(b"anybody?")
        assert failed.value.status is NtStatus.DEVICE_REMOVED
        with pytest.raises(RequestFailed, match="nobody offers") as failed:
            await machine.open_channel(ECHO, wait=False)
        assert failed.value.status is NtStatus.NO_SUCH_DEVICE
        await all_pages_come_back(attached, free - 512 * 4096)
        await round_trip(daemon)


async def test_a_datagram_program_killed_frees_its_addresses(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        await (await machine.open_address(("127.0.0.1", 0))).close()  # what the machine keeps from its first socket on
        before = daemon.descriptor_count()
        async with start_client(tmp_path, "peer", PROGRAMS, "datagrams", daemon=daemon) as peer:
            port = int((await peer.wait_for_line("listening")).split()[2])
            assert daemon.descriptor_count() == before + 2, "its connection and its socket"
            peer.kill()
            await peer.process.wait()
        with trio.fail_after(PATIENCE_SECONDS):
            while daemon.descriptor_count() != before:
                await trio.lowlevel.checkpoint()
        assert (await machine.open_address(("127.0.0.1", port))).local == ("127.0.0.1", port)


async def test_a_busy_daemon_stops_cleanly_and_tells_everybody(tmp_path: Path) -> None:
    busy = ["guest", "--count", "1000000", "--every", "100"]
    async with (
        start_daemon(tmp_path, expect_exit=None) as daemon,
        start_client(tmp_path, "host", PROGRAMS, "host", daemon=daemon) as host,
        start_client(tmp_path, "guest", PROGRAMS, *busy, daemon=daemon) as guest,
        connect(daemon.socket_path) as attached,
    ):
        await guest.wait_for_line("done 100")
        machine = await attached.machine("vm1")
        address = await machine.open_address(("127.0.0.1", 0))
        reason = "the daemon ended the session: the daemon is stopping"
        async with trio.open_nursery() as nursery:

            async def wait_for_an_offer() -> None:
                with pytest.raises(RequestFailed, match="the daemon is stopping") as refusal:
                    await machine.open_channel(OTHER)
                assert refusal.value.status is NtStatus.DEVICE_REMOVED

            async def wait_for_a_datagram() -> None:
                with pytest.raises(ConnectionLost, match=reason):
                    await anext(aiter(address))

            nursery.start_soon(wait_for_an_offer)
            nursery.start_soon(wait_for_a_datagram)
            await attached.ping()
            daemon.process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await daemon.process.wait() == 0
        assert not daemon.socket_path.exists()
        # A guest hears of it by its packets, which end with the rescinded offer.
        with pytest.raises(ProcessFailed, match="the daemon is stopping"):
            await guest.wait_for_line("never said")
        # A host has no more packets to come, and so is done; or its session ended before it was.
        with pytest.raises(ProcessFailed, match=r"exit code: 0|the daemon is stopping"):
            await host.wait_for_line("never said")


async def test_a_storm_of_connections_while_the_daemon_stops_is_no_crash(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:

        async def storm() -> None:
            while True:
                try:
                    async with connect(daemon.socket_path) as attached:
                        await attached.ping()
                except ConnectionLost:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(storm)
            async with connect(daemon.socket_path) as attached:
                for _ in range(50):
                    await attached.ping()
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await daemon.process.wait() == 0
        assert "Traceback" not in daemon.stderr

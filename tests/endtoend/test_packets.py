"""Packets between guest and host programs that are processes of their own, through a daemon that is another."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from clients import RequestFailed, connect
from emulator.status import NtStatus
from tests.endtoend.programs import ECHO, checksum, pattern
from tests.support.processes import Daemon, start_client, start_daemon

PROGRAMS = "tests.endtoend.programs"
MIB = 1 << 20


@pytest.mark.timeout(300)  # some 15 seconds of two idle processors
async def test_a_hundred_thousand_packets_with_external_data_and_a_daemon_that_does_not_grow(tmp_path: Path) -> None:
    arguments = ["guest", "--count", "100000", "--flight", "64", "--every", "20000"]
    async with start_daemon(tmp_path) as daemon, start_client(tmp_path, "host", PROGRAMS, "host", daemon=daemon):
        async with start_client(tmp_path, "guest", PROGRAMS, *arguments, daemon=daemon) as guest:
            await guest.wait_for_line("done 20000", timeout_seconds=120)
            early = daemon.memory().anonymous_bytes
            await guest.wait_for_line("finished 100000", timeout_seconds=240)
            assert daemon.memory().anonymous_bytes < early + MIB
            assert await guest.process.wait() == 0


async def test_many_guests_and_hosts_on_many_machines_at_once(tmp_path: Path) -> None:
    machines = "".join(f"[machines.m{n}]\nmemory_bytes = 8388608\n" for n in range(2))
    interfaces = [ECHO[:-1] + "a", ECHO[:-1] + "b"]
    async with start_daemon(tmp_path, machines) as daemon, AsyncExitStack() as processes:
        guests = []
        for machine in range(2):
            for index, interface in enumerate(interfaces):
                common = ["--machine", f"m{machine}", "--interface", interface, "--count", "500"]
                unmapped = ["--unmapped"] if index else []
                for program in ("guest", "host"):
                    name = f"{program}-{machine}-{index}"
                    child = start_client(tmp_path, name, PROGRAMS, program, *common, *unmapped, daemon=daemon)
                    running = await processes.enter_async_context(child)
                    if program == "guest":
                        guests.append(running)
        for guest in guests:
            await guest.wait_for_line("finished 500", timeout_seconds=60)


async def test_a_guest_may_wait_before_the_host_offers_and_again_when_the_host_has_died(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        for turn in ("first", "second"):
            arguments = ["guest", "--count", "200"]
            async with start_client(tmp_path, f"guest-{turn}", PROGRAMS, *arguments, daemon=daemon) as guest:
                async with connect(daemon.socket_path) as watcher:
                    while (await watcher.inspect("machines", "vm1"))[0]["waiting_guests"] != 1:
                        await trio.lowlevel.checkpoint()
                async with start_client(tmp_path, f"host-{turn}", PROGRAMS, "host", daemon=daemon) as host:
                    await guest.wait_for_line("finished 200")
                    host.kill()
                    await host.process.wait()


async def echo_by_message(daemon: Daemon, interface: str, data: bytes) -> None:
    """A guest and a host that have not mapped memory: everything goes through the socket."""
    async with connect(daemon.socket_path, map_memory=False) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        offered = await host.offer_channel(interface)
        channel = await guest.open_channel(interface)
        buffer = await guest.allocate(len(data))
        await guest.write_memory(buffer.range, data)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                packet = await anext(aiter(offered))
                assert packet.external_data() == data
                await host.write_memory(packet.ranges[0], data[::-1])
                await packet.complete(checksum(packet.payload, data))

            nursery.start_soon(answer)
            reply = await channel.send_with_external_mdl(b"the call", buffer.mdl)
        assert reply == checksum(b"the call", data)
        assert await guest.read_memory(buffer.range) == data[::-1]


async def test_a_client_that_cannot_map_memory_reads_and_writes_it_by_message(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await echo_by_message(daemon, ECHO, pattern(7, 600_000))
        await echo_by_message(daemon, ECHO, b"x")


async def test_an_unmapped_host_reads_external_data_by_message(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        async with (
            start_client(tmp_path, "host", PROGRAMS, "host", "--unmapped", daemon=daemon),
            start_client(tmp_path, "guest", PROGRAMS, "guest", "--count", "300", daemon=daemon) as guest,
        ):
            await guest.wait_for_line("finished 300")


async def test_a_packet_without_a_byte_and_one_at_the_limit_and_one_beyond(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, start_client(tmp_path, "host", PROGRAMS, "host", daemon=daemon):
        async with connect(daemon.socket_path) as attached:
            machine = await attached.machine("vm1")
            channel = await machine.open_channel(ECHO)
            for size in (0, 8, 4096):
                assert await channel.send(bytes(size)) == checksum(bytes(size), b"")
            with pytest.raises(RequestFailed, match="at most 4096 bytes, not 4097") as refused:
                await channel.send(bytes(4097))
            assert refused.value.status is NtStatus.INVALID_PARAMETER_3
            data = await machine.allocate(1 << 20)
            assert await channel.send_with_external_mdl(b"", data.mdl) == checksum(b"", bytes(1 << 20))
            more = await machine.allocate((1 << 20) + 1)
            with pytest.raises(RequestFailed, match="this channel's maximum is 1048576") as refused:
                await channel.send_with_external_mdl(b"", more.mdl)
            assert refused.value.status is NtStatus.INVALID_PARAMETER_6


async def test_posts_without_completion_arrive_whole_and_in_order(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        async with connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
            guest, host = await one.machine("vm1"), await two.machine("vm1")
            offered = await host.offer_channel(ECHO)
            channel = await guest.open_channel(ECHO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.post, [number.to_bytes(8, "little") for number in range(20_000)])
                expected = 0
                async for packet in offered:
                    assert int.from_bytes(packet.payload, "little") == expected
                    assert not packet.wants_completion
                    expected += 1
                    if expected == 20_000:
                        break

"""Rings that are full: everything drains in the end, and whoever does not take its packets stalls nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clients import Channel, OfferedChannel, RequestFailed, connect
from emulator.status import NtStatus
from tests.endtoend.programs import ECHO, checksum
from tests.support.processes import start_client, start_daemon

PROGRAMS = "tests.endtoend.programs"
OTHER = ECHO[:-1] + "2"
PATIENCE_SECONDS = 60.0


async def test_two_programs_crosswise_guest_and_host_of_each_other_drain(tmp_path: Path) -> None:
    common = ["both", "--count", "2500", "--flight", "150"]
    first, second = ["--offer", ECHO, "--interface", OTHER], ["--offer", OTHER, "--interface", ECHO]
    async with (
        start_daemon(tmp_path) as daemon,
        start_client(tmp_path, "first", PROGRAMS, *common, *first, daemon=daemon) as one,
        start_client(tmp_path, "second", PROGRAMS, *common, *second, daemon=daemon) as two,
    ):
        for program in (one, two):
            await program.wait_for_line("finished 5000", timeout_seconds=PATIENCE_SECONDS)
        async with connect(daemon.socket_path) as watcher:
            channels = await watcher.inspect("channels")
        assert [entry["packets_to_host"] for entry in channels] == [2500, 2500]
        assert [entry["packets_to_guest"] for entry in channels] == [2500, 2500]
        assert [entry["guest_outstanding"] + entry["host_outstanding"] for entry in channels] == [0, 0]


async def test_a_channel_whose_packets_nobody_takes_stalls_no_other_of_the_same_clients(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        slow, quick = await host.offer_channel(ECHO), await host.offer_channel(OTHER)
        to_slow, to_quick = await guest.open_channel(ECHO), await guest.open_channel(OTHER)
        ended: list[NtStatus] = []

        async def fill(end: Channel | OfferedChannel) -> None:
            with pytest.raises(RequestFailed) as failed:
                await end.send(bytes(2000))
            ended.append(failed.value.status)

        async def answer() -> None:
            async for packet in quick:
                await packet.complete(checksum(packet.payload, b""))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            for _ in range(1000):
                nursery.start_soon(fill, to_slow)
                nursery.start_soon(fill, slow)
            # Full both ways: what was granted is delivered, the ring is full behind it, the rest waits in the library.
            while (await two.inspect("channels"))[0]["packets_to_host"] < 256:
                await one.ping()
            with trio.fail_after(PATIENCE_SECONDS):
                for number in range(200):
                    payload = number.to_bytes(8, "little")
                    assert await to_quick.send(payload) == checksum(payload, b"")
            before, _ = await one.inspect("channels")
            assert before["packets_to_host"] == 256, "as many as the host granted room for"
            assert before["packets_to_guest"] == 256
            assert ended == []
            await to_slow.close()
            with trio.fail_after(PATIENCE_SECONDS):
                while len(ended) < 2000:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert set(ended) == {NtStatus.CANCELLED}


async def test_a_host_that_takes_late_gets_everything_in_order(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO, send_pages=1, receive_pages=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.post, [number.to_bytes(8, "little") * 60 for number in range(2000)])
            while (await two.inspect("channels"))[0]["packets_to_host"] < 256:
                await one.ping()
            with trio.fail_after(PATIENCE_SECONDS):
                for number in range(2000):
                    packet = await anext(aiter(offered))
                    assert packet.payload == number.to_bytes(8, "little") * 60

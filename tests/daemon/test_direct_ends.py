"""Channels whose clients work the rings themselves: the doorbells they are handed, and what becomes of them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
import structlog.testing
import trio

from emulator.daemon import channels
from emulator.status import NtStatus
from tests.daemon.raw import GRANT, Answered, RawClient, open_sockets, raw_client, served

ECHO = bytes(range(16))
OTHER = bytes(range(16, 32))


async def open_direct(client: RawClient, interface: bytes = ECHO) -> int:
    return await client.start("channel.open_direct", 1, interface, None, True, 1, 1)


async def test_a_direct_guest_is_handed_a_doorbell_that_ends_with_the_channel(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO)
        channel = (await guest.answer(await open_direct(guest)))[0]
        (bell,) = guest.descriptors
        assert stat.S_ISSOCK(os.fstat(bell).st_mode)
        with socket.socket(fileno=os.dup(bell)) as ours:
            for _ in range(10_000):  # far more than its queue holds: the daemon hears them all
                try:
                    ours.send(b"\0", socket.MSG_DONTWAIT)
                except BlockingIOError:
                    await trio.lowlevel.checkpoint()
            assert await guest.call("channel.close", channel) == []
            assert (await host.notice("channel.closed"))[1] == NtStatus.CANCELLED
            ours.setblocking(False)
            while True:
                await trio.lowlevel.wait_readable(ours)
                try:
                    if ours.recv(100) == b"":
                        break
                except ConnectionResetError:
                    break  # it was closed with doorbells unheard


async def test_both_sides_direct_are_handed_the_two_ends_of_one_doorbell(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.call("channel.offer_direct", 1, ECHO, None, False)
        await guest.answer(await open_direct(guest))
        await host.notice("channel.opened_direct")
        (one,), (two,) = guest.descriptors, host.descriptors
        os.write(one, b"\0")
        assert os.read(two, 100) == b"\0"


async def test_descriptors_on_their_way_to_a_client_that_does_not_read_are_the_right_ones(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        before = open_sockets()
        for _ in range(20):
            await host.offer(ECHO)
        msgids = [await open_direct(guest) for _ in range(20)]
        for _ in range(20):
            await host.notice("channel.opened")
        numbers = [(await guest.answer(msgid))[0] for msgid in msgids]
        assert numbers == list(range(1, 21))
        assert len(guest.descriptors) == 20
        assert all(stat.S_ISSOCK(os.fstat(bell).st_mode) for bell in guest.descriptors)
        assert open_sockets() == before + 40, "one end here, one in the daemon, and no copy besides"
        for number in numbers:
            await guest.call("channel.close", number)
        assert open_sockets() == before + 20


async def test_descriptors_for_a_client_that_has_gone_are_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host:
        await host.attach()
        before = open_sockets()
        free = server.machines["vm1"].pages.free_pages
        async with raw_client(path) as guest:
            await guest.attach()
            for _ in range(10):
                await host.offer(ECHO)
                await open_direct(guest)
        for _ in range(10):
            await host.notice("channel.closed")
        while open_sockets() != before:
            await trio.lowlevel.checkpoint()
        assert server.machines["vm1"].pages.free_pages == free


async def test_without_descriptors_a_direct_channel_is_refused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO)
        free = server.machines["vm1"].pages.free_pages
        with monkeypatch.context() as patch:
            patch.setattr(channels, "doorbell_pair", none_left)
            with pytest.raises(Answered, match="cannot make a doorbell for channel") as refused:
                await guest.answer(await open_direct(guest))
        assert refused.value.status is NtStatus.INSUFFICIENT_RESOURCES
        assert refused.value.message.endswith(": Too many open files")
        assert server.machines["vm1"].failure is None
        assert server.machines["vm1"].pages.free_pages == free
        assert (await guest.answer(await open_direct(guest)))[0] == 1


@pytest.mark.parametrize(
    ("method", "args"),
    [("channel.window", (1, 1)), ("packet.complete", (1, b"")), ("packet.fail", (1,))],
)
async def test_packets_of_a_direct_channel_do_not_go_through_the_socket(
    tmp_path: Path, method: str, args: tuple[object, ...]
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO)
        channel = (await guest.answer(await open_direct(guest)))[0]
        await guest.notify(method, channel, *args)
        reason = "channel 1 is direct: its packets go through its rings, not through this socket"
        assert await guest.goodbye() == (NtStatus.INVALID_PARAMETER, reason)
        await host.notice("channel.closed")


async def test_hosted_and_direct_guests_take_turns_on_one_offer(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(OTHER, grant=GRANT)
        for turn in range(6):
            number = await guest.open(OTHER) if turn % 2 else (await guest.answer(await open_direct(guest, OTHER)))[0]
            assert number == turn + 1
            await guest.call("channel.close", number)


async def test_a_direct_end_tells_of_damage_once_and_a_hosted_one_has_nothing_to_tell(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.offer(ECHO)
        channel = (await guest.answer(await open_direct(guest)))[0]
        for _ in range(3):
            await guest.notify("channel.damaged", channel, "so it is")
        await guest.call("ping")
        assert server.machines["vm1"].counters.channels_failed == 1
        assert await guest.call("channel.close", channel) == []
        await guest.notify("channel.damaged", channel, "late, and no mistake")
        await guest.call("ping")
        await host.notice("channel.opened")
        assert await guest.answer(await open_direct(guest))
        other = (await host.notice("channel.opened"))[1]
        await host.notify("channel.damaged", other, "so it is not")
        status, reason = await host.goodbye()
        assert status is NtStatus.INVALID_PARAMETER
        assert "is hosted: the daemon itself sees whether its rings are damaged" in reason


async def test_damaged_rings_are_told_in_the_log_a_few_times_and_then_counted(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
            await host.attach()
            await guest.attach()
            await host.offer(ECHO)
            for _ in range(12):
                channel = (await guest.answer(await open_direct(guest)))[0]
                await guest.notify("channel.damaged", channel, "so it is")
                await guest.call("channel.close", channel)
            assert server.machines["vm1"].counters.channels_failed == 12
    told = [line for line in lines if line["event"] == "channel.failed"]
    assert [line["count"] for line in told] == [1, 2, 3, 4, 5, 10]
    assert {(line["machine"], line["found_by"], line["error"]) for line in told} == {("vm1", "guest", "so it is")}
    assert not any("transaction" in line for line in told)

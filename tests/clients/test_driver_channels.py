"""Driver channels end to end: two programs with KMCL's life cycle, hosted and direct, against a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clients import RequestFailed
from clients.driver import DriverPhase, DriverSend
from clients.driver_channel import DriverChannel
from emulator.status import NtStatus, Refused
from tests.clients.driver_pair import DISK, Seen, active, both_active, echo, guest_of, host_of, machines
from tests.clients.test_trio_face import cancelled_after

MODES = pytest.mark.parametrize(
    ("guest_mode", "host_mode"),
    [("hosted", "hosted"), ("direct", "hosted"), ("hosted", "direct"), ("direct", "direct")],
)
OPENING = ["opened", "started", "post_started"]
CLOSING = ["suspend", "closed"]


@MODES
async def test_4_3_a_life_with_every_callback_in_order(tmp_path: Path, guest_mode: str, host_mode: str) -> None:
    seen_by_guest, seen_by_host = Seen(), Seen()
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, seen_by_guest, guest_mode), host_of(far, seen_by_host, host_mode)
        await both_active(guest, host)
        assert seen_by_guest.names == seen_by_host.names == OPENING
        assert guest.instance == host.instance
        nursery.start_soon(echo, host)
        assert await guest.send(b"12345678") == b"12345678"
        await guest.disable()
        await host.until(DriverPhase.ENABLED)
        assert seen_by_guest.names == OPENING + CLOSING
        await guest.enable()
        await active(guest)
        assert await guest.send(b"again   ") == b"again   "
        await host.disable()
        await guest.until(DriverPhase.DISABLED)
        assert seen_by_guest.names == seen_by_host.names == (OPENING + CLOSING) * 2
        await guest.cleanup()
        await host.cleanup()


@MODES
async def test_4_3_3_sends_before_opened_has_returned_queue_and_keep_their_order(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async def send_three(channel: DriverChannel) -> None:
        sent.extend(channel.submit(bytes([number]) * 8) for number in range(3))
        assert not any(each.done for each in sent)

    sent: list[DriverSend] = []
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest = guest_of(near, Seen(opened=send_three), guest_mode)
        host = host_of(far, Seen(), host_mode)
        early = guest.submit(b"\xff" * 8)
        got: list[bytes] = []

        async def receive() -> None:
            async for packet in host:
                got.append(packet.payload)
                await packet.complete()

        nursery.start_soon(receive)
        await both_active(guest, host)
        await guest.finish(early)
        await guest.send(b"last    ")
        assert got == [b"\xff" * 8, b"\0" * 8, b"\1" * 8, b"\2" * 8, b"last    "]
        await host.disable()


@MODES
async def test_4_3_4_pause_waits_for_what_was_taken_and_start_goes_on(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    seen = Seen()
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen(), guest_mode), host_of(far, seen, host_mode)
        await both_active(guest, host)
        first, second = guest.submit(b"first   "), guest.submit(b"second  ")
        packet = await anext(host)
        nursery.start_soon(host.pause)
        while "suspend" not in seen.names:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.05) as scope:
            await host.until(DriverPhase.OPEN, active=False)
        assert scope.cancelled_caught, "it waits for the packet that was taken"
        await packet.complete(b"done")
        await host.until(DriverPhase.OPEN, active=False)
        assert await guest.finish(first) == b"done\0\0\0\0"
        with trio.move_on_after(0.05) as scope:
            await anext(host)
        assert scope.cancelled_caught, "nothing is delivered while it is paused"
        await host.start()
        await active(host)
        assert seen.names == [*OPENING, "suspend", "started", "post_started"]
        packet = await anext(host)
        await packet.complete()
        assert await guest.finish(second) == b""


@MODES
async def test_opened_of_the_host_that_fails_is_a_pnp_failure_of_the_guest(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async def refuse(channel: DriverChannel) -> NtStatus:
        return NtStatus.INSUFFICIENT_RESOURCES

    seen_by_guest, seen_by_host = Seen(), Seen(opened=refuse)
    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, seen_by_guest, guest_mode), host_of(far, seen_by_host, host_mode)
        await host.enable()
        await guest.enable()
        await guest.until(DriverPhase.DISABLED)
        await near._connection.ping()
        assert seen_by_guest.names == [f"pnp_failure {NtStatus.DEVICE_NOT_READY!s}"]
        assert seen_by_host.names == ["opened"]
        assert host.phase is DriverPhase.ENABLED
        assert [entry["state"] for entry in server.machines["vm1"].describe_channels()] == ["offered"]


@MODES
async def test_opened_of_the_guest_that_fails_rolls_the_channel_back(
    tmp_path: Path, guest_mode: str, host_mode: str
) -> None:
    async def refuse(channel: DriverChannel) -> None:
        raise Refused(NtStatus.INSUFFICIENT_RESOURCES, "no memory for it")

    seen_by_guest, seen_by_host = Seen(opened=refuse), Seen()
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, seen_by_guest, guest_mode), host_of(far, seen_by_host, host_mode)
        await host.enable()
        await guest.enable()
        sent = guest.submit(b"never")
        await guest.until(DriverPhase.DISABLED)
        with pytest.raises(RequestFailed) as ended:
            await guest.finish(sent)
        assert ended.value.status is NtStatus.CANCELLED
        await seen_by_host.until("opened", "closed")
        assert seen_by_guest.names == ["opened"]


async def test_a_simple_guest_waits_for_opened_of_a_host_with_a_life_cycle(tmp_path: Path) -> None:
    async def refuse_once(channel: DriverChannel) -> NtStatus:
        return NtStatus.UNSUCCESSFUL if len(seen.names) == 1 else NtStatus.SUCCESS

    seen = Seen(opened=refuse_once)
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        host = host_of(far, seen)
        await host.enable()
        await host.start()
        with pytest.raises(RequestFailed, match="its host refused"):
            await near.open_channel(DISK)
        nursery.start_soon(echo, host)
        async with await near.open_channel(DISK) as channel:
            assert await channel.send(b"12345678") == b"12345678"
        await host.until(DriverPhase.ENABLED)
        assert seen.names == ["opened", *OPENING, *CLOSING]
        await host.disable()


async def test_a_simple_host_serves_a_guest_with_a_life_cycle(tmp_path: Path) -> None:
    seen = Seen()
    async with machines(tmp_path) as (_, near, far):
        guest = guest_of(near, seen)
        await guest.enable()
        assert guest.phase is DriverPhase.ENABLED
        offered = await far.offer_channel(DISK)
        await active(guest)
        sent = guest.submit(b"12345678")
        packet = await anext(offered)
        await packet.complete(b"reply")
        assert await guest.finish(sent) == b"reply\0\0\0"
        held = guest.submit(b"never completed")
        await near._connection.ping()
        await offered.rescind()
        with pytest.raises(RequestFailed) as ended:
            await guest.finish(held)
        assert ended.value.status is NtStatus.DEVICE_REMOVED
        await guest.until(DriverPhase.DISABLED)
        assert seen.names == OPENING + CLOSING


@pytest.mark.parametrize("ticks", range(0, 14, 2))
async def test_enable_cancelled_anywhere_can_be_tried_again_or_left(tmp_path: Path, ticks: int) -> None:
    async with machines(tmp_path) as (server, near, far):
        host = host_of(far, Seen())
        was_cancelled = await cancelled_after(ticks, host.enable)
        await far._connection.ping()
        if not was_cancelled or host.phase is DriverPhase.ENABLED:
            await host.disable()
        await host.enable()
        assert [entry["state"] for entry in server.machines["vm1"].describe_channels()] == ["offered"]
        guest = guest_of(near, Seen())
        await guest.enable()
        await guest.until(DriverPhase.OPEN)
        with near.memory.allocate(8) as data:
            await cancelled_after(ticks, lambda: guest.create_gpadl(data))
            await near._connection.ping()
            left = len(server.machines["vm1"].describe_channels()[0]["gpadls"]) - 1
            assert left == len(guest._state.gpadls), "one that nobody knows of is deleted"
        await guest.disable()
        await host.disable()
        await host.cleanup()
        assert server.machines["vm1"].describe_channels() == []


async def test_start_and_pause_and_disable_are_refused_in_a_callback(tmp_path: Path) -> None:
    async def try_all(channel: DriverChannel) -> None:
        for call in (channel.start, channel.pause, channel.disable):
            with pytest.raises(RequestFailed, match="callback"):
                await call()
        refused.append(channel)

    refused: list[DriverChannel] = []
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen(opened=try_all, started=try_all)), host_of(far, Seen(post_started=try_all))
        await both_active(guest, host)
        await near._connection.ping()
        assert len(refused) == 3
        with pytest.raises(RequestFailed, match="before its cleanup"):
            await host.cleanup()

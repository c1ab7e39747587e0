"""Payloads collected many at a time, as ``post`` sends them, in every pairing of hosted and direct ends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import clients
import clients.sync
from clients import Channel, OfferedChannel, RequestFailed
from clients.direct import DirectEnd
from emulator.status import NtStatus
from tests.support.processes import start_daemon

COLLECT = "c0ffee01-0a1b-4c2d-8e3f-405162738495"
MODES = ["hosted", "direct"]
PAIRINGS = list(itertools.product(MODES, MODES))


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(8, "little") for number in range(count)]


@asynccontextmanager
async def opened(tmp_path: Path, pairing: tuple[str, str]) -> AsyncIterator[tuple[Channel, OfferedChannel]]:
    """Both ends of a channel with small rings, each of a client of its own."""
    async with start_daemon(tmp_path) as daemon:
        async with clients.connect(daemon.socket_path) as guest, clients.connect(daemon.socket_path) as host:
            with trio.fail_after(60):
                offered = await (await host.machine("vm1")).offer_channel(COLLECT, mode=pairing[1])
                machine = await guest.machine("vm1")
                channel = await machine.open_channel(COLLECT, mode=pairing[0], send_pages=1, receive_pages=1)
                await offered.opened()
                yield channel, offered


async def collect_all(end: Channel | OfferedChannel, count: int) -> list[bytes]:
    """So many payloads, with everything else that came answered."""
    came: list[bytes] = []
    while len(came) < count:
        run = await end.collect()
        came += run
        if not run:
            packet = await anext(end)
            assert packet.wants_completion
            await packet.complete(len(came).to_bytes(8, "little"))
    return came


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_order_and_number_are_kept_both_ways_at_once(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with opened(tmp_path, pairing) as (channel, offered), trio.open_nursery() as nursery:

        async def take(end: Channel | OfferedChannel) -> None:
            assert await collect_all(end, 3000) == numbered(3000)

        for end in (channel, offered):
            nursery.start_soon(take, end)
            nursery.start_soon(end.post, numbered(3000))


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_questions_stand_between_runs(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with opened(tmp_path, pairing) as (channel, offered), trio.open_nursery() as nursery:

        async def take() -> None:
            assert await collect_all(offered, 3000) == numbered(1000) * 3

        nursery.start_soon(take)
        for round_number in range(3):
            await channel.post(numbered(1000)[: 999 if round_number == 2 else 1000])
            counted = await channel.send(b"how many")
            assert int.from_bytes(counted, "little") == 1000 * (round_number + 1) - (round_number == 2)
        await channel.post(numbered(1000)[999:])


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_collecting_and_taking_singly_can_be_mixed(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with opened(tmp_path, pairing) as (channel, offered), trio.open_nursery() as nursery:
        nursery.start_soon(channel.post, numbered(2000))
        came: list[bytes] = []
        while len(came) < 2000:
            came += await offered.collect()
            if len(came) < 2000:
                packet = await anext(offered)
                came.append(packet.payload)
                await packet.complete()  # nobody asked, so nobody hears
        assert came == numbered(2000)


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_what_came_before_the_end_can_be_collected(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with opened(tmp_path, pairing) as (channel, offered):
        assert await offered.post(numbered(200)) == 200
        await offered.rescind()
        assert await collect_all(channel, 200) == numbered(200)
        assert await channel.collect() == []
        with pytest.raises(StopAsyncIteration):
            await anext(channel)


async def test_what_can_be_copied_to_bytes_can_be_posted_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path, ("direct", "direct")) as (channel, offered):
        mixed = [b"bytes...", bytearray(b"an array"), memoryview(b"one view")]
        assert await channel.post(mixed) == 3  # type: ignore[arg-type]  # more than it promises
        for wrong in ("a string", 5):
            with pytest.raises(RequestFailed) as refused:
                await channel.post([b"the good", wrong])  # type: ignore[list-item]  # what a caller may get wrong
            assert refused.value.status is NtStatus.INVALID_PARAMETER
        with pytest.raises(RequestFailed, match="K3"):
            await channel.post([b"the last", bytes(5000)])
        assert await collect_all(offered, 6) == [*map(bytes, mixed), b"the good", b"the good", b"the last"]


async def test_a_post_given_up_leaves_the_channel_usable(tmp_path: Path) -> None:
    async with opened(tmp_path, ("direct", "direct")) as (channel, offered):
        with trio.move_on_after(0.05) as scope:
            await channel.post(numbered(1000))  # more than the ring holds, and nobody takes any
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.post, [b"the last"])
            came: list[bytes] = []
            while b"the last" not in came:
                came += await offered.collect()
        assert came[:-1] == numbered(len(came) - 1)
        assert len(came) < 1000


@pytest.mark.parametrize("busy_poll_seconds", [0, 100e-6])
def test_the_synchronous_face(tmp_path: Path, busy_poll_seconds: float) -> None:
    trio.run(run_synchronous, tmp_path, busy_poll_seconds)


async def run_synchronous(tmp_path: Path, busy_poll_seconds: float) -> None:
    offered = threading.Event()

    def serve(path: Path) -> None:
        with clients.sync.connect(path, timeout_seconds=30, busy_poll_seconds=busy_poll_seconds) as daemon:
            channel = daemon.machine("vm1").offer_channel(COLLECT, mode="direct")
            offered.set()
            came: list[bytes] = []
            while True:
                while run := channel.collect():
                    came += run
                packet = next(channel)
                if packet.payload == b"the last":
                    packet.complete(b"as asked" if came == numbered(20_000) else b"wrong")
                    return
                packet.complete(packet.payload)

    def use(path: Path) -> None:
        with clients.sync.connect(path, timeout_seconds=30, busy_poll_seconds=busy_poll_seconds) as daemon:
            with daemon.machine("vm1").open_channel(COLLECT, mode="direct") as channel:
                for number in range(200):
                    assert channel.send(number.to_bytes(8, "big")) == number.to_bytes(8, "big")
                assert channel.post(numbered(20_000)) == 20_000
                assert channel.send(b"the last") == b"as asked"

    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve, daemon.socket_path)
                await trio.to_thread.run_sync(offered.wait)
                nursery.start_soon(trio.to_thread.run_sync, use, daemon.socket_path)


def post_to_a_slow_taker(path: Path, busy_poll_seconds: float) -> None:
    """The taker is another connection of this thread: it goes on only when it is asked to, inside the poster's look."""
    with (
        clients.sync.connect(path, timeout_seconds=5, busy_poll_seconds=busy_poll_seconds) as guest,
        clients.sync.connect(path, timeout_seconds=5) as host,
    ):
        offered = host.machine("vm1").offer_channel(COLLECT, mode="direct")
        channel = guest.machine("vm1").open_channel(COLLECT, mode="direct", send_pages=1)
        offered.opened()
        came: list[bytes] = []
        end = channel._state
        assert isinstance(end, DirectEnd)
        silent = end._take_in

        def take_in(most: int, *, runs: bool = True) -> bool:
            while len(came) < 300 and end._held:
                came.extend(offered.collect())
                end.heard()  # a doorbell that rang while somebody looks wakes nobody any more
                if silent(most, runs=runs):
                    return True
            return silent(most, runs=runs)

        end._take_in = take_in  # type: ignore[method-assign]  # the peer's turn comes at the worst moment
        assert channel.post(numbered(300)) == 300
        came.extend(offered.collect())
        assert came == numbered(300)


@pytest.mark.parametrize("busy_poll_seconds", [0, 100e-6])
async def test_a_post_whose_last_packet_finds_room_during_a_look_has_ended(
    tmp_path: Path, busy_poll_seconds: float
) -> None:
    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(60):
            await trio.to_thread.run_sync(post_to_a_slow_taker, daemon.socket_path, busy_poll_seconds)

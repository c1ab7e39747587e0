"""Channels whose rings a client works itself: every pairing of hosted and direct ends, and what hostile ones can do."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

import clients
import clients.sync
from clients import Channel, Connection, OfferedChannel, RequestFailed, SendFlags
from clients.direct import DirectEnd
from emulator.status import NtStatus
from emulator.vmbus.packets import RingCorruption
from emulator.wire.schema import PACKET_SEND
from tests.support.processes import Daemon, start_client, start_daemon

ECHO = "c0ffee00-0a1b-4c2d-8e3f-405162738495"
MODES = ["hosted", "direct"]
PAIRINGS = list(itertools.product(MODES, MODES))


async def echo(offered: OfferedChannel) -> None:
    """Completes with the digest of external data, else with the payload; forgets what wants no completion."""
    async for packet in offered:
        if packet.wants_completion:
            data = packet.external_data() if packet.has_external_data else packet.payload
            await packet.complete(hashlib.sha256(data).digest() if packet.has_external_data else data)


@asynccontextmanager
async def two_clients(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Connection, Connection]]:
    async with (
        start_daemon(tmp_path) as daemon,
        clients.connect(daemon.socket_path, name="guest") as guest,
        clients.connect(daemon.socket_path, name="host") as host,
    ):
        with trio.fail_after(60):
            yield daemon, guest, host


async def paired(
    guest: Connection, host: Connection, pairing: tuple[str, str], pages: int = 0
) -> tuple[Channel, OfferedChannel]:
    """An open channel with these modes of guest and host."""
    offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=pairing[1])
    machine = await guest.machine("vm1")
    channel = await machine.open_channel(ECHO, mode=pairing[0], send_pages=pages, receive_pages=pages)
    await offered.opened()
    return channel, offered


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_packets_completions_and_external_data_in_every_pairing(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing)
        nursery.start_soon(echo, offered)
        (entry,) = await guest.inspect("channels")
        assert (entry["guest_mode"], entry["host_mode"]) == pairing
        assert await channel.send(b"12345678") == b"12345678"
        assert await channel.send(b"none", flags=SendFlags(0)) == b""
        memory = (await guest.machine("vm1")).memory
        with memory.allocate(300_000) as data:
            data.write(0, os.urandom(300_000))
            reply = await channel.send_with_external_mdl(b"", data.mdl, offset=5, length=250_000)
            assert reply == hashlib.sha256(data.read(5, 250_000)).digest()
            with pytest.raises(RequestFailed, match="K10") as refused:
                await channel.send_with_external_mdl(b"", data.mdl, flags=0)
            assert refused.value.status is NtStatus.INVALID_PARAMETER_7
            with pytest.raises(RequestFailed, match="K3"):
                await channel.send(bytes(5000))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_order_and_number_are_kept_through_small_rings_in_every_pairing(
    tmp_path: Path, pairing: tuple[str, str]
) -> None:
    """Both ways at once, far more than the rings hold, with several senders waiting for completions besides."""
    count = 3000
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing, pages=1)

        async def take(end: Channel | OfferedChannel) -> None:
            expected = 0
            async for packet in end:
                if packet.wants_completion:
                    await packet.complete(packet.payload)
                    continue
                assert packet.payload == expected.to_bytes(8, "little")
                expected += 1
                if expected == count:
                    finished.append(end)
                    if len(finished) == 2:
                        done.set()

        async def ask(end: Channel | OfferedChannel) -> None:
            for number in range(300):
                question = bytes([number & 0xFF]) * 64
                assert await end.send(question) == question

        finished: list[object] = []
        done = trio.Event()
        numbers = [number.to_bytes(8, "little") for number in range(count)]
        for end in (channel, offered):
            nursery.start_soon(take, end)
            nursery.start_soon(end.post, numbers)
        async with trio.open_nursery() as askers:
            for end in (channel, offered):
                askers.start_soon(ask, end)
                askers.start_soon(ask, end)
        await done.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_a_host_that_rescinds_ends_what_is_under_way(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing)

        async def unanswered() -> None:
            with pytest.raises(RequestFailed) as ended:
                await channel.send(b"12345678")
            assert ended.value.status is NtStatus.DEVICE_REMOVED

        nursery.start_soon(unanswered)
        async for packet in offered:
            assert packet.wants_completion
            break
        await offered.rescind()
        async for _packet in channel:
            pytest.fail("nothing was sent to the guest")
        assert channel.closed is not None
        assert channel.closed[0] is NtStatus.DEVICE_REMOVED
        with pytest.raises(RequestFailed):
            await channel.send(b"12345678")


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_what_was_said_before_a_rescind_arrives(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing)
        completions: list[bytes] = []

        async def ask(question: bytes) -> None:
            completions.append(await channel.send(question))

        for number in range(20):
            nursery.start_soon(ask, bytes([number]) * 8)
        asked = 0
        async for packet in offered:
            await packet.complete(packet.payload)
            asked += 1
            if asked == 20:
                break
        assert await offered.post([bytes([number]) * 8 for number in range(50)]) == 50
        await offered.rescind()
        arrived = [packet.payload async for packet in channel]
        assert arrived == [bytes([number]) * 8 for number in range(50)]
        while len(completions) < 20:
            await trio.lowlevel.checkpoint()
        assert sorted(completions) == [bytes([number]) * 8 for number in range(20)]


async def until_free(daemon: Connection) -> None:
    """Return when the daemon has noticed that the only channel's guest has gone."""
    while (await daemon.inspect("channels"))[0]["state"] == "open":
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_a_guest_that_dies_leaves_the_offer_to_the_next(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (daemon, guest, host), trio.open_nursery() as nursery:
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=pairing[1])
        nursery.start_soon(echo, offered)
        for _ in range(3):
            async with clients.connect(daemon.socket_path) as mortal:
                await until_free(guest)
                channel = await (await mortal.machine("vm1")).open_channel(ECHO, mode=pairing[0])
                assert await channel.send(b"12345678") == b"12345678"
        await until_free(guest)
        channel = await (await guest.machine("vm1")).open_channel(ECHO)
        assert await channel.send(b"87654321") == b"87654321"
        (machine, _) = await guest.inspect("machines")
        assert (machine["open_channels"], machine["vmbus_violations"]) == (1, {})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_a_send_given_up_leaves_the_channel_usable(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing)
        with trio.move_on_after(0.05) as scope:
            await channel.send(b"not yet!")
        assert scope.cancelled_caught
        nursery.start_soon(echo, offered)
        for _ in range(50):
            assert await channel.send(b"12345678") == b"12345678"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pairing", PAIRINGS)
async def test_the_synchronous_face_in_every_pairing(tmp_path: Path, pairing: tuple[str, str]) -> None:
    offered = threading.Event()

    def serve(path: Path) -> None:
        with clients.sync.connect(path, timeout_seconds=30) as daemon:
            channel = daemon.machine("vm1").offer_channel(ECHO, mode=pairing[1])
            offered.set()
            for packet in channel:
                if packet.payload == b"stop".ljust(8, b"\0"):
                    packet.complete()
                    return
                if packet.wants_completion:
                    packet.complete(packet.payload)

    def use(path: Path) -> None:
        with clients.sync.connect(path, timeout_seconds=30) as daemon:
            with daemon.machine("vm1").open_channel(ECHO, mode=pairing[0]) as channel:
                for number in range(500):
                    assert channel.send(number.to_bytes(8, "big")) == number.to_bytes(8, "big")
                assert channel.post([b"run"] * 5000) == 5000
                channel.send(b"stop")

    async with start_daemon(tmp_path) as daemon:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve, daemon.socket_path)
                await trio.to_thread.run_sync(offered.wait)
                nursery.start_soon(trio.to_thread.run_sync, use, daemon.socket_path)


async def test_a_channel_that_is_over_leaves_the_short_way_to_the_other_at_once(tmp_path: Path) -> None:
    """Short round trips are for a connection with one direct channel; one that has ended no longer counts."""
    async with two_clients(tmp_path) as (daemon, _, host):
        machine = await host.machine("vm1")
        first, second = [await machine.offer_channel(ECHO, mode="direct") for _ in range(2)]

        def use() -> None:
            # It looks for long enough that the answer to a ping is there before it asks what else is.
            with clients.sync.connect(daemon.socket_path, timeout_seconds=30, busy_poll_seconds=0.2) as guest:
                here = guest.machine("vm1")
                over, other = [here.open_channel(ECHO, offer.instance, mode="direct") for offer in (first, second)]
                trio.from_thread.run(first.post, [b"ring it!"])
                direct_end(over)._break(RingCorruption("somebody wrote over it"))
                guest.ping()
                assert list(guest._listening.values()) == [direct_end(other)]

        await trio.to_thread.run_sync(use)


# ---- hostile ends


def direct_end(channel: Channel | clients.sync.Channel) -> DirectEnd:
    """What a direct channel is made of; a hostile client has this in its own process."""
    state = channel._state
    assert isinstance(state, DirectEnd)
    return state


DEAF_GUEST = """
import sys
import clients.sync

with clients.sync.connect() as daemon:
    channel = daemon.machine("vm1").open_channel("c0ffee00-0a1b-4c2d-8e3f-405162738495", mode="direct")
    bell = channel._state.bell
    bell.setblocking(True)  # clears O_NONBLOCK of the description this process shares with nobody
    for _ in range(2000):
        bell.send(bytes(4096))
    print("deaf", flush=True)
    sys.stdin.read()  # nothing of this client runs any more: it never reads the bell
"""


async def send_until_refused(channel: Channel) -> RequestFailed:
    """The error that ends a channel's sends, which comes within a few."""
    for _ in range(10):
        try:
            await channel.send(b"12345678")
        except RequestFailed as error:
            return error
    pytest.fail("a damaged ring went unnoticed")


async def test_a_doorbell_nobody_reads_made_blocking_blocks_nobody_else(tmp_path: Path) -> None:
    """The client clears O_NONBLOCK on its end, rings as often as it can, and never reads (trap 6)."""
    (tmp_path / "deaf.py").write_text(DEAF_GUEST)
    async with two_clients(tmp_path) as (daemon, guest, host), trio.open_nursery() as nursery:
        offered = await (await host.machine("vm1")).offer_channel(ECHO)
        bystander = await (await host.machine("vm2")).offer_channel(ECHO)
        nursery.start_soon(echo, bystander)
        healthy = await (await guest.machine("vm2")).open_channel(ECHO)
        async with start_client(tmp_path, "deaf", tmp_path / "deaf.py", daemon=daemon) as deaf:
            await offered.opened()
            await deaf.wait_for_line("deaf")
            # The host rings a bell that nobody hears, far more often than it can hold, while another machine goes on.
            for number in range(2000):
                if number % 20 == 0:
                    assert await healthy.send(b"12345678") == b"12345678"
                nursery.start_soon(send_and_forget, offered)
            assert await healthy.send(b"12345678") == b"12345678"
            deaf.kill()
        nursery.cancel_scope.cancel()


async def send_and_forget(offered: OfferedChannel) -> None:
    """One packet; its channel may end before it has gone."""
    with suppress(RequestFailed):
        await offered.send(b"ring it!", flags=SendFlags(0))


@pytest.mark.parametrize("host_mode", MODES)
async def test_a_doorbell_that_is_closed_only_ends_its_channel_with_its_client(tmp_path: Path, host_mode: str) -> None:
    async with two_clients(tmp_path) as (daemon, guest, host), trio.open_nursery() as nursery:
        async with clients.connect(daemon.socket_path) as hostile:
            channel, offered = await paired(hostile, host, ("direct", host_mode))
            nursery.start_soon(echo, offered)
            direct_end(channel).bell.shutdown(socket.SHUT_RDWR)
        await until_free(guest)
        again = await (await guest.machine("vm1")).open_channel(ECHO)
        assert await again.send(b"12345678") == b"12345678"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pairing", [("direct", "hosted"), ("hosted", "direct"), ("direct", "direct")])
async def test_a_damaged_ring_ends_its_channel_and_no_other(tmp_path: Path, pairing: tuple[str, str]) -> None:
    async with two_clients(tmp_path) as (_, guest, host), trio.open_nursery() as nursery:
        channel, offered = await paired(guest, host, pairing)
        healthy_offer = await (await host.machine("vm1")).offer_channel(ECHO)
        nursery.start_soon(echo, offered)
        nursery.start_soon(echo, healthy_offer)
        healthy = await (await guest.machine("vm1")).open_channel(ECHO, healthy_offer.instance)
        memory = (await guest.machine("vm1")).memory.mapped
        entries = await guest.inspect("channels")
        assert len(entries) == 2
        # The first channel's rings were the first pages anybody allocated behind the two clients' pools.
        first_ring_page = 1 + 2 * 512
        memory.write(first_ring_page * 4096, b"\xff" * 8)
        ended = await send_until_refused(channel)
        assert ended.status in (NtStatus.DEVICE_REMOVED, NtStatus.CANCELLED)
        assert await healthy.send(b"12345678") == b"12345678"
        nursery.cancel_scope.cancel()


async def test_sending_over_the_socket_on_a_direct_channel_breaks_the_protocol(tmp_path: Path) -> None:
    async with two_clients(tmp_path) as (_, guest, host):
        channel, _ = await paired(guest, host, ("direct", "hosted"))
        with pytest.raises(clients.ConnectionLost, match="is direct: its packets go through its rings"):
            await guest.request(PACKET_SEND, direct_end(channel).number, 1, b"", b"")


async def test_direct_needs_mapped_memory_and_a_known_mode(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, clients.connect(daemon.socket_path, map_memory=False) as remote:
        machine = await remote.machine("vm1")
        with pytest.raises(RequestFailed, match="connect with map_memory=True"):
            await machine.open_channel(ECHO, mode="direct")
        with pytest.raises(RequestFailed, match="'hosted' or 'direct', not 'indirect'"):
            await machine.offer_channel(ECHO, mode="indirect")

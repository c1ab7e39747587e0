"""The awaited face of the client library against a daemon in the same process: cancelled anywhere, nothing is left."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clients import Connection, ConnectionLost, Machine, RequestFailed, connect
from clients.memory import MemoryNotMapped
from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.daemon.server import Server
from emulator.status import NtStatus, Refused
from emulator.wire.codec import encode_notification, encode_response
from emulator.wire.schema import GOODBYE
from tests.daemon.raw import open_descriptors, open_sockets, served

ECHO = "0e2f8f35-64b1-4f4c-9d2c-5a1e00000001"
OTHER = "0e2f8f35-64b1-4f4c-9d2c-5a1e00000002"
PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def pair(tmp_path: Path, config: Config | None = None) -> AsyncIterator[tuple[Server, Machine, Machine]]:
    """A daemon, and two connections of one machine: a guest's and a host's."""
    async with served(tmp_path, config) as (server, path), connect(path) as one, connect(path) as two:
        yield server, await one.machine("vm1"), await two.machine("vm1")


async def cancelled_after(ticks: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Run a call and cancel it after so many turns of the scheduler; whether it was cancelled."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            await call()
            nursery.cancel_scope.cancel()
    return scope.cancelled_caught


def states(server: Server) -> list[str]:
    return [entry["state"] for entry in server.machines["vm1"].describe_channels()]


async def settled(connection_of: Machine) -> None:
    """Whatever was on the way has arrived, here and at the daemon."""
    await wait_all_tasks_blocked()
    await connection_of._connection.ping()
    await wait_all_tasks_blocked()


async def answer_all(offered: Any) -> None:
    async for packet in offered:
        await packet.complete(packet.payload)


# ---- cancelled in the middle


@pytest.mark.parametrize("ticks", range(12))
async def test_opening_a_channel_cancelled_at_any_moment_leaves_none_open(tmp_path: Path, ticks: int) -> None:
    async with pair(tmp_path) as (server, guest, host):
        offered = await host.offer_channel(ECHO)
        kept: list[Any] = []

        async def open_it() -> None:
            kept.append(await guest.open_channel(ECHO))

        await cancelled_after(ticks, open_it)
        await settled(guest)
        await settled(host)
        assert states(server) == (["open"] if kept else ["offered"])
        assert offered.is_open == bool(kept)
        for channel in kept:
            await channel.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, offered)
            async with await guest.open_channel(ECHO) as channel:
                assert await channel.send(b"and now!") == b"and now!"
            nursery.cancel_scope.cancel()


async def test_waiting_for_an_offer_can_be_given_up(tmp_path: Path) -> None:
    async with pair(tmp_path) as (server, guest, host):
        with trio.move_on_after(0.01) as scope:
            await guest.open_channel(ECHO)
        assert scope.cancelled_caught
        await settled(guest)
        assert server.machines["vm1"].describe()["waiting_guests"] == 0
        await host.offer_channel(ECHO)
        assert states(server) == ["offered"]


@pytest.mark.parametrize("ticks", range(10))
async def test_an_offer_cancelled_at_any_moment_is_not_made(tmp_path: Path, ticks: int) -> None:
    async with pair(tmp_path) as (server, _, host):
        kept: list[Any] = []

        async def offer_it() -> None:
            kept.append(await host.offer_channel(ECHO))

        await cancelled_after(ticks, offer_it)
        await settled(host)
        assert len(states(server)) == len(kept)


@pytest.mark.parametrize("ticks", range(10))
@pytest.mark.parametrize("network", ["udp", "lan"])
async def test_opening_an_address_cancelled_at_any_moment_leaves_none_open(
    tmp_path: Path, ticks: int, network: str
) -> None:
    local = ("127.0.0.1" if network == "udp" else "10.0.0.1", 0)
    async with pair(tmp_path) as (server, guest, _):
        before = open_sockets()
        kept: list[Any] = []

        async def open_it() -> None:
            kept.append(await guest.open_address(local, network=network))

        await cancelled_after(ticks, open_it)
        await settled(guest)
        sockets = len(kept) if network == "udp" else 0
        assert server.machines["vm1"].datagrams.describe()["udp_sockets"] == sockets
        assert open_sockets() == before + sockets


@pytest.mark.parametrize("ticks", range(12))
async def test_a_send_cancelled_at_any_moment_is_ended_once_and_the_channel_goes_on(tmp_path: Path, ticks: int) -> None:
    async with pair(tmp_path) as (server, guest, host):
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, offered)
            await cancelled_after(ticks, lambda: channel.send(b"perhaps!"))
            await settled(guest)
            (entry,) = server.machines["vm1"].describe_channels()
            assert entry["guest_outstanding"] == 0
            for number in range(300):  # more than a window: whatever the cancelled one took has come back
                payload = number.to_bytes(8, "little")
                assert await channel.send(payload) == payload
            nursery.cancel_scope.cancel()


async def test_many_sends_cancelled_while_they_wait_for_room_leave_all_of_it_to_the_next(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(window_packets=8, outstanding_requests=16))
    async with pair(tmp_path, config) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        for _ in range(5):
            with trio.move_on_after(0.01):
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        nursery.start_soon(channel.send, b"nobody's")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, offered)
            with trio.fail_after(PATIENCE_SECONDS):
                for number in range(100):
                    payload = number.to_bytes(8, "little")
                    assert await channel.send(payload) == payload
            nursery.cancel_scope.cancel()


async def test_a_post_that_is_cancelled_sends_no_more(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO, send_pages=1)
        payloads = [number.to_bytes(8, "little") * 20 for number in range(10_000)]
        with trio.move_on_after(0.05) as scope:
            await channel.post(payloads)
        assert scope.cancelled_caught
        seen = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"the next")
            with trio.fail_after(PATIENCE_SECONDS):
                async for packet in offered:
                    if packet.wants_completion:
                        assert packet.payload == b"the next"
                        await packet.complete()
                        break
                    assert packet.payload == payloads[seen]
                    seen += 1
        assert 0 < seen < 2000


@pytest.mark.parametrize("ticks", range(0, 16, 2))
async def test_attaching_cancelled_at_any_moment_keeps_no_descriptor(tmp_path: Path, ticks: int) -> None:
    async with served(tmp_path) as (server, path):
        async with connect(path) as daemon:
            before = open_descriptors()
            machines: list[Machine] = []

            async def attach() -> None:
                machines.append(await daemon.machine("vm1"))

            await cancelled_after(ticks, attach)
            await wait_all_tasks_blocked()
            await daemon.ping()
            assert open_descriptors() == before + len(machines)
            machine = await daemon.machine("vm1")
            machine.memory.allocate(4096).write(0, b"x")
        held = server.machines["vm1"].memory.page_count - 1 - server.machines["vm1"].pages.free_pages
        while held:
            await trio.lowlevel.checkpoint()
            held = server.machines["vm1"].memory.page_count - 1 - server.machines["vm1"].pages.free_pages


@pytest.mark.parametrize("ticks", range(8))
async def test_reserving_cancelled_at_any_moment_gives_the_pages_back(tmp_path: Path, ticks: int) -> None:
    async with pair(tmp_path) as (server, guest, _):
        pages = server.machines["vm1"].pages
        free = pages.free_pages
        mine = guest.memory.free_bytes
        await cancelled_after(ticks, lambda: guest.reserve(mine + 4096 * 100))
        await settled(guest)
        assert pages.free_pages == free - (guest.memory.free_bytes - mine) // 4096


async def test_a_whole_connection_cancelled_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path):
        async with connect(path) as first:
            # A machine's first socket brings its poller, which stays.
            await (await (await first.machine("vm1")).open_address(("127.0.0.1", 0))).close()
        await wait_all_tasks_blocked()
        before = open_descriptors()
        for ticks in range(0, 60, 3):

            async def everything() -> None:
                async with connect(path) as daemon:
                    machine = await daemon.machine("vm1")
                    offered = await machine.offer_channel(ECHO)
                    channel = await machine.open_channel(ECHO)
                    await machine.open_address(("127.0.0.1", 0))
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(answer_all, offered)
                        while True:
                            await channel.send(b"on and on")

            assert await cancelled_after(ticks, everything)
        await wait_all_tasks_blocked()
        assert open_descriptors() == before
        assert states(server) == []
        assert server.machines["vm1"].pages.free_pages == server.machines["vm1"].memory.page_count - 1


# ---- the end of things, as the library tells it


async def test_iterating_ends_when_the_channel_the_offer_or_the_address_is_closed(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        address = await guest.open_address(("10.0.0.1", 0), network="lan")
        ended: list[str] = []

        async def watch(name: str, source: Any) -> None:
            async for _ in source:
                raise AssertionError("nothing was sent")
            ended.append(name)

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for name, source in (("channel", channel), ("offer", offered), ("address", address)):
                    nursery.start_soon(watch, name, source)
                await wait_all_tasks_blocked()
                await channel.close()
                await offered.rescind()
                await address.close()
        assert sorted(ended) == ["address", "channel", "offer"]


async def test_rescinding_an_offer_nobody_opened_wakes_its_iteration(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, _, host):
        offered = await host.offer_channel(ECHO)
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_all, offered)
                await wait_all_tasks_blocked()
                await offered.rescind()
        with pytest.raises(RequestFailed, match="the offer was rescinded"):
            await offered.opened()


async def test_an_offer_serves_one_guest_after_another(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, offered)
            for number in range(20):
                async with await guest.open_channel(ECHO) as channel:
                    await offered.opened()
                    payload = number.to_bytes(8, "little")
                    assert await channel.send(payload) == payload
                with pytest.raises(RequestFailed) as failed:
                    await channel.send(b"too late")
                assert failed.value.status is NtStatus.CANCELLED
            nursery.cancel_scope.cancel()


async def test_a_host_sends_and_its_guest_answers(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        with pytest.raises(RequestFailed, match="no guest has this channel open"):
            await offered.send(b"too soon")
        channel = await guest.open_channel(ECHO)
        await offered.opened()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, channel)
            assert await offered.send(b"to guest") == b"to guest"
            nursery.cancel_scope.cancel()


async def test_a_failed_packet_stops_the_channel_until_it_is_opened_again(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_, guest, host):
        offered = await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        async with trio.open_nursery() as nursery:

            async def unanswered() -> None:
                with pytest.raises(RequestFailed) as failed:
                    await channel.send(b"malforme")
                assert failed.value.status is NtStatus.CANCELLED

            nursery.start_soon(unanswered)
            packet = await anext(aiter(offered))
            await packet.fail()
            await settled(host)
            await channel.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, offered)
            async with await guest.open_channel(ECHO) as again:
                assert await again.send(b"goes on!") == b"goes on!"
            nursery.cancel_scope.cancel()


# ---- memory


async def test_used_up_memory_is_a_refusal_and_no_obstacle_to_attach(tmp_path: Path) -> None:
    config = Config(machines={"vm1": MachineConfig(memory_bytes=64 * 4096)})
    async with served(tmp_path, config) as (_, path), connect(path) as one:
        machine = await one.machine("vm1")
        with pytest.raises(Refused, match=r"call machine.reserve\(4096\) first"):
            machine.memory.allocate(4096)
        buffer = await machine.allocate(63 * 4096)
        with pytest.raises(RequestFailed, match="1 pages were asked for, but only 0") as failed:
            await machine.allocate(1)
        assert failed.value.status is NtStatus.INSUFFICIENT_RESOURCES
        buffer.free()
        await machine.allocate(4096)


async def test_without_a_mapping_the_direct_calls_say_what_to_use_instead(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), connect(path, map_memory=False) as one:
        machine = await one.machine("vm1")
        buffer = machine.memory.allocate(10)
        with pytest.raises(MemoryNotMapped, match=r"use machine\.read_memory and machine\.write_memory"):
            buffer.write(0, b"x")
        await machine.write_memory(buffer.range, b"by message")
        assert await machine.read_memory(buffer.range) == b"by message"


# ---- a daemon that is not there, goes, or talks nonsense


async def test_no_daemon_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(ConnectionLost, match=f"no daemon answers at {path} .*start one with: vmbusd --socket {path}"):
        async with connect(path):
            pass


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "the daemon closed the connection"),
        (b"HTTP/1.1 400 Bad Request", "the daemon broke the protocol: a frame must be a MessagePack-RPC array"),
        (encode_notification(GOODBYE, 0, "no more room"), "the daemon ended the session: no more room"),
        (encode_response(99), "the daemon broke the protocol: the daemon answered request 99, which was not sent"),
    ],
    ids=["nothing", "nonsense", "goodbye", "a stray answer"],
)
async def test_a_daemon_that_ends_the_conversation_is_told_as_a_lost_connection(
    tmp_path: Path, said: bytes, reason: str
) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)

        async def serve() -> None:
            await trio.lowlevel.wait_readable(listener)
            peer, _ = listener.accept()
            with peer:
                await trio.lowlevel.wait_readable(peer)
                assert peer.recv(1000)
                peer.sendall(said)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(ConnectionLost, match=reason):
                async with connect(path):
                    raise AssertionError("nobody said hello")


async def test_an_exception_of_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path):
        with pytest.raises(LookupError, match="mine"):
            async with connect(path):
                raise LookupError("mine")


async def test_after_the_end_every_call_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path):
        async with connect(path) as daemon:
            machine = await daemon.machine("vm1")
        with pytest.raises(ConnectionLost, match="the connection has been closed here"):
            await machine.open_channel(ECHO)
        connection: Connection = daemon
        with pytest.raises(ConnectionLost, match="the connection has been closed here"):
            await connection.ping()


async def test_two_tasks_may_use_one_connection_and_one_machine_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), connect(path) as daemon:
        machines: list[Machine] = []

        async def use() -> None:
            machine = await daemon.machine("vm1")
            machines.append(machine)
            (await machine.allocate(10_000)).write(0, b"x")

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(use)
        assert len(machines) == 10

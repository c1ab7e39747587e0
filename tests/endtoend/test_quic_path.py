"""What the path between a client and the daemon may do: lose, delay, reorder, move the client, and end."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clients import Connection, ConnectionLost, Machine, RequestFailed, connect, requests
from clients.vmbus import Channel
from emulator.status import NtStatus
from tests.endtoend.programs import ECHO, checksum, pattern
from tests.support.path import network_path
from tests.support.processes import start_client
from tests.support.remote import start_remote

PROGRAMS = "tests.endtoend.programs"
PACKETS = 2_000  # five times as many go through namespaces, in test_quic_namespaces
EXTERNAL_BYTES = 64
PAGE = 4096
PATIENCE_SECONDS = 20.0


async def take_in_order(host: Machine, count: int, started: trio.Event) -> None:
    """Be a host that takes so many packets, each once and in order, and looks at their external data."""
    offered = await host.offer_channel(ECHO)
    started.set()
    for number in range(count):
        packet = await anext(aiter(offered))
        external = packet.external_data()
        assert packet.payload == number.to_bytes(8, "little")
        assert external == pattern(number, EXTERNAL_BYTES)
        await packet.complete(checksum(packet.payload, external))
    assert not offered._state.items, "one came twice"


async def send_in_order(attached: Connection, machine: Machine, channel: Channel, count: int) -> None:
    """Send packets whose external data lies in pages of 64, all at once, and check each completion."""
    each_page = PAGE // EXTERNAL_BYTES
    buffers = [await machine.allocate(PAGE) for _ in range(-(-count // each_page))]
    whole = b"".join(pattern(number, EXTERNAL_BYTES) for number in range(count))
    async with trio.open_nursery() as nursery:
        for index, buffer in enumerate(buffers):
            nursery.start_soon(machine.write_memory, buffer.range, whole[index * PAGE : (index + 1) * PAGE])
    calls = [
        requests.send_with_external_mdl(
            attached.protocol,
            channel._state,
            number.to_bytes(8, "little"),
            buffers[number // each_page].mdl,
            (number % each_page * EXTERNAL_BYTES, EXTERNAL_BYTES),
            1,
        )
        for number in range(count)
    ]
    for number, call in enumerate(calls):
        await attached.finish(call)
        external = pattern(number, EXTERNAL_BYTES)
        assert requests.completion(call) == checksum(number.to_bytes(8, "little"), external)


async def test_packets_with_external_data_arrive_once_and_in_order_over_a_bad_path(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        async with (
            network_path(remote.where, loss=0.05, delay_seconds=0.025, overtaking=0.05) as path,
            connect(remote.daemon.socket_path) as local,
            connect(path.where, credentials=remote.credentials) as attached,
        ):
            started = trio.Event()
            host, machine = await local.machine("vm1"), await attached.machine("vm1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_in_order, host, PACKETS, started)
                await started.wait()
                await send_in_order(attached, machine, await machine.open_channel(ECHO), PACKETS)
            assert path.lost > 10


async def test_a_client_whose_address_changes_goes_on(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote:
        async with (
            network_path(remote.where) as path,
            connect(path.where, credentials=remote.credentials) as attached,
        ):
            machine = await attached.machine("vm1")
            await machine.offer_channel(ECHO)
            for _ in range(3):
                path.move_client()
                with trio.fail_after(PATIENCE_SECONDS):
                    await attached.ping()
            (described,) = await attached.inspect("daemon")
            assert (described["quic_clients"], described["sessions"]) == (1, 1)
            assert len(await attached.inspect("channels", "vm1")) == 1, "what it had is still there"


async def test_a_client_that_changes_its_socket_goes_on(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote, connect(remote.where, credentials=remote.credentials) as attached:
        before = attached._link.local_port  # type: ignore[attr-defined]  # what only a link over UDP has
        attached._link.rebind()  # type: ignore[attr-defined]
        with trio.fail_after(PATIENCE_SECONDS):
            await attached.ping()
        assert attached._link.local_port != before  # type: ignore[attr-defined]


async def test_a_path_that_ends_ends_both_sides_in_the_idle_time(tmp_path: Path) -> None:
    """The client is told what it does not know any more, and what it held in the daemon is closed."""
    async with start_remote(tmp_path, "idle_seconds = 2\nkeep_alive_seconds = 0.5") as remote:
        async with connect(remote.daemon.socket_path) as local, network_path(remote.where) as path:
            guest = await local.machine("vm1")
            channels: list[Channel] = []

            async def lose_the_path() -> None:
                async with connect(path.where, credentials=remote.credentials) as attached:
                    await (await attached.machine("vm1")).offer_channel(ECHO)
                    channels.append(await guest.open_channel(ECHO))
                    path.is_cut = True
                    with trio.fail_after(8):
                        await attached.ping()

            with pytest.raises(ConnectionLost, match=r"path to it is lost; 1 requests have no answer"):
                await lose_the_path()
            with trio.fail_after(8), pytest.raises(StopAsyncIteration):
                await anext(aiter(channels[0]))
            assert channels[0].closed is not None
            assert channels[0].closed[0] is NtStatus.DEVICE_REMOVED
            (described,) = await local.inspect("daemon")
            assert described["quic_clients"] == 0


# A killed program says nothing to anybody: over UDP it is missed, in the idle time.
SOON_GONE = "idle_seconds = 2\nkeep_alive_seconds = 0.5"
FLIGHT = 40


async def test_a_guest_that_is_killed_ends_what_it_was_sent_in_the_idle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_remote(tmp_path, SOON_GONE) as remote, connect(remote.daemon.socket_path) as local:
        machine = await local.machine("vm1")
        (before,) = await local.inspect("machines", "vm1")
        offered = await machine.offer_channel(ECHO)
        remote.tell_programs(monkeypatch)
        async with start_client(tmp_path, "guest", PROGRAMS, "flood", "--count", str(FLIGHT)) as guest:
            packets = [await anext(aiter(offered)) for _ in range(FLIGHT)]
            with trio.fail_after(PATIENCE_SECONDS):
                guest.kill()
                with pytest.raises(RequestFailed, match=r"'flood', key 'everything' at .* ended: ") as failed:
                    await offered.send(b"unheard!")
            assert failed.value.status is NtStatus.CANCELLED
            assert not offered.is_open
        for packet in packets:
            await packet.complete(b"too late")
        (after,) = await local.inspect("machines", "vm1")
        assert after["free_bytes"] == before["free_bytes"], "its pages are back"


async def test_a_host_that_is_killed_ends_what_it_had_not_completed_in_the_idle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_remote(tmp_path, SOON_GONE) as remote, connect(remote.daemon.socket_path) as local:
        machine = await local.machine("vm1")
        remote.tell_programs(monkeypatch)
        async with start_client(tmp_path, "host", PROGRAMS, "host", "--hold", str(FLIGHT)) as host:
            channel = await machine.open_channel(ECHO)
            ended: list[NtStatus] = []

            async def send() -> None:
                with pytest.raises(RequestFailed) as failed:
                    await channel.send(b"12345678")
                ended.append(failed.value.status)

            with trio.fail_after(PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    for _ in range(FLIGHT):
                        nursery.start_soon(send)
                    await host.wait_for_line("holding")
                    host.kill()
        assert ended == [NtStatus.DEVICE_REMOVED] * FLIGHT
        with pytest.raises(RequestFailed, match="nobody offers"):
            await machine.open_channel(ECHO, wait=False)


async def test_an_idle_client_is_kept_alive(tmp_path: Path) -> None:
    async with start_remote(tmp_path, "idle_seconds = 1\nkeep_alive_seconds = 0.3") as remote:
        async with connect(remote.where, credentials=remote.credentials) as attached:
            await trio.sleep(2.5)  # what is tested is that time passes
            await attached.ping()


async def test_without_keep_alive_an_idle_client_is_gone_after_the_idle_time(tmp_path: Path) -> None:
    async with start_remote(tmp_path, "idle_seconds = 1\nkeep_alive_seconds = 0") as remote:

        async def be_idle() -> None:
            async with connect(remote.where, credentials=remote.credentials) as attached:
                offered = await (await attached.machine("vm1")).offer_channel(ECHO)
                with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RequestFailed, match="the path to it is lost"):
                    await offered.opened()
                await attached.ping()

        with pytest.raises(ConnectionLost, match="the path to it is lost"):
            await be_idle()


async def test_a_daemon_that_was_killed_is_noticed_before_the_idle_time(tmp_path: Path) -> None:
    async with start_remote(tmp_path, expect_exit=None) as remote:

        async def outlive_it() -> None:
            async with connect(remote.where, credentials=remote.credentials) as attached:
                await attached.ping()
                remote.daemon.kill()
                await remote.daemon.process.wait()
                with trio.fail_after(10):
                    await attached.ping()

        with pytest.raises(ConnectionLost, match="nobody listens at"):
            await outlive_it()


async def test_datagrams_travel_by_themselves_and_each_send_has_its_one_answer(tmp_path: Path) -> None:
    """Small ones in DATAGRAM frames, large ones by the stream; what the path loses of sends is made good."""
    async with start_remote(tmp_path) as remote:
        async with (
            network_path(remote.where, delay_seconds=0.002) as path,
            connect(remote.daemon.socket_path) as local,
            connect(path.where, credentials=remote.credentials) as attached,
        ):
            near = await (await attached.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
            far = await (await local.machine("vm2")).open_address(("10.0.0.2", 0), network="lan")
            assert 1000 < attached.protocol.lossy_bytes < 1200
            # So long as nothing is lost everything arrives, of any size.
            for size in (0, 100, 1000, 1100, 1472):
                assert (await near.send_datagram(bytes(size), far.local)).information == size
                assert (await anext(aiter(far))).data == bytes(size)
                await far.send_datagram(bytes(size), near.local)
                assert (await anext(aiter(near))).data == bytes(size)
            path.loss = 0.1
            ended = 0

            async def send(first: int) -> None:
                nonlocal ended
                for number in range(first, 600, 20):
                    sent = await near.send_datagram(number.to_bytes(2, "big"), far.local)
                    assert sent == (NtStatus.SUCCESS, 2)
                    ended += 1

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for first in range(20):
                        nursery.start_soon(send, first)
            assert ended == 600
            came = sorted([int.from_bytes((await anext(aiter(far))).data, "big") for _ in range(600)])
            assert came == list(range(600)), "each once, although some came twice"
            # Towards the client what is lost stays lost, is counted, and holds nothing up.
            for number in range(1000):
                await far.send_datagram(number.to_bytes(2, "big"), near.local)
            path.loss = 0.0
            with trio.fail_after(60):
                taken = 0
                while taken + near.dropped < 1000:
                    await far.send_datagram(b"", near.local)
                    taken += (await anext(aiter(near))).data != b""
            assert near.dropped > 0

"""Driver channels that come and go for long, whose callbacks are late, and calls that would wait for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from clients.calls import RequestFailed
from clients.driver import DriverPhase
from clients.driver_channel import DriverChannel
from clients.kmcl import (
    VMBPACKETCOMPLETION,
    VmbChannelDisable,
    VmbChannelPacketComplete,
    VmbChannelPause,
    VmbPacketSend,
)
from emulator.config import Config, LimitsConfig, MachineConfig
from emulator.daemon.server import Server
from emulator.status import Misuse, NtStatus
from tests.clients.driver_pair import Seen, active, both_active, guest_of, host_of, machines
from tests.clients.kmcl_drivers import WAIT, drivers, good
from tests.daemon.raw import open_descriptors

MODE = pytest.mark.parametrize("mode", ["hosted", "direct"])
SHORT = Config(limits=LimitsConfig(callback_seconds=0.1), machines={"vm1": MachineConfig()})


def left(server: Server, *ends: DriverChannel) -> list[Any]:
    """What is held while nothing is open: by the process, the daemon's machine and the clients."""
    machine = server.machines["vm1"]
    listed = {name: value for name, value in machine.describe().items() if not name.startswith(("packets_", "bytes_"))}
    held: list[Any] = [open_descriptors(), listed, len(machine.waiting), machine.bus.gpadls.count]
    for end in ends:
        protocol, state = end._connection.protocol, end._state
        held += [len(protocol._channels), len(state.items), len(state.taken), len(state.held), len(state.callbacks_due)]
    return held


@MODE
async def test_4_3_two_hundred_lives_leave_nothing_behind(tmp_path: Path, mode: str) -> None:
    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, Seen(), mode), host_of(far, Seen(), mode)
        buffer = near.memory.allocate(4096)

        async def live() -> None:
            await both_active(guest, host)
            await guest.create_gpadl(buffer)  # left at Closed, it goes with the channel
            guest.submit(b"never answered")
            guest.submit_with_external_mdl(b"data", buffer.mdl)
            packet = await anext(host)
            await guest.disable()
            await packet.complete()  # its host waits for that before it closes
            await host.disable()

        for _ in range(3):
            await live()
        before = left(server, guest, host)
        for _ in range(200):
            await live()
        assert left(server, guest, host) == before


@MODE
async def test_opened_that_fails_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    async def fails(channel: DriverChannel) -> NtStatus:
        return NtStatus.UNSUCCESSFUL

    async with machines(tmp_path) as (server, near, far):
        guest, host = guest_of(near, Seen(opened=fails), mode), host_of(far, Seen(), mode)
        await host.enable()
        await host.start()
        found = []
        for _ in range(20):
            await guest.enable()
            await guest.until(DriverPhase.DISABLED)
            await host.until(DriverPhase.ENABLED)
            assert guest._state.opening is None
            found.append(left(server, guest, host))
        assert found[-1] == found[2]


# ---- callbacks that are late


async def test_4_2_a_suspend_that_never_returns_holds_disable_only_for_its_time(tmp_path: Path) -> None:
    release = trio.Event()

    async def hang(channel: DriverChannel) -> None:
        await release.wait()

    seen = Seen(suspend=hang)
    async with machines(tmp_path, SHORT) as (_, near, far):
        guest, host = guest_of(near, Seen()), host_of(far, seen)
        await both_active(guest, host)
        await host.disable()
        assert host.phase is DriverPhase.DISABLED
        release.set()
        await seen.until("opened", "started", "post_started", "suspend", "closed")


async def test_4_3_4_a_suspend_out_of_time_still_waits_for_packets(tmp_path: Path) -> None:
    entered, release = trio.Event(), trio.Event()

    async def hang(channel: DriverChannel) -> None:
        entered.set()
        await release.wait()

    async with machines(tmp_path, SHORT) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen()), host_of(far, Seen(suspend=hang))
        await both_active(guest, host)
        guest.submit(b"held    ")
        packet = await anext(host)
        paused = trio.Event()

        async def pause() -> None:
            await host.pause()
            paused.set()

        nursery.start_soon(pause)
        await entered.wait()
        with trio.move_on_after(0.3):  # three times what Suspend has
            await paused.wait()
        assert not paused.is_set(), "a packet is outstanding"
        await packet.complete()
        release.set()
        await paused.wait()


async def test_4_2_an_opened_that_returns_late_lets_nothing_out_before_the_next(tmp_path: Path) -> None:
    first, late, entered, release = trio.Event(), trio.Event(), trio.Event(), trio.Event()

    async def opened(channel: DriverChannel) -> None:
        if not first.is_set():
            first.set()
            await late.wait()
        else:
            entered.set()
            await release.wait()

    seen = Seen(opened=opened)
    config = Config(limits=LimitsConfig(callback_seconds=0.5), machines={"vm1": MachineConfig()})
    async with machines(tmp_path, config) as (_, near, far):
        guest, host = guest_of(near, seen), host_of(far, Seen())
        await host.enable()
        await host.start()
        await guest.enable()
        await first.wait()
        await guest.until(DriverPhase.DISABLED)  # Opened had its time
        late.set()
        await seen.until("opened")
        await guest.enable()
        await entered.wait()
        send = guest.submit(b"early   ", flags=0)
        assert list(guest._state.held) == [send], "it waits until Opened has returned"
        release.set()
        await guest.finish(send)
        assert (await anext(host)).payload == b"early   "


# ---- calls that would wait for themselves


@pytest.mark.parametrize("call", [VmbChannelPause, VmbChannelDisable])
@pytest.mark.parametrize("where", ["ProcessPacket", "ProcessingComplete"])
async def test_4_2_pause_and_disable_in_a_receive_callback_are_mistakes(tmp_path: Path, call: Any, where: str) -> None:
    async with drivers(tmp_path) as pair, trio.open_nursery() as nursery:
        server = pair.server

        async def ends_itself() -> None:
            with pytest.raises(Misuse, match="waits until no packet is processed"):
                await call(server.channel)
            nursery.start_soon(call, server.channel)  # in a task of its own, as the sentence says
            server._called("refused")

        async def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
            if where == "ProcessPacket":
                await ends_itself()
            VmbChannelPacketComplete(packet, None, 0)

        async def batch(*_: object) -> None:
            if where == "ProcessingComplete":
                await ends_itself()

        server.answer = process
        server._batch = batch  # type: ignore[assignment]  # a double of this test's own
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        ends = ["refused", "suspend"] if call is VmbChannelPause else ["refused", "suspend", "closed"]
        await server.called(*ends)


@pytest.mark.parametrize("call", [VmbChannelPause, VmbChannelDisable])
async def test_4_2_a_nursery_of_the_receive_callbacks_own_is_noticed_too(tmp_path: Path, call: Any) -> None:
    async with drivers(tmp_path) as pair, trio.open_nursery() as nursery:
        server = pair.server

        async def ends_it() -> None:
            with pytest.raises(Misuse, match="waits until no packet is processed"):
                await call(server.channel)
            nursery.start_soon(call, server.channel)  # which is no nursery of the callback's

        async def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
            async with trio.open_nursery() as inner, trio.open_nursery() as innermost:
                inner.start_soon(trio.lowlevel.checkpoint)
                innermost.start_soon(ends_it)
            VmbChannelPacketComplete(packet, None, 0)

        server.answer = process
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await server.called(*(["suspend"] if call is VmbChannelPause else ["suspend", "closed"]))


@MODE
@pytest.mark.parametrize("step", ["pause", "disable"])
async def test_4_3_a_time_out_names_the_packets_that_are_held(tmp_path: Path, mode: str, step: str) -> None:
    async with machines(tmp_path) as (_, near, far):
        guest, host = guest_of(near, Seen(), mode), host_of(far, Seen(), mode)
        await both_active(guest, host)
        for number in range(6):
            guest.submit(b"packet %d" % number)
        held = [await anext(host) for _ in range(6)]
        with pytest.raises(
            RequestFailed, match=r"held and not completed: packet .*b'packet 0.*b'packet 3.* and 2 more"
        ):
            await getattr(host, step)(timeout_seconds=0.05)
        for packet in held:
            await packet.complete()
        await getattr(host, step)(timeout_seconds=20)
        assert host.is_paused
        assert (host.phase is DriverPhase.DISABLED) is (step == "disable")


@MODE
async def test_4_3_an_exception_gives_up_the_packets_a_channels_block_holds(tmp_path: Path, mode: str) -> None:
    async with machines(tmp_path) as (_, near, far):
        guest, sent = guest_of(near, Seen(), mode), []

        async def fails() -> None:
            async with host_of(far, Seen(), mode) as host:
                await both_active(guest, host)
                sent.append(guest.submit(b"held    "))
                await anext(host)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
        with pytest.raises(RequestFailed) as ended:
            await guest.finish(sent[0])
        assert ended.value.status in (NtStatus.CANCELLED, NtStatus.DEVICE_REMOVED)


@MODE
async def test_4_2_nothing_is_seen_after_closed(tmp_path: Path, mode: str) -> None:
    """Packets are under way all the time; those that come after Closed would be seen by the task that takes them."""
    seen_by_host = Seen()
    async with machines(tmp_path) as (_, near, far), trio.open_nursery() as nursery:
        guest, host = guest_of(near, Seen(), mode), host_of(far, seen_by_host, mode)
        await both_active(guest, host)

        async def take() -> None:
            async for packet in host:
                last = seen_by_host.names[-1]
                assert last in ("started", "post_started"), f"a packet came after {last}"
                await packet.complete()

        nursery.start_soon(take)
        for number in range(20):
            for _ in range(50):
                guest.submit(b"12345678", flags=number % 2)
            await guest.disable()
            await host.until(DriverPhase.ENABLED)
            await guest.enable()
            await active(guest)
            await active(host)
        await guest.disable()
        await host.disable()

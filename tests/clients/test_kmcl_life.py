"""A channel's life through the Windows names: who is called when, and what may be asked at which time."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from clients.driver import DriverPhase
from clients.kmcl import (
    DISPATCH_LEVEL,
    PASSIVE_LEVEL,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
    VMBCHANNEL,
    VMBPACKETCOMPLETION,
    KeGetCurrentIrql,
    Misuse,
    Out,
    VmbChannelAllocate,
    VmbChannelCleanup,
    VmbChannelDisable,
    VmbChannelEnable,
    VmbChannelGetInterfaceInstance,
    VmbChannelGetMmioSpace,
    VmbChannelGetPointer,
    VmbChannelPacketComplete,
    VmbChannelPause,
    VmbChannelSetIncomingProcessingAtPassive,
    VmbChannelSetInterruptLatency,
    VmbChannelSetPointer,
    VmbChannelStart,
    VmbPacketSend,
    VmbPacketSetCompletionRoutine,
    VmbServerChannelInitSetMmioMegabytes,
    VmbServerChannelInitSetTargetVtl,
)
from clients.links import UnixLink
from emulator.status import NtStatus
from tests.clients.kmcl_drivers import INSTANCE, MODES, PATIENCE_SECONDS, WAIT, drivers, good


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows(
    "VmbChannelAllocate",
    "VmbChannelEnable",
    "VmbChannelStart",
    "VmbChannelDisable",
    "VmbChannelCleanup",
    "EvtVmbChannelOpened",
    "EvtVmbChannelStarted",
    "EvtVmbChannelPostStarted",
    "EvtVmbChannelSuspend",
    "EvtVmbChannelClosed",
)
async def test_4_3_a_channel_lives_and_dies_in_the_documented_order(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        client, server = pair.client, pair.server

        async def phases(*expected: DriverPhase) -> None:
            with trio.fail_after(PATIENCE_SECONDS):
                for driver, phase in zip((client, server), expected, strict=True):
                    await driver.channel.driver.until(phase)

        await pair.open()
        await VmbChannelDisable(client.channel)
        await client.called("suspend", "closed")
        await server.called("suspend", "closed")
        # The server is offered still, and opens again; the client needs a new Enable.
        await phases(DriverPhase.DISABLED, DriverPhase.ENABLED)
        await client.enable()
        await client.called("opened", "started", "post started")
        await server.called("opened", "started", "post started")
        await VmbChannelDisable(server.channel)
        await server.called("suspend", "closed")
        await client.called("suspend", "closed")
        await phases(DriverPhase.DISABLED, DriverPhase.DISABLED)
        await VmbChannelCleanup(server.channel)
        await VmbChannelCleanup(client.channel)


@pytest.mark.windows("VmbChannelCleanup", "VmbChannelEnable")
async def test_4_4_a_channel_is_cleaned_up_only_when_disabled(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        for driver in (pair.client, pair.server):
            with pytest.raises(Misuse, match="VmbChannelCleanup"):
                await VmbChannelCleanup(driver.channel)
        assert not (await VmbChannelEnable(pair.client.channel)).is_success
        good(VmbPacketSend(pair.client.packet(), b"alive", 5, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelStart", "VmbChannelPause")
async def test_4_3_a_server_starts_paused_and_pause_waits_for_its_packets(
    tmp_path: Path, modes: tuple[str, str]
) -> None:
    async with drivers(tmp_path, modes) as pair, trio.open_nursery() as nursery:
        client, server = pair.client, pair.server
        server.answer = None
        for driver in (server, client):
            driver.initialise()
            good(await VmbChannelEnable(driver.channel))
        await client.called("opened", "started", "post started")
        await server.called("opened")
        good(VmbPacketSend(client.packet(), b"early", 5, None, WAIT))
        await wait_all_tasks_blocked(0.02)
        assert server.packets == []
        await VmbChannelStart(server.channel)
        await server.called("started", "post started")
        await server.until(lambda: len(server.packets) == 1)
        nursery.start_soon(VmbChannelPause, server.channel)
        await server.called("suspend")
        good(VmbPacketSend(client.packet(), b"later", 5, None, WAIT))
        await wait_all_tasks_blocked(0.02)
        assert len(server.packets) == 1
        assert nursery.child_tasks
        VmbChannelPacketComplete(server.packets[0][0], b"done", 4)
        await client.until(lambda: len(client.ends) == 1)
        with trio.fail_after(PATIENCE_SECONDS):
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()
        await VmbChannelStart(server.channel)
        await server.called("started", "post started")
        await server.until(lambda: len(server.packets) == 2)
        VmbChannelPacketComplete(server.packets[1][0], None, 0)


@pytest.mark.windows("VmbChannelPause")
async def test_4_3_a_pause_before_enabling_lets_a_client_begin_paused(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.client.initialise()
        pair.server.initialise()
        await VmbChannelPause(pair.client.channel)
        await pair.server.enable()
        await pair.client.enable()
        await pair.client.called("opened")
        await pair.server.called("opened", "started", "post started")
        await VmbChannelStart(pair.client.channel)
        await pair.client.called("started", "post started")


@pytest.mark.windows("VmbChannelStart", "VmbChannelPause")
async def test_4_3_start_and_pause_are_not_for_state_callbacks_or_disabled_channels(tmp_path: Path) -> None:
    refusals: list[str] = []

    async def post_started(channel: VMBCHANNEL) -> None:
        for call in (VmbChannelStart, VmbChannelPause):
            with pytest.raises(Misuse) as raised:
                await call(channel)
            refusals.append(str(raised.value))
        pair.server._called("post started")

    async with drivers(tmp_path) as pair:
        with pytest.raises(Misuse, match="VmbChannelStart"):
            await VmbChannelStart(pair.server.channel)
        pair.server.callbacks.EvtChannelPostStarted = post_started
        await pair.open()
        assert ["VmbChannelStart" in refusals[0], "VmbChannelPause" in refusals[1]] == [True, True]


@pytest.mark.windows("EvtVmbChannelOpened")
async def test_4_3_a_failing_opened_rolls_the_channel_back(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.server.opened_status = STATUS_UNSUCCESSFUL
        for driver in (pair.server, pair.client):
            driver.initialise()
            await driver.enable()
        await pair.server.until(lambda: "opened" in pair.server.calls)
        await wait_all_tasks_blocked(0.02)
        assert "started" not in pair.server.calls
        assert "post started" not in pair.client.calls or pair.client.calls[-1] == "closed"


@pytest.mark.windows("EvtVmbChannelPnpFailure")
async def test_a_client_hears_of_an_offer_it_could_not_open(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.server.opened_status = STATUS_UNSUCCESSFUL
        for driver in (pair.server, pair.client):
            driver.initialise()
            await driver.enable()
        await pair.client.until(lambda: bool(pair.client.calls))
        assert pair.client.calls[0][0] == "pnp failure"
        assert not pair.client.calls[0][1].is_success


async def test_callbacks_may_be_async_and_run_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    async def slow(what: str) -> None:
        order.append(f"{what} begins")
        await trio.sleep(0.01)
        order.append(f"{what} ends")
        pair.client._called(what)

    async def opened(channel: VMBCHANNEL) -> NtStatus:
        await slow("opened")
        return STATUS_SUCCESS

    async with drivers(tmp_path) as pair:
        callbacks = pair.client.callbacks
        callbacks.EvtChannelOpened = opened
        callbacks.EvtChannelStarted = lambda channel: slow("started")
        callbacks.EvtChannelPostStarted = lambda channel: slow("post started")
        callbacks.EvtChannelSuspend = lambda channel: slow("suspend")
        callbacks.EvtChannelClosed = lambda channel: slow("closed")
        for driver in (pair.server, pair.client):
            driver.initialise()
            await driver.enable()
        await pair.server.called("opened", "started", "post started")
        await pair.client.until(lambda: "post started ends" in order)
        await VmbChannelDisable(pair.client.channel)
        names = ("opened", "started", "post started", "suspend", "closed")
        assert order == [f"{name} {edge}" for name in names for edge in ("begins", "ends")]


@pytest.mark.windows("EvtVmbChannelSuspend", "EvtVmbChannelProcessPacket")
async def test_suspend_waits_for_the_packet_that_is_being_processed(tmp_path: Path) -> None:
    go_on = trio.Event()

    async def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        await go_on.wait()
        pair.server._called("processed")
        VmbChannelPacketComplete(packet, None, 0)

    async with drivers(tmp_path) as pair, trio.open_nursery() as nursery:
        pair.server.answer = process
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        nursery.start_soon(VmbChannelPause, pair.server.channel)
        await wait_all_tasks_blocked(0.02)
        assert pair.server.calls == []
        go_on.set()
        await pair.server.called("processed", "suspend")


@pytest.mark.windows("VmbChannelSetPointer", "VmbChannelGetPointer")
async def test_a_channel_keeps_a_pointer(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        assert VmbChannelGetPointer(pair.client.channel) is None
        context = object()
        VmbChannelSetPointer(pair.client.channel, context)
        assert VmbChannelGetPointer(pair.client.channel) is context
        assert VmbChannelGetPointer(pair.server.channel) is None


@pytest.mark.windows("VmbChannelGetInterfaceInstance")
async def test_the_instance_of_the_active_offer(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.client.initialise(instance=None)
        instance: Out[UUID] = Out()
        with pytest.raises(Misuse, match="has no offer"):
            VmbChannelGetInterfaceInstance(pair.client.channel, instance)
        await pair.open()
        for driver in (pair.client, pair.server):
            instance = Out()
            VmbChannelGetInterfaceInstance(driver.channel, instance)
            assert instance.value == INSTANCE


@pytest.mark.windows("VmbChannelGetMmioSpace", "VmbServerChannelInitSetMmioMegabytes")
async def test_the_mmio_space_of_an_offer(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        good(VmbServerChannelInitSetMmioMegabytes(pair.server.channel, 3, 0))
        address, size = Out[int](), Out[int]()
        with pytest.raises(Misuse, match="VmbChannelGetMmioSpace"):
            VmbChannelGetMmioSpace(pair.client.channel, address, size)
        await pair.open()
        VmbChannelGetMmioSpace(pair.client.channel, address, size)
        assert size.value == 3 << 20
        assert address.value >= pair.client.device.machine.memory.byte_count
        on_server, server_size = Out[int](), Out[int]()
        VmbChannelGetMmioSpace(pair.server.channel, on_server, server_size)
        assert (on_server.value, server_size.value) == (address.value, size.value)


@pytest.mark.windows("VmbChannelSetInterruptLatency")
async def test_the_interrupt_latency_can_be_set_while_the_channel_is_open(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        old: Out[int] = Out()
        assert not (await VmbChannelSetInterruptLatency(pair.client.channel, 5, old)).is_success
        await pair.open()
        good(await VmbChannelSetInterruptLatency(pair.client.channel, 500, old))
        good(await VmbChannelSetInterruptLatency(pair.client.channel, 70, old))
        assert old.value == 500
        assert not (await VmbChannelSetInterruptLatency(pair.client.channel, 65536, old)).is_success
        assert not (await VmbChannelSetInterruptLatency(pair.server.channel, 5, old)).is_success


@pytest.mark.windows("VmbServerChannelInitSetTargetVtl")
async def test_an_offer_to_another_trust_level_is_not_for_guests_here(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        good(VmbServerChannelInitSetTargetVtl(pair.server.channel, 2))
        for driver in (pair.server, pair.client):
            driver.initialise()
            await driver.enable()
        await wait_all_tasks_blocked(0.02)
        assert pair.client.calls == []


@pytest.mark.windows("VmbChannelSetIncomingProcessingAtPassive", "VmbChannelAllocate")
async def test_plain_receive_callbacks_run_at_dispatch_unless_told_otherwise(tmp_path: Path) -> None:
    levels: list[int] = []

    def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        levels.append(KeGetCurrentIrql())
        if len(levels) == 1:
            with pytest.raises(Misuse, match="PASSIVE_LEVEL"):
                VmbChannelAllocate(pair.server.device, True, Out())
        VmbChannelPacketComplete(packet, None, 0)

    async def process_async(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        process(packet, buffer, flags)

    async with drivers(tmp_path) as pair:
        client, server = pair.client, pair.server
        await pair.open()
        steps: list[tuple[Any, bool]] = [(process, False), (process, True), (process_async, False), (process, False)]
        for count, (answer, passive) in enumerate(steps, start=1):
            server.answer = answer
            VmbChannelSetIncomingProcessingAtPassive(server.channel, passive)
            good(VmbPacketSend(client.packet(), b"", 0, None, WAIT))
            await client.until(lambda count=count: len(client.ends) == count)  # type: ignore[misc] # bound at once
        assert levels == [DISPATCH_LEVEL, PASSIVE_LEVEL, PASSIVE_LEVEL, DISPATCH_LEVEL]
        assert KeGetCurrentIrql() == PASSIVE_LEVEL


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.windows("VmbChannelEnable", "VmbChannelDisable", "EvtVmbPacketCompletionRoutine")
async def test_4_4_each_packet_ends_once_however_often_the_channel_comes_and_goes(
    tmp_path: Path, modes: tuple[str, str], who: str
) -> None:
    async with drivers(tmp_path, modes) as pair:
        client, server = pair.client, pair.server
        await pair.open()
        for _ in range(6):
            for number in range(7):
                good(VmbPacketSend(client.packet(), bytes([number]), 1, None, WAIT if number % 2 else 0))
            # Some are answered, some in the ring, some on their way when the channel goes.
            going = client if who == "client" else server
            await VmbChannelDisable(going.channel)
            await client.until(lambda: client.calls[-2:] == ["suspend", "closed"])
            await server.until(lambda: server.calls[-2:] == ["suspend", "closed"])
            client.calls.clear()
            server.calls.clear()
            if who == "server":
                await server.enable()
            await client.enable()
            await client.called("opened", "started", "post started")
            await server.called("opened", "started", "post started")
        good(VmbPacketSend(client.packet(), b"the last", 8, None, WAIT))
        await client.until(lambda: (STATUS_SUCCESS, b"the last") in client.ends)
        assert len(client.ends) == 6 * 7 + 1
        assert len(set(map(id, client.ended))) == len(client.ended)


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, and in groups in it."""
    return (
        [each for part in error.exceptions for each in leaves(part)]
        if isinstance(error, BaseExceptionGroup)
        else [error]
    )


@pytest.mark.parametrize("where", ["opened", "packet", "completion"])
async def test_an_exception_of_a_drivers_own_comes_out_as_it_is(tmp_path: Path, where: str) -> None:
    def crash(*arguments: object) -> NtStatus:
        raise ZeroDivisionError("the driver's own mistake")

    async def run() -> None:
        async with drivers(tmp_path) as pair:
            if where == "opened":
                pair.client.callbacks.EvtChannelOpened = crash
            elif where == "packet":
                pair.server.answer = crash
            pair.server.initialise()
            pair.client.initialise()
            await pair.server.enable()
            await pair.client.enable()
            packet = pair.client.packet()
            if where == "completion":
                VmbPacketSetCompletionRoutine(packet, crash)  # type: ignore[arg-type] # what it returns does not matter
            good(VmbPacketSend(packet, b"x", 1, None, WAIT))
            await trio.sleep(PATIENCE_SECONDS)

    with pytest.raises(BaseExceptionGroup) as raised:
        await run()
    assert [type(each) for each in leaves(raised.value)] == [ZeroDivisionError]


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.windows("EvtVmbPacketCompletionRoutine", "VmbChannelDisable", "VmbChannelEnable")
async def test_a_driver_whose_daemon_is_gone_gets_its_packets_back(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = None
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        link = pair.client.device.machine.connection._link
        assert isinstance(link, UnixLink)
        link.socket.shutdown(socket.SHUT_RDWR)
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        assert pair.client.ends == [(NtStatus.DEVICE_REMOVED, None)]
        assert await VmbChannelEnable(pair.client.channel) is NtStatus.DEVICE_REMOVED
        await VmbChannelDisable(pair.client.channel)
        await VmbChannelCleanup(pair.client.channel)
        # The server's end lives on, and is told.
        VmbChannelPacketComplete(pair.server.packets[0][0], None, 0)
        await pair.server.called("suspend", "closed")

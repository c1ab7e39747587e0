"""What a driver says of a channel before it enables it: each call takes what is right, refuses the rest, and ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from clients.kmcl import (
    KERNEL_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_1,
    STATUS_INVALID_PARAMETER_2,
    STATUS_INVALID_PARAMETER_3,
    STATUS_SUCCESS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT,
    VMBUS_CHANNEL_INIT_FLAG_IS_PIPE,
    VMBUS_SERVER_CHANNEL_INIT_FLAG_ENUMERATE_DEVICE_INTERFACE,
    Out,
    VmbChannelInitSetClientContextSize,
    VmbChannelInitSetFlags,
    VmbChannelInitSetFriendlyName,
    VmbChannelInitSetMaximumExternalData,
    VmbChannelInitSetMaximumPacketSize,
    VmbChannelInitSetProcessPacketCallbacks,
    VmbChannelInitSetStateChangeCallbacks,
    VmbChannelPacketComplete,
    VmbChannelPacketGetExternalData,
    VmbClientChannelInitSetRingBufferPageCount,
    VmbClientChannelInitSetTargetPnp,
    VmbConvertVmbusHandleToKernelHandle,
    VmbPacketSend,
    VmbServerChannelInitSetFlags,
    VmbServerChannelInitSetMmioMegabytes,
    VmbServerChannelInitSetTargetInterfaceId,
    VmbServerChannelInitSetTargetVtl,
    VmbServerChannelInitSetVmbusHandle,
    ZwClose,
)
from emulator.status import NtStatus
from tests.clients.kmcl_drivers import INSTANCE, TYPE, WAIT, Driver, Pair, drivers, good

P1, P2, P3 = STATUS_INVALID_PARAMETER_1, STATUS_INVALID_PARAMETER_2, STATUS_INVALID_PARAMETER_3
Call = Callable[..., NtStatus]
WRONG_VERSION = VMB_CHANNEL_STATE_CHANGE_CALLBACKS(2, 48)
RIGHT = VMB_CHANNEL_STATE_CHANGE_CALLBACKS()
VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT(RIGHT)
# function, its side, arguments that are right, and arguments that are not with their status
ROWS: list[tuple[Call, str, tuple[Any, ...], list[tuple[tuple[Any, ...], NtStatus]]]] = [
    (VmbChannelInitSetMaximumPacketSize, "B", (1,), [((0,), P2)]),
    (VmbChannelInitSetMaximumExternalData, "B", (1 << 20, 32), [((0, 32), P2), ((1, 0), P3)]),
    (VmbChannelInitSetClientContextSize, "B", (64,), [((-1,), P2)]),
    (VmbChannelInitSetProcessPacketCallbacks, "B", (print, None), []),
    (VmbChannelInitSetStateChangeCallbacks, "B", (RIGHT,), [((WRONG_VERSION,), P2)]),
    (VmbChannelInitSetFriendlyName, "B", ("disk",), [(("x" * 300,), P2)]),
    (VmbChannelInitSetFlags, "B", (VMBUS_CHANNEL_INIT_FLAG_IS_PIPE,), [((2,), P2), ((0x80000001,), P2)]),
    (VmbServerChannelInitSetFlags, "S", (0x1F,), [((0x20,), P2)]),
    (
        VmbServerChannelInitSetMmioMegabytes,
        "S",
        (1, 0),
        [((0, 0), STATUS_INVALID_PARAMETER), ((65536, 0), P2), ((0, 65536), P3)],
    ),
    (VmbServerChannelInitSetTargetInterfaceId, "S", (TYPE, INSTANCE), []),
    (VmbServerChannelInitSetTargetVtl, "S", (1,), [((17,), P2)]),
    (VmbClientChannelInitSetRingBufferPageCount, "C", (4, 8), [((0, 8), P2), ((4, 0), P3)]),
    (VmbClientChannelInitSetTargetPnp, "C", (TYPE, None, None), []),
]
FUNCTIONS = [row[0] for row in ROWS]


def of_side(pair: Pair, side: str) -> Driver:
    return pair.client if side == "C" else pair.server


@pytest.mark.windows(
    "VmbChannelInitSetMaximumPacketSize",
    "VmbChannelInitSetMaximumExternalData",
    "VmbChannelInitSetClientContextSize",
    "VmbChannelInitSetProcessPacketCallbacks",
    "VmbChannelInitSetStateChangeCallbacks",
    "VmbChannelInitSetFriendlyName",
    "VmbChannelInitSetFlags",
    "VmbServerChannelInitSetFlags",
    "VmbServerChannelInitSetMmioMegabytes",
    "VmbServerChannelInitSetTargetInterfaceId",
    "VmbServerChannelInitSetTargetVtl",
    "VmbClientChannelInitSetRingBufferPageCount",
    "VmbClientChannelInitSetTargetPnp",
)
async def test_4_2_what_is_wrong_gets_the_status_of_its_argument(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        for function, side, right, wrong in ROWS:
            channel = of_side(pair, side).channel
            for arguments, status in wrong:
                assert function(channel, *arguments) is status, function.__name__
            assert function(channel, *right) is STATUS_SUCCESS, function.__name__


async def test_4_2_a_channel_that_was_enabled_is_initialised_no_more(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        for function, side, right, _ in ROWS:
            assert function(of_side(pair, side).channel, *right) is P1, function.__name__


async def test_4_2_what_is_one_sides_is_refused_to_the_other(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        for function, side, right, _ in ROWS:
            if side != "B":
                other = pair.server if side == "C" else pair.client
                assert function(other.channel, *right) is P1, function.__name__


@pytest.mark.windows("VmbServerChannelInitSetVmbusHandle", "VmbConvertVmbusHandleToKernelHandle")
async def test_a_vmbus_handle_chooses_the_virtual_machine(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        server = pair.server
        server.initialise()
        handle: Out[KERNEL_HANDLE] = Out()
        other = await server.device.machine.connection.machine("vm2")
        good(VmbConvertVmbusHandleToKernelHandle(other, handle))
        assert VmbServerChannelInitSetVmbusHandle(pair.client.channel, handle.value) is P1
        good(VmbServerChannelInitSetVmbusHandle(server.channel, handle.value))
        await server.enable()
        assert [entry["instance"] for entry in pair.daemon.machines["vm2"].describe_channels()] == [str(INSTANCE)]
        assert pair.daemon.machines["vm1"].describe_channels() == []
        assert VmbServerChannelInitSetVmbusHandle(server.channel, handle.value) is P1


async def test_a_vmbus_handle_that_was_closed_is_refused(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        handle: Out[KERNEL_HANDLE] = Out()
        good(VmbConvertVmbusHandleToKernelHandle(pair.server.device.machine, handle))
        ZwClose(handle.value)
        assert VmbServerChannelInitSetVmbusHandle(pair.server.channel, handle.value) is P2


async def test_what_was_set_before_the_vmbus_handle_stays(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        good(VmbChannelInitSetMaximumPacketSize(pair.server.channel, 77))
        handle: Out[KERNEL_HANDLE] = Out()
        good(VmbConvertVmbusHandleToKernelHandle(pair.client.device.machine, handle))
        good(VmbServerChannelInitSetVmbusHandle(pair.server.channel, handle.value))
        assert pair.server.channel.driver.setup.values.packet_bytes == 77


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.windows("VmbChannelInitSetMaximumPacketSize")
async def test_k3_the_maximum_packet_size_holds_for_what_is_sent(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        for driver in (pair.client, pair.server):
            good(VmbChannelInitSetMaximumPacketSize(driver.channel, 64))
        await pair.open()
        packet = pair.client.packet()
        assert VmbPacketSend(packet, bytes(65), 65, None, WAIT) is P3
        good(VmbPacketSend(packet, bytes(64), 64, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.windows("VmbChannelInitSetMaximumExternalData")
async def test_k24_the_receiver_checks_its_own_limit_on_external_data(tmp_path: Path, modes: tuple[str, str]) -> None:
    statuses: list[NtStatus] = []

    def look(packet: Any, buffer: bytes, flags: int) -> None:
        mdl: Out[Any] = Out()
        statuses.append(VmbChannelPacketGetExternalData(packet, 0, mdl))
        VmbChannelPacketComplete(packet, None, 0)

    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = look
        good(VmbChannelInitSetMaximumExternalData(pair.server.channel, 100, 1))
        await pair.open()
        data = pair.client.device.machine.memory.allocate(4096)
        for size in (100, 101):
            mdl = data.mdl.__class__(0, size, data.pfns)
            good(VmbPacketSend(pair.client.packet(), None, 0, mdl, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 2)
        assert statuses[0] is STATUS_SUCCESS
        assert not statuses[1].is_success


@pytest.mark.windows("VmbChannelInitSetClientContextSize", "VmbChannelInitSetFriendlyName")
async def test_each_received_packet_has_its_context_and_the_channel_its_name(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        good(VmbChannelInitSetClientContextSize(pair.server.channel, 24))
        good(VmbChannelInitSetFriendlyName(pair.server.channel, "the disk"))
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        assert pair.server.packets[0][0].ClientContext == bytearray(24)
        (entry,) = pair.daemon.machines["vm1"].describe_channels()
        assert "the disk" in str(entry)


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.windows("VmbChannelInitSetFlags")
async def test_r2_a_pipe_channel_keeps_exact_lengths(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        good(VmbChannelInitSetFlags(pair.server.channel, VMBUS_CHANNEL_INIT_FLAG_IS_PIPE))
        good(VmbChannelInitSetFlags(pair.client.channel, VMBUS_CHANNEL_INIT_FLAG_IS_PIPE))
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"12345", 5, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        assert pair.server.packets[0][1] == b"12345"


@pytest.mark.windows("VmbServerChannelInitSetFlags", "VmbClientChannelInitSetRingBufferPageCount")
async def test_the_offers_flags_and_the_rings_sizes_reach_the_bus(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        flag = VMBUS_SERVER_CHANNEL_INIT_FLAG_ENUMERATE_DEVICE_INTERFACE
        good(VmbServerChannelInitSetFlags(pair.server.channel, flag))
        good(VmbClientChannelInitSetRingBufferPageCount(pair.client.channel, 3, 5))
        await pair.open()
        (channel,) = pair.daemon.machines["vm1"].channels.values()
        assert channel._pages == (5, 3)


@pytest.mark.windows("VmbClientChannelInitSetTargetPnp", "VmbServerChannelInitSetTargetInterfaceId")
async def test_a_client_without_an_instance_takes_any_of_the_type(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.client.initialise(instance=None)
        pair.server.initialise(instance=UUID(int=77))
        await pair.open()

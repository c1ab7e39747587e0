"""Packets through the Windows names: their objects, the sends with their statuses, and synchronous requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from clients.kmcl import (
    STATUS_BUFFER_OVERFLOW,
    STATUS_CANCELLED,
    STATUS_DEVICE_REMOVED,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_3,
    STATUS_INVALID_PARAMETER_4,
    STATUS_INVALID_PARAMETER_5,
    STATUS_INVALID_PARAMETER_6,
    STATUS_INVALID_PARAMETER_7,
    STATUS_NOT_SUPPORTED,
    STATUS_SUCCESS,
    VMBCHANNEL,
    VMBPACKET,
    VMBPACKETCOMPLETION,
    VMBUS_CHANNEL_FORMAT_FLAG_FORCE_MDL_LENGTH,
    VMBUS_CHANNEL_FORMAT_FLAG_PAGED_BUFFER,
    KeQuerySystemTime,
    Misuse,
    Out,
    VmbChannelDisable,
    VmbChannelPacketComplete,
    VmbChannelSendSynchronousRequest,
    VmbChannelSetTransactionQuota,
    VmbChannelSizeofPacket,
    VmbPacketAllocate,
    VmbPacketFree,
    VmbPacketGetChannel,
    VmbPacketGetPointer,
    VmbPacketInitialize,
    VmbPacketSend,
    VmbPacketSendWithExternalMdl,
    VmbPacketSendWithExternalPfns,
    VmbPacketSetCompletionRoutine,
    VmbPacketSetPointer,
)
from emulator.config import Config, MachineConfig, ProfileConfig
from emulator.memory import Mdl
from emulator.status import NtStatus
from tests.clients.kmcl_drivers import MODES, WAIT, drivers, good

FORCE = VMBUS_CHANNEL_FORMAT_FLAG_FORCE_MDL_LENGTH
PAGED = VMBUS_CHANNEL_FORMAT_FLAG_PAGED_BUFFER
P3, P4, P5 = STATUS_INVALID_PARAMETER_3, STATUS_INVALID_PARAMETER_4, STATUS_INVALID_PARAMETER_5
P6, P7 = STATUS_INVALID_PARAMETER_6, STATUS_INVALID_PARAMETER_7
SECOND = 10_000_000


def allocate(channel: VMBCHANNEL) -> VMBPACKET:
    packet = VmbPacketAllocate(channel)
    assert packet is not None
    return packet


# ---- packet objects


@pytest.mark.windows("VmbPacketAllocate", "VmbPacketFree", "VmbPacketGetChannel")
async def test_4_4_a_packet_that_was_never_sent_is_freed_once(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        packet = allocate(pair.client.channel)
        assert VmbPacketGetChannel(packet) is pair.client.channel
        VmbPacketFree(packet)
        for call in (VmbPacketFree, VmbPacketGetChannel, VmbPacketGetPointer):
            with pytest.raises(Misuse, match="was freed"):
                call(packet)
        with pytest.raises(Misuse, match="was freed"):
            VmbPacketSend(packet, None, 0, None, 0)


@pytest.mark.windows("VmbPacketSetPointer", "VmbPacketGetPointer")
async def test_a_packet_keeps_a_pointer(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        packet = allocate(pair.client.channel)
        assert VmbPacketGetPointer(packet) is None
        context = object()
        VmbPacketSetPointer(packet, context)
        assert VmbPacketGetPointer(packet) is context


@pytest.mark.windows("VmbPacketInitialize", "VmbChannelSizeofPacket", "VmbPacketSetCompletionRoutine")
async def test_4_4_a_packet_in_memory_of_the_callers_needs_room_and_a_routine(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        client = pair.client
        await pair.open()
        packet = VMBPACKET()
        for too_little in (0, 4096, 4096 + 8):
            assert VmbPacketInitialize(client.channel, packet, too_little) is P3
        good(VmbPacketInitialize(client.channel, packet, 4096 + 9))
        good(VmbPacketInitialize(client.channel, packet, VmbChannelSizeofPacket(client.channel)))
        with pytest.raises(Misuse, match="needs a completion routine"):
            VmbPacketSend(packet, b"x", 1, None, WAIT)
        VmbPacketSetCompletionRoutine(packet, client.hear)
        for number in (1, 2):
            good(VmbPacketSend(packet, b"x", 1, None, WAIT))
            await client.until(lambda number=number: len(client.ends) == number)  # type: ignore[misc] # bound at once
        with pytest.raises(Misuse, match="the caller's memory"):
            VmbPacketFree(packet)


async def test_the_size_of_a_packet_and_what_a_quota_of_0_is_follow_the_machines_profile(tmp_path: Path) -> None:
    chosen = ProfileConfig(channel={"max_packet_bytes": 64}, kmcl={"raise_on_zero_quota": False})
    config = Config(machines={"vm1": MachineConfig(profile="small")}, profiles={"small": chosen})
    async with drivers(tmp_path, config=config) as pair:
        channel = pair.client.channel
        assert VmbPacketInitialize(channel, VMBPACKET(), 64 + 8) is P3
        good(VmbPacketInitialize(channel, VMBPACKET(), 64 + 9))
        VmbChannelSetTransactionQuota(channel, 0)
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)


@pytest.mark.windows("VmbPacketAllocate", "EvtVmbPacketCompletionRoutine")
async def test_4_4_the_default_completion_routine_frees(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        packet = allocate(pair.client.channel)
        good(VmbPacketSend(packet, b"x", 1, None, WAIT))
        watched = pair.client.packet()
        good(VmbPacketSend(watched, b"x", 1, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        with pytest.raises(Misuse, match="was freed"):
            VmbPacketGetChannel(packet)


@pytest.mark.windows("VmbPacketSend", "VmbPacketFree", "VmbPacketSetCompletionRoutine", "VmbPacketInitialize")
async def test_4_4_a_packet_in_flight_is_nobodys_to_touch(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        pair.server.answer = None
        await pair.open()
        packet = pair.client.packet()
        good(VmbPacketSend(packet, b"x", 1, None, WAIT))
        with pytest.raises(Misuse, match="in flight"):
            VmbPacketSend(packet, b"x", 1, None, WAIT)
        with pytest.raises(Misuse, match="in flight"):
            VmbPacketFree(packet)
        with pytest.raises(Misuse, match="in flight"):
            VmbPacketSetCompletionRoutine(packet, pair.client.hear)
        with pytest.raises(Misuse, match="in flight"):
            VmbPacketInitialize(pair.client.channel, packet, 5000)
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        VmbChannelPacketComplete(pair.server.packets[0][0], None, 0)
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        VmbPacketFree(packet)


# ---- sends


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbPacketSend", "EvtVmbPacketCompletionRoutine", "EvtVmbChannelProcessPacket")
async def test_k2_a_completion_routine_hears_when_the_packet_has_ended(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        await pair.open()
        good(VmbPacketSend(pair.client.packet(), b"no wait!", 8, None, 0))
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        good(VmbPacketSend(pair.client.packet(), b"waiting!", 8, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 2)
        assert pair.client.ends == [(STATUS_SUCCESS, None), (STATUS_SUCCESS, b"waiting!")]
        assert [buffer for _, buffer, _ in pair.server.packets] == [b"no wait!", b"waiting!"]
        # And the other way; a server's packets, too, may ask for their completion.
        good(VmbPacketSend(pair.server.packet(), b"from the server!", 16, None, WAIT))
        await pair.server.until(lambda: len(pair.server.ends) == 1)
        assert pair.server.ends == [(STATUS_SUCCESS, b"from the server!")]


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbPacketSend")
async def test_k8_packets_queue_before_the_channel_opens_and_when_the_ring_is_full(
    tmp_path: Path, modes: tuple[str, str]
) -> None:
    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = None
        pair.client.initialise()
        early = [number.to_bytes(8, "little") for number in range(3)]
        for buffer in early:
            good(VmbPacketSend(pair.client.packet(), buffer, 8, None, 0))
        await pair.open()
        late = [number.to_bytes(8, "little") * 500 for number in range(3, 60)]
        for buffer in late:  # 57 of 4,000 bytes do not fit the 64 KiB of a ring
            good(VmbPacketSend(pair.client.packet(), buffer, 4000, None, 0))
        await pair.client.until(lambda: len(pair.client.ends) == 60)
        await pair.server.until(lambda: len(pair.server.packets) == 60)
        assert [buffer for _, buffer, _ in pair.server.packets] == early + late
        assert set(pair.client.ends) == {(STATUS_SUCCESS, None)}
        for packet, _, _ in pair.server.packets:
            VmbChannelPacketComplete(packet, None, 0)


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.windows("VmbPacketSend", "VmbPacketSendWithExternalMdl", "VmbPacketSendWithExternalPfns")
async def test_k1_to_k32_what_is_refused_is_not_sent_and_can_be_sent_again(
    tmp_path: Path, modes: tuple[str, str]
) -> None:
    async with drivers(tmp_path, modes) as pair:
        await pair.open()
        data = pair.client.device.machine.memory.allocate(8192)
        mdl, loose = data.mdl, Mdl(0, 8, data.pfns, flags=data.mdl.flags.__class__(0))
        send, external, pfns = VmbPacketSend, VmbPacketSendWithExternalMdl, VmbPacketSendWithExternalPfns
        x = b"x" * 5000
        wrong: list[tuple[Any, tuple[Any, ...], NtStatus, str]] = [
            (send, (x, 1, None, 8), P5, "K1"),
            (send, (x, 4097, None, WAIT), P3, "K3"),
            (send, (x, 1, mdl, 0), P5, "K7"),
            (send, (x, 1, mdl, WAIT | FORCE), P5, "K9"),
            (send, (x, 1, loose, WAIT), P4, "K25"),
            (external, (x, 1, mdl, 0, 0, 8 | WAIT), P7, "K1"),
            (external, (x, 1, mdl, 0, 0, 0), P7, "K10"),
            (external, (x, 1, None, 0, 0, WAIT), P4, "K11"),
            (external, (x, 1, mdl, 8192, 0, WAIT), P5, "K14"),
            (external, (x, 1, mdl, 1, 8192, WAIT), P6, "K16"),
            (external, (x, 1, mdl, 0, 8193, WAIT | FORCE), P6, "K19"),
            (external, (x, 1, mdl, 0, 0, WAIT | FORCE), P6, "K22"),
            (external, (x, 1, mdl, 8192, 1, WAIT | FORCE), P5, "K23"),
            (pfns, (x, 1, data.pfns, 2, 0), P6, "K30"),
            (pfns, (x, 1, data.pfns, 2, WAIT | FORCE), P6, "K30"),
            (pfns, (x, 1, data.pfns, 0, WAIT), P5, "K32"),
            (pfns, (x, 1, None, 2, WAIT), P4, "K32"),
        ]
        packet = pair.client.packet()
        for call, arguments, status, rule in wrong:
            assert call(packet, *arguments) is status, rule
        for call in (send, external):
            refused = pair.server.packet()
            arguments = (b"", 0, mdl, WAIT) if call is send else (b"", 0, mdl, 0, 0, WAIT)
            assert call(refused, *arguments) is STATUS_NOT_SUPPORTED, "K6"
        with pytest.raises(Misuse, match="a buffer of 1 bytes was passed with length 2"):
            send(packet, b"x", 2, None, 0)
        with pytest.raises(Misuse, match="2 page numbers were passed with length 3"):
            pfns(packet, b"x", 1, data.pfns, 3, WAIT)
        await wait_all_tasks_blocked(0.01)
        assert (pair.client.ends, pair.server.packets) == ([], [])  # K28
        good(send(packet, x, 8, None, WAIT | PAGED))
        await pair.client.until(lambda: len(pair.client.ends) == 1)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbPacketSendWithExternalMdl", "VmbPacketSendWithExternalPfns", "VmbPacketSend")
async def test_k12_k18_k31_the_sends_show_the_memory_they_name(tmp_path: Path, modes: tuple[str, str]) -> None:
    seen: list[bytes] = []

    def look(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        assert flags == 1
        seen.append(packet.packet.external_data())
        VmbChannelPacketComplete(packet, None, 0)

    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = look
        await pair.open()
        data = pair.client.device.machine.memory.allocate(8192)
        content = bytes(range(256)) * 32
        data.write(0, content)
        chain = Mdl(16, 100, data.pfns[:1], next=Mdl(0, 50, data.pfns[1:]))
        good(VmbPacketSend(pair.client.packet(), None, 0, chain, WAIT))
        good(VmbPacketSendWithExternalMdl(pair.client.packet(), None, 0, chain, 90, 20, WAIT))
        good(VmbPacketSendWithExternalMdl(pair.client.packet(), None, 0, chain, 90, 200, WAIT | FORCE))
        good(VmbPacketSendWithExternalPfns(pair.client.packet(), None, 0, data.pfns[::-1], 2, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 4)
        first, second = content[16:116], content[4096:4146]
        assert seen == [
            first + second,
            (first + second)[90:110],
            content[106:306],
            content[4096:] + content[:4096],
        ]


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("EvtVmbPacketCompletionRoutine", "VmbChannelDisable")
async def test_4_4_what_is_in_flight_ends_once_when_the_channel_closes(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair, trio.open_nursery() as nursery:
        pair.server.answer = None
        await pair.open()
        for _ in range(5):
            good(VmbPacketSend(pair.client.packet(), b"x", 1, None, WAIT))
        await pair.server.until(lambda: len(pair.server.packets) == 5)
        nursery.start_soon(VmbChannelDisable, pair.client.channel)
        await pair.client.until(lambda: len(pair.client.ends) == 5)
        for packet, _, _ in pair.server.packets:
            VmbChannelPacketComplete(packet, None, 0)  # nobody waits any more
        assert {status for status, _ in pair.client.ends} <= {STATUS_CANCELLED, STATUS_DEVICE_REMOVED}
        assert {payload for _, payload in pair.client.ends} == {None}
        for ended in pair.client.ended:
            VmbPacketFree(ended)


@pytest.mark.windows("EvtVmbPacketCompletionRoutine", "VmbPacketSetPointer")
async def test_a_completion_routine_may_send_its_packet_again_and_may_be_async(tmp_path: Path) -> None:
    rounds: list[int] = []
    done = trio.Event()

    async def again(packet: VMBPACKET, status: NtStatus, buffer: bytes | None, buffer_length: int) -> None:
        assert status is STATUS_SUCCESS
        rounds.append(VmbPacketGetPointer(packet))
        await trio.lowlevel.checkpoint()
        VmbPacketSetPointer(packet, rounds[-1] + 1)
        if rounds[-1] == 9:
            VmbPacketFree(packet)
            done.set()
        else:
            good(VmbPacketSend(packet, b"again", 5, None, WAIT))

    async with drivers(tmp_path) as pair:
        await pair.open()
        packet = allocate(pair.client.channel)
        VmbPacketSetPointer(packet, 0)
        VmbPacketSetCompletionRoutine(packet, again)
        good(VmbPacketSend(packet, b"first", 5, None, WAIT))
        with trio.fail_after(20):
            await done.wait()
        assert rounds == list(range(10))


# ---- synchronous requests


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelSendSynchronousRequest", "EvtVmbChannelPostStarted")
async def test_y1_a_synchronous_request_in_post_started_gets_its_answer(tmp_path: Path, modes: tuple[str, str]) -> None:
    async def post_started(channel: VMBCHANNEL) -> None:
        buffer, size = bytearray(16), Out(16)
        status = await VmbChannelSendSynchronousRequest(channel, b"version?", 8, None, WAIT, buffer, size, -20 * SECOND)
        pair.client._called((status, bytes(buffer), size.value))

    async with drivers(tmp_path, modes) as pair:
        pair.client.callbacks.EvtChannelPostStarted = post_started
        for driver in (pair.server, pair.client):
            driver.initialise()
            await driver.enable()
        await pair.client.called("opened", "started", (STATUS_SUCCESS, b"version?" + bytes(8), 8))


@pytest.mark.windows("VmbChannelSendSynchronousRequest")
async def test_y2_a_server_may_only_send_at_once_and_without_waiting(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        channel = pair.server.channel
        for flags, timeout in ((WAIT, None), (WAIT, 0), (0, -SECOND), (0, None)):
            status = await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, flags, None, None, timeout)
            assert status is STATUS_INVALID_PARAMETER
        good(await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, 0, None, None, 0))
        await pair.client.until(lambda: len(pair.client.packets) == 1)


@pytest.mark.windows("VmbChannelSendSynchronousRequest")
async def test_y3_the_completion_buffer_is_a_multiple_of_8_and_takes_what_fits(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        await pair.open()
        channel = pair.client.channel
        buffer, size = bytearray(24), Out(12)
        status = await VmbChannelSendSynchronousRequest(channel, b"x" * 16, 16, None, WAIT, buffer, size, None)
        assert status is P7
        size = Out(8)
        status = await VmbChannelSendSynchronousRequest(channel, b"x" * 16, 16, None, WAIT, buffer, size, None)
        assert (status, size.value, bytes(buffer)) == (STATUS_BUFFER_OVERFLOW, 8, b"x" * 8 + bytes(16))
        good(await VmbChannelSendSynchronousRequest(channel, b"x" * 16, 16, None, WAIT, None, None, None))
        with pytest.raises(Misuse, match="a completion buffer of 24 bytes was passed with size 32"):
            await VmbChannelSendSynchronousRequest(channel, b"", 0, None, WAIT, buffer, Out(32), None)


@pytest.mark.parametrize("modes", [("hosted", "hosted"), ("direct", "direct")])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.windows("VmbChannelSendSynchronousRequest")
async def test_y4_time_runs_out_and_a_late_completion_is_swallowed(
    tmp_path: Path, modes: tuple[str, str], absolute: bool
) -> None:
    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = None
        await pair.open()
        channel = pair.client.channel
        timeout = KeQuerySystemTime() + SECOND // 50 if absolute else -SECOND // 50
        status = await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, WAIT, None, None, timeout)
        assert status is STATUS_CANCELLED
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        VmbChannelPacketComplete(pair.server.packets[0][0], b"too late", 8)
        pair.server.answer = pair.server.echo
        good(await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, WAIT, None, None, -20 * SECOND))


@pytest.mark.windows("VmbChannelSendSynchronousRequest", "EvtVmbChannelStarted")
async def test_y5_a_synchronous_request_in_started_is_a_mistake(tmp_path: Path) -> None:
    async def started(channel: VMBCHANNEL) -> None:
        with pytest.raises(Misuse, match="Y5"):
            await VmbChannelSendSynchronousRequest(channel, b"x", 1, None, WAIT, None, None, None)
        pair.client._called("started")

    async with drivers(tmp_path) as pair:
        pair.client.callbacks.EvtChannelStarted = started
        await pair.open()

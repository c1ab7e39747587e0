"""Receiving through the Windows names: what a driver is given, how it ends each packet, batches and the quota."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

from clients.kmcl import (
    PASSIVE_LEVEL,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_PARAMETER_2,
    STATUS_PENDING,
    STATUS_SUCCESS,
    VMBPACKETCOMPLETION,
    VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY,
    VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA,
    KeGetCurrentIrql,
    Misuse,
    Out,
    VmbChannelPacketComplete,
    VmbChannelPacketDeferToPassive,
    VmbChannelPacketFail,
    VmbChannelPacketGetExternalData,
    VmbChannelSetTransactionQuota,
    VmbPacketSend,
)
from emulator.memory import Mdl
from emulator.status import NtStatus
from tests.clients.kmcl_drivers import MODES, WAIT, Pair, drivers, good

BOTH = [("hosted", "hosted"), ("direct", "direct")]


def send(pair: Pair, count: int, flags: int = WAIT) -> None:
    for number in range(count):
        good(VmbPacketSend(pair.client.packet(), number.to_bytes(8, "little"), 8, None, flags))


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelPacketComplete", "EvtVmbChannelProcessPacket")
async def test_r3_completions_may_come_out_of_order_and_are_ignored_when_not_asked_for(
    tmp_path: Path, modes: tuple[str, str]
) -> None:
    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = None
        await pair.open()
        send(pair, 3)
        send(pair, 1, flags=0)
        await pair.server.until(lambda: len(pair.server.packets) == 4)
        for packet, buffer, _ in reversed(pair.server.packets):
            VmbChannelPacketComplete(packet, buffer, 8)
        await pair.client.until(lambda: len(pair.client.ends) == 4)
        answered = [payload for _, payload in pair.client.ends if payload is not None]
        assert answered == [number.to_bytes(8, "little") for number in (2, 1, 0)]
        with pytest.raises(Misuse, match="was completed and is now to be completed"):
            VmbChannelPacketComplete(pair.server.packets[0][0], None, 0)
        with pytest.raises(Misuse, match="was completed and is now to be failed"):
            VmbChannelPacketFail(pair.server.packets[0][0])


@pytest.mark.parametrize("modes", BOTH)
@pytest.mark.windows("VmbChannelPacketFail")
async def test_r4_a_failed_packet_stops_the_queue(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = lambda packet, buffer, flags: VmbChannelPacketFail(packet)
        await pair.open()
        send(pair, 1, flags=0)
        await pair.server.until(lambda: len(pair.server.packets) == 1)
        send(pair, 3)
        await wait_all_tasks_blocked(0.02)
        assert len(pair.server.packets) == 1
        assert pair.client.ends == [(STATUS_SUCCESS, None)]


@pytest.mark.parametrize("modes", BOTH)
@pytest.mark.windows("VmbChannelPacketDeferToPassive", "EvtVmbChannelProcessingComplete")
async def test_r5_a_deferred_packet_comes_again_first_and_at_passive(tmp_path: Path, modes: tuple[str, str]) -> None:
    seen: list[tuple[int, bool]] = []

    def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        at_passive = KeGetCurrentIrql() == PASSIVE_LEVEL
        seen.append((buffer[0], at_passive))
        if buffer[0] == 1 and not at_passive:
            VmbChannelPacketDeferToPassive(packet)
            with pytest.raises(Misuse, match="was deferred"):
                VmbChannelPacketComplete(packet, None, 0)
        else:
            VmbChannelPacketComplete(packet, None, 0)

    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = process
        await pair.open()
        send(pair, 4)
        await pair.client.until(lambda: len(pair.client.ends) == 4)
        assert [number for number, _ in seen] == [0, 1, 1, 2, 3]
        assert (1, False) in seen
        assert (1, True) in seen
        await pair.server.until(lambda: sum(pair.server.batches) == 4)
        with pytest.raises(Misuse, match="from its callback"):
            VmbChannelPacketDeferToPassive(pair.server.packets[0][0])


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelPacketGetExternalData")
async def test_r6_external_data_is_a_chain_over_the_clients_memory(tmp_path: Path, modes: tuple[str, str]) -> None:
    chains: list[Mdl] = []

    def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        mdl: Out[Mdl] = Out()
        if not flags & VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA:
            assert VmbChannelPacketGetExternalData(packet, 0, mdl) is STATUS_INVALID_PARAMETER
        else:
            assert VmbChannelPacketGetExternalData(packet, 2, mdl) is STATUS_INVALID_PARAMETER_2
            good(VmbChannelPacketGetExternalData(packet, VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY, mdl))
            again: Out[Mdl] = Out()
            good(VmbChannelPacketGetExternalData(packet, 0, again))
            assert again.value == mdl.value
            chains.append(mdl.value)
        VmbChannelPacketComplete(packet, None, 0)
        with pytest.raises(Misuse, match="its memory is gone"):
            VmbChannelPacketGetExternalData(packet, 0, mdl)

    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = process
        await pair.open()
        data = pair.client.device.machine.memory.allocate(8192)
        chain = Mdl(16, 100, data.pfns[:1], next=Mdl(0, 50, data.pfns[1:]))
        good(VmbPacketSend(pair.client.packet(), b"", 0, chain, WAIT))
        good(VmbPacketSend(pair.client.packet(), b"", 0, None, WAIT))
        await pair.client.until(lambda: len(pair.client.ends) == 2)
        (seen,) = chains
        links = [(link.byte_offset, link.byte_count, link.pfns, link.is_locked) for link in seen.chain()]
        assert links == [(16, 100, data.pfns[:1], True), (0, 50, data.pfns[1:], True)]


@pytest.mark.parametrize("modes", BOTH)
@pytest.mark.windows("VmbChannelPacketGetExternalData")
async def test_r8_external_data_that_is_paged_out_pends_and_the_packet_comes_again(
    tmp_path: Path, modes: tuple[str, str]
) -> None:
    statuses: list[NtStatus] = []

    def process(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        mdl: Out[Mdl] = Out()
        statuses.append(VmbChannelPacketGetExternalData(packet, 0, mdl))
        if statuses[-1] is STATUS_PENDING:
            with pytest.raises(Misuse, match="put back until its pages are in"):
                VmbChannelPacketComplete(packet, None, 0)
        else:
            VmbChannelPacketComplete(packet, buffer, len(buffer))

    async with drivers(tmp_path, modes) as pair:
        pair.server.answer = process
        await pair.open()
        machine = pair.server.device.machine
        data = pair.client.device.machine.memory.allocate(8192)
        await machine.page_out(data)
        good(VmbPacketSend(pair.client.packet(), b"paged", 5, data.mdl, WAIT))
        await pair.server.until(lambda: len(statuses) == 1)
        await wait_all_tasks_blocked(0.02)
        assert (statuses, pair.client.ends) == ([STATUS_PENDING], [])
        await machine.page_in(data)
        await pair.client.until(lambda: len(pair.client.ends) == 1)
        assert statuses == [STATUS_PENDING, STATUS_SUCCESS]


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("VmbChannelSetTransactionQuota")
async def test_q1_q2_q3_no_more_packets_than_the_quota_are_out_at_once(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        server = pair.server
        server.answer = None
        VmbChannelSetTransactionQuota(server.channel, 2)
        await pair.open()
        send(pair, 6)
        await server.until(lambda: len(server.packets) == 2)
        await wait_all_tasks_blocked(0.02)
        assert len(server.packets) == 2
        VmbChannelSetTransactionQuota(server.channel, 4)  # Q3: raising it does not restart the queue
        await wait_all_tasks_blocked(0.02)
        assert len(server.packets) == 2
        VmbChannelPacketComplete(server.packets[0][0], None, 0)
        await server.until(lambda: len(server.packets) == 5)
        await wait_all_tasks_blocked(0.02)
        assert len(server.packets) == 5
        VmbChannelSetTransactionQuota(server.channel, 1)  # Q2: below what is out
        await wait_all_tasks_blocked(0.02)
        for packet, _, _ in server.packets[1:4]:
            VmbChannelPacketComplete(packet, None, 0)
        await wait_all_tasks_blocked(0.02)
        assert len(server.packets) == 5
        VmbChannelPacketComplete(server.packets[4][0], None, 0)
        await server.until(lambda: len(server.packets) == 6)
        VmbChannelPacketComplete(server.packets[5][0], None, 0)
        await pair.client.until(lambda: len(pair.client.ends) == 6)


@pytest.mark.windows("VmbChannelSetTransactionQuota")
async def test_q4_a_quota_of_0_is_a_mistake(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        with pytest.raises(Misuse, match="Q4"):
            VmbChannelSetTransactionQuota(pair.server.channel, 0)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.windows("EvtVmbChannelProcessingComplete", "VmbChannelInitSetProcessPacketCallbacks")
async def test_b1_b2_every_packet_belongs_to_one_batch_that_ends(tmp_path: Path, modes: tuple[str, str]) -> None:
    async with drivers(tmp_path, modes) as pair:
        await pair.open()
        send(pair, 100)
        await pair.client.until(lambda: len(pair.client.ends) == 100)
        await pair.server.until(lambda: sum(pair.server.batches) == 100)
        assert min(pair.server.batches) > 0
        assert pair.client.batches == []  # B3: completions are no packets

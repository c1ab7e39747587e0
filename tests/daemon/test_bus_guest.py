"""What the daemon is to a bus guest, in single messages: slots, processors, doorbells, and memory that is let go of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from emulator.daemon.guest_pages import PROCESSORS
from emulator.memory import GpaRange
from emulator.status import NtStatus
from emulator.vmbus import message_types as m
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelOpened, GuestEffect, OffersDelivered, PostMessage
from emulator.vmbus.messages import pack_message
from emulator.vmbus.synic import HvStatus
from emulator.wire.runs import unpack_pfns
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, request, served

ECHO = bytes(range(16))
UNKNOWN_VERSION = 0x00630000


async def post(client: RawClient, payload: bytes, connection_id: int = 4) -> int:
    status: int = (await client.call("bus.post", 1, connection_id, payload))[0]
    return status


async def until(client: RawClient, guest: GuestBus, effects: Iterable[GuestEffect], kind: type[Any]) -> None:
    """Carry messages both ways until something has happened."""
    due = list(effects)
    while not any(isinstance(effect, kind) for effect in due):
        for effect in due:
            if isinstance(effect, PostMessage):
                assert await post(client, effect.payload, effect.connection_id) == HvStatus.SUCCESS
        _, vp, sint, payload = await client.notice("bus.message")
        await client.notify("bus.message_taken", 1, vp, sint)
        due = guest.message_arrived(payload)


async def opened(client: RawClient) -> None:
    """Contact the host, and open channel 1 over zeroed pages of this session's."""
    await client.call("bus.attach", 1)
    guest = GuestBus()
    await until(client, guest, guest.connect(), OffersDelivered)
    pfns = unpack_pfns((await client.call("memory.allocate", 1, 4))[0])
    _, effects = guest.open_channel(1, (GpaRange(4 * 4096, 0, pfns),), 2)
    await until(client, guest, effects, ChannelOpened)


async def test_a_slot_holds_one_message_until_it_is_taken(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await host.offer(ECHO)
        await guest.attach()
        assert await guest.call("bus.attach", 1) == [PROCESSORS]
        contact = pack_message(m.InitiateContact(int(m.Version.V5_0), 0, 2, 0, 0))
        assert await post(guest, contact) == 0
        assert (await guest.notice("bus.message"))[1:3] == [0, 2]
        assert await post(guest, pack_message(m.RequestOffers()), 1) == 0
        await guest.call("ping")
        assert guest.notices == []
        for number in (1, 4):
            await guest.notify("bus.message_taken", 1, 0, 2)
            assert (await guest.notice("bus.message"))[3][0] == number
        await guest.call("ping")
        assert guest.notices == []


async def test_a_message_for_a_processor_that_is_not_there_is_lost_and_holds_up_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as guest:
        await guest.attach()
        await guest.call("bus.attach", 1)
        for processor in range(PROCESSORS, PROCESSORS + 50):
            assert await post(guest, pack_message(m.InitiateContact(UNKNOWN_VERSION, processor, 2, 0, 0))) == 0
        assert guest.notices == []
        assert await post(guest, pack_message(m.InitiateContact(int(m.Version.V5_0), PROCESSORS - 1, 2, 0, 0))) == 0
        assert (await guest.notice("bus.message"))[1:3] == [PROCESSORS - 1, 2]
        assert server.machines["vm1"].failure is None


async def test_requests_of_a_session_that_is_no_bus_guest_are_refused_and_late_notifications_ignored(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest:
        await guest.attach()
        calls: list[tuple[Any, ...]] = [
            ("bus.post", 1, 1, b""),
            ("bus.signal", 1, 0x2001, 0),
            ("bus.doorbell", 1, 1),
            ("bus.detach", 1),
        ]
        await guest.call("bus.attach", 1)
        await guest.call("bus.detach", 1)
        await guest.notify("bus.message_taken", 1, 0, 2)
        for method, *args in calls:
            with pytest.raises(Answered) as refused:
                await guest.call(method, *args)
            assert refused.value.status is NtStatus.INVALID_DEVICE_STATE
        with pytest.raises(Answered) as refused:
            await guest.call("bus.attach", 2)
        assert refused.value.status is NtStatus.INVALID_HANDLE


async def test_a_doorbell_handed_over_next_to_a_direct_host_is_rung_by_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await guest.attach()
        await host.call("channel.offer_direct", 1, ECHO, None, False)
        await opened(guest)
        await host.notice("channel.opened_direct")
        assert await guest.call("bus.signal", 1, 0x2001, 1) == [HvStatus.INVALID_PARAMETER]
        assert await guest.call("bus.signal", 1, 0x2001, 0) == [HvStatus.SUCCESS]
        assert await guest.call("bus.doorbell", 1, 1) == [1]
        assert len(guest.descriptors) == len(host.descriptors) == 1
        for method, *args in (("bus.doorbell", 1, 1), ("bus.signal", 1, 0x2001, 0)):
            with pytest.raises(Answered, match="handed over"):
                await guest.call(method, *args)


@pytest.mark.parametrize("dies", [True, False])
async def test_memory_of_rings_waits_for_a_direct_host_that_still_looks(tmp_path: Path, dies: bool) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as host:
        pages = server.machines["vm1"].pages
        free = pages.free_pages
        await host.attach()
        await host.call("channel.offer_direct", 1, ECHO, None, False)
        async with raw_client(path) as guest:
            await guest.attach()
            await opened(guest)
            number = (await host.notice("channel.opened_direct"))[1]
            if not dies:
                assert await post(guest, pack_message(m.GpadlTeardown(1, 0xE1E10)), 1) == 0
                closed = await host.notice("channel.closed")
                assert closed[:2] == [number, NtStatus.CANCELLED]
                await guest.call("ping")
                assert guest.notices == []
                await host.call("channel.close", number)
                assert (await guest.notice("bus.message"))[3][0] == 12
        if dies:
            assert (await host.notice("channel.closed"))[:2] == [number, NtStatus.CANCELLED]
            assert pages.free_pages == free - 4
            await host.call("channel.close", number)
            assert pages.free_pages == free
        while pages.free_pages != free:
            await trio.lowlevel.checkpoint()


async def test_a_direct_channel_that_closes_in_the_turn_it_opened_harms_nobody(tmp_path: Path) -> None:
    """The task that listens to its doorbell first runs when that is closed already."""
    async with served(tmp_path) as (server, path), raw_client(path) as guest, raw_client(path) as host:
        await host.attach()
        await host.call("channel.offer", 1, ECHO, None, False, *GRANT)
        await guest.attach()
        both = request(1000, "channel.open_direct", 1, ECHO, None, True, 1, 1) + request(1001, "channel.close", 1)
        await guest.say(both)
        assert (await guest.answer(1000))[0] == 1
        assert await guest.answer(1001) == []
        await guest.call("ping")
        assert server.machines["vm1"].channels == {}


@pytest.mark.parametrize("method", ["channel.offer_direct", "channel.offer"])
async def test_a_session_that_is_its_own_host_ends_whole(tmp_path: Path, method: str) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as other:
        machine = server.machines["vm1"]
        free = machine.pages.free_pages
        async with raw_client(path) as both:
            await both.attach()
            await both.call(method, 1, ECHO, None, False, *(GRANT if method == "channel.offer" else ()))
            await opened(both)
            assert len(machine.channels) == 1
        await other.attach()
        while machine.offers:
            await other.call("ping")
        assert (machine.failure, machine.channels, machine.pages.free_pages) == (None, {}, free)
        await other.offer(ECHO)
        await other.open(ECHO)

"""Pages that the daemon writes for a bus guest where the machine is configured so: interrupt page, event flags."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

import clients
from clients import Connection, OfferedChannel, RequestFailed
from emulator.status import NtStatus
from emulator.vmbus import shared_bits
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ConnectFailed
from emulator.vmbus.guest_state import GuestConfig
from emulator.vmbus.host_effects import MonitorPages
from emulator.vmbus.message_types import OfferChannel, Version
from emulator.vmbus.shared_bits import set_bit, take_bits
from emulator.vmbus.synic import HvStatus, set_event_flag, take_event_flags
from tests.endtoend.bus_driver import Driver, Port
from tests.support.processes import Daemon, start_daemon

pytestmark = pytest.mark.skipif(not shared_bits.BITS_ARE_ATOMIC, reason="there is no compiled ring here")

ECHO = "ab0ffee0-0a1b-4c2d-8e3f-405162738496"
WAYS = list(itertools.product(["hosted", "direct"], ["descriptor", "events"]))
OLD = [Version.V0_13, Version.V1_1]
ALL_PAGES = "[machines.vm1]\ninterrupt_page = true\nevent_flags_page = true\n[segments.lan]\n"
SHARED_DOORBELL = 2


@asynccontextmanager
async def driver_and_host(
    tmp_path: Path, config: str | None, guest_config: GuestConfig | None = None
) -> AsyncIterator[tuple[Daemon, Driver, Connection]]:
    """A daemon, a bus guest of vm1 that has not made contact yet, and a host's connection."""
    async with (
        start_daemon(tmp_path, config) as daemon,
        clients.connect(daemon.socket_path, name="driver") as guest,
        clients.connect(daemon.socket_path, name="host") as host,
    ):
        with trio.fail_after(20):
            machine = await guest.machine("vm1")
            with Driver(await machine.attach_bus(), machine) as driver:
                driver.guest = GuestBus(guest_config or GuestConfig())
                yield daemon, driver, host


def new_page(driver: Driver) -> tuple[int, memoryview]:
    """The address of a zeroed page of the guest's, and the page."""
    address = driver.machine.memory.allocate(4096).pfns[0] << 12
    return address, driver.machine.memory.mapped.view(address, 4096)


def old_guest(driver: Driver, version: Version) -> memoryview:
    """Make the driver one of before 2.4, with an interrupt page; that page."""
    address, page = new_page(driver)
    driver.guest = GuestBus(GuestConfig(versions=(version,), interrupt_page=address))
    return page


class PagedPort(Port):
    """A channel whose host sets a bit before it rings."""

    page: memoryview

    def take(self) -> list[int]:
        """What the host set."""
        raise NotImplementedError

    async def heard(self) -> None:
        """Wait until the host rings and this channel's bit stands in the page."""
        mine, event = (self.event_flag, self.event_flag) if isinstance(self, FlaggedPort) else (self.channel_id, 0)
        while True:
            if self.bell is None:
                assert await self.driver.bus.next_event() == (0, 2, event)
            else:
                await super().heard()
            taken = self.take()
            assert set(taken) <= {mine}
            if taken:
                return


class OldPort(PagedPort):
    """A channel of a guest below 2.4: both sides ring by bits in the interrupt page."""

    def mark(self) -> None:
        """Say in the page that this channel is meant."""
        set_bit(self.page[2048:], self.channel_id)

    async def ring(self) -> None:
        self.mark()
        assert await self.driver.bus.signal(SHARED_DOORBELL) is HvStatus.SUCCESS

    def take(self) -> list[int]:
        return take_bits(self.page[:2048])


class FlaggedPort(PagedPort):
    """A channel whose host sets its event flag in a page."""

    def take(self) -> list[int]:
        return take_event_flags(self.page, 2)


P = TypeVar("P", bound=PagedPort)


async def opened(driver: Driver, offer: OfferChannel, kind: type[P], page: memoryview, bells: str) -> P:
    """An open channel that works that way."""
    port = await driver.open_as(kind, offer, with_descriptor=bells == "descriptor")
    port.page = page
    return port


async def echo(offered: OfferedChannel) -> None:
    async for packet in offered:
        if packet.wants_completion:
            await packet.complete(hashlib.sha256(packet.payload).digest())


async def talk(port: Port, offered: OfferedChannel) -> None:
    """Packets and completions both ways, with sleeps between them: every doorbell is needed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, offered)
        for _ in range(30):
            payload = os.urandom(64)
            assert await port.ask(payload) == hashlib.sha256(payload).digest()
        for number in range(30):
            payload = number.to_bytes(8, "little")
            said: list[bytes] = []

            async def tell(payload: bytes = payload, said: list[bytes] = said) -> None:
                said.append(await offered.send(payload))

            nursery.start_soon(tell)
            assert (await port.answer()).payload == payload
            while not said:
                await trio.lowlevel.checkpoint()
            assert said == [payload]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize(("mode", "bells"), WAYS)
async def test_rule_1_below_2_4_both_sides_ring_through_the_interrupt_page(
    tmp_path: Path, mode: str, bells: str, version: Version
) -> None:
    async with driver_and_host(tmp_path, ALL_PAGES) as (_, driver, host):
        page = old_guest(driver, version)
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        (offer,) = await driver.contact()
        assert offer.is_dedicated == 0
        port = await opened(driver, offer, OldPort, page, bells)
        await talk(port, offered)
        assert not any(page[2048:])  # the daemon took what the guest set


async def test_rule_1_the_second_half_of_the_page_tells_which_channels_the_guest_means(tmp_path: Path) -> None:
    async with driver_and_host(tmp_path, ALL_PAGES) as (_, driver, host):
        page = old_guest(driver, Version.V1_1)
        machine = await host.machine("vm1")
        offered = [await machine.offer_channel(ECHO) for _ in range(3)]
        by_instance = {each.instance: each for each in offered}
        ports = [await opened(driver, offer, OldPort, page, "events") for offer in await driver.contact()]
        hosts = [by_instance[offer.instance_id] for offer in driver_offers(driver)]
        for port in ports:
            assert port.endpoint.send(b"unheard!", None, 0, object()).doorbell
        ports[1].mark()
        assert await driver.bus.signal(SHARED_DOORBELL) is HvStatus.SUCCESS
        assert (await anext(aiter(hosts[1]))).payload == b"unheard!"
        delivered = {entry["instance"]: entry["packets_to_host"] for entry in await host.inspect("channels", "vm1")}
        assert [delivered[str(each.instance)] for each in hosts] == [0, 1, 0]
        set_bit(page[2048:], 2000)  # no channel: the guest's mistake harms nobody
        ports[0].mark()
        await ports[2].ring()
        for each in (hosts[0], hosts[2]):
            assert (await anext(aiter(each))).payload == b"unheard!"


def driver_offers(driver: Driver) -> list[OfferChannel]:
    """The offers the driver's guest bus holds, by channel id."""
    channels = driver.guest.state.channels.channels
    return [channels[channel_id].offer for channel_id in sorted(channels)]


async def test_rule_1_without_the_setting_the_interrupt_page_is_left_alone(tmp_path: Path) -> None:
    async with driver_and_host(tmp_path, None) as (_, driver, host), trio.open_nursery() as nursery:
        page = old_guest(driver, Version.V1_1)
        offered = await (await host.machine("vm1")).offer_channel(ECHO)
        nursery.start_soon(echo, offered)
        (offer,) = await driver.contact()
        assert offer.is_dedicated == 1
        port = await driver.open(offer, with_descriptor=True)
        set_bit(page[2048:], 1)
        assert await port.ask(b"12345678") == hashlib.sha256(b"12345678").digest()
        assert bytes(page[:2048]) == bytes(2048)
        assert page[2048] == 2
        with pytest.raises(RequestFailed, match=r"set event_flags_page = true in \[machines.vm1\]") as refused:
            await driver.bus.set_event_flags_page(0)
        assert refused.value.status is NtStatus.INVALID_DEVICE_STATE
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("address", [0x1008, 1 << 40, (1 << 64) - 4096])
async def test_rule_1_an_interrupt_page_that_is_none_is_refused_in_words(tmp_path: Path, address: int) -> None:
    config = GuestConfig(versions=(Version.V1_1,), interrupt_page=address)
    async with driver_and_host(tmp_path, ALL_PAGES, config) as (daemon, driver, host):
        await driver.perform(driver.guest.connect())
        await driver.until(ConnectFailed)
        (entry,) = await host.inspect("machines", "vm1")
        assert entry["vmbus_violations"] == {"INVALID_INTERRUPT_PAGE (1)": 1}
        assert f"0x{address:X}" in daemon.stderr
        assert "the interrupt page is one whole page of the machine's memory [1]" in daemon.stderr


@pytest.mark.parametrize(("mode", "bells"), WAYS)
async def test_rule_1_the_hosts_event_flags_stand_in_the_guests_page(tmp_path: Path, mode: str, bells: str) -> None:
    async with driver_and_host(tmp_path, ALL_PAGES) as (_, driver, host):
        address, page = new_page(driver)
        await driver.bus.set_event_flags_page(address)
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        (offer,) = await driver.contact()
        assert offer.is_dedicated == 1
        await talk(await opened(driver, offer, FlaggedPort, page, bells), offered)
        assert not any(page)


async def test_rule_1_the_guest_is_interrupted_only_when_its_flag_was_clear(tmp_path: Path) -> None:
    async with driver_and_host(tmp_path, ALL_PAGES) as (_, driver, host):
        address, page = new_page(driver)
        await driver.bus.set_event_flags_page(address)
        offered = await (await host.machine("vm1")).offer_channel(ECHO)
        (offer,) = await driver.contact()
        port = await driver.open(offer, with_descriptor=False)
        set_event_flag(page, 2, port.event_flag)
        await offered.opened()
        for _ in range(2):  # each finds an empty ring whose reader sleeps
            await offered.send(b"12345678", flags=0)
            await port.look()
        await driver.bus.set_event_flags_page(address)  # an event would come before this is answered
        with trio.move_on_after(0) as waited:
            await driver.bus.next_event()
        assert waited.cancelled_caught
        assert len(port.received) == 2
        assert take_event_flags(page, 2) == [port.event_flag]
        await offered.send(b"12345678", flags=0)
        await port.heard()
        assert take_event_flags(page, 2) == [port.event_flag]
        await driver.bus.set_event_flags_page(None)
        await port.look()
        await offered.send(b"12345678", flags=0)
        await port.heard()
        assert take_event_flags(page, 2) == []


async def test_rule_1_an_event_flags_page_that_is_none_is_refused(tmp_path: Path) -> None:
    async with driver_and_host(tmp_path, ALL_PAGES) as (_, driver, _host):
        last = driver.machine.memory.byte_count
        await driver.bus.set_event_flags_page(last - 4096, vp=255)
        for address, vp, why in ((8, 0, "beginning of a page"), (last, 0, "outside"), (0, 256, "no processor 256")):
            with pytest.raises(RequestFailed, match=why) as refused:
                await driver.bus.set_event_flags_page(address, vp)
            assert refused.value.status is NtStatus.INVALID_PARAMETER


@pytest.mark.parametrize(("configured", "announced"), [(True, True), (True, False), (False, True), (False, False)])
async def test_rule_2_3_monitor_ids_are_given_where_configured_and_announced(
    tmp_path: Path, *, configured: bool, announced: bool
) -> None:
    pages = MonitorPages(0x3000, 0x4000) if announced else MonitorPages(0, 0)
    text = f"[machines.vm1]\nmonitor_ids = {str(configured).lower()}\n[segments.lan]\n"
    async with driver_and_host(tmp_path, text, GuestConfig(monitor_pages=pages)) as (_, driver, host):
        machine = await host.machine("vm1")
        for _ in range(2):
            await machine.offer_channel(ECHO)
        found = [(offer.monitor_id, offer.monitor_allocated) for offer in await driver.contact()]
        assert found == ([(0, 1), (1, 1)] if configured and announced else [(0xFF, 0)] * 2)

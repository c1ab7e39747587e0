"""A bus guest has the whole guest side of a machine: with both kinds of hosts, through its death and its mistakes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import clients
from clients import Connection, ConnectionLost, Machine, OfferedChannel, RequestFailed
from clients.bus import BusGuest, attach_bus
from emulator.memory import GpaRange, Mdl
from emulator.status import NtStatus
from emulator.vmbus import message_types as m
from emulator.vmbus.gpadl import build_gpadl_messages
from emulator.vmbus.guest_effects import (
    ChannelClosed,
    ChannelOpened,
    ChannelReleased,
    GpadlReady,
    OfferArrived,
    OfferRescinded,
    Unloaded,
)
from emulator.vmbus.messages import pack_message
from emulator.vmbus.synic import HvStatus
from tests.endtoend.bus_driver import Driver
from tests.support.processes import Daemon, start_client, start_daemon

ECHO = "ab0ffee0-0a1b-4c2d-8e3f-405162738495"
HOST_MODES = ["hosted", "direct"]
BELLS = ["descriptor", "events"]
WAYS = list(itertools.product(HOST_MODES, BELLS))


async def echo(offered: OfferedChannel) -> None:
    """Completes with the digest of payload and external data."""
    async for packet in offered:
        if packet.wants_completion:
            external = packet.external_data() if packet.has_external_data else b""
            await packet.complete(hashlib.sha256(packet.payload + external).digest())


@asynccontextmanager
async def bus_and_host(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Driver, Connection, Connection]]:
    """A daemon, a bus guest of vm1 that has not made contact yet with the connection it came by, and a host's."""
    async with (
        start_daemon(tmp_path) as daemon,
        clients.connect(daemon.socket_path, name="driver") as guest,
        clients.connect(daemon.socket_path, name="host") as host,
    ):
        with trio.fail_after(10):
            machine = await guest.machine("vm1")
            with Driver(await attach_bus(guest, machine), machine) as driver:
                yield daemon, driver, guest, host


async def entry_of(daemon: Connection, what: str) -> dict[str, Any]:
    (entry,) = await daemon.inspect(what, "vm1")
    return entry


async def hosted_round_trip(guest: Connection, interface: str = ECHO) -> None:
    """An ordinary guest opens the channel that is offered, and closes it."""
    async with await (await guest.machine("vm1")).open_channel(interface, wait=False) as channel:
        assert await channel.send(b"12345678") == hashlib.sha256(b"12345678").digest()


@pytest.mark.parametrize(("mode", "bells"), WAYS)
async def test_packets_completions_and_guest_memory_both_ways(tmp_path: Path, mode: str, bells: str) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host), trio.open_nursery() as nursery:
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        (offer,) = await driver.contact()
        assert (str(offer.interface_id), offer.instance_id) == (ECHO, offered.instance)
        port = await driver.open(offer, with_descriptor=bells == "descriptor")
        await offered.opened()
        entry = await entry_of(guest, "channels")
        assert (entry["guest_mode"], entry["host_mode"], entry["bus_state"]) == ("bus guest", mode, "open")
        nursery.start_soon(echo, offered)
        for size in (8, 400, 3000):
            payload = os.urandom(size)
            assert await port.ask(payload) == hashlib.sha256(payload).digest()
        data = driver.machine.memory.allocate(200_000)
        data.write(0, os.urandom(200_000))
        for size in (1, 5000, 200_000):
            reply = await port.ask(b"external", Mdl(0, size, data.pfns[: (size + 4095) // 4096]))
            assert reply == hashlib.sha256(b"external" + data.read(0, size)).digest()
        for number in range(200):
            await port.send(number.to_bytes(8, "little"))
        said: list[bytes] = []

        async def tell() -> None:
            for number in range(50):
                said.append(await offered.send(number.to_bytes(8, "little") * 16))

        nursery.start_soon(tell)
        for number in range(50):
            assert (await port.answer()).payload == number.to_bytes(8, "little") * 16
        while len(said) < 50:
            await trio.lowlevel.checkpoint()
        assert said == [number.to_bytes(8, "little") * 16 for number in range(50)]
        assert (await entry_of(guest, "machines"))["vmbus_violations"] == {}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("mode", "bells"), WAYS)
async def test_a_channel_closes_opens_again_and_the_guest_unloads(tmp_path: Path, mode: str, bells: str) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host), trio.open_nursery() as nursery:
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        nursery.start_soon(echo, offered)
        (offer,) = await driver.contact()
        for _ in range(3):
            port = await driver.open(offer, with_descriptor=bells == "descriptor")
            assert await port.ask(b"12345678") == hashlib.sha256(b"12345678").digest()
            await driver.perform(driver.guest.close_channel(offer.channel_id))
            await driver.until(ChannelClosed)
            while offered.is_open:
                await trio.lowlevel.checkpoint()
            if port.bell is not None:
                await port.until_let_go()
        port = await driver.open(offer, with_descriptor=False)
        await driver.perform(driver.guest.unload())
        await driver.until(Unloaded)
        while offered.is_open:
            await trio.lowlevel.checkpoint()
        entry = await entry_of(guest, "channels")
        assert (entry["state"], entry["gpadls"]) == ("offered", [])
        assert len(await driver.contact()) == 1
        await driver.bus.detach()
        await hosted_round_trip(guest)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", HOST_MODES)
async def test_a_rescind_reaches_the_guest_and_the_channel_can_be_offered_again(tmp_path: Path, mode: str) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host):
        machine = await host.machine("vm1")
        offered = await machine.offer_channel(ECHO, "00000000-0000-0000-0000-000000000001", mode=mode)
        port = await driver.open((await driver.contact())[0], with_descriptor=True)
        await offered.rescind()
        await port.until_let_go()
        rescinded = await driver.until(OfferRescinded)
        assert rescinded.channel_id == port.channel_id
        again = await machine.offer_channel(ECHO, "00000000-0000-0000-0000-000000000001", mode=mode)
        await driver.perform(driver.guest.release(port.channel_id))
        await driver.until(ChannelReleased)
        offer = (await driver.until(OfferArrived)).offer
        assert offer.instance_id == again.instance
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, again)
            other = await driver.open(offer, with_descriptor=False)
            assert await other.ask(b"12345678") == hashlib.sha256(b"12345678").digest()
            nursery.cancel_scope.cancel()
        assert (await entry_of(guest, "machines"))["vmbus_violations"] == {}


@pytest.mark.parametrize(("mode", "bells"), WAYS)
async def test_a_bus_guest_that_is_killed_leaves_the_machine_to_the_next(tmp_path: Path, mode: str, bells: str) -> None:
    async with start_daemon(tmp_path) as daemon, clients.connect(daemon.socket_path) as host:
        with trio.fail_after(10):
            machine = await host.machine("vm1")
            free = (await entry_of(host, "machines"))["free_bytes"]
            offered = await machine.offer_channel(ECHO, mode=mode)
            async with start_client(tmp_path, "driver", "tests.endtoend.bus_driver", bells, daemon=daemon) as driver:
                await driver.wait_for_line("sent")
                for _ in range(4):
                    assert (await anext(aiter(offered))).payload == b"unheard!"
                failures: list[RequestFailed] = []

                async def send() -> None:
                    with pytest.raises(RequestFailed) as failed:
                        await offered.send(b"unheard!")
                    failures.append(failed.value)

                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(send)
                    await trio.testing.wait_all_tasks_blocked()  # a direct host's packets are in the ring then
                    while mode == "hosted" and (await entry_of(host, "channels"))["host_outstanding"] != 3:
                        await trio.lowlevel.checkpoint()
                    driver.kill()
                await driver.process.wait()
            assert [failure.status for failure in failures] == [NtStatus.CANCELLED] * 3
            assert all("'driver'" in failure.message for failure in failures)
            assert (await entry_of(host, "machines"))["bus_guest"] is None
            while (await entry_of(host, "machines"))["free_bytes"] != free:
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery, clients.connect(daemon.socket_path) as guest:
                nursery.start_soon(echo, offered)
                await hosted_round_trip(guest)
                nursery.cancel_scope.cancel()


async def test_one_bus_guest_or_the_daemons_own_and_each_refusal_names_the_holder(tmp_path: Path) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host), trio.open_nursery() as nursery:
        machine: Machine = await host.machine("vm1")
        nursery.start_soon(echo, await machine.offer_channel(ECHO))
        with pytest.raises(RequestFailed, match="client 'driver'") as refused:
            await machine.open_channel(ECHO)
        assert refused.value.status is NtStatus.INVALID_DEVICE_STATE
        assert (await entry_of(guest, "machines"))["bus_guest"].startswith("session 1 (client 'driver'")
        with pytest.raises(RequestFailed, match=r"has a bus guest already: session 1 .client 'driver'"):
            await attach_bus(host, machine)
        await driver.bus.detach()
        with pytest.raises(RequestFailed, match="detached here"):
            await driver.bus.next_message()
        with pytest.raises(RequestFailed, match=r"bus.attach first"):
            await driver.bus.post(1, bytes(8))
        channel = await machine.open_channel(ECHO)
        with pytest.raises(RequestFailed, match=r"client 'host'.* has it"):
            await attach_bus(guest, driver.machine)
        await channel.close()
        again = await attach_bus(guest, driver.machine)
        assert len(await Driver(again, driver.machine).contact()) == 1
        nursery.cancel_scope.cancel()


async def test_a_guest_that_waits_for_an_offer_is_a_holder_too(tmp_path: Path) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host), trio.open_nursery() as nursery:
        await driver.bus.detach()
        machine = await host.machine("vm1")
        nursery.start_soon(machine.open_channel, ECHO)
        while not (await entry_of(guest, "machines"))["waiting_guests"]:
            await trio.lowlevel.checkpoint()
        with pytest.raises(RequestFailed, match=r"client 'host'.*waits for channel"):
            await attach_bus(guest, driver.machine)
        nursery.cancel_scope.cancel()


async def test_messages_that_mean_nothing_are_silent_and_counted(tmp_path: Path) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, _host):
        await driver.contact()
        bus: BusGuest = driver.bus
        connection_id = driver.guest.state.connection_id
        for payload in (b"", b"\xff" * 240, bytes(8), pack_message(m.CloseChannel(7)), pack_message(m.RequestOffers())):
            assert await bus.post(connection_id, payload) is HvStatus.SUCCESS
        assert await bus.post(77, pack_message(m.RequestOffers())) is HvStatus.INVALID_CONNECTION_ID
        assert await bus.signal(0x2001) is HvStatus.INVALID_CONNECTION_ID
        with pytest.raises(RequestFailed, match="payload"):
            await bus.post(connection_id, bytes(241))
        with pytest.raises(RequestFailed, match="no channel 1 open"):
            await bus.doorbell(1)
        counted = (await entry_of(guest, "machines"))["vmbus_violations"]
        assert counted == {
            "MESSAGE_TOO_SMALL (2.1)": 1,
            "INVALID_MESSAGE_TYPE (2.1)": 2,
            "UNKNOWN_CHANNEL_ID (2.6)": 1,
            "OFFERS_ALREADY_SENT (2.5)": 1,
        }
        await driver.perform(driver.guest.unload())
        await driver.until(Unloaded)  # and no answer to anything before


async def test_a_page_list_beyond_the_machines_memory_is_answered_with_a_failure(tmp_path: Path) -> None:
    async with bus_and_host(tmp_path) as (_, driver, _guest, host):
        await (await host.machine("vm1")).offer_channel(ECHO)
        (offer,) = await driver.contact()
        pages = driver.machine.memory.byte_count // 4096
        for last, good in ((pages - 1, True), (pages, False), (1 << 51, False)):
            _, effects = driver.guest.create_gpadl(offer.channel_id, (GpaRange(8192, 0, (0, last)),))
            await driver.perform(effects)
            assert m.is_failure((await driver.until(GpadlReady)).status) is not good
        _, effects = driver.guest.open_channel(offer.channel_id, (GpaRange(4 * 4096, 0, (0, 1, 2, pages)),), 2)
        await driver.perform(effects)
        assert m.is_failure((await driver.until(ChannelOpened)).status)


async def test_a_port_has_sixteen_buffers_while_answers_are_not_taken(tmp_path: Path) -> None:
    async with bus_and_host(tmp_path) as (_, driver, _guest, host):
        await (await host.machine("vm1")).offer_channel(ECHO)
        (offer,) = await driver.contact()
        connection_id = driver.guest.state.connection_id

        async def describe(number: int) -> HvStatus:
            (header,) = build_gpadl_messages(offer.channel_id, number, (GpaRange(4096, 0, (1,)),))
            return await driver.bus.post(connection_id, pack_message(header))

        # One answer stands in the slot, 512 wait behind it; then messages wait, in the port's sixteen buffers.
        statuses = [await describe(1 + number) for number in range(1 + 512 + 16 + 2)]
        assert statuses == [HvStatus.SUCCESS] * (1 + 512 + 16) + [HvStatus.INSUFFICIENT_BUFFERS] * 2
        for _ in range(3):
            assert (await driver.bus.next_message()).payload[:4] == (10).to_bytes(4, "little")
        assert await describe(9999) is HvStatus.SUCCESS


@pytest.mark.parametrize("mode", HOST_MODES)
async def test_ring_damage_stops_the_hosts_end_in_words_and_nothing_else(tmp_path: Path, mode: str) -> None:
    async with bus_and_host(tmp_path) as (_, driver, guest, host), trio.open_nursery() as nursery:
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        nursery.start_soon(echo, offered)
        (offer,) = await driver.contact()
        port = await driver.open(offer, with_descriptor=True)
        assert await port.ask(b"12345678") == hashlib.sha256(b"12345678").digest()
        port.to_host.control[0] = 4097  # an index that is no multiple of 8
        await port.ring()
        await port.until_let_go()
        if mode == "hosted":
            entry = await entry_of(guest, "channels")
            assert "the ring is damaged, as the host's end found: " in entry["stopped"]
            assert "0x1001: not a multiple of 8" in entry["stopped"]
            assert entry["bus_state"] == "open"
            assert (await entry_of(guest, "machines"))["vmbus_violations"] == {"RING_DAMAGED (3.6)": 1}
            with pytest.raises(RequestFailed, match="the ring is damaged"):
                await driver.bus.doorbell(offer.channel_id)
            await driver.perform(driver.guest.close_channel(offer.channel_id))
            await driver.until(ChannelClosed)
        else:
            # A direct host closes the opening; on this bus that is a rescind and a new offer.
            await driver.until(OfferRescinded)
            await driver.perform(driver.guest.release(offer.channel_id))
            offer = (await driver.until(OfferArrived)).offer
        other = await driver.open(offer, with_descriptor=True)
        assert await other.ask(b"12345678") == hashlib.sha256(b"12345678").digest()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", HOST_MODES)
async def test_the_memory_of_rings_goes_back_when_nothing_of_the_host_looks_at_it(tmp_path: Path, mode: str) -> None:
    """The guest takes the page list of an open channel back; a direct host is asked to let go of it first."""
    async with bus_and_host(tmp_path) as (_, driver, _guest, host):
        offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
        (offer,) = await driver.contact()
        await driver.open(offer, with_descriptor=False)
        await offered.opened()
        gpadl_id = 0xE1E10
        payload = pack_message(m.GpadlTeardown(offer.channel_id, gpadl_id))
        assert await driver.bus.post(driver.guest.state.connection_id, payload) is HvStatus.SUCCESS
        message = await driver.bus.next_message()
        assert message.payload[:4] == (12).to_bytes(4, "little")
        assert message.payload[8:12] == gpadl_id.to_bytes(4, "little")
        while offered.is_open:
            await trio.lowlevel.checkpoint()


async def test_a_lost_connection_ends_a_bus_guest_that_waits(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as daemon, clients.connect(daemon.socket_path) as guest:
        bus = await attach_bus(guest, await guest.machine("vm1"))
        daemon.kill()
        with trio.fail_after(10), pytest.raises(ConnectionLost):
            await bus.next_event()

"""What a guest's author gets to read of a mistake: what was wrong, which rule, what to do. Through real bus guests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest
import trio

import clients
from clients import Connection
from emulator.memory import GpaRange
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault
from emulator.vmbus.gpadl import build_gpadl_messages
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelClosed, OfferRescinded
from emulator.vmbus.message_types import Version
from emulator.vmbus.messages import pack_message
from emulator.vmbus.synic import HvStatus
from tests.endtoend.bus_driver import Driver
from tests.support.processes import Daemon, run_client, start_daemon

ECHO = "ab0ffee0-0a1b-4c2d-8e3f-405162738497"
NO_DATA = bytes(120)
GPADL = 0x77
NO_PROCESSOR = 0xFFFFFFFF


class Scene(NamedTuple):
    """A daemon with a host that offers channel 1, and a bus guest that has it."""

    daemon: Daemon
    driver: Driver
    host: Connection
    offered: clients.OfferedChannel

    async def post(self, message: m.Message | bytes, connection_id: int | None = None) -> None:
        """Post something, whatever it is worth, and take what comes of it."""
        payload = message if isinstance(message, bytes) else pack_message(message)
        where = self.driver.guest.state.connection_id if connection_id is None else connection_id
        assert await self.driver.bus.post(where, payload) is HvStatus.SUCCESS

    async def describe(self, *pfns: int, gpadl_id: int = GPADL) -> None:
        """Post a page list for channel 1."""
        for message in build_gpadl_messages(1, gpadl_id, (GpaRange(len(pfns) * 4096, 0, pfns),)):
            await self.post(message)

    async def open(self, *, downstream: int = 2, target_vp: int = 0, gpadl_id: int = GPADL, ring: bytes = b"") -> None:
        """Open channel 1 over four pages of its own, with these bytes at the beginning of its first control page."""
        pages = self.driver.machine.memory.allocate(4 * 4096)
        pages.write(0, ring)
        await self.describe(*pages.pfns)
        await self.post(m.OpenChannel(1, 1, gpadl_id, target_vp, downstream, NO_DATA))

    async def ctl(self, *args: str) -> str:
        """What ``vmbusctl`` prints, without the line breaks of its table."""
        return (await run_client("clients.cli", *args, daemon=self.daemon)).stdout

    async def listed(self) -> dict[str, Any]:
        """The channel, from ``vmbusctl channels --json``."""
        (entry,) = json.loads(await self.ctl("channels", "--json"))
        found: dict[str, Any] = entry
        return found

    def logged(self, event: str = "bus.violation") -> list[dict[str, Any]]:
        """What the log has of it."""
        lines = [json.loads(line) for line in self.daemon.stderr.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def latest(self) -> dict[str, Any]:
        """The mistake the machine remembers as its last."""
        (entry,) = await self.host.inspect("machines", "vm1")
        found: dict[str, Any] = entry["vmbus_latest_violations"][0]
        return found


@asynccontextmanager
async def scene(tmp_path: Path, mode: str = "hosted") -> AsyncIterator[Scene]:
    async with (
        start_daemon(tmp_path) as daemon,
        clients.connect(daemon.socket_path, name="driver") as guest,
        clients.connect(daemon.socket_path, name="host") as host,
    ):
        with trio.fail_after(60):
            offered = await (await host.machine("vm1")).offer_channel(ECHO, mode=mode)
            machine = await guest.machine("vm1")
            with Driver(await machine.attach_bus(), machine) as driver:
                yield Scene(daemon, driver, host, offered)


def sentence(fault: BusFault, *details: str) -> Callable[[str], bool]:
    """Whether a text has what was wrong, the rule and what to do, and names these things."""

    def check(text: str) -> bool:
        assert f"{fault.sentence} [{fault.rule}]; {fault.advice}" in text
        for detail in details:
            assert detail in text
        return True

    return check


async def test_rule_2_7_a_wrong_page_list_is_told_in_vmbusctl_channels_and_in_the_log(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        await each.driver.contact()
        outside = each.driver.machine.memory.byte_count // 4096
        await each.describe(1, outside)
        told = sentence(BusFault.PAGE_OUTSIDE_MEMORY, "GPADL 0x77", ECHO, f"page 0x{outside:X} is outside")
        (violation,) = (await each.listed())["violations"]
        assert (violation["fault"], violation["rule"], violation["count"]) == ("PAGE_OUTSIDE_MEMORY", "2.7", 1)
        assert told(violation["last"])
        assert told(await each.ctl("channels"))
        (line,) = each.logged()
        assert told(line["message"])
        assert (line["machine"], line["rule"], line["level"]) == ("vm1", "2.7", "warning")
        # The other kind of wrong: a list that was never made.
        await each.post(m.GpadlTeardown(1, 0x999))
        told = sentence(BusFault.UNKNOWN_GPADL_ID, "teardown of GPADL 0x999")
        assert [each["fault"] for each in (await each.listed())["violations"]] == [
            "UNKNOWN_GPADL_ID",
            "PAGE_OUTSIDE_MEMORY",
        ]
        assert told(await each.ctl("channels"))
        assert told(each.logged()[1]["message"])


async def test_rule_3_6_a_bad_descriptor_is_told_in_vmbusctl_channels_and_in_the_log(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        (offer,) = await each.driver.contact()
        port = await each.driver.open(offer, with_descriptor=False)
        port.to_host.write(0, bytes.fromhex("0600 0200 ff00 0100 0000000000000000"))
        port.to_host.control[0] = 24
        await port.ring()
        told = sentence(BusFault.RING_DAMAGED, "channel 1: a packet of 2040 bytes", "where the ring holds")
        entry = await each.listed()
        assert (entry["bus_state"], entry["unread_bytes_to_host"]) == ("open", 24)
        assert "the ring is damaged, as the host's end found: a packet of 2040 bytes" in entry["stopped"]
        assert told(entry["violations"][0]["last"])
        assert told(await each.ctl("channels"))
        (line,) = each.logged("channel.failed")
        assert told(line["message"])


async def test_rule_3_6_a_direct_host_tells_of_a_bad_descriptor_too(tmp_path: Path) -> None:
    async with scene(tmp_path, "direct") as each:
        (offer,) = await each.driver.contact()
        port = await each.driver.open(offer, with_descriptor=True)
        await each.offered.opened()
        port.to_host.write(0, bytes.fromhex("0600 0200 ff00 0100 0000000000000000"))
        port.to_host.control[0] = 24
        await port.ring()
        await port.until_let_go()
        await each.driver.until(OfferRescinded)
        told = sentence(BusFault.RING_DAMAGED, "channel 1: ", "as this end found: a packet of 2040 bytes")
        assert told((await each.listed())["violations"][0]["last"])
        assert told(await each.ctl("channels"))
        (line,) = each.logged("channel.failed")
        assert told(line["message"])


@pytest.mark.parametrize("payload", [bytes.fromhex("63000000 00000000"), pack_message(m.Resume())])
async def test_rule_2_1_an_unknown_message_is_told_in_vmbusctl_channels_and_in_the_log(
    tmp_path: Path, payload: bytes
) -> None:
    async with scene(tmp_path) as each:
        await each.post(payload, 1)  # a resume is none before contact
        number = payload[0]
        told = sentence(BusFault.INVALID_MESSAGE_TYPE, f"message type {number}")
        assert (await each.listed())["violations"] == []  # it is about no channel
        assert told(await each.ctl("channels"))
        assert told((await each.latest())["last"])
        (line,) = each.logged()
        assert told(line["message"])


async def test_rule_4_4_a_missing_completion_is_told_with_its_transaction_and_its_age(tmp_path: Path) -> None:
    async with scene(tmp_path) as each, trio.open_nursery() as nursery:
        (offer,) = await each.driver.contact()
        port = await each.driver.open(offer, with_descriptor=False)
        await each.offered.opened()
        began = monotonic()
        for _ in range(3):
            nursery.start_soon(each.offered.send, b"complete me")
        while len(port.received) < 3:
            await port.look()
            await trio.lowlevel.checkpoint()
        first = await owed(each, "guest")
        assert (first["packets"], first["oldest_transaction_id"]) == (3, 1)
        # The oldest one is the one that is told of; another's completion changes that.
        packet = port.received.popleft()
        if port.endpoint.complete(packet.handle, b"").doorbell:
            await port.ring()
        while (second := await owed(each, "guest"))["packets"] != 2:
            await trio.lowlevel.checkpoint()
        assert second["oldest_transaction_id"] == 2
        while (third := await owed(each, "guest"))["oldest_seconds"] < 1:
            await trio.lowlevel.checkpoint()
        assert third["oldest_seconds"] <= round(monotonic() - began, 3), "not older than the test"
        text = await each.ctl("channels")
        assert "the guest owes 2 completions, the oldest for transaction 0x2, sent " in text
        assert "one gets one, of type 11 and with its transaction id [4.4]" in text
        nursery.cancel_scope.cancel()


async def owed(each: Scene, side: str) -> dict[str, Any]:
    """What one side owes, as the listing has it."""
    (entry,) = await each.host.inspect("channels", "vm1")
    (found,) = [debt for debt in entry["uncompleted"] if debt["owed_by"] == side]
    debt: dict[str, Any] = found
    return debt


async def test_rule_4_4_what_a_host_does_not_complete_is_told_too(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        (offer,) = await each.driver.contact()
        port = await each.driver.open(offer, with_descriptor=False)
        for _ in range(2):
            assert port.endpoint.send(b"to host", None, 1, object()).transaction_id
        await port.ring()
        packets = [await anext(aiter(each.offered)) for _ in range(2)]
        debt = await owed(each, "host")
        assert (debt["packets"], debt["oldest_transaction_id"]) == (2, 1)
        assert debt["text"].startswith("the host owes 2 completions, the oldest for transaction 0x1, delivered 0.")
        for packet in packets:
            await packet.complete()
        (entry,) = await each.host.inspect("channels", "vm1")
        while entry["uncompleted"]:
            (entry,) = await each.host.inspect("channels", "vm1")
        assert (entry["unread_bytes_to_host"], entry["unread_bytes_to_guest"]) == (0, 2 * 24)


Mistake = Callable[[Scene], Awaitable[None]]


def posting(*messages: m.Message | bytes, at: int | None = None) -> Mistake:
    """These messages, one after another."""

    async def make(each: Scene) -> None:
        for message in messages:
            await each.post(message, at)

    return make


def opening(*messages: m.Message, **how: Any) -> Mistake:
    """Channel 1 opened, then these messages."""

    async def make(each: Scene) -> None:
        await each.open(**how)
        await posting(*messages)(each)

    return make


def reserving(*messages: m.Message) -> Mistake:
    """Channel 1 opened as a reserved channel, then these messages."""

    async def make(each: Scene) -> None:
        await each.describe(*each.driver.machine.memory.allocate(4 * 4096).pfns)
        await posting(m.OpenReservedChannel(1, 0, 2, GPADL, 2), *messages)(each)

    return make


def header(gpadl_id: int, *values: int, announced: int | None = None) -> m.GpadlHeader:
    """A page list of these 64-bit values, of which more may be announced."""
    data = b"".join(value.to_bytes(8, "little") for value in values)
    return m.GpadlHeader(1, gpadl_id, len(data) if announced is None else announced, 1, data)


PAGES = 0x4000  # bytes of four pages
SIGNAL = m.OpenChannel2(1, 1, GPADL, 0, 2, NO_DATA, 0x2001, 0, 1)
# What is done wrong, and what is said of it. Not here, for no bus guest can make them here: messages of 241 bytes (the
# wire refuses them), trusted connections, resets and modifications under way, and many sockets, which end at once.
MISTAKES: dict[BusFault, tuple[Mistake, str]] = {
    BusFault.MESSAGE_TOO_SMALL: (posting(bytes.fromhex("07000000 00000000")), "message type 7 needs 12 bytes, not 8"),
    BusFault.INVALID_MESSAGE_TYPE: (posting(bytes.fromhex("01000000 00000000")), "message type 1"),
    BusFault.CLIENT_ID_MISSING: (
        posting(m.InitiateContact(Version.V6_0, 0, 2 | 8 << 32, 0, 0), at=4),
        "an initiate contact of 40 bytes",
    ),
    BusFault.INVALID_TARGET_SINT: (posting(m.InitiateContact(Version.V5_0, 0, 16, 0, 0), at=4), "SINT 16"),
    BusFault.OFFERS_ALREADY_SENT: (posting(m.RequestOffers()), "request offers"),
    BusFault.PAUSED: (posting(m.Pause(), m.RequestOffers()), "RequestOffers"),
    BusFault.MODIFY_CONNECTION_REFUSED: (posting(m.ModifyConnection(0x3000, 0)), "pages 0x3000 and 0x0"),
    BusFault.UNKNOWN_CHANNEL_ID: (posting(m.CloseChannel(7)), "channel 7"),
    BusFault.CHANNEL_ALREADY_OPEN: (opening(m.OpenChannel(1, 2, GPADL, 0, 2, NO_DATA)), "channel 1"),
    BusFault.CHANNEL_NOT_OPEN: (posting(m.CloseChannel(1)), "channel 1"),
    BusFault.CHANNEL_RESERVED: (reserving(m.CloseChannel(1)), "channel 1"),
    BusFault.CHANNEL_NOT_RESERVED: (opening(m.CloseReservedChannel(1, 0, 2)), "channel 1"),
    BusFault.INVALID_CHANNEL_STATE: (opening(m.RelIdReleased(1)), "channel 1"),
    BusFault.INVALID_TARGET_VP: (opening(m.ModifyChannel(1, NO_PROCESSOR)), "channel 1"),
    BusFault.INTERRUPTS_DISABLED: (opening(m.ModifyChannel(1, 0), target_vp=NO_PROCESSOR), "channel 1"),
    BusFault.INVALID_RING: (opening(downstream=0), "4 pages split at page 0"),
    BusFault.UNUSABLE_RING: (opening(ring=b"\x05"), "channel 1: the ring's in index is 0x5"),
    BusFault.INVALID_SIGNAL: (opening(SIGNAL, downstream=0), "event flag 0"),
    BusFault.UNKNOWN_GPADL_ID: (posting(m.GpadlTeardown(1, 0x999)), "teardown of GPADL 0x999"),
    BusFault.INVALID_GPADL_STATE: (
        posting(header(GPADL, PAGES, 1, announced=40), m.GpadlTeardown(1, GPADL)),
        "teardown of GPADL 0x77",
    ),
    BusFault.DUPLICATE_GPADL_ID: (
        posting(header(GPADL, 4096, 1), header(GPADL, 4096, 2)),
        "GPADL 0x77 on channel 1",
    ),
    BusFault.INVALID_GPA_RANGE: (
        posting(header(GPADL, PAGES, 1, 2)),
        "GPADL 0x77 on channel 1: range 0 names 2 pages too few",
    ),
    BusFault.PAGE_OUTSIDE_MEMORY: (posting(header(GPADL, 4096, 1 << 50)), "page 0x4000000000000 is outside"),
    BusFault.TOO_MANY_GPADLS: (
        posting(*[header(number, PAGES, 1, announced=40) for number in range(65)]),
        "GPADL 0x40 on channel 1",
    ),
}


def reported_about_channel(fault: BusFault) -> bool:
    """Whether such a mistake names a channel that there is."""
    return fault.rule in ("2.6", "2.7", "3.1") and fault is not BusFault.UNKNOWN_CHANNEL_ID


async def test_every_mistake_a_bus_guest_can_make_is_told_with_its_rule_and_what_to_do(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        for fault, (make, detail) in MISTAKES.items():
            await begin_again(each)
            before = len(each.logged()) + len(each.logged("bus.open_failed"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_all, each.driver)
                await make(each)
                nursery.cancel_scope.cancel()
            told = sentence(fault, detail)
            latest = await each.latest()
            assert (latest["fault"], latest["rule"]) == (fault.name, fault.rule)
            assert told(latest["last"])
            (entry,) = await each.host.inspect("channels", "vm1")
            about_it = [violation["fault"] for violation in entry["violations"]]
            assert (fault.name in about_it) is reported_about_channel(fault), fault
            logged = [*each.logged(), *each.logged("bus.open_failed")]
            assert len(logged) > before
            assert any(fault.name == line["fault"] and told(line["message"]) for line in logged if detail in str(line))


async def begin_again(each: Scene) -> None:
    """Leave the bus, come back, and make contact."""
    await each.driver.bus.detach()
    each.driver.bus = await each.driver.machine.attach_bus()
    each.driver.guest = GuestBus()
    await each.driver.contact()


async def take_all(driver: Driver) -> None:
    """Take whatever the host says, so that it goes on saying it."""
    async for _ in driver.bus:
        pass


async def test_a_guest_that_makes_nothing_but_mistakes_does_not_fill_the_log(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        await each.driver.contact()
        for number in range(1000):
            await each.post(m.CloseChannel(7 + number))
        lines = each.logged()
        assert [line["count"] for line in lines] == [1, 2, 3, 4, 5, 10, 100, 1000]
        assert "channel 1006" in lines[-1]["message"]
        (entry,) = await each.host.inspect("machines", "vm1")
        assert entry["vmbus_violations"] == {"UNKNOWN_CHANNEL_ID (2.6)": 1000}
        await each.post(m.CloseChannel(1))  # another kind is heard all the same
        assert [line["fault"] for line in each.logged()][8:] == ["CHANNEL_NOT_OPEN"]


async def test_damage_done_over_and_over_does_not_fill_the_log_either(tmp_path: Path) -> None:
    async with scene(tmp_path) as each:
        (offer,) = await each.driver.contact()
        for _ in range(8):
            port = await each.driver.open(offer, with_descriptor=False)
            port.to_host.control[0] = 4097
            await port.ring()
            await each.driver.perform(each.driver.guest.close_channel(offer.channel_id))
            await each.driver.until(ChannelClosed)
        assert [line["count"] for line in each.logged("channel.failed")] == [1, 2, 3, 4, 5]

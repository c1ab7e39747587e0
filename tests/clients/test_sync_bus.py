"""A bus guest without an event loop: a driver stack in plain calls, with its host in the same thread."""

from __future__ import annotations

import select
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

import clients.sync
from clients.bus_inbox import BusMessage
from clients.protocol import ConnectionLost, RequestFailed
from emulator.memory import GpaRange
from emulator.status import NtStatus
from emulator.vmbus.endpoint import ChannelEndpoint, EndpointLimits, Side
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import ChannelOpened, GuestEffect, OfferArrived, OffersDelivered, PostMessage
from emulator.vmbus.message_types import OfferChannel
from emulator.vmbus.profile import KmclProfile
from emulator.vmbus.ring import RingMemory, RingReceiver, RingSender, initialise_as_guest
from emulator.vmbus.synic import HvStatus, take_event_flags
from tests.endtoend.bus_driver import fence
from tests.support.processes import start_daemon

ECHO = "ab0ffee0-0a1b-4c2d-8e3f-405162738498"
FLAGS = "[machines.vm1]\nevent_flags_page = true\n[segments.lan]\n"


class Stack:
    """A guest's control conversation and one channel's rings."""

    def __init__(self, machine: clients.sync.Machine) -> None:
        self.machine = machine
        self.bus = machine.attach_bus()
        self.guest = GuestBus()

    def until(self, effects: Iterable[GuestEffect], kind: type[GuestEffect]) -> list[GuestEffect]:
        """Carry messages both ways until something has happened; everything that has."""
        happened: list[GuestEffect] = []
        due = list(effects)
        while True:
            for effect in due:
                if isinstance(effect, PostMessage):
                    assert self.bus.post(effect.connection_id, effect.payload) is HvStatus.SUCCESS
                else:
                    happened.append(effect)
            if any(isinstance(effect, kind) for effect in happened):
                return happened
            message = next(self.bus)
            assert isinstance(message, BusMessage)
            due = list(self.guest.message_arrived(message.payload))

    def open(self) -> tuple[OfferChannel, ChannelEndpoint]:
        """Contact, and the first channel there is."""
        happened = self.until(self.guest.connect(), OffersDelivered)
        (offer,) = [effect.offer for effect in happened if isinstance(effect, OfferArrived)]
        memory = self.machine.memory
        pfns = memory.allocate(4 * 4096).pfns
        outgoing, incoming = RingMemory.over(memory.mapped, pfns[:2]), RingMemory.over(memory.mapped, pfns[2:])
        initialise_as_guest(outgoing, incoming)
        profile = KmclProfile(hold_unasked_packets=False)
        ends = RingReceiver(incoming, fence), RingSender(outgoing, fence)
        endpoint = ChannelEndpoint(Side.GUEST, *ends, memory.mapped, profile, EndpointLimits())
        _, effects = self.guest.open_channel(offer.channel_id, (GpaRange(len(pfns) * 4096, 0, pfns),), 2)
        self.until(effects, ChannelOpened)
        assert endpoint.go_idle()
        return offer, endpoint


def use_events(socket_path: Path) -> None:
    """Doorbells by message: events in, signals out, and the flags in a page."""
    with (
        clients.sync.connect(socket_path, timeout_seconds=30) as ours,
        clients.sync.connect(socket_path, timeout_seconds=30) as theirs,
    ):
        offered = theirs.machine("vm1").offer_channel(ECHO)
        machine = ours.machine("vm1")
        stack = Stack(machine)
        page = machine.memory.allocate(4096).pfns[0] << 12
        stack.bus.set_event_flags_page(page)
        offer, endpoint = stack.open()
        offered.opened()
        assert endpoint.send(b"to host!", None, 1, None).doorbell
        assert stack.bus.signal(offer.connection_id) is HvStatus.SUCCESS
        packet = next(offered)
        assert packet.payload == b"to host!"
        packet.complete(b"complete")
        assert stack.bus.next_event() == (0, 2, offer.channel_id)
        assert take_event_flags(machine.memory.mapped.view(page, 4096), 2) == [offer.channel_id]
        assert [completed.payload for completed in endpoint.receive(9, 9999).completed] == [b"complete"]
        with pytest.raises(RequestFailed, match="has a bus guest already"):
            theirs.machine("vm1").attach_bus()
        stack.bus.detach()
        stack.bus.detach()
        assert list(stack.bus) == []
        for wait in (stack.bus.next_message, stack.bus.next_event):
            with pytest.raises(RequestFailed, match="detached here") as over:
                wait()
            assert over.value.status is NtStatus.CANCELLED


def use_descriptor(socket_path: Path) -> None:
    """Doorbells by descriptor, and a guest side left with its block."""
    with (
        clients.sync.connect(socket_path, timeout_seconds=30) as ours,
        clients.sync.connect(socket_path, timeout_seconds=30) as theirs,
    ):
        offered = theirs.machine("vm1").offer_channel(ECHO)
        stack = Stack(ours.machine("vm1"))
        with stack.bus as bus:
            offer, endpoint = stack.open()
            offered.opened()
            with bus.doorbell(offer.channel_id) as bell:
                assert offered.send(b"to guest", flags=0) == b""
                assert select.select([bell], [], [], 30)[0]
                assert bell.recv(4096)
                assert [packet.payload for packet in endpoint.receive(9, 9999).packets] == [b"to guest"]
                assert endpoint.send(b"to host!", None, 0, None).doorbell
                bell.send(b"\0")
                assert next(offered).payload == b"to host!"
        while offered.is_open:
            theirs.wait()
        with theirs.machine("vm1").attach_bus() as again:
            assert again.processors == bus.processors


def lose_the_daemon(socket_path: Path, kill: object) -> None:
    """A wait ends with the connection, and before that with the connection's time-out."""
    assert callable(kill)
    with clients.sync.connect(socket_path, timeout_seconds=0.05) as daemon:
        bus = clients.sync.attach_bus(daemon, daemon.machine("vm1"))
        with pytest.raises(TimeoutError):
            bus.next_event()
        kill()
        with pytest.raises(ConnectionLost):
            wait_on(bus)


def wait_on(bus: clients.sync.BusGuest) -> None:
    """Wait for a message, however long."""
    while True:
        with suppress(TimeoutError):
            bus.next_message()


@pytest.mark.parametrize("work", [use_events, use_descriptor])
async def test_a_driver_stack_in_plain_calls(tmp_path: Path, work: object) -> None:
    assert callable(work)
    async with start_daemon(tmp_path, FLAGS) as daemon:
        with trio.fail_after(60):
            await trio.to_thread.run_sync(work, daemon.socket_path, abandon_on_cancel=True)


async def test_a_wait_ends_with_its_time_out_and_with_the_daemon(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as daemon:
        with trio.fail_after(60):
            await trio.to_thread.run_sync(lose_the_daemon, daemon.socket_path, daemon.kill, abandon_on_cancel=True)

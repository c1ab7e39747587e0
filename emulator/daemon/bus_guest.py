"""The bus guest: a client that has the whole guest side of a machine's bus, in place of the daemon's ``GuestBus``.

It posts control messages and gets the host's, byte for byte, lays out its rings in guest memory itself and works them
with code of its own. What stands here is what the hypervisor would be to it: message slots, event flags, doorbells, and
the guest's end of each channel, of which the daemon knows nothing but how to ring it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from emulator.daemon.channel_side import ChannelSide, DirectEnd
from emulator.daemon.channels import Channel
from emulator.daemon.doorbells import DaemonDoorbell, doorbell_pair
from emulator.daemon.guest_pages import PROCESSORS, GuestPages
from emulator.daemon.offers import Offer
from emulator.status import NtStatus, Refused
from emulator.vmbus.bus_link import Effect
from emulator.vmbus.endpoint import Side
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import (
    ModifyPlatform,
    OpenRequest,
    PlatformResult,
    SendMessage,
    SetInterruptBit,
    SignalGuest,
    TlConnect,
)
from emulator.vmbus.message_types import ConnectResult
from emulator.vmbus.synic import SINT_COUNT
from emulator.wire.codec import encode_notification
from emulator.wire.schema import BUS_EVENT, BUS_MESSAGE

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
# Below 2.4 it looks to the guest like a version the host does not know; the log says what it was.
CANNOT_CONNECT = PlatformResult(ConnectResult.UNKNOWN_FAILURE)


class BusGuest:
    """A session as the guest side of one machine's bus; ``number`` is the machine's in that session."""

    def __init__(self, session: Session, number: int, host: HostBus, pages: GuestPages) -> None:
        self.session = session
        self.pages = pages
        self._number = number
        self._host = host

    def settle(self, effects: Iterable[Effect]) -> list[Effect]:
        """Deliver what is for the guest, answer for the machine around the bus; what is left is for the devices."""
        rest: list[Effect] = []
        arriving = deque(effects)
        while arriving:
            match effect := arriving.popleft():
                case SendMessage(vp=vp, sint=sint, payload=payload):
                    if vp < PROCESSORS and sint < SINT_COUNT:
                        self.session.put(encode_notification(BUS_MESSAGE, self._number, vp, sint, payload))
                    else:
                        arriving.extend(self._host.message_delivered(vp, sint))
                case ModifyPlatform(interrupt_page=page):
                    if problem := self.pages.interrupt_page_problem(page):
                        rest.append(Violation.of(BusError(BusFault.INVALID_INTERRUPT_PAGE, problem)))
                        arriving.extend(self._host.modify_connection_done(CANNOT_CONNECT))
                    else:
                        arriving.extend(self._host.modify_connection_done())
                case TlConnect(service_id=service, endpoint_id=endpoint):
                    # Nothing here serves such sockets.
                    arriving.extend(self._host.tl_connect_result(service, endpoint, success=False))
                case _:
                    rest.append(effect)
        return rest

    def interrupt(self, offer_key: int, bell: DaemonDoorbell | None) -> None:
        """The host rings a channel, whose descriptor the guest may have: then ``bell`` is the other end of that."""
        if bell is None or self.pages.are_written:
            for effect in self._host.signal_guest(offer_key):
                if isinstance(effect, SetInterruptBit):
                    self.pages.set_interrupt_bit(effect.page_gpa, effect.channel_id)
                elif isinstance(effect, SignalGuest):
                    self._signal(effect, is_rung=bell is not None)
        if bell is not None:
            bell.ring()

    def _signal(self, signal: SignalGuest, *, is_rung: bool) -> None:
        event = signal.vp, signal.sint, signal.flag
        if self.pages.set_event_flag(*event) and not is_rung:
            self.session.put(encode_notification(BUS_EVENT, self._number, *event))


class _Relay:
    """Who rings it rings a doorbell: what the guest's descriptor does where the daemon stands between two of them."""

    def __init__(self, bell: DaemonDoorbell) -> None:
        self.ring_doorbell = bell.ring


class BusGuestEnd(DirectEnd):
    """The guest's end of a channel of a bus guest: rung by an event, or by its doorbell once the guest has that."""

    def __init__(self, channel: Channel, guest: BusGuest) -> None:
        super().__init__(channel, Side.GUEST, guest.session)
        self._guest = guest
        self._kept: socket.socket | None = None  # next to a direct host, until the guest asks for it
        self._handed_over = False
        self._host_bell: DaemonDoorbell | None = None  # a direct host's, where the daemon stands between

    def enter(self) -> None:
        """The guest knows it by the bus's channel id; in its session it has no number."""

    def keep(self, end: socket.socket) -> None:
        """The other end of a direct host's doorbell: the daemon listens to it until the guest does."""
        self._kept = end
        self.doorbell = DaemonDoorbell(end)
        self.machine.start_soon(self.doorbell.listen, self)

    def ring_doorbell(self) -> None:
        """The guest is to look at its ring."""
        self._guest.interrupt(self.channel.offer.key, self.doorbell if self._handed_over else None)

    def ring_host(self) -> None:
        """The guest rings without a descriptor. Raises Refused where only its own descriptor reaches the host."""
        host = self.channel.host
        if isinstance(host, ChannelSide):
            host.ring_doorbell()
        elif (bell := self._host_bell or self.doorbell) is not None:
            bell.ring()
        else:
            text = "the doorbell of this channel was handed over, and its host is direct: ring it there"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)

    def hand_over(self) -> int:
        """The descriptor of the guest's end of the doorbell, for it to keep. Raises Refused."""
        if self._handed_over:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the doorbell of this channel was handed over already")
        try:
            descriptor = self._make_over()
        except OSError as error:
            text = f"the daemon cannot make a doorbell for {self.channel.offer}: {error.strerror}"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text) from None
        self._handed_over = True
        return descriptor

    def _make_over(self) -> int:
        if self._kept is not None and not self._guest.pages.are_written:
            descriptor = os.dup(self._kept.fileno())
            if self.doorbell is not None:
                self.doorbell.close()
            self.doorbell = self._kept = None
            return descriptor
        ours, theirs = doorbell_pair()
        self._host_bell = self.doorbell
        self.doorbell = DaemonDoorbell(ours)
        host = self.channel.host if self._host_bell is None else _Relay(self._host_bell)
        self.machine.start_soon(self.doorbell.listen, host)
        return theirs.detach()

    def close(self, status: NtStatus, reason: str, *, quietly: bool) -> None:
        """The host's end is gone; the guest hears that from its doorbell, and the rest from the bus."""
        for bell in (self.doorbell, self._host_bell):
            if bell is not None:
                bell.close()


class BusGuestChannel(Channel):
    """An opening whose rings the bus guest laid out."""

    def __init__(self, offer: Offer, guest: BusGuest, request: OpenRequest) -> None:
        to_host, to_guest = request.ring
        pages = len(to_host) - 1, len(to_guest) - 1
        super().__init__(offer, guest.session, pages, None, (*to_host, *to_guest))
        self.channel_id = request.channel_id
        self._bus_guest = guest

    def open(self, request: OpenRequest, *, wait: bool) -> None:
        """Make both ends, or, if the other has to wait, the host's.

        Raises Refused, or what broken rings raise, with nothing left behind.
        """
        try:
            if self.is_direct(Side.HOST):
                self.make_doorbells()
            self.open_host_end(request.ring)
            if not wait:
                self.open_guest_end()
        except BaseException:
            self.give_back_pages()
            raise

    @property
    def guest_end(self) -> BusGuestEnd:
        """The guest's end. Raises Refused when the host's is gone."""
        if not self.is_open or not isinstance(self.guest, BusGuestEnd):
            text = f"channel {self.channel_id} is not open: {self.why_closed or 'nobody opened it'}"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
        return self.guest

    def _make_guest_end(self) -> BusGuestEnd:
        return BusGuestEnd(self, self._bus_guest)

    def _connect_doorbells(self) -> None:
        if self._bells:
            (first, second), self._bells = self._bells, ()
            self._client_bells[Side.HOST] = first
            self.guest_end.keep(second)

    def _first_look(self) -> None:
        # The guest looks by itself when it hears that the channel is open.
        assert self.host is not None, "it was just opened"
        self.host.ring_doorbell()

    def end(self, status: NtStatus, reason: str, *, by: ChannelSide | DirectEnd | None = None) -> None:
        """Both ends close. What the guest looks at is its own memory; nothing waits for it."""
        super().end(status, reason, by=by)
        self._holders -= {self.guest}

    def let_go(self, side: DirectEnd) -> None:
        """Its direct host has read the rings to the end, or is gone: their pages may go back to the guest."""
        super().let_go(side)
        if not self.is_held:
            self.machine.bus.let_go(self)

    def _log_damage(self, found_by: Side, problem: str, transaction_id: int | None) -> None:
        # A hosted end stops. On the bus the channel is open until the guest closes it.
        self.note(BusFault.RING_DAMAGED, problem, "channel.failed")

    def note(self, fault: BusFault, problem: str, event: str) -> None:
        """Remember a mistake of the guest's about its rings."""
        error = BusError(fault, f"channel {self.channel_id}: {problem}")
        self.machine.bus.violations.note(Violation.of(error), self.offer.mistakes, event)

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl channels`` shows of it, with why its host's end stopped if it did."""
        entry = {**super().describe(), "guest_mode": "bus guest"}
        return entry if self.is_open else {**entry, "stopped": self.why_closed}


def ring_host_of(offer: Offer) -> None:
    """Ring the doorbell of a channel's host, if a bus guest has it open."""
    if isinstance(offer.channel, BusGuestChannel) and offer.channel.is_open:
        offer.channel.guest_end.ring_host()


def refuse_if_taken(machine: Machine, holder: BusGuest | None, offers: Iterable[Offer]) -> None:
    """Refuse another bus guest where anybody has the guest side of a channel, or waits for one."""
    if holder is not None:
        text = f"{machine} has a bus guest already: {holder.session}"
        raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
    for offer in offers:
        if offer.channel is not None:
            text = f"{offer} is open: {offer.channel.holder} has it; close it there, for a bus guest takes them all"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
    for waiting in machine.waiting:
        text = f"{waiting.session} waits for channel {waiting.wanted} of {machine}; cancel that first"
        raise Refused(NtStatus.INVALID_DEVICE_STATE, text)

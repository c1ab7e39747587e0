"""A machine's two buses at work: every offer, opening and closing goes through their control messages, byte for byte.

One ``GuestBus`` serves all guest programs of the machine, one ``HostBus`` all its hosts. Both run here, in one process,
so a conversation settles within the call that began it. A bus guest takes the place of the ``GuestBus``: then the guest
side's messages come from its client and go there. What the rules answer with silence is counted and logged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emulator.daemon.bus_guest import BusGuest, BusGuestChannel, BusGuestEnd, refuse_if_taken, ring_host_of
from emulator.daemon.bus_guest_rings import BusGuestRings
from emulator.daemon.bus_offers import BusOffers
from emulator.daemon.bus_view import describe_bus, describe_offers
from emulator.daemon.channels import Channel
from emulator.daemon.gpadls import MachineGpadls
from emulator.daemon.guest_pages import GuestPages
from emulator.daemon.log import logger
from emulator.daemon.offers import Offer
from emulator.daemon.violations import Tally, Violations
from emulator.memory import AddressOutsideMemory, GpaRange
from emulator.status import NtStatus, PeerViolation, Refused, describe_status
from emulator.vmbus.bus_link import BusLink, Effect
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import (
    ChannelClosed,
    ChannelOpened,
    ChannelReleased,
    Connected,
    ConnectFailed,
    GpadlGone,
    GpadlReady,
    OfferArrived,
    OfferRescinded,
    PostLost,
)
from emulator.vmbus.guest_state import GuestPhase
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import (
    CloseDevice,
    GpadlOffered,
    GpadlTeardown,
    ModifyDevice,
    OpenDevice,
    OpenRequest,
    ScanInterruptPage,
    SignalDevice,
)
from emulator.vmbus.message_types import STATUS_FAILED, STATUS_OK, is_failure
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.synic import HvStatus

if TYPE_CHECKING:
    from emulator.config import MachineConfig
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

# Messages on the way to one slot of the guest, as hardware has it.
MESSAGE_WINDOW = 1


class MachineBus:
    """The buses of one machine, the wire between them, and what they ask of the machine."""

    def __init__(self, machine: Machine, settings: MachineConfig) -> None:
        self._machine = machine
        self._settings = settings
        config = BusConfig(
            maximum_version=settings.version,
            message_window=MESSAGE_WINDOW,
            dedicated_below_2_4=not settings.interrupt_page,
        )
        self._host = HostBus(config)
        self._guest = GuestBus()
        self._link: BusLink | BusGuest = BusLink(self._host, self._guest)
        self._offers = BusOffers()
        self.rings = BusGuestRings(machine, self._host)
        self.gpadls = MachineGpadls(self._host, self._run)
        self._running = False
        self._log = logger().bind(machine=machine.name)
        self.violations = Violations(self._log)

    # ---- what sessions ask

    def connect(self) -> None:
        """A guest program is there: make contact, once. Raises Refused when no version suits both, or a bus guest has
        the machine.
        """
        if self.bus_guest is not None:
            text = f"{self.bus_guest.session} is the bus guest of {self._machine}: it has all channels; detach it first"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
        if self._guest.state.phase is GuestPhase.DISCONNECTED:
            self._run(self._guest.connect())
        if self._guest.state.phase is not GuestPhase.CONNECTED:
            raise Refused(NtStatus.DEVICE_NOT_READY, f"the guest of {self._machine} could not connect to its bus")

    def offer(self, offer: Offer) -> None:
        """Offer a channel; the guest hears of it now, or when it connects. Raises Refused."""
        offer.key, effects = self._host.add_offer(offer.parameters(uses_monitor=self._settings.monitor_ids))
        self._offers.add(offer)
        self._run(effects)

    def revoke(self, offer: Offer) -> None:
        """Take an offer back; the guest lets go of the channel and gives its id back."""
        if self._offers.remove(offer):
            self._run(self._host.revoke_offer(offer.key))
            self.rings.revoke(offer)
            self.gpadls.forget(offer.key)

    def open(self, channel: Channel) -> bool:
        """Open a channel as the guest does: describe the rings, then ask. Raises Refused with nothing left behind.

        False when its host has to think about it: then ``when_opened`` of the channel is called.
        """
        offer = channel.offer
        offer.channel = channel
        try:
            if offer.channel_id is None:
                raise Refused(NtStatus.DEVICE_NOT_READY, f"{offer} has not been offered to the guest yet")
            self._machine.quotas.check_channels()
            self._machine.quotas.check_gpadls()
            channel.make_doorbells()
            channel.lay_out_rings()
            _, effects = self._guest.open_channel(offer.channel_id, (channel.ring_range,), channel.downstream_page)
        except BaseException:
            offer.channel = None
            channel.give_back_pages()
            raise
        self._run(effects)
        if not channel.is_open and offer.channel is not channel:
            raise channel.refusal()
        return channel.is_open

    def close(self, channel: Channel) -> None:
        """Close a channel as the guest does, after its ends have been closed."""
        if isinstance(channel, BusGuestChannel):
            return  # only its guest can
        # One that is still being opened ends without ``when_opened``.
        channel.when_opened = None
        if self._machine.is_alive and channel.offer.channel_id is not None:
            self._run(self._guest.close_channel(channel.offer.channel_id))

    def host_opened(self, offer: Offer, status: int) -> None:
        """A host's driver, asked by ``Driver.opening``, says whether it opens its end."""
        if offer.key in self._offers and self._machine.failure is None:
            self._run(self._host.device_opened(offer.key, self.rings.finish_open(offer, status)))

    def host_closed(self, offer: Offer) -> None:
        """A host's driver is done with an opening that its guest has closed."""
        if offer.key in self._offers and self._machine.failure is None:
            self._run(self._host.device_closed(offer.key))

    @property
    def guest(self) -> GuestBus:
        """The daemon's own guest side."""
        return self._guest

    # ---- the bus guest

    @property
    def bus_guest(self) -> BusGuest | None:
        """Who has the guest side, if not the daemon."""
        return self._link if isinstance(self._link, BusGuest) else None

    def attach(self, session: Session, number: int) -> None:
        """A session takes the guest side, which starts over; ``number`` is the machine's there. Raises Refused."""
        refuse_if_taken(self._machine, self.bus_guest, self._offers.values())
        self._start_over("")
        for offer in self._offers.values():
            offer.mistakes = Tally()  # what went wrong before was another guest's
        pages = GuestPages(self._machine.name, self._machine.memory, self._settings)
        self._link = BusGuest(session, number, self._host, pages)
        self._log.info("bus.guest_attached", session=session.number)

    def detach(self, reason: str) -> None:
        """The bus guest is gone: its channels end, and everything is offered anew to whoever comes next."""
        self._start_over(reason)
        self._guest = GuestBus()
        self._link = BusLink(self._host, self._guest)
        self._log.info("bus.guest_detached", reason=reason)

    def _start_over(self, reason: str) -> None:
        if self._machine.is_alive:
            self._run(self.rings.start_over(reason))
        self.rings.started_over(self._offers.values())
        self._offers.forget_guest()

    def post(self, connection_id: int, payload: bytes) -> HvStatus:
        """The bus guest posts a message; what the hypercall returns. Windows: HvPostMessage."""
        status, effects = self._host.post_message(connection_id, payload)
        self._run(effects)
        return status

    def signal(self, connection_id: int, flag: int) -> HvStatus:
        """The bus guest rings a channel. Windows: HvSignalEvent. Raises Refused where that cannot reach its host."""
        status, effects = self._host.signal_event(connection_id, flag)
        self._run(effects)
        return status

    def message_taken(self, vp: int, sint: int) -> None:
        """The bus guest took the message out of a slot."""
        self._run(self._host.message_delivered(vp, sint))

    def guest_end(self, channel_id: int) -> BusGuestEnd:
        """The bus guest's end of its open channel of that id. Raises Refused."""
        offer = self._offer_of(channel_id)
        if offer is not None and isinstance(offer.channel, BusGuestChannel):
            return offer.channel.guest_end
        raise Refused(NtStatus.INVALID_DEVICE_STATE, f"the bus guest has no channel {channel_id} open")

    def let_go(self, channel: BusGuestChannel) -> None:
        """The direct host is done with rings of the bus guest's, which may be waiting for them."""
        effects = list(self.rings.let_go(channel))
        if effects:
            self._run(effects)

    # ---- effects

    def _run(self, effects: Iterable[Effect]) -> None:
        """Carry the conversation to its end and do what it asks, then see who waited for what came free."""
        assert not self._running, "a conversation settles before the next begins"
        self._running = True
        try:
            due = deque(self._link.settle(effects))
            while due:
                due.extend(self._link.settle(self._perform(due.popleft())))
        finally:
            self._running = False
        for offer in self._offers.take_freed():
            self._machine.offer_available(offer)

    def _perform(self, effect: Effect) -> Iterable[Effect]:
        match effect:
            case OpenDevice(offer_key=key, request=request):
                status = self._open_host_end(key, request)
                return () if status is None else self._host.device_opened(key, status)
            case CloseDevice(offer_key=key):
                self.rings.close(self._offers[key])
                driver = self._offers[key].driver
                if driver is not None and driver.closing(waits=not self.rings.is_starting_over):
                    return ()
                return self._host.device_closed(key)
            case SignalDevice(offer_key=key):
                ring_host_of(self._offers[key])
            case ScanInterruptPage(page_gpa=page):
                return self._scan(page)
            case GpadlOffered(offer_key=key, gpadl_id=gpadl, ranges=ranges):
                return self._host.gpadl_accepted(key, gpadl, self._check_ranges(self._offers[key], gpadl, ranges))
            case GpadlTeardown(offer_key=key, gpadl_id=gpadl):
                return self.rings.tear_down((key, gpadl)) if self.gpadls.may_go(key, gpadl) else ()
            case GpadlReady(gpadl_id=gpadl, status=status):
                self.gpadls.created(gpadl, status)
            case GpadlGone(gpadl_id=gpadl):
                self.gpadls.gone(gpadl)
            case ModifyDevice(offer_key=key):
                return self._host.modify_done(key)
            case OfferArrived(offer=offered):
                self._offers.arrived(offered.channel_id, (offered.interface_id, offered.instance_id))
            case OfferRescinded(channel_id=channel_id):
                return self._guest.release(channel_id)
            case ChannelOpened(channel_id=channel_id, status=status):
                return self._opened(channel_id, status)
            case ChannelClosed(channel_id=channel_id):
                self._offers.closed(channel_id)
            case ChannelReleased(channel_id=channel_id):
                self._offers.released(channel_id)
            case Violation():
                self._violated(effect)
            case Connected(version=version, features=features):
                self._log.info("bus.connected", version=str(version), features=int(features))
            case ConnectFailed(connection_state=state):
                self._log.warning("bus.connect_failed", connection_state=state)
            case PostLost(hv_status=status):
                self._log.error("bus.message_lost", hypercall_status=status)
            case _:
                pass  # answers nobody here waits for
        return ()

    def _open_host_end(self, key: int, request: OpenRequest) -> int | None:
        """The status for the bus; None while the host's driver thinks about it."""
        offer = self._offers[key]
        if self.bus_guest is not None:
            status = self.rings.open(offer, request, self.bus_guest)
        elif offer.channel is None:
            status = STATUS_FAILED
        else:
            try:
                offer.channel.open_host_end(request.ring)
                status = STATUS_OK
            except (PeerViolation, AddressOutsideMemory) as error:
                offer.channel.why_closed = f"its rings cannot be used: {error}"
                status = STATUS_FAILED
        if status == STATUS_OK and offer.driver is not None:
            offer.driver.opening()
            return None
        return status

    def _scan(self, page: int) -> Iterable[Effect]:
        """The guest rang the doorbell all channels share: which of them did it mean?"""
        channel_ids = self.bus_guest.pages.take_interrupt_bits(page) if self.bus_guest is not None else None
        if channel_ids is not None:
            return [effect for channel_id in channel_ids for effect in self._host.signal_channel(channel_id)]
        # The page is not read: a doorbell too many does no harm, and one too few would.
        for offer in self._offers.values():
            with suppress(Refused):  # one whose guest has its doorbell rings that
                ring_host_of(offer)
        return ()

    def _check_ranges(self, offer: Offer, gpadl_id: int, ranges: tuple[GpaRange, ...]) -> int:
        try:
            for each in ranges:
                self._machine.memory.check_pages(each.pfns)
        except AddressOutsideMemory as error:
            detail = f"GPADL 0x{gpadl_id:X} of {offer}: {error}"
            self.violations.note(Violation.of(BusError(BusFault.PAGE_OUTSIDE_MEMORY, detail)), offer.mistakes)
            return STATUS_FAILED
        return self.gpadls.accepted(offer, gpadl_id, ranges)

    def _opened(self, channel_id: int, status: int) -> Iterable[Effect]:
        channel = self._offers.of_guest(channel_id).channel
        assert channel is not None, "only what was asked for is opened"
        if is_failure(status):
            channel.why_closed = channel.why_closed or f"its host refused: {describe_status(status)}"
            self._offers.closed(channel_id)
            return ()
        try:
            channel.open_guest_end()
        except PeerViolation as violation:
            channel.why_closed = f"its rings were written to while they were laid out: {violation}"
            return self._guest.close_channel(channel_id)
        channel.opening_ended()
        return ()

    def _offer_of(self, channel_id: int | None) -> Offer | None:
        """The offer the guest knows by this id, if any."""
        key = self._host.key_of(channel_id) if channel_id is not None else None
        return self._offers.get(key) if key is not None else None

    def _violated(self, violation: Violation) -> None:
        offer = self._offer_of(violation.channel_id)
        self.violations.note(violation, offer.mistakes if offer is not None else None)

    # ---- looking in

    @property
    def violation_count(self) -> int:
        """Control messages dropped by a rule so far."""
        return self.violations.total

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows of the bus."""
        guest = str(self.bus_guest.session) if self.bus_guest is not None else None
        return {**describe_bus(self._host.view(), self.violations.tally), "bus_guest": guest}

    def describe_offers(self) -> list[dict[str, Any]]:
        """What ``vmbusctl channels`` shows: every offer, open or not."""
        return describe_offers(self._host.view(), self._offers)

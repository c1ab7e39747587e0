"""A guest's driver channel: the offer it takes or waits for, its channel, the memory it describes to the host."""

from __future__ import annotations

from uuid import UUID

import trio

from emulator.daemon.channels import Channel
from emulator.daemon.driver import Driver
from emulator.daemon.offers import Offer
from emulator.daemon.pending import OpenRequest
from emulator.status import NtStatus, Refused
from emulator.vmbus.life_cycle import Phase
from emulator.vmbus.profile import Side

PNP_FAILURE = 6


class GuestDriver(Driver):
    """The guest's side of a driver channel."""

    side = Side.GUEST
    _channel: Channel | None = None  # open, or being opened
    _waiter: WaitingDriver | None = None

    @property
    def active_offer(self) -> Offer | None:
        """What it has open."""
        return self._channel.offer if self._channel is not None else None

    def enable(self) -> None:
        """Windows: VmbChannelEnable. Raises Refused with nothing done."""
        self.machine.bus.connect()
        waiting = len(self.machine.waiting)
        if waiting >= self.session.limits.waiting_opens_per_machine:
            text = f"{waiting} guests already wait for offers on {self.machine.name}"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        self.perform(self.life.enable(trio.current_time()))

    def _decided(self, accepts: bool) -> None:
        """Where it does not open, LEAVE closes."""

    def _release(self) -> None:
        """A guest's channel is not offered to others."""

    @property
    def wanted(self) -> OpenRequest:
        """Which offer a guest wants, and with what rings."""
        values, limits = self.values, self.limits
        instance = UUID(values.instance).bytes_le if values.instance else None
        pages = limits.outgoing_ring_pages, limits.incoming_ring_pages
        return OpenRequest(UUID(values.interface).bytes_le, instance, pages, self._grant)

    def _join(self) -> None:
        wanted = self.wanted
        free = [offer for offer in self.machine.offers if wanted.matches(offer) and offer.channel is None]
        if free:
            self.take(free[0])
        else:
            self._waiter = WaitingDriver(self, wanted)
            self.machine.waiting.append(self._waiter)

    def take(self, offer: Offer) -> None:
        """An offer this guest waited for is free."""
        self._waiter = None
        try:
            self.machine.quotas.check_memory(self.session, sum(self.wanted.pages) + 2)
            channel = Channel(offer, self.session, self.wanted.pages, self._grant)
            self._channel = channel
            channel.guest_driver = self
            is_open = self.machine.bus.open(channel)
        except Refused as refusal:
            self.could_not_open(refusal)
            return
        if is_open:
            self.perform(self.life.peer_opened(trio.current_time()))
        else:
            channel.when_opened = self._opening_ended

    def _opening_ended(self) -> None:
        channel = self._channel
        if channel is not None and channel.is_open:
            self.perform(self.life.peer_opened(trio.current_time()))
        elif channel is not None:
            self.could_not_open(channel.refusal())

    def could_not_open(self, refusal: Refused) -> None:
        """A PnP failure: the driver hears why, and is disabled."""
        self._waiter = self._channel = None
        self._log.info("driver.could_not_open", error=str(refusal))
        if self.life.phase is Phase.ENABLED:
            self._ask(PNP_FAILURE, int(refusal.status), _ignored)
            self.perform(self.life.disable(trio.current_time()))

    def _delete_gpadls(self) -> None:
        """Those the driver left at Closed go with its channel."""
        bus = self.machine.bus
        for handle in self.gpadls:
            self._log.warning("driver.gpadl_left", gpadl=handle, channel=str(self))
            bus.gpadls.delete(bus.guest, handle, lambda: None)
        self.gpadls.clear()

    def _leave(self) -> None:
        end, self._end = self._end, None
        if self._waiter is not None:
            self.machine.waiting.remove(self._waiter)
            self._waiter = None
        channel, self._channel = self._channel, None
        if channel is not None:
            self._delete_gpadls()
            channel.when_opened = None
            if channel.is_open:
                channel.close(NtStatus.CANCELLED, f"the {self} was disabled", by=end)
            elif channel.offer.channel is channel:
                self.machine.bus.close(channel)

    def described_to(self) -> Offer:
        """Where its page lists go. Raises Refused but from Opened to Closed."""
        if self._channel is None or self.life.phase in (Phase.ENABLED, Phase.DISABLED):
            text = f"page lists are made from Opened on, and the {self} is {self.life.phase.value}"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        return self._channel.offer


class WaitingDriver:
    """A guest's driver among those who wait for offers."""

    def __init__(self, driver: GuestDriver, wanted: OpenRequest) -> None:
        self.session = driver.session
        self.wanted = wanted
        self._driver = driver

    def matches(self, offer: Offer) -> bool:
        """Whether it waits for this offer."""
        return self.wanted.matches(offer)

    def answer(self, offer: Offer) -> None:
        """Its offer is there."""
        self._driver.machine.waiting.remove(self)
        self._driver.take(offer)

    def give_up(self, status: NtStatus, reason: str) -> None:
        """There will be no offer."""
        self._driver.machine.waiting.remove(self)
        self._driver.could_not_open(Refused(status, reason))


def _ignored(status: NtStatus) -> None:
    """PnpFailure returns nothing, and nothing waits for it."""

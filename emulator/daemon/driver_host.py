"""A host's driver channel: its offer while it is enabled, its guests in turn, what it has mapped of theirs."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import trio

from emulator.daemon.driver import Driver
from emulator.daemon.offers import Offer
from emulator.status import NtStatus, Refused
from emulator.vmbus.channel_setup import ServerInitFlags
from emulator.vmbus.life_cycle import Effect, Phase
from emulator.vmbus.message_types import STATUS_FAILED, STATUS_OK
from emulator.vmbus.offers import OfferFlags, OfferParameters
from emulator.vmbus.profile import Side

# Not among the flags that travel to a guest's driver; the bus passes it on.
LOOPBACK_OFFER = 0x100


class HostDriver(Driver):
    """The host's side of a driver channel."""

    side = Side.HOST
    _offer: Offer | None = None
    _opening_waits = False  # a guest is there, and the last opening is not over for this driver
    _closing_waits = False  # the bus wants to hear when this driver is done with an opening

    @property
    def active_offer(self) -> Offer | None:
        """What it offers."""
        return self._offer

    def enable(self) -> None:
        """Windows: VmbChannelEnable. Raises Refused with nothing done."""
        effects = self.life.enable(trio.current_time())
        try:
            self._make_offer()
        except Refused:
            self.life.disable(trio.current_time())
            raise
        self.perform(effect for effect in effects if effect is not Effect.JOIN)
        if self._offer is not None:
            self.machine.offer_available(self._offer)

    def _join(self) -> None:
        """It has joined when ``enable`` returns."""

    def _decided(self, accepts: bool) -> None:
        if self._offer is not None:
            self.machine.bus.host_opened(self._offer, STATUS_OK if accepts else STATUS_FAILED)

    def offered(self, parameters: OfferParameters) -> OfferParameters:
        """What its setup adds to what the bus says of the offer."""
        values = self.values
        wanted = ServerInitFlags(values.server_flags)
        flags = parameters.flags
        for init, flag in (
            (ServerInitFlags.LOOPBACK_OFFER, LOOPBACK_OFFER),
            (ServerInitFlags.ENUMERATE_DEVICE_INTERFACE, OfferFlags.ENUMERATE_DEVICE_INTERFACE),
            (ServerInitFlags.TLNPI_PROVIDER_OFFER, OfferFlags.TLNPI_PROVIDER),
        ):
            if wanted & init:
                flags |= flag
        return replace(
            parameters,
            flags=flags,
            mmio_megabytes=values.mmio_megabytes,
            mmio_megabytes_optional=values.mmio_megabytes_optional,
        )

    def _make_offer(self) -> None:
        values = self.values
        if values.target_vtl:
            return  # there is no guest at another trust level than 0
        interface, instance = UUID(values.interface), values.instance
        identity = UUID(instance) if instance else self.machine.new_instance_id()
        pipe = values.is_pipe or bool(values.server_flags & ServerInitFlags.OFFER_AS_PIPE)
        offer = Offer(self.machine, self.session, interface, identity, pipe, self._grant)
        offer.driver = self
        offer.mmio = self.machine.mmio.allocate(values.mmio_megabytes, values.mmio_megabytes_optional)
        self._offer = offer
        try:
            self.machine.add_offer(offer)
        except Refused:
            self._forget_offer()
            raise

    def _forget_offer(self) -> None:
        if self._offer is not None:
            self.machine.mmio.free(self._offer.mmio)
            self._offer = None

    def opening(self) -> None:
        """The host bus wants this driver's end opened; the answer is ``MachineBus.host_opened``."""
        if self.life.phase is Phase.ENABLED:
            self.perform(self.life.peer_opened(trio.current_time()))
        else:
            self._opening_waits = True

    def closing(self, *, waits: bool) -> bool:
        """The guest closed. True when ``MachineBus.host_closed`` will say that this driver is done with it."""
        self.perform(self.life.peer_closed(trio.current_time()))
        is_busy = self.life.phase not in (Phase.ENABLED, Phase.DISABLED, Phase.DISPOSED)
        self._closing_waits = waits and is_busy
        return self._closing_waits

    def _release(self) -> None:
        self._end = None
        self._unmap_gpadls()
        if self._closing_waits and self._offer is not None:
            self._closing_waits = False
            self.machine.bus.host_closed(self._offer)
        if self._opening_waits and self.life.phase is Phase.ENABLED:
            self._opening_waits = False
            self.perform(self.life.peer_opened(trio.current_time()))

    def _leave(self) -> None:
        self._closing_waits = self._opening_waits = False
        self._end = None
        offer = self._offer
        if offer is not None:
            self._unmap_gpadls()
            self.machine.rescind(offer, f"the {self} was disabled")
            self._forget_offer()

    # ---- page lists

    def host_offer(self) -> Offer:
        """Whose page lists it maps. Raises Refused unless it is enabled."""
        if self._offer is None:
            text = f"the {self} is {self.life.phase.value}: it has no guest"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        return self._offer

    def _unmap_gpadls(self) -> None:
        if self._offer is not None:
            for handle in self.machine.bus.gpadls.mapped(self._offer):
                self._log.warning("driver.gpadl_mapped", gpadl=handle, channel=str(self))
            self.machine.bus.gpadls.unmap_all(self._offer)

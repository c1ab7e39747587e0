"""A driver channel at work: its life cycle, the callbacks its client runs, and what its effects do to the bus.

A host's has an offer while it is enabled, a guest's waits for one; both get an end of each opening. A callback is a
request to the client. While it runs nothing else of this channel moves, and nothing of any other waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import trio

from emulator.daemon.channel_side import ChannelSide, DirectEnd, Grant
from emulator.daemon.channels import Channel, Offer
from emulator.daemon.log import logger
from emulator.daemon.pending import OpenRequest
from emulator.status import Misuse, NtStatus, Refused, known_status
from emulator.vmbus.channel_setup import ServerInitFlags, SetupValues
from emulator.vmbus.life_cycle import Callback, Effect, LifeCycle, Phase
from emulator.vmbus.message_types import STATUS_FAILED, STATUS_OK
from emulator.vmbus.offers import OfferFlags, OfferParameters
from emulator.vmbus.profile import EndpointLimits, Side
from emulator.wire.codec import encode_notification
from emulator.wire.schema import DRIVER_CALLBACK, DRIVER_OPENED, DRIVER_STATE

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

PNP_FAILURE = 6
LOOPBACK_OFFER = 0x100

End = ChannelSide | DirectEnd


class Driver:
    """One driver channel of a session's. ``grant`` is None for a client that works the rings itself."""

    def __init__(
        self, session: Session, machine: Machine, side: Side, values: SetupValues, grant: Grant | None, number: int
    ) -> None:
        self.session = session
        self.machine = machine
        self.side = side
        self.values = values
        self.number = number
        self.limits = _sized(machine.profile.limits, values)
        self.life = LifeCycle(side, machine.profile.kmcl, session.limits.callback_seconds)
        self.latency = 0
        self.gpadls: set[int] = set()
        self.when_paused: list[Callable[[], None]] = []
        self.when_disabled: list[Callable[[], None]] = []
        self._grant = grant
        self._offer: Offer | None = None
        self._channel: Channel | None = None  # a guest's, open or being opened
        self._end: End | None = None
        self._waiter: WaitingDriver | None = None
        self._due: deque[Effect] = deque()
        self._is_performing = False
        self._opening_waits = False  # a guest is there, and the last opening is not over for this driver
        self._closing_waits = False  # the bus wants to hear when this driver is done with an opening
        self._answered = trio.Event()
        self._told: tuple[object, ...] = ()
        self._log = logger().bind(machine=machine.name, driver=number, session=session.number)

    def __str__(self) -> str:
        return f"{self.side.value}'s driver channel {self.values.friendly_name or self.values.interface}"

    # ---- what the client asks

    def enable(self) -> None:
        """Windows: VmbChannelEnable. Raises Refused with nothing done."""
        if self.side is Side.GUEST:
            self.machine.bus.connect()
            self.perform(self.life.enable(trio.current_time()))
            return
        effects = self.life.enable(trio.current_time())
        try:
            self._make_offer()
        except Refused:
            self.life.disable(trio.current_time())
            raise
        self.perform(effect for effect in effects if effect is not Effect.JOIN)
        if self._offer is not None:
            self.machine.offer_available(self._offer)

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the life cycle wants, in order; what that leads to comes behind it."""
        self._due.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._due:
                self._do(self._due.popleft())
        finally:
            self._is_performing = False
        self._tell()

    def abort(self, reason: str) -> None:
        """The client is gone."""
        self._log.info("driver.aborted", reason=reason)
        self._answered.set()
        self.perform(self.life.abort())

    def set_quota(self, quota: int) -> None:
        """For this opening and those to come; a direct client sets its own. Raises Misuse for 0 (Q4)."""
        if isinstance(self._end, ChannelSide):
            self._end.endpoint.set_transaction_quota(quota)
        elif not quota and self.machine.profile.kmcl.raise_on_zero_quota:
            raise Misuse("a transaction quota is above 0, not 0")
        if quota:
            self.limits = replace(self.limits, transaction_quota=quota)

    # ---- effects

    def _do(self, effect: Effect) -> None:
        if effect.callback is not None:
            self._run(effect.callback)
            return
        match effect:
            case Effect.JOIN:
                self._look_for_offer()
            case Effect.ACCEPT | Effect.REFUSE if self._offer is not None:
                self.machine.bus.host_opened(self._offer, STATUS_OK if effect is Effect.ACCEPT else STATUS_FAILED)
            case Effect.SENDS_OFF if isinstance(self._end, ChannelSide):
                self._end.cut(self.machine.profile.kmcl.closed_first_status, f"the {self} closed")
            case Effect.DELIVER_ON | Effect.DELIVER_OFF if isinstance(self._end, ChannelSide):
                self._end.deliver(effect is Effect.DELIVER_ON)
            case Effect.RELEASE:
                self._release()
            case Effect.LEAVE:
                self._leave()
            case Effect.NOW_PAUSED:
                self._answer(self.when_paused)
            case Effect.NOW_DISABLED:
                self._answer(self.when_paused)
                self._answer(self.when_disabled)
            case Effect.EXPIRED:
                self._log.warning("driver.callback_expired", channel=str(self), phase=self.life.phase.value)

    @staticmethod
    def _answer(waiting: list[Callable[[], None]]) -> None:
        answers = waiting[:]
        waiting.clear()
        for answer in answers:
            answer()

    def _tell(self) -> None:
        """The client learns where its channel is, when that has changed."""
        phase = self.life.phase
        is_open = phase.is_open or phase is Phase.CLOSING
        shown = "open" if is_open else "disabled" if phase in (Phase.DISABLED, Phase.DISPOSED) else "enabled"
        offer = self._offer or (self._channel.offer if self._channel is not None else None)
        instance, mmio = (offer.instance.bytes_le, offer.mmio) if offer is not None else (None, (0, 0))
        told = shown, self.life.is_paused or phase is Phase.STARTING, instance, *mmio
        if told != self._told:
            self._told = told
            self.session.put(encode_notification(DRIVER_STATE, self.number, *told))

    # ---- callbacks

    def _run(self, callback: Callback) -> None:
        self._tell()
        self._answered = answered = trio.Event()

        def returned(status: NtStatus) -> None:
            if not answered.is_set():
                answered.set()
                self.perform(self.life.returned(callback, status, trio.current_time()))

        self._ask(int(callback), 0, returned)
        if not answered.is_set():
            self.machine.start_soon(self._expire, answered)

    def _ask(self, callback: int, status: int, returned: Callable[[NtStatus], None]) -> None:
        question = CallbackQuestion(self.machine, returned)
        if not self.session.questions.ask(DRIVER_CALLBACK, (self.number, callback, status), question):
            self._log.warning("driver.callback_not_asked", channel=str(self), callback=callback)
            returned(NtStatus.INSUFFICIENT_RESOURCES)

    async def _expire(self, answered: trio.Event, pump: Callable[[], None]) -> None:
        """The time a callback has."""
        with trio.move_on_at(self.life.deadline or 0.0):
            await answered.wait()
        if not answered.is_set():
            answered.set()
            try:
                self.perform(self.life.time_passed(trio.current_time()))
            except Exception as error:  # noqa: BLE001 -- a fault in a core ends its machine, and only that
                self.machine.fail(error)
            pump()

    # ---- a host's offer

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

    # ---- a guest's channel

    @property
    def wanted(self) -> OpenRequest:
        """Which offer a guest wants, and with what rings."""
        values, limits = self.values, self.limits
        instance = UUID(values.instance).bytes_le if values.instance else None
        pages = limits.outgoing_ring_pages, limits.incoming_ring_pages
        return OpenRequest(UUID(values.interface).bytes_le, instance, pages, self._grant)

    def _look_for_offer(self) -> None:
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

    def _unmap_gpadls(self) -> None:
        if self._offer is not None:
            for handle in self.machine.bus.gpadls.mapped(self._offer):
                self._log.warning("driver.gpadl_mapped", gpadl=handle, channel=str(self))
            self.machine.bus.gpadls.unmap_all(self._offer)

    def _leave(self) -> None:
        self._closing_waits = self._opening_waits = False
        end, self._end = self._end, None
        if self._waiter is not None:
            self.machine.waiting.remove(self._waiter)
            self._waiter = None
        offer = self._offer
        if offer is not None:
            self._unmap_gpadls()
            self.machine.rescind(offer, f"the {self} was disabled")
            self._forget_offer()
        channel, self._channel = self._channel, None
        if channel is not None:
            self._delete_gpadls()
            channel.when_opened = None
            if channel.is_open:
                channel.close(NtStatus.CANCELLED, f"the {self} was disabled", by=end)
            elif channel.offer.channel is channel:
                self.machine.bus.close(channel)

    # ---- an opening

    @property
    def end(self) -> End | None:
        """Its end of the opening it has."""
        return self._end

    @property
    def channel(self) -> Channel | None:
        """The opening it has."""
        return self._end.channel if self._end is not None else None

    def described_to(self) -> Offer:
        """Where a guest's page lists go. Raises Refused unless it is a guest's, from Opened to Closed."""
        if self.side is Side.HOST:
            raise Refused(NtStatus.NOT_SUPPORTED, "page lists are made by guests; a host maps them", rule="4.2")
        if self._channel is None or self.life.phase in (Phase.ENABLED, Phase.DISABLED):
            text = f"page lists are made from Opened on, and the {self} is {self.life.phase.value}"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        return self._channel.offer

    def host_offer(self) -> Offer:
        """Whose page lists a host maps. Raises Refused unless it is a host's that is enabled."""
        if self.side is Side.GUEST:
            raise Refused(NtStatus.NOT_SUPPORTED, "page lists are mapped by hosts; a guest makes them", rule="4.2")
        if self._offer is None:
            text = f"the {self} is {self.life.phase.value}: it has no guest"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        return self._offer

    def connected(self, end: End) -> None:
        """Both ends of an opening stand: the client gets this one."""
        self._end = end
        channel = end.channel
        window = self.machine.limits.window_packets, channel.sendable_bytes(self.side)
        args = self.number, end.number, *window, channel.offer.pipe
        if isinstance(end, DirectEnd):
            frame = encode_notification(DRIVER_OPENED, *args, *channel.direct_results(self.side))
            bell = channel.take_client_bell(self.side).detach()
            self.session.put_with_descriptor(frame, bell, then_close=True)
        else:
            self.session.put(encode_notification(DRIVER_OPENED, *args, b"", 0, *channel.largest(self.side), 0))

    def disconnected(self, end: End) -> None:
        """The opening is over."""
        if self._end is end:
            self.perform(self.life.peer_closed(trio.current_time()))


class CallbackQuestion:
    """A state callback that the client has not answered."""

    def __init__(self, machine: Machine, returned: Callable[[NtStatus], None]) -> None:
        self.machine = machine
        self._returned = returned

    def answered(self, result: tuple[Any, ...] | None) -> None:
        """What it returned; an error is one."""
        self._returned(NtStatus.UNSUCCESSFUL if result is None else known_status(result[0]))


class WaitingDriver:
    """A guest's driver among those who wait for offers."""

    def __init__(self, driver: Driver, wanted: OpenRequest) -> None:
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


def _sized(limits: EndpointLimits, values: SetupValues) -> EndpointLimits:
    """What a setup leaves open follows the machine's profile."""
    return replace(
        limits,
        max_packet_bytes=values.packet_bytes or limits.max_packet_bytes,
        max_external_bytes=values.external_bytes or limits.max_external_bytes,
        max_external_chain=values.external_mdls or limits.max_external_chain,
        outgoing_ring_pages=values.outgoing_pages or limits.outgoing_ring_pages,
        incoming_ring_pages=values.incoming_pages or limits.incoming_ring_pages,
    )

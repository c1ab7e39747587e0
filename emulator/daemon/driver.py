"""A driver channel at work: its life cycle, the callbacks its client runs, and its end of each opening.

A callback is a request to the client. While it runs nothing else of this channel moves, and nothing of any other waits.
What is a host's alone is in ``driver_host``, a guest's in ``driver_guest``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from emulator.daemon.channel_side import ChannelSide, DirectEnd, Grant
from emulator.daemon.channels import Channel
from emulator.daemon.log import logger
from emulator.daemon.offers import Offer
from emulator.memory import PAGE_SIZE
from emulator.status import Misuse, NtStatus, known_status
from emulator.vmbus.channel_setup import SetupValues
from emulator.vmbus.life_cycle import Callback, Effect, LifeCycle, Phase
from emulator.vmbus.profile import EndpointLimits, Side, required_data_bytes
from emulator.wire.codec import encode_notification
from emulator.wire.schema import DRIVER_CALLBACK, DRIVER_OPENED, DRIVER_STATE

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

End = ChannelSide | DirectEnd


class Driver(ABC):
    """One driver channel of a session's. ``grant`` is None for a client that works the rings itself."""

    side: Side

    def __init__(
        self, session: Session, machine: Machine, values: SetupValues, grant: Grant | None, number: int
    ) -> None:
        self.session = session
        self.machine = machine
        self.values = values
        self.number = number
        self.limits = _sized(machine.profile.limits, values)
        self.life = LifeCycle(self.side, machine.profile.kmcl, session.limits.callback_seconds)
        self.latency = 0
        self.gpadls: set[int] = set()  # that a guest's has made
        self.when_paused: list[Callable[[], None]] = []
        self.when_disabled: list[Callable[[], None]] = []
        self._grant = grant
        self._end: End | None = None
        self._due: deque[Effect] = deque()
        self._is_performing = False
        self._answered = trio.Event()
        self._told: tuple[object, ...] = ()
        self._log = logger().bind(machine=machine.name, driver=number, session=session.number)

    def __str__(self) -> str:
        return f"{self.side.value}'s driver channel {self.values.friendly_name or self.values.interface}"

    # ---- what the client asks

    @abstractmethod
    def enable(self) -> None:
        """Windows: VmbChannelEnable. Raises Refused with nothing done."""

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
                self._join()
            case Effect.ACCEPT | Effect.REFUSE:
                self._decided(effect is Effect.ACCEPT)
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

    @abstractmethod
    def _join(self) -> None:
        """Offer, or look for an offer."""

    @abstractmethod
    def _decided(self, accepts: bool) -> None:
        """Opened has returned."""

    @abstractmethod
    def _release(self) -> None:
        """The guest that closed may go."""

    @abstractmethod
    def _leave(self) -> None:
        """Revoke, close, stop waiting."""

    @property
    @abstractmethod
    def active_offer(self) -> Offer | None:
        """What it offers, or has opened."""

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
        offer = self.active_offer
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
        elif callback is Callback.SUSPEND:
            # It was not asked, so it will not say that nothing is outstanding.
            self.perform(self.life.drained(trio.current_time()))

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

    # ---- an opening

    @property
    def end(self) -> End | None:
        """Its end of the opening it has."""
        return self._end

    @property
    def channel(self) -> Channel | None:
        """The opening it has."""
        return self._end.channel if self._end is not None else None

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


def _sized(limits: EndpointLimits, values: SetupValues) -> EndpointLimits:
    """What a setup leaves open follows the machine's profile."""
    return replace(
        limits,
        max_packet_bytes=values.packet_bytes or limits.max_packet_bytes,
        max_external_bytes=values.external_bytes or limits.max_external_bytes,
        max_external_chain=values.external_mdls or limits.max_external_chain,
        outgoing_ring_pages=values.outgoing_pages or max(limits.outgoing_ring_pages, _ring_pages(limits, values)),
        incoming_ring_pages=values.incoming_pages or limits.incoming_ring_pages,
    )


def _ring_pages(limits: EndpointLimits, values: SetupValues) -> int:
    """The pages a ring needs to hold the largest packet a guest may send (4.3)."""
    return (
        required_data_bytes(
            values.packet_bytes or limits.max_packet_bytes,
            values.external_bytes or limits.max_external_bytes,
            values.external_mdls or limits.max_external_chain,
        )
        // PAGE_SIZE
    )

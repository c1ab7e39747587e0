"""Two drivers over the pure cores alone: life cycles, endpoints over rings in memory, and what lies between them.

What stands between two life cycles in the daemon is here in its simplest form, so that any order of calls can be
played. Each driver keeps a record of what it saw, and of what of its packets has ended.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from emulator.status import Misuse, NtStatus
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, EndpointLimits
from emulator.vmbus.life_cycle import Callback, Effect, LifeCycle, Phase
from emulator.vmbus.profile import KmclProfile, Side
from tests.vmbus.channel_pair import ChannelPair, take

OPEN_PHASES = frozenset({Phase.POST_STARTING, Phase.ACTIVE})


class Packet:
    """A packet of a driver's own; the context of its send."""

    def __init__(self, number: int) -> None:
        self.number = number


class Driver:
    """One side."""

    def __init__(self, side: Side, link: Link) -> None:
        self.side = side
        self.life = LifeCycle(side, KmclProfile(), callback_seconds=5)
        self.endpoint: ChannelEndpoint | None = None
        self.is_joined = False
        self.trace: list[Callback] = []
        self.ended: dict[int, NtStatus] = {}
        self.on_the_way: dict[int, weakref.ref[Packet]] = {}
        self.transactions: dict[int, int] = {}  # packet number -> transaction id
        self.held: list[int] = []  # handles of the peer's packets
        self.finished: list[int] = []  # of those completed here, in this opening
        self.quota = 4
        self._link = link
        self._sent = 0

    def __str__(self) -> str:
        return self.side.value

    # ---- life cycle

    def ask(self, call: Callable[..., list[Effect]], *args: object) -> None:
        self.perform(call(*args, 0.0) if args else call(0.0))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if effect.callback is not None:
                self.trace.append(effect.callback)
            else:
                self._link.performed(self, effect)

    def answer(self, status: NtStatus) -> None:
        assert self.life.running is not None
        self.perform(self.life.returned(self.life.running, status, 0.0))

    # ---- packets

    def send(self, waits: bool) -> None:
        assert self.endpoint is not None
        self._sent += 1
        packet = Packet(self._sent)
        self.on_the_way[packet.number] = weakref.ref(packet)
        outcome = self.endpoint.send(bytes(24 * (packet.number % 7)), None, int(waits), packet)
        self.transactions[packet.number] = outcome.transaction_id
        if outcome.written and not waits:
            self._has_ended(packet.number, NtStatus.SUCCESS)

    def end(self, completed: list[Completed]) -> None:
        numbers = []
        for each in completed:
            assert isinstance(each.context, Packet)
            numbers.append((each.context.number, each.status))
        del completed
        for number, status in numbers:
            self._has_ended(number, status)

    def _has_ended(self, number: int, status: NtStatus) -> None:
        assert number not in self.ended, f"packet {number} of the {self} has ended twice"
        self.ended[number] = status

    def cancel(self, number: int) -> None:
        assert self.endpoint is not None
        completed = self.endpoint.cancel(self.transactions[number])
        if completed is not None:
            self.end([completed])

    def receive(self) -> None:
        assert self.endpoint is not None
        progress = take(self.endpoint)
        arrived = [packet.handle for packet in progress.packets]
        ended = list(progress.completed)
        del progress
        self.end(ended)
        ended.clear()
        if arrived:
            assert self.life.phase in OPEN_PHASES, f"a packet came to the {self} while {self.life.phase.value}"
        self.held += arrived
        assert len(self.held) <= max(self.quota, len(self.held) - len(arrived)), "the quota holds"

    def complete(self, index: int) -> None:
        assert self.endpoint is not None
        handle = self.held.pop(index % len(self.held))
        self.endpoint.complete(handle, b"answer")
        self.finished.append(handle)
        self._drained()

    def complete_again(self, index: int) -> None:
        """What is wrong: the packet is gone, and so is its memory."""
        assert self.endpoint is not None
        handle = self.finished[index % len(self.finished)]
        for call in (self.endpoint.complete, self.endpoint.external_data, self.endpoint.fail):
            try:
                call(handle)
            except Misuse:
                continue
            raise AssertionError(f"packet {handle} was completed, and can be used still")

    def _drained(self) -> None:
        if not self.held:
            self.perform(self.life.drained(0.0))

    def after_suspend(self) -> None:
        """Its client tells that nothing is outstanding, as it does once Suspend has returned."""
        if self.life.phase is Phase.DRAINING:
            self._drained()

    # ---- an opening

    def begin(self, endpoint: ChannelEndpoint) -> None:
        endpoint.set_delivering(False)
        endpoint.set_transaction_quota(self.quota)
        self.endpoint = endpoint
        self.finished.clear()

    def cut(self) -> None:
        """Everything of its own ends; what it holds of the peer's is nobody's any more."""
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            self.end(endpoint.close(NtStatus.CANCELLED))
        self.finished.clear()


class Link:
    """What is between two drivers: the offer, the openings."""

    def __init__(self) -> None:
        self.host, self.guest = Driver(Side.HOST, self), Driver(Side.GUEST, self)
        self.is_opening = self.is_open = False

    def other(self, driver: Driver) -> Driver:
        return self.guest if driver is self.host else self.host

    def performed(self, driver: Driver, effect: Effect) -> None:
        match effect:
            case Effect.JOIN:
                driver.is_joined = True
            case Effect.ACCEPT if driver is self.host and self.is_opening:
                self._open()
            case Effect.REFUSE if driver is self.host and self.is_opening:
                self.is_opening = False
                self.guest.is_joined = False
                self.guest.ask(self.guest.life.disable)
            case Effect.SENDS_OFF:
                driver.cut()
            case Effect.DELIVER_ON | Effect.DELIVER_OFF if driver.endpoint is not None:
                driver.endpoint.set_delivering(effect is Effect.DELIVER_ON)
            case Effect.LEAVE:
                driver.is_joined = False
                self._close(driver)

    def _open(self) -> None:
        self.is_opening, self.is_open = False, True
        pair = ChannelPair(limits=EndpointLimits(max_queued_packets=64))
        for driver, endpoint in ((self.guest, pair.guest), (self.host, pair.host)):
            driver.begin(endpoint)
        self.guest.ask(self.guest.life.peer_opened)

    def _close(self, by: Driver) -> None:
        by.cut()
        was_open, was_opening = self.is_open, self.is_opening
        self.is_open = self.is_opening = False
        other = self.other(by)
        if was_open:
            other.cut()
            other.ask(other.life.peer_closed)
        elif was_opening:
            if by is self.guest:
                self.host.ask(self.host.life.peer_closed)
            else:
                self.guest.is_joined = False
                self.guest.ask(self.guest.life.disable)

    def meet(self) -> None:
        """Both are there and nothing is between them yet: the guest asks to open."""
        idle = not (self.is_open or self.is_opening)
        ready = all(each.is_joined and each.life.phase is Phase.ENABLED for each in (self.host, self.guest))
        if idle and ready:
            self.is_opening = True
            self.host.ask(self.host.life.peer_opened)

"""Openings of offers: ring pages in guest memory with an endpoint at each end.

Nothing here opens or closes a channel by itself: ``bus`` does, through the control conversation of the machine's two
buses, and says here what came of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from emulator.daemon.channel_side import ChannelSide, DirectEnd, Grant
from emulator.daemon.doorbells import DaemonDoorbell, doorbell_pair
from emulator.daemon.hosted_endpoint import hosted_endpoint
from emulator.daemon.log import logger
from emulator.daemon.offers import Offer
from emulator.daemon.uncompleted import uncompleted
from emulator.daemon.violations import is_told
from emulator.memory import PAGE_SIZE, GpaRange
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, EndpointLimits, Side
from emulator.vmbus.gpadl import RingPages
from emulator.vmbus.profile import ChannelProfile
from emulator.vmbus.ring import (
    RingMemory,
    initialise_as_guest,
    initialise_as_host,
)
from emulator.wire.codec import encode_notification
from emulator.wire.runs import pack_pfns
from emulator.wire.schema import CHANNEL_OPENED, CHANNEL_OPENED_DIRECT

if TYPE_CHECKING:
    from emulator.daemon.driver import Driver
    from emulator.daemon.driver_guest import GuestDriver
    from emulator.daemon.session import Session


class Channel:
    """One opening of an offer: ring pages in guest memory, and an end for the guest and one for the host."""

    def __init__(
        self,
        offer: Offer,
        session: Session,
        pages: tuple[int, int],
        grant: Grant | None,
        ring_pfns: tuple[int, ...] | None = None,
    ) -> None:
        """``pages`` are the data pages of the two rings; those of ``ring_pfns`` belong to the guest already."""
        machine = offer.machine
        self.offer = offer
        self.machine = machine
        self.number = machine.next_channel_number()
        self.downstream_page = pages[0] + 1
        self.ring_pfns = ring_pfns or machine.pages.allocate(self, sum(pages) + 2)
        self.guest: ChannelSide | DirectEnd | None = None
        self.host: ChannelSide | DirectEnd | None = None
        self.is_open = False
        self.why_closed = ""
        self._is_damaged = False
        self._bells: tuple[socket.socket, ...] = ()  # made, and not yet connected
        self._holders: set[DirectEnd] = set()  # told that it is over, and not done with the rings yet
        self._pages_due = False
        self._client_bells: dict[Side, socket.socket] = {}  # connected, and not yet passed to their clients
        self.guest_driver: GuestDriver | None = None  # of a guest with a life cycle
        self.when_opened: Callable[[], None] | None = None  # for one whose host takes its time
        self._session = session
        self._grant = grant
        self._pages = pages
        self._rings: tuple[RingPages, tuple[RingMemory, RingMemory]] | None = None  # both ends look through these

    @property
    def ring_range(self) -> GpaRange:
        """Both rings as the guest describes them to the host: one range of whole pages."""
        return GpaRange(len(self.ring_pfns) * PAGE_SIZE, 0, self.ring_pfns)

    # ---- opening

    def lay_out_rings(self) -> None:
        """What a guest does to its ring pages before it opens a channel (rule 3.1)."""
        initialise_as_guest(*self._ring_memories(self._own_pages()))

    def make_doorbells(self) -> None:
        """Before anything is asked of the bus, since there may be no descriptors left. Raises Refused."""
        if self.is_direct(Side.GUEST) or self.is_direct(Side.HOST):
            try:
                self._bells = doorbell_pair()
            except OSError as error:
                text = f"the daemon cannot make a doorbell for {self.offer}: {error.strerror}"
                raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text) from None

    def is_direct(self, side: Side) -> bool:
        """Whether the client of that side works the rings itself."""
        return (self._grant if side is Side.GUEST else self.offer.grant) is None

    def open_host_end(self, ring: RingPages) -> None:
        """The host was told to open its end. Raises RingCorruption or AddressOutsideMemory for rings it cannot use."""
        to_host, to_guest = self._ring_memories(ring)
        if self.offer.grant is None:
            self.host = DirectEnd(self, Side.HOST, self.offer.session)
            return
        initialise_as_host(incoming=to_host, outgoing=to_guest)
        self.host = self._hosted_end(Side.HOST, self.offer.session, (to_host, to_guest), self.offer.grant)

    def open_guest_end(self) -> None:
        """The host said yes: the guest's end stands, and both clients get their numbers. Raises RingCorruption."""
        self.guest = self._make_guest_end()
        self.is_open = True
        self.machine.channels[self.number] = self
        self.machine.counters.channels_opened += 1
        for side in self._sides():
            side.enter()
        self._connect_doorbells()
        for side in self._sides():
            if side.driver is not None:
                side.driver.connected(side)
        if self.offer.driver is None:
            self._tell_host(self._pages[1] * PAGE_SIZE)
        self._first_look()

    def _make_guest_end(self) -> ChannelSide | DirectEnd:
        if self._grant is None:
            return DirectEnd(self, Side.GUEST, self._session)
        to_host, to_guest = self._ring_memories(self._own_pages())
        return self._hosted_end(Side.GUEST, self._session, (to_guest, to_host), self._grant)

    def _first_look(self) -> None:
        """Each side's first look at the ring comes after its client has been told of the channel."""
        for side in self._sides():
            side.ring_doorbell()

    def _hosted_end(
        self, side: Side, session: Session, rings: tuple[RingMemory, RingMemory], grant: Grant
    ) -> ChannelSide:
        incoming, outgoing = rings
        sends = self.machine.limits.window_packets, outgoing.data_bytes
        endpoint = self._endpoint(side, incoming, outgoing)
        endpoint.set_delivering(self.driver_of(side) is None)
        return ChannelSide(self, side, session, endpoint, (sends, grant))

    def driver_of(self, side: Side) -> Driver | None:
        """The life cycle of one side's end, if it has one."""
        return self.guest_driver if side is Side.GUEST else self.offer.driver

    def opening_ended(self) -> None:
        """It is open, or will not be: whoever waits for that hears of it, once."""
        when, self.when_opened = self.when_opened, None
        if when is not None:
            when()

    def refusal(self) -> Refused:
        """Why it could not be opened."""
        text = f"{self.offer} could not be opened: {self.why_closed or 'its host refused'}"
        return Refused(NtStatus.DEVICE_NOT_READY, text)

    def _connect_doorbells(self) -> None:
        """A pair of ends for a channel with a direct side: both for clients, or one for the daemon."""
        direct = [side for side in self._sides() if isinstance(side, DirectEnd)]
        if not direct:
            return
        first, second = self._bells
        self._bells = ()
        self._client_bells[direct[0].role] = first
        if len(direct) == 2:
            self._client_bells[direct[1].role] = second
            return
        direct[0].doorbell = bell = DaemonDoorbell(second)
        (hosted,) = [side for side in self._sides() if side is not direct[0]]
        self.machine.start_soon(bell.listen, hosted)

    def take_client_bell(self, side: Side) -> socket.socket:
        """The doorbell's end for a direct client; whoever takes it closes it once it has been passed."""
        return self._client_bells.pop(side)

    def _tell_host(self, data_bytes: int) -> None:
        host = self.host
        assert host is not None, "the host's end stands before the guest hears of it"
        if isinstance(host, DirectEnd):
            args = self.offer.number, host.number, *self.direct_results()
            opened = encode_notification(CHANNEL_OPENED_DIRECT, *args)
            host.session.put_with_descriptor(opened, self.take_client_bell(Side.HOST).detach(), then_close=True)
            return
        grant = self.machine.limits.window_packets, data_bytes
        host.session.put(encode_notification(CHANNEL_OPENED, self.offer.number, host.number, *grant))

    def direct_results(self, side: Side | None = None) -> tuple[Any, ...]:
        """What a direct client is told of the rings, and of what may go into them."""
        return pack_pfns(self.ring_pfns), self.downstream_page, *self.largest(side), 1

    def largest(self, side: Side | None) -> tuple[int, int, int]:
        """The largest packet of a side's end: its bytes, its external data, the MDLs of that."""
        bounds = self._limits_of(side)
        return bounds.max_packet_bytes, bounds.max_external_bytes, bounds.max_external_chain

    def _limits_of(self, side: Side | None) -> EndpointLimits:
        driver = self.driver_of(side) if side is not None else None
        return self.machine.profile.limits if driver is None else driver.limits

    def sendable_bytes(self, side: Side) -> int:
        """What a side's outgoing ring holds: a hosted client's window."""
        return self._pages[0 if side is Side.GUEST else 1] * PAGE_SIZE

    def ring_memories(self) -> tuple[RingMemory, RingMemory]:
        """The guest-to-host and the host-to-guest ring."""
        return self._ring_memories(self._own_pages())

    def _own_pages(self) -> RingPages:
        return RingPages(self.ring_pfns[: self.downstream_page], self.ring_pfns[self.downstream_page :])

    def _ring_memories(self, ring: RingPages) -> tuple[RingMemory, RingMemory]:
        if self._rings is None or self._rings[0] != ring:
            memory = self.machine.memory
            views = RingMemory.over(memory, ring.guest_to_host), RingMemory.over(memory, ring.host_to_guest)
            self._rings = ring, views
        return self._rings[1]

    def _endpoint(self, side: Side, incoming: RingMemory, outgoing: RingMemory) -> ChannelEndpoint:
        return hosted_endpoint(
            side,
            (incoming, outgoing),
            self.machine.memory,
            ChannelProfile(self.machine.profile.kmcl, self._limits_of(side)),
            self._pages,
            is_driver=self.driver_of(side) is not None,
            is_pipe=self.offer.pipe,
        )

    def guest_results(self) -> tuple[Any, ...]:
        """The results of ``channel.open`` or ``channel.open_direct``."""
        assert self.guest is not None, "asked for once the channel is open"
        what = self.guest.number, self.offer.instance.bytes_le, self.offer.pipe
        if isinstance(self.guest, DirectEnd):
            return *what, *self.direct_results()
        to_host, _ = self._ring_memories(self._own_pages())
        return *what, self.machine.limits.window_packets, to_host.data_bytes

    # ---- closing

    def _sides(self) -> list[ChannelSide | DirectEnd]:
        return [side for side in (self.guest, self.host) if side is not None]

    def end(self, status: NtStatus, reason: str, *, by: ChannelSide | DirectEnd | None = None) -> None:
        """Both ends close: outstanding packets complete once with ``status``. ``by`` needs no notice of it."""
        if not self.is_open:
            return
        self.is_open = False
        self.why_closed = reason[:1000]
        del self.machine.channels[self.number]
        for side in self._sides():
            if isinstance(side, DirectEnd) and side is not by:
                self._holders.add(side)
            side.close(status, self.why_closed, quietly=side is by)

    def give_back_pages(self) -> None:
        """The bus is done with the rings. A direct client may still read what is in them: then they wait for it."""
        for bell in (*self._bells, *self._client_bells.values()):
            bell.close()
        self._bells = ()
        self._client_bells.clear()
        self._pages_due = True
        if not self._holders:
            self.machine.discard(self.machine.pages.release(self))

    def let_go(self, side: DirectEnd) -> None:
        """A direct client has read its rings to the end, or is gone."""
        self._holders.discard(side)
        if self._pages_due:
            self.give_back_pages()

    def close(self, status: NtStatus, reason: str, *, by: ChannelSide | DirectEnd | None = None) -> None:
        """Close it as its guest does: both ends, then the conversation that gives ring and channel back."""
        if self.is_open:
            self.end(status, reason, by=by)
            self.machine.bus.close(self)

    def fail(self, side: ChannelSide, violation: PeerViolation) -> None:
        """A ring was damaged, as ``side`` found: the channel ends, and both clients are told why."""
        self._damaged(side.role, str(violation), getattr(violation, "transaction_id", None))
        reason = f"the ring is damaged, as the {side.role.value}'s end found: {violation}"
        self.close(NtStatus.DEVICE_REMOVED, reason)

    def found_damaged(self, side: DirectEnd, reason: str) -> None:
        """A direct end says that a ring was damaged; its client closes the channel next. Once for each opening."""
        if not self._is_damaged:
            self._damaged(side.role, reason)

    def _damaged(self, found_by: Side, problem: str, transaction_id: int | None = None) -> None:
        self._is_damaged = True
        self.machine.counters.channels_failed += 1
        self._log_damage(found_by, problem, transaction_id)

    def _log_damage(self, found_by: Side, problem: str, transaction_id: int | None) -> None:
        # A client may do this as often as it likes, and shall not fill the log.
        count = self.machine.damages.add(found_by.value)
        if is_told(count):
            about = {} if transaction_id is None else {"transaction": transaction_id}
            place = {"machine": self.machine.name, "channel": self.number, "found_by": found_by.value}
            logger().warning("channel.failed", **place, **about, error=problem, count=count)

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl channels`` shows of an opening."""
        entry: dict[str, Any] = {"channel": self.number, "guest": str(self._session), "ring_pages": len(self.ring_pfns)}
        entry["guest_mode"] = "direct" if self.is_direct(Side.GUEST) else "hosted"
        for side in self._sides():
            if isinstance(side, ChannelSide):
                entry[f"{side.role.value}_outstanding"] = side.outstanding
                entry[f"packets_to_{side.role.value}"] = side.delivered_packets
        entry["uncompleted"] = uncompleted(self.guest, self.host, monotonic())
        for to, ring in zip(("host", "guest"), self._ring_memories(self._own_pages()), strict=True):
            entry[f"unread_bytes_to_{to}"] = unread_bytes(ring)
        return entry

    @property
    def is_held(self) -> bool:
        """Whether a direct client may still look at the rings of a channel that is over."""
        return bool(self._holders)

    @property
    def holder(self) -> Session:
        """The session that has it open, or is opening it."""
        return self._session


def unread_bytes(ring: RingMemory) -> int | None:
    """What stands in a ring and was not taken out; None where its indices mean nothing."""
    end, start = ring.control[0], ring.control[1]
    return (end - start) % ring.data_bytes if max(end, start) < ring.data_bytes else None

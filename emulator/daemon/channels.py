"""Channels brought to life: offers, openings, and the two ends of an open channel, each with the session behind it.

The ring is the only queue between the two sessions. A packet a client sends goes into it at once; the other session
takes it out when its own client has granted it room. What each client may have on the way is a window of its own, for
each channel, so a slow client stalls this channel and nothing else.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

from emulator.daemon.log import logger
from emulator.memory import Mdl
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, EndpointLimits, ReceivedPacket, SendOutcome, Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import KmclProfile
from emulator.vmbus.ring import RingReceiver, RingSender
from emulator.vmbus.ring_memory import RingMemory, initialise_as_guest, initialise_as_host
from emulator.wire.codec import encode_notification
from emulator.wire.schema import CHANNEL_CLOSED, CHANNEL_OPENED, CHANNEL_PACKETS, CHANNEL_WINDOW
from emulator.wire.window import PACKET_OVERHEAD_BYTES, ReceiveWindow, SendWindow

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

# One turn of one channel: enough to amortise a system call, little enough that other channels get theirs.
TURN_PACKETS = 128
TURN_BYTES = 256 * 1024

Grant = tuple[int, int]


class Waiter(Protocol):
    """The context of a packet: it gets the completion."""

    def finish(self, completed: Completed) -> None:
        """The packet is complete."""


_lock = threading.Lock()


def full_fence() -> None:
    """Order a store before a later load: a lock's acquire and release is a full barrier on x86-64."""
    _lock.acquire()
    _lock.release()


class Offer:
    """A channel that a host's session offers on a machine; open to one guest at a time."""

    def __init__(
        self, machine: Machine, session: Session, interface: UUID, instance: UUID, pipe: bool, grant: Grant
    ) -> None:
        self.machine = machine
        self.session = session
        self.interface = interface
        self.instance = instance
        self.pipe = pipe
        self.grant = grant
        self.number = 0
        self.channel: Channel | None = None

    def __str__(self) -> str:
        return f"channel {self.interface} (instance {self.instance}) of machine {self.machine.name}"

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl channels`` shows of it."""
        entry: dict[str, Any] = {
            "machine": self.machine.name,
            "interface": str(self.interface),
            "instance": str(self.instance),
            "state": "open" if self.channel is not None else "offered",
            "pipe": self.pipe,
            "host": str(self.session),
        }
        if self.channel is not None:
            entry |= self.channel.describe()
        return entry


class ChannelSide:
    """One end of an open channel: the endpoint, the session that acts through it, and the windows between the two."""

    def __init__(
        self, channel: Channel, role: Side, session: Session, endpoint: ChannelEndpoint, grants: tuple[Grant, Grant]
    ) -> None:
        self.channel = channel
        self.machine = channel.machine
        self.role = role
        self.session = session
        self.endpoint = endpoint
        self.number = 0
        granted_to_client, granted_by_client = grants
        self.inbound = ReceiveWindow(*granted_to_client)
        self.outbound = SendWindow(*granted_by_client)
        self._costs: deque[tuple[int, int]] = deque()  # (transaction id, cost) of packets not yet drained, in order
        self.delivered_packets = 0

    @property
    def is_open(self) -> bool:
        """Whether its channel is open."""
        return self.channel.is_open

    @property
    def peer(self) -> ChannelSide:
        """The other end."""
        return self.channel.host if self.role is Side.GUEST else self.channel.guest

    def charge(self, byte_count: int) -> int:
        """Account for a packet the client sends; its cost. A client that has no window left breaks the protocol."""
        cost = byte_count + PACKET_OVERHEAD_BYTES
        if not self.inbound.arrive(cost):
            raise PeerViolation(f"channel {self.number}: a packet was sent although the window was used up")
        return cost

    @contextmanager
    def refunding(self, costs: Collection[int]) -> Iterator[None]:
        """Around a send: a refusal gives these costs back, a broken ring closes the channel."""
        try:
            yield
        except Refused:
            self._return(len(costs), sum(costs))
            raise
        except PeerViolation as violation:
            self.channel.fail(self, violation)
            raise Refused(NtStatus.DEVICE_REMOVED, self.channel.why_closed) from None

    def send(self, buffer: bytes, mdl: Mdl | None, flags: int, context: Waiter) -> SendOutcome:
        """Windows: VmbPacketSend."""
        return self._posted(self.endpoint.send(buffer, mdl, flags, context))

    def send_external(
        self, buffer: bytes, mdl: Mdl | None, span: tuple[int, int], flags: int, context: Waiter
    ) -> SendOutcome:
        """Windows: VmbPacketSendWithExternalMdl; ``span`` is MdlOffset and MdlLength."""
        return self._posted(self.endpoint.send_with_external_mdl(buffer, mdl, *span, flags, context))

    def _posted(self, outcome: SendOutcome) -> SendOutcome:
        if outcome.doorbell:
            self.peer.ring_doorbell()
        return outcome

    def sent(self, transaction_id: int, cost: int) -> None:
        """A packet of this cost is on its way."""
        self._costs.append((transaction_id, cost))

    def complete(self, handle: int, payload: bytes) -> None:
        """Windows: VmbChannelPacketComplete."""
        self._require_delivered(handle)
        try:
            outcome = self.endpoint.complete(handle, payload)
        except Refused as refusal:
            raise PeerViolation(f"channel {self.number}: packet {handle} cannot be completed so: {refusal}") from None
        except RingCorruption as corruption:
            self.violated(corruption)
            return
        if outcome.doorbell:
            self.peer.ring_doorbell()
        if outcome.receive_again:
            self.ring_doorbell()

    def fail(self, handle: int) -> None:
        """Windows: VmbChannelPacketFail. Nothing more is delivered until the channel is opened again (rule R4)."""
        self._require_delivered(handle)
        try:
            self.endpoint.fail(handle)
        except RingCorruption as corruption:
            self.violated(corruption)

    def _require_delivered(self, handle: int) -> None:
        if not self.endpoint.holds(handle):
            raise PeerViolation(
                f"channel {self.number}: packet {handle} is not waiting to be completed, or was already"
            )

    def violated(self, violation: PeerViolation) -> None:
        """The other end broke the rules of the ring: this channel ends."""
        self.channel.fail(self, violation)

    def cancel(self, transaction_id: int) -> Completed | None:
        """Give up a packet; None when its completion has already come."""
        completed = self.endpoint.cancel(transaction_id)
        if completed is not None and completed.never_written:
            for index, (queued, cost) in enumerate(self._costs):
                if queued == transaction_id:
                    del self._costs[index]
                    self._return(1, cost)
                    break
        return completed

    def ring_doorbell(self) -> None:
        """Look at the ring soon."""
        self.session.mark_ready(self)

    def granted(self, packets: int, byte_count: int) -> None:
        """The client granted more deliveries."""
        self.outbound.grant(packets, byte_count)
        self.ring_doorbell()

    def drain(self) -> bool:
        """One bounded turn: take from the ring what the client has room for. True when another turn is due now."""
        window = self.outbound
        most = min(TURN_PACKETS, window.packets) if window.is_open else 0
        progress = self.endpoint.receive(most, min(TURN_BYTES, window.bytes) if most else 0)
        for completed in progress.completed:
            _tell(completed)
        if progress.packets:
            self._deliver(progress.packets)
        if progress.drained_packets:
            self.peer.drained(progress.drained_packets)
        if progress.doorbell:
            self.peer.ring_doorbell()
        if progress.more:
            return window.is_open and not progress.quota_blocked
        return not self.endpoint.go_idle()

    def _deliver(self, packets: list[ReceivedPacket]) -> None:
        run = b"".join([packet.image for packet in packets])
        errors = [
            [packet.handle, int(packet.external_error.status), packet.external_error.text]
            for packet in packets
            if packet.external_error is not None
        ]
        for packet in packets:
            self.outbound.spend(len(packet.image))
        self.delivered_packets += len(packets)
        text = json.dumps(errors) if errors else ""
        self.session.put(encode_notification(CHANNEL_PACKETS, self.number, packets[0].handle, run, text))

    def drained(self, packets: int) -> None:
        """So many of this side's packets have left the ring."""
        costs = self._costs
        if packets > len(costs):
            # Someone with a mapping of the ring put packets there that this side never sent.
            raise PeerViolation(f"{packets} packets came out of a ring that held {len(costs)}")
        freed = 0
        for _ in range(packets):
            freed += costs.popleft()[1]
        self._return(packets, freed)

    def _return(self, packets: int, byte_count: int) -> None:
        portion = self.inbound.drain(packets, byte_count)
        if portion is not None:
            self.session.put(encode_notification(CHANNEL_WINDOW, self.number, *portion))


class Channel:
    """One opening of an offer: ring pages in guest memory and an endpoint at each end."""

    def __init__(self, offer: Offer, guest: Session, pages: tuple[int, int], guest_grant: Grant) -> None:
        machine = offer.machine
        self.offer = offer
        self.machine = machine
        self.number = machine.next_channel_number()
        send_pages, receive_pages = pages
        self.ring_pfns = machine.pages.allocate(self, send_pages + receive_pages + 2)
        to_host = RingMemory.over(machine.memory, self.ring_pfns[: send_pages + 1])
        to_guest = RingMemory.over(machine.memory, self.ring_pfns[send_pages + 1 :])
        try:
            guest_end, host_end = self._make_ends(to_host, to_guest, pages)
        except PeerViolation as violation:
            machine.discard(machine.pages.release(self))
            text = f"the rings of {offer} were written to while they were laid out, so it was not opened: {violation}"
            raise Refused(NtStatus.DEVICE_NOT_READY, text) from None
        self.guest_sends: Grant = machine.limits.window_packets, to_host.data_bytes
        self.host_sends: Grant = machine.limits.window_packets, to_guest.data_bytes
        self.guest = ChannelSide(self, Side.GUEST, guest, guest_end, (self.guest_sends, guest_grant))
        self.host = ChannelSide(self, Side.HOST, offer.session, host_end, (self.host_sends, offer.grant))
        self.is_open = True
        self.why_closed = ""

    def _make_ends(
        self, to_host: RingMemory, to_guest: RingMemory, pages: tuple[int, int]
    ) -> tuple[ChannelEndpoint, ChannelEndpoint]:
        """The guest's and the host's endpoint; RingCorruption when somebody writes to the rings meanwhile."""
        machine = self.machine
        memory = machine.memory
        initialise_as_guest(to_host, to_guest)
        initialise_as_host(incoming=to_host, outgoing=to_guest)
        settings = machine.channel_settings
        bounds = EndpointLimits(
            max_packet_bytes=settings.packet_bytes,
            max_external_bytes=settings.external_bytes,
            max_external_chain=settings.external_mdls,
            outgoing_ring_pages=pages[0],
            incoming_ring_pages=pages[1],
            transaction_quota=machine.limits.outstanding_packets,
        )
        # A client program is not a driver: a packet that wants no completion is finished when it is delivered.
        profile = KmclProfile(hold_unasked_packets=False)
        guest_end = ChannelEndpoint(
            Side.GUEST,
            RingReceiver(to_guest, full_fence),
            RingSender(to_host, full_fence),
            memory,
            profile,
            bounds,
            self.offer.pipe,
        )
        host_end = ChannelEndpoint(
            Side.HOST,
            RingReceiver(to_host, full_fence),
            RingSender(to_guest, full_fence),
            memory,
            profile,
            bounds,
            self.offer.pipe,
        )
        return guest_end, host_end

    def start(self) -> None:
        """Give both sessions their numbers for it, and tell the host."""
        self.guest.number = self.guest.session.channel_requests.add(self.guest)
        self.host.number = self.host.session.channel_requests.add(self.host)
        self.offer.channel = self
        self.machine.channels[self.number] = self
        opened = encode_notification(CHANNEL_OPENED, self.offer.number, self.host.number, *self.host_sends)
        self.host.session.put(opened)
        for side in (self.guest, self.host):
            # Its first look at the ring comes after its client has been told of the channel.
            side.ring_doorbell()

    def close(self, status: NtStatus, reason: str, *, by: ChannelSide | None = None) -> None:
        """Close it at both ends: outstanding packets complete once with ``status``. ``by`` needs no notice of it."""
        if not self.is_open:
            return
        self.is_open = False
        self.why_closed = reason[:1000]
        self.offer.channel = None
        del self.machine.channels[self.number]
        for side in (self.guest, self.host):
            for completed in side.endpoint.close(status):
                _tell(completed)
            side.session.channel_requests.drop(side)
            if side is not by:
                side.session.put(encode_notification(CHANNEL_CLOSED, side.number, int(status), self.why_closed))
        self.machine.discard(self.machine.pages.release(self))
        self.machine.offer_available(self.offer)

    def fail(self, side: ChannelSide, violation: PeerViolation) -> None:
        """A ring was damaged, as ``side`` found: the channel ends, and both clients are told why."""
        logger().warning(
            "channel.failed",
            machine=self.machine.name,
            channel=self.number,
            found_by=side.role.value,
            error=str(violation),
        )
        self.close(NtStatus.DEVICE_REMOVED, f"the ring is damaged, as the {side.role.value}'s end found: {violation}")

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl channels`` shows of an opening."""
        return {
            "channel": self.number,
            "guest": str(self.guest.session),
            "guest_outstanding": self.guest.endpoint.outstanding,
            "host_outstanding": self.host.endpoint.outstanding,
            "packets_to_host": self.host.delivered_packets,
            "packets_to_guest": self.guest.delivered_packets,
            "ring_pages": len(self.ring_pfns),
        }


def _tell(completed: Completed) -> None:
    """Every packet this daemon sends has a Waiter as its context."""
    waiter = cast(Waiter, completed.context)
    waiter.finish(completed)


def refuse_if_open(offer: Offer) -> None:
    """Refuse a second opening, and say who has the first."""
    if offer.channel is not None:
        holder = offer.channel.guest.session
        raise Refused(
            NtStatus.INVALID_DEVICE_STATE,
            f"{offer} is already open: {holder} has it; close it there, or offer another instance",
        )

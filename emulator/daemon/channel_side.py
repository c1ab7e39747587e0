"""One end of an open channel: its endpoint, the session that acts through it, and the windows between the two.

The ring is the only queue between the two sessions. A packet a client sends goes into it at once; the other session
takes it out when its own client has granted it room. What each client may have on the way is a window of its own, for
each channel, so a slow client stalls this channel and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

from emulator.daemon.doorbells import DaemonDoorbell
from emulator.memory import Mdl
from emulator.status import Misuse, NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, ReceivedPacket, SendOutcome, Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.progress import BatchOutcome
from emulator.wire.codec import encode_notification
from emulator.wire.schema import CHANNEL_CLOSED, CHANNEL_PACKETS, CHANNEL_WINDOW
from emulator.wire.window import PACKET_OVERHEAD_BYTES, ReceiveWindow, SendWindow

if TYPE_CHECKING:
    from emulator.daemon.channels import Channel
    from emulator.daemon.session import Session

# One turn of one channel: enough to amortise a system call, little enough that other channels get theirs.
TURN_PACKETS = 128
TURN_BYTES = 256 * 1024

Grant = tuple[int, int]


class Waiter(Protocol):
    """The context of a packet: it gets the completion. ``began`` is when it was sent, by the monotonic clock."""

    began: float

    def finish(self, completed: Completed) -> None:
        """The packet is complete."""


class End(Protocol):
    """One end of an open channel, whoever works its rings."""

    role: Side
    session: Session
    number: int
    delivered_packets: int

    def enter(self) -> None:
        """The channel is open: its client gets to know this end."""

    def ring_doorbell(self) -> None:
        """Look at the ring soon."""

    def drained(self, packets: int) -> None:
        """So many of this end's packets have left the ring."""

    def close(self, status: NtStatus, reason: str, *, quietly: bool) -> None:
        """The channel is over."""

    @property
    def outstanding(self) -> int | None:
        """Packets sent and not completed, where the daemon can know."""


class DirectEnd:
    """An end whose client works the rings itself: the daemon passes doorbells on, if the other end is hosted."""

    delivered_packets = 0
    outstanding = None

    def __init__(self, channel: Channel, role: Side, session: Session) -> None:
        self.channel = channel
        self.machine = channel.machine
        self.role = role
        self.session = session
        self.number = 0
        self.driver = channel.driver_of(role)
        self.doorbell: DaemonDoorbell | None = None

    def enter(self) -> None:
        """Its client names it by a number of its session's."""
        self.number = self.session.channel_requests.add(self)

    def ring_doorbell(self) -> None:
        """Ring the client's doorbell, if the daemon has its other end."""
        if self.doorbell is not None:
            self.doorbell.ring()

    def drained(self, packets: int) -> None:
        """Its own ring code knows."""

    def close(self, status: NtStatus, reason: str, *, quietly: bool) -> None:
        """Tell the client, unless it asked for it; its doorbell is silent from now on."""
        if self.doorbell is not None:
            self.doorbell.close()
        self.session.channel_requests.drop(self, status, reason, is_leaving=not quietly)
        if not quietly:
            self.session.put(encode_notification(CHANNEL_CLOSED, self.number, int(status), reason))
        if self.driver is not None:
            self.driver.disconnected(self)


class ChannelSide:
    """One hosted end of an open channel: its endpoint, the session that acts through it, the windows between."""

    def __init__(
        self, channel: Channel, role: Side, session: Session, endpoint: ChannelEndpoint, grants: tuple[Grant, Grant]
    ) -> None:
        self.channel = channel
        self.machine = channel.machine
        self.role = role
        self.session = session
        self.endpoint = endpoint
        self.number = 0
        self.driver = channel.driver_of(role)
        self._is_cut = False
        granted_to_client, granted_by_client = grants
        self.inbound = ReceiveWindow(*granted_to_client)
        self.outbound = SendWindow(*granted_by_client)
        # (transaction id, cost) of packets not yet drained, in order. The window bounds it, and an empty one is small.
        self._costs: list[tuple[int, int]] = []
        self.delivered_packets = 0
        self._peer_is_direct = channel.is_direct(Side.HOST if role is Side.GUEST else Side.GUEST)

    def enter(self) -> None:
        """Its client names it by a number of its session's."""
        self.number = self.session.channel_requests.add(self)

    @property
    def is_open(self) -> bool:
        """Whether its channel is open, and its driver has not let go of it."""
        return self.channel.is_open and not self._is_cut

    @property
    def outstanding(self) -> int | None:
        """Packets sent and not completed."""
        return self.endpoint.outstanding

    @property
    def peer(self) -> End:
        """The other end."""
        other = self.channel.host if self.role is Side.GUEST else self.channel.guest
        assert other is not None, "a channel is told to its clients when both ends stand"
        return other

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

    def send(
        self, buffer: bytes, mdl: Mdl | None, flags: int, context: Waiter, *, may_queue: bool = True
    ) -> SendOutcome:
        """Windows: VmbPacketSend. Unless it may queue, it is refused when the ring has no room (Y1)."""
        return self._posted(self.endpoint.send(buffer, mdl, flags, context, may_queue=may_queue))

    def send_pfns(self, buffer: bytes, pfns: tuple[int, ...] | None, flags: int, context: Waiter) -> SendOutcome:
        """Windows: VmbPacketSendWithExternalPfns."""
        return self._posted(self.endpoint.send_with_external_pfns(buffer, pfns, flags, context))

    def send_external(
        self, buffer: bytes, mdl: Mdl | None, span: tuple[int, int], flags: int, context: Waiter
    ) -> SendOutcome:
        """Windows: VmbPacketSendWithExternalMdl; ``span`` is MdlOffset and MdlLength."""
        return self._posted(self.endpoint.send_with_external_mdl(buffer, mdl, *span, flags, context))

    def send_many(self, payloads: list[bytes], context: Waiter) -> BatchOutcome:
        """Packets without completion, all or none, in one publication; ``context`` is told of each that has to wait."""
        outcome = self.endpoint.send_many(payloads, [context] * len(payloads))
        if outcome.doorbell:
            self.peer.ring_doorbell()
        return outcome

    def _posted(self, outcome: SendOutcome) -> SendOutcome:
        if outcome.doorbell:
            self.peer.ring_doorbell()
        return outcome

    def sent(self, transaction_id: int, cost: int) -> None:
        """A packet of this cost is on its way."""
        self._costs.append((transaction_id, cost))
        if self._peer_is_direct:
            self._return_written()

    def _return_written(self) -> None:
        """A direct peer tells nobody what it took. So what is in its ring counts as gone: the ring is its queue."""
        written = len(self._costs) - self.endpoint.queued_data_packets
        if written > 0:
            self.drained(written)

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
        try:
            self.endpoint.fail(handle)
        except Misuse:
            raise self._not_held(handle) from None
        except RingCorruption as corruption:
            self.violated(corruption)

    def _require_delivered(self, handle: int) -> None:
        if not self.endpoint.holds(handle):
            raise self._not_held(handle)

    def _not_held(self, handle: int) -> PeerViolation:
        text = f"channel {self.number}: packet {handle} is not waiting to be completed, or was already"
        return PeerViolation(text)

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
        progress = self.endpoint.receive(most, min(TURN_BYTES, window.bytes) if most else 0, monotonic())
        for completed in progress.completed:
            tell(completed)
        if progress.packets:
            self._deliver(progress.packets)
        if progress.drained_packets:
            self.peer.drained(progress.drained_packets)
        if self._peer_is_direct:
            self._return_written()
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
        self._count(len(packets), len(run))
        text = json.dumps(errors) if errors else ""
        self.session.put(encode_notification(CHANNEL_PACKETS, self.number, packets[0].handle, run, text))

    def _count(self, packets: int, byte_count: int) -> None:
        counters = self.machine.counters
        if self.role is Side.GUEST:
            counters.packets_to_guest += packets
            counters.bytes_to_guest += byte_count
        else:
            counters.packets_to_host += packets
            counters.bytes_to_host += byte_count

    def drained(self, packets: int) -> None:
        """So many of this side's packets have left the ring."""
        costs = self._costs
        if packets > len(costs):
            # Someone with a mapping of the ring put packets there that this side never sent.
            raise PeerViolation(f"{packets} packets came out of a ring that held {len(costs)}")
        freed = sum([cost for _, cost in costs[:packets]])
        del costs[:packets]
        self._return(packets, freed)

    def _return(self, packets: int, byte_count: int) -> None:
        portion = self.inbound.drain(packets, byte_count)
        if portion is not None:
            self.session.put(encode_notification(CHANNEL_WINDOW, self.number, *portion))

    def deliver(self, on: bool) -> None:
        """Take from the ring, or leave all there: its driver is active, or paused."""
        self.endpoint.set_delivering(on)
        self.ring_doorbell()

    def cut(self, status: NtStatus, reason: str) -> None:
        """Its driver closes: nothing more goes through this end, and what it sent completes. The channel is open."""
        if self.is_open:
            self._is_cut = True
            self._finish(status, reason, quietly=False)

    def close(self, status: NtStatus, reason: str, *, quietly: bool) -> None:
        """Its outstanding packets complete once with ``status``; the client is told, unless it asked for it."""
        if not self._is_cut:
            self._take_in_the_rest()
            self._finish(status, reason, quietly=quietly)
        if self.driver is not None:
            self.driver.disconnected(self)

    def _take_in_the_rest(self) -> None:
        if self.machine.is_alive:
            # What the other end said before this has arrived: the client gets it, as far as it granted room.
            with suppress(PeerViolation):
                while self.drain():
                    pass

    def _finish(self, status: NtStatus, reason: str, *, quietly: bool) -> None:
        for completed in self.endpoint.close(status):
            tell(completed)
        self.session.channel_requests.drop(self, status, reason)
        if not quietly:
            self.session.put(encode_notification(CHANNEL_CLOSED, self.number, int(status), reason))


def tell(completed: Completed) -> None:
    """Every packet this daemon sends has a Waiter as its context."""
    waiter = cast(Waiter, completed.context)
    waiter.finish(completed)

"""One end of an open channel: packets with completions, over two rings. The semantics of KMCL, Windows' library.

A packet sent here goes through the argument rules, gets a transaction id, and is written into the outgoing ring, or
waits in line when that is full. Its sender's ``context`` comes back exactly once:

* sent without WAIT_FOR_COMPLETION: when it is in the ring. Either ``send`` says ``written`` at once, and that was it,
  or the context comes with the ``receive`` that wrote it;
* sent with it: with the peer's completion, out of ``receive``;
* cancelled, or the channel closed first: out of that call.

A packet from the peer gets a handle, counted here, since a peer's transaction ids need not be unique. It stays
outstanding until ``complete`` or ``fail``; when the quota of those is used up, packets stay in the ring.

``receive`` serves both directions, because one doorbell does: it takes packets in, and writes what waited for room.
Before sleeping, ``go_idle`` must have said True. What the peer breaks ends this endpoint for good: ``RingCorruption``,
from that call on; ``close`` still hands back every context.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.memory import GpaRange, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.vmbus.deliveries import Deliveries
from emulator.vmbus.packets import (
    FOOTER_BYTES,
    MAX_LENGTH8,
    Packet,
    PacketKind,
    RingCorruption,
    encode_completion,
    encode_gpa_direct,
    encode_in_band,
    frame_pipe_message,
    packet_cost,
    parse_packet_untrusted,
)
from emulator.vmbus.profile import EndpointLimits, KmclProfile, Side
from emulator.vmbus.progress import Completed, CompleteOutcome, Progress, ReceivedPacket, SendOutcome
from emulator.vmbus.ring import RingReceiver, RingSender
from emulator.vmbus.send_queue import Buffer, QueuedPacket, SendQueue
from emulator.vmbus.send_rules import Approved, SendRules

__all__ = [
    "ChannelEndpoint",
    "CompleteOutcome",
    "Completed",
    "EndpointLimits",
    "Progress",
    "ReceivedPacket",
    "SendOutcome",
    "Side",
]

_COMPLETION = PacketKind.COMPLETION
_NOTHING = object()
_PAGED = 0x4


class ChannelEndpoint:
    """One end of an open channel; see the top of this file. Buffers are copied before a call returns (K4)."""

    def __init__(
        self,
        side: Side,
        incoming: RingReceiver,
        outgoing: RingSender,
        memory: GuestMemory,
        profile: KmclProfile,
        limits: EndpointLimits,
        is_pipe: bool = False,
    ) -> None:
        self.side = side
        self.is_pipe = is_pipe
        self._incoming = incoming
        self._outgoing = outgoing
        self._profile = profile
        self._limits = limits
        self._rules = SendRules(
            side, profile, limits, is_pipe=is_pipe, page_count=memory.page_count, largest_cost=outgoing.largest_cost
        )
        self._queue = SendQueue(outgoing, limits)
        self._last_transaction = 0
        self._sent: dict[int, object] = {}  # transaction id -> context, in the ring and not completed
        self._cancelled: set[int] = set()  # in the ring, given up: their completions are swallowed (Y4)
        self._deliveries = Deliveries(memory, profile, limits, is_pipe=is_pipe)
        self._stopped = False
        self._closed = False
        self._failure: str | None = None

    @property
    def queued_packets(self) -> int:
        """Packets in line for the outgoing ring, completions included."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Packets of ours that are in the ring or beyond it, and not completed."""
        return len(self._sent)

    @property
    def delivered(self) -> int:
        """Packets of the peer's that were delivered and not completed (Q1)."""
        return len(self._deliveries)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def must_poll_when_blocked(self) -> bool:
        """Whether the peer never rings when there is room (3.1); with packets in line, ``receive`` on a timer."""
        return not self._incoming.peer_honours_pending_size

    def holds(self, handle: int) -> bool:
        """Whether a packet with this handle waits to be completed; ask before passing on a stranger's handle."""
        return handle in self._deliveries

    def _check_usable(self) -> None:
        if self._closed:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the channel has been closed; open it again")
        if self._failure is not None:
            raise RingCorruption(self._failure)

    # ---- sending

    def send(
        self, buffer: Buffer, mdl: Mdl | None, flags: int, context: object, *, may_queue: bool = True
    ) -> SendOutcome:
        """Send bytes, and with an MDL the guest memory all of its chain describes. Windows: VmbPacketSend.

        Raises Refused with nothing done; with STATUS_BUFFER_OVERFLOW when there is no room and it may not wait (Y1).
        """
        payload = bytes(buffer)
        approved = self._rules.packet(len(payload), mdl, flags)
        if not may_queue and (len(self._queue) or self._outgoing.free_bytes() < approved.cost):
            raise Refused(
                NtStatus.BUFFER_OVERFLOW, "the ring has no room and the packet may not wait for any", rule="Y1"
            )
        return self._send(payload, approved, context, None if int(flags) & _PAGED else buffer)

    def send_with_external_mdl(
        self, buffer: Buffer, mdl: Mdl | None, offset: int, length: int, flags: int, context: object
    ) -> SendOutcome:
        """Send bytes and part of what an MDL chain describes. Windows: VmbPacketSendWithExternalMdl.

        ``offset`` and ``length`` are bytes of the described buffer; length 0 is all up to its end. Raises Refused.
        """
        payload = bytes(buffer)
        approved = self._rules.external_mdl(len(payload), mdl, offset, length, flags)
        return self._send(payload, approved, context, None if int(flags) & _PAGED else buffer)

    def send_with_external_pfns(
        self, buffer: Buffer, pfns: Sequence[int] | None, flags: int, context: object
    ) -> SendOutcome:
        """Send bytes and whole pages of guest memory. Windows: VmbPacketSendWithExternalPfns. Raises Refused."""
        payload = bytes(buffer)
        approved = self._rules.external_pfns(len(payload), pfns, flags)
        return self._send(payload, approved, context, None if int(flags) & _PAGED else buffer)

    def _send(self, payload: bytes, approved: Approved, context: object, late_buffer: Buffer | None) -> SendOutcome:
        self._check_usable()
        ranges, waits, _ = approved
        if waits and len(self._sent) + len(self._cancelled) + len(self._queue) >= self._limits.max_outstanding:
            text = f"{self._limits.max_outstanding} packets wait for their completions; send on when some have come"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        transaction_id = self._last_transaction + 1
        framed = frame_pipe_message(payload) if self.is_pipe else payload
        image = (
            encode_gpa_direct(ranges, framed, transaction_id)
            if ranges
            else encode_in_band(framed, transaction_id, waits)
        )
        packet = QueuedPacket(image, transaction_id, context, waits)
        if self._profile.copy_queued_buffers_late and late_buffer is not None:
            late_offset = len(image) - ((len(framed) + 7) & ~7) + len(framed) - len(payload)
            packet = packet._replace(late_buffer=late_buffer, late_offset=late_offset)
        written, doorbell = self._put(packet)
        self._last_transaction = transaction_id
        if written and waits:
            self._sent[transaction_id] = context
        return SendOutcome(transaction_id, written, doorbell)

    def _put(self, packet: QueuedPacket) -> tuple[bool, bool]:
        try:
            return self._queue.put(packet)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    def cancel(self, transaction_id: int) -> Completed | None:
        """Give up a packet of ours; its end, or None when it has ended already. A late completion is swallowed (Y4)."""
        self._check_usable()
        packet = self._queue.remove(transaction_id)
        if packet is not None:
            return Completed(packet.context, NtStatus.CANCELLED, b"", True)
        if transaction_id not in self._sent:
            return None
        self._cancelled.add(transaction_id)
        return Completed(self._sent.pop(transaction_id), NtStatus.CANCELLED)

    # ---- receiving

    def receive(self, max_packets: int, max_bytes: int) -> Progress:
        """Take up to ``max_packets`` data packets of ``max_bytes`` ring bytes in, and write what waited for room.

        One data packet comes whatever its size, unless ``max_packets`` is 0. Completions always come. Raises
        RingCorruption, but not before everything good in front of the damage was handed over.
        """
        self._check_usable()
        packets: list[ReceivedPacket] = []
        completed: list[Completed] = []
        doorbell = more = False
        try:
            if len(self._queue):
                doorbell = self._flush(completed)
            if not self._stopped:
                signal, more = self._poll(max_packets, max_bytes, packets, completed)
                doorbell |= signal
        except RingCorruption as corruption:
            self._failure = str(corruption)
            if not (packets or completed or doorbell):
                raise
            more = True  # so that the next call tells
        drained_bytes = sum([len(packet.image) for packet in packets]) + FOOTER_BYTES * len(packets)
        return Progress(packets, completed, len(packets), drained_bytes, doorbell, more, self._deliveries.quota_blocked)

    def _flush(self, completed: list[Completed]) -> bool:
        written: list[QueuedPacket] = []
        try:
            return self._queue.flush(written)
        finally:
            for packet in written:
                if packet.waits:
                    self._sent[packet.transaction_id] = packet.context
                elif packet.transaction_id:
                    completed.append(Completed(packet.context, NtStatus.SUCCESS))

    def _poll(
        self, max_packets: int, max_bytes: int, packets: list[ReceivedPacket], completed: list[Completed]
    ) -> tuple[bool, bool]:
        """Take packets in; (ring the peer's doorbell, the ring was not emptied)."""
        deliveries = self._deliveries
        room = deliveries.room()
        if not room and self._profile.quota_stops_completions:
            deliveries.quota_blocked = self._incoming.used_bytes() > 0
            return False, deliveries.quota_blocked
        received = self._incoming.receive_batch(min(max_packets, room), max_bytes)
        for image in received.images:
            packet = parse_packet_untrusted(image)
            if packet.kind is _COMPLETION:
                self._take_completion(packet, completed)
            else:
                packets.append(deliveries.admit(packet, image))
        more = not received.empty
        deliveries.quota_blocked = more and not deliveries.room()
        return received.signal, more

    def _take_completion(self, packet: Packet, completed: list[Completed]) -> None:
        transaction_id = packet.transaction_id
        context = self._sent.pop(transaction_id, _NOTHING)
        if context is not _NOTHING:
            completed.append(Completed(context, NtStatus.SUCCESS, packet.payload))
        elif transaction_id in self._cancelled:
            self._cancelled.remove(transaction_id)
        else:
            raise RingCorruption(f"the peer completed transaction 0x{transaction_id:X}, which is not outstanding")

    def go_idle(self) -> bool:
        """Before sleeping: True: asleep is fine, a doorbell will come. False: call ``receive`` again first.

        With the quota used up no doorbell is asked for; then ``complete`` says when to receive again.
        """
        self._check_usable()
        if self._stopped or self._deliveries.quota_blocked:
            return True
        try:
            return self._incoming.go_idle()
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    # ---- completing what was received

    def complete(self, handle: int, payload: Buffer = b"") -> CompleteOutcome:
        """End a received packet; its sender gets ``payload`` if it asked to (R3). Windows: VmbChannelPacketComplete.

        Raises Misuse for a handle that is not outstanding, Refused with nothing done when the payload is too long.
        """
        self._check_usable()
        entry = self._deliveries.find(handle)
        written = doorbell = False
        if entry.completion_requested:
            data = bytes(payload)
            cost = packet_cost(len(data))
            if cost > self._outgoing.largest_cost or cost > MAX_LENGTH8 * 8:
                text = f"a completion of {len(data)} bytes never fits a ring that holds {self._outgoing.largest_cost}"
                raise Refused(NtStatus.INVALID_PARAMETER, text, rule="K8")
            image = encode_completion(data, entry.transaction_id)
            written, doorbell = self._put(QueuedPacket(image, 0, None, False))
        return CompleteOutcome(written, doorbell, self._deliveries.remove(handle))

    def fail(self, handle: int) -> None:
        """Give up on a malformed packet: nothing is sent, and this endpoint delivers nothing any more (R4).

        Windows: VmbChannelPacketFail. Raises Misuse for a handle that is not outstanding.
        """
        self._check_usable()
        self._deliveries.find(handle)
        self._deliveries.remove(handle)
        self._stopped = True

    def external_data(self, handle: int) -> tuple[GpaRange, ...]:
        """The guest memory a received packet shows, the same at every call (R6).

        Windows: VmbChannelPacketGetExternalData. Raises Refused when it has none or it cannot be used, Misuse for a
        handle that is not outstanding.
        """
        self._check_usable()
        return self._deliveries.external_data(handle)

    def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be delivered and not completed. Windows: VmbChannelSetTransactionQuota.

        Raising it does not restart a queue it has stopped; only a completion does (Q3). Raises Misuse for 0 (Q4).
        """
        self._deliveries.set_quota(quota)

    # ---- the end

    def close(self, status: NtStatus | None = None) -> list[Completed]:
        """The channel is gone: every packet of ours that has not ended ends with ``status``, in the order sent (4.4).

        Without a status the profile's is used. Afterwards every other call is Refused with INVALID_DEVICE_STATE.
        """
        if self._closed:
            return []
        self._closed = True
        final = self._profile.closed_first_status if status is None else status
        ended = [Completed(context, final) for context in self._sent.values()]
        ended += [
            Completed(packet.context, final, b"", True) for packet in self._queue.take_all() if packet.transaction_id
        ]
        self._sent.clear()
        self._cancelled.clear()
        self._deliveries.clear()
        return ended

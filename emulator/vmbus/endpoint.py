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

from emulator.memory import GuestMemory, Mdl
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.deliveries import Deliveries
from emulator.vmbus.endpoint_receipts import EndpointReceipts
from emulator.vmbus.outgoing import Outgoing
from emulator.vmbus.packets import (
    COMPLETION_REQUESTED,
    FOOTER_BYTES,
    PacketKind,
    RingCorruption,
    parse_packet_untrusted,
)
from emulator.vmbus.profile import EndpointLimits, KmclProfile, Side
from emulator.vmbus.progress import (
    BatchOutcome,
    Completed,
    CompleteOutcome,
    PayloadRun,
    Progress,
    ReceivedPacket,
    SendOutcome,
)
from emulator.vmbus.ring import RingReceiver, RingSender
from emulator.vmbus.send_queue import Buffer
from emulator.vmbus.send_rules import Approved, SendRules

__all__ = [
    "BatchOutcome",
    "ChannelEndpoint",
    "CompleteOutcome",
    "Completed",
    "EndpointLimits",
    "PayloadRun",
    "Progress",
    "ReceivedPacket",
    "SendOutcome",
    "Side",
]

_COMPLETION = PacketKind.COMPLETION
_WAIT, _PAGED = 0x1, 0x4
_new = tuple.__new__  # a third of the price of calling a named tuple's class


class ChannelEndpoint(EndpointReceipts):
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
        self._profile = profile
        self._rules = SendRules(
            side, profile, limits, is_pipe=is_pipe, page_count=memory.page_count, largest_cost=outgoing.largest_cost
        )
        own = Outgoing(outgoing, limits, is_pipe=is_pipe, copy_late=profile.copy_queued_buffers_late)
        super().__init__(incoming, outgoing, own, Deliveries(memory, profile, limits, is_pipe=is_pipe))

    def set_delivering(self, on: bool) -> None:
        """Take from the ring, or leave all there: a paused channel's end sees neither packets nor completions (4.3).

        What waits for room still goes out. Switched on, ``receive`` once, since no doorbell came meanwhile.
        """
        self._halted = self._stopped or not on

    # ---- sending

    def send(
        self, buffer: Buffer, mdl: Mdl | None, flags: int, context: object, *, may_queue: bool = True
    ) -> SendOutcome:
        """Send bytes, and with an MDL the guest memory all of its chain describes. Windows: VmbPacketSend.

        Raises Refused with nothing done; with STATUS_BUFFER_OVERFLOW when there is no room and it may not wait (Y1).
        """
        payload = bytes(buffer)
        approved = self._rules.packet(len(payload), mdl, flags)
        if not may_queue and (self._own.queued or self._outgoing.free_bytes() < approved.cost):
            raise Refused(
                NtStatus.BUFFER_OVERFLOW, "the ring has no room and the packet may not wait for any", rule="Y1"
            )
        return self._send(payload, approved, context, None if int(flags) & _PAGED else buffer)

    def ask(self, payload: bytes, context: object) -> tuple[int, bool]:
        """``send`` in short, for a caller that waits for the completion at once: (transaction id, ring the doorbell).

        The packet has no external data, and wants its completion, which ``take_answer`` may have, or ``receive``. The
        id is 0 when nothing was done, for whatever reason: then ``send`` does it, or says why not.
        """
        if self._closed or self._halted or self._failure is not None or len(payload) > self._rules.longest_payload:
            return 0, False
        try:
            return self._own.ask(payload, context)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    def take_answer(self, transaction_id: int) -> tuple[bytes, bool] | None:
        """The payload of the completion of our packet, and whether to ring the doorbell, if that is what comes next.

        None, with nothing done, when it is not: then ``receive``.
        """
        if self._closed or self._halted or self._deliveries.quota_blocked:
            return None
        answer = self._incoming.take_completion(transaction_id)
        if answer is not None:
            self._own.answered(transaction_id)
        return answer

    def take_plain(self) -> tuple[ReceivedPacket, bool] | None:
        """What comes next, if it is one in-band packet and may be delivered; and whether to ring the doorbell.

        ``receive`` in short, for a caller that has just seen something arrive. The packet comes without its image.
        None, with nothing done, when it is anything else, or packets of ours wait for room: then ``receive``.
        """
        deliveries = self._deliveries
        if self._closed or self._halted or self.line or self.is_pipe or not deliveries.room():
            return None
        found = self._incoming.take_in_band()
        if found is None:
            return None
        payload, transaction_id, flags, doorbell = found
        return deliveries.admit_plain(payload, transaction_id, flags & COMPLETION_REQUESTED != 0), doorbell

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
        if self._closed or self._failure is not None:
            self._check_usable()
        try:
            return self._own.send(payload, approved, context, late_buffer)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    def send_many(self, buffers: Sequence[Buffer], contexts: Sequence[object], flags: int = 0) -> BatchOutcome:
        """Send packets without external data, in order, as ``send`` does one: all published at once, one doorbell.

        Raises Refused with none of them sent: when any one would be refused, or the line has no room for all that the
        ring has none for. Raises Misuse unless there is one context for each.
        """
        if len(contexts) != len(buffers):
            raise Misuse(f"{len(buffers)} packets came with {len(contexts)} contexts")
        payloads = [bytes(buffer) for buffer in buffers]
        for payload in payloads:
            self._rules.packet(len(payload), None, flags)
        self._check_usable()
        bits = int(flags)
        try:
            return self._own.send_many(payloads, bits & _WAIT != 0, contexts, () if bits & _PAGED else buffers)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    def send_payloads(self, payloads: Sequence[bytes], first: int, most: int) -> BatchOutcome:
        """Send from number ``first`` on, at most ``most``, what the ring has room for now; the rest stays the caller's.

        As ``send_many`` with flags 0, but nothing waits in line: when room for the next is there, the doorbell rings,
        and the caller goes on after its next ``receive``. Raises Refused when the first of them is refused.
        """
        self._check_usable()
        longest = self._rules.longest_payload
        if first < len(payloads) and len(payloads[first]) > longest:
            self._rules.packet(len(payloads[first]), None, 0)
        try:
            return self._own.send_payloads(payloads, first, most, longest)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    def cancel(self, transaction_id: int) -> Completed | None:
        """Give up a packet of ours; its end, or None when it has ended already. A late completion is swallowed (Y4)."""
        self._check_usable()
        return self._own.cancel(transaction_id)

    # ---- receiving

    def receive(self, max_packets: int, max_bytes: int, now: float = 0.0) -> Progress:
        """Take up to ``max_packets`` data packets of ``max_bytes`` ring bytes in, and write what waited for room.

        ``now``, in seconds, is what ``oldest_delivered`` will say of them.
        One data packet comes whatever its size, unless ``max_packets`` is 0. Completions always come. Raises
        RingCorruption, but not before everything good in front of the damage was handed over.
        """
        if self._closed or self._failure is not None:
            self._check_usable()
        self._deliveries.now = now
        packets: list[ReceivedPacket] = []
        completed: list[Completed] = []
        doorbell = more = False
        drained_bytes = 0
        try:
            if self.line:
                doorbell = self._own.flush(completed)
            if not self._halted:
                signal, more = self._poll(max_packets, max_bytes, packets, completed)
                doorbell |= signal
        except RingCorruption as corruption:
            self._failure = str(corruption)
            if not (packets or completed or doorbell):
                raise
            more = True  # so that the next call tells
        if packets:
            drained_bytes = sum([len(packet.image) for packet in packets]) + FOOTER_BYTES * len(packets)
        blocked = self._deliveries.quota_blocked
        return _new(Progress, (packets, completed, len(packets), drained_bytes, doorbell, more, blocked))

    def _poll(
        self, max_packets: int, max_bytes: int, packets: list[ReceivedPacket], completed: list[Completed]
    ) -> tuple[bool, bool]:
        """Take packets in; (ring the peer's doorbell, the ring was not emptied)."""
        deliveries = self._deliveries
        room = deliveries.room()
        if not room and self._profile.quota_stops_completions:
            deliveries.quota_blocked = self._incoming.used_bytes() > 0
            return False, deliveries.quota_blocked
        images, _, signal, empty = self._incoming.receive_batch(min(max_packets, room), max_bytes)
        for image in images:
            packet = parse_packet_untrusted(image)
            if packet.kind is _COMPLETION:
                self._own.take_completion(packet, completed)
            else:
                packets.append(deliveries.admit(packet, image))
        deliveries.quota_blocked = not empty and not deliveries.room()
        return signal, not empty

    def receive_payloads(self, max_packets: int, max_bytes: int) -> PayloadRun:
        """Take what comes next as long as it is payloads that want no answer: ``receive`` for many at once, in short.

        Takes no others, writes nothing that waited, and says nothing of damage; all that is for ``receive``.
        """
        self._check_usable()
        deliveries = self._deliveries
        if self._halted or not deliveries.takes_payloads:
            return PayloadRun([], 0, False)
        try:
            received = self._incoming.receive_payloads(min(max_packets, deliveries.room()), max_bytes)
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise
        deliveries.last_handle += len(received.images)
        return PayloadRun(received.images, received.ring_bytes, received.signal)

    def go_idle(self) -> bool:
        """Before sleeping: True: asleep is fine, a doorbell will come. False: call ``receive`` again first.

        With the quota used up no doorbell is asked for; then ``complete`` says when to receive again.
        """
        self._check_usable()
        if self._halted or self._deliveries.quota_blocked:
            return True
        try:
            return self._incoming.go_idle()
        except RingCorruption as corruption:
            self._failure = str(corruption)
            raise

    # ---- the end

    def close(self, status: NtStatus | None = None) -> list[Completed]:
        """The channel is gone: every packet of ours that has not ended ends with ``status``, in the order sent (4.4).

        Without a status the profile's is used. Afterwards every other call is Refused with INVALID_DEVICE_STATE.
        """
        if self._closed:
            return []
        self._closed = True
        final = self._profile.closed_first_status if status is None else status
        ended = self._own.close(final)
        self._deliveries.clear()
        return ended

"""Packets of our own: their transaction ids, and who gets the end of each. One half of an endpoint.

A packet is waiting in line, or in the ring and beyond, or given up there, or it has ended. Its context comes back from
exactly one call, whichever ended it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import (
    PIPE_HEADER_BYTES,
    Packet,
    RingCorruption,
    encode_completion,
    encode_gpa_direct,
    encode_in_band,
    frame_pipe_message,
)
from emulator.vmbus.profile import EndpointLimits
from emulator.vmbus.progress import BatchOutcome, Completed, SendOutcome
from emulator.vmbus.ring import RingSender
from emulator.vmbus.send_queue import Buffer, QueuedPacket, SendQueue
from emulator.vmbus.send_rules import Approved

_NOTHING = object()
_new = tuple.__new__  # a third of the price of calling a named tuple's class
_PIPE_PORTION = 64  # framed at a time, whether or not there is room for them


class Outgoing:
    """The table of one endpoint's own packets. All calls may raise RingCorruption."""

    def __init__(self, sender: RingSender, limits: EndpointLimits, *, is_pipe: bool, copy_late: bool) -> None:
        self._queue = SendQueue(sender, limits)
        self.line = self._queue.waiting
        self._limits = limits
        self._max_outstanding = limits.max_outstanding
        self._is_pipe = is_pipe
        self._copy_late = copy_late  # K4
        self._last_transaction = 0
        self._sent: dict[int, object] = {}  # transaction id -> context, in the ring and not completed
        self._cancelled: set[int] = set()  # in the ring, given up: their completions are swallowed (Y4)

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def queued(self) -> int:
        """Packets in line for the ring, completions included."""
        return len(self._queue)

    @property
    def queued_data(self) -> int:
        """Data packets in line for the ring."""
        return self._queue.data_packets

    def oldest(self) -> tuple[int, object] | None:
        """The packet in the ring, or beyond, that has waited longest for its completion: transaction id and context."""
        return next(iter(self._sent.items()), None)

    def _check_outstanding(self, count: int) -> None:
        most = self._limits.max_outstanding
        if len(self._sent) + len(self._cancelled) + len(self._queue) + count > most:
            text = f"{most} packets wait for their completions; send on when some have come"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)

    def send(self, payload: bytes, approved: Approved, context: object, late_buffer: Buffer | None) -> SendOutcome:
        """One packet, into the ring or in line. Raises Refused with nothing done."""
        ranges, waits, _ = approved
        if waits and len(self._sent) + len(self._cancelled) + len(self.line) >= self._max_outstanding:
            self._check_outstanding(1)
        transaction_id = self._last_transaction + 1
        framed = frame_pipe_message(payload) if self._is_pipe else payload
        image = (
            encode_gpa_direct(ranges, framed, transaction_id)
            if ranges
            else encode_in_band(framed, transaction_id, waits)
        )
        written, doorbell = self._queue.put_now(image)
        if not written:
            packet = QueuedPacket(image, transaction_id, context, waits)
            if self._copy_late and late_buffer is not None:
                packet = _copied_late(packet, late_buffer, len(payload), len(framed))
            written, doorbell = self._queue.put(packet)
        self._last_transaction = transaction_id
        if written and waits:
            self._sent[transaction_id] = context
        return _new(SendOutcome, (transaction_id, written, doorbell))

    def ask(self, payload: bytes, context: object) -> tuple[int, bool]:
        """One in-band packet that wants its completion, if it can be written at once: (transaction id, doorbell).

        The id is 0 when something stands in the way: then ``send`` knows what.
        """
        if self.line or self._is_pipe or len(self._sent) + len(self._cancelled) >= self._max_outstanding:
            return 0, False
        transaction_id = self._last_transaction + 1
        written, doorbell = self._queue.put_asking(payload, transaction_id)
        if not written:
            return 0, False
        self._last_transaction = transaction_id
        self._sent[transaction_id] = context
        return transaction_id, doorbell

    def answered(self, transaction_id: int) -> None:
        """The completion of a packet has been taken; its context is whoever took it."""
        del self._sent[transaction_id]

    def send_many(
        self, payloads: Sequence[bytes], waits: bool, contexts: Sequence[object], late_buffers: Sequence[Buffer]
    ) -> BatchOutcome:
        """Packets without external data, in order, in one publication. Raises Refused with none of them sent."""
        count = len(payloads)
        if waits:
            self._check_outstanding(count)
        first = self._last_transaction + 1
        framed = [frame_pipe_message(payload) for payload in payloads] if self._is_pipe else payloads
        images = [encode_in_band(payload, first + index, waits) for index, payload in enumerate(framed)]
        written, doorbell = self._queue.write(images)
        # What is in the ring needs no entry in the line, which saves most of the work of most batches.
        waiting = [
            QueuedPacket(images[index], first + index, contexts[index], waits) for index in range(written, count)
        ]
        if self._copy_late and late_buffers:
            waiting = [
                _copied_late(packet, late_buffers[index], len(payloads[index]), len(framed[index]))
                for index, packet in enumerate(waiting, written)
            ]
        more: list[QueuedPacket] = []
        if waiting:
            doorbell |= self._queue.line_up(waiting, more)
        written += len(more)
        self._last_transaction += count
        if waits:
            self._sent.update(zip(range(first, first + written), contexts, strict=False))
        return BatchOutcome(first, written, doorbell)

    def send_payloads(self, payloads: Sequence[bytes], first: int, most: int, longest: int) -> BatchOutcome:
        """Packets without external data and completion, from number ``first`` on, as far as the ring has room.

        None waits in line. Up to one that is longer than ``longest`` bytes.
        """
        if self._is_pipe:
            portion = takewhile(lambda each: len(each) <= longest, payloads[first : first + min(most, _PIPE_PORTION)])
            payloads, first, longest = list(map(frame_pipe_message, portion)), 0, longest + PIPE_HEADER_BYTES
        first_id = self._last_transaction + 1
        written, doorbell = self._queue.write_payloads(payloads, first, most, first_id, longest)
        self._last_transaction += written
        return BatchOutcome(first_id, written, doorbell)

    def complete_one(self, transaction_id: int, payload: bytes) -> tuple[bool, bool]:
        """One answer; as ``complete``."""
        written, doorbell = self._queue.put_completion(payload, transaction_id)
        return (True, doorbell) if written else self.complete(((transaction_id, payload),))

    def complete(self, completions: Sequence[tuple[int, bytes]]) -> tuple[bool, bool]:
        """Answers to packets of the peer's, by its transaction ids; (all are written, ring the peer's doorbell)."""
        images = [encode_completion(payload, transaction_id) for transaction_id, payload in completions]
        written, doorbell = self._queue.write(images, bounded=False)
        waiting = [QueuedPacket(image, 0, None, False) for image in images[written:]]
        if waiting:
            more: list[QueuedPacket] = []
            doorbell |= self._queue.line_up(waiting, more)
            written += len(more)
        return written == len(images), doorbell

    def flush(self, completed: list[Completed]) -> bool:
        """Write what waited and has room now; whether to ring the peer's doorbell."""
        written: list[QueuedPacket] = []
        try:
            return self._queue.flush(written)
        finally:
            for packet in written:
                if packet.waits:
                    self._sent[packet.transaction_id] = packet.context
                elif packet.transaction_id:
                    completed.append(Completed(packet.context, NtStatus.SUCCESS))

    def take_completion(self, packet: Packet, completed: list[Completed]) -> None:
        """The peer's answer. Raises RingCorruption when nothing waits for it."""
        transaction_id = packet.transaction_id
        context = self._sent.pop(transaction_id, _NOTHING)
        if context is not _NOTHING:
            completed.append(_new(Completed, (context, NtStatus.SUCCESS, packet.payload, False)))
        elif transaction_id in self._cancelled:
            self._cancelled.remove(transaction_id)
        else:
            text = f"the peer completed transaction 0x{transaction_id:X}, which is not outstanding"
            raise RingCorruption(text, transaction_id)

    def cancel(self, transaction_id: int) -> Completed | None:
        """Give up a packet; its end, or None when it has ended already."""
        packet = self._queue.remove(transaction_id)
        if packet is not None:
            return Completed(packet.context, NtStatus.CANCELLED, b"", True)
        if transaction_id not in self._sent:
            return None
        self._cancelled.add(transaction_id)
        return Completed(self._sent.pop(transaction_id), NtStatus.CANCELLED)

    def close(self, status: NtStatus) -> list[Completed]:
        """End every packet that has not ended, in the order sent."""
        ended = [Completed(context, status) for context in self._sent.values()]
        ended += [
            Completed(packet.context, status, b"", True) for packet in self._queue.take_all() if packet.transaction_id
        ]
        self._sent.clear()
        self._cancelled.clear()
        return ended


def _copied_late(packet: QueuedPacket, buffer: Buffer, payload_bytes: int, framed_bytes: int) -> QueuedPacket:
    """The same, to be filled from the caller's own buffer when it is written."""
    late_offset = len(packet.image) - ((framed_bytes + 7) & ~7) + framed_bytes - payload_bytes
    return packet._replace(late_buffer=buffer, late_offset=late_offset)

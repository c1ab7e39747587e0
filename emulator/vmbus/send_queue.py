"""Packets on their way into a ring, in the order they were issued: data and completions in one line (K8, R3).

While nothing waits, a packet goes straight into the ring. Once one finds no room, everything behind it waits too, and
the ring is asked for a doorbell when there is room again; then ``flush``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import FOOTER_BYTES, RingCorruption, packet_cost
from emulator.vmbus.profile import EndpointLimits
from emulator.vmbus.ring import RingSender, Sent

_BATCH_PACKETS = 64
_NOT_NOW = Sent(0, False)
Buffer = bytes | bytearray | memoryview


class QueuedPacket(NamedTuple):
    """An encoded packet and whose it is.

    ``transaction_id`` is the sender's number for data, 0 for a completion. ``late_buffer`` is the caller's own buffer,
    read again when the packet is written, in the test mode of rule K4; it begins ``late_offset`` bytes into the image.
    """

    image: bytes
    transaction_id: int
    context: object
    waits: bool
    late_buffer: Buffer | None = None
    late_offset: int = 0

    def current_image(self) -> bytes:
        """The image as it is to be written now; its length never changes."""
        if self.late_buffer is None:
            return self.image
        room = len(self.image) - self.late_offset
        return self.image[: self.late_offset] + bytes(self.late_buffer)[:room].ljust(room, b"\0")


class SendQueue:
    """The line in front of one ring's sending end. Calls that write may raise RingCorruption."""

    def __init__(self, sender: RingSender, limits: EndpointLimits) -> None:
        self._sender = sender
        self._max_packets = limits.max_queued_packets
        self._max_bytes = limits.max_queued_bytes
        # By transaction id; completions by negative number.
        self.waiting: OrderedDict[int, QueuedPacket] = OrderedDict()
        self._bytes = 0
        self._completions = 0

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def data_packets(self) -> int:
        """How many of those that wait are data, not completions."""
        return sum(1 for key in self.waiting if key > 0)

    def put_now(self, image: bytes) -> Sent:
        """Write it if there is room and nothing waits in front of it."""
        return _NOT_NOW if self.waiting else self._sender.send_batch((image,))

    def put_asking(self, payload: bytes, transaction_id: int) -> Sent:
        """The same for an in-band packet that wants its completion; nothing may wait."""
        return self._sender.send_asking(payload, transaction_id)

    def put_completion(self, payload: bytes, transaction_id: int) -> Sent:
        """Write an answer if there is room and nothing waits in front of it."""
        return _NOT_NOW if self.waiting else self._sender.send_completion(payload, transaction_id)

    def put(self, packet: QueuedPacket) -> tuple[bool, bool]:
        """Let it wait, or write it if there is room after all; (written, ring the peer's doorbell).

        Raises Refused for data when the line is at its bound. Completions are bounded by the packets they answer.
        """
        cost = len(packet.image) + FOOTER_BYTES
        self._check_bound(1, cost, packet.transaction_id != 0)
        if not self.waiting and self._sender.block(cost):  # the peer made room after we had looked
            sent = self._sender.send_batch((packet.image,))
            self._sender.unblock()
            return True, sent.signal
        self._append(packet)
        return False, False

    def write(self, images: Sequence[bytes], *, bounded: bool = True) -> Sent:
        """Write as many of a batch as fit, unless others wait in front of it; the rest is for ``line_up``.

        Raises Refused, with none written, when the line has no room for what the ring has none for. Completions are
        not ``bounded``.
        """
        room = 0 if self.waiting else self._sender.free_bytes()
        left = 0
        byte_count = 0
        for image in images:
            cost = len(image) + FOOTER_BYTES
            room -= cost
            if room < 0:
                left += 1
                byte_count += cost
        if left:
            self._check_bound(left, byte_count, bounded)
        return Sent(0, False) if self.waiting else self._sender.send_batch(images)

    def write_payloads(
        self, payloads: Sequence[bytes], first: int, most: int, transaction_id: int, longest: int
    ) -> Sent:
        """Write in-band packets of ``payloads`` from number ``first`` on, as far as there is room; none waits in line.

        Nothing of a payload longer than ``longest``, or behind it. When the ring had no room for the next one, it is
        asked for a doorbell.
        """
        if self.waiting:
            return Sent(0, False)  # whoever empties the line looks for what waits behind it
        sender = self._sender
        written, signal = sender.send_in_band(payloads, first, most, transaction_id, longest)
        end = min(len(payloads), first + most)
        while (at := first + written) < end:
            if type(payloads[at]) is not bytes or len(payloads[at]) > longest:
                return Sent(written, signal)  # the next call refuses it
            if not sender.block(packet_cost(len(payloads[at]))):
                return Sent(written, signal)
            # There is room by now.
            sent = sender.send_in_band(payloads, at, end - at, transaction_id + written, longest)
            written += sent.written
            signal |= sent.signal
        sender.unblock()
        return Sent(written, signal)

    def line_up(self, packets: Sequence[QueuedPacket], written: list[QueuedPacket]) -> bool:
        """Let packets wait that ``write`` left; ``written`` gets those for which there was room after all.

        Whether to ring the peer's doorbell. By now the packets are ours, so corruption is left to the next call.
        """
        was_empty = not self.waiting
        for packet in packets:
            self._append(packet)
        if not was_empty:
            return False
        try:
            return self.flush(written)
        except RingCorruption:
            return False

    def _append(self, packet: QueuedPacket) -> None:
        key = packet.transaction_id
        if not key:
            self._completions += 1
            key = -self._completions
        self.waiting[key] = packet
        self._bytes += len(packet.image) + FOOTER_BYTES

    def _check_bound(self, packets: int, byte_count: int, bounded: bool) -> None:
        count = len(self.waiting)
        if bounded and (count + packets > self._max_packets or self._bytes + byte_count > self._max_bytes):
            text = f"{count} packets of {self._bytes} bytes already wait for room in the ring"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, f"{text}; send on when some have gone")

    def flush(self, written: list[QueuedPacket]) -> bool:
        """Write what fits, adding it to ``written``; whether to ring the peer's doorbell."""
        waiting = self.waiting
        sender = self._sender
        signal = False
        while waiting:
            batch = list(islice(waiting.values(), _BATCH_PACKETS))
            sent = sender.send_batch([packet.current_image() for packet in batch])
            signal |= sent.signal
            for packet in batch[: sent.written]:
                waiting.popitem(last=False)
                self._bytes -= len(packet.image) + FOOTER_BYTES
                written.append(packet)
            if sent.written < len(batch) and not sender.block(len(batch[sent.written].image) + FOOTER_BYTES):
                return signal
        sender.unblock()
        return signal

    def remove(self, transaction_id: int) -> QueuedPacket | None:
        """Take a data packet back that has not been written; None when it is not waiting here."""
        packet = self.waiting.pop(transaction_id, None) if transaction_id > 0 else None
        if packet is not None:
            self._bytes -= len(packet.image) + FOOTER_BYTES
            if not self.waiting:
                self._sender.unblock()
        return packet

    def take_all(self) -> list[QueuedPacket]:
        """Empty the line without writing: the channel has closed."""
        packets = list(self.waiting.values())
        self.waiting.clear()
        self._bytes = 0
        return packets

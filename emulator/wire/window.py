"""A window: how many packets and bytes one side may have on the way for one channel or address.

The receiver grants; the sender spends. The rule is simple enough for any language: **while both counts are above zero,
one more may be sent**, whatever its size. So the last one may overdraw the bytes, by less than one largest packet, and
nothing is ever too large to be sent.

A receiver returns what has drained in portions: as soon as half of either count is waiting to be returned. A sender
that has come to zero has more than half on the way, so it never waits for a return that is being held back.
"""

from __future__ import annotations

PACKET_OVERHEAD_BYTES = 64
"""What a packet or datagram that a client sends costs besides its bytes: about its descriptor, footer, bookkeeping."""


class SendWindow:
    """The sender's side: what may still be sent."""

    __slots__ = ("bytes", "packets")

    def __init__(self, packets: int, byte_count: int) -> None:
        self.packets = packets
        self.bytes = byte_count

    @property
    def is_open(self) -> bool:
        """Whether one more may be sent."""
        return self.packets > 0 and self.bytes > 0

    def spend(self, cost: int) -> None:
        """One packet of ``cost`` bytes was sent."""
        self.packets -= 1
        self.bytes -= cost

    def grant(self, packets: int, byte_count: int) -> None:
        """The receiver returned so much."""
        self.packets += packets
        self.bytes += byte_count


class ReceiveWindow:
    """The receiver's side: what it granted, what of that was used, and what is waiting to be returned."""

    __slots__ = ("_due_bytes", "_due_packets", "_granted_bytes", "_granted_packets", "_left_bytes", "_left_packets")

    def __init__(self, packets: int, byte_count: int) -> None:
        self._granted_packets = self._left_packets = packets
        self._granted_bytes = self._left_bytes = byte_count
        self._due_packets = 0
        self._due_bytes = 0

    @property
    def left(self) -> tuple[int, int]:
        """Packets and bytes the sender may still send, as far as it has been told."""
        return self._left_packets, self._left_bytes

    def arrive(self, cost: int) -> bool:
        """One packet of ``cost`` bytes came; False when the sender had no right to send it."""
        allowed = self._left_packets > 0 and self._left_bytes > 0
        self._left_packets -= 1
        self._left_bytes -= cost
        return allowed

    def arrive_many(self, packets: int, cost: int) -> bool:
        """Several came at once, of ``cost`` bytes together; False when the sender had no right to send so many.

        The bytes may be overdrawn by the last one only, which whoever sends them sees to; here by all, since the bytes
        of a frame are bounded anyway.
        """
        allowed = 0 < packets <= self._left_packets and self._left_bytes > 0
        self._left_packets -= packets
        self._left_bytes -= cost
        return allowed

    def settle_many(self, packets: int, cost: int) -> None:
        """So many packets, of ``cost`` bytes together, are done, and the sender knows it without being told."""
        self._left_packets += packets
        self._left_bytes += cost

    def settle(self, cost: int) -> None:
        """One packet of ``cost`` bytes is done, and the sender knows it without being told."""
        self._left_packets += 1
        self._left_bytes += cost

    def drain(self, packets: int, byte_count: int) -> tuple[int, int] | None:
        """So much has drained; the portion to return to the sender now, or None while it can wait."""
        self._due_packets += packets
        self._due_bytes += byte_count
        if 2 * self._due_packets < self._granted_packets and 2 * self._due_bytes < self._granted_bytes:
            return None
        portion = self._due_packets, self._due_bytes
        self._left_packets += portion[0]
        self._left_bytes += portion[1]
        self._due_packets = self._due_bytes = 0
        return portion

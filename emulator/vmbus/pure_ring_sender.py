"""The sending end of a pure ring: a batch is joined and copied into the ring in one piece."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import islice

from emulator.status import Misuse
from emulator.vmbus.packets import MAX_LENGTH8, RingCorruption, encode_completion, encode_in_band
from emulator.vmbus.pure_ring_end import RingEnd
from emulator.vmbus.pure_ring_memory import RingMemory
from emulator.vmbus.ring_contract import (
    IN,
    MASK,
    OUT,
    PENDING,
    UNPADDED,
    Fence,
    Sent,
    checked_index,
    describe_bad_index,
    describe_moved_back,
    no_fence,
)

_LONGEST_IN_BAND = MAX_LENGTH8 * 8 - 16
_pack_footer = struct.Struct("<II").pack
_new = tuple.__new__  # a third of the price of calling a named tuple's class
_NOTHING_SENT = Sent(0, False)


class RingSender(RingEnd):
    """The sending end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    def __init__(self, ring: RingMemory, fence: Fence = no_fence) -> None:
        super().__init__(ring, fence)
        self._in = checked_index(ring, IN, "in")
        self._known_free = 0  # the receiver can only have made more room since; less means it moved its index back
        self._pending = False
        self.free_bytes()

    def free_bytes(self) -> int:
        """Bytes there is room for now, footers included. Raises RingCorruption."""
        if self._problem:
            raise RingCorruption(self._problem)
        size = self._size
        out = self._control[OUT]
        if out >= size or out & 7:
            raise self._fail(describe_bad_index("out", out, size))
        free = out - self._in - 8
        if free < 0:
            free += size
        if free < self._known_free:
            raise self._fail(describe_moved_back("out", out))
        self._known_free = free
        return free

    def would_ever_fit(self, cost: int) -> bool:
        """Whether a packet of ``cost`` bytes with its footer fits an empty ring. Some readers refuse the last 8."""
        return cost <= self.largest_cost

    @property
    def largest_cost(self) -> int:
        """The most ring bytes one packet may take."""
        return self._size - 16

    def send_batch(self, images: Sequence[bytes]) -> Sent:
        """Write as many encoded packets as fit, in order; publish once and decide once about the doorbell (3.4).

        Raises RingCorruption, or Misuse when a packet is not padded to 8 bytes.
        """
        free = self.free_bytes()
        size = self._size
        before = position = self._in
        parts: list[bytes] = []
        lengths = 0
        for image in images:
            total = len(image) + 8
            if total > free:
                break
            free -= total
            lengths |= total
            parts += (image, _pack_footer(0, position))
            position += total
            if position >= size:
                position -= size
        if lengths & 7:
            raise Misuse(UNPADDED)
        if not parts:
            return _NOTHING_SENT
        self._ring.write(before, b"".join(parts))
        control = self._control
        self._known_free = free
        self._in = control[IN] = position
        self._fence()
        # In this order: the mask, then the receiver's place. Past where we began means that it has seen us coming; at
        # no place at all, it has to look, or nobody finds the damage while both sleep.
        must_look = control[MASK] == 0 and ((out := control[OUT]) == before or out >= size or out & 7 != 0)
        return _new(Sent, (len(parts) >> 1, must_look))

    def send_in_band(self, payloads: Sequence[bytes], first: int, most: int, transaction_id: int, longest: int) -> Sent:
        """Write payloads from number ``first`` on, at most ``most``, as in-band packets that want no completion.

        As many as fit, up to one that is longer than ``longest`` bytes; transaction ids count up from the one given.
        Published once, with one decision about the doorbell. Raises RingCorruption, TypeError for what is not bytes.
        """
        room = self.free_bytes()
        longest = min(longest, _LONGEST_IN_BAND)
        images: list[bytes] = []
        if first < 0:
            raise Misuse(f"payloads are numbered from 0, not {first}")
        for payload in islice(payloads, first, first + max(most, 0)):
            if type(payload) is not bytes:
                if images:
                    break
                raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
            image = encode_in_band(payload, transaction_id + len(images)) if len(payload) <= longest else b""
            room -= len(image) + 8
            if not image or room < 0:
                break
            images.append(image)
        return self.send_batch(images)

    def send_asking(self, payload: bytes, transaction_id: int) -> Sent:
        """Write one in-band packet that wants its completion, if there is room; otherwise as ``send_in_band``."""
        self.free_bytes()
        if len(payload) > _LONGEST_IN_BAND:
            return _NOTHING_SENT
        return self.send_batch((encode_in_band(payload, transaction_id, True),))

    def send_completion(self, payload: bytes, transaction_id: int) -> Sent:
        """Write the completion of one of the peer's packets, if there is room; otherwise as ``send_in_band``."""
        self.free_bytes()
        if len(payload) > _LONGEST_IN_BAND:
            return _NOTHING_SENT
        return self.send_batch((encode_completion(payload, transaction_id),))

    def block(self, needed: int) -> bool:
        """Ask for a doorbell when ``needed`` bytes are free. True: there is room by now, try again. May raise."""
        size = self._size
        threshold = min((max(needed, size >> 2) + 7) & ~7, size - 8)
        self._control[PENDING] = threshold
        self._pending = True
        self._fence()
        return self.free_bytes() >= needed

    def unblock(self) -> None:
        """No packet waits for room any more."""
        if self._pending:
            self._control[PENDING] = 0
            self._pending = False

"""The receiving end of a pure ring: much is copied out in one piece, and everything judged in that private copy."""

from __future__ import annotations

import struct

from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.pure_ring_end import RingEnd
from emulator.vmbus.pure_ring_memory import RingMemory
from emulator.vmbus.ring_contract import (
    FEATURES,
    IN,
    MASK,
    MASK_SET_BY_PEER,
    OUT,
    PENDING,
    PENDING_SIZE_WORKS,
    Fence,
    Received,
    checked_index,
    describe_bad_index,
    describe_bad_packet,
    describe_crumb,
    describe_moved_back,
    no_fence,
)

_COMPLETION = 11
_FIRST_GUESS_SHIFT = 8  # 256 bytes a packet: how much to copy out at first when only a few packets are wanted
_LARGEST_COPY = 1 << 15
_COMPLETION_KIND = b"\x0b\0\2\0"  # how a completion's descriptor begins
_PLAIN_KIND, _NO_FLAGS = b"\6\0\2\0", b"\0\0"  # how an in-band descriptor begins, before and behind its length
_new = tuple.__new__  # a third of the price of calling a named tuple's class
_unpack_lengths = struct.Struct("<HHH").unpack_from  # type, data offset, length, as the descriptor begins


class RingReceiver(RingEnd):
    """The receiving end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    def __init__(self, ring: RingMemory, fence: Fence = no_fence) -> None:
        super().__init__(ring, fence)
        self._out = checked_index(ring, OUT, "out")
        self._known_used = 0  # seen and not yet consumed; the sender can only have added to it
        self._masked = self._control[MASK] != 0
        self.used_bytes()

    def used_bytes(self) -> int:
        """Bytes that wait to be taken, footers included. Raises RingCorruption."""
        if self._problem:
            raise RingCorruption(self._problem)
        index = self._control[IN]
        if index >= self._size or index & 7:
            raise self._fail(describe_bad_index("in", index, self._size))
        used = index - self._out
        if used < 0:
            used += self._size
        if used < self._known_used:
            raise self._fail(describe_moved_back("in", index))
        self._known_used = used
        return used

    @property
    def peer_honours_pending_size(self) -> bool:
        """Whether the peer rings when a blocked sender of ours has room; if not, such a sender must poll (3.1)."""
        return bool(self._control[FEATURES] & PENDING_SIZE_WORKS)

    def receive_batch(self, max_packets: int, max_bytes: int) -> Received:
        """Take up to ``max_packets`` data packets and ``max_bytes`` of their ring bytes, in the order they stand.

        One data packet is taken whatever its size, unless ``max_packets`` is 0. Completions do not count: nobody may
        hold them up, and the ring bounds them. Good packets in front of a bad one are returned; the next call raises
        RingCorruption.
        """
        used = self._wake()
        if not used:
            return _new(Received, ([], 0, False, True))
        images: list[bytes] = []
        consumed = self._take(images, used, max_packets, max_bytes)
        if not images:
            if self._problem:
                raise RingCorruption(self._problem)
            return _new(Received, (images, 0, False, False))
        return _new(Received, (images, consumed, self._took(used, consumed), consumed == used))

    def receive_payloads(self, max_packets: int, max_bytes: int) -> Received:
        """Take in-band packets that want no completion, up to the first of any other kind; their payloads, padded.

        Otherwise as ``receive_batch``. What is not plain stays, good or bad, for ``receive_batch`` to judge.
        """
        used = self._wake()
        payloads: list[bytes] = []
        consumed = self._take_payloads(payloads, used, max_packets, max_bytes)
        if not consumed:
            return Received(payloads, 0, False, used == 0)
        return Received(payloads, consumed, self._took(used, consumed), consumed == used)

    def take_completion(self, transaction_id: int) -> tuple[bytes, bool] | None:
        """Take what comes next if it is the completion of that packet: (payload, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        found = self._next_of(_COMPLETION_KIND)
        if found is None or found[0][8:] != transaction_id.to_bytes(8, "little"):
            return None
        _, used, total = found
        payload = self._ring.read((self._out + 16) % self._size, total - 24)
        return payload, self._took(used, total)

    def take_in_band(self) -> tuple[bytes, int, int, bool] | None:
        """Take what comes next if it is an in-band packet: (payload, transaction id, flags, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        found = self._next_of(_PLAIN_KIND)
        if found is None:
            return None
        head, used, total = found
        payload = self._ring.read((self._out + 16) % self._size, total - 24)
        return payload, int.from_bytes(head[8:], "little"), head[6] | head[7] << 8, self._took(used, total)

    def _wake(self) -> int:
        """The bytes that wait to be taken; when there are any, no doorbells from here on. Raises RingCorruption."""
        used = self.used_bytes()
        if not self._masked:
            if self._control[MASK]:
                raise self._fail(MASK_SET_BY_PEER)
            if used:
                self.mask()
        return used

    def _next_of(self, kind: bytes) -> tuple[bytes, int, int] | None:
        """A copy of the next packet's first 16 bytes, the bytes used and its own, if it begins with ``kind``."""
        used = self.used_bytes()
        if used < 24 or not self._masked:
            return None
        head = self._ring.read(self._out, 16)
        total = (head[4] | head[5] << 8) * 8 + 8
        return (head, used, total) if head[:4] == kind and 24 <= total <= used else None

    def _took(self, used: int, consumed: int) -> bool:
        """Publish that so many of the used bytes were taken; whether to ring the sender's doorbell."""
        control, before = self._control, self._out
        self._out = control[OUT] = after = (before + consumed) % self._size
        self._known_used = used - consumed
        self._fence()
        return control[PENDING] != 0 and self._frees_a_sender(before, after)

    def _take_payloads(self, payloads: list[bytes], used: int, max_packets: int, max_bytes: int) -> int:
        """Copy payloads out into ``payloads``; how many ring bytes their packets had."""
        read, size, position = self._ring.read, self._size, 0
        while used - position >= 24 and len(payloads) < max_packets:
            head = read((self._out + position) % size, 8)
            total = (head[4] | head[5] << 8) * 8 + 8
            if head[:4] != _PLAIN_KIND or head[6:] != _NO_FLAGS or not 24 <= total <= used - position:
                break
            if position and position + total > max_bytes:
                break
            payloads.append(read((self._out + position + 16) % size, total - 24))
            position += total
        return position

    def _take(self, images: list[bytes], used: int, max_packets: int, max_bytes: int) -> int:
        """Copy packets out into ``images``; how many ring bytes they took. A violation ends it and is remembered."""
        read = self._ring.read
        size = self._size
        copy = b""  # a private copy of the ring from ``start``: judged here, never looked up again in the ring
        start = position = data_bytes = 0  # start and position count from the read index
        first_guess = min((max(max_packets, 0) + 1) << _FIRST_GUESS_SHIFT, _LARGEST_COPY)
        while position < used:
            if position + 16 > start + len(copy):
                start = position
                copy = read((self._out + start) % size, min(used - start, first_guess))
                if len(copy) < 16:
                    self._problem = describe_crumb(len(copy))
                    break
            at = position - start
            type_number, data_offset8, length8 = _unpack_lengths(copy, at)
            total = (length8 << 3) + 8
            if data_offset8 < 2 or length8 < data_offset8 or total > used - position:
                self._problem = describe_bad_packet(data_offset8, length8, used - position)
                break
            if type_number != _COMPLETION:
                if max_packets <= 0 or (data_bytes and data_bytes + total > max_bytes):
                    break
                max_packets -= 1
                data_bytes += total
            image = copy[at : at + total - 8]
            missing = total - 8 - len(image)
            if missing:
                image += read((self._out + position + len(image)) % size, missing)
            images.append(image)
            position += total
        return position

    def _frees_a_sender(self, before: int, after: int) -> bool:
        """Whether taking what lay between two read indices just gave a blocked sender the room it waits for (3.4)."""
        control = self._control
        pending = control[PENDING] & ~7
        end = control[IN]
        size = self._size
        if not pending or not control[FEATURES] & PENDING_SIZE_WORKS or end >= size or end & 7:
            return False
        return (before - end - 8) % size < pending <= (after - end - 8) % size

    def mask(self) -> None:
        """No doorbells for now, we are awake."""
        self._control[MASK] = 1
        self._masked = True

    def go_idle(self) -> bool:
        """Ask for doorbells again; True: still empty, sleep. False: look again first. Raises RingCorruption."""
        if self._problem:
            raise RingCorruption(self._problem)
        self._control[MASK] = 0
        self._masked = False
        self._fence()
        return self.used_bytes() == 0

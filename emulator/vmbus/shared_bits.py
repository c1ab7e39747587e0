"""Bits in memory that two sides change at once: interrupt pages, event flags. One side sets a bit, the other takes it.

Each bit shares its word with its neighbours, so that reading a word, changing a bit and writing it back would undo what
the other side did to the rest of it meanwhile. The compiled functions change the word in one step of the processor's
(fetch-and-or to set, exchange with 0 to take), with a full fence: what was stored before a bit was set is seen by
whoever took it, and neither side's bits get lost, if the other side is as careful. Plain Python has no such step. Its
functions are for memory that one thread changes; ``BITS_ARE_ATOMIC`` says which ones these are.
"""

from __future__ import annotations

from emulator.status import Misuse


def set_bit_plain(bits: memoryview, bit: int) -> bool:
    """Set a bit, counted from the lowest of the first byte; True when it was clear. Raises Misuse beyond the end."""
    if not 0 <= bit < bits.nbytes * 8:
        raise Misuse(f"bit {bit} is not in {bits.nbytes} bytes")
    index, mask = bit >> 3, 1 << (bit & 7)
    was_clear = not bits[index] & mask
    bits[index] |= mask
    return was_clear


def take_bits_plain(bits: memoryview) -> list[int]:
    """Clear every bit that is set; their numbers, lowest first. Raises Misuse unless these are whole 8-byte words."""
    if bits.nbytes & 7:
        raise Misuse("bits are taken from whole, aligned words of 8 bytes")
    taken = []
    for index, byte in enumerate(bytes(bits)):
        if byte:
            bits[index] = 0
            taken += [8 * index + bit for bit in range(8) if byte >> bit & 1]
    return taken


try:
    from emulator.vmbus.compiled_ring import set_bit, take_bits
except ImportError:  # there is no compiled ring, or one of before it had these
    BITS_ARE_ATOMIC = False
    set_bit, take_bits = set_bit_plain, take_bits_plain
else:
    BITS_ARE_ATOMIC = True

__all__ = ["BITS_ARE_ATOMIC", "set_bit", "set_bit_plain", "take_bits", "take_bits_plain"]

"""Where a frame ends: the scan that every byte from a socket passes before anything is built from it.

It finds the end of a MessagePack value, counts its elements and depth, and refuses ext types. It is resumable: a frame
that arrives byte by byte is never walked twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.status import PeerViolation


class WireError(PeerViolation):
    """The peer broke the wire protocol. The session ends; the text goes to the peer and to the log."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one frame may cost."""

    # The largest legal request carries a ring packet (524,280 bytes) and its page list (524,288 bytes).
    frame_bytes: int = 1_200_000
    # The widest row of the schema has 9 values; the envelope adds 5. The rest is room to grow.
    elements: int = 64
    # Envelope 1, params 2; error and result arrays 2. The rest is room to grow.
    depth: int = 4


# For each first byte: (what follows, its number). A fixed size counts the first byte too.
_FIXED, _SIZED, _ITEMS, _ITEMS_SIZED, _EXT, _NEVER = range(6)


def _classify(first: int) -> tuple[int, int, int]:
    """(class, size or size-field bytes or item count, items per unit) of a MessagePack first byte."""
    if first <= 0x7F or first >= 0xE0:
        return _FIXED, 1, 0
    if first <= 0x8F:
        return _ITEMS, first & 0x0F, 2
    if first <= 0x9F:
        return _ITEMS, first & 0x0F, 1
    if first <= 0xBF:
        return _FIXED, 1 + (first & 0x1F), 0
    sizes = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
    sizes |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    if first in sizes:
        return _FIXED, sizes[first], 0
    if first in (0xC4, 0xC5, 0xC6):
        return _SIZED, 1 << (first - 0xC4), 0
    if first in (0xD9, 0xDA, 0xDB):
        return _SIZED, 1 << (first - 0xD9), 0
    if first in (0xDC, 0xDD):
        return _ITEMS_SIZED, 2 << (first - 0xDC), 1
    if first in (0xDE, 0xDF):
        return _ITEMS_SIZED, 2 << (first - 0xDE), 2
    return (_NEVER, 0, 0) if first == 0xC1 else (_EXT, 0, 0)


_CLASSES = tuple(_classify(first) for first in range(256))


class FrameScanner:
    """Finds where frames end, incrementally, and enforces ``FrameLimits``."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._start = 0
        self._next = 0  # offset of the next element's first byte
        self._elements = 0
        self._outer: list[int] = []  # items still missing in each open array or map around the innermost one
        self._missing = 1  # items still missing in the innermost one; the frame itself is one item

    def rebase(self, dropped: int) -> None:
        """What is scanned lost its first ``dropped`` bytes."""
        self._start -= dropped
        self._next -= dropped

    def find_end(self, data: bytes | bytearray | memoryview) -> int | None:
        """The offset just behind the current frame, or None while bytes are missing; raises WireError.

        Every message passes here, so it works on local names and looks each first byte up once.
        """
        limits, size, start, position = self._limits, len(data), self._start, self._next
        elements, outer, missing = self._elements, self._outer, self._missing
        while position < size:
            kind, number, per_unit = _CLASSES[data[position]]
            items = 0
            if kind == _FIXED:
                after = position + number
            elif kind == _ITEMS:
                after, items = position + 1, number * per_unit
            elif kind in (_EXT, _NEVER):
                raise WireError(_refusal(kind, data[position]))
            else:
                after = position + 1 + number
                if after > size:
                    break
                value = int.from_bytes(data[position + 1 : after], "big")
                if kind == _SIZED:
                    after += value
                else:
                    items = value * per_unit
            if elements + 1 + items > limits.elements:
                raise WireError(f"a frame holds more than {limits.elements} MessagePack elements")
            if after - start > limits.frame_bytes:
                raise WireError(f"a frame is longer than {limits.frame_bytes} bytes")
            if items:
                if len(outer) >= limits.depth:
                    raise WireError(f"a frame nests arrays or maps deeper than {limits.depth}")
                outer.append(missing - 1)
                missing = items
            elif after > size:
                # Its bytes are still to come: look at it again when they are.
                break
            else:
                missing -= 1
                while not missing:
                    if not outer:
                        self._start = self._next = after
                        self._elements, self._missing = 0, 1
                        return after
                    missing = outer.pop()
            elements += 1
            position = after
        self._next, self._elements, self._missing = position, elements, missing
        return None


def _refusal(kind: int, first: int) -> str:
    if kind == _EXT:
        return f"MessagePack ext types are not part of this protocol (byte 0x{first:02X})"
    return "the bytes are not MessagePack (0xC1 never occurs in it)"

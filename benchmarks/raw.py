"""What both ends of a raw carrier have agreed on: a header for each batch, then messages of one size.

For a round trip the far end sends each message back, for external data it answers each with 8 bytes, and for a rate it
answers the whole batch with 8 bytes: how many whole messages came.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from benchmarks.rows import Face, Measure

RECEIVE_BYTES = 64 * 1024
ANSWER_BYTES = 8

_HEADER = struct.Struct("<IIQ")
HEADER_BYTES = _HEADER.size
_MEASURES = tuple(Measure)


class Batch(NamedTuple):
    """So many messages of so many bytes, for one measure."""

    measure: Measure
    message_bytes: int
    messages: int

    def pack(self) -> bytes:
        """The header that announces it."""
        return _HEADER.pack(_MEASURES.index(self.measure), self.message_bytes, self.messages)

    @staticmethod
    def unpack(header: bytes) -> Batch:
        """A batch from its header."""
        index, message_bytes, messages = _HEADER.unpack(header)
        return Batch(_MEASURES[index], message_bytes, messages)


UDP = "udp"


def relay_path(directory: str, name: str, face: Face) -> Path:
    """Where a relay listens for the two ends of a face; ``name`` is the carrier's, or UDP."""
    return Path(directory) / f"{name}-{face}.sock"


def daemon_path(directory: str) -> Path:
    """Where the daemon listens."""
    return Path(directory) / "vmbusd.sock"


# The hosted ends agree on this much: an 8-byte packet asks how many packets without completion came since the last one.
QUESTION = b"how many"


def answer(number: int) -> bytes:
    """A number as an answer."""
    return number.to_bytes(ANSWER_BYTES, "little")


def require(got: int, wanted: int, what: str) -> None:
    """A measurement of something that went wrong is no measurement."""
    if got != wanted:
        raise RuntimeError(f"{what}: {got} instead of {wanted}")

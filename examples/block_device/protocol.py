"""What the two drivers say to each other. Everything else they have in common is the channel.

A request is 16 bytes, and its data is external: the guest's own memory, which the host reads or fills. The answer, 16
bytes too, is the request's completion.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

INTERFACE = UUID("6d1f0a52-9a53-4f0e-8d41-0b10c4de71ce")
INSTANCE = UUID("6d1f0a52-9a53-4f0e-8d41-000000000001")
VERSION = 1
BLOCK_BYTES = 512
MOST_BLOCKS = 2048  # of one request: a MiB, which is what a channel carries by default

_REQUEST = struct.Struct("<IIQ")
_ANSWER = struct.Struct("<IIQ")
ANSWER_BYTES = _ANSWER.size


class Operation(IntEnum):
    """What a request asks for."""

    NEGOTIATE = 1
    READ = 2
    WRITE = 3


class Outcome(IntEnum):
    """How it went."""

    GOOD = 0
    UNKNOWN_VERSION = 1
    OUT_OF_RANGE = 2


class Request(NamedTuple):
    """``number`` is a version for NEGOTIATE, else how many blocks, beginning with block ``first``."""

    operation: Operation
    number: int
    first: int = 0

    def pack(self) -> bytes:
        """As it travels."""
        return _REQUEST.pack(*self)


class Answer(NamedTuple):
    """For NEGOTIATE, ``block_bytes`` and ``blocks`` say how large the disk is."""

    outcome: Outcome
    block_bytes: int = 0
    blocks: int = 0

    def pack(self) -> bytes:
        """As it travels."""
        return _ANSWER.pack(*self)


def parse_request_untrusted(payload: bytes) -> Request:
    """Raises ValueError for what is no request."""
    if len(payload) != _REQUEST.size:
        raise ValueError(f"a request has {_REQUEST.size} bytes, not {len(payload)}")
    operation, number, first = _REQUEST.unpack(payload)
    return Request(Operation(operation), number, first)


def parse_answer_untrusted(payload: bytes) -> Answer:
    """Raises ValueError for what is no answer."""
    if len(payload) != ANSWER_BYTES:
        raise ValueError(f"an answer has {ANSWER_BYTES} bytes, not {len(payload)}")
    outcome, block_bytes, blocks = _ANSWER.unpack(payload)
    return Answer(Outcome(outcome), block_bytes, blocks)

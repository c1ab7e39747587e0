"""What both builds of the ring agree on: the words of the control page, what calls return, and what is said of damage.

The pure ring and the compiled one are two sources for one behaviour. Whatever a caller can see of either is named here
once, so that neither can drift: results, refusals word for word, and how a guest and a host lay out a ring at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from emulator.memory import PAGE_SIZE
from emulator.status import Misuse
from emulator.vmbus.packets import RingCorruption

IN, OUT, MASK, PENDING, FEATURES = 0, 1, 2, 3, 16  # indices of 32-bit words in the control page
PENDING_SIZE_WORKS = 1  # bit 0 of the feature word

UNPADDED = "a packet in the ring is padded to a multiple of 8 bytes"
MASK_SET_BY_PEER = "the peer set the interrupt mask, which is not its to write"

Fence = Callable[[], None]


def no_fence() -> None:
    """The fence for both ends in one thread, and for the compiled ring, which has the processor's own."""


class Sent(NamedTuple):
    """How many packets of a batch went into the ring, in order, and whether to ring the peer's doorbell."""

    written: int
    signal: bool


class Received(NamedTuple):
    """What came out of the ring: encoded packets as private copies, without footers.

    ``ring_bytes`` is the room they gave back, ``signal`` whether to ring the peer's doorbell, ``empty`` whether the
    ring was seen empty behind them (``go_idle`` before sleeping on it).
    """

    images: list[bytes]
    ring_bytes: int
    signal: bool
    empty: bool


class ControlWords(Protocol):
    """The control page as 32-bit words; each access must be a single one."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class RingSpace(Protocol):
    """As much of either build's ``RingMemory`` as laying out a ring needs."""

    @property
    def control(self) -> ControlWords:
        """The words of the control page."""

    @property
    def data_bytes(self) -> int:
        """The size of the data area."""


def check_page_count(count: int) -> None:
    """Raises Misuse unless so many pages are enough for a ring."""
    if count < 2:
        raise Misuse(f"a ring needs a control page and at least one data page, not {count} in all")


def initialise_as_guest(*rings: RingSpace) -> None:
    """What a guest does to both rings before it opens the channel: all words zero, the pending size counts (3.1)."""
    for ring in rings:
        control = ring.control
        for index in range(PAGE_SIZE // 4):
            control[index] = 0
        control[FEATURES] = PENDING_SIZE_WORKS


def initialise_as_host(incoming: RingSpace, outgoing: RingSpace) -> None:
    """What a host does at open (3.1). The indices stay: after a reopen or a restore they need not be 0.

    Raises RingCorruption when an index of either ring is illegal.
    """
    for ring in (incoming, outgoing):
        checked_index(ring, IN, "in")
        checked_index(ring, OUT, "out")
    outgoing.control[FEATURES] = PENDING_SIZE_WORKS
    outgoing.control[PENDING] = 0
    incoming.control[MASK] = 1


def checked_index(ring: RingSpace, word: int, name: str) -> int:
    """One of the two indices; raises RingCorruption when it is illegal."""
    index = ring.control[word]
    if index >= ring.data_bytes or index & 7:
        raise RingCorruption(describe_bad_index(name, index, ring.data_bytes))
    return index


def describe_bad_index(name: str, index: int, byte_count: int) -> str:
    """What to say about an illegal index."""
    return f"the ring's {name} index is 0x{index:X}: not a multiple of 8 below 0x{byte_count:X}"


def describe_moved_back(name: str, index: int) -> str:
    """What to say about an index that was further along at an earlier look."""
    return f"the ring's {name} index moved back to 0x{index:X}"


def describe_crumb(byte_count: int) -> str:
    """What to say about fewer bytes than a descriptor has."""
    return f"{byte_count} bytes in the ring are no packet"


def describe_bad_packet(data_offset8: int, length8: int, held: int) -> str:
    """What to say about a descriptor that does not fit itself, or the ``held`` bytes the ring has from it on."""
    where = f"payload at {data_offset8 * 8}, where the ring holds {held}"
    return f"a packet of {length8 * 8} bytes, {where}"

"""One direction of a packet ring: a sender at one end, a receiver at the other, nothing shared but guest memory.

The first page is the control page, the rest is data, used as a circle of 8-byte units:

==========================  ==========  ====================================================
word                        written by  meaning
==========================  ==========  ====================================================
``in``                      sender      next free offset
``out``                     receiver    next unread offset
``interrupt_mask``          receiver    not 0: no doorbell when the ring stops being empty
``pending_send_size``       sender      not 0: ring me when this many bytes have become free
``feature_bits`` bit 0      sender      the pending size counts
==========================  ==========  ====================================================

Each end keeps a private copy of the index it owns; what stands in shared memory for it is output only. The other
index is range-checked at every read and may only move forwards. Everything is copied out once and judged in the copy.
A violation is remembered: every later call raises ``RingCorruption`` again.

Order matters: publish, then ``fence``, then look at what the peer wrote. A plain store followed by a load may be
reordered by the processor, and a wake-up gets lost.

There are two builds of it. ``pure_ring`` runs everywhere; its caller brings a fence that fits its world (``no_fence``
in one thread). ``compiled_ring`` exists where a C compiler was there at installation; it has real fences of its own,
and calls another one after them only when it is not ``no_fence``. The names here are the compiled ones where there are
any; ``RING_BUILD`` says which, and ``RING_BUILDS`` has every build there is, for whoever wants a certain one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emulator.vmbus import pure_ring
from emulator.vmbus.ring_contract import Fence, Received, Sent, initialise_as_guest, initialise_as_host, no_fence

__all__ = [
    "RING_BUILD",
    "RING_BUILDS",
    "RING_BUILD_PROBLEM",
    "RING_NEEDS_FENCE",
    "Fence",
    "Received",
    "RingBuild",
    "RingMemory",
    "RingReceiver",
    "RingSender",
    "Sent",
    "initialise_as_guest",
    "initialise_as_host",
    "no_fence",
]


class RingBuild(NamedTuple):
    """One build of the ring. The pure classes stand for the types of both; the compiled ones have the same methods."""

    name: str
    memory: type[pure_ring.RingMemory]
    sender: type[pure_ring.RingSender]
    receiver: type[pure_ring.RingReceiver]
    needs_fence: bool


def _compiled() -> tuple[RingBuild | None, str]:
    """The compiled build, or None and why there is none."""
    try:
        import emulator.vmbus.compiled_ring as compiled_ring
    except ModuleNotFoundError:
        return None, "it was not built when this was installed, for want of a C compiler or of Python's headers"
    except ImportError as problem:
        return None, str(problem)
    if not hasattr(compiled_ring.RingSender, "send_asking"):
        return None, "it was built from older sources than these; install again"
    ends = compiled_ring.RingSender, compiled_ring.RingReceiver
    return RingBuild("compiled", compiled_ring.RingMemory, *ends, needs_fence=False), ""


_PURE = RingBuild("pure", pure_ring.RingMemory, pure_ring.RingSender, pure_ring.RingReceiver, needs_fence=True)
_COMPILED, RING_BUILD_PROBLEM = _compiled()
_CHOSEN = _COMPILED or _PURE

RING_BUILDS = {build.name: build for build in (_PURE, _COMPILED) if build is not None}
RING_BUILD = _CHOSEN.name
RING_NEEDS_FENCE = _CHOSEN.needs_fence

if TYPE_CHECKING:
    from emulator.vmbus.pure_ring import RingMemory, RingReceiver, RingSender
else:
    RingMemory, RingSender, RingReceiver = _CHOSEN.memory, _CHOSEN.sender, _CHOSEN.receiver

"""The endpoint of a hosted end: ring code of the daemon's over the two rings of a channel."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

from emulator.memory import GuestMemory
from emulator.vmbus.endpoint import ChannelEndpoint, EndpointLimits, Side
from emulator.vmbus.profile import ChannelProfile, KmclProfile
from emulator.vmbus.ring import RING_NEEDS_FENCE, RingMemory, RingReceiver, RingSender, no_fence

_lock = threading.Lock()


def full_fence() -> None:
    """Order a store before a later load: a lock's acquire and release is a full barrier on x86-64."""
    _lock.acquire()
    _lock.release()


def hosted_endpoint(
    side: Side,
    rings: tuple[RingMemory, RingMemory],
    memory: GuestMemory,
    profile: ChannelProfile,
    pages: tuple[int, int],
    *,
    is_driver: bool,
    is_pipe: bool,
) -> ChannelEndpoint:
    """An endpoint over an incoming and an outgoing ring. ``pages`` are the data pages of the outgoing and the incoming
    one as the guest sees them.
    """
    incoming, outgoing = rings
    kmcl = profile.kmcl
    if not is_driver:
        # A client program is not a driver: a packet that wants no completion is finished when it is delivered.
        kmcl = _holding_nothing(kmcl)
    fence = full_fence if RING_NEEDS_FENCE else no_fence
    receiver, sender = RingReceiver(incoming, fence), RingSender(outgoing, fence)
    return ChannelEndpoint(side, receiver, sender, memory, kmcl, _with_pages(profile.limits, *pages), is_pipe)


# Thousands of channels have few profiles between them.
@lru_cache(64)
def _with_pages(limits: EndpointLimits, outgoing: int, incoming: int) -> EndpointLimits:
    return replace(limits, outgoing_ring_pages=outgoing, incoming_ring_pages=incoming)


@lru_cache(64)
def _holding_nothing(profile: KmclProfile) -> KmclProfile:
    return replace(profile, hold_unasked_packets=False)

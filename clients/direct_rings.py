"""The rings of a direct channel: laid over shared guest memory, with the fence this process needs."""

from __future__ import annotations

import platform
import threading
from dataclasses import replace
from typing import NamedTuple

from clients.calls import RequestFailed
from emulator.memory import GuestMemory
from emulator.status import NtStatus
from emulator.vmbus.endpoint import ChannelEndpoint, Side
from emulator.vmbus.profile import ChannelProfile
from emulator.vmbus.ring import (
    RING_NEEDS_FENCE,
    Fence,
    RingMemory,
    RingReceiver,
    RingSender,
    initialise_as_host,
    no_fence,
)
from emulator.wire.runs import unpack_pfns

_lock = threading.Lock()


def _lock_fence() -> None:
    """Order a store before a later load: a lock's acquire and release is a full barrier on x86-64."""
    _lock.acquire()
    _lock.release()


def ring_fence() -> Fence:
    """The fence the rings of this process need. Raises RequestFailed where plain Python has none."""
    if not RING_NEEDS_FENCE:
        return no_fence
    if platform.machine() != "x86_64":
        text = "direct channels on this architecture need the compiled ring; install a C compiler and install again"
        raise RequestFailed(NtStatus.NOT_SUPPORTED, text)
    return _lock_fence


class Rings(NamedTuple):
    """What the daemon says of a direct channel's rings."""

    pfns: bytes
    downstream: int
    packet_bytes: int
    external_bytes: int
    external_mdls: int
    descriptors: int


def endpoint_on(memory: GuestMemory, side: Side, rings: Rings, pipe: bool, profile: ChannelProfile) -> ChannelEndpoint:
    """The endpoint over a channel's rings. Raises RingCorruption for rings that somebody has written to."""
    pfns = unpack_pfns(rings.pfns)
    to_host = RingMemory.over(memory, pfns[: rings.downstream])
    to_guest = RingMemory.over(memory, pfns[rings.downstream :])
    incoming, outgoing = (to_guest, to_host) if side is Side.GUEST else (to_host, to_guest)
    if side is Side.HOST:
        initialise_as_host(incoming=incoming, outgoing=outgoing)
    limits = replace(
        profile.limits,
        max_packet_bytes=rings.packet_bytes,
        max_external_bytes=rings.external_bytes,
        max_external_chain=rings.external_mdls,
        outgoing_ring_pages=max(1, outgoing.data_bytes // 4096),
        incoming_ring_pages=max(1, incoming.data_bytes // 4096),
    )
    fence = ring_fence()
    receiver, sender = RingReceiver(incoming, fence), RingSender(outgoing, fence)
    return ChannelEndpoint(side, receiver, sender, memory, profile.kmcl, limits, pipe)

"""Both ends of one open channel over one guest memory, for tests: the pages, the rings, the endpoints.

Rings and their ends are of the build chosen with ``rings_of``: tests that use this run once with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, EndpointLimits, Progress, ReceivedPacket, Side
from emulator.vmbus.profile import KmclProfile
from emulator.vmbus.ring import (
    RING_BUILD,
    RING_BUILDS,
    Fence,
    RingBuild,
    RingMemory,
    RingReceiver,
    RingSender,
    initialise_as_guest,
    initialise_as_host,
    no_fence,
)

IN, OUT, MASK, PENDING, FEATURES = 0, 1, 2, 3, 16

WAIT = 0x1

_chosen = [RING_BUILDS[RING_BUILD]]


@contextmanager
def rings_of(build: RingBuild) -> Iterator[None]:
    """Everything made here meanwhile is of this build."""
    _chosen.append(build)
    try:
        yield
    finally:
        _chosen.pop()


def ring_over(memory: GuestMemory, pfns: Sequence[int]) -> RingMemory:
    """A ring in these pages, as it stands there."""
    return _chosen[-1].memory.over(memory, pfns)


def sender_on(ring: RingMemory, fence: Fence = no_fence) -> RingSender:
    """The sending end of a ring."""
    return _chosen[-1].sender(ring, fence)


def receiver_on(ring: RingMemory, fence: Fence = no_fence) -> RingReceiver:
    """The receiving end of a ring."""
    return _chosen[-1].receiver(ring, fence)


def memory_of(pages: int) -> GuestMemory:
    """Fresh zeroed guest memory."""
    return GuestMemory(memoryview(bytearray(pages * PAGE_SIZE)))


def ring_of(data_pages: int, memory: GuestMemory | None = None, pfns: Sequence[int] | None = None) -> RingMemory:
    """An initialised ring in the first pages of a memory, or in the pages named."""
    ring = ring_over(memory or memory_of(data_pages + 1), pfns or range(data_pages + 1))
    initialise_as_guest(ring)
    return ring


def ends_of(ring: RingMemory) -> tuple[RingSender, RingReceiver]:
    """A sender and a receiver on one ring."""
    return sender_on(ring), receiver_on(ring)


class ChannelPair:
    """A guest and a host end, rings of ``data_pages`` each, and spare pages of guest memory behind the rings."""

    def __init__(
        self,
        data_pages: int = 1,
        *,
        profile: KmclProfile | None = None,
        limits: EndpointLimits | None = None,
        is_pipe: bool = False,
        spare_pages: int = 32,
    ) -> None:
        ring_pages = data_pages + 1
        self.first_spare = 2 * ring_pages
        self.memory = memory_of(self.first_spare + spare_pages)
        self.to_host = ring_over(self.memory, range(ring_pages))
        self.to_guest = ring_over(self.memory, range(ring_pages, 2 * ring_pages))
        initialise_as_guest(self.to_host, self.to_guest)
        initialise_as_host(incoming=self.to_host, outgoing=self.to_guest)
        profile = profile or KmclProfile()
        limits = limits or EndpointLimits()
        self.guest = ChannelEndpoint(
            Side.GUEST, receiver_on(self.to_guest), sender_on(self.to_host), self.memory, profile, limits, is_pipe
        )
        self.host = ChannelEndpoint(
            Side.HOST, receiver_on(self.to_host), sender_on(self.to_guest), self.memory, profile, limits, is_pipe
        )

    def mdl(self, byte_offset: int, byte_count: int, *pages: int, next: Mdl | None = None) -> Mdl:
        """An MDL over spare pages, numbered from 0."""
        return Mdl(byte_offset, byte_count, tuple(self.first_spare + page for page in pages), next=next)

    def host_packets(self) -> list[ReceivedPacket]:
        """What the host gets now."""
        return take(self.host).packets

    def guest_completions(self) -> list[Completed]:
        """What ends at the guest now."""
        return take(self.guest).completed


def take(endpoint: ChannelEndpoint) -> Progress:
    """One receive without any bound worth the name."""
    return endpoint.receive(1 << 20, 1 << 30)

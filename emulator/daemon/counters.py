"""What one machine has done since it began: plain numbers, counted where it happens, read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

# Upper bounds in seconds: from a round trip on one busy cpu to a peer that thinks it over.
LATENCY_BOUNDS = (
    *(25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0),
)


class Latencies:
    """How long packets took from their client's request to their completion: a histogram of fixed buckets."""

    __slots__ = ("counts", "total_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)  # the last one: longer than every bound
        self.total_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """One more packet."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.total_seconds += seconds

    def add(self, other: Latencies) -> None:
        """Take in another histogram."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total_seconds += other.total_seconds

    def cumulative(self) -> list[tuple[float | None, int]]:
        """(bound, packets that took no longer); None stands for no bound."""
        total = 0
        found: list[tuple[float | None, int]] = []
        for bound, count in zip((*LATENCY_BOUNDS, None), self.counts, strict=True):
            total += count
            found.append((bound, total))
        return found


@dataclass(slots=True)
class Counters:
    """One machine's. Packets and their bytes are those that hosted ends took out of rings; direct ends tell nobody."""

    packets_to_guest: int = 0
    packets_to_host: int = 0
    bytes_to_guest: int = 0
    bytes_to_host: int = 0
    channels_opened: int = 0
    channels_failed: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def add(self, other: Counters) -> None:
        """Take in another machine's."""
        self.packets_to_guest += other.packets_to_guest
        self.packets_to_host += other.packets_to_host
        self.bytes_to_guest += other.bytes_to_guest
        self.bytes_to_host += other.bytes_to_host
        self.channels_opened += other.channels_opened
        self.channels_failed += other.channels_failed
        self.latencies.add(other.latencies)

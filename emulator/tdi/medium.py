"""What a segment does to datagrams on their way: delay, chance, a limited rate, a cut. Pure: time and luck come in.

For each receiver of a datagram, in this order: is it cut off, is the datagram lost, does it come twice, and when does
each copy arrive. Luck is asked only where there is something to decide, and each impairment has its own, so that
switching one on leaves the decisions of the others as they were.

The line is shared: with a rate, a datagram leaves when those before it have left, whoever sent them. On the way to
one receiver datagrams keep their order, whatever the jitter; only reordering lets others pass the one it holds back.

Connections share the line, and their packets meet the same fates as datagrams, but nothing of them is lost for good:
what becomes of that is in ``segment_lanes``. They have luck of their own, so that they change nothing for datagrams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from emulator.tdi.profile import IP_AND_TCP_HEADER_BYTES, IP_AND_UDP_HEADER_BYTES, SegmentProfile

# How much of the line's backlog connections may fill; the rest is for datagrams, which would all be dropped otherwise.
CONNECTIONS_SHARE = 0.5


class Chance(Protocol):
    """Where luck comes from: ``random.Random(seed)`` will do."""

    def random(self) -> float:
        """A number from 0 to 1, 1 excluded."""


class Luck(NamedTuple):
    """A chance for each impairment."""

    loss: Chance
    duplication: Chance
    jitter: Chance
    reordering: Chance
    connection_loss: Chance
    connection_jitter: Chance
    connection_reordering: Chance

    @classmethod
    def of_one(cls, chance: Chance) -> Luck:
        """The same chance for all."""
        return cls(*(chance for _ in cls._fields))


@dataclass(slots=True)
class Counts:
    """What has become of datagrams. All but ``sent`` count receivers: a broadcast to five machines can lose five."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    cut: int = 0
    """Kept from a machine on the other side of a partition."""
    overflowed: int = 0
    """Dropped for want of room: in flight, or before a line whose rate is too low."""
    resent: int = 0
    """Packets of connections that were lost, and sent again."""


class Medium:
    """One segment's impairments and what they remember. ``profile`` may be replaced at any time with ``obey``."""

    def __init__(self, profile: SegmentProfile, luck: Luck) -> None:
        self.luck = luck
        self.counts = Counts()
        self._line_free_at = 0.0
        self._latest: dict[object, float] = {}
        self._adopt(profile)

    def obey(self, profile: SegmentProfile, now: float) -> float:
        """From now on be so; returns by when everything is there that is on its way already.

        A line that was behind works its backlog off at the new rate, and nothing is under way for longer than what is
        sent now can be: else a latency or a rate set by mistake would hold up its receivers long after it was mended.
        """
        old_rate, rate = self.profile.rate_bytes_per_second, profile.rate_bytes_per_second
        if self._line_free_at > now and rate != old_rate:
            seconds = (self._line_free_at - now) * old_rate / rate if rate else 0.0
            self._line_free_at = now + min(seconds, profile.rate_backlog_seconds)
        self._adopt(profile)
        latest = max(now, self._line_free_at) + profile.delay_seconds + profile.jitter_seconds
        if profile.reorder:
            latest += profile.reorder_seconds
        self._latest = {receiver: min(due, latest) for receiver, due in self._latest.items()}
        return latest

    def _adopt(self, profile: SegmentProfile) -> None:
        self.profile = profile
        self.is_plain = profile.is_plain
        self.is_swift = profile.is_swift
        self._sides = {name: side for side, names in enumerate(profile.partition) for name in names}

    def forget(self, receiver: object) -> None:
        """A receiver has gone."""
        self._latest.pop(receiver, None)

    def is_cut(self, one: str, other: str) -> bool:
        """Whether a partition stands between two machines; those it does not name are together on a side of their own.

        Both names may be GATEWAY, for the way out.
        """
        return bool(self._sides) and self._sides.get(one, -1) != self._sides.get(other, -1)

    def departure(self, byte_count: int, now: float) -> float | None:
        """When a datagram has left on the shared line; None when the line is too far behind to take it."""
        rate = self.profile.rate_bytes_per_second
        if not rate:
            return now
        begins = max(now, self._line_free_at)
        if begins - now > self.profile.rate_backlog_seconds:
            return None
        self._line_free_at = begins + (byte_count + IP_AND_UDP_HEADER_BYTES) / rate
        return self._line_free_at

    def line_opens(self, now: float) -> float | None:
        """When a connection may put its next packet on the line; None for now."""
        profile = self.profile
        if not profile.rate_bytes_per_second:
            return None
        opens = self._line_free_at - CONNECTIONS_SHARE * profile.rate_backlog_seconds
        return opens if opens > now else None

    def packet_departure(self, byte_count: int, now: float) -> float:
        """When a connection's packet has left on the shared line, which takes it however far behind it is."""
        rate = self.profile.rate_bytes_per_second
        if not rate:
            return now
        self._line_free_at = max(now, self._line_free_at) + (byte_count + IP_AND_TCP_HEADER_BYTES) / rate
        return self._line_free_at

    def arrivals(self, receiver: object, departure: float) -> list[float]:
        """When one receiver gets a datagram: once, twice, or not at all."""
        profile = self.profile
        if profile.loss and self.luck.loss.random() < profile.loss:
            self.counts.lost += 1
            return []
        copies = 1
        if profile.duplicate and self.luck.duplication.random() < profile.duplicate:
            self.counts.duplicated += 1
            copies = 2
        return [self._arrival(receiver, departure) for _ in range(copies)]

    def _arrival(self, receiver: object, departure: float) -> float:
        profile = self.profile
        due = departure + profile.delay_seconds
        if profile.jitter_seconds:
            swing = (2.0 * self.luck.jitter.random() - 1.0) * profile.jitter_seconds
            due = max(departure, due + swing)
        latest = self._latest.get(receiver)
        if latest is not None:
            if latest > departure:
                due = max(due, latest)
            else:
                del self._latest[receiver]
        if profile.reorder and self.luck.reordering.random() < profile.reorder:
            self.counts.reordered += 1
            return due + profile.reorder_seconds
        if due > departure:
            self._latest[receiver] = due
        return due

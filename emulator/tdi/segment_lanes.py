"""One direction of a connection on a segment: what is on its way, in order, and when it arrives. Pure.

A lane is reliable, so what the medium does to packets shows as time:

* each packet leaves on the shared line, and takes the segment's latency, more or less its jitter;
* one that others pass (reordering) holds up all behind it, as they cannot be used before it;
* one that is lost is sent again a round trip and ``RESEND_SECONDS`` later, then twice that, and so on, and what is
  behind it waits. Each time chance is asked anew, by the settings there are then, until ``give_up_seconds`` are over.

A copy is nothing to a connection, so duplication does nothing.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from emulator.tdi.medium import Medium

# What a sender waits beyond a round trip before it takes a packet for lost; what today's TCPs do.
RESEND_SECONDS = 0.2


class Kind(Enum):
    """What travels between the two ends."""

    KNOCK = "knock"
    ACCEPTANCE = "acceptance"
    DATA = "data"
    RELEASE = "release"
    VERDICT = "verdict"
    NOTHING = "nothing"
    """Not a parcel: one was lost so often that the sender has given up."""


class Parcel(NamedTuple):
    """One of them. Its data are a piece of a send, or user data."""

    kind: Kind
    data: bytes = b""
    end_of_record: bool = True
    expedited: bool = False


class _OnItsWay:
    __slots__ = ("due", "lost", "parcel", "since", "wait")

    def __init__(self, parcel: Parcel, since: float) -> None:
        self.parcel = parcel
        self.since = since
        self.wait = 0.0
        self.due = since
        self.lost = False


class Lane:
    """See the module's docstring."""

    def __init__(self, medium: Medium, give_up_seconds: float) -> None:
        self._medium = medium
        self._give_up_seconds = give_up_seconds
        self._parcels: deque[_OnItsWay] = deque()
        self._bytes = {False: 0, True: 0}
        self._pieces = {False: 0, True: 0}

    def __len__(self) -> int:
        return len(self._parcels)

    @property
    def due(self) -> float | None:
        """When ``take`` has something to do; None while nothing is on its way."""
        return self._parcels[0].due if self._parcels else None

    def load(self, *, expedited: bool) -> tuple[int, int]:
        """How many bytes and pieces of that kind are on their way; an empty one counts as a byte, as where it goes."""
        return self._bytes[expedited], self._pieces[expedited]

    def put(self, parcel: Parcel, now: float) -> None:
        """Send something behind what is on its way."""
        sent = _OnItsWay(parcel, self._medium.packet_departure(len(parcel.data), now))
        self._fly(sent, sent.since)
        self._parcels.append(sent)
        self._count(parcel, 1)

    def take(self, now: float) -> Parcel | None:
        """What arrives next, if it is there."""
        while self._parcels and self._parcels[0].due <= now:
            head = self._parcels[0]
            if head.lost and head.due < head.since + self._give_up_seconds:
                self._medium.counts.resent += 1
                self._fly(head, head.due)
                continue
            self._parcels.popleft()
            self._count(head.parcel, -1)
            return Parcel(Kind.NOTHING) if head.lost else head.parcel
        return None

    def hurry(self, latest: float) -> None:
        """The medium has changed: what is on its way arrives by then, and what was lost is sent again soon after."""
        for each in self._parcels:
            each.due = min(each.due, latest + RESEND_SECONDS if each.lost else latest)

    def _count(self, parcel: Parcel, sign: int) -> None:
        if parcel.kind is Kind.DATA:
            self._bytes[parcel.expedited] += sign * (len(parcel.data) or 1)
            self._pieces[parcel.expedited] += sign

    def _fly(self, sent: _OnItsWay, departure: float) -> None:
        """It leaves, for the first time or again."""
        profile, luck = self._medium.profile, self._medium.luck
        sent.lost = bool(profile.loss) and luck.connection_loss.random() < profile.loss
        if sent.lost:
            round_trip = 2.0 * (profile.delay_seconds + profile.jitter_seconds)
            sent.wait = 2.0 * sent.wait or round_trip + RESEND_SECONDS
            sent.due = min(departure + sent.wait, sent.since + self._give_up_seconds)
            return
        due = departure + profile.delay_seconds
        if profile.jitter_seconds:
            swing = (2.0 * luck.connection_jitter.random() - 1.0) * profile.jitter_seconds
            due = max(departure, due + swing)
        if profile.reorder and luck.connection_reordering.random() < profile.reorder:
            due += profile.reorder_seconds
        sent.due = due

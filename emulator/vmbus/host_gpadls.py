"""The host's page lists: their life as one table, and the messages about them (rule 2.7).

A list belongs to one channel and is named by an id of the guest's choosing, unique there. While bodies are still to
come the id must be unique on the whole bus, because a body names no channel. A list the device uses is gone only when
the device says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from emulator.memory import GpaRange
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.gpadl import VALUE_BYTES, GpadlAssembly
from emulator.vmbus.host_effects import AnswerIgnored, GpadlOffered, GpadlTeardown, HostEffect
from emulator.vmbus.message_types import (
    STATUS_FAILED,
    STATUS_OK,
    GpadlBody,
    GpadlCreated,
    GpadlHeader,
    GpadlTorndown,
    is_failure,
)
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.outbox import Outbox


class GpadlState(Enum):
    """Where a page list is in its life."""

    IN_PROGRESS = "in-progress"
    OFFERED = "offered"
    OFFERED_TEARING_DOWN = "offered-tearing-down"
    ACCEPTED = "accepted"
    TEARING_DOWN = "tearing-down"
    GONE = "gone"


class GpadlInput(Enum):
    """What can happen to it. With REVOKED there is no device to ask."""

    COMPLETE = auto()
    COMPLETE_REVOKED = auto()
    INVALID = auto()
    ACCEPT = auto()
    REFUSE = auto()
    TEARDOWN = auto()
    TEARDOWN_REVOKED = auto()
    DONE = auto()
    RELEASE = auto()  # the guest left, or gave the channel back
    RELEASE_REVOKED = auto()
    REVOKE = auto()  # the device left


S, E = GpadlState, GpadlInput

TRANSITIONS: dict[tuple[GpadlState, GpadlInput], GpadlState] = {
    (S.IN_PROGRESS, E.COMPLETE): S.OFFERED,
    (S.IN_PROGRESS, E.COMPLETE_REVOKED): S.ACCEPTED,
    (S.IN_PROGRESS, E.INVALID): S.GONE,
    (S.IN_PROGRESS, E.RELEASE): S.GONE,
    (S.IN_PROGRESS, E.RELEASE_REVOKED): S.GONE,
    (S.IN_PROGRESS, E.REVOKE): S.IN_PROGRESS,
    (S.OFFERED, E.ACCEPT): S.ACCEPTED,
    (S.OFFERED, E.REFUSE): S.GONE,
    (S.OFFERED, E.RELEASE): S.OFFERED_TEARING_DOWN,
    (S.OFFERED, E.REVOKE): S.GONE,
    (S.OFFERED_TEARING_DOWN, E.ACCEPT): S.TEARING_DOWN,
    (S.OFFERED_TEARING_DOWN, E.REFUSE): S.GONE,
    (S.OFFERED_TEARING_DOWN, E.REVOKE): S.GONE,
    (S.ACCEPTED, E.TEARDOWN): S.TEARING_DOWN,
    (S.ACCEPTED, E.TEARDOWN_REVOKED): S.GONE,
    (S.ACCEPTED, E.RELEASE): S.TEARING_DOWN,
    (S.ACCEPTED, E.RELEASE_REVOKED): S.GONE,
    (S.ACCEPTED, E.REVOKE): S.ACCEPTED,
    (S.TEARING_DOWN, E.DONE): S.GONE,
    (S.TEARING_DOWN, E.RELEASE): S.TEARING_DOWN,
    (S.TEARING_DOWN, E.REVOKE): S.GONE,
}


@dataclass(slots=True)
class Gpadl:
    """One page list. ``assembly`` until it is complete, ``ranges`` from then on."""

    gpadl_id: int
    owner: int
    channel_id: int
    state: GpadlState
    assembly: GpadlAssembly | None
    ranges: tuple[GpaRange, ...]
    charged_pages: int


@dataclass(slots=True)
class GpadlsState:
    """Every page list of a bus, by (owning channel's slot, GPADL id)."""

    lists: dict[tuple[int, int], Gpadl] = field(default_factory=dict)


class HostGpadls:
    """All page lists of one machine. Answers the guest through the outbox, asks devices through the effect list."""

    def __init__(self, state: GpadlsState, config: BusConfig, outbox: Outbox, effects: list[HostEffect]) -> None:
        self.state = state
        self._config = config
        self._outbox = outbox
        self._effects = effects
        self._in_progress = {
            gpadl_id: owner for (owner, gpadl_id), g in state.lists.items() if g.state is S.IN_PROGRESS
        }
        self._charged = sum(g.charged_pages for g in state.lists.values())

    def of(self, owner: int) -> Iterator[Gpadl]:
        """The lists of one channel."""
        return iter([g for (slot, _), g in self.state.lists.items() if slot == owner])

    def has_any(self, owner: int) -> bool:
        """Whether a channel has any page list left."""
        return any(slot == owner for slot, _ in self.state.lists)

    def owners(self) -> set[int]:
        """The slots of the channels that have page lists."""
        return {slot for slot, _ in self.state.lists}

    def accepted_ranges(self, owner: int, gpadl_id: int) -> tuple[GpaRange, ...] | None:
        """The ranges of an accepted list of this channel, None if there is none."""
        gpadl = self.state.lists.get((owner, gpadl_id))
        return gpadl.ranges if gpadl is not None and gpadl.state is S.ACCEPTED else None

    def header(self, message: GpadlHeader, owner: int, offer_key: int, revoked: bool) -> None:
        """Message 8. Raises BusError for what must be answered with a failed message 10."""
        self._check_new(message, owner)
        charged = message.range_buflen // VALUE_BYTES
        assembly = GpadlAssembly(message.range_buflen, message.range_count)
        gpadl = Gpadl(message.gpadl_id, owner, message.channel_id, S.IN_PROGRESS, assembly, (), charged)
        done = assembly.append(message.ranges)
        if done:
            gpadl.ranges = _ranges_of(gpadl, assembly)
        self.state.lists[owner, message.gpadl_id] = gpadl
        self._charged += charged
        if done:
            self._complete(gpadl, offer_key, revoked)
        else:
            self._in_progress[message.gpadl_id] = owner

    def _check_new(self, message: GpadlHeader, owner: int) -> None:
        name = f"GPADL 0x{message.gpadl_id:X} on channel {message.channel_id}"
        lists, config = self.state.lists, self._config
        if (owner, message.gpadl_id) in lists or message.gpadl_id in self._in_progress:
            raise BusError(BusFault.DUPLICATE_GPADL_ID, name)
        pages = self._charged + message.range_buflen // VALUE_BYTES
        if len(lists) >= config.max_gpadls or pages > config.max_gpadl_pages:
            raise BusError(BusFault.TOO_MANY_GPADLS, name)
        whole = len(message.ranges) >= message.range_buflen // VALUE_BYTES * VALUE_BYTES
        if not whole and len(self._in_progress) >= config.max_gpadls_in_progress:
            raise BusError(BusFault.TOO_MANY_GPADLS, name)

    def in_progress(self, message: GpadlBody) -> Gpadl:
        """The list a body continues. Raises BusError: unknown ids cannot be answered, a body names no channel."""
        owner = self._in_progress.get(message.gpadl_id)
        if owner is None:
            raise BusError(BusFault.UNKNOWN_GPADL_ID, f"body for GPADL 0x{message.gpadl_id:X}")
        return self.state.lists[owner, message.gpadl_id]

    def body(self, message: GpadlBody, gpadl: Gpadl, offer_key: int, revoked: bool) -> None:
        """Message 9. Raises BusError when the list turns out bad, after answering with a failed message 10."""
        assert gpadl.assembly is not None
        if not gpadl.assembly.append(message.ranges):
            return
        del self._in_progress[gpadl.gpadl_id]
        try:
            gpadl.ranges = _ranges_of(gpadl, gpadl.assembly)
        except BusError:
            self._step(gpadl, E.INVALID)
            self._outbox.send(GpadlCreated(gpadl.channel_id, gpadl.gpadl_id, STATUS_FAILED))
            raise
        self._complete(gpadl, offer_key, revoked)

    def _complete(self, gpadl: Gpadl, offer_key: int, revoked: bool) -> None:
        gpadl.assembly = None
        self._step(gpadl, E.COMPLETE_REVOKED if revoked else E.COMPLETE)
        if revoked:
            self._outbox.send(GpadlCreated(gpadl.channel_id, gpadl.gpadl_id, STATUS_OK))
        else:
            self._effects.append(GpadlOffered(offer_key, gpadl.gpadl_id, gpadl.ranges))

    def teardown(self, owner: int, gpadl_id: int, offer_key: int, revoked: bool, reserved: bool) -> None:
        """Message 11. Raises BusError, silent on the wire, unless the list is accepted."""
        name = f"teardown of GPADL 0x{gpadl_id:X}"
        gpadl = self.state.lists.get((owner, gpadl_id))
        if gpadl is None:
            raise BusError(BusFault.UNKNOWN_GPADL_ID, name)
        event = E.TEARDOWN_REVOKED if revoked else E.TEARDOWN
        if (gpadl.state, event) not in TRANSITIONS:
            raise BusError(BusFault.INVALID_GPADL_STATE, f"{name}, which is {gpadl.state.value}")
        if reserved:
            raise BusError(BusFault.CHANNEL_RESERVED, name)
        self._step(gpadl, event)
        if revoked:
            self._outbox.send(GpadlTorndown(gpadl_id))
        else:
            self._effects.append(GpadlTeardown(offer_key, gpadl_id))

    def answered(self, owner: int, gpadl_id: int, offer_key: int, status: int) -> None:
        """The device accepted or refused a list."""
        gpadl = self.state.lists.get((owner, gpadl_id))
        event = E.REFUSE if is_failure(status) else E.ACCEPT
        if gpadl is None or (gpadl.state, event) not in TRANSITIONS:
            self._effects.append(AnswerIgnored(offer_key, f"gpadl accepted 0x{gpadl_id:X}"))
            return
        was_offered = gpadl.state is S.OFFERED
        self._step(gpadl, event)
        if was_offered:
            self._outbox.send(GpadlCreated(gpadl.channel_id, gpadl_id, status))
        elif gpadl.state is S.TEARING_DOWN:
            self._effects.append(GpadlTeardown(offer_key, gpadl_id))

    def torn_down(self, owner: int, gpadl_id: int, offer_key: int, guest_listens: bool) -> None:
        """The device no longer uses a list."""
        gpadl = self.state.lists.get((owner, gpadl_id))
        if gpadl is None or (gpadl.state, E.DONE) not in TRANSITIONS:
            self._effects.append(AnswerIgnored(offer_key, f"gpadl torn down 0x{gpadl_id:X}"))
            return
        self._step(gpadl, E.DONE)
        if guest_listens:
            self._outbox.send(GpadlTorndown(gpadl_id))

    def release(self, owner: int, offer_key: int, revoked: bool) -> None:
        """The guest gave the channel back or left."""
        for gpadl in self.of(owner):
            was_accepted = gpadl.state is S.ACCEPTED
            self._step(gpadl, E.RELEASE_REVOKED if revoked else E.RELEASE)
            if was_accepted and not revoked:
                self._effects.append(GpadlTeardown(offer_key, gpadl.gpadl_id))

    def revoke(self, owner: int, guest_listens: bool) -> None:
        """The device went away: whatever it still owed the guest is answered for it."""
        for gpadl in self.of(owner):
            before = gpadl.state
            self._step(gpadl, E.REVOKE)
            if not guest_listens:
                continue
            if before is S.OFFERED:
                self._outbox.send(GpadlCreated(gpadl.channel_id, gpadl.gpadl_id, STATUS_FAILED))
            elif before is S.TEARING_DOWN:
                self._outbox.send(GpadlTorndown(gpadl.gpadl_id))

    def outstanding(self, owner: int, offer_key: int) -> Iterator[HostEffect]:
        """What this channel's device has been asked about page lists and has not answered."""
        for gpadl in self.of(owner):
            if gpadl.state in (S.OFFERED, S.OFFERED_TEARING_DOWN):
                yield GpadlOffered(offer_key, gpadl.gpadl_id, gpadl.ranges)
            elif gpadl.state is S.TEARING_DOWN:
                yield GpadlTeardown(offer_key, gpadl.gpadl_id)

    def _step(self, gpadl: Gpadl, event: GpadlInput) -> None:
        gpadl.state = TRANSITIONS[gpadl.state, event]
        if gpadl.state is S.GONE:
            del self.state.lists[gpadl.owner, gpadl.gpadl_id]
            self._charged -= gpadl.charged_pages
            if self._in_progress.get(gpadl.gpadl_id) == gpadl.owner:
                del self._in_progress[gpadl.gpadl_id]


def _ranges_of(gpadl: Gpadl, assembly: GpadlAssembly) -> tuple[GpaRange, ...]:
    """What a whole list describes. Raises BusError, which names the list."""
    try:
        return assembly.ranges()
    except BusError as error:
        name = f"GPADL 0x{gpadl.gpadl_id:X} on channel {gpadl.channel_id}"
        raise BusError(error.fault, f"{name}: {error.detail}") from None

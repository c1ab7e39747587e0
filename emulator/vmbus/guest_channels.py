"""The guest's channels and page lists: what was asked of the host, and what its answers mean.

A channel's ring is a page list of its own: opening first describes it to the host, then opens; closing takes it back.
``OFFERED`` is the rest position. A rescind does not change what must still be given back, it only stops new use.

=============== ==================================================================
state           waits for
=============== ==================================================================
OFFERED         nothing
CREATING_RING   the answer about the ring's page list
OPENING         the open result
OPEN            nothing
FAILING         the ring's page list to be gone after an open that came to nothing
CLOSING         the same after a close
=============== ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from emulator.status import NtStatus, Refused
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.message_types import OfferChannel


class GuestChannelState(Enum):
    """See the table above."""

    OFFERED = "offered"
    CREATING_RING = "creating-ring"
    OPENING = "opening"
    OPEN = "open"
    FAILING = "failing"
    CLOSING = "closing"


class GuestInput(Enum):
    """What can happen to a channel."""

    OPEN = auto()
    CLOSE = auto()
    RING_READY = auto()
    RING_READY_TOO_LATE = auto()  # rescinded, or nobody wants it any more
    RING_REFUSED = auto()
    OPENED = auto()
    OPENED_TOO_LATE = auto()
    OPEN_FAILED = auto()
    RING_GONE = auto()
    RESCIND = auto()


S, E = GuestChannelState, GuestInput

TRANSITIONS: dict[tuple[GuestChannelState, GuestInput], GuestChannelState] = {
    (S.OFFERED, E.OPEN): S.CREATING_RING,
    (S.CREATING_RING, E.RING_READY): S.OPENING,
    (S.CREATING_RING, E.RING_READY_TOO_LATE): S.FAILING,
    (S.CREATING_RING, E.RING_REFUSED): S.OFFERED,
    (S.CREATING_RING, E.CLOSE): S.CREATING_RING,
    (S.OPENING, E.OPENED): S.OPEN,
    (S.OPENING, E.OPENED_TOO_LATE): S.CLOSING,
    (S.OPENING, E.OPEN_FAILED): S.FAILING,
    (S.OPENING, E.CLOSE): S.OPENING,
    (S.OPEN, E.CLOSE): S.CLOSING,
    (S.CLOSING, E.RING_GONE): S.OFFERED,
    (S.FAILING, E.RING_GONE): S.OFFERED,
    (S.FAILING, E.CLOSE): S.FAILING,
    # After a rescind the host answers an open it had not answered before no more.
    (S.OFFERED, E.RESCIND): S.OFFERED,
    (S.CREATING_RING, E.RESCIND): S.CREATING_RING,
    (S.OPENING, E.RESCIND): S.FAILING,
    (S.OPEN, E.RESCIND): S.OPEN,
    (S.CLOSING, E.RESCIND): S.CLOSING,
    (S.FAILING, E.RESCIND): S.FAILING,
}


@dataclass(frozen=True, slots=True)
class OpenParameters:
    """What the caller of ``open_channel`` asked for."""

    ticket: int
    ring_gpadl_id: int
    downstream_page_offset: int
    target_vp: int
    user_data: bytes


@dataclass(slots=True)
class GuestChannel:
    """One offered channel. ``opening`` holds from open to the end of close."""

    offer: OfferChannel
    state: GuestChannelState = S.OFFERED
    opening: OpenParameters | None = None
    open_status: int = 0  # why an open came to nothing
    event_flag: int = 0
    is_rescinded: bool = False
    close_wanted: bool = False
    release_wanted: bool = False
    is_modifying: bool = False

    @property
    def channel_id(self) -> int:
        """The host's number for it."""
        return self.offer.channel_id

    def step(self, event: GuestInput) -> None:
        """Move as the table says. Raises BusError for an answer nobody waits for."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            name = event.name.lower().replace("_", " ")
            raise BusError(
                BusFault.UNEXPECTED_ANSWER, f"{name} for channel {self.channel_id}, which is {self.state.value}"
            )
        self.state = following

    def check(self, event: GuestInput) -> None:
        """Raise Refused unless our own side may do this now."""
        if (self.state, event) not in TRANSITIONS:
            raise Refused(
                NtStatus.INVALID_DEVICE_STATE,
                f"channel {self.channel_id} is {self.state.value}: {event.name.lower()} is not possible now",
                rule="2.6",
            )


class GuestGpadlState(Enum):
    """CREATED ones can be used; the other two wait for the host."""

    CREATING = "creating"
    CREATED = "created"
    TEARING_DOWN = "tearing-down"


@dataclass(slots=True)
class GuestGpadl:
    """One page list of ours. A doomed one is taken back as soon as it has been created."""

    gpadl_id: int
    channel_id: int
    is_ring: bool
    state: GuestGpadlState = GuestGpadlState.CREATING
    is_doomed: bool = False


@dataclass(slots=True)
class GuestChannelsState:
    """Everything that belongs to one connection's channels."""

    channels: dict[int, GuestChannel] = field(default_factory=dict)
    gpadls: dict[int, GuestGpadl] = field(default_factory=dict)
    event_flags: list[int] = field(default_factory=list)
    released_ids: list[int] = field(default_factory=list)  # given back unasked: a rescind may still be on its way
    next_gpadl_id: int = 0
    next_ticket: int = 1

    def named(self, channel_id: int) -> GuestChannel:
        """The channel a message names. Raises BusError for one that was never offered."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise BusError(BusFault.UNKNOWN_CHANNEL_ID, f"channel {channel_id}")
        return channel

    def usable(self, channel_id: int) -> GuestChannel:
        """The channel our own side names, for new use. Raises Refused when it is gone or going."""
        channel = self.held(channel_id)
        if channel.is_rescinded or channel.release_wanted:
            raise Refused(NtStatus.DEVICE_REMOVED, f"channel {channel_id} was rescinded or is being released")
        return channel

    def held(self, channel_id: int) -> GuestChannel:
        """The channel our own side names. Raises Refused when there is none."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise Refused(NtStatus.NO_SUCH_DEVICE, f"channel {channel_id} is not offered")
        return channel

    def gpadl(self, gpadl_id: int, state: GuestGpadlState) -> GuestGpadl:
        """The page list an answer names, in the state that waits for it. Raises BusError."""
        gpadl = self.gpadls.get(gpadl_id)
        if gpadl is None:
            raise BusError(BusFault.UNKNOWN_GPADL_ID, f"GPADL 0x{gpadl_id:X}")
        if gpadl.state is not state:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"GPADL 0x{gpadl_id:X}, which is {gpadl.state.value}")
        return gpadl

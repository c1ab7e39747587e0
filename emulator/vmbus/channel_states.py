"""The life of a channel as the host sees it, as one table.

============================  ====================================================================================
state                         meaning
============================  ====================================================================================
RELEASED                      the device exists; the guest holds no id (never offered, or given back)
CLOSED                        offered
OPENING, OPEN, CLOSING        the guest asked to open or close; OPENING and CLOSING wait for the device
CLOSING_REOPEN                asked to close and then to open again before the device was done
..._RESERVED                  the same three, opened as a reserved channel: these outlive the connection
REVOKED                       the device is gone, the guest has not released the id
REOFFERED                     revoked, and the same device came back meanwhile
OPENING/CLOSING_RELEASED      the guest is gone, the device is still at work
REMOVED                       forgotten
============================  ====================================================================================

A pair that is not in the table is refused: ``refusal`` says with which fault.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from emulator.vmbus.faults import BusFault


class ChannelState(Enum):
    """See the table above."""

    RELEASED = "released"
    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSING_REOPEN = "closing-reopen"
    OPENING_RESERVED = "opening-reserved"
    OPEN_RESERVED = "open-reserved"
    CLOSING_RESERVED = "closing-reserved"
    REVOKED = "revoked"
    REOFFERED = "reoffered"
    OPENING_RELEASED = "opening-released"
    CLOSING_RELEASED = "closing-released"
    REMOVED = "removed"

    @property
    def is_released(self) -> bool:
        """The guest has no reference to it, and its messages may not name it."""
        return self in _RELEASED

    @property
    def is_reserved(self) -> bool:
        """In use by the guest regardless of the connection."""
        return self in _RESERVED

    @property
    def is_revoked(self) -> bool:
        """No device answers for the guest's side of it."""
        return self in (ChannelState.REVOKED, ChannelState.REOFFERED)


S = ChannelState
_RELEASED = frozenset({S.RELEASED, S.OPENING_RELEASED, S.CLOSING_RELEASED, S.REMOVED})
_RESERVED = frozenset({S.OPENING_RESERVED, S.OPEN_RESERVED, S.CLOSING_RESERVED})


class ChannelInput(Enum):
    """What can happen to a channel."""

    OFFER = auto()  # the guest is to learn of it
    OPEN = auto()  # message 5
    CLOSE = auto()  # message 7
    OPEN_RESERVED = auto()  # message 18
    CLOSE_RESERVED = auto()  # message 19
    MODIFY = auto()  # message 22
    RELEASE = auto()  # message 13
    DISCONNECT = auto()  # unload or a new contact
    RESET = auto()  # the machine starts over
    REVOKE = auto()  # the device goes away
    REOFFER = auto()  # the same device comes back
    DEVICE_OPENED = auto()
    DEVICE_FAILED = auto()
    DEVICE_CLOSED = auto()
    DEVICE_MODIFIED = auto()


class Action(Enum):
    """What goes with a change of state."""

    NOTHING = auto()
    END_USE = auto()  # the ring is free
    SEND_OFFER = auto()
    ASK_OPEN = auto()
    KEEP_REOPEN = auto()
    ANSWER_OPEN = auto()
    ASK_CLOSE = auto()
    ANSWER_CLOSE = auto()
    REOPEN = auto()
    ASK_MODIFY = auto()
    ANSWER_MODIFY = auto()
    GIVE_BACK = auto()  # drop the id and every page list
    CLOSE_AND_GIVE_BACK = auto()
    OFFER_AGAIN = auto()
    RESCIND = auto()
    DROP = auto()


class Step(NamedTuple):
    """Where a state goes, and what is done on the way."""

    state: ChannelState
    action: Action


E = ChannelInput
A = Action

TRANSITIONS: dict[tuple[ChannelState, ChannelInput], Step] = {
    (S.RELEASED, E.OFFER): Step(S.CLOSED, A.SEND_OFFER),
    # opening and closing
    (S.CLOSED, E.OPEN): Step(S.OPENING, A.ASK_OPEN),
    (S.OPENING, E.DEVICE_OPENED): Step(S.OPEN, A.ANSWER_OPEN),
    (S.OPENING, E.DEVICE_FAILED): Step(S.CLOSED, A.ANSWER_OPEN),
    (S.OPEN, E.CLOSE): Step(S.CLOSING, A.ASK_CLOSE),
    (S.CLOSING, E.DEVICE_CLOSED): Step(S.CLOSED, A.END_USE),
    (S.CLOSING, E.OPEN): Step(S.CLOSING_REOPEN, A.KEEP_REOPEN),
    (S.CLOSING_REOPEN, E.DEVICE_CLOSED): Step(S.OPENING, A.REOPEN),
    (S.OPEN, E.MODIFY): Step(S.OPEN, A.ASK_MODIFY),
    (S.OPEN, E.DEVICE_MODIFIED): Step(S.OPEN, A.ANSWER_MODIFY),
    # reserved channels
    (S.CLOSED, E.OPEN_RESERVED): Step(S.OPENING_RESERVED, A.ASK_OPEN),
    (S.OPENING_RESERVED, E.DEVICE_OPENED): Step(S.OPEN_RESERVED, A.ANSWER_OPEN),
    (S.OPENING_RESERVED, E.DEVICE_FAILED): Step(S.CLOSED, A.ANSWER_OPEN),
    (S.OPEN_RESERVED, E.CLOSE_RESERVED): Step(S.CLOSING_RESERVED, A.ASK_CLOSE),
    (S.CLOSING_RESERVED, E.DEVICE_CLOSED): Step(S.CLOSED, A.ANSWER_CLOSE),
    # the guest gives the id back
    (S.CLOSED, E.RELEASE): Step(S.RELEASED, A.GIVE_BACK),
    (S.CLOSING, E.RELEASE): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.CLOSING_RESERVED, E.RELEASE): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.REVOKED, E.RELEASE): Step(S.REMOVED, A.GIVE_BACK),
    (S.REOFFERED, E.RELEASE): Step(S.CLOSED, A.OFFER_AGAIN),
    # the device goes away, and comes back
    (S.CLOSED, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.OPENING, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.OPEN, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.CLOSING, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.CLOSING_REOPEN, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.OPENING_RESERVED, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.OPEN_RESERVED, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.CLOSING_RESERVED, E.REVOKE): Step(S.REVOKED, A.RESCIND),
    (S.REVOKED, E.REOFFER): Step(S.REOFFERED, A.NOTHING),
    (S.REOFFERED, E.REVOKE): Step(S.REVOKED, A.NOTHING),
    (S.RELEASED, E.REVOKE): Step(S.REMOVED, A.DROP),
    (S.OPENING_RELEASED, E.REVOKE): Step(S.REMOVED, A.DROP),
    (S.CLOSING_RELEASED, E.REVOKE): Step(S.REMOVED, A.DROP),
    # too late to matter: the guest had not yet heard of the rescind
    (S.REVOKED, E.OPEN): Step(S.REVOKED, A.NOTHING),
    (S.REVOKED, E.CLOSE): Step(S.REVOKED, A.NOTHING),
    (S.REVOKED, E.OPEN_RESERVED): Step(S.REVOKED, A.NOTHING),
    (S.REVOKED, E.CLOSE_RESERVED): Step(S.REVOKED, A.NOTHING),
    (S.REOFFERED, E.OPEN): Step(S.REOFFERED, A.NOTHING),
    (S.REOFFERED, E.CLOSE): Step(S.REOFFERED, A.NOTHING),
    (S.REOFFERED, E.OPEN_RESERVED): Step(S.REOFFERED, A.NOTHING),
    (S.REOFFERED, E.CLOSE_RESERVED): Step(S.REOFFERED, A.NOTHING),
    # the connection ends; reserved channels stay as they are
    (S.CLOSED, E.DISCONNECT): Step(S.RELEASED, A.GIVE_BACK),
    (S.OPENING, E.DISCONNECT): Step(S.OPENING_RELEASED, A.GIVE_BACK),
    (S.OPEN, E.DISCONNECT): Step(S.CLOSING_RELEASED, A.CLOSE_AND_GIVE_BACK),
    (S.CLOSING, E.DISCONNECT): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.CLOSING_REOPEN, E.DISCONNECT): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.REVOKED, E.DISCONNECT): Step(S.REMOVED, A.GIVE_BACK),
    (S.REOFFERED, E.DISCONNECT): Step(S.RELEASED, A.GIVE_BACK),
    (S.OPENING_RELEASED, E.DEVICE_OPENED): Step(S.CLOSING_RELEASED, A.ASK_CLOSE),
    (S.OPENING_RELEASED, E.DEVICE_FAILED): Step(S.RELEASED, A.END_USE),
    (S.CLOSING_RELEASED, E.DEVICE_CLOSED): Step(S.RELEASED, A.END_USE),
    # the machine starts over: nobody waits for a device that was asked to open
    (S.CLOSED, E.RESET): Step(S.RELEASED, A.GIVE_BACK),
    (S.OPENING, E.RESET): Step(S.RELEASED, A.GIVE_BACK),
    (S.OPEN, E.RESET): Step(S.CLOSING_RELEASED, A.CLOSE_AND_GIVE_BACK),
    (S.CLOSING, E.RESET): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.CLOSING_REOPEN, E.RESET): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.OPENING_RESERVED, E.RESET): Step(S.RELEASED, A.GIVE_BACK),
    (S.OPEN_RESERVED, E.RESET): Step(S.CLOSING_RELEASED, A.CLOSE_AND_GIVE_BACK),
    (S.CLOSING_RESERVED, E.RESET): Step(S.CLOSING_RELEASED, A.GIVE_BACK),
    (S.REVOKED, E.RESET): Step(S.REMOVED, A.GIVE_BACK),
    (S.REOFFERED, E.RESET): Step(S.RELEASED, A.GIVE_BACK),
}

_DEFAULT_REFUSAL = {
    E.OPEN: BusFault.CHANNEL_ALREADY_OPEN,
    E.CLOSE: BusFault.CHANNEL_NOT_OPEN,
    E.OPEN_RESERVED: BusFault.CHANNEL_ALREADY_OPEN,
    E.CLOSE_RESERVED: BusFault.CHANNEL_NOT_OPEN,
}

_OTHER_REFUSALS = {
    (S.CLOSING_RESERVED, E.OPEN): BusFault.CHANNEL_RESERVED,  # [C] reopening would lose the answer to message 19
    (S.OPEN_RESERVED, E.CLOSE): BusFault.CHANNEL_RESERVED,
    (S.OPEN, E.CLOSE_RESERVED): BusFault.CHANNEL_NOT_RESERVED,
    (S.CLOSING, E.OPEN_RESERVED): BusFault.INVALID_CHANNEL_STATE,
    (S.CLOSING_REOPEN, E.OPEN_RESERVED): BusFault.INVALID_CHANNEL_STATE,
    (S.CLOSING_RESERVED, E.OPEN_RESERVED): BusFault.INVALID_CHANNEL_STATE,
}


def refusal(state: ChannelState, event: ChannelInput) -> BusFault:
    """Why the guest may not do this to a channel in this state."""
    if state.is_released:
        return BusFault.CHANNEL_RELEASED
    return _OTHER_REFUSALS.get((state, event)) or _DEFAULT_REFUSAL.get(event, BusFault.INVALID_CHANNEL_STATE)

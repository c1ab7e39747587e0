"""What can be wrong with a control message, and the rule it broke.

Almost every error of the control conversation is silent on the wire: the message is dropped and nothing answers. Here
each has a name and the section of the documentation it comes from, so that a driver author can see why nothing
happened. ``BusError`` is the one exception hostile bytes can raise; the buses catch it and turn it into a
``Violation`` effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from emulator.status import PeerViolation


class BusFault(Enum):
    """Why a message was dropped or refused: (rule, what is wrong, what to do)."""

    MESSAGE_TOO_SMALL = ("2.1", "the message is shorter than its structure", "post all of the structure")
    MESSAGE_TOO_LARGE = ("1", "a message carries at most 240 bytes", "split page lists into bodies, type 9")
    INVALID_INTERRUPT_PAGE = (
        "1",
        "the interrupt page is one whole page of the machine's memory",
        "name a page below the end of the memory, or 0 for none",
    )
    INVALID_MESSAGE_TYPE = (
        "2.1",
        "this message type is not legal here, by number, version, feature or direction",
        "make contact first, and post only what the negotiated version and features have",
    )
    CLIENT_ID_MISSING = (
        "2.4",
        "the client id feature is asked for, but the message is too short to hold the id",
        "post the 56-byte layout, or do not ask for feature 0x8",
    )
    INVALID_TARGET_SINT = ("2.4", "the synthetic interrupt source is not one of 0..15", "name 2")
    OFFERS_ALREADY_SENT = (
        "2.5",
        "offers were already requested on this connection",
        "request them once, and take later ones as they come",
    )
    PAUSED = (
        "2.5",
        "the connection is paused; only resume, unload and initiate contact are legal",
        "post resume, type 29, first",
    )
    UNTRUSTED_MESSAGE = (
        "2.5",
        "the connection is trusted, but this message is not",
        "post it from where contact was made",
    )
    RESETTING = ("2.5", "the machine is being reset", "make contact again when that is over")
    MODIFY_CONNECTION_REFUSED = (
        "2.5",
        "the monitor pages cannot be changed now or not in this way",
        "name both or neither, and wait for the answer to the last request",
    )
    UNKNOWN_CHANNEL_ID = ("2.6", "no channel has this id", "name the channel id of an offer that stands")
    CHANNEL_RELEASED = ("2.6", "the guest gave this channel id back", "wait for a new offer and use the id in that")
    CHANNEL_ALREADY_OPEN = ("2.6", "the channel is open or being opened", "close it before opening it again")
    CHANNEL_NOT_OPEN = ("2.6", "the channel is not open", "open it first, and close it once")
    CHANNEL_RESERVED = ("2.6", "the channel is open as a reserved channel", "close it as one, type 19, first")
    CHANNEL_NOT_RESERVED = ("2.6", "the channel is open, but not as a reserved channel", "close it with type 7")
    INVALID_CHANNEL_STATE = (
        "2.6",
        "the channel is in a state that does not allow this",
        "close it first if it is open, and wait for what was asked before",
    )
    CHANNEL_ID_IN_USE = (
        "2.6",
        "this channel id was offered before and has not been released",
        "offer it again when the guest has released it",
    )
    INVALID_TARGET_VP = ("2.6", "modify channel cannot disable interrupts", "name a processor other than 0xFFFFFFFF")
    INTERRUPTS_DISABLED = (
        "2.6",
        "the channel was opened with interrupts disabled",
        "open it with a target processor to move its interrupts",
    )
    MODIFY_IN_PROGRESS = ("2.6", "a modify channel has not been answered yet", "wait for type 24 before the next one")
    INVALID_RING = (
        "2.6",
        "the ring needs one page-aligned range, split with data pages on both sides",
        "describe both rings in one range, and give the page number of the second control page",
    )
    UNUSABLE_RING = (
        "3.1",
        "the rings cannot be used as they stand",
        "zero both control pages before opening, and let none of their pages be outside the memory",
    )
    INVALID_SIGNAL = (
        "2.6",
        "the event flag or connection id cannot be used for this channel",
        "use those of the offer, or some that no open channel has",
    )
    UNEXPECTED_ANSWER = ("2.6", "nothing was asked that this could answer", "answer each request once")
    TL_RESULT_SUCCESS = ("2.6", "a connect result may only report failure", "offer the channel instead")
    TOO_MANY_CONNECTS = ("2.6", "too many socket connect requests are waiting", "wait for answers to some of them")
    UNKNOWN_GPADL_ID = (
        "2.7",
        "no GPADL has this id here",
        "use the id of this channel's GPADL header, after it and before its teardown",
    )
    INVALID_GPADL_STATE = (
        "2.7",
        "the GPADL is in a state that does not allow this",
        "wait until it was created, and tear it down once",
    )
    DUPLICATE_GPADL_ID = ("2.7", "the GPADL id is in use", "choose another, or tear that one down first")
    INVALID_GPA_RANGE = (
        "2.7",
        "the page list is not valid",
        "give each range its byte count, an offset below 4,096, and a page number for every page it touches",
    )
    PAGE_OUTSIDE_MEMORY = (
        "2.7",
        "the page list names a page the machine does not have",
        "name pages below the end of its memory; addresses are divided by 4,096",
    )
    TOO_MANY_GPADLS = (
        "2.7",
        "the machine's limit of GPADLs or of their pages is reached",
        "tear down those that are not needed",
    )
    RING_DAMAGED = (
        "3.6",
        "the host's end read what cannot stand in a ring, and stopped",
        "close the channel, mend the ring code, and open it again",
    )

    @property
    def rule(self) -> str:
        """The section of the documentation that is broken."""
        return self.value[0]

    @property
    def sentence(self) -> str:
        """What is wrong, for people."""
        return self.value[1]

    @property
    def advice(self) -> str:
        """What to do instead."""
        return self.value[2]


class BusError(PeerViolation):
    """A control message that is not acceptable. ``fault`` says which rule it broke, ``detail`` names the ids."""

    def __init__(self, fault: BusFault, detail: str) -> None:
        super().__init__(f"{detail}: {fault.sentence} [{fault.rule}]; {fault.advice}")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Violation:
    """Effect: the peer broke a rule; nothing went back. Whoever runs the bus counts and logs it.

    ``channel_id`` is the one the message names, where it names one: it may mean nothing.
    """

    fault: BusFault
    message: str
    channel_id: int | None = field(default=None, compare=False)

    @property
    def rule(self) -> str:
        """The section of the documentation that is broken."""
        return self.fault.rule

    @classmethod
    def of(cls, error: BusError, channel_id: int | None = None) -> Violation:
        """The effect that reports an error."""
        return cls(error.fault, str(error), channel_id)

"""What can be wrong with a control message, and the rule it broke.

Almost every error of the control conversation is silent on the wire: the message is dropped and nothing answers. Here
each has a name and the section of the documentation it comes from, so that a driver author can see why nothing
happened. ``BusError`` is the one exception hostile bytes can raise; the buses catch it and turn it into a
``Violation`` effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emulator.status import PeerViolation


class BusFault(Enum):
    """Why a message was dropped or refused: (rule, sentence)."""

    MESSAGE_TOO_SMALL = ("2.1", "the message is shorter than its structure")
    MESSAGE_TOO_LARGE = ("1", "a message carries at most 240 bytes")
    INVALID_INTERRUPT_PAGE = ("1", "the interrupt page is one whole page of the machine's memory")
    INVALID_MESSAGE_TYPE = ("2.1", "this message type is not legal here, by number, version, feature or direction")
    CLIENT_ID_MISSING = ("2.4", "the client id feature is asked for, but the message is too short to hold the id")
    INVALID_TARGET_SINT = ("2.4", "the synthetic interrupt source is not one of 0..15")
    OFFERS_ALREADY_SENT = ("2.5", "offers were already requested on this connection")
    PAUSED = ("2.5", "the connection is paused; only resume, unload and initiate contact are legal")
    UNTRUSTED_MESSAGE = ("2.5", "the connection is trusted, but this message is not")
    RESETTING = ("2.5", "the machine is being reset")
    MODIFY_CONNECTION_REFUSED = ("2.5", "the monitor pages cannot be changed now or not in this way")
    UNKNOWN_CHANNEL_ID = ("2.6", "no channel has this id")
    CHANNEL_RELEASED = ("2.6", "the guest gave this channel id back")
    CHANNEL_ALREADY_OPEN = ("2.6", "the channel is open or being opened")
    CHANNEL_NOT_OPEN = ("2.6", "the channel is not open")
    CHANNEL_RESERVED = ("2.6", "the channel is open as a reserved channel")
    CHANNEL_NOT_RESERVED = ("2.6", "the channel is open, but not as a reserved channel")
    INVALID_CHANNEL_STATE = ("2.6", "the channel is in a state that does not allow this")
    CHANNEL_ID_IN_USE = ("2.6", "this channel id was offered before and has not been released")
    INVALID_TARGET_VP = ("2.6", "modify channel cannot disable interrupts")
    INTERRUPTS_DISABLED = ("2.6", "the channel was opened with interrupts disabled")
    MODIFY_IN_PROGRESS = ("2.6", "a modify channel has not been answered yet")
    INVALID_RING = ("2.6", "the ring needs one page-aligned range, split with data pages on both sides")
    INVALID_SIGNAL = ("2.6", "the event flag or connection id cannot be used for this channel")
    UNEXPECTED_ANSWER = ("2.6", "nothing was asked that this could answer")
    TL_RESULT_SUCCESS = ("2.6", "a connect result may only report failure")
    TOO_MANY_CONNECTS = ("2.6", "too many socket connect requests are waiting")
    UNKNOWN_GPADL_ID = ("2.7", "no GPADL has this id here")
    INVALID_GPADL_STATE = ("2.7", "the GPADL is in a state that does not allow this")
    DUPLICATE_GPADL_ID = ("2.7", "the GPADL id is in use")
    INVALID_GPA_RANGE = ("2.7", "the page list is not valid")
    TOO_MANY_GPADLS = ("2.7", "the machine's limit of GPADLs or of their pages is reached")

    @property
    def rule(self) -> str:
        """The section of the documentation that is broken."""
        return str(self.value[0])

    @property
    def sentence(self) -> str:
        """What is wrong, for people."""
        return str(self.value[1])


class BusError(PeerViolation):
    """A control message that is not acceptable. ``fault`` says which rule it broke, ``detail`` names the ids."""

    def __init__(self, fault: BusFault, detail: str) -> None:
        super().__init__(f"{detail}: {fault.sentence} [{fault.rule}]")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Violation:
    """Effect: the peer broke a rule; nothing went back. Whoever runs the bus counts and logs it."""

    fault: BusFault
    message: str

    @property
    def rule(self) -> str:
        """The section of the documentation that is broken."""
        return self.fault.rule

    @classmethod
    def of(cls, error: BusError) -> Violation:
        """The effect that reports an error."""
        return cls(error.fault, str(error))

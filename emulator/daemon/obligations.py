"""What a session owes its client: requests that wait for their answer, and things that may have more to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.status import PeerViolation


class Pending(Protocol):
    """A request that waits for its answer; cancelling it must make the answer come soon."""

    def cancel(self) -> None:
        """Give it up."""


class Patient:
    """A pending request that waits for something others may never do, such as to send it a datagram.

    Nothing of it is on its way, so a daemon that stops need not wait for it.
    """

    __slots__ = ()


class Drainable(Protocol):
    """Something of a session's that may have more for its client: a channel end or an address."""

    machine: Machine

    @property
    def is_open(self) -> bool:
        """Whether it still is there."""

    def drain(self) -> bool:
        """One bounded turn; True when another is due now."""

    def violated(self, violation: PeerViolation) -> None:
        """What it drained from broke the rules."""

"""What a session owes its client: requests that wait for their answer, and things that may have more to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emulator.tdi.constants import MajorFunction, MinorFunction

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.status import PeerViolation
    from emulator.tdi.irp import Irp

# A connect is not among them: its handshake is on the way. A release has been sent when it waits for the peer's.
_UNTIL_A_PEER_ACTS = frozenset(
    {MinorFunction.LISTEN, MinorFunction.RECEIVE, MinorFunction.RECEIVE_DATAGRAM, MinorFunction.DISCONNECT}
)


class Pending(Protocol):
    """A request that waits for its answer; cancelling it must make the answer come soon."""

    def cancel(self) -> None:
        """Give it up."""


class Patient:
    """A pending request that waits for something others may never do, such as to send it a datagram.

    Nothing of it is on its way, so a daemon that stops need not wait for it.
    """

    __slots__ = ()

    @property
    def is_patient(self) -> bool:
        """Whether it waits so now."""
        return True


class PatientIrp(Patient):
    """A pending IRP, which is patient or not by what it asks."""

    __slots__ = ()
    irp: Irp | None

    @property
    def is_patient(self) -> bool:
        """Whether it waits for a peer. One of user mode is told by the internal request it stands for."""
        irp = self.irp
        return (
            irp is not None and irp.major == MajorFunction.INTERNAL_DEVICE_CONTROL and irp.minor in _UNTIL_A_PEER_ACTS
        )


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

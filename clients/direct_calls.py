"""What a program waits for and takes on a direct channel: its own packets' ends, and the peer's packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clients.calls import RequestFailed
from emulator.memory import GpaRange, Mdl
from emulator.status import NtStatus
from emulator.vmbus.endpoint import ReceivedPacket

if TYPE_CHECKING:
    from clients.direct import DirectEnd
    from clients.direct_sends import DirectSends


class DirectCall:
    """One packet of ours, and its end."""

    __slots__ = ("_end", "done", "error", "result", "transaction_id", "waiter", "waits")

    def __init__(self, end: DirectSends, waits: bool) -> None:
        self._end = end
        self.waits = waits
        self.done = False
        self.error: Exception | None = None
        self.result: tuple[Any, ...] = ()
        self.transaction_id = 0
        self.waiter: Any = None

    def outcome(self) -> tuple[Any, ...]:
        """The result of a call that is done; raises its error."""
        if self.error is not None:
            raise self.error
        return self.result

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if not self.done:
            self._end.cancel(self)


class DirectPost:
    """Many packets without completion; done when all are in the ring, or one failed."""

    def __init__(self, payloads: list[bytes]) -> None:
        self.payloads = payloads
        self.written = 0
        self.error: Exception | None = None
        self.waiter: Any = None

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.error is not None or self.written == len(self.payloads)

    def outcome(self) -> tuple[Any, ...]:
        """How many packets were sent; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return (len(self.payloads),)

    def copy_payloads(self) -> bool:
        """Make bytes of all that can be; whether all could."""
        try:
            self.payloads = [bytes(memoryview(payload)) for payload in self.payloads]
        except TypeError:
            return False
        return True

    def abandon(self) -> None:
        """What is in the ring stays there; no more of it follows."""
        if not self.done:
            self.error = RequestFailed(NtStatus.CANCELLED, "the post was abandoned")


class DirectRun:
    """Packets that came in a row and want nothing: their payloads, for somebody who collects those."""

    __slots__ = ("payloads", "state")

    def __init__(self, state: DirectEnd, payloads: list[bytes]) -> None:
        self.state = state
        self.payloads = payloads

    def take_first(self) -> DirectPacket:
        """The first as a packet after all."""
        return DirectPacket(self.state, ReceivedPacket(0, self.payloads.pop(0), False, (), False, b""))


class DirectPacket:
    """A packet as it came out of the ring, with what the faces ask of one."""

    __slots__ = ("_packet", "batch", "completed", "handle", "is_again", "mdl", "payload", "ranges", "state")

    range_error = None

    def __init__(self, state: DirectEnd, packet: ReceivedPacket) -> None:
        self.state = state
        self.handle = packet.handle
        self.payload = packet.payload
        self.ranges: tuple[GpaRange, ...] = packet.ranges
        self.completed = False
        self.batch = 0  # on the last of a batch, how many it had (B1)
        self.is_again = False  # put back, and taken for another time
        self.mdl: Mdl | None = None
        self._packet = packet

    @property
    def wants_completion(self) -> bool:
        """Whether the sender waits for a completion."""
        return self._packet.completion_requested

    @property
    def has_external_data(self) -> bool:
        """Whether it points at guest memory."""
        return self._packet.has_external_data

    @property
    def refusal(self) -> tuple[int, str] | None:
        """Why its external data cannot be used."""
        error = self._packet.external_error
        return None if error is None else (int(error.status), error.text)

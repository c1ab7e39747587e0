"""A channel as a driver has it: its state, its callbacks, what it has sent and what it has not completed. Pure.

The life cycle itself runs in the daemon, which has the control conversation; it calls back by request, one at a time,
and goes on with the answer. What this end keeps: packets sent while there is no open channel, which go out when Opened
has returned; packets that arrived and must not be seen while the channel is paused; those that were taken and not
completed, since a pause waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from clients.calls import RequestFailed
from clients.inbox import EndState, OfferState
from emulator.status import NtStatus
from emulator.vmbus.life_cycle import Callback
from emulator.vmbus.profile import Side

StateCallback = Callable[[Any], Awaitable[Any] | Any]
PNP_FAILURE = 6


@dataclass(frozen=True)
class ChannelCallbacks:
    """What KMCL calls, one at a time. Each gets the channel; plain functions, or async ones in the trio face.

    Windows: VMB_CHANNEL_STATE_CHANGE_CALLBACKS. ``opened`` returns a status (None is success), and an error rolls the
    channel back; raising Refused or RequestFailed is the same. ``pnp_failure`` gets (channel, status): an offer was
    there and could not be opened (EvtVmbChannelPnpFailure).
    """

    opened: StateCallback | None = None
    closed: StateCallback | None = None
    started: StateCallback | None = None
    post_started: StateCallback | None = None
    suspend: StateCallback | None = None
    pnp_failure: Callable[[Any, NtStatus], Awaitable[Any] | Any] | None = None

    def of(self, kind: int) -> Callable[..., Any] | None:
        """The function for a callback's number."""
        named = {
            Callback.OPENED: self.opened,
            Callback.CLOSED: self.closed,
            Callback.STARTED: self.started,
            Callback.POST_STARTED: self.post_started,
            Callback.SUSPEND: self.suspend,
            PNP_FAILURE: self.pnp_failure,
        }
        found: Callable[..., Any] | None = named.get(kind)
        return found


class DriverPhase(Enum):
    """The first of the two axes (4.3), as this client was told last; the second is ``is_paused``."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    OPEN = "open"


class CallbackDue(NamedTuple):
    """A callback the daemon asked for, to be answered by its ``msgid``."""

    state: DriverState
    kind: int
    status: int
    msgid: int
    opening: EndState | None = None  # that there was when it was asked for

    def call(self) -> Any:
        """Run it; what it returns may have to be awaited."""
        function = self.state.callbacks.of(self.kind)
        if function is None:
            return None
        arguments = (NtStatus(self.status),) if self.kind == PNP_FAILURE else ()
        return function(self.state.channel, *arguments)


class DriverSend:
    """One packet of a driver's, and its end: sent at once, or kept until the channel is open."""

    def __init__(
        self,
        attempt: Callable[[EndState], Any],
        forget: Callable[[DriverSend], None],
        give_up: Callable[[Any], None],
    ) -> None:
        self._attempt = attempt
        self._forget = forget
        self._give_up = give_up
        self._sent: Any = None
        self._waiter: Any = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.error is not None or (self._sent is not None and bool(self._sent.done))

    @property
    def waiter(self) -> Any:
        """Who waits for it."""
        return self._waiter if self._sent is None else self._sent.waiter

    @waiter.setter
    def waiter(self, value: Any) -> None:
        if self._sent is None:
            self._waiter = value
        else:
            self._sent.waiter = value

    def release(self, end: EndState) -> None:
        """There is a channel: send it."""
        try:
            sent = self._attempt(end)
        except RequestFailed as error:
            self.error = error
            return
        sent.waiter, self._waiter = self._waiter, None
        self._sent = sent

    def fail(self, error: Exception) -> None:
        """There will be no channel."""
        if not self.done:
            self.error = error

    def outcome(self) -> tuple[Any, ...]:
        """Its completion; raises its error."""
        if self.error is not None:
            raise self.error
        result: tuple[Any, ...] = self._sent.outcome()
        return result

    def abandon(self) -> None:
        """Nobody waits for it any more: it is cancelled."""
        if self._sent is not None:
            self._give_up(self._sent)
        elif self.error is None:
            self.error = RequestFailed(NtStatus.CANCELLED, "the packet was cancelled before it was sent")
            self._forget(self)


class DriverState(OfferState):
    """One driver channel of this client. Its openings are attached to it as to a host's offer, on both sides."""

    def __init__(self, side: Side, callbacks: ChannelCallbacks, channel: Any, verifier: Any) -> None:
        super().__init__(0, UUID(int=0), UUID(int=0), pipe=False)
        self.side = side
        self.callbacks = callbacks
        self.channel = channel  # what the callbacks get
        self.machine = 0
        self.phase = DriverPhase.DISABLED
        self.is_paused = True
        self.was_disabled = False  # since it was enabled last
        self.instance_id: UUID | None = None
        self.mmio = 0, 0
        self.largest = 0, 0, 0  # packet bytes, external bytes, MDLs; as the daemon said at the last opening
        self.ring_bytes = 0
        self.verifier = verifier
        self.gpadls: set[int] = set()
        self.quota: int | None = None
        self.gives = False  # whether packets may be seen
        self.sends = False  # whether Opened has returned
        self.taken: set[Any] = set()
        self.held: deque[DriverSend] = deque()
        self.callbacks_due: deque[CallbackDue] = deque()
        self.running: CallbackDue | None = None
        self._drain_is_due = False

    # ---- sending

    def submit(self, attempt: Callable[[EndState], Any], give_up: Callable[[Any], None]) -> DriverSend:
        """Send now, or in its turn when the channel is open. Raises RequestFailed for arguments nobody can send.

        ``give_up`` cancels what ``attempt`` returned.
        """
        send = DriverSend(attempt, self._forget, give_up)
        if self.sends and self.opening is not None and not self.held:
            send.release(self.opening)
            if send.error is not None:
                raise send.error
        else:
            self.held.append(send)
        return send

    def _forget(self, send: DriverSend) -> None:
        if send in self.held:
            self.held.remove(send)

    def release(self) -> list[DriverSend]:
        """Send what waited, if there is an open channel now; those that ended at once."""
        ended = []
        while self.held and self.sends and self.opening is not None:
            send = self.held.popleft()
            send.release(self.opening)
            if send.done:
                ended.append(send)
        return ended

    def cancel_held(self, error: Exception) -> list[DriverSend]:
        """There will be no channel for what waits; those packets."""
        held = list(self.held)
        self.held.clear()
        for send in held:
            send.fail(error)
        return held

    # ---- receiving

    @property
    def can_take(self) -> bool:
        """Whether a packet may be taken now."""
        return self.gives and bool(self.items)

    def put_back(self, received: Any) -> None:
        """A packet is to be seen again, before any other (R5, R6)."""
        received.is_again = True
        received.batch = 0
        self.items.appendleft(received)

    def ended(self, received: Any) -> bool:
        """A packet that was taken is completed; whether the daemon is to be told that it was the last."""
        self.taken.discard(received)
        return self._take_drained()

    def _take_drained(self) -> bool:
        if self._drain_is_due and not self.taken:
            self._drain_is_due = False
            return True
        return False

    def not_in_time(self, seconds: float, what: str) -> RequestFailed:
        """A step that waits for what was taken, and does so still."""
        held = sorted(self.taken, key=lambda received: received.handle)
        shown = ", ".join(f"{each.handle} ({each.payload[:16]!r})" for each in held[:4])
        why = "no packet is held; the peer, or a callback, takes longer"
        if held:
            more = f" and {len(held) - 4} more" if len(held) > 4 else ""
            why = f"held and not completed: packet {shown}{more}; complete or fail them, and it ends"
        return RequestFailed(NtStatus.IO_TIMEOUT, f"not {what} within {seconds:g} seconds: {why} [4.3]")

    # ---- callbacks

    def begin(self, kind: int) -> bool:
        """A callback was asked for; whether the daemon is to be told that nothing is outstanding.

        It is told so while Suspend runs as well, for the case that Suspend does not return in its time.
        """
        if kind == Callback.OPENED:
            self.sends = False
        elif kind == Callback.SUSPEND:
            self.gives = False
            self._drain_is_due = True
            return self._take_drained()
        elif kind == Callback.CLOSED:
            self.gives = self.sends = self._drain_is_due = False
            self.taken.clear()
            self.items.clear()
        return False

    def is_late(self, due: CallbackDue) -> bool:
        """Whether the daemon went on without this callback, to where its return would undo what came since."""
        asked = {each.kind for each in self.callbacks_due}
        if due.kind == Callback.OPENED:
            # A host's opening is made when Opened has returned, a guest's is there before.
            is_of_another = self.side is Side.GUEST and self.opening is not due.opening
            return is_of_another or not asked.isdisjoint({Callback.OPENED, Callback.CLOSED})
        return due.kind == Callback.STARTED and not asked.isdisjoint({Callback.SUSPEND, Callback.CLOSED})

    def returned(self, due: CallbackDue, status: NtStatus) -> bool:
        """It has returned; whether the daemon is to be told that nothing is outstanding."""
        kind = due.kind
        if self.is_late(due):
            return False
        if kind == Callback.OPENED:
            self.sends = status.is_success
        elif kind == Callback.STARTED:
            self.gives = True
        elif kind == Callback.SUSPEND:
            self._drain_is_due = True
            return self._take_drained()
        return False

    def closed_opening(self, state: EndState) -> None:
        """An opening is over. What is sent from now on waits for the next."""
        super().closed_opening(state)
        self.sends = False

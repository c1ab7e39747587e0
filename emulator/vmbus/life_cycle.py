"""The life of a driver's channel: KMCL's two axes and its five state callbacks, one at a time (4.3).

One axis is disabled, enabled, open; the other paused or active. A host is enabled when its offer stands, a guest when
it looks for one; open is what both are while rings are between them::

    DISABLED ─▶ ENABLED ─▶ OPENING ─▶ PAUSED ─▶ STARTING ─▶ POST_STARTING ─▶ ACTIVE
       ▲           ▲       Opened    │    ▲     Started     PostStarted         │
       │           │       failed    │    └── DRAINING ◀── SUSPENDING ◀─────────┘
       └───────────┴───── CLOSED ◀── CLOSING                 Suspend
                                     Closed

What is asked for (enable, start, pause, disable, the peer coming and going) is noted, whatever runs at that moment.
Where nothing runs, what is noted *urges* the next step; ``_URGED`` says which. ``_FINISHED`` says what the end of a
step leads to. A phase and an input that are in neither table do not happen.

Inputs return effects, performed in order before the next input. Time is seconds; ``deadline`` is when the running
callback has had enough of it.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto

from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.profile import KmclProfile, Side


class Callback(IntEnum):
    """Windows: EvtVmbChannel*. The numbers are the wire's."""

    OPENED = 1
    CLOSED = 2
    STARTED = 3
    POST_STARTED = 4
    SUSPEND = 5


class Phase(Enum):
    """Where the channel is. A callback runs, or packets are waited for, in those whose name is an activity."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    OPENING = "opening"
    REFUSED = "refused"  # left at once
    PAUSED = "paused"
    STARTING = "starting"
    POST_STARTING = "post-starting"
    ACTIVE = "active"
    SUSPENDING = "suspending"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"  # left at once
    DISPOSED = "disposed"

    @property
    def is_open(self) -> bool:
        """Whether Opened has returned and Closed has not been called."""
        return self in _OPEN


class Effect(Enum):
    """What a life cycle wants done."""

    RUN_OPENED = Callback.OPENED
    RUN_CLOSED = Callback.CLOSED
    RUN_STARTED = Callback.STARTED
    RUN_POST_STARTED = Callback.POST_STARTED
    RUN_SUSPEND = Callback.SUSPEND
    JOIN = "join"  # host: offer; guest: take the offer, or wait for one
    ACCEPT = "accept"  # Opened said yes
    REFUSE = "refuse"  # Opened said no: the channel is rolled back
    SENDS_ON = "sends on"
    SENDS_OFF = "sends off"  # and whatever of ours has not ended ends
    DELIVER_ON = "deliver on"
    DELIVER_OFF = "deliver off"
    RELEASE = "release"  # host: the guest that closed may go, and another come
    LEAVE = "leave"  # host: revoke the offer; guest: close the channel, or stop waiting
    NOW_PAUSED = "now paused"  # whoever waits in Pause goes on
    NOW_DISABLED = "now disabled"  # whoever waits in Disable goes on
    EXPIRED = "expired"  # a callback took too long, and is taken to have returned

    @property
    def callback(self) -> Callback | None:
        """The callback to run, for the effects that run one."""
        return self.value if isinstance(self.value, Callback) else None


class _End(Enum):
    """How a step ended."""

    DONE = auto()
    FAILED = auto()


class _Urge(Enum):
    """What is noted, and asks for a step."""

    PEER = auto()
    CLOSE = auto()
    ACTIVATE = auto()
    HALT = auto()
    STAY = auto()
    GO = auto()


P, E = Phase, Effect

_OPEN = frozenset({P.PAUSED, P.ACTIVE, P.STARTING, P.POST_STARTING, P.SUSPENDING, P.DRAINING})
_STARTED = frozenset({P.STARTING, P.POST_STARTING, P.ACTIVE, P.SUSPENDING, P.DRAINING})

_FINISHED: dict[tuple[Phase, _End], tuple[Phase, tuple[Effect, ...]]] = {
    (P.OPENING, _End.DONE): (P.PAUSED, (E.ACCEPT, E.SENDS_ON)),
    (P.OPENING, _End.FAILED): (P.REFUSED, (E.REFUSE,)),
    (P.STARTING, _End.DONE): (P.POST_STARTING, (E.DELIVER_ON, E.RUN_POST_STARTED)),
    (P.POST_STARTING, _End.DONE): (P.ACTIVE, ()),
    (P.SUSPENDING, _End.DONE): (P.DRAINING, ()),
    (P.DRAINING, _End.DONE): (P.PAUSED, (E.NOW_PAUSED,)),
    (P.CLOSING, _End.DONE): (P.CLOSED, ()),
}

_URGED: dict[tuple[Phase, _Urge], tuple[Phase, tuple[Effect, ...]]] = {
    (P.ENABLED, _Urge.PEER): (P.OPENING, (E.RUN_OPENED,)),
    (P.ENABLED, _Urge.GO): (P.DISABLED, (E.LEAVE, E.NOW_DISABLED)),
    (P.PAUSED, _Urge.ACTIVATE): (P.STARTING, (E.RUN_STARTED,)),
    (P.PAUSED, _Urge.CLOSE): (P.CLOSING, (E.SENDS_OFF, E.RUN_CLOSED)),
    (P.ACTIVE, _Urge.HALT): (P.SUSPENDING, (E.DELIVER_OFF, E.RUN_SUSPEND)),
    (P.REFUSED, _Urge.STAY): (P.ENABLED, ()),
    (P.REFUSED, _Urge.GO): (P.DISABLED, (E.LEAVE, E.NOW_DISABLED)),
    (P.CLOSED, _Urge.STAY): (P.ENABLED, (E.RELEASE,)),
    (P.CLOSED, _Urge.GO): (P.DISABLED, (E.LEAVE, E.NOW_DISABLED)),
}


class LifeCycle:
    """One driver channel's. ``callback_seconds`` is how long a callback may take."""

    def __init__(self, side: Side, profile: KmclProfile, callback_seconds: float) -> None:
        self.side = side
        self.phase = Phase.DISABLED
        self.running: Callback | None = None
        self.deadline: float | None = None
        self._profile = profile
        self._seconds = callback_seconds
        self._wants_active = False
        self._pause_armed = False
        self._peer_is_there = False
        self._leaving = False
        self._nothing_is_out = False  # as was told while Suspend runs; for a Suspend that never returns
        self._effects: list[Effect] = []

    @property
    def is_paused(self) -> bool:
        """The second axis: whether nothing is delivered before Start."""
        return self.phase not in _STARTED

    @property
    def pause_is_due(self) -> bool:
        """Whether Pause has to wait for NOW_PAUSED."""
        return self.phase in _STARTED

    # ---- what the driver asks

    def enable(self, now: float) -> list[Effect]:
        """Windows: VmbChannelEnable. A guest is active by it, unless Pause came before; a host waits for Start."""
        self._require_not_disposed()
        if self.phase is not Phase.DISABLED:
            raise _wrong_state(f"the channel is {self.phase.value}; disable it before it is enabled again")
        self._wants_active = self.side is Side.GUEST and not self._pause_armed
        self._pause_armed = self._leaving = self._peer_is_there = False
        self.phase = Phase.ENABLED
        self._effects.append(Effect.JOIN)
        return self._settle(now)

    def disable(self, now: float, *, from_callback: bool = False) -> list[Effect]:
        """Windows: VmbChannelDisable. Ends with NOW_DISABLED."""
        self._require_not_disposed()
        if from_callback:
            raise _wrong_state("Disable waits for the channel's callbacks, so none of them may call it")
        if self.phase is Phase.DISABLED:
            return [Effect.NOW_DISABLED]
        self._leaving = True
        return self._settle(now)

    def start(self, now: float, *, from_callback: bool = False) -> list[Effect]:
        """Windows: VmbChannelStart."""
        self._require_running("Start", from_callback)
        self._wants_active = True
        return self._settle(now)

    def pause(self, now: float, *, from_callback: bool = False) -> list[Effect]:
        """Windows: VmbChannelPause. Ends with NOW_PAUSED, unless ``pause_is_due`` is False afterwards."""
        if self.phase is Phase.DISABLED and not from_callback:
            self._pause_armed = True
            return []
        self._require_running("Pause", from_callback)
        self._wants_active = False
        return self._settle(now)

    def cleanup(self) -> None:
        """Windows: VmbChannelCleanup. Raises Refused unless disabled; afterwards nothing may be asked any more."""
        self._require_not_disposed()
        if self.phase is not Phase.DISABLED:
            raise _wrong_state(f"the channel is {self.phase.value}; disable it, and wait for that, before its cleanup")
        self.phase = Phase.DISPOSED

    def _require_not_disposed(self) -> None:
        if self.phase is Phase.DISPOSED:
            raise _wrong_state("the channel has been cleaned up; allocate another")

    def _require_running(self, what: str, from_callback: bool) -> None:
        self._require_not_disposed()
        if from_callback:
            raise _wrong_state(f"{what} may not be called from a state callback; call it from elsewhere, or later")
        if self.phase is Phase.DISABLED or self._leaving:
            raise _wrong_state(f"{what} belongs between Enable and Disable; enable the channel first")

    # ---- what happens

    def peer_opened(self, now: float) -> list[Effect]:
        """The other side is present: rings are there, or will be when ACCEPT is done."""
        if self.phase is not Phase.ENABLED or self._peer_is_there:
            raise Misuse(f"a channel that is {self.phase.value} was opened")
        self._peer_is_there = True
        return self._settle(now)

    def peer_closed(self, now: float) -> list[Effect]:
        """The other side closed, or took its offer back."""
        self._peer_is_there = False
        return self._settle(now)

    def returned(self, callback: Callback, status: NtStatus, now: float) -> list[Effect]:
        """A callback has returned; the status counts for Opened."""
        if callback is not self.running:
            raise Misuse(f"{callback.name} returned, and {self.running} was running")
        return self._end_of_callback(status, now)

    def drained(self, now: float) -> list[Effect]:
        """Every packet the driver received is completed. Told at any time; it counts after Suspend, or its time."""
        self._nothing_is_out = self.phase is Phase.SUSPENDING
        if self.phase is Phase.DRAINING:
            self._take(_FINISHED[self.phase, _End.DONE], now)
        return self._settle(now)

    def time_passed(self, now: float) -> list[Effect]:
        """A callback that had its time is taken to have returned, Opened to have failed (both by the profile).

        Packets are waited for after Suspend as ever, unless it was told while Suspend ran that none is outstanding.
        """
        if self.deadline is None or now < self.deadline:
            return []
        self._effects.append(Effect.EXPIRED)
        nothing_is_out = self.phase is Phase.SUSPENDING and self._nothing_is_out
        status = NtStatus.IO_TIMEOUT if self._profile.opened_expiry_fails else NtStatus.SUCCESS
        effects = self._end_of_callback(status, now)
        return effects + self.drained(now) if nothing_is_out else effects

    def abort(self) -> list[Effect]:
        """The driver is gone: no callback runs any more, and nothing is waited for."""
        was, self.phase = self.phase, Phase.DISPOSED
        self.running = self.deadline = None
        if was in (Phase.DISABLED, Phase.DISPOSED):
            return []
        first = [Effect.REFUSE] if was is Phase.OPENING else []
        return [*first, Effect.LEAVE, Effect.NOW_PAUSED, Effect.NOW_DISABLED]

    # ---- steps

    def _end_of_callback(self, status: NtStatus, now: float) -> list[Effect]:
        failed = self.running is Callback.OPENED and not status.is_success
        self.running = self.deadline = None
        self._take(_FINISHED[self.phase, _End.FAILED if failed else _End.DONE], now)
        return self._settle(now)

    def _settle(self, now: float) -> list[Effect]:
        """Take the steps that what is noted urges, until one of them has to be waited for."""
        while (urge := self._urge()) is not None and (step := _URGED.get((self.phase, urge))) is not None:
            self._take(step, now)
        effects, self._effects = self._effects, []
        return effects

    def _urge(self) -> _Urge | None:
        must_close = self._leaving or not self._peer_is_there
        match self.phase:
            case Phase.ENABLED:
                return _Urge.GO if self._leaving else _Urge.PEER if self._peer_is_there else None
            case Phase.PAUSED:
                return _Urge.CLOSE if must_close else _Urge.ACTIVATE if self._wants_active else None
            case Phase.ACTIVE:
                return _Urge.HALT if must_close or not self._wants_active else None
            case Phase.REFUSED | Phase.CLOSED:
                # A host whose guest went is enabled still; whoever was disabled, and every guest, is not.
                return _Urge.GO if self._leaving or self.side is Side.GUEST else _Urge.STAY
        return None

    def _take(self, step: tuple[Phase, tuple[Effect, ...]], now: float) -> None:
        if self.phase in (Phase.REFUSED, Phase.CLOSED):
            self._peer_is_there = False
        self.phase, effects = step
        self._effects += effects
        for effect in effects:
            if effect is Effect.RUN_SUSPEND:
                self._nothing_is_out = False
            if effect.callback is not None:
                self.running = effect.callback
                self.deadline = now + self._seconds


def _wrong_state(text: str) -> Refused:
    return Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.3")

"""Event handlers: which ones a client has set, and the calls of them that are under way. For datagrams and connections.

A handler is a function in the client's process. The transport cannot call it; it returns an effect that asks for the
call, and goes on when the answer comes back:

    SET_EVENT_HANDLER ─▶ HandlerTable.set            one table for each address object, one handler for each event (R43)
    something happens ─▶ HandlerCalls.ask ─▶ Ask ─▶ the client ─▶ Transport.handler_answered ─▶ asker.answered
                    └──▶ tell ─▶ Tell ─▶ the client  for the events whose handlers return nothing that counts

How a part of the transport uses it:

1. ``address.handlers.get(EventType.CONNECT)`` gives the ``Handler`` or None; a missing one refuses (R47).
2. ``device.calls.ask(asker, address, handler, Event(...), now)`` gives the effect to return. ``asker`` is any object
   with ``answered(answer, now)``, made for this one call, which knows what it was about; so an asker that may have one
   call at a time keeps that in mind itself, and what comes meanwhile waits with it, bounded.
3. ``answered`` is called exactly once: with the client's answer, or with ``NOT_ACCEPTED`` when it took too long. Its
   object may have been closed meanwhile: look. ``answer.irp`` is a request the client hands over and nobody else will
   complete.

An answer that comes too late is told to nobody; a request in it is completed with CANCELLED.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import EventType
from emulator.tdi.effects import Ask, Effect, Event, Handler, Tell, Violation

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.irp import Irp

PRIVATE_EVENT = 0x80000000
"""An event type with this bit set is the provider's own (R44). This one has none."""


class Answer(NamedTuple):
    """What a handler returned, as the client says it: nothing of it has been checked.

    ``status`` is any number of 32 bits. ``bytes_taken`` of what was indicated. ``irp`` is a request for the rest of the
    data, or the ACCEPT of a connection; it was never submitted. Windows: the return value, *BytesTaken,
    *IoRequestPacket or *AcceptIrp.
    """

    status: int
    bytes_taken: int = 0
    irp: Irp | None = None
    connection: int | None = None
    """Which endpoint accepts, as a connect handler says it. Windows: *ConnectionContext."""


NOT_ACCEPTED = Answer(NtStatus.DATA_NOT_ACCEPTED)


class Asker(Protocol):
    """Who wants the answer of one call."""

    def answered(self, answer: Answer, now: float) -> list[Effect]:
        """The handler has returned, or its time is over."""


class HandlerTable:
    """The event handlers of one address object. Empty when it is opened (CR12)."""

    __slots__ = ("_handlers",)

    def __init__(self) -> None:
        self._handlers: dict[EventType, Handler] = {}

    def set(self, event: int, function: int, context: int) -> None:
        """Set, replace, or with function 0 clear a handler (R41 to R45). Refused for an event nobody knows."""
        try:
            known = EventType(event)
        except ValueError:
            what = "is private to another provider" if event & PRIVATE_EVENT else "does not exist"
            raise Refused(
                NtStatus.INVALID_PARAMETER, f"event type {event} {what}: the types are 0 to 10", rule="R44"
            ) from None
        if function:
            # One object, so that whoever takes it has function and context of the same setting (R43).
            self._handlers[known] = Handler(known, function, context)
        else:
            self._handlers.pop(known, None)

    def get(self, event: EventType) -> Handler | None:
        """The handler to call now."""
        return self._handlers.get(event)

    def clear(self) -> None:
        """Cleanup: no call begins any more (CL3)."""
        self._handlers.clear()


class _Call(NamedTuple):
    asker: Asker
    ask: Ask
    deadline: float


class HandlerCalls:
    """The calls of one machine's transport that wait for an answer, oldest first, which is the order of deadlines."""

    def __init__(self, machine: str, timeout_seconds: float) -> None:
        self._machine = machine
        self._timeout_seconds = timeout_seconds
        self._calls: OrderedDict[int, _Call] = OrderedDict()
        self._last_token = 0
        self.expired = 0
        """Calls that were not answered in time."""

    def __len__(self) -> int:
        return len(self._calls)

    def ask(self, asker: Asker, address: AddressObject, handler: Handler, event: Event, now: float) -> Ask:
        """The effect that calls a handler whose answer is waited for."""
        self._last_token += 1
        ask = Ask(self._machine, address.handle, address.owner, self._last_token, handler, event)
        self._calls[self._last_token] = _Call(asker, ask, now + self._timeout_seconds)
        return ask

    def tell(self, address: AddressObject, handler: Handler, event: Event, *, lossy: bool = False) -> Tell:
        """The effect that calls a handler whose return value is ignored (C37, R48)."""
        return Tell(self._machine, address.handle, address.owner, handler, event, lossy)

    def answered(self, token: int, answer: Answer, now: float) -> list[Effect]:
        """A handler has returned."""
        call = self._calls.pop(token, None)
        if call is None:
            return give_back(answer.irp, "the handler answered too late: what it was called for is over")
        return call.asker.answered(answer, now)

    def expire(self, now: float) -> list[Effect]:
        """End every call that waited too long: as if the handler had not accepted."""
        effects: list[Effect] = []
        while self._calls:
            token, call = next(iter(self._calls.items()))
            if call.deadline > now:
                break
            del self._calls[token]
            self.expired += 1
            ask = call.ask
            text = f"the handler for {ask.handler.event.name} did not answer within {self._timeout_seconds:g} s"
            effects.append(Violation(ask.machine, ask.handle, ask.owner, "R34", text))
            effects += call.asker.answered(NOT_ACCEPTED, now)
        return effects

    def next_deadline(self) -> float | None:
        """When the oldest call expires."""
        return next((call.deadline for call in self._calls.values()), None)


def give_back(irp: Irp | None, why: str, rule: str | None = None) -> list[Effect]:
    """Complete a request that a handler handed over in vain, so that it too is completed once (P1)."""
    if irp is None or not irp.is_new:
        return []
    return [irp.complete(NtStatus.CANCELLED, 0, why, rule)]

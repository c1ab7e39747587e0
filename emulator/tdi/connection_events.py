"""What a connection tells its client's event handlers, and what becomes of their answers (C18, C29 to C31, C37).

Handlers belong to the address object an endpoint is associated with. Data that no posted receive takes are indicated:
to the chained handler, or else to the normal one. One call of a connection is under way at a time; meanwhile what
arrives waits, and so do receives, since the data are with the handler.

    data ─▶ posted receive │ chained handler │ handler │ wait
    its answer ─▶ took all: go on │ took a part: the rest again, or hold │ a request for the rest │ refused: hold

*Hold* is C29's back-pressure: no handler is called for the connection until its client posts a receive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emulator.status import NtStatus
from emulator.tdi.connection_profile import ConnectionMode
from emulator.tdi.connection_requests import Receive
from emulator.tdi.connection_states import State
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.effects import Effect, Event, Violation
from emulator.tdi.handlers import Answer, HandlerCalls, give_back
from emulator.tdi.irp import Irp
from emulator.tdi.loans import Lent, Loan, Loans

if TYPE_CHECKING:
    from emulator.tdi.connection import ConnectionEndpoint
    from emulator.tdi.connection_receives import Incoming
    from emulator.tdi.effects import Handler

MOST_INDICATED_BYTES = 65_535
"""What one event can show; there may be more, which is indicated next."""

_CHAINED = (EventType.CHAINED_RECEIVE, EventType.CHAINED_RECEIVE_EXPEDITED)
_OPEN = frozenset({State.CONNECTED, State.RELEASE_SENT})


class _Shown(NamedTuple):
    """What one call of a handler is about."""

    incoming: Incoming
    """The receive side of that connection: another one means that it is over."""
    expedited: bool
    byte_count: int
    available: int
    loan: Loan | None


class DataCall:
    """One call of a receive handler, and who wants the answer."""

    __slots__ = ("_endpoint", "_events", "_shown")

    def __init__(self, events: ConnectionEvents, endpoint: ConnectionEndpoint, shown: _Shown) -> None:
        self._events = events
        self._endpoint = endpoint
        self._shown = shown

    def answered(self, answer: Answer, now: float) -> list[Effect]:
        """The handler has returned, or its time is over."""
        return self._events.answered(self._endpoint, self._shown, answer, now)


class ConnectionEvents:
    """The events of one machine's connections; ``calls`` and ``loans`` are its transport's."""

    def __init__(self, machine: str, calls: HandlerCalls, loans: Loans) -> None:
        self._machine = machine
        self.calls = calls
        self._loans = loans
        self._starved: dict[ConnectionEndpoint, None] = {}

    def loans_returned(self, now: float) -> list[Effect]:
        """There may be something to lend again: those who waited for that go on."""
        starved, self._starved = self._starved, {}
        return [effect for endpoint in starved for effect in endpoint.settle(now)]

    def forget(self, endpoint: ConnectionEndpoint) -> None:
        """It is closed."""
        self._starved.pop(endpoint, None)

    def tell(self, endpoint: ConnectionEndpoint, event_type: EventType, event: Event) -> list[Effect]:
        """Call a handler whose answer does not count, if there is one (C37)."""
        address = endpoint.address
        handler = None if address is None else address.handlers.get(event_type)
        if address is None or handler is None:
            return []
        return [self.calls.tell(address, handler, event._replace(connection=endpoint.context_number))]

    def indicate(self, endpoint: ConnectionEndpoint, now: float) -> list[Effect]:
        """Call a receive handler for what nobody has taken, unless the connection is held (C29, C31)."""
        incoming, address = endpoint.incoming, endpoint.address
        if incoming.held or incoming.asking or address is None or endpoint.state not in _OPEN:
            return []
        expedited = bool(incoming.expedited)
        if not expedited and not incoming.normal:
            return []
        store = incoming.expedited if expedited else incoming.normal
        by_records = expedited or endpoint.profile.mode is ConnectionMode.MESSAGE
        data, ended = store.take(MOST_INDICATED_BYTES, by_records=by_records, keep=True)
        found = self._handler(endpoint, len(data), expedited=expedited)
        if found is None:
            if any(address.handlers.get(each) for each in _CHAINED):
                self._starved[endpoint] = None
            return []
        handler, loan = found
        shown = data
        if loan is None and endpoint.profile.lookahead_bytes is not None:
            shown = data[: endpoint.profile.lookahead_bytes]
        flags = ReceiveFlags.EXPEDITED if expedited else ReceiveFlags.NORMAL
        if ended and len(shown) == len(data):
            flags |= ReceiveFlags.ENTIRE_MESSAGE
        event = Event(
            data=shown,
            available=len(data),
            flags=flags,
            descriptor=0 if loan is None else loan.descriptor,
            connection=endpoint.context_number,
        )
        incoming.asking = True
        call = DataCall(self, endpoint, _Shown(incoming, expedited, len(shown), len(data), loan))
        return [self.calls.ask(call, address, handler, event, now)]

    def _handler(
        self, endpoint: ConnectionEndpoint, byte_count: int, *, expedited: bool
    ) -> tuple[Handler, Loan | None] | None:
        """Whom to call for data of a kind, with a loan for a chained handler; None when there is nobody.

        With nothing left to lend the normal handler is called instead (R40).
        """
        address = endpoint.address
        assert address is not None, "only an associated endpoint has data"
        order = [(EventType.CHAINED_RECEIVE, True), (EventType.RECEIVE, False)]
        if expedited:
            order = [
                (EventType.CHAINED_RECEIVE_EXPEDITED, True),
                (EventType.RECEIVE_EXPEDITED, False),
                (EventType.RECEIVE, False),
            ]
        for event_type, chained in order:
            handler = address.handlers.get(event_type)
            loan = self._loans.lend(Lent(byte_count), address.owner) if chained and handler is not None else None
            if handler is not None and (loan is not None or not chained):
                return handler, loan
        return None

    def answered(self, endpoint: ConnectionEndpoint, shown: _Shown, answer: Answer, now: float) -> list[Effect]:
        """What a receive handler took is its own; the rest goes where it said, or waits (C30)."""
        loan = shown.loan
        if loan is not None:
            self._loans.answered(loan, keep=answer.status == NtStatus.PENDING)
        if endpoint.incoming is not shown.incoming:
            return give_back(answer.irp, "the connection was over before the handler answered", "C30")
        shown.incoming.asking = False
        if loan is not None:
            effects = self._chained_answered(endpoint, shown, answer)
        else:
            effects = self._normal_answered(endpoint, shown, answer)
        return effects + endpoint.went_on(now)

    def _chained_answered(self, endpoint: ConnectionEndpoint, shown: _Shown, answer: Answer) -> list[Effect]:
        if answer.status in (NtStatus.SUCCESS, NtStatus.PENDING):
            self._consume(endpoint, shown, shown.byte_count)
        else:
            shown.incoming.held = True
        if answer.irp is not None:
            return self._broken(endpoint, "a chained handler returns no request", "C29", answer.irp)
        return []

    def _normal_answered(self, endpoint: ConnectionEndpoint, shown: _Shown, answer: Answer) -> list[Effect]:
        incoming = shown.incoming
        effects: list[Effect] = []
        taken = answer.bytes_taken
        if taken > shown.byte_count:
            text = f"a handler took {taken} bytes of the {shown.byte_count} it was shown: counted as all of them"
            effects += self._broken(endpoint, text, "C30")
            taken = shown.byte_count
        if answer.status == NtStatus.MORE_PROCESSING_REQUIRED and answer.irp is not None:
            self._consume(endpoint, shown, taken)
            return effects + self._post_returned(endpoint, shown, answer.irp)
        if answer.irp is not None:
            text = "a handler returned a request without STATUS_MORE_PROCESSING_REQUIRED"
            effects += self._broken(endpoint, text, "C30", answer.irp)
        if answer.status == NtStatus.SUCCESS:
            self._consume(endpoint, shown, taken)
            again = endpoint.profile.reindicate_rest and endpoint.profile.mode is ConnectionMode.STREAM
            incoming.held = taken < shown.byte_count and not (again and taken)
        elif answer.status == NtStatus.DATA_NOT_ACCEPTED:
            took_all = taken == shown.available and taken > 0
            self._consume(endpoint, shown, taken if took_all else 0, empty=took_all)
            incoming.held = not took_all
        else:
            incoming.held = True
            text = f"a receive handler does not return 0x{answer.status:08X} so: taken as not accepted"
            effects += self._broken(endpoint, text, "C30")
        return effects

    @staticmethod
    def _consume(endpoint: ConnectionEndpoint, shown: _Shown, byte_count: int, *, empty: bool = True) -> None:
        """So much of what was shown is the handler's. Nothing of an empty record is all of it, unless it refused."""
        if not byte_count and not (empty and not shown.byte_count):
            return
        store = shown.incoming.expedited if shown.expedited else shown.incoming.normal
        store.take(byte_count, by_records=shown.expedited or endpoint.profile.mode is ConnectionMode.MESSAGE)

    def _post_returned(self, endpoint: ConnectionEndpoint, shown: _Shown, irp: Irp) -> list[Effect]:
        """The request a handler handed over is the first to get what is there, and newer data too (C30)."""
        request = irp.parameters
        if not irp.is_new or irp.handle != endpoint.handle or not isinstance(request, Receive):
            text = "a handler returned a request that is no new receive on this connection"
            shown.incoming.held = True
            return self._broken(endpoint, text, "C30", irp)
        if irp.cancelled:
            return give_back(irp, "cancelled before it was handed over", "C30")
        irp.mark_pending()
        shown.incoming.post(irp, request, first=True)
        return []

    def _broken(self, endpoint: ConnectionEndpoint, text: str, rule: str, irp: Irp | None = None) -> list[Effect]:
        """A client broke a rule of handlers: count it, and give back what it handed over."""
        told = Violation(self._machine, endpoint.handle, endpoint.owner, rule, text)
        return [told, *give_back(irp, text, rule)]

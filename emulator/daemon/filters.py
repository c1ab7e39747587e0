"""Filters of one machine: clients above its devices, asked about every request before the transport gets it.

    Datagrams.submit ─▶ Filters.take ─▶ filter.request ─▶ the client's answer ─▶ submit_below | complete
    an arriving datagram or event ─▶ Filters.take_event ─▶ likewise ─▶ its owner | not accepted

Nothing waits here but what a filter holds; without a filter nothing passes through. Cleanup does not wait for anybody:
what is held for the file ends with CANCELLED, and the filter is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import trio

from emulator.daemon.filter_passings import CreatePassing, EventPassing, IrpPassing, OnTheWay, Opening
from emulator.daemon.log import logger
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi import dispatch
from emulator.tdi.filter_view import FilterView, address_bytes, freeze, view_of
from emulator.tdi.filters import Action, AskFilter, Ended, Filter, FilterStack, Reached, Removed, Step, Verdict
from emulator.tdi.irp import Irp
from emulator.wire.codec import encode_notification
from emulator.wire.schema import FILTER_CLEANUP, FILTER_COMPLETED, FILTER_DETACHED, FILTER_REQUEST

if TYPE_CHECKING:
    from emulator.config import LimitsConfig
    from emulator.daemon.datagrams import Datagrams
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.daemon.transport_owners import Waiter
    from emulator.tdi.effects import Complete
    from emulator.tdi.query import QueryResult
    from emulator.tdi.transport import Transport


class FilterEnd:
    """One attached filter: whose, where, and under which number of its session."""

    def __init__(self, filters: Filters, session: Session, network: str, number: int) -> None:
        self.filters = filters
        self.session = session
        self.network = network
        self.number = number
        self.place: Filter | None = None


class FilterQuestion:
    """What a filter was asked and has not answered."""

    __slots__ = ("_end", "_token", "machine")

    def __init__(self, end: FilterEnd, token: int) -> None:
        self.machine = end.filters.machine
        self._end = end
        self._token = token

    def answered(self, result: tuple[Any, ...] | None) -> None:
        """Bring the verdict. A filter that answers with an error is out of order, and removed."""
        filters = self._end.filters
        if result is None:
            filters.remove(self._end, "it answered with an error")
            return
        action, status, information, remote, data, watch = result
        if action not in _ACTIONS:
            raise PeerViolation(f"a filter's action is 0, 1 or 2, not {action}")
        verdict = Verdict(Action(action), _known(status), information, remote, data, watch)
        filters.answered(self._end, self._token, verdict)


class _Followed:
    """The context of a request whose end matters to filters, whichever machine brings that about."""

    __slots__ = ("_context", "_filters", "_passing")

    def __init__(self, filters: Filters, passing: IrpPassing, context: Waiter) -> None:
        self._filters = filters
        self._passing = passing
        self._context = context

    def finish(self, complete: Complete) -> None:
        """It is over: the filters first, then whoever asked for it."""
        self._context.finish(self._filters.completed(self._passing, complete))


_ACTIONS = frozenset(int(action) for action in Action)


def _known(status: int) -> NtStatus:
    """A status a request can end with: an unknown one, and PENDING, are errors of the filter's."""
    try:
        known = NtStatus(status)
    except ValueError:
        return NtStatus.UNSUCCESSFUL
    return NtStatus.UNSUCCESSFUL if known is NtStatus.PENDING else known


class Filters:
    """See the module's docstring."""

    machine: Machine
    """Whose filters these are; set once it is made."""

    def __init__(self, datagrams: Datagrams, transport: Transport, limits: LimitsConfig) -> None:
        self._datagrams = datagrams
        self._transport = transport
        self._limits = limits
        self._stacks: dict[str, FilterStack] = {}
        self._held: dict[Irp, IrpPassing] = {}
        self._watched: dict[object, list[FilterEnd]] = {}
        self._ends: dict[Filter, FilterEnd] = {}
        self._last_serial = 0
        self.removed = 0
        """Filters that were removed because they were late or out of order."""
        self._log = logger()

    @property
    def sees_events(self) -> bool:
        """Whether what goes up to clients may have to pass a filter."""
        return any(stack.sees_events for stack in self._stacks.values())

    def on(self, network: str) -> bool:
        """Whether a network has filters."""
        return network in self._stacks

    def stack_size(self, handle: int) -> int:
        """How many drivers a request on a file passes, the transport's included. Windows: DEVICE_OBJECT.StackSize."""
        stack = self._stacks.get(self._transport.file(handle).network)
        return 1 if stack is None else 1 + len(stack.filters)

    # ---- attaching

    def attach(self, end: FilterEnd, *, events: bool) -> None:
        """Put a filter above a network; raises Refused for one the machine has not, and for too many."""
        end.network = self._transport.network_of(end.network)
        stack = self._stacks.get(end.network)
        if stack is None:
            stack = FilterStack(self._limits.filter_seconds, self._limits.filter_questions)
        if len(stack.filters) >= self._limits.filters_per_network:
            text = f"network {end.network} has {len(stack.filters)} filters, as many as it may have (T11)"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="T11")
        self._stacks[end.network] = stack
        end.place = stack.attach(end, events=events)
        self._ends[end.place] = end

    def remove(self, end: FilterEnd, reason: str) -> None:
        """Take a filter away; what it holds passes on."""
        stack = self._stacks.get(end.network)
        if stack is not None and end.place is not None:
            self._take_steps(stack.remove(end.place, reason, trio.current_time()))

    def close_all(self) -> None:
        """The machine ends: what is held ends, and the filters go."""
        for irp in list(self._held):
            self.cancel(irp)
        for end in list(self._ends.values()):
            self.remove(end, f"{self.machine} has ended")

    # ---- what passes

    def _serial(self) -> int:
        self._last_serial += 1
        return self._last_serial

    def take(self, irp: Irp) -> bool:
        """A request is about to be submitted: True when a filter has it now, or it has been refused already."""
        if not self._stacks:
            return False
        try:
            file = self._transport.file(irp.handle)
        except Refused:
            return False
        stack = self._stacks.get(file.network)
        if stack is None:
            return False
        try:
            dispatch.understand(irp)
        except Refused as refusal:
            self._datagrams.complete(irp.refuse(refusal))
            return True
        freeze(irp)
        local = self._transport.local_of(file)
        passing = IrpPassing(self._serial(), self._datagrams, irp, view_of(irp, file.kind, local))
        self._held[irp] = passing
        self._take_steps(stack.enter(passing, trio.current_time()))
        self._datagrams.look_at_deadlines()
        return True

    def create(
        self, session: Session, msgid: int, network: str, view: FilterView, opening: Opening
    ) -> tuple[Any, ...] | None:
        """A file is to be opened: the answer, or None while filters have it."""
        stack = self._stacks.get(self._transport.network_of(network)) if self._stacks else None
        if stack is None:
            return opening.proceed()[0]
        passing = CreatePassing(self._serial(), session, msgid, view, opening)
        session.pending[msgid] = passing
        self._take_steps(stack.enter(passing, trio.current_time()))
        self._datagrams.look_at_deadlines()
        return None

    def take_event(
        self,
        handle: int,
        event: int,
        remote: bytes,
        data: bytes,
        up: Callable[[bytes], None],
        refuse: Callable[[], None],
    ) -> bool:
        """Something is on its way up to a client: True when filters have it now."""
        try:
            file = self._transport.file(handle)
        except Refused:
            return False
        stack = self._stacks.get(file.network)
        if stack is None or not stack.sees_events:
            return False
        if stack.backlog >= self._limits.filter_backlog:
            refuse()
            return True
        local = address_bytes(self._transport.local_of(file))
        view = FilterView(
            handle, int(file.kind), 0, 0, local=local, remote=remote, length=len(data), data=data[:65_535], event=event
        )
        self._take_steps(stack.enter(EventPassing(self._serial(), view, up, refuse), trio.current_time()))
        self._datagrams.look_at_deadlines()
        return True

    def answered(self, end: FilterEnd, token: int, verdict: Verdict) -> None:
        """A filter has answered."""
        stack = self._stacks.get(end.network)
        if stack is None:
            return
        passing = stack.asked_about(token)
        if verdict.watch and passing is not None and not passing.is_event:
            self._watched.setdefault(passing, []).append(end)
        self._take_steps(stack.answered(token, verdict, trio.current_time()))

    def _take_steps(self, steps: list[Step]) -> None:
        waiting = deque(steps)
        while waiting:
            step = waiting.popleft()
            match step:
                case AskFilter(filter=place, token=token, passing=passing) if not place.removed:
                    if not self._ask(self._ends[place], token, passing):
                        stack = self._stacks[self._ends[place].network]
                        waiting += stack.remove(place, "it has too much to answer", trio.current_time())
                case Reached(passing=passing):
                    cast(OnTheWay, passing).reached()
                case Ended(passing=passing, verdict=verdict):
                    cast(OnTheWay, passing).ended(verdict)
                case Removed(filter=place, reason=reason):
                    self._gone(place, reason)

    def _ask(self, end: FilterEnd, token: int, passing: Any) -> bool:
        question = FilterQuestion(end, token)
        return end.session.questions.ask(FILTER_REQUEST, (end.number, passing.serial, *passing.view), question)

    def _gone(self, place: Filter, reason: str) -> None:
        end = self._ends.pop(place)
        stack = self._stacks.get(end.network)  # several may go at once, and the last of them has it taken out
        if stack is not None and not stack.filters:
            del self._stacks[end.network]
        self.removed += 1
        self._log.warning("filter.removed", client=str(end.session), network=end.network, why=reason)
        end.session.put(encode_notification(FILTER_DETACHED, end.number, reason))

    def query(self, handle: int, query_type: int, length: int) -> QueryResult:
        """A filter asks about somebody's file, below itself (T8)."""
        return self._transport.query(handle, query_type, length)

    # ---- how it ends

    def let_go(self, passing: IrpPassing) -> None:
        """No filter has it any more."""
        self._held.pop(passing.irp, None)
        if passing.sent_as is not None or passing in self._watched:
            passing.irp.context = _Followed(self, passing, cast("Waiter", passing.irp.context))

    def cancel(self, irp: Irp) -> bool:
        """Its client wants a request back: True when a filter had it, and it has its end now."""
        passing = self._held.pop(irp, None)
        if passing is None:
            return False
        self.withdraw(passing)
        self.let_go(passing)
        irp.cancelled = True
        self._datagrams.complete(irp.complete(NtStatus.CANCELLED, 0, "cancelled while a filter had it", "S38"))
        return True

    def withdraw(self, passing: OnTheWay) -> None:
        """It is over; what a filter still says of it counts for nothing."""
        for stack in self._stacks.values():
            stack.withdraw(passing)

    def cleanup(self, handle: int) -> None:
        """A file is cleaned up: what filters hold for it ends, and they are told."""
        for irp in [irp for irp in self._held if irp.handle == handle]:
            self.cancel(irp)
        network, kind = self._transport.file(handle).network, self._transport.file(handle).kind
        for place in self._stacks[network].filters if network in self._stacks else ():
            end = self._ends[place]
            end.session.put(encode_notification(FILTER_CLEANUP, end.number, handle, int(kind)))

    def completed(self, passing: IrpPassing, complete: Complete) -> Complete:
        """A request that passed filters is over: its client's count, and those who watch it."""
        if passing.sent_as is not None and not complete.status.is_error:
            complete = complete._replace(information=passing.sent_as)
        status = int(complete.status), complete.information, complete.message
        self.tell_watchers(passing, status, passing.view.file, b"")
        return complete

    def tell_watchers(self, passing: OnTheWay, status: tuple[int, int, str], file: int, local: bytes) -> None:
        """Something that was watched is over."""
        for end in self._watched.pop(passing, ()):
            if end.place is not None and not end.place.removed:
                frame = encode_notification(FILTER_COMPLETED, end.number, passing.serial, *status, file, local)
                end.session.put(frame)

    # ---- time

    def next_deadline(self) -> float | None:
        """When the first filter is late."""
        deadlines = (stack.next_deadline() for stack in self._stacks.values())
        return min((at for at in deadlines if at is not None), default=None)

    def expire(self, now: float) -> None:
        """Remove the filters that are late."""
        for stack in list(self._stacks.values()):
            self._take_steps(stack.expire(now))

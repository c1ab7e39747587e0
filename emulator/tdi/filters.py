"""Filters above a device: who is asked about a request, in which order, and what becomes of it.

A filter sees each request before the transport does, the one attached last first of all, and says whether it passes on,
is changed, or ends right there. It is a process of its own; here it is only a place in the order and a deadline. One
that answers too late is removed, and whatever it held passes on, as if it had never been there.

    enter ─▶ AskFilter (top) ─▶ answered PASS ─▶ AskFilter (below) ─▶ … ─▶ Reached: the transport's turn
                            └─▶ answered END ─▶ Ended        late, or gone ─▶ Removed, and on to the next below

What passes is a ``Passing``: a request, a create, or an event on its way up to a client. Its owner knows what it is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

from emulator.status import NtStatus


class Action(IntEnum):
    """What a filter wants done with what it was asked about."""

    PASS = 0
    END = 1
    CHANGE = 2


class Verdict(NamedTuple):
    """A filter's answer.

    ``status`` and ``information`` are for END. With CHANGE, ``remote`` is another TRANSPORT_ADDRESS and ``data`` other
    bytes, None for what stays. ``watch`` asks to be told how the request ends.
    """

    action: Action = Action.PASS
    status: NtStatus = NtStatus.SUCCESS
    information: int = 0
    remote: bytes | None = None
    data: bytes | None = None
    watch: bool = False


PASS_ON = Verdict()


class Passing(Protocol):
    """Something on its way through the filters of one device.

    ``is_event``: up to a client, not down to the transport.
    """

    is_event: bool

    def change(self, verdict: Verdict) -> None:
        """Take over what a filter changed; what cannot be changed stays."""


@dataclass(slots=True, eq=False)
class Filter:
    """One filter's place. ``owner`` is whoever attached it; ``events`` says whether it sees events too."""

    number: int
    owner: object
    events: bool
    waiting: deque[Passing] = field(default_factory=deque)
    asked: int = 0
    removed: str = ""
    """Why it was removed, once it was."""


class AskFilter(NamedTuple):
    """Ask this filter, and bring its answer to ``answered`` under this token."""

    filter: Filter
    token: int
    passing: Passing


class Reached(NamedTuple):
    """It has passed every filter."""

    passing: Passing


class Ended(NamedTuple):
    """A filter has ended it."""

    passing: Passing
    verdict: Verdict


class Removed(NamedTuple):
    """A filter is gone, and why."""

    filter: Filter
    reason: str


Step: TypeAlias = AskFilter | Reached | Ended | Removed


class _Question(NamedTuple):
    filter: Filter
    passing: Passing | None
    """None once it was withdrawn: the filter still owes an answer, which makes room for the next question."""
    deadline: float


class FilterStack:
    """The filters of one device, top first.

    ``timeout_seconds`` is how long one may take for an answer; at most ``most_asked`` questions to one filter are under
    way, and what comes meanwhile waits its turn.
    """

    def __init__(self, timeout_seconds: float, most_asked: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._most_asked = most_asked
        self._filters: list[Filter] = []
        self._questions: OrderedDict[int, _Question] = OrderedDict()
        self._last_token = 0
        self._last_number = 0

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Those attached, top first."""
        return tuple(self._filters)

    @property
    def sees_events(self) -> bool:
        """Whether any of them wants to see events."""
        return any(each.events for each in self._filters)

    @property
    def backlog(self) -> int:
        """How much waits to be asked about."""
        return sum(len(each.waiting) for each in self._filters)

    def asked_about(self, token: int) -> Passing | None:
        """What a question is about; None once it is over, or what it was about is."""
        question = self._questions.get(token)
        return None if question is None else question.passing

    def attach(self, owner: object, *, events: bool) -> Filter:
        """Add one above all others."""
        self._last_number += 1
        added = Filter(self._last_number, owner, events)
        self._filters.insert(0, added)
        return added

    def enter(self, passing: Passing, now: float) -> list[Step]:
        """Something begins its way: a request at the top, an event at the bottom."""
        return self._to(self._next(None, passing), passing, now)

    def _next(self, behind: Filter | None, passing: Passing) -> Filter | None:
        """Who is asked after ``behind``: for a request the next below, for an event the next above that sees events."""
        order = [each for each in reversed(self._filters) if each.events] if passing.is_event else self._filters
        at = 0 if behind is None else order.index(behind) + 1
        return order[at] if at < len(order) else None

    def _to(self, target: Filter | None, passing: Passing, now: float) -> list[Step]:
        if target is None:
            return [Reached(passing)]
        if target.asked >= self._most_asked:
            target.waiting.append(passing)
            return []
        return [self._ask(target, passing, now)]

    def _ask(self, target: Filter, passing: Passing, now: float) -> AskFilter:
        self._last_token += 1
        target.asked += 1
        self._questions[self._last_token] = _Question(target, passing, now + self._timeout_seconds)
        return AskFilter(target, self._last_token, passing)

    def answered(self, token: int, verdict: Verdict, now: float) -> list[Step]:
        """A filter has answered; nothing for a question that is over."""
        question = self._questions.pop(token, None)
        if question is None:
            return []
        asked, passing = question.filter, question.passing
        asked.asked -= 1
        steps: list[Step] = []
        if passing is not None:
            steps += self._judged(asked, passing, verdict, now)
        if asked.waiting and asked.asked < self._most_asked:
            steps.append(self._ask(asked, asked.waiting.popleft(), now))
        return steps

    def _judged(self, by: Filter, passing: Passing, verdict: Verdict, now: float) -> list[Step]:
        if verdict.action is Action.END:
            return [Ended(passing, verdict)]
        if verdict.action is Action.CHANGE:
            passing.change(verdict)
        return self._to(self._next(by, passing), passing, now)

    def withdraw(self, passing: Passing) -> bool:
        """It is over, whatever a filter that has it may still say; whether it was under way here."""
        for token, question in self._questions.items():
            if question.passing is passing:
                self._questions[token] = question._replace(passing=None)
                return True
        for each in self._filters:
            if passing in each.waiting:
                each.waiting.remove(passing)
                return True
        return False

    def remove(self, gone: Filter, reason: str, now: float) -> list[Step]:
        """Take a filter away: what it held passes on, in order."""
        if gone.removed:
            return []
        gone.removed = reason
        tokens = [token for token, question in self._questions.items() if question.filter is gone]
        held = [self._questions.pop(token).passing for token in tokens]
        onward = [(passing, self._next(gone, passing)) for passing in (*held, *gone.waiting) if passing is not None]
        self._filters.remove(gone)
        gone.waiting.clear()
        steps: list[Step] = [Removed(gone, reason)]
        for passing, target in onward:
            steps += self._to(target, passing, now)
        return steps

    def expire(self, now: float) -> list[Step]:
        """Remove every filter that owes an answer for too long."""
        steps: list[Step] = []
        while self._questions:
            question = next(iter(self._questions.values()))
            if question.deadline > now:
                break
            reason = f"it did not answer within {self._timeout_seconds:g} s"
            steps += self.remove(question.filter, reason, now)
        return steps

    def next_deadline(self) -> float | None:
        """When ``expire`` has something to do, unless something else happens before."""
        return next((question.deadline for question in self._questions.values()), None)

"""Filters above a device: their order, their answers, and their going."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import NtStatus
from emulator.tdi.filters import (
    PASS_ON,
    Action,
    AskFilter,
    Ended,
    Filter,
    FilterStack,
    Reached,
    Removed,
    Step,
    Verdict,
)

DENY = Verdict(Action.END, NtStatus.ACCESS_DENIED)


class Thing:
    """A request or an event with nothing in it."""

    def __init__(self, name: str = "thing", *, is_event: bool = False) -> None:
        self.name = name
        self.is_event = is_event
        self.changes: list[Verdict] = []

    def change(self, verdict: Verdict) -> None:
        self.changes.append(verdict)

    def __repr__(self) -> str:
        return self.name


def asked(steps: list[Step]) -> list[AskFilter]:
    return [step for step in steps if isinstance(step, AskFilter)]


def test_the_filter_attached_last_sees_a_request_first() -> None:
    stack = FilterStack(5.0, 10)
    low, high = stack.attach("low", events=False), stack.attach("high", events=False)
    thing = Thing()
    [first] = stack.enter(thing, 0.0)
    assert isinstance(first, AskFilter)
    assert first.filter is high
    [second] = stack.answered(first.token, PASS_ON, 0.0)
    assert isinstance(second, AskFilter)
    assert second.filter is low
    assert stack.answered(second.token, PASS_ON, 0.0) == [Reached(thing)]


def test_an_event_goes_up_past_those_that_see_events() -> None:
    stack = FilterStack(5.0, 10)
    low, _, high = (stack.attach(name, events=name != "middle") for name in ("low", "middle", "high"))
    thing = Thing(is_event=True)
    [first] = asked(stack.enter(thing, 0.0))
    [second] = asked(stack.answered(first.token, PASS_ON, 0.0))
    assert (first.filter, second.filter) == (low, high)
    assert stack.answered(second.token, PASS_ON, 0.0) == [Reached(thing)]
    assert stack.sees_events


def test_without_filters_everything_reaches_at_once() -> None:
    stack, thing = FilterStack(5.0, 10), Thing()
    assert stack.enter(thing, 0.0) == [Reached(thing)]
    assert stack.next_deadline() is None
    assert not stack.sees_events


def test_a_filter_ends_or_changes_what_it_sees() -> None:
    stack = FilterStack(5.0, 10)
    stack.attach("low", events=False)
    stack.attach("high", events=False)
    thing = Thing()
    [ask] = asked(stack.enter(thing, 0.0))
    change = Verdict(Action.CHANGE, data=b"other")
    [below] = asked(stack.answered(ask.token, change, 0.0))
    assert thing.changes == [change]
    assert stack.answered(below.token, DENY, 0.0) == [Ended(thing, DENY)]
    assert stack.answered(below.token, PASS_ON, 0.0) == [], "an answer counts once"


def test_a_late_filter_is_removed_and_what_it_held_passes_on() -> None:
    stack = FilterStack(5.0, 2)
    low, high = stack.attach("low", events=False), stack.attach("high", events=False)
    things = [Thing(str(number)) for number in range(4)]
    for number, thing in enumerate(things):
        stack.enter(thing, float(number))
    assert stack.next_deadline() == 5.0
    assert stack.expire(4.9) == []
    steps = stack.expire(5.0)
    assert isinstance(steps[0], Removed)
    assert (steps[0].filter, high.removed) == (high, "it did not answer within 5 s")
    assert [(ask.filter, ask.passing) for ask in asked(steps)] == [(low, things[0]), (low, things[1])]
    assert list(low.waiting) == things[2:], "in order, and no more at once than one may be asked"
    assert stack.filters == (low,)
    assert stack.remove(high, "again", 6.0) == []


def test_one_filter_is_asked_only_so_much_at_once() -> None:
    stack = FilterStack(5.0, 2)
    stack.attach("one", events=False)
    things = [Thing(str(number)) for number in range(3)]
    asks = [ask for thing in things for ask in asked(stack.enter(thing, 0.0))]
    assert [ask.passing for ask in asks] == things[:2]
    steps = stack.answered(asks[0].token, PASS_ON, 1.0)
    assert steps[0] == Reached(things[0])
    assert [ask.passing for ask in asked(steps)] == [things[2]]


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_withdrawn_is_over_whatever_the_filter_says(which: int) -> None:
    stack = FilterStack(5.0, 1)
    stack.attach("one", events=False)
    things = [Thing("asked"), Thing("waiting")]
    [ask] = [ask for thing in things for ask in asked(stack.enter(thing, 0.0))]
    assert stack.withdraw(things[which])
    assert not stack.withdraw(things[which])
    steps = stack.answered(ask.token, PASS_ON, 0.0)
    left = [step.passing for step in steps if isinstance(step, (Reached, AskFilter))]
    assert left == [things[1 - which]]


def test_withdrawn_or_not_the_filter_owes_its_answer() -> None:
    stack = FilterStack(5.0, 1)
    gone = stack.attach("one", events=False)
    thing = Thing()
    stack.enter(thing, 0.0)
    stack.withdraw(thing)
    assert stack.expire(5.0) == [Removed(gone, "it did not answer within 5 s")]


@given(st.lists(st.tuples(st.sampled_from("eeeaaarxwt"), st.integers(0, 7)), max_size=60))
def test_everything_that_enters_ends_once(moves: list[tuple[str, int]]) -> None:
    stack = FilterStack(5.0, 2)
    filters: list[Filter] = [stack.attach(name, events=name != "b") for name in "abc"]
    now = 0.0
    open_asks: list[AskFilter] = []
    entered: list[Thing] = []
    over: list[object] = []

    def take(steps: list[Step]) -> None:
        for step in steps:
            match step:
                case AskFilter():
                    # One that was late in the same moment is not asked any more: what it had goes on below it.
                    if not step.filter.removed:
                        open_asks.append(step)
                case Reached(passing) | Ended(passing, _):
                    over.append(passing)

    for move, number in moves:
        if move == "e":
            thing = Thing(str(len(entered)), is_event=number % 2 == 0)
            entered.append(thing)
            take(stack.enter(thing, now))
        elif move == "a" and open_asks:
            ask = open_asks.pop(number % len(open_asks))
            take(stack.answered(ask.token, DENY if number == 7 else PASS_ON, now))
        elif move == "r" and filters:
            take(stack.remove(filters.pop(number % len(filters)), "gone", now))
        elif move == "x":
            take(stack.expire(now))
        elif move == "w" and entered:
            thing = entered[number % len(entered)]
            if stack.withdraw(thing):
                over.append(thing)
        elif move == "t":
            now += number
    for each in filters:
        take(stack.remove(each, "gone", now))
    assert sorted(over, key=id) == sorted(entered, key=id)
    assert stack.next_deadline() is None

"""The window: nobody overruns it and nobody waits for ever, whatever the grant, the costs and the order of draining."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.wire.window import ReceiveWindow, SendWindow


class Pair:
    """A sender and a receiver with one grant, and two lines between them on which nothing overtakes."""

    def __init__(self, packets: int, byte_count: int) -> None:
        self.grant = packets, byte_count
        self.sends = SendWindow(packets, byte_count)
        self.receives = ReceiveWindow(packets, byte_count)
        self.sent: deque[int] = deque()  # costs on the way to the receiver
        self.held: list[int] = []  # costs of what the receiver has and has not drained
        self.returned: deque[tuple[int, int]] = deque()  # portions on the way to the sender
        self.dearest = 0

    def send(self, cost: int) -> None:
        self.sends.spend(cost)
        self.sent.append(cost)
        self.dearest = max(self.dearest, cost)
        outstanding = [*self.sent, *self.held]
        assert len(outstanding) <= self.grant[0]
        assert sum(outstanding) < self.grant[1] + self.dearest

    def deliver(self) -> None:
        cost = self.sent.popleft()
        assert self.receives.arrive(cost), "an obedient sender was taken for one that overruns"
        self.held.append(cost)

    def drain(self, which: int) -> None:
        portion = self.receives.drain(1, self.held.pop(which % len(self.held)))
        if portion is not None:
            self.returned.append(portion)

    def take_return(self) -> None:
        self.sends.grant(*self.returned.popleft())

    def step(self, choice: int, costs: deque[int]) -> bool:
        """One of the things that can happen now, by choice; False when nothing can."""
        can: list[str] = []
        if costs and self.sends.is_open:
            can.append("send")
        can += ["deliver"] * bool(self.sent) + ["drain"] * bool(self.held) + ["return"] * bool(self.returned)
        if not can:
            return False
        match can[choice % len(can)]:
            case "send":
                self.send(costs.popleft())
            case "deliver":
                self.deliver()
            case "drain":
                self.drain(choice // 4)
            case "return":
                self.take_return()
        return True

    def run(self, costs: list[int], choices: random.Random) -> None:
        """Until nothing more can happen; then everything has to be through."""
        left = deque(costs)
        while self.step(choices.randrange(1 << 16), left):
            pass
        assert not left, f"{len(left)} of {len(costs)} were never sent: both sides wait"


SMALL_GRANTS = list(itertools.product(range(1, 7), (1, 2, 3, 5, 8, 64, 100)))


@pytest.mark.parametrize(("packets", "byte_count"), SMALL_GRANTS)
def test_no_small_grant_deadlocks_or_is_overrun(packets: int, byte_count: int) -> None:
    chance = random.Random(packets * 1000 + byte_count)
    for _ in range(40):
        highest = chance.choice((1, 2, byte_count, 2 * byte_count, 1000))
        costs = [chance.randint(1, highest) for _ in range(40)]
        Pair(packets, byte_count).run(costs, chance)


@given(
    packets=st.integers(1, 300),
    byte_count=st.integers(1, 1 << 20),
    costs=st.lists(st.integers(1, 1 << 20), max_size=60),
    seed=st.integers(0, 1 << 32),
)
def test_no_grant_deadlocks_or_is_overrun(packets: int, byte_count: int, costs: list[int], seed: int) -> None:
    Pair(packets, byte_count).run(costs, random.Random(seed))


@given(
    packets=st.integers(1, 9),
    byte_count=st.integers(1, 200),
    costs=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    batches=st.lists(st.integers(1, 5), max_size=40),
)
def test_draining_in_batches_does_not_deadlock(
    packets: int, byte_count: int, costs: list[int], batches: list[int]
) -> None:
    sends, receives = SendWindow(packets, byte_count), ReceiveWindow(packets, byte_count)
    left, held = deque(costs), deque[int]()
    for batch in [*batches, *[1] * (len(costs) * 2)]:
        while left and sends.is_open:
            cost = left.popleft()
            sends.spend(cost)
            assert receives.arrive(cost)
            held.append(cost)
        taken = [held.popleft() for _ in range(min(batch, len(held)))]
        if taken and (portion := receives.drain(len(taken), sum(taken))) is not None:
            sends.grant(*portion)
    assert not left
    assert not held


@given(packets=st.integers(1, 6), byte_count=st.integers(1, 100), costs=st.lists(st.integers(1, 150), max_size=40))
def test_what_is_settled_by_an_answer_needs_no_return(packets: int, byte_count: int, costs: list[int]) -> None:
    sends, receives = SendWindow(packets, byte_count), ReceiveWindow(packets, byte_count)
    under_way = deque[int]()
    for cost in costs:
        while not sends.is_open:
            answered = under_way.popleft()
            receives.settle(answered)
            sends.grant(1, answered)
        sends.spend(cost)
        under_way.append(cost)
        assert receives.arrive(cost)


@given(
    packets=st.integers(1, 20),
    byte_count=st.integers(1, 500),
    costs=st.lists(st.integers(1, 99), min_size=1, max_size=60),
)
def test_a_sender_without_a_window_is_found_out_at_once(packets: int, byte_count: int, costs: list[int]) -> None:
    receives = ReceiveWindow(packets, byte_count)
    for number, cost in enumerate(costs):
        allowed = number < packets and sum(costs[:number]) < byte_count
        assert receives.arrive(cost) is allowed


def test_one_packet_may_overdraw_the_bytes_and_then_none() -> None:
    sends = SendWindow(10, 1)
    was_open = [sends.is_open]
    sends.spend(1_000_000)
    was_open.append(sends.is_open)
    sends.grant(1, 999_999)
    was_open.append(sends.is_open)
    sends.grant(0, 1)
    was_open.append(sends.is_open)
    assert was_open == [True, False, False, True]


def test_a_grant_of_nothing_is_never_open() -> None:
    for window in (SendWindow(0, 0), SendWindow(0, 100), SendWindow(100, 0)):
        assert not window.is_open
    for receiver in (ReceiveWindow(0, 0), ReceiveWindow(0, 100), ReceiveWindow(100, 0)):
        assert not receiver.arrive(0)


def test_a_return_waits_until_half_of_a_count_is_due() -> None:
    window = ReceiveWindow(10, 1000)
    assert all(window.arrive(10) for _ in range(10))
    assert [window.drain(1, 10) for _ in range(5)] == [None] * 4 + [(5, 50)]
    assert window.drain(1, 10) is None
    assert window.drain(0, 490) == (1, 500)


def test_an_odd_grant_is_returned_at_its_larger_half() -> None:
    window = ReceiveWindow(5, 1000)
    assert [window.drain(1, 1) for _ in range(3)] == [None, None, (3, 3)]

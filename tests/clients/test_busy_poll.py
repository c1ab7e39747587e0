"""When a waiter looks at its rings before it sleeps, and when it does not."""

from __future__ import annotations

import pytest

from clients.busy_poll import BusyPoll
from emulator.status import Misuse


class World:
    """A clock that moves by a microsecond with each look, and by ``sleeps`` with each sleep."""

    def __init__(self, sleeps: float = 0.0) -> None:
        self.now = 0.0
        self.sleeps = sleeps
        self.comes_at: float | None = None
        self.looks = self.slept = 0

    def clock(self) -> float:
        return self.now

    def look(self) -> bool:
        self.looks += 1
        self.now += 1e-6
        return self.comes_at is not None and self.now >= self.comes_at

    def sleep(self) -> None:
        self.slept += 1
        self.now += self.sleeps

    def wait(self, poll: BusyPoll) -> tuple[int, int]:
        """One wait; how often it looked and slept."""
        self.looks = self.slept = 0
        poll.wait(self.look, self.sleep)
        return self.looks, self.slept


def test_what_comes_soon_is_seen_without_sleeping() -> None:
    world = World()
    poll = BusyPoll(50e-6, world.clock)
    world.comes_at = 20.5e-6
    assert world.wait(poll) == (21, 0)
    assert world.wait(poll) == (1, 0)


def test_it_looks_no_longer_than_it_was_told() -> None:
    world = World()
    assert world.wait(BusyPoll(50e-6, world.clock)) == (53, 1)


def test_after_a_long_wait_it_sleeps_at_once_until_one_was_short() -> None:
    world = World(sleeps=1.0)
    poll = BusyPoll(50e-6, world.clock)
    assert world.wait(poll)[1] == 1
    for _ in range(3):
        assert world.wait(poll) == (1, 1)
    world.sleeps = 60e-6
    assert world.wait(poll) == (1, 1)
    assert world.wait(poll)[0] > 50


def test_no_seconds_turn_it_off() -> None:
    world = World()
    poll = BusyPoll(0, world.clock)
    for _ in range(3):
        assert world.wait(poll) == (1, 1)


@pytest.mark.parametrize("seconds", [-1e-6, 1.5, float("nan")])
def test_a_time_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(Misuse, match="0 to 1 seconds"):
        BusyPoll(seconds)


def test_a_wait_goes_on_where_a_look_ended() -> None:
    world = World(sleeps=1.0)
    poll = BusyPoll(50e-6, world.clock)
    assert not poll.look_for(world.look)
    assert world.looks == 52
    assert world.wait(poll) == (1, 1)  # it has looked for long enough
    assert not poll.look_for(world.look)  # waits are long here: no looking at all
    assert world.looks == 1
    world.comes_at = world.now + 20e-6
    assert not poll.look_for(world.look)
    assert world.wait(poll)[0] == 1

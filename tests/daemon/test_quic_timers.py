"""The timers of connections over UDP: one each, the earliest first, and of what is over nothing is kept."""

from __future__ import annotations

import gc
import weakref

from emulator.daemon.quic_stream import RemoteClient
from emulator.daemon.quic_timers import Timers
from tests.daemon.test_quic_table import new_client


def client() -> RemoteClient:
    return RemoteClient(new_client(), "someone", 0.0)


def test_they_ring_in_order_and_once() -> None:
    timers, late, early = Timers(), client(), client()
    assert timers.next() == float("inf")
    assert timers.arm(late, 2.0)
    assert timers.arm(early, 1.0)
    assert timers.next() == 1.0
    assert list(timers.due(0.9)) == []
    assert list(timers.due(2.0)) == [early, late]
    assert list(timers.due(3.0)) == []
    assert (timers.next(), late.deadline) == (float("inf"), None)


def test_a_timer_is_moved_to_an_earlier_time_and_to_no_later_one() -> None:
    timers, one = Timers(), client()
    assert timers.arm(one, 5.0)
    assert not timers.arm(one, 6.0)
    assert timers.arm(one, 3.0)
    assert list(timers.due(4.0)) == [one]
    assert list(timers.due(7.0)) == [], "it has one timer"
    assert timers.arm(one, 6.0), "and it can be set again"


def test_a_connection_that_is_over_rings_no_more_and_is_not_kept_until_it_would_have() -> None:
    timers, one, other = Timers(), client(), client()
    timers.arm(one, 5.0)
    timers.arm(other, 600.0)
    timers.forget(other)
    timers.forget(other)
    other.engine.release()
    gone = weakref.ref(other.engine)
    gc.disable()
    try:
        del other
        assert gone() is None, "without the collector of cycles"
    finally:
        gc.enable()
    assert len(timers) == 1
    assert list(timers.due(1000.0)) == [one]

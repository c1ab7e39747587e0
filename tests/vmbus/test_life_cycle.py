"""The life cycle of a driver's channel, each numbered line of 4.3, as transcripts of inputs and effects."""

from __future__ import annotations

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.life_cycle import Callback, Effect, LifeCycle, Phase
from emulator.vmbus.profile import KmclProfile, Side

E, P, C = Effect, Phase, Callback
OK = NtStatus.SUCCESS
SIDES = pytest.mark.parametrize("side", list(Side))


def made(side: Side, profile: KmclProfile | None = None) -> LifeCycle:
    return LifeCycle(side, profile or KmclProfile(), callback_seconds=5.0)


def back(life: LifeCycle, callback: Callback, status: NtStatus = OK, now: float = 0.0) -> list[Effect]:
    return life.returned(callback, status, now)


def active(side: Side) -> LifeCycle:
    """One that has been through Opened, Started and PostStarted."""
    life = made(side)
    life.enable(0)
    if side is Side.HOST:
        life.start(0)
    life.peer_opened(0)
    for callback in (C.OPENED, C.STARTED, C.POST_STARTED):
        back(life, callback)
    assert life.phase is P.ACTIVE
    return life


def closed(life: LifeCycle) -> list[Effect]:
    """Through the callbacks of a close that has begun; every effect from Suspend's return on."""
    effects = back(life, C.SUSPEND)
    effects += life.drained(0)
    return effects + back(life, C.CLOSED)


@SIDES
def test_4_3_1_a_channel_is_allocated_disabled(side: Side) -> None:
    life = made(side)
    assert (life.phase, life.is_paused) == (P.DISABLED, True)


def test_4_3_2_a_host_is_enabled_paused_and_start_may_follow_directly() -> None:
    life = made(Side.HOST)
    assert life.enable(0) == [E.JOIN]
    assert life.start(0) == []
    assert life.peer_opened(0) == [E.RUN_OPENED]
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON, E.RUN_STARTED]


def test_4_3_2_a_guest_is_active_by_enable() -> None:
    life = made(Side.GUEST)
    assert life.enable(0) == [E.JOIN]
    assert life.peer_opened(0) == [E.RUN_OPENED]
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON, E.RUN_STARTED]


@SIDES
def test_4_3_3_opened_then_started_then_the_queue_then_post_started(side: Side) -> None:
    life = made(side)
    life.enable(0)
    life.start(0)
    life.peer_opened(0)
    back(life, C.OPENED)
    assert back(life, C.STARTED) == [E.DELIVER_ON, E.RUN_POST_STARTED]
    assert back(life, C.POST_STARTED) == []
    assert (life.phase, life.is_paused) == (P.ACTIVE, False)


def test_4_3_3_a_paused_channel_stops_after_opened_until_start() -> None:
    life = made(Side.HOST)
    life.enable(0)
    life.peer_opened(0)
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON]
    assert (life.phase, life.is_paused, life.running) == (P.PAUSED, True, None)
    assert life.start(0) == [E.RUN_STARTED]


@SIDES
def test_4_3_4_pause_suspends_then_waits_for_outstanding_packets(side: Side) -> None:
    life = active(side)
    assert life.pause(0) == [E.DELIVER_OFF, E.RUN_SUSPEND]
    assert (life.is_paused, life.pause_is_due) == (False, True)
    assert back(life, C.SUSPEND) == []
    assert life.drained(0) == [E.NOW_PAUSED]
    assert (life.is_paused, life.phase) == (True, P.PAUSED)
    assert life.start(0) == [E.RUN_STARTED]
    assert back(life, C.STARTED) == [E.DELIVER_ON, E.RUN_POST_STARTED]


def test_4_3_4_packets_completed_before_suspend_returned_do_not_end_the_pause() -> None:
    life = active(Side.HOST)
    life.pause(0)
    assert life.drained(0) == []
    assert life.phase is P.SUSPENDING
    assert back(life, C.SUSPEND) == []
    assert life.drained(0) == [E.NOW_PAUSED]


@SIDES
def test_4_3_4_start_during_a_pause_starts_once_it_is_paused(side: Side) -> None:
    life = active(side)
    life.pause(0)
    assert life.start(0) == []
    back(life, C.SUSPEND)
    assert life.drained(0) == [E.NOW_PAUSED, E.RUN_STARTED]


@SIDES
def test_4_3_4_pause_while_starting_lets_post_started_return_first(side: Side) -> None:
    life = made(side)
    life.enable(0)
    life.start(0)
    life.peer_opened(0)
    back(life, C.OPENED)
    assert life.pause(0) == []
    assert back(life, C.STARTED) == [E.DELIVER_ON, E.RUN_POST_STARTED]
    assert back(life, C.POST_STARTED) == [E.DELIVER_OFF, E.RUN_SUSPEND]


@SIDES
def test_4_3_5_disable_suspends_waits_and_closes(side: Side) -> None:
    life = active(side)
    assert life.disable(0) == [E.DELIVER_OFF, E.RUN_SUSPEND]
    assert closed(life) == [E.NOW_PAUSED, E.SENDS_OFF, E.RUN_CLOSED, E.LEAVE, E.NOW_DISABLED]
    assert life.phase is P.DISABLED


def test_4_3_5_a_host_whose_guest_closed_is_enabled_again() -> None:
    life = active(Side.HOST)
    assert life.peer_closed(0) == [E.DELIVER_OFF, E.RUN_SUSPEND]
    assert closed(life) == [E.NOW_PAUSED, E.SENDS_OFF, E.RUN_CLOSED, E.RELEASE]
    assert life.phase is P.ENABLED
    assert life.peer_opened(0) == [E.RUN_OPENED]
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON, E.RUN_STARTED], "it was active, and is again"


def test_4_3_5_a_guest_whose_host_is_gone_is_disabled() -> None:
    life = active(Side.GUEST)
    assert life.peer_closed(0) == [E.DELIVER_OFF, E.RUN_SUSPEND]
    assert closed(life)[-2:] == [E.LEAVE, E.NOW_DISABLED]
    assert life.phase is P.DISABLED
    assert life.enable(0) == [E.JOIN], "and it needs Enable again"


@SIDES
def test_4_3_5_a_paused_channel_closes_without_suspend(side: Side) -> None:
    life = active(side)
    life.pause(0)
    back(life, C.SUSPEND)
    life.drained(0)
    assert life.disable(0) == [E.SENDS_OFF, E.RUN_CLOSED]


@SIDES
def test_4_3_5_disable_without_a_peer_runs_nothing(side: Side) -> None:
    life = made(side)
    life.enable(0)
    assert life.disable(0) == [E.LEAVE, E.NOW_DISABLED]
    assert life.disable(0) == [E.NOW_DISABLED], "and twice is once"


@SIDES
def test_4_3_5_the_peer_goes_while_opened_runs(side: Side) -> None:
    life = made(side)
    life.enable(0)
    life.start(0)
    life.peer_opened(0)
    assert life.peer_closed(0) == []
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON, E.SENDS_OFF, E.RUN_CLOSED]


@SIDES
def test_4_3_6_cleanup_only_when_disabled(side: Side) -> None:
    life = made(side)
    life.enable(0)
    with pytest.raises(Refused, match=r"enabled; disable it, and wait for that, before its cleanup \[4.3\]"):
        life.cleanup()
    life.disable(0)
    life.cleanup()
    with pytest.raises(Refused, match="allocate another"):
        life.enable(0)


def test_opened_that_fails_rolls_a_host_back_to_enabled() -> None:
    life = made(Side.HOST)
    life.enable(0)
    life.peer_opened(0)
    assert back(life, C.OPENED, NtStatus.UNSUCCESSFUL) == [E.REFUSE]
    assert life.phase is P.ENABLED
    assert life.peer_opened(0) == [E.RUN_OPENED], "the next guest may try"


def test_opened_that_fails_rolls_a_guest_back_to_disabled() -> None:
    life = made(Side.GUEST)
    life.enable(0)
    life.peer_opened(0)
    assert back(life, C.OPENED, NtStatus.UNSUCCESSFUL) == [E.REFUSE, E.LEAVE, E.NOW_DISABLED]
    assert life.phase is P.DISABLED


def test_pause_on_a_disabled_channel_arms_a_pause_at_enable() -> None:
    life = made(Side.GUEST)
    assert life.pause(0) == []
    assert not life.pause_is_due
    life.enable(0)
    life.peer_opened(0)
    assert back(life, C.OPENED) == [E.ACCEPT, E.SENDS_ON]
    assert life.phase is P.PAUSED
    life.start(0)
    back(life, C.STARTED)
    back(life, C.POST_STARTED)
    life.disable(0)
    closed(life)
    life.enable(0)
    life.peer_opened(0)
    assert back(life, C.OPENED)[-1] is E.RUN_STARTED, "it was armed for one time"


@SIDES
def test_start_and_pause_are_refused_outside_enable_and_disable(side: Side) -> None:
    life = made(side)
    with pytest.raises(Refused, match="Start belongs between Enable and Disable"):
        life.start(0)
    life = active(side)
    life.disable(0)
    for call in (life.start, life.pause):
        with pytest.raises(Refused, match="enable the channel first") as refused:
            call(0)
        assert refused.value.status is NtStatus.INVALID_DEVICE_STATE


@SIDES
def test_start_pause_and_disable_are_refused_from_a_state_callback(side: Side) -> None:
    life = made(side)
    life.enable(0)
    for call in (life.start, life.pause, life.disable):
        with pytest.raises(Refused, match="callback"):
            call(0, from_callback=True)
    assert life.phase is P.ENABLED


@SIDES
def test_an_enabled_channel_is_not_enabled_again(side: Side) -> None:
    life = made(side)
    life.enable(0)
    with pytest.raises(Refused, match="disable it before it is enabled again"):
        life.enable(0)


@SIDES
def test_opened_that_takes_too_long_has_failed(side: Side) -> None:
    life = made(side)
    life.enable(0)
    life.peer_opened(1.0)
    assert life.deadline == 6.0
    assert life.time_passed(5.9) == []
    assert life.time_passed(6.0)[:2] == [E.EXPIRED, E.REFUSE]
    with pytest.raises(Misuse):
        back(life, C.OPENED)


def test_opened_that_takes_too_long_has_succeeded_by_the_other_profile() -> None:
    life = made(Side.HOST, KmclProfile(opened_expiry_fails=False))
    life.enable(0)
    life.peer_opened(0)
    assert life.time_passed(5) == [E.EXPIRED, E.ACCEPT, E.SENDS_ON]


@pytest.mark.parametrize("stuck", [C.STARTED, C.POST_STARTED])
def test_another_callback_that_takes_too_long_is_gone_on_without(stuck: Callback) -> None:
    life = made(Side.GUEST)
    life.enable(0)
    life.peer_opened(0)
    back(life, C.OPENED)
    if stuck is C.POST_STARTED:
        back(life, C.STARTED)
    assert life.time_passed(5)[0] is E.EXPIRED
    assert life.phase in (P.POST_STARTING, P.ACTIVE)


def test_a_suspend_that_takes_too_long_waits_for_packets_and_for_nothing_else() -> None:
    for told_meanwhile in (True, False):
        life = active(Side.HOST)
        life.pause(0)
        if told_meanwhile:
            assert life.drained(1) == [], "Suspend runs still"
        expired = life.time_passed(100)
        assert expired == ([E.EXPIRED, E.NOW_PAUSED] if told_meanwhile else [E.EXPIRED])
        if not told_meanwhile:
            assert life.drained(101) == [E.NOW_PAUSED]
        assert life.phase is P.PAUSED


def test_a_closed_that_takes_too_long_is_gone_on_without() -> None:
    life = active(Side.GUEST)
    life.pause(0)
    back(life, C.SUSPEND)
    life.drained(0)
    life.disable(0)
    assert life.time_passed(100) == [E.EXPIRED, E.LEAVE, E.NOW_DISABLED]


@SIDES
def test_a_driver_that_is_gone_is_asked_for_nothing_more(side: Side) -> None:
    life = active(side)
    life.pause(0)
    assert life.abort() == [E.LEAVE, E.NOW_PAUSED, E.NOW_DISABLED]
    assert (life.running, life.deadline) == (None, None)
    assert life.abort() == []
    assert life.peer_closed(0) == []

"""How calls under Windows names end, and the small conversions around them."""

from __future__ import annotations

import pytest

from clients.calls import ConnectionLost, RequestFailed
from clients.kmcl_calls import (
    KeGetCurrentIrql,
    LastRefusal,
    awaits_nothing,
    awaits_status,
    call_back,
    cut,
    require_passive,
    returns_status,
)
from clients.kmcl_send import KeQuerySystemTime, timeout_seconds
from clients.kmcl_types import DISPATCH_LEVEL, PASSIVE_LEVEL
from emulator.status import Misuse, NtStatus, Refused

FAILURES: list[tuple[Exception, NtStatus, str]] = [
    (Refused(NtStatus.INVALID_PARAMETER_3, "too long", rule="K3"), NtStatus.INVALID_PARAMETER_3, "too long [K3]"),
    (RequestFailed(NtStatus.CANCELLED, "given up"), NtStatus.CANCELLED, "given up"),
    (ConnectionLost("the daemon is gone"), NtStatus.DEVICE_REMOVED, "the daemon is gone"),
]


@pytest.mark.parametrize(("error", "status", "text"), FAILURES)
async def test_what_is_refused_becomes_a_status_with_its_sentence_kept(
    error: Exception, status: NtStatus, text: str
) -> None:
    @returns_status
    def plain() -> None:
        raise error

    @awaits_status
    async def waiting() -> None:
        raise error

    assert plain() is status
    assert text in LastRefusal()
    assert await waiting() is status
    assert text in LastRefusal()


async def test_coming_to_the_end_is_success_and_a_status_stays_what_it_is() -> None:
    @returns_status
    def done() -> None:
        pass

    @awaits_status
    async def pending() -> NtStatus:
        return NtStatus.PENDING

    assert done() is NtStatus.SUCCESS
    assert await pending() is NtStatus.PENDING


async def test_a_refusal_nobody_can_return_is_the_drivers_mistake() -> None:
    @awaits_nothing
    async def VmbSomething(error: Exception) -> None:
        raise error

    for error, _, text in FAILURES[:2]:
        with pytest.raises(Misuse, match="VmbSomething: STATUS_") as raised:
            await VmbSomething(error)
        assert text in str(raised.value)
    await VmbSomething(FAILURES[2][0])  # a daemon that is gone wants nothing any more


async def test_a_mistake_of_the_drivers_is_never_a_status() -> None:
    @returns_status
    def wrong() -> None:
        raise Misuse("freed twice")

    with pytest.raises(Misuse, match="freed twice"):
        wrong()


async def test_the_level_is_that_of_the_callback_while_it_runs_and_passive_while_it_waits() -> None:
    levels: list[int] = []

    def plain() -> str:
        levels.append(KeGetCurrentIrql())
        return "plain"

    async def waiting() -> str:
        levels.append(KeGetCurrentIrql())
        return "waited"

    def broken() -> None:
        raise ValueError("the driver's own")

    assert await call_back(plain, at_dispatch=True) == "plain"
    assert await call_back(plain) == "plain"
    assert await call_back(waiting, at_dispatch=True) == "waited"
    assert levels == [DISPATCH_LEVEL, PASSIVE_LEVEL, PASSIVE_LEVEL]
    with pytest.raises(ValueError, match="the driver's own"):
        await call_back(broken, at_dispatch=True)
    require_passive("anything")


def test_a_buffer_is_cut_to_its_length_and_never_longer_than_it_is() -> None:
    assert [cut(None, 0), cut(b"abc", 3), cut(bytearray(b"abc"), 2), cut(memoryview(b"abc"), 0)] == [
        b"",
        b"abc",
        b"ab",
        b"",
    ]
    for buffer, length in ((None, 1), (b"abc", 4), (b"abc", -1)):
        with pytest.raises(Misuse, match="was passed with length"):
            cut(buffer, length)


def test_time_outs_are_relative_absolute_or_none() -> None:
    assert timeout_seconds(None) is None
    assert timeout_seconds(0) == 0.0
    assert timeout_seconds(-25_000_000) == 2.5
    ahead = timeout_seconds(KeQuerySystemTime() + 100_000_000)
    assert ahead is not None
    assert 9.0 < ahead <= 10.0
    past = timeout_seconds(1)  # the year 1601 is over, which is not the same as not waiting for room
    assert past is not None
    assert 0.0 < past < 1e-6

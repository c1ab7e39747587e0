"""The rules of a send that waits for its completion."""

from __future__ import annotations

import pytest

from emulator.status import NtStatus, Refused
from emulator.vmbus.profile import KmclProfile, Side
from emulator.vmbus.synchronous import check_synchronous, fit_completion

PROFILE = KmclProfile()


@pytest.mark.parametrize(
    ("flags", "timeout_seconds", "may_queue"), [(0, 0.0, False), (1, 0.0, True), (0, None, True), (1, 5.0, True)]
)
def test_y1_only_time_out_zero_without_wait_never_queues(
    flags: int, timeout_seconds: float | None, may_queue: bool
) -> None:
    assert check_synchronous(Side.GUEST, PROFILE, flags, timeout_seconds, 0) is may_queue


def test_y2_a_host_may_only_send_without_waiting() -> None:
    assert not check_synchronous(Side.HOST, PROFILE, 0, 0, 8)
    for flags, timeout_seconds in [(1, 0.0), (0, None), (0, 1.0)]:
        with pytest.raises(Refused) as caught:
            check_synchronous(Side.HOST, PROFILE, flags, timeout_seconds, 0)
        assert (caught.value.status, caught.value.rule) == (NtStatus.INVALID_PARAMETER, "Y2")


def test_y3_completion_buffers_come_in_eights() -> None:
    assert check_synchronous(Side.GUEST, PROFILE, 1, None, 16)
    with pytest.raises(Refused, match="not 12") as caught:
        check_synchronous(Side.GUEST, PROFILE, 1, None, 12)
    assert (caught.value.status, caught.value.rule) == (NtStatus.INVALID_PARAMETER_7, "Y3")


def test_y3_a_completion_that_does_not_fit() -> None:
    assert fit_completion(PROFILE, b"12345678", 8) == (NtStatus.SUCCESS, b"12345678")
    assert fit_completion(PROFILE, b"12345678", 4) == (NtStatus.BUFFER_OVERFLOW, b"1234")
    strict = KmclProfile(truncate_long_completions=False)
    assert fit_completion(strict, b"12345678", 4) == (NtStatus.BUFFER_OVERFLOW, b"")


def test_y2_y3_the_statuses_are_choices() -> None:
    chosen = KmclProfile(
        synchronous_from_host_status=NtStatus.NOT_SUPPORTED, completion_buffer_status=NtStatus.BUFFER_TOO_SMALL
    )
    for side, buffer_bytes, status in ((Side.HOST, 0, "NOT_SUPPORTED"), (Side.GUEST, 7, "BUFFER_TOO_SMALL")):
        with pytest.raises(Refused) as caught:
            check_synchronous(side, chosen, 1, None, buffer_bytes)
        assert caught.value.status is NtStatus[status]

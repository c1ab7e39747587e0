"""A send that waits for its completion: its argument rules, and what fits into the caller's buffer (Y1 to Y3).

Windows: VmbChannelSendSynchronousRequest. The waiting itself belongs to whoever has a clock.
"""

from __future__ import annotations

from typing import NamedTuple

from emulator.status import NtStatus, Refused
from emulator.vmbus.profile import KmclProfile, Side
from emulator.vmbus.send_rules import SendFlags


class FittedCompletion(NamedTuple):
    """The result of the call: its status, and the bytes written to the caller's buffer."""

    status: NtStatus
    written: bytes


def check_synchronous(
    side: Side, profile: KmclProfile, flags: int, timeout_seconds: float | None, buffer_bytes: int
) -> bool:
    """Whether the packet may wait for room in the ring; raises Refused for a call that is not allowed.

    ``timeout_seconds`` None waits for ever; 0 without WAIT_FOR_COMPLETION waits for nothing (Y1), and is the only form
    a host may use (Y2). ``buffer_bytes`` is the room for the completion, a multiple of 8 (Y3).
    """
    immediate = timeout_seconds == 0 and not flags & SendFlags.WAIT_FOR_COMPLETION
    if side is Side.HOST and not immediate:
        text = "a host may send synchronously only with time-out 0 and without WAIT_FOR_COMPLETION (0x1)"
        raise Refused(profile.synchronous_from_host_status, text, rule="Y2")
    if buffer_bytes % 8:
        text = f"the completion buffer's size is a multiple of 8, not {buffer_bytes}"
        raise Refused(profile.completion_buffer_status, text, rule="Y3")
    return not immediate


def fit_completion(profile: KmclProfile, payload: bytes, buffer_bytes: int) -> FittedCompletion:
    """What of a completion fits. Too long gives BUFFER_OVERFLOW, a warning: what is there was delivered (Y3)."""
    if len(payload) <= buffer_bytes:
        return FittedCompletion(NtStatus.SUCCESS, payload)
    kept = payload[:buffer_bytes] if profile.truncate_long_completions else b""
    return FittedCompletion(NtStatus.BUFFER_OVERFLOW, kept)

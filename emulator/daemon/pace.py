"""How fast one client may speak, in frames and bytes a second: over it, its socket is read later, and that is all."""

from __future__ import annotations


class _Allowance:
    """A second's worth at most, refilled as time passes. It may be overdrawn, which takes time to make good."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._at = now

    def spend(self, amount: int, now: float) -> float:
        """Seconds until the account is even again."""
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second) - amount
        self._at = now
        return max(0.0, -self._left / self._per_second)


class Pace:
    """The allowances of one session; None where there is no bound. Times are seconds of one clock."""

    def __init__(self, frames_per_second: float | None, bytes_per_second: float | None, now: float) -> None:
        self._frames = None if frames_per_second is None else _Allowance(frames_per_second, now)
        self._bytes = None if bytes_per_second is None else _Allowance(bytes_per_second, now)

    @staticmethod
    def of(frames_per_second: float | None, bytes_per_second: float | None, now: float) -> Pace | None:
        """None where there is nothing to account for."""
        is_bounded = frames_per_second is not None or bytes_per_second is not None
        return Pace(frames_per_second, bytes_per_second, now) if is_bounded else None

    def pause(self, frames: int, byte_count: int, now: float) -> float:
        """So much was read; seconds to wait before more is."""
        pauses = [0.0]
        if self._frames is not None:
            pauses.append(self._frames.spend(frames, now))
        if self._bytes is not None:
            pauses.append(self._bytes.spend(byte_count, now))
        return max(pauses)

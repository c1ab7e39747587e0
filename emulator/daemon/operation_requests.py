"""What those who operate the daemon may ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.daemon.log import LEVELS, logger, set_level
from emulator.status import NtStatus, Refused

if TYPE_CHECKING:
    from emulator.daemon.session import Session


class OperationRequests:
    """One session's requests about the daemon as a whole."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def close_all(self, reason: str) -> None:
        """Nothing here outlives its request."""

    def daemon_log_level(self, msgid: int, level: str) -> tuple[Any, ...]:
        if level not in LEVELS:
            raise Refused(NtStatus.INVALID_PARAMETER, f"there is no log level {level!r}; levels: {', '.join(LEVELS)}")
        before = set_level(level)
        # Said at a level that both thresholds let through, so that the log itself shows where it thins out.
        logger().error("daemon.log_level", level=level, before=before, session=self._session.number)
        return (before,)

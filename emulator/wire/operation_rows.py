"""Rows of the table for those who operate a daemon."""

from __future__ import annotations

from emulator.wire.fields import Field
from emulator.wire.method import IN, NAME, row

# fmt: off
DAEMON_LOG_LEVEL = row(160, "daemon.log_level", IN, (
    Field("level", NAME, "`debug`, `info`, `warning` or `error`: what is logged at least from now on"),
), (
    Field("before", NAME, "the level until now"),
), "Change how much the daemon logs, until it is changed again or the daemon starts anew.")
# fmt: on

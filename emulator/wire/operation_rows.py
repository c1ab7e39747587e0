"""Rows of the table for those who operate a daemon."""

from __future__ import annotations

from emulator.wire.fields import Field, Text
from emulator.wire.method import BOOL, IN, NAME, OUT, SENTENCE, STATUS, U32, row

# fmt: off
MACHINE_CREATE = row(150, "machine.create", IN, (
    Field("name", NAME, "its name"),
    Field("settings", Text(64 * 1024), "JSON: settings as in [machines.NAME] of a configuration; `{}` for none"),
), (), "Make a machine, until it is removed or the daemon ends. A reload of the configuration leaves it alone.")
MACHINE_REMOVE = row(151, "machine.remove", IN, (
    Field("name", NAME, "its name"),
    Field("force", BOOL, "even while channels of it are open; otherwise that is a refusal"),
), (), "Take a machine away: its channels and addresses close, its clients are told, its memory is gone.")
DAEMON_LOG_LEVEL = row(160, "daemon.log_level", IN, (
    Field("level", NAME, "`debug`, `info`, `warning` or `error`: what is logged at least from now on"),
), (
    Field("before", NAME, "the level until now"),
), "Change how much the daemon logs, until it is changed again or the daemon starts anew.")
OFFER_RESCINDED = row(161, "offer.rescinded", OUT, (
    Field("offer", U32, "the offer"), STATUS, Field("reason", SENTENCE, "why"),
), None, "The daemon took an offer away: its machine is gone, or the daemon stops. Its open channel was closed before.")
# fmt: on

"""Rows of the table for clients over UDP and their keys."""

from __future__ import annotations

from emulator.wire.fields import Field
from emulator.wire.method import IN, U32, row

# fmt: off
KEYS_RELOAD = row(140, "keys.reload", IN, (), (
    Field("keys", U32, "keys that are let in from now on"),
    Field("ended", U32, "sessions ended by this"),
), "Read the register of keys anew; sessions of keys that were revoked, or that may do less now, end.")
# fmt: on

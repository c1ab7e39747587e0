"""What a row of the table of methods is made of: its type, and the types its arguments and results have in common.

``schema`` holds the table; families of rows that are large enough have a module of their own, which ``schema`` imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emulator.wire.fields import Binary, Field, Flag, Text, Unsigned

U8, U16, U32, U64 = Unsigned(8), Unsigned(16), Unsigned(32), Unsigned(64)
BOOL = Flag()
NAME = Text(64)
SENTENCE = Text(1024)
HOST = Text(64)
GUID = Binary(16, exactly=True)
PFNS = Binary(65536 * 8, unit=8)
PAYLOAD = Binary(65535 * 8)
DATAGRAM = Binary(65535)
CHUNK = Binary(256 * 1024)
RUN = Binary(1024 * 1024)
MDL_CHAIN = Binary(600 * 1024, unit=8)
DOCUMENT = Text(1024 * 1024)
CONTROL = Binary(240)


class Direction(Enum):
    """Who may send a method."""

    TO_DAEMON = "client → daemon"
    TO_CLIENT = "daemon → client"
    BOTH = "both ways"


class Kind(Enum):
    """Whether it is answered."""

    REQUEST = "request"
    NOTIFICATION = "notification"


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One row of the table."""

    number: int
    name: str
    direction: Direction
    kind: Kind
    params: tuple[Field, ...]
    result: tuple[Field, ...]
    meaning: str


def row(
    number: int,
    name: str,
    direction: Direction,
    params: tuple[Field, ...],
    result: tuple[Field, ...] | None,
    meaning: str,
) -> Method:
    """A row; without results, not even none, it is a notification."""
    kind = Kind.NOTIFICATION if result is None else Kind.REQUEST
    return Method(number, name, direction, kind, params, result or (), meaning)


IN, OUT, BOTH = Direction.TO_DAEMON, Direction.TO_CLIENT, Direction.BOTH

MACHINE = Field("machine", U32, "the machine, as `machine.attach` numbered it")
ADDRESS = Field("address", U32, "the address object")
STATUS = Field("status", U32, "NTSTATUS")
IO_STATUS = (
    STATUS,
    Field("information", U64, "bytes moved, as IO_STATUS_BLOCK has it"),
    Field("message", SENTENCE, "why, in words; empty on success"),
)

CHANNEL = Field("channel", U32, "the open channel")
GRANT = (
    Field("window_packets", U32, "packets whoever reads this may send at once"),
    Field("window_bytes", U64, "bytes whoever reads this may send at once"),
)
RINGS = (
    Field("ring", PFNS, "pages of both rings: the guest-to-host ring first, each with its control page first"),
    Field("downstream", U32, "where among them the host-to-guest ring begins"),
    Field("packet_bytes", U32, "largest packet buffer either side may send"),
    Field("external_bytes", U64, "most external data of one packet"),
    Field("external_mdls", U32, "most ranges of one packet"),
    Field("descriptors", U8, "1: the doorbell, a connected Unix stream socket, came with this"),
)
# Rule Y1; outside the documented bits, so that no driver's flags can mean it.
DO_NOT_QUEUE = 1 << 31
FLAGS = Field(
    "flags",
    U32,
    "VMBUS_CHANNEL_FORMAT_FLAG_* bits; in `packet.send` also 0x80000000: refused with BUFFER_OVERFLOW, not queued, "
    "when the ring has no room",
)
BUFFER = Field("buffer", PAYLOAD, "the bytes that travel in the ring")
COMPLETION = (STATUS, Field("payload", PAYLOAD, "the completion's bytes; empty without WAIT_FOR_COMPLETION"))

"""What is measured: the rows, the carriers each is measured over, and how long a measurement takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Face(StrEnum):
    """Which client library, and for the relays which kind of plain socket client."""

    TRIO = "trio"
    SYNC = "sync"


class Carrier(StrEnum):
    """What is between the two ends."""

    HOSTED = "hosted"
    # The ratios are to this one: the daemon reads and writes its sockets in the same way.
    RELAY = "relay"
    STREAM_RELAY = "stream_relay"
    # In `benchmarks.direct`: both ends of the channel are direct, and what that is compared with.
    DIRECT = "direct"
    PIPE = "pipe"
    PYZMQ = "pyzmq"


class Measure(StrEnum):
    """What one measurement does, over and over."""

    ROUND_TRIP = "round-trip"
    EXTERNAL = "external"
    DATAGRAM = "datagram"
    POST = "post"
    SENDS = "sends"


# The carriers whose ends are the client library's; their names are the modes of a channel.
BY_LIBRARY = (Carrier.HOSTED, Carrier.DIRECT)
# What the rows below are measured over.
RELAYED = (Carrier.HOSTED, Carrier.RELAY, Carrier.STREAM_RELAY)
ROUND_TRIPS = frozenset({Measure.ROUND_TRIP, Measure.EXTERNAL, Measure.DATAGRAM})
YARDSTICK = "relay: one trio process, wait_readable and non-blocking recv and send"

INTERFACES = {
    Face.TRIO: "5c0e1f8a-4f0b-4a53-9c53-0b6f5a1d7e01",
    Face.SYNC: "5c0e1f8a-4f0b-4a53-9c53-0b6f5a1d7e02",
}
MACHINE = "vm1"
# Rings of direct channels: 1 MiB, some 12,000 packets of 64 bytes. pyzmq lets 64,000 wait.
DIRECT_RING_PAGES = 256

# Packets in one write of a raw client that coalesces: as many as the client libraries put into one run.
COALESCED_PACKETS = 64
# Tasks that send at the same time.
CONCURRENT_SENDERS = 64


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    measure: Measure
    face: Face
    message_bytes: int

    @property
    def name(self) -> str:
        """What it is called in the tables, in the JSON and in ``history.json``."""
        return f"{self.measure}.{self.face}.{self.message_bytes}"

    @property
    def is_round_trip(self) -> bool:
        """Whether it is a time, taken with every process on one cpu; otherwise it is a rate, on all of them."""
        return self.measure in ROUND_TRIPS

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """What it is measured over, the two of the ratio side by side."""
        if self.measure in (Measure.EXTERNAL, Measure.DATAGRAM):
            return Carrier.HOSTED, Carrier.RELAY
        return Carrier.HOSTED, Carrier.RELAY, Carrier.STREAM_RELAY


BOTH = (Face.TRIO, Face.SYNC)
SMALL_AND_LARGE = (64, 1400)
EXTERNAL_BYTES = 64 * 1024

ROWS = (
    *(Row(Measure.ROUND_TRIP, face, size) for face in BOTH for size in SMALL_AND_LARGE),
    *(Row(Measure.EXTERNAL, face, EXTERNAL_BYTES) for face in BOTH),
    *(Row(Measure.DATAGRAM, face, size) for face in BOTH for size in SMALL_AND_LARGE),
    *(Row(Measure.POST, face, size) for face in BOTH for size in SMALL_AND_LARGE),
    *(Row(Measure.SENDS, Face.TRIO, size) for size in SMALL_AND_LARGE),
)
ROW_NAMES = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Effort:
    """How much a run measures; ``seconds`` is the aim for one measurement."""

    repetitions: int
    seconds: float
    warm_up: int


# About 45 measurements in a repetition: under 90 s even where starting a process takes long.
FULL = Effort(repetitions=3, seconds=0.35, warm_up=200)
QUICK = Effort(repetitions=3, seconds=0.015, warm_up=20)
# A measurement is cut into about so many batches, and ends with the one in which its time is over: also where other
# work takes the cpu after the trial.
BATCHES = 6
# In one batch: enough to be worth its beginning, and no more than a list of them may take of memory.
FEWEST_MESSAGES = 10
MOST_MESSAGES = 2_000_000

"""What a near end makes of its clock: how many times to do a thing, and the percentiles of what it took."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.raw import Batch
from benchmarks.rows import BATCHES, FEWEST_MESSAGES, MOST_MESSAGES, Carrier, Face, Measure


class Command(NamedTuple):
    """One measurement to take."""

    measure: Measure
    message_bytes: int
    seconds: float
    warm_up: int

    @property
    def nanoseconds(self) -> int:
        """The time it may take."""
        return int(self.seconds * 1e9)


class Setting(NamedTuple):
    """Which end this process is, and where what it needs is found."""

    end: str
    face: Face
    carrier: Carrier
    directory: str
    echo_port: int


def setting_from(arguments: list[str]) -> Setting:
    """The arguments every end is started with."""
    end, face, carrier, directory, echo_port = arguments
    return Setting(end, Face(face), Carrier(carrier), directory, int(echo_port))


def commands() -> Iterator[Command]:
    """The measurements asked for on standard input, until it ends; garbage of earlier ones is gone before each."""
    for line in sys.stdin:
        measure, message_bytes, seconds, warm_up = json.loads(line)
        gc.collect()
        yield Command(Measure(measure), message_bytes, seconds, warm_up)


def say(answer: object) -> None:
    """One line for whoever started this process."""
    print(json.dumps(answer), flush=True)


def says_little(command: Command, trial_nanoseconds: int) -> bool:
    """Whether a trial of a rate was so short that waking up took most of it."""
    return trial_nanoseconds < command.nanoseconds // (2 * BATCHES)


def sized(trial: Batch, command: Command, trial_nanoseconds: int) -> Batch:
    """A batch that takes its part of the time, by how long the trial took."""
    wanted = command.nanoseconds * trial.messages // max(1, trial_nanoseconds) // BATCHES
    return trial._replace(messages=max(FEWEST_MESSAGES, min(MOST_MESSAGES, wanted)))


def round_trip(samples: list[int]) -> dict[str, float]:
    """Samples in nanoseconds to percentiles in microseconds: of n sorted, the one n x p behind the first."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        "p50": ordered[min(last, len(ordered) // 2)] / 1000,
        "p99": ordered[min(last, len(ordered) * 99 // 100)] / 1000,
        "count": len(ordered),
    }


def rate(count: int, nanoseconds: int) -> dict[str, float]:
    """Packets a second."""
    return {"rate": count * 1e9 / nanoseconds, "count": count}

"""Direct channels, both ends, against a Pipe and against pyzmq: ``python -m benchmarks.direct``.

Every figure is a ratio inside one repetition, from measurements right after one another; what is shown is the median
of the repetitions. Round trips have every process on one cpu, rates have all. ``--save`` puts the table into
``README.md``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace

from benchmarks.goals import Goal, Newest, parser, show, table
from benchmarks.plain_ends import INSTALL_PYZMQ
from benchmarks.record import README
from benchmarks.rows import FULL, QUICK, Carrier, Effort, Face, Measure, Row
from benchmarks.stage import Stage, set_up

TABLE_BEGINS = "<!-- the newest table of direct channels: written by benchmarks.direct --save -->\n"
TABLE_ENDS = "<!-- end of the newest table of direct channels -->\n"
PAYLOAD_BYTES = 64

GOALS = (
    Goal("request to completion, one cpu: clients.sync, against Pipe", "sync trip", "Pipe trip", 0.6),
    Goal("request to completion, one cpu: clients in trio, against Pipe", "trio trip", "Pipe trip"),
    Goal("one way, batched: clients.sync, against pyzmq", "sync post", "pyzmq post", 3, faster=True),
    Goal("one way, batched: clients in trio, against pyzmq", "trio post", "pyzmq post", 3, faster=True),
)
# What a measurement is called, in the order in which they are taken.
MEASURED = {
    "Pipe trip": (Measure.ROUND_TRIP, Face.SYNC, Carrier.PIPE),
    "sync trip": (Measure.ROUND_TRIP, Face.SYNC, Carrier.DIRECT),
    "trio trip": (Measure.ROUND_TRIP, Face.TRIO, Carrier.DIRECT),
    "pyzmq post": (Measure.POST, Face.SYNC, Carrier.PYZMQ),
    "sync post": (Measure.POST, Face.SYNC, Carrier.DIRECT),
    "trio post": (Measure.POST, Face.TRIO, Carrier.DIRECT),
}


def measures() -> dict[str, tuple[Measure, Face, Carrier]]:
    """What can be measured here."""
    if importlib.util.find_spec("zmq") is not None:
        return MEASURED
    return {name: what for name, what in MEASURED.items() if what[2] is not Carrier.PYZMQ}


def nanoseconds(stage: Stage, what: tuple[Measure, Face, Carrier], effort: Effort) -> float:
    """What one packet takes: the median of round trips, the mean of a stream."""
    measure, face, carrier = what
    row = Row(measure, face, PAYLOAD_BYTES)
    answer = stage.measure(row, carrier, effort)
    return answer["p50"] * 1000 if row.is_round_trip else 1e9 / answer["rate"]


def run(effort: Effort) -> list[dict[str, float]]:
    """The nanoseconds of every measurement, for each repetition."""
    results = []
    wanted = measures()
    with set_up(dict.fromkeys((face, carrier) for _, face, carrier in wanted.values())) as stage:
        for number in range(effort.repetitions):
            sys.stderr.write(f"repetition {number + 1} of {effort.repetitions}\n")
            results.append({name: nanoseconds(stage, what, effort) for name, what in wanted.items()})
    return results


def main() -> None:
    options = parser(__doc__, 7, README).parse_args()
    load = os.getloadavg()[0]
    results = run(QUICK if options.quick else replace(FULL, repetitions=options.repetitions))
    text = table(results, GOALS)
    if "pyzmq post" not in results[0]:
        text += f"\nNo line is against pyzmq: {INSTALL_PYZMQ}\n"
    show(Newest(README, TABLE_BEGINS, TABLE_ENDS), text, len(results), load, save=options.save)


if __name__ == "__main__":
    main()

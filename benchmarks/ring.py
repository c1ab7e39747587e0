"""The ring alone, both builds, against a plain C ring and a Pipe: ``python -m benchmarks.ring``.

Every figure is a ratio inside one repetition, from measurements right after one another; what is shown is the median of
the repetitions. ``--save`` puts the table into ``README.md``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ring_ends
from benchmarks.goals import Goal, Newest, parser, show, table
from emulator.vmbus.ring import RING_BUILDS, RingBuild

HERE = Path(__file__).resolve().parent
PAGE = HERE / "README.md"
TABLE_BEGINS = "<!-- the ring's newest table: written by benchmarks.ring --save -->\n"
TABLE_ENDS = "<!-- end of the ring's newest table -->\n"

Measure = Callable[[], float]


GOALS = (
    Goal("compiled, batches of 32, 64 B", "compiled batch 64", "C 64", 1.5),
    Goal("compiled, batches of 32, 1,400 B", "compiled batch 1400", "C 1400", 2.2),
    Goal("compiled, one packet a call, 64 B", "compiled single 64", "C 64", 4.5),
    Goal("pure with its fence, batches of 32, 64 B", "pure batch 64", "C 64", 50),
    Goal("pure with its fence, one packet a call, 64 B", "pure single 64", "C 64", 50),
    Goal("compiled, batches of 32, 64 B, against C batches", "compiled batch 64", "C batch 64"),
    Goal(
        "two processes one way, 64 B, rings of 1 MiB: compiled, against Pipe",
        "compiled stream",
        "Pipe stream",
        60,
        faster=True,
    ),
    Goal(
        "two processes one way, 64 B, rings of 1 MiB: pure, against Pipe",
        "pure stream",
        "Pipe stream",
        3,
        faster=True,
    ),
    Goal("the same with 64 KiB: compiled, against Pipe", "compiled small stream", "Pipe stream", faster=True),
    Goal("the same with 64 KiB: pure, against Pipe", "pure small stream", "Pipe stream", faster=True),
    Goal("the same with 64 KiB: compiled, against C", "compiled small stream", "C stream"),
    Goal("there and back, one cpu: compiled, against Pipe", "compiled bare trip", "Pipe trip", 0.4),
    Goal("there and back, one cpu: pure, against Pipe", "pure bare trip", "Pipe trip", 0.75),
    Goal("request to completion, one cpu: compiled, against Pipe", "compiled trip", "Pipe trip", 0.4),
    Goal("request to completion, one cpu: pure, against Pipe", "pure trip", "Pipe trip", 0.75),
    Goal("there and back, one cpu: C, against Pipe", "C trip", "Pipe trip"),
    Goal("request to completion, one cpu, in trio: compiled, against Pipe", "compiled trio trip", "Pipe trip"),
    Goal("request to completion, one cpu, in trio: pure, against Pipe", "pure trio trip", "Pipe trip"),
    Goal("scattered pages against contiguous: compiled, 64 B", "compiled scattered 64", "compiled batch 64"),
    Goal("scattered pages against contiguous: compiled, 1,400 B", "compiled scattered 1400", "compiled batch 1400"),
    Goal("scattered pages against contiguous: pure, 64 B", "pure scattered 64", "pure batch 64"),
    Goal("scattered pages against contiguous: pure, 1,400 B", "pure scattered 1400", "pure batch 1400"),
)


@contextmanager
def one_cpu() -> Iterator[None]:
    """This process and its children on the first cpu it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def pinned(measure: Measure) -> Measure:
    """The same on one cpu."""

    def measure_pinned() -> float:
        with one_cpu():
            return measure()

    return measure_pinned


def compile_c_ring(directory: str) -> str:
    """The program of the plain C ring."""
    program = os.path.join(directory, "ring")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-Wall", "-o", program, str(HERE / "c" / "ring.c")], check=True)
    return program


def c_ring(program: str, what: str, payload_bytes: int, count: int) -> Measure:
    """A measurement of the C ring."""

    def measure() -> float:
        command = [program, what, str(payload_bytes), str(count)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return measure


def build_measures(name: str, build: RingBuild, scale: float) -> dict[str, Measure]:
    """What is measured of one build, in the order in which it is."""
    count = int((1_600_000 if name == "compiled" else 96_000) * scale)
    trips = max(64, int(8_000 * scale))
    measures: dict[str, Measure] = {}
    for size in (64, 1400):
        for label, batch, scattered in (("single", 1, False), ("batch", 32, False), ("scattered", 32, True)):

            def measure(size: int = size, batch: int = batch, scattered: bool = scattered) -> float:
                return ring_ends.local(build, size, batch, count // (4 if size > 64 else 1), scattered)

            measures[f"{name} {label} {size}"] = measure
    measures[f"{name} stream"] = lambda: ring_ends.stream(build, 64, count)
    measures[f"{name} small stream"] = lambda: ring_ends.stream(build, 64, count, ring_ends.DATA_PAGES)
    measures[f"{name} bare trip"] = pinned(lambda: ring_ends.bare_trip(build, 64, trips))
    measures[f"{name} trip"] = pinned(lambda: ring_ends.trip(build, 64, trips))
    measures[f"{name} trio trip"] = pinned(lambda: ring_ends.trio_trip(build, 64, trips))
    return measures


def all_measures(program: str, scale: float) -> dict[str, Measure]:
    """Everything, what belongs to one ratio not far apart."""
    count = int(6_400_000 * scale)
    trips = max(64, int(8_000 * scale))
    pipe_count = max(1000, int(60_000 * scale))
    measures: dict[str, Measure] = {
        "C 64": c_ring(program, "local", 64, count),
        "C 1400": c_ring(program, "local", 1400, count // 2),
        "C batch 64": c_ring(program, "batch", 64, count),
        "C batch 1400": c_ring(program, "batch", 1400, count // 2),
        "C stream": c_ring(program, "stream", 64, count),
        "C trip": pinned(c_ring(program, "trip", 64, trips)),
        "Pipe stream": lambda: ring_ends.pipe_stream(64, pipe_count),
        "Pipe trip": pinned(lambda: ring_ends.pipe_trip(64, trips)),
    }
    for name, build in RING_BUILDS.items():
        measures |= build_measures(name, build, scale)
    return measures


def run(repetitions: int, scale: float) -> list[dict[str, float]]:
    """The nanoseconds of every measurement, for each repetition."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        measures = all_measures(compile_c_ring(directory), scale)
        for number in range(repetitions):
            sys.stderr.write(f"repetition {number + 1} of {repetitions}\n")
            results.append({name: measure() for name, measure in measures.items()})
    return results


def main() -> None:
    options = parser(__doc__, 7, PAGE).parse_args()
    load = os.getloadavg()[0]
    results = run(2 if options.quick else options.repetitions, 0.01 if options.quick else 1.0)
    show(Newest(PAGE, TABLE_BEGINS, TABLE_ENDS), table(results, GOALS), len(results), load, save=options.save)


if __name__ == "__main__":
    main()

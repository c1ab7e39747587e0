"""Many machines in one daemon: ``python -m benchmarks.machines``; what is measured and met is in machines.md.

Each machine has a host and a guest, two sessions, with four channels open between them. What the daemon takes is its
processor time (user and system), which other work on this host hardly changes, and its resident memory without the
pages of guest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from benchmarks.goals import put_between
from clients import sync

HERE = Path(__file__).parent
PAGE = HERE / "machines.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- newest table: written by benchmarks.machines --save -->", "<!-- end of it -->"
COUNTS = (1, 10, 100, 1_000)
CHANNELS = 4
# What a guest sends at once: the daemon wakes up once for it, and the host takes it in one piece.
PACKETS_PER_WAKE_UP = 64
PACKET_BYTES = 64
MEMORY_BYTES = 1024 * 1024
# A batch is a third of such a ring: after a few, no page of it is new any more.
RING_PAGES = 4
WARM_UP_ROUNDS = 4
IDLE_SECONDS = 5.0
# The goals: start-up, memory beyond guest memory, processor while idle, price of a packet next to one machine's.
START_SECONDS, RESIDENT_MIB, IDLE_PART, PACKET_RATIO = 10.0, 150.0, 0.01, 1.25
INTERFACES = [UUID(int=number + 1) for number in range(CHANNELS)]


class Row(NamedTuple):
    """What one number of machines takes."""

    machines: int
    start_seconds: float
    start_processor_seconds: float
    open_milliseconds: float
    resident_mib: float
    guest_mib: float
    descriptors: int
    idle_part: float
    packet_microseconds: float


class Daemon:
    """A daemon with so many machines, and what it takes."""

    def __init__(self, directory: Path, machines: int) -> None:
        config = directory / "vmbusd.toml"
        config.write_text("".join(f"[machines.m{n}]\nmemory_bytes = {MEMORY_BYTES}\n" for n in range(machines)))
        self.path = directory / "vmbusd.sock"
        command = [sys.executable, "-m", "emulator", "--socket", str(self.path), "--config", str(config)]
        began = time.monotonic()
        self._process = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE)
        assert self._process.stdout is not None, "it was started with a pipe"
        if not self._process.stdout.readline():
            raise SystemExit("the daemon did not start; what it said is above")
        self.start_seconds = time.monotonic() - began
        self._entry = Path(f"/proc/{self._process.pid}")

    def processor_seconds(self) -> float:
        """User and system time so far."""
        fields = (self._entry / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> tuple[float, float]:
        """Resident: its own, and pages of guest memory."""
        lines = dict(line.split(":", 1) for line in (self._entry / "status").read_text().splitlines())
        own, guest = (
            sum(int(lines[name].split()[0]) for name in names) / 1024
            for names in (("RssAnon", "RssFile"), ("RssShmem",))
        )
        return own, guest

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list((self._entry / "fd").iterdir()))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


@contextmanager
def daemon(machines: int) -> Iterator[Daemon]:
    """A daemon for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as directory:
        running = Daemon(Path(directory), machines)
        try:
            yield running
        finally:
            running.close()


class Pair:
    """The two sessions of one machine."""

    def __init__(self, path: Path, machine: int) -> None:
        self._sessions = ExitStack()
        host, guest = (
            self._sessions.enter_context(sync.connect(path, name=name)).machine(f"m{machine}")
            for name in ("host", "guest")
        )
        self._offered = [host.offer_channel(interface) for interface in INTERFACES]
        self._opened = [
            guest.open_channel(interface, send_pages=RING_PAGES, receive_pages=RING_PAGES) for interface in INTERFACES
        ]

    def pass_on(self, channel: int, payloads: list[bytes]) -> None:
        """Send packets in one piece through one of the channels, and take them out at the other end."""
        self._opened[channel].post(payloads)
        offered, left = self._offered[channel], len(payloads)
        while left:
            left -= len(offered.collect())

    def close(self) -> None:
        """Both go."""
        self._sessions.close()


def measure(machines: int, batches: int, idle_seconds: float) -> Row:
    """Everything about one number of machines."""
    with daemon(machines) as running:
        start_processor_seconds = running.processor_seconds()
        pairs = [Pair(running.path, number) for number in range(machines)]
        open_seconds = running.processor_seconds() - start_processor_seconds
        own, guest = running.memory_mib()
        descriptors = running.descriptors()
        idle_part = _idle_part(running, idle_seconds)
        packet_microseconds = _packet_microseconds(running, pairs, batches)
        for pair in pairs:
            pair.close()
    return Row(
        machines,
        running.start_seconds,
        start_processor_seconds,
        open_seconds * 1e3 / (machines * CHANNELS),
        own,
        guest,
        descriptors,
        idle_part,
        packet_microseconds,
    )


def _idle_part(running: Daemon, seconds: float) -> float:
    time.sleep(min(seconds, 1.0))
    before, began = running.processor_seconds(), time.monotonic()
    time.sleep(seconds)
    return (running.processor_seconds() - before) / (time.monotonic() - began)


def _packet_microseconds(running: Daemon, pairs: list[Pair], batches: int) -> float:
    payloads = [bytes(PACKET_BYTES)] * PACKETS_PER_WAKE_UP
    for number in range(WARM_UP_ROUNDS * CHANNELS * len(pairs)):
        pairs[number % len(pairs)].pass_on(number // len(pairs) % CHANNELS, payloads)
    before = running.processor_seconds()
    for number in range(batches):
        pairs[number % len(pairs)].pass_on(number // len(pairs) % CHANNELS, payloads)
    return (running.processor_seconds() - before) * 1e6 / (batches * PACKETS_PER_WAKE_UP)


# ---- what it says


def table(rows: list[Row]) -> str:
    """The rows as Markdown, and what became of the goals."""
    lines = [
        "| machines | start, s | start, cpu s | opening a channel, cpu ms | resident beyond guest memory, MiB "
        "| guest memory, MiB | descriptors | idle, % of a core | cpu µs per packet | next to one machine's |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = row.packet_microseconds / rows[0].packet_microseconds if rows[0].packet_microseconds else 1.0
        lines.append(
            f"| {row.machines:,} | {row.start_seconds:.1f} | {row.start_processor_seconds:.1f} "
            f"| {row.open_milliseconds:.2f} | {row.resident_mib:.0f} | {row.guest_mib:.0f} | {row.descriptors:,} "
            f"| {row.idle_part * 100:.2f} | {row.packet_microseconds:.2f} | {ratio:.2f} |"
        )
    return "\n".join([*lines, "", *_verdicts(rows)])


def _verdicts(rows: list[Row]) -> list[str]:
    last = rows[-1]
    ratio = last.packet_microseconds / rows[0].packet_microseconds if rows[0].packet_microseconds else 1.0
    goals = (
        (f"start-up under {START_SECONDS:g} s", last.start_seconds < START_SECONDS),
        (f"under {RESIDENT_MIB:g} MiB resident beyond guest memory", last.resident_mib < RESIDENT_MIB),
        (f"idle under {IDLE_PART:.0%} of a core", last.idle_part < IDLE_PART),
        (f"a packet within {PACKET_RATIO - 1:.0%} of one machine's", ratio <= PACKET_RATIO),
    )
    return [f"- {text}, with {last.machines:,} machines: {'met' if is_met else 'missed'}" for text, is_met in goals]


def main() -> None:
    """Measure, print, and put the table into the page if that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machines", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one machine and three; the figures mean little")
    parser.add_argument("--save", action="store_true", help="put the table into machines.md")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts, batches, idle_seconds = ((1, 3), 20, 0.1) if options.quick else (COUNTS, 8_000, IDLE_SECONDS)
    load = os.getloadavg()[0]
    rows = []
    for count in counts:
        rows.append(measure(count, batches, idle_seconds))
        sys.stderr.write(f"{count} machines: done\n")
    text = table(rows)
    if options.json:
        sys.stdout.write(json.dumps([row._asdict() for row in rows]) + "\n")
        return
    sys.stdout.write(text + "\n")
    if options.save:
        when = datetime.now(UTC).isoformat(timespec="minutes")
        put_between(PAGE, TABLE_BEGINS, TABLE_ENDS, f"{when}, load average before {load:.2f}.\n\n{text}")


if __name__ == "__main__":
    main()

"""What the benchmarks beside the daemon's own have in common: goals, their tables, and the page with the newest one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple


@dataclass(frozen=True)
class Goal:
    """One line of the table: what is measured, against what, and how the ratio should turn out.

    ``ratio`` is measured / yardstick, or with ``faster`` yardstick / measured: how many times as fast.
    """

    name: str
    measured: str
    yardstick: str
    wanted: float | None = None
    faster: bool = False

    def ratio(self, nanoseconds: dict[str, float]) -> float:
        """The ratio inside one repetition."""
        ratio = nanoseconds[self.measured] / nanoseconds[self.yardstick]
        return 1 / ratio if self.faster else ratio

    def verdict(self, ratio: float) -> str:
        """What was wanted, and whether it came."""
        if self.wanted is None:
            return "reported"
        met = ratio >= self.wanted if self.faster else ratio <= self.wanted
        return f"{'≥' if self.faster else '≤'} {self.wanted:g}: {'met' if met else 'missed'}"


def table(results: list[dict[str, float]], goals: Sequence[Goal]) -> str:
    """Two tables: the ratios, and the times they are of."""
    lines = ["| what | ratio (lowest to highest) | goal |", "|---|---|---|"]
    for goal in goals:
        if goal.measured in results[0] and goal.yardstick in results[0]:
            ratios = sorted(goal.ratio(result) for result in results)
            middle = median(ratios)
            lines.append(
                f"| {goal.name} | **{middle:.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {goal.verdict(middle)} |"
            )
    lines += ["", "| time | median ns | lowest |", "|---|---|---|"]
    for name in results[0]:
        times = [result[name] for result in results]
        lines.append(f"| {name} | {median(times):,.0f} | {min(times):,.0f} |")
    return "\n".join(lines) + "\n"


class Newest(NamedTuple):
    """Where a page has its newest table: between two comments."""

    page: Path
    begins: str
    ends: str


def put_between(page: Path, begins: str, ends: str, text: str) -> None:
    """Put a newest table where a page has it."""
    head, found, rest = page.read_text().partition(begins)
    _, found_end, tail = rest.partition(ends)
    if not (found and found_end):
        raise ValueError(f"{page} has lost the two comments the newest table stands between")
    page.write_text(head + begins + "\n" + text + "\n" + ends + tail)


def parser(description: str | None, repetitions: int, page: Path) -> argparse.ArgumentParser:
    """The options that every one of them has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repetitions", type=int, default=repetitions)
    options.add_argument("--quick", action="store_true", help="does it run; the figures mean nothing")
    options.add_argument("--save", action="store_true", help=f"put the table into {page.name}")
    return options


def show(newest: Newest, text: str, repetitions: int, load: float, *, save: bool) -> None:
    """Print a table under the conditions it was measured in, and ``save`` it; ``load`` is the average from before."""
    when = datetime.now(UTC).isoformat(timespec="minutes")
    now = os.getloadavg()[0]
    text = f"{when}, {repetitions} repetitions, load average {load:.1f} before, {now:.1f} after\n\n{text}"
    sys.stdout.write(text)
    if save:
        put_between(*newest, text)

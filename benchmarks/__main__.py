"""``python -m benchmarks``: run, show, and keep if asked."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import product
from time import monotonic
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.figures import Figure, Repetition, figure
from benchmarks.record import HISTORY, Record, make_record, save
from benchmarks.report import rich_table, tables
from benchmarks.rows import FULL, QUICK, RELAYED, ROW_NAMES, ROWS, YARDSTICK, Carrier, Effort, Row
from benchmarks.stage import BenchmarkFailed, Stage, set_up


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean little.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead of tables.")
@click.option("--save", "keep", is_flag=True, help=f"Append the record to {HISTORY.name} and show it in the README.")
@click.option(
    "--row",
    "names",
    multiple=True,
    type=click.Choice(list(ROW_NAMES)),
    metavar="NAME",
    help="Only this row, such as round-trip.sync.64; may be given several times.",
)
def main(*, quick: bool, as_json: bool, keep: bool, names: tuple[str, ...]) -> None:
    """Measure the daemon against a plain relay of raw bytes.

    Starts a daemon, relays, guests and hosts as processes of their own, and leaves nothing behind. Takes a minute.
    """
    if keep and (quick or names):
        raise click.UsageError("--save keeps whole runs only; leave out --quick and --row")
    signal.signal(signal.SIGTERM, _end)
    effort = QUICK if quick else FULL
    rows = [ROW_NAMES[name] for name in names] or list(ROWS)
    console = Console(stderr=True)
    try:
        record = run(rows, effort, console)
    except BenchmarkFailed as failure:
        click.echo(f"benchmarks: {failure}", err=True)
        sys.exit(1)
    if keep:
        save(record)
    if as_json:
        click.echo(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        show(record)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def run(rows: list[Row], effort: Effort, console: Console) -> Record:
    """All repetitions of all rows."""
    load_before = os.getloadavg()[0]
    began = monotonic()
    taken: dict[Row, list[Repetition]] = {row: [] for row in rows}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refreshing in the background: it would take its time from what is being measured.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("starting", total=effort.repetitions * len(rows))
        progress.refresh()
        with set_up(product(dict.fromkeys(row.face for row in rows), RELAYED)) as stage:
            for number in range(1, effort.repetitions + 1):
                if not console.is_terminal:
                    console.print(f"repetition {number} of {effort.repetitions}")
                for row in rows:
                    progress.update(task, description=row.name)
                    progress.refresh()
                    taken[row].append(repetition(stage, row, effort))
                    progress.advance(task)
    figures: dict[str, Figure] = {row.name: figure(row, taken[row]) for row in rows}
    return make_record(figures, effort, load_before, monotonic() - began)


def repetition(stage: Stage, row: Row, effort: Effort) -> dict[Carrier, dict[str, float]]:
    """One row once, over everything it is measured over."""
    return {carrier: stage.measure(row, carrier, effort) for carrier in row.carriers}


def show(record: Record) -> None:
    """The tables, as wide as they need to be where nothing wraps them anyway."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for text in tables(record["figures"]):
        if text.lines:
            console.print(rich_table(text))
    console.print(f"ratio: 1.0 is the speed of the relay, higher is better; {YARDSTICK}")
    console.print(f"load average before: {record['load_average_before']}; took {record['seconds']} s")


if __name__ == "__main__":
    main()

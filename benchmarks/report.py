"""Figures to tables: for the terminal, and the same as Markdown for the README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.rows import ROWS, Carrier, Row


class Text(NamedTuple):
    """A table as text."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]


TIMES = (
    "row",
    "hosted p50 µs",
    "hosted p99 µs",
    "relay p50 µs",
    "relay p99 µs",
    "stream relay p50 µs",
    "ratio p50",
    "lowest to highest",
    "ratio p99",
    "hosted MiB/s",
)
RATES = (
    "row",
    "hosted packets/s",
    "relay packets/s",
    "stream relay packets/s",
    "ratio",
    "lowest to highest",
    "hosted MiB/s",
)


def tables(figures: dict[str, Figure]) -> tuple[Text, Text]:
    """Round trips and rates."""
    times = [_time_line(row, figures[row.name]) for row in ROWS if row.is_round_trip and row.name in figures]
    rates = [_rate_line(row, figures[row.name]) for row in ROWS if not row.is_round_trip and row.name in figures]
    return Text("Round trips, every process on one cpu", TIMES, times), Text("One way, on all cpus", RATES, rates)


def _time_line(row: Row, figure: Figure) -> tuple[str, ...]:
    hosted, relay, ratio = figure[Carrier.HOSTED], figure[Carrier.RELAY], figure["ratio"]
    stream = figure.get(Carrier.STREAM_RELAY)
    return (
        row.name,
        _number(hosted["p50"]),
        _number(hosted["p99"]),
        _number(relay["p50"]),
        _number(relay["p99"]),
        _number(stream["p50"]) if stream else "",
        f"{ratio['p50']:.3f}",
        _spread(ratio),
        f"{ratio['p99']:.3f}",
        f"{row.message_bytes / hosted['p50'] * 1e6 / 2**20:,.1f}",
    )


def _rate_line(row: Row, figure: Figure) -> tuple[str, ...]:
    hosted, ratio = figure[Carrier.HOSTED], figure["ratio"]
    return (
        row.name,
        _number(hosted["rate"]),
        _number(figure[Carrier.RELAY]["rate"]),
        _number(figure[Carrier.STREAM_RELAY]["rate"]),
        f"{ratio['rate']:.3f}",
        _spread(ratio),
        f"{row.message_bytes * hosted['rate'] / 2**20:,.1f}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['lowest']:.3f} to {ratio['highest']:.3f}"


def rich_table(text: Text) -> Table:
    """For the terminal."""
    table = Table(title=text.title, title_justify="left")
    for index, column in enumerate(text.columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for line in text.lines:
        table.add_row(*line)
    return table


def markdown(texts: Sequence[Text]) -> str:
    """For the README."""
    parts: list[str] = []
    for text in texts:
        parts += [f"**{text.title}**", ""]
        parts.append(_markdown_line(text.columns))
        parts.append(_markdown_line(["---", *["---:"] * (len(text.columns) - 1)]))
        parts += [_markdown_line(line) for line in text.lines]
        parts.append("")
    return "\n".join(parts)


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""What commands print: tables for people, JSON for programs. Text from elsewhere is shown as it is, never as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A table that goes to a file or a pipe must not be cut to the width of a terminal that is not there.
WIDTH_WITHOUT_TERMINAL = 160


class PipeConsole(Console):
    """A console that leaves a broken pipe to its caller; rich itself would exit in the middle of whatever runs."""

    def on_broken_pipe(self) -> None:
        """Let it be known."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output: colours and width of the terminal, or plain and wide where there is none."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return PipeConsole(file=sys.stdout, width=width, highlight=False)


def as_json(document: object) -> None:
    """One JSON document, indented."""
    click.echo(json.dumps(document, indent=2))


def as_json_line(document: object) -> None:
    """One JSON document on a line of its own, at once; for commands that go on."""
    say(json.dumps(document))


def say(line: str) -> None:
    """A line that whoever reads along sees at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; numbers go to the right."""
    console().print(drawn(columns, rows))


def drawn(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """The same, to be printed by whoever wants it."""
    body = [list(row) for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in body)
        grid.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in body:
        grid.add_row(*[Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row])
    return grid


def byte_size(byte_count: float) -> str:
    """A number of bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if byte_count < 1024:
            return f"{byte_count:,.0f} {unit}" if unit == "B" else f"{byte_count:,.1f} {unit}"
        byte_count /= 1024
    return f"{byte_count:,.1f} GiB"

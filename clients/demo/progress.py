"""What is seen while the demonstration works: bars on a terminal, a line for each quarter elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn


class Step(Protocol):
    """One piece of work, seen to advance."""

    def advance(self, amount: int) -> None:
        """So much more of it is done."""


class Display(Protocol):
    """Where steps are shown, for the length of a block."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self, name: str, total: int) -> Step:
        """A new step, of so many pieces altogether."""


def display_on(console: Console) -> Display:
    """The display that suits a console."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class BarStep:
    """A step that is a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, amount)


class BarDisplay:
    """Bars that move."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console)

    def __enter__(self) -> BarDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, name: str, total: int) -> Step:
        """A new bar."""
        return BarStep(self._progress, self._progress.add_task(name, total=total))


class LineStep:
    """A step that prints a line when it begins and at each quarter."""

    def __init__(self, console: Console, name: str, total: int) -> None:
        self._console = console
        self._name = name
        self._total = total
        self._done = 0
        self._quarter = 0
        self._print("...")

    def advance(self, amount: int) -> None:
        """Print, if another quarter is done."""
        self._done += amount
        quarter = min(4, self._done * 4 // self._total) if self._total else 4
        if quarter > self._quarter:
            self._quarter = quarter
            self._print(f"{quarter * 25} %")

    def _print(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}", markup=False)
        self._console.file.flush()


class LineDisplay:
    """Plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self, name: str, total: int) -> Step:
        """A new step."""
        return LineStep(self._console, name, total)

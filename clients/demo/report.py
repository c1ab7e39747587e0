"""The results of the demonstration, and the table at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from clients.commands.output import byte_size


@dataclass(frozen=True)
class Result:
    """What one step moved: packets or datagrams, and how many of them were completed."""

    name: str
    packets: int
    completions: int
    byte_count: int
    seconds: float

    @staticmethod
    def of(name: str, ends: Iterable[dict[str, Any]]) -> Result:
        """The sum of what several processes told when they were done, over the time from first to last."""
        told = list(ends)
        return Result(
            name,
            sum(each["packets"] for each in told),
            sum(each["completions"] for each in told),
            sum(each["bytes"] for each in told),
            max(each["ended"] for each in told) - min(each["began"] for each in told),
        )

    def per_second(self, amount: int) -> float:
        """A rate; 0 where nothing was moved."""
        return amount / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Report:
    """Everything the demonstration found out."""

    file_name: str = ""
    file_bytes: int = 0
    sha256: str = ""
    hosts: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """The table, and whether the file arrived as it was."""
        table = Table(
            title="What went through the daemon",
            title_justify="left",
            caption="Completed: by the host, or by the transport. What the UDP socket sends is nobody's to complete.",
            caption_justify="left",
        )
        table.add_column("step", overflow="fold")
        for name in ("packets", "completed", "bytes", "seconds", "per second", "bytes/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for each in self.results:
            table.add_row(
                each.name,
                f"{each.packets:,}",
                f"{each.completions:,}",
                byte_size(each.byte_count),
                f"{each.seconds:.2f}",
                f"{each.per_second(each.packets):,.0f}",
                byte_size(each.per_second(each.byte_count)),
            )
        console.print(table)
        console.print(f"SHA-256 of {self.file_name} ({byte_size(self.file_bytes)}): {self.sha256}", markup=False)
        console.print(f"The hosts of {' and '.join(self.hosts)} have the same: it matches.", markup=False)

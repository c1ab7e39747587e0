"""The results of the demonstration, and the table at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
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
        table = Table(title="What went through the daemon", title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("step", overflow="fold")
        for name in ("packets", "completed", "bytes", "seconds", "packets/s", "bytes/s"):
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
        for line in self._legend():
            console.print(line, markup=False, soft_wrap=True)

    def _legend(self) -> tuple[str, ...]:
        """What the rows mean, and how it ended for the file."""
        return (
            "file           as external data: hosts read it from the memory of their machines",
            "small packets  64 bytes each, from several guests on every machine",
            "lan            datagrams on a segment of the daemon's, each sent back",
            "udp            with an ordinary UDP socket; only a machine's own are completed",
            "",
            f"SHA-256 of {self.file_name}, {byte_size(self.file_bytes)}:",
            f"    {self.sha256}",
            f"    and the same at the hosts of {' and '.join(self.hosts)}: it matches",
        )

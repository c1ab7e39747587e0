"""A run as one entry of ``history.json``: when, which commit, on what machine and how busy, and the figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.report import markdown, tables
from benchmarks.rows import YARDSTICK, Effort
from benchmarks.stage import ROOT

HERE = Path(__file__).resolve().parent
HISTORY = HERE / "history.json"
README = HERE / "README.md"
TABLE_BEGINS = "<!-- newest table: written by --save -->\n"
TABLE_ENDS = "<!-- end of the newest table -->\n"

Record = dict[str, Any]


def make_record(figures: dict[str, Figure], effort: Effort, load_before: float, seconds: float) -> Record:
    """Everything worth knowing about a run. ``seconds`` is how long it took."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load_average_before": round(load_before, 2),
        "effort": asdict(effort),
        "seconds": round(seconds, 1),
        "ratio": f"relay time / hosted time, or hosted rate / relay rate; {YARDSTICK}",
        "figures": figures,
    }


def commit() -> str:
    """The commit measured; with a ``+`` when the measured code was changed since, or unknown outside of git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git("status", "--porcelain", "--", "emulator", "clients", "benchmarks/*.py") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict[str, str | int]:
    """What it ran on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "trio": importlib.metadata.version("trio"),
        "msgpack": importlib.metadata.version("msgpack"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def load_history(path: Path = HISTORY) -> list[Record]:
    """All records, the oldest first."""
    records: list[Record] = json.loads(path.read_text()) if path.exists() else []
    return records


def save(record: Record, history: Path = HISTORY, readme: Path = README) -> None:
    """Append a record to the history, and put its tables into the README."""
    records = [*load_history(history), record]
    _replace(history, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    text = readme.read_text()
    before, begins, rest = text.partition(TABLE_BEGINS)
    _, ends, after = rest.partition(TABLE_ENDS)
    if not (begins and ends):
        raise ValueError(f"{readme} has lost the two comments the newest table stands between")
    _replace(readme, before + begins + newest_table(record) + ends + after)


def newest_table(record: Record) -> str:
    """What the README shows of a record."""
    on = record["machine"]
    where = f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, Linux {on['kernel']}"
    when = f"{record['date']}, commit {record['commit']}, load average before {record['load_average_before']}"
    return f"\n{when}; {where}.\n\n{markdown(tables(record['figures']))}\n"


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)

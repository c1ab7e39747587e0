"""The benchmark of many machines runs in its tiny form and has every line; what it measures is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.machines import Row, table

ROOT = Path(__file__).resolve().parent.parent


def test_a_quick_run_has_every_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.machines", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in ("| machines | start", "| 1 |", "| 3 |", "- start-up under 10 s, with 3 machines: "):
        assert line in done.stdout


def test_the_verdicts_follow_the_last_row() -> None:
    one = Row(1, 1.0, 0.5, 1.0, 50.0, 0.0, 10, 0.0, 4.0)
    good = Row(1000, 9.9, 1.0, 1.0, 149.0, 30.0, 4000, 0.009, 5.0)
    bad = Row(1000, 10.1, 1.0, 1.0, 151.0, 30.0, 4000, 0.02, 5.1)
    assert table([one, good]).count(": met") == 4
    assert table([one, bad]).count(": missed") == 4

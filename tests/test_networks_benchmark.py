"""The networks' benchmark runs in its tiny form and has every line; what it measures is not judged here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.networks import ROWS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler cc here, and the yardstick is in C")
def test_a_quick_run_has_every_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.networks", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert f"| {row.name} | " in done.stdout

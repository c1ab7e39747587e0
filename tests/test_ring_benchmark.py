"""The ring's benchmark runs in its tiny form and has every line; what it measures is not judged here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ring import GOALS
from emulator.vmbus.ring import RING_BUILDS

ROOT = Path(__file__).resolve().parent.parent


def test_a_quick_run_has_every_line() -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler cc here, and the yardstick is in C")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ring", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [goal.name for goal in GOALS if "compiled" in RING_BUILDS or not goal.measured.startswith("compiled")]
    assert len(names) > 8
    for name in names:
        assert f"| {name} | **" in done.stdout

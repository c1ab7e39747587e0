"""The benchmark of direct channels runs in its shortest form and has every line; what it measures is not judged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from benchmarks.direct import GOALS, TABLE_BEGINS, TABLE_ENDS
from benchmarks.plain_ends import INSTALL_PYZMQ
from benchmarks.record import README

ROOT = Path(__file__).resolve().parent.parent


def test_a_quick_run_has_every_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.direct", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    has_pyzmq = importlib.util.find_spec("zmq") is not None
    for goal in GOALS:
        wanted = has_pyzmq or goal.yardstick != "pyzmq post"
        assert (f"| {goal.name} | **" in done.stdout) == wanted
        assert f"| {goal.measured} |" in done.stdout
    assert (INSTALL_PYZMQ in done.stdout) != has_pyzmq


def test_the_readme_has_room_for_the_table() -> None:
    assert README.read_text().count(TABLE_BEGINS) == README.read_text().count(TABLE_ENDS) == 1

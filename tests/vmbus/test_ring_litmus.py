"""The short form of the two-process litmus, over both builds; ``tests/vmbus/litmus.py`` has the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vmbus.conftest import NAMES, build_named

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", NAMES)
def test_no_wake_up_is_lost_between_two_processes(name: str) -> None:
    build_named(name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.vmbus.litmus", "--decisions", "50000", "--build", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name} ring with its fence: 50000 decisions" in done.stdout
    assert done.stdout.endswith("no wake-up was lost\n")

"""The short form of the fuzz below AddressSanitizer; ``tests/vmbus/ring_fuzz.py`` has the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import in_ci

ROOT = Path(__file__).resolve().parent.parent.parent
CANNOT_BUILD = 3


def run_fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.vmbus.ring_fuzz", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == CANNOT_BUILD and not in_ci():
        pytest.skip(done.stderr)
    return done


def test_the_sanitizer_sees_a_single_read_outside() -> None:
    done = run_fuzz("--prove")
    assert done.returncode == 66, done.stderr
    assert "use-after-poison" in done.stderr


def test_36_any_control_page_and_any_descriptor_stay_inside_the_ring() -> None:
    done = run_fuzz("--cases", "8000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8000 cases, ")
    assert done.stdout.endswith("; clean\n")

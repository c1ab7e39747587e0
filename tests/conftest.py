"""What holds for every test: how hypothesis searches, and a word about programs that are missing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.installed import install
from tests.support.tools import in_ci, missing_tools

# A deadline would time the machine, not the code. An automatic run draws the same examples every time, so that a change
# is judged by itself; a developer's run draws new ones and remembers what failed.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if in_ci() else "dev")


# A runner started with nohup hands down deafness to SIGHUP, which some tests send to the programs they start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def installed_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the package installed as the image and the docs have it; made when a test first wants it."""
    return install(tmp_path_factory.mktemp("installed"))


def pytest_report_header() -> list[str]:
    """Say before the first test which ones cannot run here, and what would let them."""
    return [
        f"missing: {tool} (on Debian: apt install {package}); tests that need it {'fail' if in_ci() else 'are skipped'}"
        for tool, package in missing_tools().items()
    ]

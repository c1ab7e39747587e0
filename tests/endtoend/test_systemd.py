"""The service under systemd itself, on a computer of the test's own: docs/operating.md, and what it claims.

Programs start slowly there, so of the page only what has to do with the service is run; ``tests/test_operating.py``
runs all of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.first_process import STARTED
from tests.support.private_kernel import run_under_systemd
from tests.support.processes import ROOT
from tests.test_operating import blocks

PATIENCE_SECONDS = 400
OF_THE_SERVICE = re.compile(
    r"^(systemctl|systemd-sysusers|install|export)\b|--print-default-config|vmbusctl (machines|version)$"
)
TRIAL = ROOT / "tests/endtoend/service_trial.sh"
JOURNAL = "journalctl --unit vmbusd.service --output cat"
AFTER_THE_PAGE = "! systemctl is-active vmbusd.service", JOURNAL, "echo 'page: done'"


def page() -> list[str]:
    """The page's commands for the service, in their order, without what the log said so far in one's answer."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if OF_THE_SERVICE.search(line)]
    return [line.replace("systemctl status", "systemctl status --lines=0") for line in commands]


def test_the_page_has_commands_for_every_step_of_the_service() -> None:
    steps = ("daemon-reload", "enable --now", "status", "reload", "restart", "stop")
    assert [step for step in steps if not any(line.startswith(f"systemctl {step}") for line in page())] == []


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
async def test_the_page_for_operators_does_what_it_says_and_the_service_what_it_claims(
    tmp_path: Path, installed_environment: Path
) -> None:
    script = tmp_path / "page"
    script.write_text("\n".join(["set -eu", *page(), *AFTER_THE_PAGE, f"bash {TRIAL}", JOURNAL]))
    said = await run_under_systemd(tmp_path, installed_environment, script, seconds=PATIENCE_SECONDS)
    if said is None:
        pytest.skip("no kernel can be started here to run systemd in")
    page_said, _, trial_said = said.replace("\r", "").partition(STARTED)[2].partition("page: done")
    assert "2 machines, 0 clients, 0 open channels" in page_said, page_said
    assert "Active: active (running)" in page_said, page_said
    assert page_said.count('"daemon.listening"') == page_said.count('"daemon.stopped"') == 2, page_said
    assert '"config.reloaded"' in page_said, page_said
    assert [line for line in page_said.splitlines() if "Failed" in line or "Traceback" in line] == [], page_said
    trials = [line.removeprefix("echo ").strip('"') for line in TRIAL.read_text().splitlines() if "trial: " in line]
    assert [line for line in trials if line not in trial_said] == [], trial_said
    assert "2 machines, 0 clients, 0 open channels" in trial_said, trial_said
    assert "Traceback" not in trial_said, trial_said

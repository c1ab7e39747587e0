"""The service under systemd itself, on a computer of the test's own: docs/operating.md, and what it claims."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support.first_process import STARTED
from tests.support.private_kernel import run_under_systemd
from tests.support.processes import ROOT
from tests.test_operating import SAID, blocks

PATIENCE_SECONDS = 400
TRIAL = ROOT / "tests/endtoend/service_trial.sh"
AFTER_THE_PAGE = (
    "! systemctl is-active vmbusd.service\njournalctl --unit vmbusd.service --output cat\necho 'page: done'\n"
)


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
async def test_the_page_for_operators_does_what_it_says_and_the_service_what_it_claims(
    tmp_path: Path, installed_environment: Path
) -> None:
    # There is no network inside: what the page installs is there already.
    pip = [str(installed_environment / "bin/pip"), "install", "--disable-pip-version-check", "click-man"]
    await trio.run_process(pip, capture_stdout=True)
    page = "\n".join(["set -eu", *blocks("sh"), AFTER_THE_PAGE]).replace(
        "systemctl status", "systemctl status --lines=0"
    )
    script = tmp_path / "page"
    script.write_text(f"{page}\nbash {TRIAL}\njournalctl --unit vmbusd.service --output cat\n")
    said = await run_under_systemd(tmp_path, installed_environment, script, seconds=PATIENCE_SECONDS)
    if said is None:
        pytest.skip("no kernel can be started here to run systemd in")
    page_said, _, trial_said = said.replace("\r", "").partition(STARTED)[2].partition("page: done")
    assert [words for words in SAID if words not in page_said] == [], page_said
    assert "Active: active (running)" in page_said, page_said
    assert page_said.count('"daemon.listening"') == page_said.count('"daemon.stopped"') == 2, page_said
    assert '"config.reloaded"' in page_said, page_said
    assert [line for line in page_said.splitlines() if "Failed" in line or "Traceback" in line] == [], page_said
    trials = [line.removeprefix("echo ").strip('"') for line in TRIAL.read_text().splitlines() if "trial: " in line]
    assert [line for line in trials if line not in trial_said] == [], trial_said
    assert "2 machines, 0 clients, 0 open channels" in trial_said, trial_said
    assert "Traceback" not in trial_said, trial_said

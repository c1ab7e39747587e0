"""The commands of docs/operating.md, run in the order in which they stand, below a directory that stands for ``/``."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.config import Config
from tests.support.installed import PLACE, steps
from tests.support.processes import ROOT

DOC = (ROOT / "docs/operating.md").read_text()
# Commands that stand for the system's, where running those would change it or is not possible here.
STAND_INS = {
    "systemctl": f'exec {sys.executable} {ROOT}/tests/support/systemctl.py "$@"',
    "systemd-sysusers": 'exec /usr/bin/systemd-sysusers --root="$SANDBOX" "$1"',
}


# What every block of commands has to have said, whoever starts the service.
SAID = (
    "fine: 2 machines, 1 segments",
    "2 machines, 0 clients, 0 open channels",
    "No channel is offered",
    "logs from debug upwards; until now from info",
    "scratch is there",
)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOC, re.DOTALL)


def test_it_installs_as_the_image_does() -> None:
    documented = [line.replace("python3", "python") for block in blocks("sh install") for line in block.splitlines()]
    assert documented == steps()


def test_its_configuration_fragments_are_taken() -> None:
    merged: dict[str, object] = {}
    for block in blocks("toml"):
        merged |= tomllib.loads(block)
    config = Config.model_validate({**merged, "segments": {}})
    assert config.metrics.listen == "127.0.0.1:9464"
    assert config.access.admin == ("root",)


@pytest.fixture
def sandbox(tmp_path: Path, installed_environment: Path) -> Iterator[Path]:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/vmbus").symlink_to(installed_environment)
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("")
    stand_ins = tmp_path / "stand-ins"
    stand_ins.mkdir()
    for name, body in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/bin/sh\n{body}\n")
        (stand_ins / name).chmod(0o755)
    yield tmp_path
    state = tmp_path / "systemctl.json"
    if state.exists():  # a test that failed midway leaves a daemon
        for pid in re.findall(r": (\d+)", state.read_text()):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="installing units and users is root's")
def test_every_command_does_what_the_page_says(sandbox: Path) -> None:
    script = "set -eu\n" + "\n".join(f"echo '# {block.splitlines()[0]}'\n{block}" for block in blocks("sh"))
    # The doc's places below the sandbox; a unit's own text is the stand-in's to translate.
    for place in (PLACE, "/etc/", "/run/vmbusd"):
        script = script.replace(place, f"{sandbox}{place}")
    environment = {**os.environ, "SANDBOX": str(sandbox), "PATH": f"{sandbox}/stand-ins:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    journal = (sandbox / "journal").read_text() if (sandbox / "journal").exists() else ""
    report = f"{done.stdout}\n{done.stderr}\n{journal[-4000:]}"
    assert done.returncode == 0, report
    said = done.stdout
    assert [words for words in SAID if words not in said] == [], report
    assert "vmbus:" in (sandbox / "etc/passwd").read_text()
    assert (sandbox / "opt/vmbus/share/man/man1/vmbusctl-why.1").exists()
    assert '"config.reloaded"' in journal
    assert journal.count('"daemon.stopped"') == 2


def logged_events() -> set[str]:
    """Every event name that some call in the daemon logs, read from the source."""
    found: set[str] = set()
    for path in (ROOT / "emulator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                text = str(first.value) if isinstance(first, ast.Constant) else ""
                is_event = re.fullmatch(r"[a-z]+\.[a-z_]+", text)
                if node.func.attr in ("debug", "info", "warning", "error") and is_event:
                    found.add(text)
    return found


def test_every_event_of_the_log_is_in_the_table_and_no_other() -> None:
    table = DOC.partition("## Events of the log")[2]
    documented = set(re.findall(r"`([a-z]+\.[a-z_]+)`", table))
    assert documented - logged_events() <= {"bus.violation"}  # its name is chosen where violations are counted
    assert logged_events() - documented == set()

"""Manual pages and completions, made from the help that the programs print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.support.processes import ROOT
from tests.support.tools import require_tool


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page by its name."""
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "deploy/man_pages.py", directory], check=True, capture_output=True)
    return {path.stem: path.read_text() for path in directory.glob("*.1")}


def _commands() -> dict[str, click.Command]:
    from clients.cli import vmbusctl
    from emulator.__main__ import main

    found: dict[str, click.Command] = {"vmbusd": main}
    waiting: list[tuple[str, click.Command]] = [("vmbusctl", vmbusctl)]
    while waiting:
        name, command = waiting.pop()
        found[name] = command
        waiting += [(f"{name}-{each}", below) for each, below in getattr(command, "commands", {}).items()]
    return found


def test_every_command_has_a_page_and_every_option_is_on_it(pages: dict[str, str]) -> None:
    commands = _commands()
    assert sorted(pages) == sorted(commands)
    for name, command in commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                option = max(parameter.opts, key=len).replace("-", r"\-")
                assert option in pages[name], f"{name} lacks {option}"
        assert "..." not in pages[name].split(".SH SYNOPSIS")[0], f"the summary of {name} is cut off"


def test_pages_set_without_a_warning_and_change_only_with_the_help(pages: dict[str, str]) -> None:
    groff = require_tool("groff", "groff-base")
    for name, text in pages.items():
        set_ = subprocess.run([groff, "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True, check=True)
        assert set_.stderr == "", name
        assert text.splitlines()[0].split('"')[5] == "", name  # no date


def test_examples_keep_their_lines(pages: dict[str, str]) -> None:
    assert ".nf\n    vmbusctl serve-echo vm1\n    vmbusctl send vm1 --text hello\n.fi\n" in pages["vmbusctl-send"]


def test_bash_completes_commands_and_options() -> None:
    bash = require_tool("bash", "bash")
    scripts = Path(sys.executable).parent
    ask = """
eval "$(vmbusctl completion bash)"
COMP_WORDS=(vmbusctl $1 $2) COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_vmbusctl_completion vmbusctl
printf '%s\\n' "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}

    def complete(*words: str) -> list[str]:
        command = [bash, "--norc", "-c", ask, "bash", *words]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        assert said.stderr == ""
        return said.stdout.split()

    assert complete("chan") == ["channels"]
    assert complete("machine", "rem") == ["remove"]
    assert complete("send", "--ext") == ["--external"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "clients.cli", "completion", shell], capture_output=True, text=True, check=True
    )
    assert "_VMBUSCTL_COMPLETE" in said.stdout

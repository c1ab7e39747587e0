"""``./dev`` without a network: what it says when it cannot go on, and when it leaves things alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("sh", "dirname", "cksum", "cat", "head", "rm", "env", "touch", "mkdir")

TOO_OLD = """#!/bin/sh
[ "$1" = --version ] && echo "Python 3.9.2" && exit
exit 1
"""

WITHOUT_VENV = """#!/bin/sh
case $2 in *ensurepip*) exit 1 ;; *) exec {python} "$@" ;; esac
"""

# Stands in for a package installer: notes how it was called, and makes the environment that `dev` looks for.
FAKE_UV = """#!/bin/sh
echo "$@" >>{log}
[ "$1" = venv ] || exit 0
for last; do :; done
mkdir -p "$last/bin"
printf '#!/bin/sh\\n[ "$1" = -m ] && shift && echo "ran $*" && exit 7\\nexit 0\\n' >"$last/bin/python"
chmod +x "$last/bin/python"
"""


class Copy:
    """A copy of the script in a tree of its own, with a PATH on which only chosen programs are found."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "a tree with spaces"
        self.bin = tmp_path / "bin"
        self.elsewhere = tmp_path / "elsewhere"
        for folder in (self.root, self.bin, self.elsewhere):
            folder.mkdir()
        for name in ("dev", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root / name)
        for name in (*NEEDED, "chmod"):
            target = shutil.which(name)
            assert target, f"{name} is part of every POSIX system"
            (self.bin / name).symlink_to(target)

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "dev"), *args],
            cwd=self.elsewhere,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_script_parses(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n", str(ROOT / "dev")], check=True)


@pytest.mark.parametrize("args", [(), ("help",), ("--help",)])
def test_help_needs_no_python(copy: Copy, args: tuple[str, ...]) -> None:
    done = copy.run(*args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ./dev COMMAND")


def test_an_unknown_command_is_named(copy: Copy) -> None:
    done = copy.run("tset")
    assert done.returncode == 2
    assert "there is no command 'tset'" in done.stderr


def test_run_without_a_command_says_what_it_wants(copy: Copy) -> None:
    done = copy.run("run")
    assert done.returncode == 1
    assert "run needs a command" in done.stderr


def test_no_python_at_all(copy: Copy) -> None:
    done = copy.run("setup")
    assert done.returncode == 1
    assert "no Python found; 3.11 or newer is needed" in done.stderr


def test_a_python_that_is_too_old_is_named(copy: Copy) -> None:
    copy.program("python3", TOO_OLD)
    done = copy.run("test")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed, and python3 is Python 3.9.2" in done.stderr
    assert not (copy.root / ".venv").exists()


def test_a_python_that_was_asked_for_and_does_not_serve_is_named(copy: Copy) -> None:
    copy.program("ancient", TOO_OLD)
    done = copy.run("setup", PYTHON="ancient")
    assert done.returncode == 1
    assert "PYTHON=ancient does not run, or is older" in done.stderr


def test_a_newer_python_is_looked_for_behind_an_old_one_and_a_missing_package_is_named(copy: Copy) -> None:
    copy.program("python3", TOO_OLD)
    copy.program("python3.13", WITHOUT_VENV.format(python=sys.executable))
    done = copy.run("setup")
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert done.returncode == 1
    assert "python3.13 cannot make environments: its venv or ensurepip module is missing" in done.stderr
    assert f"apt install {package}" in done.stderr


def test_set_up_happens_once_and_again_when_the_packaging_changes(copy: Copy, tmp_path: Path) -> None:
    log = tmp_path / "uv.log"
    copy.program("uv", FAKE_UV.format(log=log))
    first = copy.run("setup")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr.splitlines() == [
        "dev: installing into .venv (only now, and again when the packaging or the compiled ring changes) ..."
    ]
    venv = copy.root / ".venv"
    assert log.read_text().splitlines() == [
        f"venv --quiet --python >=3.11 {venv}",
        f"pip install --quiet --python {venv}/bin/python --editable .[dev,quic]",
    ]
    second = copy.run("setup")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(log.read_text().splitlines()) == 2
    with (copy.root / "pyproject.toml").open("a") as packaging:
        packaging.write("\n# a dependency more\n")
    assert copy.run("setup").returncode == 0
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["venv", "pip", "pip"]


def test_a_moved_tree_gets_a_new_environment(copy: Copy, tmp_path: Path) -> None:
    log = tmp_path / "uv.log"
    copy.program("uv", FAKE_UV.format(log=log))
    assert copy.run("setup").returncode == 0
    (copy.root / ".venv" / "left-over").touch()
    copy.root = copy.root.rename(tmp_path / "moved")
    assert copy.run("setup").returncode == 0
    assert not (copy.root / ".venv" / "left-over").exists()
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["venv", "pip", "venv", "pip"]


def test_an_install_that_fails_is_tried_again(copy: Copy, tmp_path: Path) -> None:
    log = tmp_path / "uv.log"
    copy.program("uv", FAKE_UV.format(log=log).replace("|| exit 0", "|| exit 1"))
    done = copy.run("test")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "dev: installing failed; the message above says why"
    assert copy.run("setup").returncode == 1
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["venv", "pip", "pip"]


def test_test_hands_on_its_arguments_and_the_exit_code(copy: Copy, tmp_path: Path) -> None:
    copy.program("uv", FAKE_UV.format(log=tmp_path / "uv.log"))
    done = copy.run("test", "-k", "one thing")
    assert (done.returncode, done.stdout) == (7, "ran pytest -k one thing\n")


def test_run_finds_tools_and_keeps_the_directory_of_the_caller(copy: Copy, tmp_path: Path) -> None:
    copy.program("uv", FAKE_UV.format(log=tmp_path / "uv.log"))
    done = copy.run("run", "sh", "-c", "pwd -P; echo ${PATH%%:*}")
    assert done.stdout.splitlines() == [os.path.realpath(copy.elsewhere), f"{copy.root}/.venv/bin"]


def test_lint_runs_every_check_and_names_those_that_failed(copy: Copy, tmp_path: Path) -> None:
    copy.program("uv", FAKE_UV.format(log=tmp_path / "uv.log"))
    done = copy.run("lint")
    assert done.returncode == 1
    ran = ["ran ruff check", "ran ruff format --check", "ran mypy", "ran pytest -q tests/test_layers.py"]
    assert done.stdout.splitlines() == ran
    assert done.stderr.splitlines()[-1] == "dev: failed: " + ", ".join(line.removeprefix("ran ") for line in ran)

"""The package installed as the Dockerfile and the docs install it, once for all tests that want it so."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

PLACE = "/opt/vmbus"
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def copies() -> list[tuple[list[str], str]]:
    """(names, place) of every COPY from the source tree."""
    found = re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE)
    return [(line.split()[:-1], line.split()[-1]) for line in found]


def steps() -> list[str]:
    """The RUN lines that make an environment and install into it."""
    return re.findall(rf"^RUN ((?:python|{PLACE}).*)$", DOCKERFILE, re.MULTILINE)


def install(directory: Path) -> Path:
    """Run those steps below a directory; where the environment is then."""
    source, target = directory / "src", directory / "opt/vmbus"
    source.mkdir()
    target.parent.mkdir()
    for names, place in copies():
        subprocess.run(["cp", "-r", *[str(ROOT / name) for name in names], str(source / place)], check=True)
    for step in steps():
        command = [part.replace(PLACE, str(target)) for part in shlex.split(step)]
        if command[0] == "python":
            command[0] = sys.executable
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    shutil.rmtree(source)
    return target

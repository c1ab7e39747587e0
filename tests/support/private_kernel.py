"""A Linux kernel of a test's own, for what this machine's was built without: User Mode Linux, which is a program.

It has the files of this machine, memory, processes and networks of its own, and one processor. ``/run`` is a tmpfs.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.first_process import ENDED, STARTED
from tests.support.processes import ROOT, ProcessFailed, start_process
from tests.support.tools import TOOLS, require_tool

MODULES = Path("/usr/lib/uml/modules")
MEMORY = "1G"
BOOT_SECONDS = 120.0
INSIDE = "VMBUS_TEST_PRIVATE_KERNEL"
"""Set in the environment of what runs in one."""


def in_private_kernel() -> bool:
    """Whether this process runs in one."""
    return INSIDE in os.environ


def _paths(modules: Sequence[str]) -> list[Path]:
    found = [path for name in modules for path in sorted(MODULES.glob(f"*/kernel/**/{name}.ko"))[-1:]]
    if len(found) != len(modules):
        pytest.fail(f"{TOOLS['linux.uml']} has only {found} of {modules}", pytrace=False)
    return found


async def run_in_private_kernel(
    tmp_path: Path, modules: Sequence[str], command: Sequence[str | Path], *, seconds: float
) -> str | None:
    """Run a command there, with these kernel modules; what it said, or None where such a kernel does not start.

    Raises ProcessFailed, with all that was said, where the command fails. Without the kernel's package the calling
    test is skipped, or fails in an automatic run.
    """
    return await _run(tmp_path, "tests.support.first_process", modules, command, seconds)


async def run_under_systemd(tmp_path: Path, environment: Path, script: Path, *, seconds: float) -> str | None:
    """Run a script of bash there with systemd as first process and an environment at /opt/vmbus; otherwise the same.

    What it changes of this machine's files, other than below ``/dev``, ``/proc`` and ``/sys``, only it sees.
    """
    require_tool("systemctl", TOOLS["systemctl"])
    return await _run(tmp_path, "tests.support.become_systemd", ("overlay",), (environment, script), seconds)


async def _run(
    tmp_path: Path, program: str, modules: Sequence[str], arguments: Sequence[str | Path], seconds: float
) -> str | None:
    kernel = require_tool("linux.uml", TOOLS["linux.uml"])
    words = [sys.executable, "-m", program, *map(str, _paths(modules)), "--", *map(str, arguments)]
    first, directory = tmp_path / "first", tmp_path / "uml"
    path = shlex.quote(f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    first.write_text(
        "#!/bin/sh\n"
        f"export PATH={path} HOME=/root PYTHONDONTWRITEBYTECODE=1 {INSIDE}=1\n"
        f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(words)}\n"
    )
    first.chmod(0o755)
    directory.mkdir()
    booted = [kernel, f"mem={MEMORY}", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null"]
    booted += ["con0=null,fd:1", f"init={first}", f"uml_dir={directory}", f"umid=k{os.getpid()}"]
    async with start_process(tmp_path, "kernel", booted, merge_output=True) as running:
        try:
            await running.wait_for_line(STARTED, timeout_seconds=BOOT_SECONDS)
        except ProcessFailed as failure:
            print(failure)
            return None
        ended = await running.wait_for_line(ENDED, timeout_seconds=seconds)
        if ended.split()[-1] != "0":
            raise ProcessFailed(running.report())
        return running.stdout

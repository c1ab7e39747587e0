"""The limit of open descriptors is raised as far as it goes, and a start that needs more says how many."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from emulator.config import Config, MachineConfig
from emulator.daemon.descriptors import PER_MACHINE, SPARE
from tests.daemon.raw import open_descriptors, served
from tests.support.processes import start_daemon


def with_limits(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def machines(count: int) -> str:
    return "".join(f"[machines.m{number}]\nmemory_bytes = 1048576\n" for number in range(count))


def test_a_start_that_needs_more_than_is_allowed_says_the_number(tmp_path: Path) -> None:
    config = tmp_path / "vmbusd.toml"
    config.write_text(machines(100))
    done = subprocess.run(
        [sys.executable, "-m", "emulator", "--config", str(config), "--socket", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=with_limits(64, 128),
    )
    assert done.returncode == 2
    needed = SPARE + PER_MACHINE * 100
    assert f"100 machines need {needed} open descriptors to start, and this process is allowed 128" in done.stderr
    assert "LimitNOFILE=" in done.stderr


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    inside = ("sh", "-c", 'ulimit -S -n 200; ulimit -H -n 900; exec "$@"', "sh")
    async with start_daemon(tmp_path, machines(2), inside=inside) as daemon:
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (900, 900)


async def test_a_machine_that_does_nothing_has_the_descriptors_of_its_memory_alone(tmp_path: Path) -> None:
    async def taken(count: int) -> int:
        names = [f"m{number}" for number in range(count)]
        config = Config(machines={name: MachineConfig(memory_bytes=1 << 20) for name in names}, segments={})
        before = open_descriptors()
        async with served(tmp_path, config):
            return open_descriptors() - before

    assert await taken(30) - await taken(10) == 20 * PER_MACHINE

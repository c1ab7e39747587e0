"""A daemon and a guest in two network namespaces, which share nothing but a cable between them; for root only.

Where the kernel has netem the cable is a bad one. ``test_quic_path`` has the bad path for everybody.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from emulator.remote.keyring import Keyring
from tests.support.namespaces import joined_namespaces, within
from tests.support.processes import start_process
from tests.support.remote import EVERYTHING, quic_section

PROGRAMS = "tests.endtoend.programs"
HERE, THERE = "10.77.0.1", "10.77.0.2"
PORT = 4433
BAD_CABLE = ("delay", "25ms", "loss", "5%", "reorder", "5%")


def spoil(namespace: str) -> bool:
    """Make the cable of a namespace a bad one; whether this kernel can."""
    command = [*within(namespace), "tc", "qdisc", "add", "dev", "cable", "root", "netem", *BAD_CABLE]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


async def test_a_guest_in_another_network_namespace(tmp_path: Path) -> None:
    keyring = Keyring.init(tmp_path / "keys")
    credentials = keyring.add("guest", EVERYTHING)
    config, path = tmp_path / "vmbusd.toml", tmp_path / "socket"
    config.write_text(quic_section(keyring.directory, f'host = "{HERE}"', PORT))
    with joined_namespaces(HERE, THERE) as (one, two):
        spoiled = [spoil(each) for each in (one, two)]
        daemon: list[str | Path] = [
            *within(one),
            sys.executable,
            "-m",
            "emulator",
            "--socket",
            path,
            "--config",
            config,
        ]
        host: list[str | Path] = [sys.executable, "-m", PROGRAMS, "host"]
        guest: list[str | Path] = [*within(two), sys.executable, "-m", PROGRAMS, "guest"]
        remote = {"VMBUS_PLACE": f"quic://{HERE}:{PORT}", "VMBUS_CREDENTIALS": str(credentials)}
        async with start_process(tmp_path, "vmbusd", daemon) as running:
            await running.wait_for_line("ready on")
            async with (
                start_process(tmp_path, "host", host, environment={"VMBUS_SOCKET": str(path)}) as local,
                start_process(tmp_path, "guest", [*guest, "--count", "500"], environment=remote) as far,
            ):
                await local.wait_for_line("offered")
                await far.wait_for_line("finished 500", timeout_seconds=90 if any(spoiled) else 30)

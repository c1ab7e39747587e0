"""A daemon and a guest in two network namespaces, which share nothing but a bad cable between them; for root only.

Where the kernel has netem it makes the cable bad: 5 % loss, 50 ms there and back, reordering. Elsewhere a relay in the
daemon's namespace does the same to every packet.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from emulator.remote.keyring import Keyring
from tests.support.namespaces import joined_namespaces, within
from tests.support.processes import start_process
from tests.support.remote import EVERYTHING, quic_section

PROGRAM = "tests.endtoend.ordered"
PACKETS = 10_000
HERE, THERE = "10.77.0.1", "10.77.0.2"
PORT, RELAY_PORT = 4433, 4434
BAD_CABLE = ("delay", "25ms", "loss", "5%", "reorder", "5%")


def spoil(namespace: str) -> bool:
    """Make the cable of a namespace a bad one; whether this kernel can."""
    command = [*within(namespace), "tc", "qdisc", "add", "dev", "cable", "root", "netem", *BAD_CABLE]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


async def test_ten_thousand_packets_with_external_data_arrive_once_and_in_order(tmp_path: Path) -> None:
    keyring = Keyring.init(tmp_path / "keys")
    credentials = keyring.add("guest", EVERYTHING)
    config, path = tmp_path / "vmbusd.toml", tmp_path / "socket"
    config.write_text(quic_section(keyring.directory, f'host = "{HERE}"', PORT))
    with joined_namespaces(HERE, THERE) as (one, two):
        spoiled = spoil(one) & spoil(two)
        port = PORT if spoiled else RELAY_PORT
        python: list[str | Path] = [sys.executable, "-m"]
        daemon = [*within(one), *python, "emulator", "--socket", path, "--config", config]
        relay = [*within(one), *python, "tests.support.path", f"quic://{HERE}:{PORT}", HERE, str(RELAY_PORT)]
        host = [*python, PROGRAM, "host", str(PACKETS)]
        guest = [*within(two), *python, PROGRAM, "guest", str(PACKETS)]
        remote = {"VMBUS_PLACE": f"quic://{HERE}:{port}", "VMBUS_CREDENTIALS": str(credentials)}
        async with start_process(tmp_path, "vmbusd", daemon) as running:
            await running.wait_for_line("ready on")
            async with (
                start_process(tmp_path, "relay", relay) as carrying,
                start_process(tmp_path, "host", host, environment={"VMBUS_SOCKET": str(path)}) as local,
            ):
                await carrying.wait_for_line("carrying")
                await local.wait_for_line("offered")
                async with start_process(tmp_path, "guest", guest, environment=remote) as far:
                    await far.wait_for_line(f"finished {PACKETS}", timeout_seconds=100)
                await local.wait_for_line(f"taken {PACKETS}")

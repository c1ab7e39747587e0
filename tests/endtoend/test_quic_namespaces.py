"""A daemon and a guest in two network namespaces, which share nothing but a bad cable between them.

The cable is bad by netem at both ends: 5 % loss, 50 ms each way, reordering. This kernel's own, where it has it; else
that of a private kernel, in which this file's test is run once more. A relay that does the same to every packet makes
the shorter test, which any root can run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from emulator.remote.keyring import Keyring
from tests.support.namespaces import joined_namespaces, within
from tests.support.private_kernel import in_private_kernel, run_in_private_kernel
from tests.support.processes import Running, start_process
from tests.support.remote import EVERYTHING, quic_section

PROGRAM = "tests.endtoend.ordered"
PACKETS = 10_000
PACKETS_RELAYED = 2_000
HERE, THERE = "10.77.0.1", "10.77.0.2"
PORT, RELAY_PORT = 4433, 4434
BAD_CABLE = ("delay", "50ms", "loss", "5%", "reorder", "5%")
PATIENCE_SECONDS = 240


def spoil(namespace: str) -> bool:
    """Make the cable of a namespace a bad one; whether this kernel can."""
    command = [*within(namespace), "tc", "qdisc", "add", "dev", "cable", "root", "netem", *BAD_CABLE]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def netem_counts(namespace: str) -> tuple[int, int]:
    """Packets that went out through a spoilt cable, and those it lost; a train of datagrams is one, and lost whole."""
    command = [*within(namespace), "tc", "-s", "qdisc", "show", "dev", "cable"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Sent \d+ bytes (\d+) pkt \(dropped (\d+),", said)
    assert found, said
    assert [word for word in ("netem", "delay 50ms", "loss 5%", "reorder 5%") if word not in said] == [], said
    return int(found[1]), int(found[2])


class Scene:
    """A daemon in one namespace with a host beside it; guests are started in the other."""

    def __init__(self, tmp_path: Path, namespaces: list[str], packets: int) -> None:
        self._tmp_path = tmp_path
        self._one, self._two = (within(name) for name in namespaces)
        self._packets = packets
        self._keyring = Keyring.init(tmp_path / "keys")
        self._python: list[str | Path] = [sys.executable, "-m"]

    async def exchange(self, port: int) -> None:
        """Every packet arrives once and in order, with its external data, when the guest connects to that port."""
        credentials = self._keyring.add("guest", EVERYTHING)
        config, path = self._tmp_path / "vmbusd.toml", self._tmp_path / "socket"
        config.write_text(quic_section(self._keyring.directory, f'host = "{HERE}"', PORT))
        daemon = [*self._one, *self._python, "emulator", "--socket", path, "--config", config]
        host = [*self._python, PROGRAM, "host", str(self._packets)]
        guest = [*self._two, *self._python, PROGRAM, "guest", str(self._packets)]
        remote = {"VMBUS_PLACE": f"quic://{HERE}:{port}", "VMBUS_CREDENTIALS": str(credentials)}
        async with start_process(self._tmp_path, "vmbusd", daemon) as running:
            await running.wait_for_line("ready on")
            async with start_process(self._tmp_path, "host", host, environment={"VMBUS_SOCKET": str(path)}) as local:
                await local.wait_for_line("offered")
                async with start_process(self._tmp_path, "guest", guest, environment=remote) as far:
                    await far.wait_for_line(f"finished {self._packets}", timeout_seconds=PATIENCE_SECONDS)
                await local.wait_for_line(f"taken {self._packets}")

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Running]:
        """A relay beside the daemon that treats packets as a bad cable does."""
        relay = [*self._one, *self._python, "tests.support.path", f"quic://{HERE}:{PORT}", HERE, str(RELAY_PORT)]
        async with start_process(self._tmp_path, "relay", relay) as carrying:
            await carrying.wait_for_line("carrying")
            yield carrying


async def relayed(tmp_path: Path, packets: int) -> None:
    with joined_namespaces(HERE, THERE) as names:
        scene = Scene(tmp_path, names, packets)
        async with scene.relay():
            await scene.exchange(RELAY_PORT)


async def through_netem(tmp_path: Path) -> bool:
    """Exchange the packets over a cable with netem; False where this kernel has none."""
    with joined_namespaces(HERE, THERE) as names:
        if not (spoil(names[0]) and spoil(names[1])):
            return False
        await Scene(tmp_path, names, PACKETS).exchange(PORT)
        for name in names:
            sent, lost = netem_counts(name)
            assert lost > sent / 100, f"{lost} of {sent}: the cable was too good"
            print(f"netem at {name}: {sent} packets sent, {lost} lost")
    return True


async def test_packets_with_external_data_arrive_once_and_in_order_through_a_relay(tmp_path: Path) -> None:
    await relayed(tmp_path, PACKETS_RELAYED)


async def test_ten_thousand_packets_with_external_data_arrive_once_and_in_order_through_netem(tmp_path: Path) -> None:
    if os.geteuid() == 0 and await through_netem(tmp_path):
        return
    assert not in_private_kernel(), "a private kernel was to have netem"
    again = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--basetemp=/run/base"]
    again += [__file__, "-k", "through_netem"]
    said = await run_in_private_kernel(tmp_path, ("veth", "sch_netem"), again, seconds=PATIENCE_SECONDS)
    if said is None:
        await relayed(tmp_path, PACKETS)
        pytest.skip("no kernel with netem can be started here: a relay spoilt the packets instead")
    assert "1 passed" in said
    assert said.count("netem at ") == 2
    print(said)

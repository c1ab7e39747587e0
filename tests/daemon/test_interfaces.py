"""What the host's interfaces are, asked without netlink."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from emulator.daemon.interfaces import broadcast_addresses, interface_index
from tests.support.namespaces import joined_namespaces, within
from tests.support.processes import ROOT

PROGRAM = """
import json
from emulator.daemon.interfaces import broadcast_addresses, interface_index
hosts = "127.0.0.1", "10.1.2.3", "10.2.70.1", "::1", "fd00::7", "10.9.9.9", "fd00::8"
print(json.dumps({
    "every": sorted(broadcast_addresses(["0.0.0.0"])),
    "some": sorted(broadcast_addresses(["10.1.2.3", "10.2.70.1", "127.0.0.1"])),
    "none": sorted(broadcast_addresses(["10.9.9.9"])),
    "indexes": [interface_index(host) for host in hosts],
}))
"""


def test_the_loopback_has_its_number_and_no_broadcast() -> None:
    number = socket.if_nametoindex("lo")
    assert (interface_index("127.0.0.1"), interface_index("::1")) == (number, number)
    assert broadcast_addresses(["127.0.0.1"]) == frozenset()


def test_an_address_of_nobody_is_left_to_the_host() -> None:
    assert (interface_index("192.0.2.77"), interface_index("fd00::77")) == (0, 0)


def test_netlink_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be had under the systemd unit."""
    real = socket.socket

    def confined(family: int = socket.AF_INET, *args: int) -> socket.socket:
        if family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args)

    monkeypatch.setattr(socket, "socket", confined)
    monkeypatch.delattr(socket, "if_nameindex")
    assert interface_index("127.0.0.1") == 1
    assert broadcast_addresses(["0.0.0.0"]) is not None


def test_more_addresses_than_there_was_room_for_are_all_found_and_each_has_its_broadcast_address() -> None:
    with joined_namespaces("10.1.2.3", "10.1.2.4") as (name, _):
        for number in range(80):
            address = ["address", "add", f"10.2.{number}.1/24", "broadcast", "+", "dev", "cable"]
            subprocess.run(["ip", "-n", name, *address], check=True)
        subprocess.run(["ip", "-n", name, "address", "add", "fd00::7/64", "nodad", "dev", "cable"], check=True)
        python = [*within(name), sys.executable, "-c", PROGRAM]
        said = json.loads(subprocess.run(python, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
        listed = subprocess.run(["ip", "-n", name, "-j", "link"], check=True, capture_output=True, text=True).stdout
    loopback, cable = (link["ifindex"] for link in json.loads(listed))
    assert said["every"] == sorted(["10.1.2.255", *(f"10.2.{number}.255" for number in range(80))])
    assert said["some"] == ["10.1.2.255", "10.2.70.255"]
    assert said["none"] == []
    assert said["indexes"] == [loopback, cable, cable, loopback, cable, 0, 0]

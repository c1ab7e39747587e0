"""Hosted channels open and close by control messages: at every version, and with what listings tell of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import clients
from clients import Channel, Connection, OfferedChannel, RequestFailed
from emulator.status import NtStatus
from tests.support.processes import start_daemon

ECHO = "b1d5e6f7-0a1b-4c2d-8e3f-405162738495"
VERSIONS = ["0.13", "1.1", "2.4", "3.0", "4.0", "4.1", "5.0", "5.1", "5.2", "5.3", "6.0"]
# What the guest asks for and the host grants, by name; features exist from 6.0 on.
FEATURES_OF_6_0 = {
    "GUEST_SPECIFIED_SIGNAL_PARAMETERS",
    "CHANNEL_INTERRUPT_REDIRECTION",
    "MODIFY_CONNECTION",
    "CLIENT_ID",
    "PAUSE_RESUME",
}


def machine_name(version: str) -> str:
    return f"v{version.replace('.', '-')}"


def one_machine_for_each_version() -> str:
    return "".join(f'[machines.{machine_name(version)}]\nvmbus_version = "{version}"\n' for version in VERSIONS)


async def echo(offered: OfferedChannel) -> None:
    async for packet in offered:
        await packet.complete(packet.payload)


async def listed(daemon: Connection, machine: str) -> dict[str, Any]:
    """The only channel of a machine, as listings show it."""
    (entry,) = await daemon.inspect("channels", machine)
    return entry


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_channel_opens_at_the_newest_version_its_machine_allows(tmp_path: Path, version: str) -> None:
    name = machine_name(version)
    async with (
        start_daemon(tmp_path, one_machine_for_each_version()) as process,
        clients.connect(process.socket_path) as daemon,
        trio.open_nursery() as nursery,
    ):
        machine = await daemon.machine(name)
        offered = await machine.offer_channel(ECHO)
        nursery.start_soon(echo, offered)
        before = await listed(daemon, name)
        assert (before["state"], before["version"], before["channel_id"]) == ("offered", None, None)
        channel = await machine.open_channel(ECHO)
        assert await channel.send(b"12345678") == b"12345678"
        entry = await listed(daemon, name)
        assert entry["version"] == version
        assert set(entry["features"]) == (FEATURES_OF_6_0 if version == "6.0" else set())
        assert (entry["state"], entry["bus_state"], entry["channel_id"], entry["connection_id"]) == (
            "open",
            "open",
            1,
            0x2001,
        )
        (gpadl,) = entry["gpadls"]
        assert (gpadl["state"], gpadl["pages"], gpadl["gpadl_id"]) == ("accepted", 34, 0xE1E10)
        await channel.close()
        after = await listed(daemon, name)
        assert (after["state"], after["bus_state"], after["gpadls"]) == ("offered", "closed", [])
        (described,) = await daemon.inspect("machines", name)
        assert described["vmbus_violations"] == {}
        nursery.cancel_scope.cancel()


async def reopened(channel: Channel, offered: OfferedChannel) -> None:
    """Both ends learn that an opening is over."""
    async for _ in channel:
        pytest.fail("nothing was sent")
    while offered.is_open:
        await trio.lowlevel.checkpoint()


async def test_a_channel_id_is_used_again_after_a_rescind(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as process, clients.connect(process.socket_path) as daemon:
        machine = await daemon.machine("vm1")
        for _ in range(3):
            offered = await machine.offer_channel(ECHO)
            channel = await machine.open_channel(ECHO)
            assert (await listed(daemon, "vm1"))["channel_id"] == 1
            await offered.rescind()
            with trio.fail_after(10):
                await reopened(channel, offered)
            assert channel.closed is not None
            assert channel.closed[0] is NtStatus.DEVICE_REMOVED
            assert await daemon.inspect("channels") == []
        (described,) = await daemon.inspect("machines", "vm1")
        assert described["free_bytes"] + 512 * 4096 + 4096 == described["memory_bytes"]
        assert described["vmbus_violations"] == {}


async def test_offers_get_ids_in_the_order_of_their_guids_and_all_can_be_open(tmp_path: Path) -> None:
    instances = [f"00000000-0000-0000-0000-0000000000{number:02x}" for number in (9, 3, 7)]
    async with start_daemon(tmp_path) as process, clients.connect(process.socket_path) as daemon:
        machine = await daemon.machine("vm1")
        for instance in instances:
            await machine.offer_channel(ECHO, instance)
        channels = [await machine.open_channel(ECHO, instance) for instance in instances]
        ids = {entry["instance"]: entry["channel_id"] for entry in await daemon.inspect("channels", "vm1")}
        assert ids == {instances[1]: 1, instances[2]: 2, instances[0]: 3}
        late = "ffffffff-0000-0000-0000-000000000000"
        await machine.offer_channel(ECHO, late)
        assert (await machine.open_channel(ECHO, late)).instance.hex == late.replace("-", "")
        await channels[0].close()
        with pytest.raises(RequestFailed, match="start its host first"):
            await machine.open_channel("00000000-1111-0000-0000-000000000000", wait=False)


async def test_the_largest_rings_one_page_list_can_describe(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as process, clients.connect(process.socket_path) as daemon:
        machine = await daemon.machine("vm1")
        offered = await machine.offer_channel(ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, offered)
            channel = await machine.open_channel(ECHO, send_pages=4094, receive_pages=4094)
            assert await channel.send(b"12345678") == b"12345678"
            assert (await listed(daemon, "vm1"))["gpadls"][0]["pages"] == 8190
            nursery.cancel_scope.cancel()
        with pytest.raises(RequestFailed, match="at most 4094 data pages"):
            await machine.open_channel(ECHO, send_pages=4095)


async def test_vmbusctl_channels_shows_version_features_states_ids_and_gpadls(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as process, clients.connect(process.socket_path) as daemon:
        machine = await daemon.machine("vm1")
        await machine.offer_channel(ECHO)
        await machine.open_channel(ECHO)
        command = [sys.executable, "-m", "clients.cli", "--socket", str(process.socket_path), "channels", "--json"]
        finished = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
        for word in (b'"version": "6.0"', b'"features": [', b'"bus_state": "open"', b'"channel_id": 1', b'"gpadls": ['):
            assert word in finished.stdout

"""The block device of the examples: both guests against its host, in all combinations of hosted and direct."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from clients import RequestFailed, connect
from examples.block_device.programs import try_out
from examples.block_device.protocol import BLOCK_BYTES, MOST_BLOCKS, Operation, Outcome, Request, parse_answer_untrusted
from examples.block_device.vsc import BlockDevice, DiskError
from examples.block_device.vsc_kmcl import KmclDisk
from examples.block_device.vsp import QUOTA, Disk, Vsp
from tests.daemon.raw import served
from tests.support.processes import ROOT, start_daemon, start_process

BLOCKS = 4096
MODES = ["hosted", "direct"]
GUESTS: list[type[BlockDevice] | type[KmclDisk]] = [BlockDevice, KmclDisk]


@asynccontextmanager
async def disk(
    tmp_path: Path, guest: Any = BlockDevice, modes: tuple[str, str] = ("hosted", "hosted"), *, closes: bool = True
) -> AsyncIterator[Any]:
    """A guest with its disk open, and the host that serves it; ``modes`` are the guest's and the host's."""
    async with (
        served(tmp_path) as (_, path),
        connect(path) as one,
        connect(path) as two,
        trio.open_nursery() as nursery,
    ):
        vsp = Vsp(await two.machine("vm1"), Disk(BLOCKS), mode=modes[1])
        await nursery.start(vsp.run)
        device = guest(await one.machine("vm1"), mode=modes[0])
        with trio.fail_after(20):
            await device.open()
            yield device, vsp
            if closes:
                await device.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host_mode", MODES)
@pytest.mark.parametrize("guest_mode", MODES)
@pytest.mark.parametrize("guest", GUESTS)
async def test_what_is_written_is_read_back(tmp_path: Path, guest: Any, guest_mode: str, host_mode: str) -> None:
    async with disk(tmp_path, guest, (guest_mode, host_mode)) as (device, vsp):
        assert device.blocks == BLOCKS
        await try_out(device)
        content = bytes(range(256)) * 2 * MOST_BLOCKS
        await device.write(BLOCKS - MOST_BLOCKS, content)
        assert await device.read(BLOCKS - MOST_BLOCKS, MOST_BLOCKS) == content
        assert 1 < vsp.most_in_hand <= QUOTA


@pytest.mark.parametrize("guest", GUESTS)
async def test_a_request_outside_the_disk_is_refused_and_the_next_is_served(tmp_path: Path, guest: Any) -> None:
    async with disk(tmp_path, guest) as (device, _):
        for first, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (1 << 60, 1)):
            with pytest.raises((DiskError, OSError), match="OUT_OF_RANGE"):
                await device.read(first, blocks)
        assert await device.read(BLOCKS - 1, 1) == bytes(BLOCK_BYTES)


@pytest.mark.parametrize("guest", GUESTS)
async def test_a_disk_can_be_closed_and_another_guest_finds_what_was_written(tmp_path: Path, guest: Any) -> None:
    async with disk(tmp_path, guest, closes=False) as (device, _):
        await device.write(7, b"x" * BLOCK_BYTES)
        await device.close()
        other = BlockDevice(device._machine)
        await other.open()
        assert await other.read(7, 1) == b"x" * BLOCK_BYTES
        await other.close()


async def test_who_has_not_negotiated_gets_nothing(tmp_path: Path) -> None:
    async with disk(tmp_path) as (device, _):
        asked = Request(Operation.NEGOTIATE, 99).pack()
        assert parse_answer_untrusted(await device.channel.send(asked)).outcome is Outcome.UNKNOWN_VERSION
        with pytest.raises(DiskError, match="UNKNOWN_VERSION"):
            await device.read(0, 1)


async def test_a_malformed_request_stops_the_queue_until_the_guest_opens_again(tmp_path: Path) -> None:
    async with disk(tmp_path) as (device, _):
        with trio.move_on_after(0.05) as scope:
            await device.channel.send(b"nonsense")
        assert scope.cancelled_caught
        with trio.move_on_after(0.05) as scope:
            await device.read(0, 1)
        assert scope.cancelled_caught
        await device.channel.disable()
        await device.open()
        assert await device.read(0, 1) == bytes(BLOCK_BYTES)


async def test_a_host_that_goes_is_noticed(tmp_path: Path) -> None:
    async with disk(tmp_path) as (device, vsp), trio.open_nursery() as nursery:
        nursery.start_soon(vsp.channel.disable)

        async def read_on() -> None:
            while True:
                await device.read(0, 1)

        with pytest.raises((RequestFailed, DiskError)):
            await read_on()


@pytest.mark.parametrize("program", ["vsc", "vsc_kmcl"])
async def test_the_programs_run_as_the_readme_says(tmp_path: Path, program: str) -> None:
    async with start_daemon(tmp_path) as daemon:
        python = [sys.executable, "-m"]
        where = ["vm1", "--socket", str(daemon.socket_path)]
        environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [*python, "examples.block_device.vsp", *where, "--blocks", "100", "--mode", "direct"]
        async with start_process(tmp_path, "vsp", command, environment=environment) as host:
            await host.wait_for_line("offering a disk of 100 blocks on vm1, direct")
            command = [*python, f"examples.block_device.{program}", *where]
            async with start_process(tmp_path, "vsc", command, environment=environment) as guest:
                await guest.wait_for_line("a disk of 100 blocks")
                await guest.wait_for_line("64 blocks written and read back")
                assert await guest.process.wait() == 0

"""Machines that come and go while the daemon runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from clients import RequestFailed, connect
from emulator.config import Config, LimitsConfig
from emulator.status import NtStatus
from tests.daemon.raw import open_descriptors, served

ECHO = "5c0e3ab1-6f2d-4c8e-9a57-e0c00c0ffee1"
PATIENCE_SECONDS = 20


async def test_a_machine_made_on_request_is_a_machine_like_any_other(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), connect(path) as host, connect(path) as guest:
        await host.create_machine("scratch", {"memory_bytes": 1 << 20, "segments": {"lan": "10.0.0.77"}})
        assert {entry["machine"] for entry in await host.inspect("machines")} == {"vm1", "vm2", "scratch"}
        offered = await (await host.machine("scratch")).offer_channel(ECHO)
        channel = await (await guest.machine("scratch")).open_channel(ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"12345678")
            await (await anext(offered)).complete()
        sender = await (await host.machine("vm1")).open_address(network="lan")
        there = await (await host.machine("scratch")).open_address(("10.0.0.77", 9000), network="lan")
        await sender.send_datagram(b"hello", ("10.0.0.77", 9000))
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await anext(aiter(there))).data == b"hello"


async def test_a_machine_that_is_removed_leaves_nothing_and_its_clients_hear_why(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path), connect(path) as admin:
        async with connect(path, name="the host") as host, connect(path, name="the guest") as guest:
            await admin.create_machine("scratch", {"memory_bytes": 1 << 20})
            machine = await guest.machine("scratch")
            removed = server.machines["scratch"]
            offered = await (await host.machine("scratch")).offer_channel(ECHO)
            channel = await machine.open_channel(ECHO)
            await machine.open_address(("127.0.0.1", 0))
            with pytest.raises(RequestFailed, match="has 1 open channels; close them, or remove it with force"):
                await admin.remove_machine("scratch")
            await admin.remove_machine("scratch", force=True)
            assert "scratch" not in server.machines
            with pytest.raises(RequestFailed) as gone:
                await channel.send(b"12345678")
            assert gone.value.status is NtStatus.DEVICE_REMOVED
            assert channel.closed is not None
            assert "machine scratch is gone: session 1" in channel.closed[1]
            with pytest.raises(RequestFailed, match="machine scratch is gone"):
                await machine.open_channel(ECHO, wait=False)
            with trio.fail_after(PATIENCE_SECONDS):  # whoever waits for packets hears that none will come
                assert [packet async for packet in offered] == []
            assert not offered.is_open
            with pytest.raises(RequestFailed, match="machine scratch is gone: session 1"):
                await offered.opened()
            # Its name is free at once, for another machine altogether.
            await admin.create_machine("scratch")
            await admin.remove_machine("scratch")
        # Its memory was kept for those who had it, and goes with them.
        with trio.fail_after(PATIENCE_SECONDS):
            while removed.attached_sessions:
                await admin.ping()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(removed.file.descriptor)


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("vm1", {}, "there is a machine 'vm1' already; remove it first"),
        ("no/name", {}, "'no/name' is no name for a machine"),
        ("x", {"memory_bytes": 1, "memroy": 2}, "must be a multiple of 4096, not 1; machines.x.memroy: unknown key"),
        ("x", {"segments": {"wan": "10.0.0.9"}}, "there is no segment 'wan'; defined are: lan"),
        ("x", {"segments": {"lan": "10.0.0.1"}}, "10.0.0.1 already belongs to machine 'vm1'"),
        ("x", {"access": {"guest": ["nobody-at-all"]}}, "this host has no user 'nobody-at-all'"),
        ("x", {"profile": "none"}, "there is no profile 'none'"),
    ],
)
async def test_what_cannot_be_made_is_refused_whole(
    tmp_path: Path, name: str, settings: dict[str, object], complaint: str
) -> None:
    async with served(tmp_path) as (server, path), connect(path) as admin:
        before = open_descriptors()
        with pytest.raises(RequestFailed) as refused:
            await admin.create_machine(name, settings)
        assert complaint in refused.value.message
        assert list(server.machines) == ["vm1", "vm2"]
        assert open_descriptors() == before


async def test_the_number_of_machines_is_bounded(tmp_path: Path) -> None:
    async with served(tmp_path, Config(limits=LimitsConfig(machines=3))) as (_, path), connect(path) as admin:
        await admin.create_machine("third")
        with pytest.raises(RequestFailed, match=r"already has 3 machines; limits.machines allows no more"):
            await admin.create_machine("fourth")
        await admin.remove_machine("third")
        await admin.create_machine("fourth")

"""SIGHUP: the file is read and checked whole, then in force; or everything stays as it was, and the log says why."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from clients import Connection, RequestFailed, connect
from tests.endtoend.programs import ECHO
from tests.endtoend.test_service import Manager, managed
from tests.support.processes import Daemon, run_client, start_daemon

PATIENCE_SECONDS = 30
BASE = """
[segments.lan]
[machines.keep.segments]
lan = "10.0.0.1"
[machines.go.segments]
lan = "10.0.0.2"
"""


def events(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [entry for line in daemon.stderr.splitlines() if (entry := json.loads(line))["event"] == name]


async def reload(daemon: Daemon, config: str, event: str) -> dict[str, Any]:
    """Write the file anew and ask for it; what the log says came of it."""
    before = len(events(daemon, event))
    await trio.Path(daemon.socket_path.with_suffix(".toml")).write_text(config)
    daemon.process.send_signal(signal.SIGHUP)
    with trio.fail_after(PATIENCE_SECONDS):
        while len(found := events(daemon, event)) == before:
            async with connect(daemon.socket_path) as attached:
                await attached.ping()
    return found[-1]


async def machines(attached: Connection) -> list[str]:
    return sorted(entry["machine"] for entry in await attached.inspect("machines"))


async def test_machines_come_and_go_and_what_runs_is_not_touched(tmp_path: Path) -> None:
    async with (
        start_daemon(tmp_path, BASE) as daemon,
        connect(daemon.socket_path) as host,
        connect(daemon.socket_path) as guest,
    ):
        offered = await (await host.machine("keep")).offer_channel(ECHO)
        kept = await (await guest.machine("keep")).open_channel(ECHO)
        await (await host.machine("go")).offer_channel(ECHO)
        lost = await (await guest.machine("go")).open_channel(ECHO)
        await host.create_machine("made-here")
        config = BASE.replace("machines.go.", "machines.come.") + "[limits]\nsessions = 100\n"
        said = await reload(daemon, config, "config.reloaded")
        assert said["after_restart"] == []
        assert said["changed"]["limits.sessions"] == [4096, 100]
        assert said["changed"]["machines.go"][1] is None
        assert await machines(host) == ["come", "keep", "made-here"]
        assert lost.closed is not None
        assert "machine go is gone: it is no longer in the configuration" in lost.closed[1]
        # The new machine has the address of the one that went.
        address = await (await host.machine("come")).open_address(("10.0.0.2", 7), network="lan")
        assert address.local == ("10.0.0.2", 7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.send, b"still on")
            await (await anext(offered)).complete()


@pytest.mark.parametrize(
    ("config", "mistake"),
    [
        ("[machines.keep]\nmemroy_bytes = 1\n", ":2:1: machines.keep.memroy_bytes: unknown key"),
        ("[machines", ":1:10: is not TOML"),
        ('[machines.keep.access]\nguest = ["nobody-at-all"]\n[segments]\n', "this host has no user 'nobody-at-all'"),
    ],
)
async def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path, config: str, mistake: str) -> None:
    async with start_daemon(tmp_path, BASE) as daemon, connect(daemon.socket_path) as attached:
        said = await reload(daemon, config, "config.refused")
        assert mistake in said["mistakes"][0]
        assert await machines(attached) == ["go", "keep"]
        descriptors = daemon.descriptor_count()
        await reload(daemon, config, "config.refused")
        with trio.fail_after(PATIENCE_SECONDS):
            while daemon.descriptor_count() > descriptors:  # of connections that have just ended
                await attached.ping()
        await reload(daemon, BASE, "config.reloaded")


async def test_a_host_port_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        outside = f"127.0.0.1:{taken.getsockname()[1]}"
        ports = f'ports = [{{ inside = "10.0.0.7:1", outside = "{outside}", to = "10.0.0.9:1" }}]'
        config = BASE + f'[machines.new.segments]\nwan = "10.0.0.9"\n[segments.wan.gateway]\n{ports}\n'
        async with start_daemon(tmp_path, BASE) as daemon, connect(daemon.socket_path) as attached:
            said = await reload(daemon, config, "config.refused")
            assert f"the gateway of segment wan cannot have {outside}" in said["mistakes"][0]
            assert await machines(attached) == ["go", "keep"]
            assert [entry["segment"] for entry in await attached.inspect("segments")] == ["lan"]
            taken.close()
            await reload(daemon, config, "config.reloaded")
            assert await machines(attached) == ["go", "keep", "new"]


async def test_what_cannot_change_while_it_is_used_waits_for_a_restart(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, BASE) as daemon, connect(daemon.socket_path) as attached:
        config = BASE + '[machines.keep]\nmemory_bytes = 1048576\n[listen]\nsocket_mode = "0660"\n'
        said = await reload(daemon, config, "config.reloaded")
        assert said["after_restart"] == ["listen.socket_mode", "machines.keep.memory_bytes"]
        (entry,) = await attached.inspect("machines", "keep")
        assert entry["memory_bytes"] == 256 << 20


async def test_segments_change_while_they_are_used(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, BASE) as daemon, connect(daemon.socket_path) as attached:
        said = await reload(daemon, BASE.replace("[segments.lan]", "[segments.lan]\nloss = 1.0"), "config.reloaded")
        assert said["changed"] == {"segments.lan.loss": [0.0, 1.0]}
        (segment,) = await attached.inspect("segments")
        assert segment["loss"] == 1.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_lists_of_who_may_do_what_take_effect_at_once(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, BASE) as daemon, connect(daemon.socket_path) as attached:
        said = await reload(daemon, BASE + "[access]\nadmin = [70001]\n", "config.reloaded")
        assert said["changed"] == {"access.admin": [[], [70001]]}
        await attached.ping()


async def test_without_a_file_there_is_nothing_to_read_again(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        daemon.process.send_signal(signal.SIGHUP)
        with trio.fail_after(PATIENCE_SECONDS):
            while not events(daemon, "config.no_file"):
                await attached.ping()


async def test_the_service_manager_hears_when_it_begins_and_when_it_is_done(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(BASE)
    async with managed(tmp_path, "--config", str(config)) as (daemon, manager):
        await manager.heard("READY=1")
        daemon.process.send_signal(signal.SIGHUP)
        lines = await manager.heard("RELOADING=1")
        assert lines[1].startswith("MONOTONIC_USEC=")
        assert isinstance(manager, Manager)
        await manager.heard("READY=1")


async def test_machines_are_made_and_removed_from_the_command_line(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        settings = ["--set", "memory_bytes=1048576", "--set", 'segments.lan="10.0.0.9"']
        await run_client("clients.cli", "machine", "create", "small", *settings, daemon=daemon)
        (entry,) = await attached.inspect("machines", "small")
        assert entry["memory_bytes"] == 1048576
        refused = await run_client("clients.cli", "machine", "create", "small", daemon=daemon, expect_exit=1)
        assert "there is a machine 'small' already" in refused.stderr
        bare = ["machine", "create", "x", "--set", "profile=strict"]
        odd = await run_client("clients.cli", *bare, daemon=daemon, expect_exit=1)
        assert "text wants quotes" in odd.stderr
        await run_client("clients.cli", "machine", "remove", "small", daemon=daemon)
        with pytest.raises(RequestFailed, match="there is no machine 'small'"):
            await attached.machine("small")

"""vmbusd as a service: what it tells its manager, sockets that were opened for it, and how it stops."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clients import connect
from tests.daemon.raw import RawClient, raw_client, request
from tests.support.processes import ROOT, Running, start_process
from tests.support.tools import require_tool

VMBUSD = (sys.executable, "-m", "emulator")
PATIENCE_SECONDS = 30


class Manager:
    """A service manager's notify socket, owned by the test."""

    def __init__(self, path: Path) -> None:
        self.sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = path

    async def heard(self, wanted: str) -> list[str]:
        """The lines of the next message that has ``wanted`` as one of them, or as the beginning of one."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                lines = (await self.sock.recv(4096)).decode().split("\n")
                if any(line.startswith(wanted) for line in lines):
                    return lines


@asynccontextmanager
async def managed(tmp_path: Path, *args: str, **environment: str) -> AsyncIterator[tuple[Running, Manager]]:
    """A vmbusd with a manager, that says where it listens in ``VMBUS_SOCKET``."""
    manager = Manager(tmp_path / "notify.sock")
    with manager.sock:
        await manager.sock.bind(str(manager.path))
        variables = {"NOTIFY_SOCKET": str(manager.path), "VMBUS_SOCKET": str(tmp_path / "vmbusd.sock"), **environment}
        async with start_process(tmp_path, "vmbusd", [*VMBUSD, *args], environment=variables) as daemon:
            yield daemon, manager


async def test_ready_comes_when_the_socket_listens_then_counts_and_stopping(tmp_path: Path) -> None:
    async with managed(tmp_path, WATCHDOG_USEC="400000") as (daemon, manager):
        assert await manager.heard("READY=1") == ["READY=1", "STATUS=2 machines, 0 clients, 0 open channels"]
        async with connect(tmp_path / "vmbusd.sock") as attached:
            await attached.ping()
            # The heartbeat is no client.
            await manager.heard("STATUS=2 machines, 1 clients, 0 open channels")
        daemon.process.send_signal(signal.SIGTERM)
        await manager.heard("STOPPING=1")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await daemon.process.wait() == 0


async def test_the_watchdog_is_fed_by_answers_of_the_dispatcher(tmp_path: Path) -> None:
    async with managed(tmp_path, WATCHDOG_USEC="200000") as (daemon, manager):
        await manager.heard("READY=1")
        for _ in range(3):
            await manager.heard("WATCHDOG=1")
        # A process that is stopped feeds nobody, and one that goes on does again.
        daemon.process.send_signal(signal.SIGSTOP)
        while await _next_words(manager):
            pass  # what it had said before
        daemon.process.send_signal(signal.SIGCONT)
        await manager.heard("WATCHDOG=1")
    assert "daemon.heartbeat_missed" not in daemon.stderr


async def _next_words(manager: Manager) -> bytes:
    """The next message, or nothing when none comes for five watchdog times."""
    with trio.move_on_after(1.0):
        said: bytes = await manager.sock.recv(4096)
        return said
    return b""


@asynccontextmanager
async def deaf_client(path: Path) -> AsyncIterator[RawClient]:
    """A client that asks and asks, and never reads: its answers stay on their way."""
    async with raw_client(path) as client:
        await client.hello()
        # Far more answers than a socket holds, and far less than ends a session.
        await client.say(request(9, "daemon.inspect", "machines", None, 0) * 1500)
        yield client


async def test_a_drain_is_bounded_and_says_who_held_it(tmp_path: Path) -> None:
    config = tmp_path / "short.toml"
    config.write_text("[limits]\ndrain_seconds = 0.2\n")
    async with managed(tmp_path, "--config", str(config)) as (daemon, manager):
        await manager.heard("READY=1")
        async with deaf_client(tmp_path / "vmbusd.sock"):
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await daemon.process.wait() == 0
    assert "daemon.not_drained" in daemon.stderr
    assert "client 'raw'" in daemon.stderr


async def test_what_waits_for_peers_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    config = tmp_path / "long.toml"
    config.write_text("[limits]\ndrain_seconds = 3600\n")
    async with managed(tmp_path, "--config", str(config)) as (daemon, manager):
        await manager.heard("READY=1")
        async with raw_client(tmp_path / "vmbusd.sock") as client:
            await client.attach()
            await client.call("address.open", 1, "lan", "10.0.0.1", 0, False, 1, 1)
            await client.start("address.receive_datagram", 1, 100, "", 0, 0)
            await client.call("connection.open", 1, "lan", 0)
            await client.call("connection.associate", 2, 1)
            await client.start("connection.listen", 2, 0, "", 0, b"")
            await client.call("ping")
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await daemon.process.wait() == 0


async def test_a_second_signal_leaves_now(tmp_path: Path) -> None:
    config = tmp_path / "long.toml"
    config.write_text("[limits]\ndrain_seconds = 3600\n")
    async with managed(tmp_path, "--config", str(config)) as (daemon, manager):
        await manager.heard("READY=1")
        async with deaf_client(tmp_path / "vmbusd.sock"):
            daemon.process.send_signal(signal.SIGTERM)
            await manager.heard("STOPPING=1")
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await daemon.process.wait() == 128 + signal.SIGTERM
    assert "daemon.forced" in daemon.stderr
    assert not (tmp_path / "vmbusd.sock").exists()


async def test_systemd_opens_the_socket_and_the_first_client_starts_the_daemon(tmp_path: Path) -> None:
    activate = require_tool("systemd-socket-activate", "systemd")
    path = tmp_path / "activated.sock"
    passed = [f"--setenv={name}" for name in os.environ if name in ("PATH", "PYTHONPATH", "HOME")]
    command = [activate, "--listen", str(path), "--fdname", "vmbus", *passed, f"--setenv=PYTHONPATH={ROOT}", *VMBUSD]
    async with start_process(tmp_path, "activate", command, merge_output=True) as daemon:
        await daemon.wait_for_line("Listening on")
        async with connect(path) as attached:  # nobody serves yet: this is what starts it
            (described,) = await attached.inspect("daemon")
            assert described["process"] == daemon.pid
        daemon.process.terminate()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await daemon.process.wait() == 0
        assert path.exists()  # it is the manager's, who listens on


async def test_a_socket_passed_under_another_name_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    activate = require_tool("systemd-socket-activate", "systemd")
    command = [activate, "--listen", str(tmp_path / "a.sock"), "--fdname", "wrong", f"--setenv=PYTHONPATH={ROOT}"]
    async with start_process(tmp_path, "activate", [*command, *VMBUSD], merge_output=True) as daemon:
        await daemon.wait_for_line("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "a.sock"))
            line = await daemon.wait_for_line("vmbusd:")
            assert "under the name 'wrong'" in line
            assert await daemon.process.wait() == 2


@pytest.mark.parametrize("order", ["term", "int"])
async def test_either_signal_stops_a_quiet_daemon(tmp_path: Path, order: str) -> None:
    async with managed(tmp_path) as (daemon, manager):
        await manager.heard("READY=1")
        daemon.process.send_signal(signal.SIGTERM if order == "term" else signal.SIGINT)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await daemon.process.wait() == 0

"""Figures and health over HTTP, as a collector and a probe see them; and a log whose level changes while it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from clients import connect
from emulator.config import Config
from emulator.config_file import ConfigError, load
from tests.endtoend.programs import ECHO
from tests.endtoend.test_service import deaf_client
from tests.support.processes import Daemon, run_client, start_client, start_daemon

PROGRAMS = "tests.endtoend.programs"
PATIENCE_SECONDS = 30


class Page(NamedTuple):
    status: int
    headers: bytes
    body: bytes


async def fetch(place: str, target: str, method: str = "GET") -> Page:
    """One request by a client that knows no more HTTP than this."""
    if place.startswith("unix:"):
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(place.removeprefix("unix:"))
    else:
        host, _, port = place.rpartition(":")
        sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        await sock.connect((host, int(port)))
    received = b""
    with sock, trio.fail_after(PATIENCE_SECONDS):
        await sock.send(f"{method} {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        while portion := await sock.recv(65536):
            received += portion
    headers, _, body = received.partition(b"\r\n\r\n")
    return Page(int(headers.split()[1]), headers, body)


def place_of(daemon: Daemon) -> str:
    """Where it says that its pages are."""
    (line,) = [line for line in daemon.stderr.splitlines() if '"daemon.metrics"' in line]
    place: str = json.loads(line)["place"]
    return place


def figures(page: Page) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    assert page.status == 200
    return {
        (sample.name, *[value for _, value in sorted(sample.labels.items())]): sample.value
        for family in text_string_to_metric_families(page.body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix:{tmp}/metrics.sock"])
async def test_packets_channels_and_latencies_are_there_to_be_scraped(tmp_path: Path, listen: str) -> None:
    config = f'[metrics]\nlisten = "{listen.format(tmp=tmp_path)}"\n'
    async with start_daemon(tmp_path, config) as daemon:
        place = place_of(daemon)
        async with start_client(tmp_path, "host", PROGRAMS, "host", daemon=daemon) as host:
            await host.wait_for_line("offered")
            async with connect(daemon.socket_path) as attached:
                channel = await (await attached.machine("vm1")).open_channel(ECHO)
                for _ in range(25):
                    await channel.send(b"12345678")
                seen = figures(await fetch(place, "/metrics"))
        assert seen["vmbus_channels_open", "vm1"] == 1
        assert seen["vmbus_channels_open", "vm2"] == 0
        assert seen["vmbus_packets_total", "vm1", "host"] == 25
        assert seen["vmbus_packet_bytes_total", "vm1", "host"] == 25 * 24
        assert seen["vmbus_completion_seconds_count", "vm1"] == 25
        assert 0 < seen["vmbus_completion_seconds_sum", "vm1"] < PATIENCE_SECONDS
        assert seen["vmbus_completion_seconds_bucket", "+Inf", "vm1"] == 25
        assert seen["vmbusd_sessions",] == 2
        assert seen["process_open_fds",] > 3
        after = figures(await fetch(place, "/metrics"))
        assert after["vmbus_packets_total", "vm1", "host"] == 25  # counters outlive their channels
    if place.startswith("unix:"):
        assert "metrics.sock" not in os.listdir(tmp_path)


async def test_many_machines_share_one_label_beyond_the_bound(tmp_path: Path) -> None:
    machines = "".join(f"[machines.m{number}]\nmemory_bytes = 1048576\n" for number in range(5))
    config = machines + '[metrics]\nlisten = "127.0.0.1:0"\nmachines = 2\n'
    async with start_daemon(tmp_path, config) as daemon:
        seen = figures(await fetch(place_of(daemon), "/metrics"))
    sizes = {labels[1]: value for labels, value in seen.items() if labels[0] == "vmbus_guest_memory_bytes"}
    assert sizes == {"m0": 1048576, "m1": 1048576, "(others)": 3 * 1048576}


async def test_health_is_an_answer_of_the_dispatcher_and_readiness_ends_with_the_stop(tmp_path: Path) -> None:
    config = '[metrics]\nlisten = "127.0.0.1:0"\n[limits]\ndrain_seconds = 3600\n'
    async with start_daemon(tmp_path, config, expect_exit=None) as daemon:
        place = place_of(daemon)
        assert (await fetch(place, "/healthz"))[::2] == (200, b"ok\n")
        ready = await fetch(place, "/readyz")
        assert (ready.status, ready.body) == (200, b"2 machines, 0 clients, 0 open channels\n")
        async with deaf_client(daemon.socket_path):
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_SECONDS):
                while (page := await fetch(place, "/readyz")).status == 200:
                    pass
            assert (page.status, page.body) == (503, b"stopping\n")
            assert (await fetch(place, "/healthz")).status == 200  # alive, and draining
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.process.wait()


async def test_what_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, '[metrics]\nlisten = "127.0.0.1:0"\n') as daemon:
        place = place_of(daemon)
        missing = await fetch(place, "/")
        assert (missing.status, missing.body) == (404, b"there is: /healthz, /metrics, /readyz\n")
        assert (await fetch(place, "/metrics", "POST")).status == 405
        head = await fetch(place, "/healthz", "HEAD")
        assert (head.status, head.body) == (200, b"")
        # One that says nothing, and one that says nonsense, take nobody else's place.
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port))) as silent, socket.create_connection((host, int(port))) as odd:
            odd.sendall(b"\0" * 64 + b"\r\n\r\n")
            assert odd.recv(64) in (b"",)
            assert silent.fileno() >= 0
            assert (await fetch(place, "/healthz")).status == 200


def test_metrics_are_off_by_default_and_never_leave_the_host(tmp_path: Path) -> None:
    assert Config().metrics.address is None
    path = tmp_path / "open.toml"
    for listen in ("0.0.0.0:9464", "192.0.2.1:80", "localhost:80", "127.0.0.1", "127.0.0.1:http", "unix:relative"):
        path.write_text(f'[metrics]\nlisten = "{listen}"\n')
        with pytest.raises(ConfigError, match="must be a loopback address with a port"):
            load(path)


async def test_a_taken_port_is_told_at_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "taken.toml"
        path.write_text(f'[metrics]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        arguments = ["--config", str(path), "--socket", str(tmp_path / "v.sock")]
        finished = await run_client("emulator", *arguments, expect_exit=2)
    assert "for metrics: Address already in use; choose another metrics.listen" in finished.stderr


async def test_the_log_level_changes_while_the_daemon_runs(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        said = await run_client("clients.cli", "log-level", "error", daemon=daemon)
        assert said.stdout == f"vmbusd at {daemon.socket_path} logs from error upwards; until now from info.\n"
        before = daemon.stderr
        await run_client("clients.cli", "machines", daemon=daemon)
        assert daemon.stderr == before  # sessions come and go unlogged now
        await run_client("clients.cli", "log-level", "info", daemon=daemon)
        await run_client("clients.cli", "machines", daemon=daemon)
        events = [json.loads(line)["event"] for line in daemon.stderr.removeprefix(before).splitlines()]
        assert events[0] == "daemon.log_level"
        assert "session.began" in events
        changes = [json.loads(line) for line in daemon.stderr.splitlines() if "daemon.log_level" in line]
        assert [(each["before"], each["now"]) for each in changes] == [("info", "error"), ("error", "info")]

"""``vmbusctl`` against a daemon, every command a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from clients import connect
from clients.commands.interfaces import ECHO_INTERFACE
from tests.support.processes import (
    ROOT,
    Daemon,
    Finished,
    Running,
    run_client,
    start_client,
    start_daemon,
    start_process,
)

CLI = "clients.cli"
CONFIGURATION = """
[segments.lan]
[machines.vm1]
memory_bytes = 67108864
segments = { lan = "10.0.0.1" }
[machines.vm2]
memory_bytes = 67108864
segments = { lan = "10.0.0.2" }
"""
OTHER = "11111111-2222-3333-4444-555555555555"


async def ctl(daemon: Daemon, *args: str, stdin: bytes = b"", expect_exit: int = 0) -> Finished:
    return await run_client(CLI, *args, daemon=daemon, stdin=stdin, expect_exit=expect_exit)


async def ctl_json(daemon: Daemon, *args: str) -> Any:
    return json.loads((await ctl(daemon, *args, "--json")).stdout)


@asynccontextmanager
async def echo_host(tmp_path: Path, daemon: Daemon, *args: str) -> AsyncIterator[Running]:
    async with start_client(tmp_path, "echo", CLI, "serve-echo", "vm1", *args, daemon=daemon) as host:
        await host.wait_for_line("serving echo on vm1")
        yield host


async def interrupted(process: Running, number: int = signal.SIGINT) -> int:
    process.process.send_signal(number)
    with trio.fail_after(15):
        return await process.process.wait()


async def test_machines_channels_and_version_of_a_fresh_daemon(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, CONFIGURATION) as daemon:
        listing = (await ctl(daemon, "machines")).stdout.splitlines()
        assert listing[0].split() == ["MACHINE", "STATE", "MEMORY", "FREE", "OFFERS", "OPEN", "WAITING", "GUESTS"]
        assert [line.split()[:4] for line in listing[1:]] == [
            [name, "running", "64.0", "MiB"] for name in ("vm1", "vm2")
        ]
        assert [(each["machine"], each["offers"]) for each in await ctl_json(daemon, "machines")] == [
            ("vm1", 0),
            ("vm2", 0),
        ]
        assert "vmbusctl serve-echo vm1" in (await ctl(daemon, "channels")).stdout
        assert await ctl_json(daemon, "channels") == []
        versions = await ctl_json(daemon, "version")
        assert versions["client"] == versions["daemon"]
        assert versions["protocol"] == 1
        assert (await ctl(daemon, "version")).stdout.splitlines() == [
            f"vmbusctl {versions['client']}",
            f"vmbusd   {versions['daemon']} (protocol 1, {versions['ring']} ring) at {daemon.socket_path}",
        ]


async def test_the_socket_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        done = await run_client(CLI, "--socket", str(daemon.socket_path), "machines", "--json")
        assert len(json.loads(done.stdout)) == 2


async def test_send_and_serve_echo_meet_without_naming_an_interface(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon):
        assert (await ctl(daemon, "send", "vm1", "--text", "hello")).stdout.splitlines() == [
            "status:     STATUS_SUCCESS (0x00000000)",
            'completion: 8 B: "hello" and 3 zero bytes of padding',
        ]
        (channel,) = await ctl_json(daemon, "channels", "--machine", "vm1")
        assert channel["interface"] == str(ECHO_INTERFACE)
        assert channel["state"] == "offered"
        assert str(ECHO_INTERFACE) in (await ctl(daemon, "channels")).stdout
        assert await ctl_json(daemon, "channels", "--machine", "vm2") == []


async def test_send_takes_text_hex_file_and_standard_input(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(bytes(range(16)))
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon):
        for args, stdin, completion in (
            (("--text", "12345678"), b"", b"12345678"),
            (("--hex", "00 ff 00 ff 00 ff 00 ff"), b"", bytes.fromhex("00ff") * 4),
            (("--file", str(payload)), b"", bytes(range(16))),
            (("--file", "-"), b"from a pipe, 24 bytes...", b"from a pipe, 24 bytes..."),
            ((), b"", b""),
        ):
            done = await run_client(CLI, "send", "vm1", *args, "--json", daemon=daemon, stdin=stdin)
            document = json.loads(done.stdout)
            assert bytes.fromhex(document["completion_hex"]) == completion
            assert (document["status"], document["status_code"], document["packets"]) == ("STATUS_SUCCESS", 0, 1)


async def test_send_with_a_count_reports_them_together(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon, "--interface", OTHER):
        done = await ctl(daemon, "send", "vm1", "--interface", OTHER, "--text", "again, 8", "--count", "1000")
        assert done.stdout.startswith("1,000 packets sent and completed in ")
        assert done.stdout.endswith('completion: 8 B: "again, 8"\n')
        assert (await ctl_json(daemon, "send", "vm1", "--interface", OTHER, "--count", "40"))["packets"] == 40


async def test_external_data_is_read_by_the_host_whole_or_in_part(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "external"
    path.write_bytes(data)
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon, "--checksum"):
        for options, part in (
            ((), data),
            (("--offset", "5000"), data[5000:]),
            (("--offset", "4095", "--length", "4098"), data[4095:][:4098]),
        ):
            done = await ctl_json(daemon, "send", "vm1", "--text", "header", "--external", str(path), *options)
            assert done["completion_hex"] == hashlib.sha256(part).hexdigest()
        # Without external data, a packet is completed with its own bytes.
        assert (await ctl_json(daemon, "send", "vm1", "--text", "plain..."))["completion_text"] == "plain..."


IMPOSSIBLE: list[tuple[tuple[str, ...], str]] = [
    (
        ("send", "vm1", "--wait", "0.1"),
        f"no host offered {ECHO_INTERFACE} on vm1 within 0.1 s; offer it with: vmbusctl serve-echo vm1",
    ),
    (
        ("send", "vm1", "--interface", OTHER, "--wait", "0.1"),
        f"offer it with: vmbusctl serve-echo vm1 --interface {OTHER}",
    ),
    (("send", "vm9"), "there is no machine 'vm9'; there are: vm1, vm2"),
    (("channels", "--machine", "vm9"), "there is no machine 'vm9'; there are: vm1, vm2"),
    (("send", "vm1", "--file", "/dev/zero"), "at most 524,280 bytes can be sent at once, and /dev/zero is longer"),
    (("send", "vm1", "--external", "/dev/zero"), "at most 67,108,864 bytes can be sent at once"),
    (("datagram", "listen", "vm1", "--network", "wan"), "machine vm1 has no network 'wan'; it has lan, tcp, udp"),
    (("datagram", "listen", "vm1", "--bind", "192.0.2.1:9"), "192.0.2.1 is not an address of this machine on udp"),
    (
        ("datagram", "send", "vm1", "10.0.0.2", "9", "--network", "lan", "--file", "/dev/zero"),
        "at most 65,535 bytes can be sent at once",
    ),
]


async def test_what_cannot_be_done_is_one_line_that_says_what_can(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, CONFIGURATION) as daemon:
        for args, complaint in IMPOSSIBLE:
            done = await ctl(daemon, *args, expect_exit=1)
            assert done.stdout == ""
            assert done.stderr.startswith("vmbusctl: ")
            assert complaint in done.stderr
            assert done.stderr.count("\n") == 1


async def test_refusals_of_the_rules_come_with_their_status(tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(bytes(5000))
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon):
        done = await ctl(daemon, "send", "vm1", "--file", str(payload), "--count", "3", expect_exit=1)
        assert "at most 4096 bytes, not 5000" in done.stderr
        assert done.stderr.startswith("vmbusctl: STATUS_INVALID_PARAMETER_3 (0xC00000F1): ")
        done = await ctl(
            daemon, "send", "vm1", "--external", str(payload), "--offset", "5001", "--length", "1", expect_exit=1
        )
        assert done.stderr.startswith("vmbusctl: STATUS_INVALID_PARAMETER_5 ")


async def test_a_packet_nobody_completes_is_given_up(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        async with await machine.offer_channel(ECHO_INTERFACE):
            done = await ctl(daemon, "send", "vm1", "--timeout", "0.2", expect_exit=1)
            assert "not every packet was completed within 0.2 s" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_ends_a_host_quietly_and_its_offer_is_gone(tmp_path: Path, number: int, code: int) -> None:
    async with start_daemon(tmp_path) as daemon, echo_host(tmp_path, daemon) as host:
        assert len(await ctl_json(daemon, "channels")) == 1
        assert await interrupted(host, number) == code
        assert host.stderr == ""
        assert await ctl_json(daemon, "channels") == []


async def test_ctrl_c_ends_a_send_that_waits(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        async with await machine.offer_channel(ECHO_INTERFACE) as offered:
            async with start_client(tmp_path, "send", CLI, "send", "vm1", "--text", "x", daemon=daemon) as sending:
                with trio.fail_after(15):
                    packet = await anext(offered)
                assert packet.payload == b"x" + bytes(7)
                assert await interrupted(sending) == 130
                assert (sending.stdout, sending.stderr) == ("", "")


async def test_a_daemon_that_goes_away_is_named(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, expect_exit=None) as daemon, echo_host(tmp_path, daemon) as host:
        daemon.kill()
        with trio.fail_after(15):
            assert await host.process.wait() == 1
        assert host.stderr.startswith("vmbusctl: the daemon closed the connection")
        assert host.stderr.count("\n") == 1


async def test_datagrams_between_two_machines_on_a_segment(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        args = ("datagram", "listen", "vm2", "--network", "lan", "--bind", "10.0.0.2:9000", "--count", "2")
        async with start_client(tmp_path, "listen", CLI, *args, daemon=daemon) as listener:
            await listener.wait_for_line("listening on 10.0.0.2:9000 of vm2 (lan)")
            to_vm2 = ("datagram", "send", "vm1", "10.0.0.2", "9000", "--network", "lan")
            done = await ctl(daemon, *to_vm2, "--text", "hello", "--from", "10.0.0.1:7000")
            assert done.stdout == "sent 5 bytes from 10.0.0.1:7000 to 10.0.0.2:9000: STATUS_SUCCESS (0x00000000)\n"
            assert await listener.wait_for_line("bytes from") == '5 bytes from 10.0.0.1:7000: "hello"'
            document = await ctl_json(daemon, *to_vm2)
            assert (document["information"], document["destination"]) == (0, ["10.0.0.2", 9000])
            assert (await listener.wait_for_line("bytes from")).startswith("0 bytes from 10.0.0.1:")
            with trio.fail_after(15):
                assert await listener.process.wait() == 0


async def test_a_listener_tells_json_lines_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        args = ("datagram", "listen", "vm1", "--bind", "127.0.0.1:0", "--json")
        async with start_client(tmp_path, "listen", CLI, *args, daemon=daemon) as listener:
            host, port = json.loads(await listener.wait_for_line("listening"))["listening"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
                outside.bind(("127.0.0.1", 0))
                outside.sendto(b"\xff\x00", (host, port))
                document = json.loads(await listener.wait_for_line("source"))
                source = list(outside.getsockname())
                assert document == {"source": source, "bytes": 2, "hex": "ff00", "text": None}
            assert await interrupted(listener) == 130
            assert listener.stderr == ""


async def test_a_datagram_waits_for_its_reply(tmp_path: Path) -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        await outside.bind(("127.0.0.1", 0))
        host, port = outside.getsockname()

        async def answer() -> None:
            data, source = await outside.recvfrom(100)
            await outside.sendto(data.upper(), source)

        send = ("datagram", "send", "vm1", host, str(port), "--text", "ping")
        async with start_daemon(tmp_path) as daemon:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                lines = (await ctl(daemon, *send, "--wait", "10")).stdout.splitlines()
            assert lines[1] == f'4 bytes from {host}:{port}: "PING"'
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                document = await ctl_json(daemon, *send, "--wait", "10")
            assert document["reply"]["text"] == "PING"
            done = await ctl(daemon, *send, "--wait", "0.1", expect_exit=1)
            assert f"no reply came within 0.1 s; check that a program at {host}:{port} answers" in done.stderr


async def test_text_that_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        command = [sys.executable, "-m", CLI, "datagram", "listen", "vm1", "--bind", "127.0.0.1:0", "--count", "1"]
        environment = {"VMBUS_SOCKET": str(daemon.socket_path), "PYTHONIOENCODING": "ascii"}
        async with start_process(tmp_path, "listen", command, environment=environment) as listener:
            port = (await listener.wait_for_line("listening on 127.0.0.1:")).split(":")[1].split()[0]
            await ctl(daemon, "datagram", "send", "vm2", "127.0.0.1", port, "--text", "häh")
            assert (await listener.wait_for_line("bytes from")).endswith(r': "h\xe4h"')


async def test_ipv6_datagrams_need_no_options(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        args = ("datagram", "listen", "vm1", "--bind", "[::1]:0", "--count", "1")
        async with start_client(tmp_path, "listen", CLI, *args, daemon=daemon) as listener:
            line = await listener.wait_for_line("listening on [::1]:")
            port = line.split("]:")[1].split()[0]
            await ctl(daemon, "datagram", "send", "vm2", "::1", port, "--hex", "00")
            assert (await listener.wait_for_line("bytes from [::1]:")).endswith(": hex 00")


async def _with_stdout(daemon: Daemon, stdout: int, *args: str) -> Finished:
    """Run a command that writes to a file descriptor of ours."""
    done = await trio.run_process(
        [sys.executable, "-m", CLI, *args],
        stdout=stdout,
        capture_stderr=True,
        check=False,
        env={**os.environ, "VMBUS_SOCKET": str(daemon.socket_path), "PYTHONPATH": str(ROOT)},
    )
    return Finished(done.returncode, "", done.stderr.decode())


@pytest.mark.parametrize("args", [("machines",), ("machines", "--json"), ("send", "--help"), ("serve-echo", "vm1")])
async def test_a_reader_that_went_away_ends_a_command_quietly(tmp_path: Path, args: tuple[str, ...]) -> None:
    async with start_daemon(tmp_path) as daemon:
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            assert await _with_stdout(daemon, write_end, *args) == (141, "", "")
        finally:
            os.close(write_end)


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            done = await _with_stdout(daemon, full, "machines")
        finally:
            os.close(full)
        assert done == (1, "", "vmbusctl: No space left on device\n")

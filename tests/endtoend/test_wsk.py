"""The WSK-shaped client over the TDI transport, and the tool that compares the two."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from clients import RequestFailed, connect
from clients.wsk import BACKLOG, WskConnectionSocket, WskProvider, translated
from emulator.status import NtStatus
from tests.support.processes import start_daemon

NEAR, FAR = ("10.0.0.1", 0), ("10.0.0.2", 800)


@pytest.mark.parametrize(
    ("tdi", "reuse", "wsk"),
    [
        (NtStatus.SHARING_VIOLATION, False, NtStatus.ADDRESS_ALREADY_EXISTS),
        (NtStatus.SHARING_VIOLATION, True, NtStatus.ACCESS_DENIED),
        (NtStatus.REMOTE_NOT_LISTENING, False, NtStatus.CONNECTION_REFUSED),
        (NtStatus.IO_TIMEOUT, False, NtStatus.IO_TIMEOUT),
    ],
)
def test_statuses_are_wsks_where_the_two_differ(tdi: NtStatus, reuse: bool, wsk: NtStatus) -> None:
    assert translated(RequestFailed(tdi, "why"), reuse=reuse).status is wsk


async def test_datagrams_between_sockets_of_two_machines(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        near = WskProvider(await attached.machine("vm1"), datagrams="lan", streams="lan").datagram_socket()
        far = WskProvider(await attached.machine("vm2"), datagrams="lan", streams="lan").datagram_socket()
        with pytest.raises(RequestFailed, match="bind the socket first") as unbound:
            await near.send_to(b"x", FAR)
        assert unbound.value.status is NtStatus.INVALID_DEVICE_STATE
        await near.bind(NEAR)
        await far.bind(FAR)
        assert await near.send_to(b"in one piece", FAR) == (NtStatus.SUCCESS, 12)
        assert await far.receive_from() == (b"in one piece", near.local, NtStatus.SUCCESS)
        await near.send_to(b"cut", FAR)
        assert await far.receive_from(2) == (b"cu", near.local, NtStatus.BUFFER_OVERFLOW)
        other = WskProvider(await attached.machine("vm2"), datagrams="lan").datagram_socket()
        for reuse, status in ((False, NtStatus.ADDRESS_ALREADY_EXISTS), (True, NtStatus.ACCESS_DENIED)):
            with pytest.raises(RequestFailed) as taken:
                await other.bind(FAR, reuse=reuse)
            assert taken.value.status is status
        await near.close()
        await far.close()


async def test_connections_wait_for_accept_up_to_the_backlog(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        callers = WskProvider(await attached.machine("vm1"), streams="lan")
        listening = WskProvider(await attached.machine("vm2"), streams="lan").listening_socket()
        await listening.bind(FAR)
        sockets: list[WskConnectionSocket] = []
        for _ in range(BACKLOG + 1):
            caller = callers.connection_socket()
            await caller.bind(NEAR)
            sockets.append(caller)
        for caller in sockets[:BACKLOG]:
            await caller.connect(FAR)
        with pytest.raises(RequestFailed) as full:
            await sockets[BACKLOG].connect(FAR)
        assert full.value.status is NtStatus.INSUFFICIENT_RESOURCES
        accepted = await listening.accept()
        assert accepted.remote == sockets[0].local
        await sockets[BACKLOG].connect(FAR)
        await sockets[0].send(b"first come")
        assert await accepted.receive() == b"first come"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sockets[0].disconnect)
            assert await accepted.receive() == b"", "the end of a stream is no failure"
            await accepted.disconnect()
        await listening.close()
        with pytest.raises(RequestFailed) as reset:
            await sockets[1].receive()
        assert reset.value.status is NtStatus.CONNECTION_RESET


async def test_compare_wsk_says_where_the_two_differ(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        for network in ("lan", "udp"):
            command = [sys.executable, "-m", "clients.cli", "--socket", str(daemon.socket_path)]
            command += ["compare-wsk", "vm1", "--network", network]
            done = await trio.run_process([*command, "--json"], capture_stdout=True)
            found = json.loads(done.stdout)
            outcomes = {step["step"]: (step["tdi"], step["wsk"]) for step in found["steps"]}
            assert all(None not in pair for pair in outcomes.values()), "both ways have every step"
            differ = {name: (tdi["status"], wsk["status"]) for name, (tdi, wsk) in outcomes.items() if tdi != wsk}
            refused = "REMOTE_NOT_LISTENING" if network == "lan" else "CONNECTION_REFUSED"
            expected = {
                "bind a port that is taken": ("SHARING_VIOLATION", "ADDRESS_ALREADY_EXISTS"),
                "bind it with sharing": ("SHARING_VIOLATION", "ACCESS_DENIED"),
                "connect before anybody accepts": (refused, "SUCCESS"),
                "receive after the peer's end": ("REMOTE_DISCONNECT", "SUCCESS"),
            }
            if network == "lan":
                expected["connect where nobody listens"] = (refused, "CONNECTION_REFUSED")
            assert differ == expected
            assert set(found["tdi_order"]) == set(found["wsk_order"])
        plain = await trio.run_process(command, capture_stdout=True)
        assert b"4 of 21 steps differ" in plain.stdout

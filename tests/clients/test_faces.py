"""The two faces of the client library: the same names, and the synchronous one at work against a real daemon."""

from __future__ import annotations

import hashlib
import inspect
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import clients
import clients.sync
from clients.protocol import ConnectionLost, RequestFailed
from emulator.status import NtStatus
from emulator.vmbus.send_rules import SendFlags
from tests.support.processes import start_daemon

ECHO = "8f6b1c0e-2f4b-4a9e-8d6b-3a5d7c9e1f20"
FACES = (
    "Connection",
    "Machine",
    "Channel",
    "OfferedChannel",
    "Packet",
    "DriverChannel",
    "DriverPacket",
    "Address",
    "File",
    "Filter",
    "BusGuest",
    "TdiConnection",
)
# What a face needs for itself: an event loop's reader and writer, or a plain loop's single step.
OWN_TRIO = {"Connection": {"fail", "failure", "read", "write", "drain", "wait_for"}}
OWN_SYNC = {"Connection": {"ask_directly", "wait"}}
ITERATION = {"__aiter__": "__iter__", "__anext__": "__next__", "__aenter__": "__enter__", "__aexit__": "__exit__"}


def public_names(owner: type) -> set[str]:
    """What users of a class can call, its iteration and context methods under their plain names."""
    names = {name for name, _ in inspect.getmembers(owner) if not name.startswith("_")}
    return names | {plain for special, plain in ITERATION.items() if hasattr(owner, special) or hasattr(owner, plain)}


@pytest.mark.parametrize("name", FACES)
def test_both_faces_have_the_same_names(name: str) -> None:
    asynchronous = public_names(getattr(clients, name)) - OWN_TRIO.get(name, set())
    assert asynchronous == public_names(getattr(clients.sync, name)) - OWN_SYNC.get(name, set())


@pytest.mark.parametrize("name", FACES)
def test_both_faces_take_the_same_arguments(name: str) -> None:
    for method in sorted(public_names(getattr(clients.sync, name)) - OWN_SYNC.get(name, set())):
        ours, theirs = getattr(clients.sync, name), getattr(clients, name)
        if method.startswith("_") or not callable(getattr(ours, method)):
            continue
        assert list(inspect.signature(getattr(ours, method)).parameters) == list(
            inspect.signature(getattr(theirs, method)).parameters
        ), method


def serve_one_guest(socket_path: Path, offered: threading.Event) -> None:
    """A host without an event loop: completes with the digest of external data, else with the payload."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        channel = daemon.machine("vm1").offer_channel(ECHO)
        offered.set()
        for packet in channel:
            with pytest.raises(RequestFailed, match="at most 524280 bytes, not 600000"):
                packet.complete(bytes(600_000))
            if packet.payload == b"stop".ljust(8, b"\0"):
                packet.complete()
                return
            data = packet.external_data() if packet.has_external_data else packet.payload
            packet.complete(hashlib.sha256(data).digest() if packet.has_external_data else data)


def use_channel(socket_path: Path) -> None:
    """A guest without an event loop."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        machine = daemon.machine("vm1")
        with machine.open_channel(ECHO) as channel:
            assert channel.send(b"12345678") == b"12345678"
            assert channel.send(b"no completion", flags=0) == b""
            assert channel.post([b"run"] * 1000) == 1000
            with machine.allocate(3 * 1024 * 1024) as data:
                data.write(5, b"payload")
                reply = channel.send_with_external_mdl(b"", data.mdl, offset=4, length=9)
                assert reply == hashlib.sha256(b"\0payload\0").digest()
                assert reply.status is NtStatus.SUCCESS
                with pytest.raises(RequestFailed, match="K10") as refused:
                    channel.send_with_external_mdl(b"", data.mdl, flags=SendFlags.PAGED_BUFFER)
                assert refused.value.status is NtStatus.INVALID_PARAMETER_7
            channel.send(b"stop")


def use_addresses(socket_path: Path) -> None:
    """Datagrams without an event loop."""
    with clients.sync.connect(socket_path, timeout_seconds=30, map_memory=False) as daemon:
        assert [entry["machine"] for entry in daemon.inspect("machines")] == ["vm1", "vm2"]
        daemon.ping()
        with (
            daemon.machine("vm1").open_address(("0.0.0.0", 0), network="lan") as near,
            daemon.machine("vm2").open_address(("10.0.0.2", 700), network="lan") as far,
        ):
            assert near.send_datagram(b"across", ("10.0.0.2", 700)) == (NtStatus.SUCCESS, 6)
            datagram = next(far)
            assert (datagram.data, datagram.source) == (b"across", ("10.0.0.1", near.local[1]))
            assert far.query(9) == (1472).to_bytes(4, "little")


async def in_thread(task: Callable[..., None], *args: object) -> None:
    """Run a blocking program beside the daemon."""
    with trio.fail_after(60):
        await trio.to_thread.run_sync(task, *args, abandon_on_cancel=True)


async def test_a_guest_and_a_host_without_an_event_loop(tmp_path: Path) -> None:
    offered = threading.Event()
    async with start_daemon(tmp_path) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, serve_one_guest, daemon.socket_path, offered)
        await trio.to_thread.run_sync(offered.wait)
        nursery.start_soon(in_thread, use_channel, daemon.socket_path)


async def test_datagrams_without_an_event_loop(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(use_addresses, daemon.socket_path)


def test_no_daemon_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ConnectionLost, match="start one with: vmbusd --socket"),
        clients.sync.connect(tmp_path / "none"),
    ):
        pass


def refuse_and_go_on(socket_path: Path) -> None:
    """Arguments the daemon would refuse unread cost no window: the channel goes on."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        machine = daemon.machine("vm1")
        with machine.open_channel(ECHO) as channel, machine.open_address(("127.0.0.1", 0)) as address:
            for _ in range(300):  # more than the window has packets
                with pytest.raises(RequestFailed, match="'buffer' must be at most 524280 bytes"):
                    channel.send(bytes(600_000))
                with pytest.raises(RequestFailed, match="'data' must be at most 65535 bytes"):
                    address.send_datagram(bytes(65_536), address.local)
            with pytest.raises(RequestFailed, match="'offset' must be an unsigned 64-bit integer"):
                channel.send_with_external_mdl(b"", None, offset=-1)
            with pytest.raises(RequestFailed, match="K3"):
                channel.send(bytes(5000))
            assert address.send_datagram(b"x", address.local).information == 1
            channel.send(b"stop")


async def test_arguments_refused_unread_cost_no_window(tmp_path: Path) -> None:
    offered = threading.Event()
    async with start_daemon(tmp_path) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, serve_one_guest, daemon.socket_path, offered)
        await trio.to_thread.run_sync(offered.wait)
        nursery.start_soon(in_thread, refuse_and_go_on, daemon.socket_path)


def ask_for_the_limit(socket_path: Path) -> None:
    """The three queries the documentation names for the largest datagram agree, on both networks (S9)."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        machine = daemon.machine("vm1")
        for network, most, peer in (("udp", 65507, "127.0.0.1"), ("lan", 1472, "10.0.0.2")):
            provider = machine.query_network(clients.QueryType.PROVIDER_INFO, network=network)
            with machine.open_address(network=network) as address:
                datagrams = address.query(clients.QueryType.DATAGRAM_INFO)
                largest = address.query(clients.QueryType.MAX_DATAGRAM_INFO)
                with pytest.raises(RequestFailed, match="S8"):
                    address.send_datagram(bytes(most + 1), (peer, 9))
            found = [int.from_bytes(data, "little") for data in (provider[12:16], datagrams[:4], largest)]
            assert found == [most] * 3


async def test_s9_the_three_queries_for_the_limit_agree(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(ask_for_the_limit, daemon.socket_path)


def see_a_guest_go(socket_path: Path) -> None:
    """A host can tell why its last opening ended."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        machine = daemon.machine("vm1")
        offered = machine.offer_channel(ECHO)
        before = offered.last_closed
        with machine.open_channel(ECHO):
            offered.opened()
        while offered.is_open:
            daemon.wait()
        assert before is None
        assert offered.last_closed == (NtStatus.CANCELLED, "the guest closed the channel")


async def test_a_host_can_tell_why_its_last_opening_ended(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(see_a_guest_go, daemon.socket_path)


def send_more_than_the_socket_takes(socket_path: Path, pid: int) -> None:
    """A time-out while sending cuts no frame: the connection goes on when the daemon does."""
    with clients.sync.connect(socket_path, timeout_seconds=0.2) as daemon:
        machine = daemon.machine("vm1")
        offered = machine.offer_channel(ECHO)
        channel = machine.open_channel(ECHO, send_pages=1000)
        offered.opened()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                channel.post([bytes(4000)] * 200)
        finally:
            os.kill(pid, signal.SIGCONT)
        daemon.ping()
        assert [next(offered).payload for _ in range(200)] == [bytes(4000)] * 200


async def test_a_time_out_while_sending_cuts_no_frame(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(send_more_than_the_socket_takes, daemon.socket_path, daemon.pid)

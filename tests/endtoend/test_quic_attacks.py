"""Who listens on the way, or has a key that is none any more, and does it over and over: nothing is carried out twice,
nothing piles up, and whoever is let in is served."""

from __future__ import annotations

import socket
from collections import deque
from pathlib import Path

import pytest
import trio

from clients import Connection, ConnectionLost, connect
from emulator.remote.engine import Engine, client_configuration
from emulator.status import NtStatus
from emulator.wire.schema import KEYS_RELOAD
from tests.endtoend.programs import ECHO
from tests.support.path import network_path
from tests.support.remote import RemoteDaemon, start_remote

MIB = 1 << 20
PATIENCE_SECONDS = 20.0
STORM = "connections_per_second = 1000\nhandshakes = 32\nhandshake_seconds = 1"


async def exchange(guest: Connection, host: Connection, count: int) -> list[bytes]:
    """So many packets and their completions, and what the host got."""
    offered = await (await host.machine("vm1")).offer_channel(ECHO)
    channel = await (await guest.machine("vm1")).open_channel(ECHO)
    came: list[bytes] = []

    async def answer() -> None:
        async for packet in offered:
            came.append(packet.payload)
            await packet.complete(packet.payload[::-1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        for number in range(count):
            payload = number.to_bytes(8, "big")
            assert await channel.send(payload) == payload[::-1]
        nursery.cancel_scope.cancel()
    await offered.rescind()
    return came


async def test_packets_that_come_twice_are_carried_out_once(tmp_path: Path) -> None:
    """Requests by the stream, and sends that travel by themselves, each packet of them twice."""
    async with start_remote(tmp_path) as remote, connect(remote.daemon.socket_path) as local:
        async with (
            network_path(remote.where, copies=2) as path,
            connect(path.where, credentials=remote.credentials) as attached,
        ):
            assert await exchange(attached, local, 100) == [number.to_bytes(8, "big") for number in range(100)]
            near = await (await attached.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
            far = await (await local.machine("vm2")).open_address(("10.0.0.2", 0), network="lan")
            for number in range(100):
                assert await near.send_datagram(bytes([number]), far.local) == (NtStatus.SUCCESS, 1)
            await near.send_datagram(b"last", far.local)
            came = [(await anext(aiter(far))).data for _ in range(101)]
            assert came == [*(bytes([number]) for number in range(100)), b"last"]


async def test_a_recording_sent_again_from_elsewhere_changes_nothing(tmp_path: Path) -> None:
    """The whole conversation of a client, handshake and all, played to the daemon by somebody else, twice."""
    async with start_remote(tmp_path) as remote, connect(remote.daemon.socket_path) as local:
        async with network_path(remote.where) as path:
            path.recording = deque(maxlen=100_000)
            async with connect(path.where, credentials=remote.credentials) as attached:
                came = await exchange(attached, local, 100)
                assert len(path.recording) > 100
                (before,) = await attached.inspect("daemon")
                await play(remote, path.recording)
                assert len(await exchange(attached, local, 100)) == len(came) == 100
                (during,) = await attached.inspect("daemon")
                assert {name: during[name] for name in ("quic_clients", "quic_accepted", "sessions")} == {
                    name: before[name] for name in ("quic_clients", "quic_accepted", "sessions")
                }
            await play(remote, path.recording)
            with trio.fail_after(PATIENCE_SECONDS):
                while (after := (await local.inspect("daemon"))[0])["quic_clients"]:
                    await trio.lowlevel.checkpoint()
            assert (after["sessions"], after["quic_handshakes"], after["quic_accepted"]) == (1, 0, 1)


async def play(remote: RemoteDaemon, recording: deque[bytes]) -> None:
    """Send packets to the daemon from a new address; what it answers goes unread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        for data in list(recording):
            elsewhere.sendto(data, remote.address)
            await trio.lowlevel.checkpoint()


async def abandon(remote: RemoteDaemon) -> None:
    """Begin a handshake, prove the address, and say no more."""
    own = remote.keyring.daemon()  # any certificate will do: it does not come so far
    pem = (remote.keyring.directory / "ca.pem").read_bytes()
    engine = Engine(client_configuration(pem, own.certificate, own.key, idle_seconds=5.0, packet_bytes=1200))
    engine.connect(remote.address, trio.current_time())
    outside = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with outside:
        await outside.connect(remote.address)
        for data, _ in engine.packets_to_send(trio.current_time()):
            await outside.send(data)
        with trio.move_on_after(1):
            engine.receive_datagram(await outside.recv(65_536), remote.address, trio.current_time())
        for data, _ in engine.packets_to_send(trio.current_time()):
            await outside.send(data)


async def test_a_storm_of_refused_and_abandoned_handshakes_leaves_nothing(tmp_path: Path) -> None:
    async with start_remote(tmp_path, STORM) as remote:
        former = remote.add("former")
        remote.keyring.revoke("former")
        async with connect(remote.daemon.socket_path) as local:
            await local.request(KEYS_RELOAD)
        async with connect(remote.where, credentials=remote.credentials) as attached:
            turns: list[float] = []

            async def refused() -> None:
                with pytest.raises(ConnectionLost, match="the key 'former' was revoked"):
                    async with connect(remote.where, credentials=former):
                        raise AssertionError("it was let in")

            async def storm(times: int) -> None:
                for _ in range(times):
                    await refused()
                    for _ in range(4):
                        await abandon(remote)
                    began = trio.current_time()
                    await attached.ping()
                    turns.append(trio.current_time() - began)

            await storm(20)
            before = remote.daemon.memory().anonymous_bytes
            await storm(50)
            assert remote.daemon.memory().anonymous_bytes < before + 4 * MIB
            assert sorted(turns)[len(turns) // 2] < 0.5
            with trio.fail_after(PATIENCE_SECONDS):
                while (described := (await attached.inspect("daemon"))[0])["quic_clients"] > 1:
                    await trio.lowlevel.checkpoint()
            assert (described["quic_handshakes"], described["sessions"]) == (0, 1)
            assert described["quic_refused"] >= 70

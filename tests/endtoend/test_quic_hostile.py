"""A daemon whose UDP port anybody can send to: strangers cost it no memory, and its clients little time."""

from __future__ import annotations

import random
import socket
import statistics
from pathlib import Path

import pytest
import trio

from clients import connect
from emulator.remote.engine import CONVERSATION, Engine, client_configuration
from emulator.remote.keyring import Keyring
from emulator.status import NtStatus
from tests.endtoend.programs import ECHO
from tests.support.remote import RemoteDaemon, start_remote

GARBAGE = 100_000
MIB = 1 << 20
# What a client may have to wait in the worst case, on a machine that does other work too.
LONGEST_TURN_SECONDS = 5.0


def garbage(remote: RemoteDaemon) -> list[bytes]:
    """Some of everything: noise, headers that begin well, first packets, and pieces of them."""
    draw = random.Random(8)
    first = first_packet(remote)
    kinds = [draw.randbytes(size) for size in (1, 30, 600, 1200, 1400) for _ in range(20)]
    kinds += [bytes([0xC0 | draw.randrange(64)]) + (1).to_bytes(4, "big") + draw.randbytes(1300) for _ in range(50)]
    kinds += [bytes([0x40 | draw.randrange(64)]) + draw.randbytes(100) for _ in range(50)]
    for _ in range(50):
        spoiled = bytearray(first)
        spoiled[draw.randrange(len(spoiled))] ^= 1 << draw.randrange(8)
        kinds.append(bytes(spoiled))
    kinds += [first[: draw.randrange(len(first))] for _ in range(20)] + [first] * 20
    return kinds


def first_packet(remote: RemoteDaemon) -> bytes:
    return first_packets(remote)[1]


def first_packets(remote: RemoteDaemon) -> tuple[Engine, bytes]:
    keyring = Keyring(remote.keyring.directory)
    own = keyring.daemon()  # any certificate will do: it does not come so far
    pem = (keyring.directory / "ca.pem").read_bytes()
    engine = Engine(client_configuration(pem, own.certificate, own.key, idle_seconds=5.0, packet_bytes=1200))
    engine.connect(remote.address, 0.0)
    ((data, _),) = engine.packets_to_send(0.0)
    return engine, data


async def test_a_flood_of_garbage_takes_no_memory_and_leaves_others_their_turn(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote, connect(remote.where, credentials=remote.credentials) as attached:
        kinds = garbage(remote)
        target = remote.address
        flooding = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with flooding:
            sent = 0

            def flood(count: int) -> None:
                nonlocal sent
                for _ in range(count):
                    flooding.sendto(kinds[sent % len(kinds)], target)
                    sent += 1

            await trio.to_thread.run_sync(flood, 10_000)
            await attached.ping()
            before = remote.daemon.memory().anonymous_bytes
            turns: list[float] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, flood, GARBAGE - 10_000)
                while sent < GARBAGE:
                    began = trio.current_time()
                    await attached.ping()
                    turns.append(trio.current_time() - began)
        assert sent == GARBAGE
        assert remote.daemon.memory().anonymous_bytes < before + 4 * MIB
        assert statistics.median(turns) < 0.5
        assert max(turns) < LONGEST_TURN_SECONDS
        (described,) = await attached.inspect("daemon")
        assert (described["quic_clients"], described["quic_handshakes"], described["sessions"]) == (1, 0, 1)
        assert described["quic_dropped"] > 0


async def test_a_client_that_shows_no_certificate_is_refused(tmp_path: Path) -> None:
    """No library of ours does that; so by hand."""
    async with start_remote(tmp_path) as remote:
        engine, data = first_packets(remote)
        engine.configuration.certificate = engine.configuration.private_key = None
        engine.tls.certificate = engine.tls.certificate_private_key = None
        reason = ""
        outside = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with outside, trio.fail_after(10):
            await outside.connect(remote.address)
            await outside.send(data)
            engine.send_stream_data(CONVERSATION, b"\x94\x00\x01\x01\x93\x01\x01\xa1x")
            while not reason:
                engine.receive_datagram(await outside.recv(65_536), remote.address, trio.current_time())
                if (context := getattr(engine, "tls", None)) is not None:
                    context.certificate = context.certificate_private_key = None
                for packet, _ in engine.packets_to_send(trio.current_time()):
                    await outside.send(packet)
                reason = engine.end[1] if engine.end is not None else ""
        assert "a certificate is needed" in reason
        async with connect(remote.daemon.socket_path) as local:
            (described,) = await local.inspect("daemon")
        assert (described["quic_refused"], described["sessions"]) == (1, 1), "nothing of it reached a session"


async def test_what_a_client_held_is_gone_when_it_leaves(tmp_path: Path) -> None:
    async with start_remote(tmp_path) as remote, connect(remote.daemon.socket_path) as local:
        guest = await local.machine("vm1")
        async with connect(remote.where, credentials=remote.credentials) as attached:
            offered = await (await attached.machine("vm1")).offer_channel(ECHO)
            channel = await guest.open_channel(ECHO)
            await offered.opened()
        with trio.fail_after(10), pytest.raises(StopAsyncIteration):
            await anext(aiter(channel))
        assert channel.closed is not None
        assert channel.closed[0] is NtStatus.DEVICE_REMOVED

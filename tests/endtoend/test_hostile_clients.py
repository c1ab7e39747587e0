"""Clients that break every rule, in every way, against a real daemon: others are served, nothing is left behind."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from clients import Connection, RequestFailed, connect
from emulator.memory import Mdl
from emulator.status import NtStatus
from tests.daemon.mistakes import HELLO, MISTAKES, Mistake
from tests.daemon.raw import GRANT, Answered, RawClient, raw_client, request
from tests.endtoend.programs import ECHO
from tests.endtoend.test_killed import round_trip
from tests.support.processes import Daemon, start_daemon

INTERFACE = bytes(range(16))
PATIENCE_SECONDS = 20.0


async def test_every_mistake_is_answered_with_its_sentence_and_hurts_nobody(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        for mistake in MISTAKES:
            async with raw_client(daemon.socket_path) as client:
                await client.say(mistake.said)
                status, sentence = await client.goodbye()
                assert status is NtStatus.INVALID_PARAMETER
                assert sentence.startswith(mistake.sentence), mistake.name
            await round_trip(daemon)


async def test_silence_before_a_hello_or_in_a_frame_ends_in_time(tmp_path: Path) -> None:
    limits = "[limits]\nhello_seconds = 0.2\nframe_seconds = 0.3\n"
    async with start_daemon(tmp_path, limits) as daemon:
        async with raw_client(daemon.socket_path) as client:
            assert (await client.goodbye())[1] == "no hello came within 0.2 seconds"
        async with raw_client(daemon.socket_path) as client:
            await client.say(HELLO + request(2, "ping")[:4])
            assert (await client.goodbye())[1] == "a frame was left unfinished within 0.3 seconds"
        await round_trip(daemon)


async def test_two_hundred_unasked_descriptors_are_refused_and_closed(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        before = daemon.descriptor_count()
        pipe = os.pipe()
        async with raw_client(daemon.socket_path) as client:
            await client.hello()
            client.pass_descriptors(request(2, "ping"), [pipe[0]] * 200)
            assert (await client.goodbye())[1] == (
                "descriptors were passed that nobody asked for; this protocol takes none"
            )
        for end in pipe:
            os.close(end)
        await descriptors_come_back(daemon, before)
        await round_trip(daemon)


async def test_without_free_descriptors_clients_wait_and_addresses_are_refused(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        machine = await attached.machine("vm1")
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (daemon.descriptor_count() + 1, limits[1]))
        async with raw_client(daemon.socket_path) as last:
            await last.hello()
            with pytest.raises(RequestFailed, match="Too many open files") as refused:
                await machine.open_address(("127.0.0.1", 0))
            assert refused.value.status is NtStatus.INSUFFICIENT_RESOURCES
            async with raw_client(daemon.socket_path) as waiting:
                await waiting.say(HELLO)
                await attached.ping()
                while "listener.no_descriptors" not in daemon.stderr:
                    await attached.ping()
                assert await last.call("ping") == []
                last.close()
                assert (await waiting.answer(1))[0] == 1
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        assert (await machine.open_address(("127.0.0.1", 0))).local[1] > 0


async def test_pages_outside_guest_memory_are_refused(tmp_path: Path) -> None:
    config = "[machines.vm1]\nmemory_bytes = 67108864\n"
    async with (
        start_daemon(tmp_path, config) as daemon,
        connect(daemon.socket_path) as one,
        connect(daemon.socket_path) as two,
    ):
        guest, host = await one.machine("vm1"), await two.machine("vm1")
        await host.offer_channel(ECHO)
        channel = await guest.open_channel(ECHO)
        for pfn in (0x4000, 1 << 40):
            with pytest.raises(RequestFailed) as refused, trio.fail_after(PATIENCE_SECONDS):
                await channel.send_with_external_mdl(b"", Mdl(0, 4096, (pfn,)))
            text = f"page 0x{pfn:X} is outside this machine's memory, which ends before 0x4000"
            assert text in refused.value.message
            assert refused.value.status is NtStatus.INVALID_PARAMETER_4
        with pytest.raises(RequestFailed) as refused:
            await guest.open_channel(ECHO)
        assert refused.value.status is NtStatus.INVALID_DEVICE_STATE
        async with raw_client(daemon.socket_path) as client:
            await client.attach()
            for address, length in ((1 << 26, 1), ((1 << 26) - 1, 2), (2**64 - 1, 1)):
                with pytest.raises(Answered, match="outside this machine's memory of 0x4000000 bytes") as answered:
                    await client.call("memory.read", 1, address, length)
                assert answered.value.status is NtStatus.INVALID_PARAMETER
                with pytest.raises(Answered, match="outside this machine's memory"):
                    await client.call("memory.write", 1, address, bytes(length))
            with pytest.raises(Answered, match="only pages that were allocated here, each once, can be freed"):
                await client.call("memory.free", 1, (1).to_bytes(8, "little"))
        await round_trip(daemon)


async def test_a_client_that_never_reads_is_ended_and_its_reason_logged(tmp_path: Path) -> None:
    limits = "[limits]\noutbox_bytes = 2097152\n"
    async with start_daemon(tmp_path, limits) as daemon, raw_client(daemon.socket_path) as client:
        await client.attach()
        early = daemon.memory().anonymous_bytes
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await client.say(request(9, "memory.read", 1, 4096, 262_144) * 100_000)
        await round_trip(daemon)
        assert daemon.memory().anonymous_bytes < early + (16 << 20)
        with trio.fail_after(PATIENCE_SECONDS):
            while "the client does not read its socket, and its outbox is full" not in daemon.stderr:
                await trio.lowlevel.checkpoint()


async def test_a_flood_of_requests_leaves_room_for_others(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, raw_client(daemon.socket_path) as client:
        await client.attach()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while await client.hear():
                    client.answers.clear()

            async def flood() -> None:
                bad = request(9, "packet.send", "no", "such") + request(10, "machine.attach", "nowhere", False)
                while True:
                    await client.say((bad + request(11, "ping")) * 500)

            nursery.start_soon(read)
            nursery.start_soon(flood)
            for _ in range(3):
                await round_trip(daemon)
            nursery.cancel_scope.cancel()


# ---- two hundred in a row


async def says(client: RawClient, mistake: Mistake) -> None:
    await client.say(mistake.said)
    await client.goodbye()


async def goes_at_once(client: RawClient) -> None:
    """Connected, and gone."""


async def goes_in_a_frame(client: RawClient) -> None:
    await client.say(HELLO + request(2, "machine.attach", "vm1", True)[:-3])


async def passes_descriptors(client: RawClient) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client.pass_descriptors(HELLO, [theirs.fileno()] * 200)
        await client.goodbye()


async def goes_with_its_hands_full(client: RawClient) -> None:
    """It holds all there is to hold, asks for more, and goes without a word."""
    await client.attach()
    await client.start("machine.attach", "vm2", True)
    await client.offer(INTERFACE)
    channel = await client.open(INTERFACE)
    await client.call("memory.allocate", 1, 200)
    await client.call("address.open", 1, "udp", "127.0.0.1", 0, False, *GRANT)
    await client.call("address.open", 1, "lan", "10.0.0.1", 7000, True, *GRANT)
    for _ in range(20):
        await client.start("packet.send", channel, 1, bytes(3000), b"")
        await client.start("address.send_datagram", 2, "10.0.0.1", 7000, bytes(1000))
    for _ in range(3):
        await client.start("channel.open", 1, bytes(16), None, True, 0, 0, *GRANT)
    await client.call("ping")


async def breaks_its_window(client: RawClient) -> None:
    await client.attach()
    await client.offer(INTERFACE, grant=(0, 0))
    channel = await client.open(INTERFACE)
    with suppress(BrokenPipeError, ConnectionResetError):  # it may be told before it has said all
        for _ in range(300):
            await client.start("packet.send", channel, 0, b"x", b"")
    assert "although the window was used up" in (await client.goodbye())[1]


async def collects_descriptors(client: RawClient) -> None:
    await client.hello()
    await client.say(b"".join(request(number, "machine.attach", "vm1", True) for number in range(2, 600)))


async def asks_and_does_not_listen(client: RawClient) -> None:
    await client.attach()
    client.say_until_full(request(9, "daemon.inspect", "machines", None, 0))


HOSTILE: list[Callable[[RawClient], Awaitable[None]]] = [
    goes_at_once,
    goes_in_a_frame,
    passes_descriptors,
    goes_with_its_hands_full,
    breaks_its_window,
    collects_descriptors,
    asks_and_does_not_listen,
]


async def attack(daemon: Daemon, number: int) -> None:
    """The number-th hostile connection."""
    async with raw_client(daemon.socket_path) as client:
        if number % 2:
            await says(client, MISTAKES[number // 2 % len(MISTAKES)])
        else:
            await HOSTILE[number // 2 % len(HOSTILE)](client)


async def descriptors_come_back(daemon: Daemon, count: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while daemon.descriptor_count() != count:
            await trio.lowlevel.checkpoint()


async def held(watcher: Connection) -> dict[str, Any]:
    """What a machine holds, by its listing: without what it counts of all that ever passed."""
    (machine,) = await watcher.inspect("machines", "vm1")
    return {name: value for name, value in machine.items() if not name.startswith(("packets_to_", "bytes_to_"))}


async def test_two_hundred_hostile_connections_leave_nothing_behind(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, None, "--log-level", "error") as daemon:
        async with connect(daemon.socket_path) as watcher:
            # What a machine gets with its first real socket, it keeps.
            await (await (await watcher.machine("vm1")).open_address()).close()
            descriptors = daemon.descriptor_count()
            await round_trip(daemon)
            await descriptors_come_back(daemon, descriptors)
            before = await held(watcher)
            for number in range(100):  # what Python keeps for good, it keeps after these
                await attack(daemon, number)
            await round_trip(daemon)
            await descriptors_come_back(daemon, descriptors)
            early = daemon.memory().anonymous_bytes
            for number in range(200):
                await attack(daemon, number)
            await round_trip(daemon)
            await descriptors_come_back(daemon, descriptors)
            assert daemon.memory().anonymous_bytes < early + (1 << 20)
            assert await held(watcher) == before
            assert await watcher.inspect("channels") == []
        assert daemon.stderr == ""

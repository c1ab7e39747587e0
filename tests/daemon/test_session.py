"""One session: what ends it and what it is told, its time-outs, its bounds; and that others never notice."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from emulator.config import Config, LimitsConfig
from emulator.daemon.server import Server
from emulator.daemon.session import Session
from emulator.daemon.streams import UnixStream
from emulator.status import NtStatus
from tests.daemon.mistakes import HELLO, MISTAKES, Mistake
from tests.daemon.raw import (
    Answered,
    RawClient,
    notification,
    open_descriptors,
    open_sockets,
    raw_client,
    request,
    served,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
async def test_a_mistake_ends_its_session_with_its_sentence_and_no_other(tmp_path: Path, mistake: Mistake) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as bystander, raw_client(path) as client:
        await bystander.hello()
        await client.say(mistake.said)
        status, sentence = await client.goodbye()
        assert status is NtStatus.INVALID_PARAMETER
        assert sentence.startswith(mistake.sentence)
        await bystander.call("ping")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
async def test_a_mistake_is_the_same_mistake_byte_by_byte(tmp_path: Path, mistake: Mistake) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        try:
            for byte in mistake.said:
                await client.say(bytes([byte]))
                await trio.lowlevel.checkpoint()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had heard enough
        assert (await client.goodbye())[1].startswith(mistake.sentence)


# ---- requests that are refused, and nothing more


@pytest.mark.parametrize(
    ("said", "status", "sentence"),
    [
        (("explode",), NtStatus.NOT_IMPLEMENTED, "there is no request 'explode'"),
        (("cancel", 1), NtStatus.NOT_IMPLEMENTED, "there is no request 'cancel'"),
        (("channel.opened", 1, 1, 1, 1), NtStatus.NOT_IMPLEMENTED, "there is no request 'channel.opened'"),
        (("ping", 1), NtStatus.INVALID_PARAMETER, "ping has 1 values where it takes 0 (nothing)"),
        (
            ("machine.attach", 7, False),
            NtStatus.INVALID_PARAMETER,
            "machine.attach: 'name' must be text, not 7",
        ),
        (
            ("machine.attach", "vm1", 1),
            NtStatus.INVALID_PARAMETER,
            "machine.attach: 'map_memory' must be true or false, not 1",
        ),
        (
            ("channel.offer", 1, b"short", None, False, 1, 1),
            NtStatus.INVALID_PARAMETER,
            "channel.offer: 'interface' must be exactly 16 bytes, not 5",
        ),
        (
            ("machine.attach", "nowhere", False),
            NtStatus.OBJECT_NAME_NOT_FOUND,
            "there is no machine 'nowhere'; there are: vm1, vm2",
        ),
        (
            ("memory.allocate", 3, 1),
            NtStatus.INVALID_HANDLE,
            "this session has no machine 3; attach to one first",
        ),
        (
            ("daemon.inspect", "secrets", None, 0),
            NtStatus.INVALID_PARAMETER,
            "there is nothing called 'secrets' to inspect; "
            "try daemon, machines, channels, details, waiting or segments",
        ),
    ],
)
async def test_a_wrong_request_is_refused_and_its_session_goes_on(
    tmp_path: Path, said: tuple[Any, ...], status: NtStatus, sentence: str
) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.hello()
        with pytest.raises(Answered) as caught:
            await client.call(*said)
        assert (caught.value.status, caught.value.message) == (status, sentence)
        await client.call("ping")


async def test_more_unanswered_requests_than_allowed_are_refused(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(outstanding_requests=16))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.attach()
        opens = [await client.start("channel.open", 1, bytes(16), None, True, 0, 0, 1, 1) for _ in range(16)]
        with pytest.raises(Answered, match="more than 16 requests are unanswered") as caught:
            await client.call("ping")
        assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES
        await client.notify("cancel", opens[3])
        with pytest.raises(Answered, match="the open was cancelled before an offer came"):
            await client.answer(opens[3])
        await client.call("ping")


async def test_an_old_request_cannot_end_a_new_one_with_its_msgid() -> None:
    class Waiting:
        def cancel(self) -> None:
            raise AssertionError("nobody cancels it")

    server = Server(Config())
    old, new = Waiting(), Waiting()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session = Session(server, UnixStream(ours, server.config.limits.outbox_bytes), 1)
        session.pending[7] = new
        assert not session.settle(7, old)
        assert session.pending == {7: new}
        assert session.settle(7, new)
        assert session.pending == {}
    for machine in server.machines.values():
        machine.close()


async def test_a_cancel_of_what_was_answered_or_never_was_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.hello()
        await client.notify("cancel", 1)
        await client.notify("cancel", 4_000_000_000)
        await client.call("ping")


# ---- time


async def test_a_client_that_says_no_hello_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        began = trio.current_time()
        assert await client.goodbye() == (NtStatus.INVALID_PARAMETER, "no hello came within 10 seconds")
        assert trio.current_time() - began == pytest.approx(10)


async def test_half_a_hello_does_not_buy_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        began = trio.current_time()
        for byte in HELLO[:7]:
            await client.say(bytes([byte]))
            await trio.sleep(1)
        assert await client.goodbye() == (NtStatus.INVALID_PARAMETER, "no hello came within 10 seconds")
        assert trio.current_time() - began == pytest.approx(10)


async def test_half_a_frame_and_silence_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = Config(limits=LimitsConfig(frame_seconds=3.0))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.hello()
        await trio.sleep(1000)  # silence between frames is nobody's business
        await client.say(request(2, "ping")[:-1])
        began = trio.current_time()
        assert await client.goodbye() == (NtStatus.INVALID_PARAMETER, "a frame was left unfinished within 3 seconds")
        assert trio.current_time() - began == pytest.approx(3)


async def test_half_a_frame_behind_the_hello_has_its_own_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = Config(limits=LimitsConfig(frame_seconds=3.0))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.say(HELLO[:4])
        await trio.sleep(9)
        await client.say(HELLO[4:] + request(2, "ping")[:-1])
        await trio.sleep(2.5)
        await client.say(request(2, "ping")[-1:])
        assert await client.answer(2) == []


async def test_a_frame_that_dribbles_in_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = Config(limits=LimitsConfig(frame_seconds=3.0))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.hello()
        frame = request(2, "machine.attach", "x" * 60, False)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def dribble() -> None:
                for byte in frame:
                    await client.say(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(dribble)
            assert "a frame was left unfinished" in (await client.goodbye())[1]
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(3)


async def test_a_busy_client_whose_last_frame_is_never_whole_lives(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = Config(limits=LimitsConfig(frame_seconds=3.0))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client:
        await client.hello()
        stream = b"".join(request(number, "ping") for number in range(2, 40))
        frame_bytes = len(request(2, "ping"))
        await client.say(stream[:3])
        for at in range(3, len(stream) - frame_bytes, frame_bytes):
            await trio.sleep(1)
            await client.say(stream[at : at + frame_bytes])
            assert await client.answer(2 + at // frame_bytes) == []
        assert trio.current_time() > 30


# ---- descriptors


async def test_descriptors_nobody_asked_for_end_the_session_and_are_closed(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client:
        await client.hello()
        before = open_sockets()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client.pass_descriptors(request(2, "ping"), [theirs.fileno()] * 200)
            assert await client.goodbye() == (
                NtStatus.INVALID_PARAMETER,
                "descriptors were passed that nobody asked for; this protocol takes none",
            )
        client.close()
        assert open_sockets() == before - 2, "both ends of the connection, and nothing of the 200"


async def test_a_client_that_takes_no_answers_cannot_collect_descriptors_in_the_daemon(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client, raw_client(path) as bystander:
        await client.hello()
        before = open_descriptors()
        attaches = b"".join(request(number, "machine.attach", "vm1", True) for number in range(2, 2000))
        await client.say(attaches)
        await bystander.hello()
        await bystander.call("ping")
        assert open_descriptors() == before
        last = await client.answer(1999)
        assert last == [1, Config().machines["vm1"].memory_bytes, 1]
        assert len(client.descriptors) == 1998


# ---- bounds


async def test_a_client_that_does_not_read_is_ended_when_its_outbox_is_full(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = Config(limits=LimitsConfig(outbox_bytes=2 * 1024 * 1024))
    async with served(tmp_path, config) as (_, path), raw_client(path) as client, raw_client(path) as bystander:
        await bystander.hello()
        await client.attach()
        read = request(7, "memory.read", 1, 4096, 262_144)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await client.say(read * 10_000)
        await bystander.call("ping")
    logged = capfd.readouterr()
    assert "the client does not read its socket, and its outbox is full" in logged.out + logged.err


async def test_a_flood_of_requests_is_answered_whole_and_others_get_their_turns(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, path), raw_client(path) as client, raw_client(path) as bystander:
        await client.hello()
        await bystander.hello()
        async with trio.open_nursery() as nursery:
            flood = b"".join(request(number, "ping") for number in range(2, 50_002))
            nursery.start_soon(client.say, flood)
            for _ in range(20):
                await bystander.call("ping")
            for number in range(2, 50_002):
                assert await client.answer(number) == []


async def test_one_client_too_many_is_told_so(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(sessions=1))
    async with served(tmp_path, config) as (_, path), raw_client(path) as first:
        await first.hello()
        async with raw_client(path) as second:
            await second.say(HELLO)
            reason = NtStatus.INSUFFICIENT_RESOURCES, "the daemon already serves 1 clients"
            assert await second.goodbye() == reason
            assert second.answers == {}
        await first.call("ping")
        before = open_sockets()
        first.close()
        while open_sockets() > before - 2:
            await trio.lowlevel.checkpoint()
        async with raw_client(path) as third:
            await third.hello()


async def test_clients_do_not_crowd_out_the_heartbeat_and_it_takes_no_place_from_them(tmp_path: Path) -> None:
    config = Config(limits=LimitsConfig(sessions=1))
    async with served(tmp_path, config) as (server, path), raw_client(path) as only:
        await only.hello()
        assert await server.heartbeat.beat(20)
        await only.call("ping")
        assert server.session_count == 1
        only.close()
        while server.session_count:
            await trio.lowlevel.checkpoint()
        async with raw_client(path) as another:
            await another.hello()
            assert await server.heartbeat.beat(20)
        server.heartbeat.close()


# ---- faults in the daemon itself


async def test_a_fault_in_what_serves_one_client_ends_that_session_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with served(tmp_path) as (server, path), raw_client(path) as client, raw_client(path) as bystander:
        await bystander.attach()
        await client.hello()
        with monkeypatch.context() as patch:
            patch.setattr(server, "find_machine", lambda name, identity: 1 // 0)
            await client.start("machine.attach", "vm1", False)
            assert await client.goodbye() == (NtStatus.UNSUCCESSFUL, "the daemon failed; its log says why")
        await bystander.call("ping")
        async with raw_client(path) as another:
            await another.attach()
    assert "ZeroDivisionError" in "".join(capfd.readouterr())


async def test_what_a_client_said_before_it_went_still_counts(tmp_path: Path) -> None:
    """Its last words are read even when nothing can be written to it any more."""
    async with served(tmp_path) as (_, path), raw_client(path) as host, raw_client(path) as guest:
        await host.attach()
        await guest.attach()
        await host.offer(bytes(16))
        channel = await guest.open(bytes(16))
        await host.notice("channel.opened")
        sends = [await guest.start("packet.send", channel, 1, bytes([n]) * 8, b"") for n in range(3)]
        await host.notice("channel.packets")
        completions = [notification("packet.complete", 1, handle, bytes([handle]) * 8) for handle in (1, 2, 3)]
        # Grants make the daemon write to the host in the same turn; it finds nobody there to read.
        more = [await guest.start("packet.send", channel, 1, b"x" * 8, b"") for _ in range(3)]
        host.sock.send(b"".join(completions))
        host.close()
        assert [await guest.answer(msgid) for msgid in sends] == [[0, bytes([n]) * 8] for n in (1, 2, 3)]
        for msgid in more:
            with pytest.raises(Answered) as caught:
                await guest.answer(msgid)
            assert caught.value.status is NtStatus.DEVICE_REMOVED


async def test_a_session_ends_when_its_client_closes(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, path):
        before = open_sockets()
        clients: list[RawClient] = []
        async with raw_client(path) as watcher:
            await watcher.hello()
            for _ in range(10):
                async with raw_client(path) as client:
                    clients.append(client)
                    await client.attach()
                    await client.call("memory.allocate", 1, 16)
            free = server.machines["vm1"].pages.free_pages
            while free != server.machines["vm1"].memory.page_count - 1:
                await watcher.call("ping")
                free = server.machines["vm1"].pages.free_pages
        assert len(clients) == 10
        while open_sockets() > before:
            await trio.lowlevel.checkpoint()

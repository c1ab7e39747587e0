"""TDI connections between two machines of the daemon's, on a segment, with both client faces."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import clients.sync
from clients import (
    Address,
    Connection,
    HandlerEvent,
    HandlerResult,
    RequestFailed,
    ReturnedRequest,
    TdiConnection,
    TdiEvent,
    connect,
)
from emulator.status import NtStatus
from emulator.tdi.constants import QueryType, ReceiveFlags
from emulator.tdi.constants import SendFlags as TdiSendFlags
from tests.daemon.raw import GRANT, raw_client
from tests.support.processes import start_daemon

THERE = ("10.0.0.2", 700)
STREAM = """
[segments.lan]
connections = "stream"

[machines.vm1.segments]
lan = "10.0.0.1"

[machines.vm2.segments]
lan = "10.0.0.2"
"""


async def pair(attached: Connection) -> tuple[Address, Address]:
    """An address on each of the two machines."""
    near = await (await attached.machine("vm1")).open_address(network="lan")
    far = await (await attached.machine("vm2")).open_address(THERE, network="lan", share=True)
    return near, far


async def both(*tasks: Callable[[], Awaitable[object]]) -> None:
    """Run tasks side by side, each begun when those before it wait: what the first asks for is asked first."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()


async def connected(attached: Connection) -> tuple[TdiConnection, TdiConnection]:
    """A connection between the machines, as both ends have it."""
    near, far = await pair(attached)
    here, there = await near.open_connection(), await far.open_connection()

    async def knock() -> None:
        await here.connect(THERE)

    await both(there.listen, knock)
    return here, there


async def test_records_both_ways_and_a_release(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        here, there = await connected(attached)
        assert here.peer == THERE
        assert there.peer is not None
        assert await here.send(b"question") == (NtStatus.SUCCESS, 8)
        received = await there.receive(4)
        assert (received, received.status) == (b"ques", NtStatus.BUFFER_OVERFLOW)
        assert await there.receive() == b"tion"
        await there.send(b"!", flags=TdiSendFlags.EXPEDITED)
        assert await here.receive(flags=ReceiveFlags.EXPEDITED) == b"!"
        assert len(await here.query(QueryType.CONNECTION_INFO)) == 56

        async def answer() -> None:
            assert [data async for data in there] == []
            await there.send(b"and goodbye")
            await there.disconnect(user_data=b"see you")

        async def release() -> None:
            assert await here.disconnect() == b"see you"

        async def read() -> None:
            assert await here.receive() == b"and goodbye"

        await both(answer, release, read)
        with pytest.raises(RequestFailed) as over:
            await here.send(b"too late")
        assert over.value.status is NtStatus.REMOTE_DISCONNECT


async def test_an_offer_is_looked_at_before_it_is_accepted(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        near, far = await pair(attached)
        there = await far.open_connection()

        async def refuse() -> None:
            assert (await there.listen(query_accept=True)).user_data == b"let me in"
            await there.disconnect(abort=True)

        async def let_in() -> None:
            await there.listen(query_accept=True)
            await there.accept(user_data=b"welcome")

        async def be_refused() -> None:
            with pytest.raises(RequestFailed) as refused:
                await near.connect(THERE, timeout_seconds=30, user_data=b"let me in")
            assert refused.value.status is NtStatus.CONNECTION_REFUSED

        async def come_in() -> None:
            here = await near.open_connection()
            assert (await here.connect(THERE, timeout_seconds=30)).user_data == b"welcome"

        await both(refuse, be_refused)
        await both(let_in, come_in)


async def test_an_offer_nobody_accepts_is_rejected_in_time(tmp_path: Path) -> None:
    """The daemon keeps the deadline of an offer that another machine has brought."""
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        near, far = await pair(attached)
        there = await far.open_connection()

        async def be_refused() -> None:
            with trio.fail_after(20), pytest.raises(RequestFailed) as refused:
                await near.connect(THERE, timeout_seconds=60)
            assert refused.value.status is NtStatus.CONNECTION_REFUSED

        async def listen() -> None:
            await there.listen(query_accept=True)

        await both(listen, be_refused)


async def test_what_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        here, there = await connected(attached)
        with trio.move_on_after(0.05):
            await there.receive()
        await here.send(b"kept")
        assert await there.receive() == b"kept"
        near, far = await pair_again(attached)
        with trio.move_on_after(0.05):
            await far.listen()
        await attached.ping()
        with pytest.raises(RequestFailed) as nobody:
            await near.connect(("10.0.0.2", 701))
        assert nobody.value.status is NtStatus.REMOTE_NOT_LISTENING


async def read_on(connection: TdiConnection) -> None:
    """Read whatever comes."""
    while True:
        await connection.receive()


async def pair_again(attached: Connection) -> tuple[Address, Address]:
    near = await (await attached.machine("vm1")).open_address(network="lan")
    far = await (await attached.machine("vm2")).open_address(("10.0.0.2", 701), network="lan")
    return near, far


async def test_a_client_that_dies_resets_its_connections(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        far = await (await attached.machine("vm2")).open_address(THERE, network="lan")
        there = await far.open_connection()

        async def come_and_go() -> None:
            await attached.ping()  # the listen has been read
            async with connect(daemon.socket_path) as other:
                near = await (await other.machine("vm1")).open_address(network="lan")
                here = await near.connect(THERE)
                await here.send(b"last words")

        await both(there.listen, come_and_go)
        with pytest.raises(RequestFailed) as reset:
            await read_on(there)
        assert reset.value.status is NtStatus.CONNECTION_RESET


async def test_a_megabyte_as_a_stream_past_a_slow_reader(tmp_path: Path) -> None:
    async with start_daemon(tmp_path, STREAM) as daemon, connect(daemon.socket_path) as attached:
        here, there = await connected(attached)
        data = bytes(range(256)) * 4096

        async def send() -> None:
            for at in range(0, len(data), 50_000):
                await here.send(data[at : at + 50_000])
            await here.disconnect()

        async def receive() -> None:
            found = bytearray()
            async for piece in there:
                found += piece
            assert found == data
            await there.disconnect()

        await both(send, receive)


async def test_a_partition_holds_connections_up_until_it_is_over(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        here, there = await connected(attached)
        await attached.change_segment("lan", partition=[["vm1"], ["vm2"]])
        near, _ = await pair_again(attached)
        with pytest.raises(RequestFailed) as late:
            await near.connect(("10.0.0.2", 701), timeout_seconds=0.1)
        assert late.value.status is NtStatus.IO_TIMEOUT

        async def send() -> None:
            await here.send(b"held up")

        async def heal() -> None:
            await attached.change_segment("lan", partition=[])
            assert await there.receive() == b"held up"

        await both(send, heal)


async def test_latency_and_a_partition_reach_what_is_on_its_way_on_a_connection(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        await attached.change_segment("lan", latency_seconds=0.15)
        began = trio.current_time()
        here, there = await connected(attached)
        assert trio.current_time() - began >= 0.3, "a connect takes a round trip"
        began = trio.current_time()
        await here.send(b"ping")
        assert await there.receive() == b"ping"
        await there.send(b"pong")
        assert await here.receive() == b"pong"
        assert trio.current_time() - began >= 0.3
        await here.send(b"stopped on its way")
        await attached.change_segment("lan", partition=[["vm1"], ["vm2"]], latency_seconds=0)
        with trio.move_on_after(0.3):
            await there.receive()
            raise AssertionError("nothing crosses a partition")
        await attached.change_segment("lan", partition=[])
        assert await there.receive() == b"stopped on its way"
        await here.send(b"at once")
        assert await there.receive() == b"at once"


async def test_a_lost_packet_of_a_connection_comes_again(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        here, there = await connected(attached)
        await attached.change_segment("lan", loss=1)
        await here.send(b"in the end")
        await attached.change_segment("lan", loss=0)
        assert await there.receive() == b"in the end"
        (shown,) = await attached.inspect("segments")
        assert (shown["resent"], shown["lost"]) == (1, 0)


async def test_c18_c19_a_connect_handler_answers_with_user_data_and_the_endpoints_own_context(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        near, far = await pair(attached)
        there = await far.open_connection()
        answers = [
            HandlerResult.accept(there.number, b"never seen", context=there.context + 1),
            HandlerResult.accept(there.number, b"welcome", context=there.context),
        ]

        def decide(event: HandlerEvent) -> HandlerResult:
            assert event.data == b"let me in"
            return answers.pop(0)

        await far.set_handler(TdiEvent.CONNECT, decide)
        here = await near.open_connection()
        with pytest.raises(RequestFailed) as refused:
            await here.connect(THERE, timeout_seconds=30, user_data=b"let me in")
        assert refused.value.status is NtStatus.CONNECTION_REFUSED
        assert (await here.connect(THERE, timeout_seconds=30, user_data=b"let me in")).user_data == b"welcome"
        await here.send(b"data")
        assert await there.receive() == b"data"
        with pytest.raises(ValueError, match="at most 4096 bytes"):
            HandlerResult.accept(there.number, bytes(4097))


async def test_handlers_take_a_part_and_hand_over_a_request(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as attached:
        near, far = await pair(attached)
        there = await far.open_connection()
        rest = ReturnedRequest(100)

        async def take(event: HandlerEvent) -> HandlerResult:
            assert (event.connection, event.data) == (there.context, b"a record in two parts")
            return HandlerResult.rest_into(rest, 9, endpoint=there.number)

        await far.set_handler(TdiEvent.RECEIVE, take)
        await far.set_handler(TdiEvent.CONNECT, lambda event: HandlerResult.accept(there.number))
        here = await near.connect(THERE)
        await here.send(b"a record in two parts")
        assert (await far.completed(rest)).data == b"in two parts"
        await far.set_handler(TdiEvent.RECEIVE, None)
        await here.send(b"without a handler")
        assert await there.receive() == b"without a handler"


@pytest.mark.parametrize("event", [TdiEvent.CONNECT, TdiEvent.RECEIVE])
async def test_cl3_a_client_that_dies_in_a_handler_ends_what_hung_on_its_answer(
    tmp_path: Path, event: TdiEvent
) -> None:
    """Its time is far from over: the session's end is what counts."""
    limits = "[limits]\nhandler_seconds = 1000\n"
    async with start_daemon(tmp_path, limits) as daemon, connect(daemon.socket_path) as attached:
        near = await (await attached.machine("vm1")).open_address(network="lan")
        async with raw_client(daemon.socket_path) as dying:
            await dying.attach("vm2")
            await dying.call("address.open", 1, "lan", *THERE, True, *GRANT)
            for each in (TdiEvent.CONNECT, TdiEvent.RECEIVE):
                await dying.call("address.set_event_handler", 1, int(each), 1, 0)
            number, *_ = await dying.call("connection.open", 1, "lan", 7)
            await dying.call("connection.associate", number, 1)
            here = await near.open_connection()

            async def connecting() -> None:
                if event is TdiEvent.RECEIVE:
                    await here.connect(THERE, timeout_seconds=100)
                    await here.send(b"never taken")
                    with pytest.raises(RequestFailed) as reset:
                        await here.receive()
                    assert reset.value.status is NtStatus.CONNECTION_RESET
                else:
                    with pytest.raises(RequestFailed) as refused:
                        await here.connect(THERE, timeout_seconds=100)
                    assert refused.value.status is NtStatus.CONNECTION_REFUSED

            async def die() -> None:
                msgid, _ = await dying.question("address.event")
                if event is TdiEvent.RECEIVE:
                    more = int(NtStatus.MORE_PROCESSING_REQUIRED)
                    await dying.respond(msgid, more, 0, 1, 0, number, 7, b"")
                    _, args = await dying.question("address.event")
                    assert args[1] == TdiEvent.RECEIVE
                dying.close()

            with trio.fail_after(30):
                await both(connecting, die)
        again = await (await attached.machine("vm2")).open_address(THERE, network="lan")
        assert again.local == THERE, "nothing of it is left"


def serve_sync(socket_path: Path, listening: threading.Event) -> None:
    """An echo server without an event loop."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        far = daemon.machine("vm2").open_address(THERE, network="lan")
        listening.set()
        with far.listen() as there:
            for record in there:
                there.send(record[::-1])
            there.disconnect()


def ask_sync(socket_path: Path) -> None:
    """Its client."""
    with clients.sync.connect(socket_path, timeout_seconds=30) as daemon:
        near = daemon.machine("vm1").open_address(network="lan")
        while True:
            try:
                here = near.connect(THERE)
            except RequestFailed as failure:
                if failure.status is not NtStatus.REMOTE_NOT_LISTENING:
                    raise
            else:
                break
        for word in (b"one", b"two", b""):
            here.send(word)
            assert here.receive() == word[::-1]
        here.disconnect()
        here.close()


async def test_without_an_event_loop(tmp_path: Path) -> None:
    listening = threading.Event()
    async with start_daemon(tmp_path) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve_sync, daemon.socket_path, listening)
        await trio.to_thread.run_sync(listening.wait)
        nursery.start_soon(trio.to_thread.run_sync, ask_sync, daemon.socket_path)

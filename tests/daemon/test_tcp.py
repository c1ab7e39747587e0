"""TDI connections over real TCP sockets: with the daemon at both ends, and with peers nobody here wrote."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from clients import (
    Address,
    Connection,
    HandlerEvent,
    HandlerResult,
    RequestFailed,
    TdiConnection,
    TdiEvent,
    connect,
)
from emulator.config import Config, UdpConfig
from emulator.status import NtStatus
from emulator.tdi.constants import QueryType
from emulator.tdi.constants import SendFlags as TdiSendFlags
from tests.daemon.raw import served
from tests.endtoend.test_connections import both, read_on
from tests.support.processes import start_process
from tests.support.tools import TOOLS, require_tool

LOOPBACK = ("127.0.0.1", 0)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@asynccontextmanager
async def on_tcp(tmp_path: Path) -> AsyncIterator[tuple[Connection, Address]]:
    """A daemon, and an address object on its TCP device; the ordinary programs' sockets are closed with it."""
    async with served(tmp_path, Config()) as (_, path), connect(path) as attached:
        machine = await attached.machine("vm1")
        try:
            yield attached, await machine.open_address(LOOPBACK, network="tcp")
        finally:
            while _plain:
                _plain.pop().socket.close()


_plain: list[trio.SocketStream] = []


async def plain(to: tuple[str, int]) -> trio.SocketStream:
    """A connection of an ordinary program."""
    stream = await trio.open_tcp_stream(*to)
    _plain.append(stream)
    return stream


async def accepted(address: Address) -> tuple[TdiConnection, trio.SocketStream]:
    """An ordinary program has connected to an address."""
    streams: list[trio.SocketStream] = []
    endpoint = await address.open_connection()

    async def knock() -> None:
        await address.query(QueryType.ADDRESS_INFO)  # the listen has been read
        streams.append(await plain(address.local))

    await both(endpoint.listen, knock)
    return endpoint, streams[0]


async def test_c8_c13_between_two_machines(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, near):
        far = await (await attached.machine("vm2")).open_address(LOOPBACK, network="tcp")
        here, there = await near.open_connection(), await far.open_connection()

        async def knock() -> None:
            assert (await here.connect(far.local)).address == far.local

        async def listen() -> None:
            assert (await there.listen()).address == near.local

        await both(listen, knock)
        await here.send(b"hello")
        assert await there.receive() == b"hello"

        async def answer() -> None:
            assert [piece async for piece in there] == []
            await there.send(b"goodbye")
            await there.disconnect()

        async def finish() -> None:
            assert await here.receive() == b"goodbye"

        await both(answer, here.disconnect, finish)
        for side in (here, there):
            with pytest.raises(RequestFailed) as over:
                await side.send(b"x")
            assert over.value.status is NtStatus.REMOTE_DISCONNECT


async def test_c9_nobody_listens(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, near):
        with socket.socket() as closed:
            closed.bind(LOOPBACK)
            with pytest.raises(RequestFailed) as refused:
                await near.connect(closed.getsockname())
        assert refused.value.status is NtStatus.CONNECTION_REFUSED
        far = await (await attached.machine("vm2")).open_address(LOOPBACK, network="tcp")
        with pytest.raises(RequestFailed) as quiet:
            await near.connect(far.local)
        assert quiet.value.status is NtStatus.CONNECTION_REFUSED, "an address alone does not listen"


async def test_s22_what_a_machine_may_not_reach_is_refused(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, near):
        with pytest.raises(RequestFailed) as outside:
            await near.connect(("192.0.2.1", 80))
        assert outside.value.status is NtStatus.NETWORK_UNREACHABLE
        machine = await attached.machine("vm1")
        with pytest.raises(RequestFailed) as elsewhere:
            await machine.open_address(("192.0.2.1", 80), network="tcp")
        assert elsewhere.value.status is NtStatus.INVALID_ADDRESS
        with pytest.raises(RequestFailed) as datagram:
            await near.send_datagram(b"x", ("127.0.0.1", 9))
        assert datagram.value.status is NtStatus.INVALID_DEVICE_REQUEST


async def test_c9_c12_an_attempt_ends_by_its_time_out_or_by_being_given_up(tmp_path: Path) -> None:
    """A full queue of the host answers nobody."""
    async with on_tcp(tmp_path) as (attached, near):
        with socket.socket() as busy:
            busy.bind(LOOPBACK)
            busy.listen(0)
            name = busy.getsockname()
            crowd = [socket.socket() for _ in range(4)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(name)
            with pytest.raises(RequestFailed) as late:
                await near.connect(name, timeout_seconds=0.2)
            assert late.value.status is NtStatus.IO_TIMEOUT
            with trio.move_on_after(0.1):
                await near.connect(name, timeout_seconds=60)
            await attached.ping()
            [described] = await attached.inspect("machines", "vm1")
            assert described["tcp_connections"] == 0
            for each in crowd:
                each.close()


async def test_c14_c36_an_offer_is_accepted_or_rejected_with_a_reset(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        endpoint = await address.open_connection()
        for reject in (True, False):
            streams: list[trio.SocketStream] = []

            async def knock(into: list[trio.SocketStream] = streams) -> None:
                into.append(await plain(address.local))

            async def listen() -> None:
                await endpoint.listen(query_accept=True)

            await address.query(QueryType.ADDRESS_INFO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked()
                await address.query(QueryType.ADDRESS_INFO)
                nursery.start_soon(knock)
            if reject:
                await endpoint.disconnect(abort=True)
                with pytest.raises(trio.BrokenResourceError):
                    await streams[0].receive_some()
            else:
                assert (await endpoint.accept()).address == streams[0].socket.getsockname()
                await streams[0].send_all(b"in")
                assert await endpoint.receive() == b"in"
            await streams[0].aclose()


async def test_c16_those_who_come_before_anybody_listens_again_wait(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        first, stream = await accepted(address)
        early = await plain(address.local)
        await early.send_all(b"was here early")
        second = await address.listen()
        assert await second.receive() == b"was here early"
        assert second.peer == early.socket.getsockname()
        for each in (stream, early):
            await each.aclose()
        for connection in (first, second):
            with pytest.raises(RequestFailed) as gone:
                await connection.receive()
            assert gone.value.status is NtStatus.REMOTE_DISCONNECT


async def test_c18_a_connect_handler_decides(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, address):
        endpoint = await address.open_connection()
        answers = [HandlerResult.refuse(), HandlerResult.accept(endpoint.number)]
        seen: list[HandlerEvent] = []

        def decide(event: HandlerEvent) -> HandlerResult:
            seen.append(event)
            return answers.pop(0)

        await address.set_handler(TdiEvent.CONNECT, decide)
        refused = await plain(address.local)
        with pytest.raises(trio.BrokenResourceError):
            await refused.receive_some()
        welcome = await plain(address.local)
        await welcome.send_all(b"hello")
        with trio.fail_after(10):
            while True:
                try:
                    assert await endpoint.receive() == b"hello"
                except RequestFailed as failure:
                    if failure.status is not NtStatus.INVALID_CONNECTION:
                        raise
                    await attached.ping()  # the handler's answer is on its way
                else:
                    break
        assert [event.source for event in seen] == [refused.socket.getsockname(), welcome.socket.getsockname()]


async def test_c29_c30_c37_handlers_hear_of_data_and_of_the_end(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        heard = bytearray()
        over = trio.Event()
        ends: list[int] = []

        async def take(event: HandlerEvent) -> HandlerResult:
            part = min(len(event.data), 7)
            heard.extend(event.data[:part])
            return HandlerResult.success(part)

        def ended(event: HandlerEvent) -> None:
            ends.append(event.flags)
            over.set()

        await address.set_handler(TdiEvent.RECEIVE, take)
        await address.set_handler(TdiEvent.DISCONNECT, ended)
        connection, stream = await accepted(address)
        await stream.send_all(b"seven bytes at a time, whatever comes")
        await stream.send_eof()
        with trio.fail_after(10):
            await over.wait()
        assert heard == b"seven bytes at a time, whatever comes"
        assert ends == [4]
        await connection.send(b"still here")
        await connection.disconnect()
        assert await stream.receive_some() == b"still here"
        assert await stream.receive_some() == b""


async def test_c29_a_full_endpoint_holds_its_peer_back(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, address):
        connection, stream = await accepted(address)
        total = 32 * 1024 * 1024
        sent = 0

        async def pour() -> None:
            nonlocal sent
            block = bytes(1 << 16)
            while sent < total:
                await stream.send_all(block)
                sent += len(block)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            before, quiet = -1, 0
            while quiet < 100:  # until nothing goes in any more, however often the daemon had a turn
                before, quiet = sent, quiet + 1 if sent == before else 0
                await attached.ping()
            assert sent < total, "the peer has to wait for who does not receive"
            received = 0
            async for piece in connection:
                received += len(piece)
        assert received == total


async def test_c23_a_non_blocking_send_and_room_again(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        room = trio.Event()

        def possible(event: HandlerEvent) -> None:
            assert event.available > 0
            room.set()

        await address.set_handler(TdiEvent.SEND_POSSIBLE, possible)
        connection, stream = await accepted(address)
        taken = 0
        while True:
            try:
                taken += (await connection.send(bytes(50_000), flags=TdiSendFlags.NON_BLOCKING)).information
            except RequestFailed as failure:
                full = failure.status
                break
        assert full is NtStatus.DEVICE_NOT_READY
        received = 0
        with trio.fail_after(20):
            while received < taken:
                received += len(await stream.receive_some())
            await room.wait()
        assert received == taken


@pytest.mark.parametrize("ours", [True, False])
async def test_c32_an_abort_is_a_reset(tmp_path: Path, ours: bool) -> None:
    async with on_tcp(tmp_path) as (_, address):
        connection, stream = await accepted(address)
        if ours:
            await connection.disconnect(abort=True)
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        else:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            await stream.aclose()
            with pytest.raises(RequestFailed) as reset:
                await read_on(connection)
            assert reset.value.status is NtStatus.CONNECTION_RESET
        again, other = await accepted(address)
        await other.send_all(b"the port is as it was")
        assert await again.receive() == b"the port is as it was"


async def test_c33_a_reset_behind_the_peers_release_is_noticed(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, address):
        ended: list[int] = []
        await address.set_handler(TdiEvent.DISCONNECT, lambda event: ended.append(event.flags))
        connection, stream = await accepted(address)
        await stream.send_eof()
        with pytest.raises(RequestFailed):
            await connection.receive()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        await stream.aclose()
        with trio.fail_after(10):
            while len(ended) < 2:
                await attached.ping()
        assert ended == [4, 2]


async def test_c35_a_release_the_peer_does_not_answer(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        connection, stream = await accepted(address)
        with pytest.raises(RequestFailed) as late:
            await connection.disconnect(timeout_seconds=0.2)
        assert late.value.status is NtStatus.IO_TIMEOUT
        with pytest.raises(trio.BrokenResourceError):
            await read_all(stream)


async def read_all(stream: trio.SocketStream) -> bytes:
    """Everything up to the end; a reset behind it shows with one more byte sent."""
    found = bytearray()
    while data := await stream.receive_some():
        found += data
    while True:
        await stream.send_all(b"?")


async def test_cr8_ports_are_shared_within_a_machine_only(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (attached, address):
        machine, other = await attached.machine("vm1"), await attached.machine("vm2")
        shared = await machine.open_address(LOOPBACK, network="tcp", share=True)
        await machine.open_address(shared.local, network="tcp", share=True)
        with pytest.raises(RequestFailed) as exclusive:
            await machine.open_address(address.local, network="tcp", share=True)
        assert exclusive.value.status is NtStatus.SHARING_VIOLATION
        await accepted(address)
        with pytest.raises(RequestFailed) as taken:
            await other.open_address(address.local, network="tcp")
        assert taken.value.status is NtStatus.ADDRESS_ALREADY_EXISTS


async def test_an_address_that_listens_can_connect_too(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        _, stream = await accepted(address)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            out = await address.connect(listener.socket.getsockname())
            async with await listener.accept() as incoming:
                assert incoming.socket.getpeername() == address.local
                await out.send(b"from the same port")
                assert await incoming.receive_some() == b"from the same port"
        await stream.aclose()


async def test_a_wildcard_listens_on_every_own_address_and_connects_from_the_right_one(tmp_path: Path) -> None:
    config = Config(udp=UdpConfig(bind=("127.0.0.1", "127.0.0.2", "::1")))
    async with served(tmp_path, config) as (_, path), connect(path) as attached:
        machine = await attached.machine("vm1")
        address = await machine.open_address(("0.0.0.0", 0), network="tcp")
        assert address.local[0] == "0.0.0.0"
        port = address.local[1]
        for host in ("127.0.0.1", "127.0.0.2"):
            endpoint = await address.open_connection()

            async def knock(host: str = host) -> None:
                await address.query(QueryType.ADDRESS_INFO)
                _plain.append(await trio.open_tcp_stream(host, port))

            await both(endpoint.listen, knock)
        other = await machine.open_address(("127.0.0.2", 0), network="tcp")
        there = await other.open_connection()
        seen: list[tuple[str, int]] = []

        async def listen() -> None:
            seen.append((await there.listen()).address)

        async def call() -> None:
            await address.connect(other.local)

        await both(listen, call)
        assert seen == [("127.0.0.1", port)]
        six = await machine.open_address(("::1", 0), network="tcp")
        with pytest.raises(RequestFailed) as family:
            await six.connect(other.local)
        assert family.value.status is NtStatus.INVALID_ADDRESS
        while _plain:
            await _plain.pop().aclose()


@pytest.mark.parametrize("wildcard_first", [True, False])
async def test_cr8_a_wildcard_and_one_of_several_addresses_share_a_port(tmp_path: Path, wildcard_first: bool) -> None:
    config = Config(udp=UdpConfig(bind=("127.0.0.1", "127.0.0.2")))
    async with served(tmp_path, config) as (_, path), connect(path) as attached:
        machine = await attached.machine("vm1")
        hosts = ["0.0.0.0", "127.0.0.2"] if wildcard_first else ["127.0.0.2", "0.0.0.0"]
        first = await machine.open_address((hosts[0], 0), network="tcp", share=True)
        port = first.local[1]
        second = await machine.open_address((hosts[1], port), network="tcp", share=True)
        wild, single = (first, second) if wildcard_first else (second, first)
        heard: list[str] = []

        async def take(name: str, address: Address) -> None:
            await (await address.open_connection()).listen()
            heard.append(name)

        async def knock(host: str, name: str) -> None:
            _plain.append(await trio.open_tcp_stream(host, port))
            while not heard:
                await trio.lowlevel.checkpoint()
            assert heard == [name]
            heard.clear()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, "wild", wild)
            nursery.start_soon(take, "single", single)
            await trio.testing.wait_all_tasks_blocked()
            await knock("127.0.0.2", "single")
            nursery.start_soon(take, "single", single)
            await trio.testing.wait_all_tasks_blocked()
            await knock("127.0.0.1", "wild")
            nursery.cancel_scope.cancel()
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            await single.connect(listener.socket.getsockname())
            async with await listener.accept() as incoming:
                assert incoming.socket.getpeername() == ("127.0.0.2", port), "from its own address"
        await single.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, "wild", wild)
            await trio.testing.wait_all_tasks_blocked()
            await knock("127.0.0.2", "wild")
        single = await machine.open_address(("127.0.0.2", port), network="tcp", share=True)
        await wild.close()
        other = await attached.machine("vm2")
        again = await other.open_address(("127.0.0.1", port), network="tcp")
        with pytest.raises(RequestFailed) as taken:
            await other.open_address(("127.0.0.2", port), network="tcp")
        assert taken.value.status is NtStatus.ADDRESS_ALREADY_EXISTS
        await again.close()
        while _plain:
            await _plain.pop().aclose()


async def test_over_ip_version_6(tmp_path: Path) -> None:
    async with served(tmp_path, Config()) as (_, path), connect(path) as attached:
        near = await (await attached.machine("vm1")).open_address(("::1", 0), network="tcp")
        far = await (await attached.machine("vm2")).open_address(("::", 0), network="tcp")
        there = await far.open_connection()

        async def call() -> None:
            here = await near.connect(("::1", far.local[1]))
            await here.send(b"six")

        await both(there.listen, call)
        assert there.peer == near.local
        assert await there.receive() == b"six"


async def test_c21_c10_what_tcp_has_no_place_for_is_refused(tmp_path: Path) -> None:
    async with on_tcp(tmp_path) as (_, address):
        connection, _ = await accepted(address)
        for flags in (TdiSendFlags.EXPEDITED, TdiSendFlags.AND_DISCONNECT):
            with pytest.raises(RequestFailed) as refused:
                await connection.send(b"!", flags=flags)
            assert refused.value.status is NtStatus.INVALID_PARAMETER
        with pytest.raises(RequestFailed, match="0 bytes of user data") as user_data:
            await address.connect(address.local, user_data=b"x")
        assert user_data.value.status is NtStatus.INVALID_PARAMETER


async def test_socat_connects_to_an_address_and_gets_its_lines_back(tmp_path: Path) -> None:
    program = require_tool("socat", TOOLS["socat"])
    async with on_tcp(tmp_path) as (_, address):
        connection = await address.open_connection()

        async def echo() -> None:
            await connection.listen()
            async for piece in connection:
                await connection.send(piece.upper())
            await connection.disconnect()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            await trio.testing.wait_all_tasks_blocked()
            await address.query(QueryType.ADDRESS_INFO)
            host, port = address.local
            text = b"a line for a stranger\n" * 5_000
            with trio.fail_after(30):
                command = [program, "-t10", "-", f"TCP4:{host}:{port}"]
                done = await trio.run_process(command, stdin=text, capture_stdout=True)
        assert done.stdout == text.upper()


async def test_an_address_connects_to_socat_and_gets_its_bytes_back(tmp_path: Path) -> None:
    program = require_tool("socat", TOOLS["socat"])
    with socket.socket() as free:
        free.bind(LOOPBACK)
        port = free.getsockname()[1]
    async with on_tcp(tmp_path) as (_, address):
        command = [program, "-dd", f"TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr", "EXEC:cat"]
        async with start_process(tmp_path, "socat", command, merge_output=True) as peer:
            await peer.wait_for_line("listening on")
            connection = await address.connect(("127.0.0.1", port))
            data = bytes(range(256)) * 4_096
            received = bytearray()

            async def send() -> None:
                for at in range(0, len(data), 100_000):
                    await connection.send(data[at : at + 100_000])
                await connection.disconnect()

            async def receive() -> None:
                async for piece in connection:
                    received.extend(piece)

            with trio.fail_after(30):
                await both(send, receive)
            assert received == data

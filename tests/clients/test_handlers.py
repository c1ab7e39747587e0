"""Posted receives and event handlers: the client's part as transcripts, and both faces against a real daemon."""

from __future__ import annotations

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
    Received,
    RequestFailed,
    ReturnedRequest,
    TdiEvent,
    connect,
)
from clients.handlers import Function, HandlerCall
from clients.protocol import ConnectionLost
from emulator.status import NtStatus
from emulator.tdi.constants import ReceiveFlags
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.wire.codec import Request, Response, WireError, encode_request
from emulator.wire.schema import (
    ADDRESS_EVENT,
    ADDRESS_REQUEST_COMPLETED,
    ADDRESS_SET_EVENT_HANDLER,
    ADDRESS_TOLD,
)
from tests.clients.test_faces import in_thread
from tests.clients.test_protocol import Daemon
from tests.support.processes import start_daemon

NORMAL, CHAINED, ERROR_EX = TdiEvent.RECEIVE_DATAGRAM, TdiEvent.CHAINED_RECEIVE_DATAGRAM, TdiEvent.ERROR_EX
SOURCE = ("10.0.0.2", 7000)


# ---- transcripts: what the client says


class Transcript(Daemon):
    """A client with an address, whose handlers the test runs in a face's place."""

    def __init__(self) -> None:
        super().__init__()
        self.state = self.address()
        self.heard()

    def set(self, event: int = NORMAL, function: Function = print, status: NtStatus = NtStatus.SUCCESS) -> int:
        """A handler set and the daemon's answer; the number the client gave its function."""
        call = self.protocol.set_handler(self.state, event, function, 5)
        [request] = self.heard()
        assert isinstance(request, Request)
        assert request.method is ADDRESS_SET_EVENT_HANDLER
        self.answer(call, int(status), 0, "")
        number: int = request.args[2]
        return number

    def event(
        self, function: int, data: bytes = b"data", event: int = NORMAL, remote: bool = True
    ) -> tuple[object, ...]:
        source = pack_transport_address(SocketAddress(*SOURCE)) if remote else b""
        return 1, event, function, 5, 0, 0, 0x400, len(data), 0, source, b"", data

    def call_handler(self, function: int, data: bytes = b"data", msgid: int = 9) -> None:
        self.say(encode_request(msgid, ADDRESS_EVENT, *self.event(function, data)))

    def called(self, function: int) -> HandlerCall:
        """The call of a handler that the face would run."""
        self.call_handler(function)
        call = self.protocol.next_handler_call()
        assert call is not None
        return call


def test_a_call_of_a_handler_is_answered_with_what_it_returns() -> None:
    daemon = Transcript()
    number = daemon.set()
    call = daemon.called(number)
    assert call.event == HandlerEvent(NORMAL, 5, 0, NtStatus.SUCCESS, 0x400, 4, 0, SOURCE, b"", b"data")
    assert daemon.heard() == []
    daemon.protocol.handler_returned(call, HandlerResult.success(3))
    assert daemon.heard() == [Response(9, None, [0, 3, 0, 0, 0, None, b""])]
    assert daemon.protocol.next_handler_call() is None


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, [0, 4, 0, 0, 0, None, b""]),
        (HandlerResult.success(), [0, 4, 0, 0, 0, None, b""]),
        (HandlerResult.not_accepted(), [0xC000021B, 0, 0, 0, 0, None, b""]),
        (HandlerResult.keep(), [0x103, 0, 0, 0, 0, None, b""]),
        (HandlerResult.accept(7, b"me", context=5), [0xC0000016, 0, 1, 0, 7, 5, b"me"]),
        (HandlerResult(NtStatus.CONNECTION_REFUSED, 0, None, 7), [0xC0000236, 0, 0, 0, 7, None, b""]),
    ],
)
def test_every_result_has_its_answer(result: HandlerResult | None, said: list[object]) -> None:
    daemon = Transcript()
    call = daemon.called(daemon.set())
    daemon.protocol.handler_returned(call, result)
    assert daemon.heard() == [Response(9, None, said)]


def test_a_returned_request_is_numbered_once_and_ends_once() -> None:
    daemon = Transcript()
    function = daemon.set()
    requests = [ReturnedRequest(100), ReturnedRequest(50)]
    calls = [daemon.called(function), daemon.called(function)]
    for request, call in zip(requests, calls, strict=True):
        daemon.protocol.handler_returned(call, HandlerResult.rest_into(request, 2))
    more = int(NtStatus.MORE_PROCESSING_REQUIRED)
    assert daemon.heard() == [
        Response(9, None, [more, 2, 1, 100, 0, None, b""]),
        Response(9, None, [more, 2, 2, 50, 0, None, b""]),
    ]
    source = pack_transport_address(SocketAddress(*SOURCE))
    for _ in range(2):
        daemon.tell(ADDRESS_REQUEST_COMPLETED, 1, 2, 0x80000005, 2, "", source, 4, b"ta")
    assert [request.done for request in requests] == [False, True]
    assert requests[1].outcome() == Received(b"ta", SOURCE, 4, NtStatus.BUFFER_OVERFLOW)
    with pytest.raises(TypeError, match="once"):
        daemon.protocol.handler_returned(calls[0], HandlerResult.rest_into(requests[1]))
    touched = daemon.protocol.lose(ConnectionLost("gone"))
    assert requests[0] in touched
    with pytest.raises(ConnectionLost):
        requests[0].outcome()


def test_what_is_no_result_is_a_type_error_and_an_exception_is_answered() -> None:
    daemon = Transcript()
    call = daemon.called(daemon.set())
    with pytest.raises(TypeError, match="a handler returns a HandlerResult or None, not 5"):
        daemon.protocol.handler_returned(call, 5)
    daemon.protocol.handler_failed(call, ValueError("it does not work"))
    [answer] = daemon.heard()
    assert answer == Response(9, (int(NtStatus.UNSUCCESSFUL), "the handler raised ValueError: it does not work"), None)


def test_a_told_event_is_not_answered() -> None:
    daemon = Transcript()
    function = daemon.set(ERROR_EX)
    daemon.tell(ADDRESS_TOLD, *daemon.event(function, b"", ERROR_EX, remote=False))
    call = daemon.protocol.next_handler_call()
    assert call is not None
    assert (call.event.event, call.event.source, call.msgid) == (ERROR_EX, None, None)
    daemon.protocol.handler_returned(call, None)
    daemon.protocol.handler_failed(call, ValueError())
    assert daemon.heard() == []


@pytest.mark.parametrize(("event", "status"), [(99, 0), (NORMAL, 0x12345678)])
def test_an_event_that_does_not_exist_ends_the_connection(event: int, status: int) -> None:
    daemon = Transcript()
    function = daemon.set()
    args = list(daemon.event(function, event=event))
    args[5] = status
    with pytest.raises(WireError, match="what does not exist"):
        daemon.say(encode_request(9, ADDRESS_EVENT, *args))


def test_r46_the_old_function_is_called_until_the_daemon_has_answered_that_it_is_replaced() -> None:
    daemon = Transcript()
    first = daemon.set(function=min)
    call = daemon.protocol.set_handler(daemon.state, NORMAL, max, 5)
    daemon.heard()
    daemon.call_handler(first)
    answer = daemon.protocol.next_handler_call()
    assert answer is not None
    assert answer.function is min
    daemon.answer(call, 0, 0, "")
    daemon.call_handler(first, msgid=10)
    assert daemon.protocol.next_handler_call() is None
    assert daemon.heard() == [Response(10, None, [0xC000021B, 0, 0, 0, 0, None, b""])]
    daemon.call_handler(first + 1, msgid=11)
    again = daemon.protocol.next_handler_call()
    assert again is not None
    assert again.function is max


def test_a_refused_handler_leaves_the_one_before_and_a_closed_address_has_none() -> None:
    daemon = Transcript()
    first = daemon.set(function=min)
    refused = daemon.set(function=max, status=NtStatus.INVALID_PARAMETER)
    daemon.call_handler(refused)
    assert daemon.protocol.next_handler_call() is None
    daemon.call_handler(first)
    assert daemon.protocol.next_handler_call() is not None
    daemon.protocol.drop_address(daemon.state)
    daemon.call_handler(first)
    assert daemon.protocol.next_handler_call() is None
    with pytest.raises(RequestFailed):
        daemon.protocol.set_handler(daemon.state, NORMAL, min, 0)


# ---- trio


class Pair:
    """An address of vm1 to receive on and one of vm2 that sends to it."""

    def __init__(self, here: Address, there: Address) -> None:
        self.here = here
        self.there = there

    async def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            await self.there.send_datagram(data, self.here.local)


async def pair(one: Connection, two: Connection) -> Pair:
    here = await (await one.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
    there = await (await two.machine("vm2")).open_address(("10.0.0.2", 0), network="lan")
    return Pair(here, there)


async def test_receives_and_the_stream_of_datagrams_side_by_side(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        lan = await pair(one, two)
        got: list[Received] = []

        async def receive(length: int, source: tuple[str, int] | None) -> None:
            got.append(await lan.here.receive_datagram(length, source=source))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, 3, ("10.0.0.2", 0))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(receive, 100, ("", 1))
            await trio.testing.wait_all_tasks_blocked()
            await one.ping()
            await lan.send(b"taken", b"streamed")
            datagram = await anext(aiter(lan.here))
            assert datagram.data == b"streamed"
            nursery.cancel_scope.cancel()
        assert got == [Received(b"tak", lan.there.local, 0, NtStatus.BUFFER_OVERFLOW)]
        await lan.send(b"after the cancelled one")
        assert (await anext(aiter(lan.here))).data == b"after the cancelled one"
        with pytest.raises(RequestFailed, match="R14"):
            await lan.here.receive_datagram(source=("nobody", 1))


async def test_plain_and_async_handlers_and_what_they_return(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        lan = await pair(one, two)
        seen: list[tuple[str, bytes, int]] = []
        rests: list[ReturnedRequest] = []

        def plain(event: HandlerEvent) -> HandlerResult | None:
            seen.append(("plain", event.data, event.context))
            if event.data == b"no":
                return HandlerResult.not_accepted()
            if event.data.startswith(b"head"):
                rests.append(ReturnedRequest(4))
                return HandlerResult.rest_into(rests[-1], taken=4)
            return None

        async def asynchronous(event: HandlerEvent) -> HandlerResult:
            assert event.source == lan.there.local
            assert event.flags & ReceiveFlags.ENTIRE_MESSAGE
            seen.append(("async", event.data, event.context))
            await lan.here.send_datagram(event.data[::-1], event.source)
            return HandlerResult.success()

        assert (await lan.here.set_handler(NORMAL, plain, context=6)).status is NtStatus.SUCCESS
        await lan.send(b"yes", b"no", b"head and rest")
        with trio.fail_after(20):
            while not rests:
                await lan.here.serve(1)
            assert await lan.here.completed(rests[0]) == Received(b" and", lan.there.local, 0, NtStatus.BUFFER_OVERFLOW)
            await lan.here.set_handler(NORMAL, asynchronous, context=7)
            await lan.send(b"abc", b"def")
            replies = [(await anext(aiter(lan.there))).data for _ in range(2)]
        assert replies == [b"cba", b"fed"]
        assert seen == [
            ("plain", b"yes", 6), ("plain", b"no", 6), ("plain", b"head and rest", 6),
            ("async", b"abc", 7), ("async", b"def", 7),
        ]  # fmt: skip
        await lan.here.set_handler(NORMAL, None)
        await lan.send(b"streamed again")
        assert (await anext(aiter(lan.here))).data == b"streamed again"
        with pytest.raises(RequestFailed, match="R44"):
            await lan.here.set_handler(11, plain)


async def test_chained_data_is_kept_and_returned_late_twice_and_never(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        lan = await pair(one, two)
        kept: list[int] = []

        def keep(event: HandlerEvent) -> HandlerResult:
            kept.append(event.descriptor)
            return HandlerResult.keep()

        await lan.here.set_handler(CHAINED, keep)
        with trio.fail_after(20):
            for data in (b"late", b"twice", b"never"):
                await lan.send(data)
            while len(kept) < 3:
                await lan.here.serve(1)
        await lan.here.return_chained(kept[:2])
        with pytest.raises(RequestFailed, match="R39"):
            await lan.here.return_chained(kept[1:2])
        await lan.here.close()
        await lan.here.return_chained(kept[2:])


async def test_s25b_r50_a_port_that_is_closed_becomes_an_error_event_with_the_peer(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one:
        # No program gets this port by chance, as it could one that was just free.
        closed = ("127.0.0.1", 1)
        address = await (await one.machine("vm1")).open_address(("127.0.0.1", 0))
        seen: list[HandlerEvent] = []
        await address.set_handler(ERROR_EX, seen.append, context=3)
        assert (await address.send_datagram(b"to nobody", closed)).status is NtStatus.SUCCESS
        with trio.fail_after(20):
            while not seen:
                await address.serve(1)
        event = seen[0]
        assert (event.event, event.context, event.status) == (ERROR_EX, 3, NtStatus.PORT_UNREACHABLE)
        assert event.source == closed


async def test_an_exception_in_a_handler_comes_out_of_the_connection(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as two:

        def broken(event: HandlerEvent) -> None:
            raise ValueError(f"not {event.data!r}")

        async def wait_in_vain() -> None:
            async with connect(daemon.socket_path) as one:
                lan = await pair(one, two)
                await lan.here.set_handler(NORMAL, broken)
                await lan.send(b"this")
                await lan.here.serve()

        with trio.fail_after(20), pytest.raises(ValueError, match="not b'this'"):
            await wait_in_vain()
        [machine] = await two.inspect("machines", "vm1")
        assert machine["state"] == "running"


async def test_handlers_of_one_address_run_one_after_the_other_and_of_two_side_by_side(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as one, connect(daemon.socket_path) as two:
        lan = await pair(one, two)
        other = await (await one.machine("vm1")).open_address(("10.0.0.1", 0), network="lan")
        let_go, log = trio.Event(), []

        class Waits:
            """An object whose call is async, as a program may have it."""

            async def __call__(self, event: HandlerEvent) -> None:
                log.append(b"begin " + event.data)
                await let_go.wait()
                log.append(b"end " + event.data)

        def quick(event: HandlerEvent) -> None:
            log.append(event.data)
            let_go.set()

        await lan.here.set_handler(NORMAL, Waits())
        await other.set_handler(NORMAL, quick)
        await lan.send(b"1", b"2")
        await lan.there.send_datagram(b"other", other.local)
        with trio.fail_after(20):
            while b"end 2" not in log:
                await lan.here.serve(1)
        assert log == [b"begin 1", b"other", b"end 1", b"begin 2", b"end 2"]


# ---- without an event loop


def handle_without_a_loop(path: Path) -> None:
    with (
        clients.sync.connect(path, timeout_seconds=20) as one,
        clients.sync.connect(path, timeout_seconds=20) as two,
    ):
        here = one.machine("vm1").open_address(("10.0.0.1", 0), network="lan")
        there = two.machine("vm2").open_address(("10.0.0.2", 0), network="lan")
        seen: list[bytes] = []
        rest = ReturnedRequest(100)

        def handler(event: HandlerEvent) -> HandlerResult | None:
            seen.append(event.data)
            if event.data == b"rest":
                return HandlerResult.rest_into(rest, taken=1)
            if event.data == b"echo":
                assert event.source is not None
                here.send_datagram(b"from within", event.source)
            return None

        here.set_handler(NORMAL, handler)
        for data in (b"one", b"rest", b"echo"):
            there.send_datagram(data, here.local)
        here.serve(3)
        assert seen == [b"one", b"rest", b"echo"]
        assert here.completed(rest).data == b"est"
        assert next(there).data == b"from within"
        kept: list[int] = []

        def keep(event: HandlerEvent) -> HandlerResult:
            kept.append(event.descriptor)
            return HandlerResult.keep()

        here.set_handler(CHAINED, keep)
        there.send_datagram(b"chained", here.local)
        here.serve(1)
        here.return_chained(kept)
        here.set_handler(NORMAL, None)
        here.set_handler(CHAINED, lambda event: 1 // 0)
        there.send_datagram(b"fails", here.local)
        with pytest.raises(ZeroDivisionError):
            here.serve()
        here.set_handler(CHAINED, None)
        there.send_datagram(b"streamed", here.local)
        assert next(here).data == b"streamed"
        with pytest.raises(RequestFailed, match="R14"):
            here.receive_datagram(5, source=("nobody", 1))
        here.close()
        here.serve()


async def test_handlers_without_an_event_loop(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(handle_without_a_loop, daemon.socket_path)


def receive_without_a_loop(path: Path) -> None:
    with clients.sync.connect(path, timeout_seconds=20) as one:
        here = one.machine("vm1").open_address(("127.0.0.1", 0))
        here.set_handler(NORMAL, lambda event: here.send_datagram(b"back", here.local) and None)
        with pytest.raises(TimeoutError):
            with clients.sync.connect(path, timeout_seconds=0.05) as impatient:
                impatient.machine("vm1").open_address(("127.0.0.1", 0)).serve()
        here.set_handler(NORMAL, None)
        here.send_datagram(b"to myself", here.local)
        assert next(here).data == b"to myself"


async def test_a_program_that_waits_in_vain_gets_the_connection_s_time_out(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        await in_thread(receive_without_a_loop, daemon.socket_path)

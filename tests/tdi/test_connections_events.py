"""Event handlers of connections (C16, C18 to C20, C23, C29 to C31, C37), on a segment."""

from __future__ import annotations

import pytest

from emulator.status import NtStatus
from emulator.tdi.connection_requests import Accept, PeerInformation, Receive, build_connection_request
from emulator.tdi.connection_states import State
from emulator.tdi.constants import EventType, ReceiveFlags, SendFlags
from emulator.tdi.irp import Irp
from emulator.tdi.structures import SocketAddress
from tests.tdi.connection_bench import ABORT, RELEASE, Bench

SUCCESS, MORE, REFUSED = NtStatus.SUCCESS, NtStatus.MORE_PROCESSING_REQUIRED, NtStatus.DATA_NOT_ACCEPTED
CONTEXT = int.from_bytes(b"contexts", "little")
NORMAL, EXPEDITED, ENTIRE = ReceiveFlags.NORMAL, ReceiveFlags.EXPEDITED, ReceiveFlags.ENTIRE_MESSAGE
both_modes = pytest.mark.parametrize("stream", [False, True], ids=["records", "stream"])


def handled(bench: Bench, *events: EventType) -> tuple[int, int]:
    """A connection whose far side has handlers for these events."""
    address = bench.far.address(7_000)
    for event in events:
        bench.far.handler(address, event)
    return bench.connected(address)


def accept_on(endpoint: int, user_data: bytes = b"") -> Irp:
    return build_connection_request(endpoint, Accept(PeerInformation(user_data=user_data)))


# The connect handler.


def test_c18_a_connect_handler_accepts_with_an_endpoint_of_its_choice() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.CONNECT)
    there = bench.far.associated(address=address)
    connect = bench.near.connect(bench.near.associated(6_000), bench.there, user_data=b"it is me")
    [ask] = bench.asks
    assert (ask.handler.event, ask.handle) == (EventType.CONNECT, address)
    assert ask.event.remote == SocketAddress(bench.near.port.host, 6_000)
    assert ask.event.data == b"it is me"
    accept = accept_on(there, b"welcome")
    bench.far.answer(MORE, irp=accept, connection=CONTEXT)
    assert bench.ended(accept)[0] is bench.ended(connect)[0] is SUCCESS
    assert bench.returned(connect).user_data == b"welcome"
    bench.far.send(there, b"hello")
    assert bench.far.state(there) is State.CONNECTED


@pytest.mark.parametrize(
    ("answered", "status"),
    [
        (NtStatus.CONNECTION_REFUSED, NtStatus.CONNECTION_REFUSED),
        (NtStatus.INSUFFICIENT_RESOURCES, NtStatus.INSUFFICIENT_RESOURCES),
        (SUCCESS, NtStatus.CONNECTION_REFUSED),
        (MORE, NtStatus.CONNECTION_REFUSED),
        (0x12345678, NtStatus.CONNECTION_REFUSED),
    ],
)
def test_c18_any_other_answer_refuses(answered: int, status: NtStatus) -> None:
    bench = Bench()
    bench.far.handler(bench.far.address(7_000), EventType.CONNECT)
    connect = bench.near.connect(bench.near.associated(), bench.there)
    bench.far.answer(answered)
    assert bench.ended(connect) == (status, "C9")


def test_c18_a_handler_that_does_not_answer_refuses() -> None:
    bench = Bench()
    bench.far.handler(bench.far.address(7_000), EventType.CONNECT)
    connect = bench.near.connect(bench.near.associated(), bench.there, timeout=60)
    bench.pass_time(5.0)
    assert bench.ended(connect)[0] is NtStatus.CONNECTION_REFUSED


def test_c18_an_answer_after_the_caller_gave_up_gives_the_request_back() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.CONNECT)
    there = bench.far.associated(address=address)
    connect = bench.near.connect(bench.near.associated(), bench.there)
    bench.near.cancel(connect)
    accept = accept_on(there)
    bench.far.answer(MORE, irp=accept)
    assert bench.ended(accept)[0] is NtStatus.CANCELLED
    assert bench.far.state(there) is State.ASSOCIATED


def test_c19_the_endpoint_is_the_one_of_the_accept_and_the_context_its_own() -> None:
    for mistake in ("context", "address", "state", "request"):
        bench = Bench()
        address = bench.far.address(7_000)
        bench.far.handler(address, EventType.CONNECT)
        there = bench.far.associated(address=None if mistake == "address" else address)
        if mistake == "state":
            bench.far.listen(there, wanted=SocketAddress("10.77.9.9", 1))
        connect = bench.near.connect(bench.near.associated(), bench.there)
        irp = build_connection_request(there, Receive(4)) if mistake == "request" else accept_on(there)
        bench.far.answer(MORE, irp=irp, connection=1 if mistake == "context" else CONTEXT)
        assert bench.ended(connect)[0] is NtStatus.CONNECTION_REFUSED, mistake
        assert bench.ended(irp)[0] is NtStatus.INVALID_CONNECTION


def test_c16_a_listen_goes_before_the_handler_and_a_filter_may_leave_it_to_it() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.CONNECT)
    listen = bench.far.listen(bench.far.associated(address=address), wanted=SocketAddress(bench.near.port.host, 6_000))
    bench.near.connect(bench.near.associated(6_001), bench.there)
    assert len(bench.asks) == 1
    assert bench.waits(listen)
    bench.near.connect(bench.near.associated(6_000), bench.there)
    assert bench.ended(listen)[0] is SUCCESS
    assert len(bench.asks) == 1


def test_offers_wait_for_a_busy_handler_bounded() -> None:
    bench = Bench(max_offers=2)
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.CONNECT)
    connects = [bench.near.connect(bench.near.associated(), bench.there, timeout=60) for _ in range(5)]
    assert [bench.outcome(irp) is None for irp in connects] == [True, True, True, False, False]
    assert bench.ended(connects[3])[0] is NtStatus.INSUFFICIENT_RESOURCES
    bench.near.cancel(connects[1])
    assert len(bench.asks) == 1
    bench.far.answer(REFUSED)
    listen = bench.far.listen(bench.far.associated(address=address))
    assert len(bench.asks) == 1, "the cancelled one is not asked about"
    bench.far.answer(REFUSED)
    assert {bench.ended(connects[index])[0] for index in (0, 2)} == {NtStatus.CONNECTION_REFUSED}
    assert bench.waits(listen)


# Receive handlers.


@both_modes
def test_c29_posted_receives_go_before_the_chained_handler_before_the_normal_one(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = handled(bench, EventType.RECEIVE, EventType.CHAINED_RECEIVE)
    posted = bench.far.receive(there)
    bench.near.send(here, b"posted")
    assert posted.returned == b"posted"
    assert not bench.asks
    bench.near.send(here, b"chained")
    [ask] = bench.asks
    assert (ask.handler.event, ask.event.data, ask.event.connection) == (EventType.CHAINED_RECEIVE, b"chained", CONTEXT)
    bench.far.answer(SUCCESS)
    bench.far.handler(ask.handle, EventType.CHAINED_RECEIVE, 0)
    bench.near.send(here, b"normal")
    assert bench.asks[0].handler.event is EventType.RECEIVE


def test_c29_a_chained_tsdu_is_lent_until_it_is_returned() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.CHAINED_RECEIVE)
    bench.near.send(here, b"kept")
    descriptor = bench.asks[0].event.descriptor
    bench.far.answer(NtStatus.PENDING)
    assert bench.far.transport.loans.byte_count == 4
    bench.far.transport.return_chained([descriptor])
    assert bench.far.transport.loans.byte_count == 0
    bench.near.send(here, b"refused")
    bench.far.answer(REFUSED)
    assert len(bench.far.transport.loans) == 0
    assert not bench.asks


def test_c29_r40_with_nothing_left_to_lend_the_normal_handler_is_called() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.CHAINED_RECEIVE, EventType.RECEIVE)
    for number in range(64):
        bench.near.send(here, b"%d" % number)
        assert bench.asks[0].handler.event is EventType.CHAINED_RECEIVE
        bench.far.answer(NtStatus.PENDING)
    bench.near.send(here, b"one too many")
    assert (bench.asks[0].handler.event, bench.asks[0].event.data) == (EventType.RECEIVE, b"one too many")


def test_c29_data_that_wait_for_something_to_lend_are_indicated_when_it_is_returned() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.CHAINED_RECEIVE)
    descriptors = []
    for _ in range(64):
        bench.near.send(here, b"kept")
        descriptors.append(bench.asks[0].event.descriptor)
        bench.far.answer(NtStatus.PENDING)
    bench.near.send(here, b"waits")
    assert not bench.asks
    bench.far.transport.return_chained(descriptors[:1])
    bench.perform(bench.far.transport.connections.endpoints.events.loans_returned(bench.now))
    assert bench.asks[0].event.data == b"waits"


@both_modes
def test_c29_after_a_refusal_no_handler_is_called_until_a_receive_is_posted(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"first")
    bench.far.answer(REFUSED)
    bench.near.send(here, b"second")
    assert not bench.asks
    assert bench.far.got(there, 5) == (b"first", SUCCESS)
    assert bench.asks[0].event.data == b"second"


@both_modes
def test_c29_back_pressure_reaches_the_sender(stream: bool) -> None:
    bench = Bench(stream=stream, receive_buffer_bytes=8)
    here, there = handled(bench, EventType.RECEIVE)
    sends = [bench.near.send(here, b"12345678") for _ in range(2)]
    assert not bench.waits(sends[0])
    assert bench.waits(sends[1])
    bench.far.answer(REFUSED)
    assert bench.waits(sends[1])
    assert bench.far.got(there, 8)[0] == b"12345678"
    assert bench.ended(sends[1])[0] is SUCCESS


@both_modes
def test_c30_taking_everything_goes_on(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, _ = handled(bench, EventType.RECEIVE)
    for number in range(4):
        data = b"%d" % number * 3
        bench.near.send(here, data)
        [ask] = bench.asks
        assert (ask.event.data, ask.event.available) == (data, 3)
        assert bool(ask.event.flags & ENTIRE) is not stream
        assert ask.event.flags & NORMAL
        bench.far.answer(SUCCESS, 3)


def test_c30_what_is_left_of_a_stream_is_indicated_again_if_anything_was_taken() -> None:
    bench = Bench(stream=True)
    here, there = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"abcdef")
    bench.far.answer(SUCCESS, 2)
    assert bench.asks[0].event.data == b"cdef"
    bench.far.answer(SUCCESS, 0)
    assert not bench.asks
    assert bench.far.got(there) == (b"cdef", SUCCESS)


def test_c30_the_other_choice_holds_the_rest_and_so_do_records() -> None:
    for settings in ({"stream": True, "reindicate_rest": False}, {"stream": False}):
        bench = Bench(**settings)
        here, there = handled(bench, EventType.RECEIVE)
        bench.near.send(here, b"abcdef")
        bench.far.answer(SUCCESS, 2)
        assert not bench.asks
        assert bench.far.got(there) == (b"cdef", SUCCESS)


@both_modes
def test_c30_a_returned_request_takes_the_rest_and_newer_data_first(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"abc", SendFlags.PARTIAL)
    later = bench.far.receive(there)
    assert bench.waits(later), "what is there is with the handler"
    bench.near.send(here, b"def")
    irp = build_connection_request(there, Receive(10))
    bench.far.answer(MORE, 1, irp)
    assert (irp.returned, irp.status) == (b"bcdef", SUCCESS)
    assert bench.waits(later)


def test_c30_not_accepted_with_everything_taken_goes_on_with_new_data() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"all")
    bench.far.answer(REFUSED, 3)
    assert not bench.asks
    bench.near.send(here, b"new")
    assert bench.asks[0].event.data == b"new"


def test_c30_lookahead_shows_a_part_and_says_how_much_there_is() -> None:
    bench = Bench(lookahead_bytes=4)
    here, _ = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"0123456789")
    for expected, left in ((b"0123", 10), (b"4567", 6), (b"89", 2)):
        event = bench.asks[0].event
        assert (event.data, event.available, bool(event.flags & ENTIRE)) == (expected, left, left == 2)
        bench.far.answer(SUCCESS, len(expected))
    assert not bench.asks


def test_c30_an_empty_record_is_indicated_and_taken() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"")
    assert (bench.asks[0].event.data, bench.asks[0].event.available) == (b"", 0)
    bench.far.answer(SUCCESS)
    bench.near.send(here, b"next")
    assert bench.asks[0].event.data == b"next"


@pytest.mark.parametrize("mistake", ["too much", "no request", "wrong status", "request unasked", "old request"])
def test_c30_what_a_handler_does_wrong_is_counted_and_loses_nothing(mistake: str) -> None:
    bench = Bench()
    here, there = handled(bench, EventType.RECEIVE)
    old = bench.far.receive(there, flags=EXPEDITED)
    bench.near.send(here, b"data")
    new = build_connection_request(there, Receive(10))
    match mistake:
        case "too much":
            bench.far.answer(SUCCESS, 99)
        case "no request":
            bench.far.answer(MORE)
        case "wrong status":
            bench.far.answer(NtStatus.UNSUCCESSFUL)
        case "request unasked":
            bench.far.answer(SUCCESS, 0, new)
            assert bench.ended(new)[0] is NtStatus.CANCELLED
        case _:
            bench.far.answer(MORE, 0, old)
            assert bench.waits(old)
    assert [violation.rule for violation in bench.violations] == ["C30"]
    if mistake != "too much":
        assert bench.far.got(there, flags=NORMAL) == (b"data", SUCCESS)


def test_c30_a_slow_handler_has_not_accepted() -> None:
    bench = Bench()
    here, there = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"data")
    bench.pass_time(5.0)
    assert bench.far.got(there) == (b"data", SUCCESS)


def test_c30_an_answer_after_the_end_of_the_connection_is_too_late() -> None:
    bench = Bench()
    here, there = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"data")
    bench.near.disconnect(here, ABORT)
    irp = build_connection_request(there, Receive(10))
    bench.far.answer(MORE, 0, irp)
    assert bench.ended(irp)[0] is NtStatus.CANCELLED


def test_c30a_each_receive_event_says_what_it_is_about() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.CHAINED_RECEIVE_EXPEDITED, EventType.RECEIVE_EXPEDITED, EventType.RECEIVE)
    bench.near.send(here, b"!", SendFlags.EXPEDITED)
    ask = bench.asks[0]
    assert ask.handler.event is EventType.CHAINED_RECEIVE_EXPEDITED
    assert ask.event.descriptor
    assert ask.event.flags & EXPEDITED
    bench.far.answer(SUCCESS)
    bench.far.handler(ask.handle, EventType.CHAINED_RECEIVE_EXPEDITED, 0)
    bench.near.send(here, b"?", SendFlags.EXPEDITED)
    assert bench.asks[0].handler.event is EventType.RECEIVE_EXPEDITED
    assert bench.asks[0].event.data == b"?"


def test_c31_expedited_data_go_to_the_normal_handler_for_want_of_their_own() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.RECEIVE)
    bench.near.send(here, b"!", SendFlags.EXPEDITED)
    event = bench.asks[0].event
    assert (event.data, event.flags & (EXPEDITED | NORMAL)) == (b"!", EXPEDITED)


def test_c23_c30a_send_possible_says_how_much_room_there_is() -> None:
    bench = Bench(stream=True, receive_buffer_bytes=1, send_buffer_bytes=8)
    address = bench.near.address()
    bench.near.handler(address, EventType.SEND_POSSIBLE)
    there = bench.far.associated(7_000)
    bench.far.listen(there)
    here = bench.near.associated(address=address)
    bench.near.connect(here, bench.there)
    bench.near.send(here, b"123456789", SendFlags.NON_BLOCKING)
    refused = bench.near.send(here, b"0123", SendFlags.NON_BLOCKING)
    assert refused.status is NtStatus.SUCCESS
    bench.near.send(here, b"0123", SendFlags.NON_BLOCKING)
    assert not bench.told
    while not bench.told:
        bench.far.got(there, 1)
    [told] = bench.told
    assert (told.handler.event, told.event.available, told.event.connection) == (EventType.SEND_POSSIBLE, 4, CONTEXT)


@both_modes
def test_c37_the_disconnect_handler_is_the_last_to_hear(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = handled(bench, EventType.DISCONNECT)
    bench.near.send(here, b"last words")
    bench.near.disconnect(here, RELEASE, user_data=b"bye")
    assert not bench.told, "there are data before it"
    bench.far.receive(there)
    [told] = bench.told
    assert (told.event.flags, told.event.data, told.event.connection) == (RELEASE, b"bye", CONTEXT)


def test_c32_c37_an_abort_is_told_with_its_flag() -> None:
    bench = Bench()
    here, _ = handled(bench, EventType.DISCONNECT)
    bench.near.disconnect(here, ABORT, user_data=b"enough")
    [told] = bench.told
    assert (told.event.flags, told.event.data) == (ABORT, b"enough")


def test_c37_a_release_that_times_out_is_told_on_both_sides() -> None:
    bench = Bench()
    address = bench.near.address()
    bench.near.handler(address, EventType.DISCONNECT)
    far = bench.far.address(7_000)
    bench.far.handler(far, EventType.DISCONNECT)
    there = bench.far.associated(address=far)
    bench.far.listen(there)
    here = bench.near.associated(address=address)
    bench.near.connect(here, bench.there)
    bench.near.disconnect(here, RELEASE, timeout=1)
    bench.pass_time(1)
    assert [told.event.flags for told in bench.told] == [RELEASE, ABORT, ABORT]


def test_a_handler_set_late_gets_what_waits() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    here, _ = bench.connected(address)
    bench.near.send(here, b"early")
    assert not bench.asks
    bench.far.handler(address, EventType.RECEIVE)
    assert bench.asks[0].event.data == b"early"


def test_cl3_no_handler_is_called_after_the_address_is_cleaned_up() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.RECEIVE)
    bench.far.handler(address, EventType.DISCONNECT)
    here, there = bench.connected(address)
    bench.far.close(address)
    bench.near.send(here, b"unheard")
    assert not bench.asks
    assert bench.far.got(there) == (b"unheard", SUCCESS)
    bench.near.disconnect(here, ABORT)
    assert not bench.told

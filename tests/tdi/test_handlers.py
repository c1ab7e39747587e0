"""Event handlers: rules R9, R10 and R25 to R50, on both networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from emulator.memory import GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.effects import Handler
from emulator.tdi.irp import Irp, IrpState, MdlBuffer
from emulator.tdi.receives import Arrived, build_receive_datagram
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.bench import ME, NETWORKS, Bench
from tests.tdi.raw_form import FORMS


@pytest.fixture(autouse=True, scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every rule here is tried with requests of objects and of bytes, for both kinds of client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "form", request.param)
        yield


both = pytest.mark.parametrize("network", NETWORKS)
NORMAL, CHAINED = EventType.RECEIVE_DATAGRAM, EventType.CHAINED_RECEIVE_DATAGRAM
ERROR, ERROR_EX = EventType.ERROR, EventType.ERROR_EX
SUCCESS, PENDING, MORE = NtStatus.SUCCESS, NtStatus.PENDING, NtStatus.MORE_PROCESSING_REQUIRED
NOT_ACCEPTED = NtStatus.DATA_NOT_ACCEPTED
DATA = bytes(range(60))


class Case(NamedTuple):
    """A bench with a handler set, and the datagram it is being called with."""

    bench: Bench
    handle: int


def called(network: str, event: EventType = NORMAL, data: bytes = DATA, **provider: Any) -> Case:
    """A handler is running, called with ``data``."""
    bench = Bench(network, **provider)
    handle = bench.open()
    assert bench.outcome(bench.set_handler(handle, event, 7, 9)) == (SUCCESS, 0)
    bench.arrive(handle, data)
    assert len(bench.asked) == 1
    return Case(bench, handle)


def goes_on(bench: Bench, handle: int) -> None:
    """The handler is free, and gets the next datagram."""
    before = len(bench.asked)
    bench.arrive(handle, b"next")
    assert [ask.event.data for ask in bench.asked[before:]] == [b"next"]


@both
def test_r4_a_client_sees_the_payload_and_nothing_else(network: str) -> None:
    bench = Bench(network)
    sender, receiver = bench.open(5000), bench.open(5001)
    here = SocketAddress(bench.host, 5001)
    bench.send(sender, DATA, here)
    irp = bench.post(receiver)
    bench.send(sender, DATA, here)
    bench.set_handler(receiver, NORMAL)
    bench.send(sender, DATA, here)
    assert (bench.heard(receiver), bench.received(irp).data, bench.asked[0].event.data) == ([DATA], DATA, DATA)


# ---- what a normal handler is called with


@both
def test_r25_the_source_is_a_whole_transport_address(network: str) -> None:
    bench, handle = called(network)
    [ask] = bench.asked
    assert (ask.machine, ask.handle, ask.owner) == (ME, handle, "client")
    assert ask.handler == Handler(NORMAL, 7, 9)
    assert ask.event.remote == bench.peer
    assert ask.event.remote is not None
    assert len(pack_transport_address(ask.event.remote)) == 22


@both
def test_r26_options_come_along_where_there_are_any(network: str) -> None:
    bench, handle = called(network)
    assert bench.asked[0].event.options == b""
    bench.answer(SUCCESS)
    bench.arrive_with_options(handle, Arrived(bench.peer, b"x", options=b"tos"))
    assert bench.asked[1].event.options == b"tos"


@both
@pytest.mark.parametrize(
    ("most", "least", "size", "shown"),
    [(None, 128, 200, 200), (150, 128, 200, 150), (1, 1, 200, 128), (1, 160, 200, 160), (1, 1, 127, 127)],
)
def test_r27_at_least_128_bytes_and_the_provider_s_minimum_are_shown(
    network: str, most: int | None, least: int, size: int, shown: int
) -> None:
    data = bytes(range(size))
    bench, _ = called(network, data=data, maximum_lookahead_bytes=most, minimum_lookahead_bytes=least)
    event = bench.asked[0].event
    assert (event.data, event.available) == (data[:shown], size)


@both
def test_r28_the_flags_say_whether_all_is_shown_and_how_it_came(network: str) -> None:
    entire, copy = ReceiveFlags.ENTIRE_MESSAGE, ReceiveFlags.COPY_LOOKAHEAD
    assert called(network).bench.asked[0].event.flags == entire | copy
    assert called(network, copies_lookahead=False).bench.asked[0].event.flags == entire
    at_dispatch = called(network, flags_dispatch_level=True).bench.asked[0].event.flags
    assert at_dispatch == entire | copy | ReceiveFlags.AT_DISPATCH_LEVEL
    long = bytes(200)
    assert called(network, data=long, maximum_lookahead_bytes=128).bench.asked[0].event.flags == copy
    partial = called(network, data=long, maximum_lookahead_bytes=128, flags_partial=True).bench.asked[0].event.flags
    assert partial == copy | ReceiveFlags.PARTIAL
    bench, handle = called(network)
    bench.answer(SUCCESS)
    bench.arrive_with_options(handle, Arrived(bench.peer, b"x", ReceiveFlags.BROADCAST))
    assert bench.asked[1].event.flags == entire | copy | ReceiveFlags.BROADCAST


@both
def test_r29_the_indicated_data_are_the_bytes_themselves(network: str) -> None:
    bench, _ = called(network)
    assert bytes(bench.asked[0].event.data) == DATA


@both
def test_r30_a_handler_that_sets_nothing_takes_nothing_and_the_datagram_is_gone(network: str) -> None:
    bench, handle = called(network)
    bench.answer(SUCCESS)
    assert (bench.violations, bench.deliveries, len(bench.asked)) == ([], [], 1)
    goes_on(bench, handle)


# ---- what it returns


@both
@pytest.mark.parametrize("taken", [0, 1, 59, 60])
@pytest.mark.parametrize("status", [SUCCESS, NOT_ACCEPTED, MORE, NtStatus.UNSUCCESSFUL, PENDING])
def test_r30_whatever_a_handler_returns_without_a_request_the_rest_is_lost(
    network: str, status: NtStatus, taken: int
) -> None:
    bench, handle = called(network)
    bench.answer(status, taken)
    assert bench.broken_rules() == ([] if status in (SUCCESS, NOT_ACCEPTED) else ["R30"])
    assert bench.transport.receive_counts()["datagrams_not_accepted"] == (status is not SUCCESS)
    assert bench.deliveries == []
    goes_on(bench, handle)


@both
def test_t26_what_a_handler_did_not_take_is_gone(network: str) -> None:
    bench, handle = called(network)
    bench.answer(SUCCESS, 10)
    irp = bench.post(handle)
    bench.arrive(handle, b"another")
    assert bench.received(irp).data == b"another"


@both
@pytest.mark.parametrize("taken", [0, 1, 59])
def test_r10_the_rest_goes_into_the_returned_request_before_anything_else(network: str, taken: int) -> None:
    bench, handle = called(network)
    bench.arrive(handle, b"waits")
    irp = build_receive_datagram(handle, 100)
    bench.answer(MORE, taken, irp)
    assert bench.outcome(irp) == (SUCCESS, 60 - taken)
    received = bench.received(irp)
    assert (received.data, received.source) == (DATA[taken:], bench.peer)
    assert [ask.event.data for ask in bench.asked[1:]] == [b"waits"]


@both
def test_r16_r17_a_returned_request_follows_the_rules_of_a_posted_one(network: str) -> None:
    bench, handle = called(network, data=bytes(range(200)), maximum_lookahead_bytes=128)
    memory = GuestMemory(memoryview(bytearray(4096)))
    irp = build_receive_datagram(handle, MdlBuffer(memory, Mdl(10, 5, (0,), next=Mdl(100, 20, (0,)))))
    bench.answer(MORE, 128, irp)
    assert bench.outcome(irp) == (NtStatus.BUFFER_OVERFLOW, 25)
    assert memory.read(10, 5) + memory.read(100, 20) == bytes(range(128, 153))
    assert memory.read(0, 4096).count(0) == 4096 - 25


@both
def test_r31_a_request_for_nothing_completes_at_once_with_nothing(network: str) -> None:
    bench, handle = called(network)
    irp = build_receive_datagram(handle, 100)
    bench.answer(MORE, 60, irp)
    assert bench.outcome(irp) == (SUCCESS, 0)
    goes_on(bench, handle)


@both
def test_r32_a_returned_request_was_never_submitted_and_is_for_this_address(network: str) -> None:
    bench, handle = called(network)
    posted_elsewhere = bench.post(bench.open(5001))
    bench.answer(MORE, 0, posted_elsewhere)
    assert (posted_elsewhere.state, bench.broken_rules()) == (IrpState.PENDING, ["R32"])
    bench.arrive(handle)
    other = build_receive_datagram(99, 10)
    bench.answer(MORE, 0, other)
    assert (bench.outcome(other), bench.broken_rules()) == ((NtStatus.CANCELLED, 0), ["R32"] * 2)
    bench.arrive(handle)
    cancelled = build_receive_datagram(handle, 10)
    bench.perform(bench.transport.cancel(cancelled))
    bench.answer(MORE, 0, cancelled)
    assert bench.outcome(cancelled) == (NtStatus.CANCELLED, 0)
    bench.arrive(handle)
    wrong = Irp(handle, None)
    bench.answer(MORE, 0, wrong)
    assert bench.outcome(wrong) == (NtStatus.INVALID_DEVICE_REQUEST, 0)
    goes_on(bench, handle)


@both
@pytest.mark.parametrize("status", [SUCCESS, NOT_ACCEPTED, NtStatus.UNSUCCESSFUL])
def test_r32_a_request_returned_with_another_status_is_given_back(network: str, status: NtStatus) -> None:
    bench, handle = called(network)
    irp = build_receive_datagram(handle, 100)
    bench.answer(status, 0, irp)
    assert (bench.outcome(irp), bench.broken_rules()) == ((NtStatus.CANCELLED, 0), ["R30"])
    goes_on(bench, handle)


@both
@pytest.mark.parametrize("status", [SUCCESS, MORE])
def test_r33_more_taken_than_shown_counts_as_all_of_it(network: str, status: NtStatus) -> None:
    data = bytes(range(200))
    bench, handle = called(network, data=data, maximum_lookahead_bytes=150)
    irp = build_receive_datagram(handle, 100) if status is MORE else None
    bench.answer(status, 151, irp)
    assert bench.broken_rules() == ["R33"]
    if irp is not None:
        assert bench.received(irp).data == data[150:]
    goes_on(bench, handle)


@both
def test_r34_a_busy_handler_holds_up_its_own_address_alone(network: str) -> None:
    bench = Bench(network)
    slow, quick = bench.open(5000), bench.open(5001)
    for handle in (slow, quick):
        bench.set_handler(handle, NORMAL)
    for number in range(3):
        bench.arrive(slow, b"%d" % number)
    bench.arrive(quick, b"q")
    assert [(ask.handle, ask.event.data) for ask in bench.asked] == [(slow, b"0"), (quick, b"q")]
    first = bench.asked[0]
    bench.answer(SUCCESS, 1, ask=first)
    bench.answer(SUCCESS, 1)
    assert [ask.event.data for ask in bench.asked] == [b"0", b"q", b"1", b"2"]


@both
def test_r34_what_waits_is_bounded_and_the_newest_is_dropped(network: str) -> None:
    bench, handle = called(network, max_backlog_bytes=2 * (64 + 4))
    for number in range(4):
        bench.arrive(handle, b"%d..." % number)
    for _ in range(3):
        bench.answer(SUCCESS)
    assert [bytes(ask.event.data) for ask in bench.asked[1:]] == [b"0...", b"1..."]
    assert bench.transport.receive_counts()["datagrams_lost_to_handlers"] == 2
    goes_on(bench, handle)


@both
def test_r34_an_answer_that_does_not_come_in_time_counts_as_not_accepted(network: str) -> None:
    bench, handle = called(network)
    bench.arrive(handle, b"waits")
    assert bench.transport.next_deadline() == bench.now + 5.0
    bench.now += 4.9
    bench.perform(bench.transport.expire(bench.now))
    assert len(bench.asked) == 1
    bench.now += 0.2
    bench.perform(bench.transport.expire(bench.now))
    assert bench.broken_rules() == ["R34"]
    assert [ask.event.data for ask in bench.asked] == [DATA, b"waits"]
    late = build_receive_datagram(handle, 100)
    bench.answer(MORE, 0, late, ask=bench.asked[0])
    assert bench.outcome(late) == (NtStatus.CANCELLED, 0), "the datagram is over, and so is the request"
    bench.answer(SUCCESS, 0, ask=bench.asked[0])
    assert len(bench.asked) == 2, "a late answer does not free the handler for another call"
    bench.answer(SUCCESS)
    goes_on(bench, handle)


@both
def test_r34_a_receive_posted_meanwhile_takes_what_waits_for_the_handler(network: str) -> None:
    bench, handle = called(network)
    other = SocketAddress(bench.peer.host, 1)
    bench.arrive(handle, b"first")
    bench.arrive(handle, b"second", other)
    bench.arrive(handle, b"third")
    picky, any_one = bench.post(handle, source=other), bench.post(handle)
    assert [bench.received(irp).data for irp in (picky, any_one)] == [b"second", b"first"]
    direct = bench.post(handle, source=other)
    bench.arrive(handle, b"fourth", other)
    assert bench.received(direct).data == b"fourth"
    bench.answer(SUCCESS)
    assert [ask.event.data for ask in bench.asked] == [DATA, b"third"]


@both
def test_r35_an_empty_datagram_is_indicated_with_nothing_of_nothing(network: str) -> None:
    bench, handle = called(network, data=b"")
    event = bench.asked[0].event
    assert (event.data, event.available) == (b"", 0)
    assert event.flags & ReceiveFlags.ENTIRE_MESSAGE
    irp = build_receive_datagram(handle, 10)
    bench.answer(MORE, 0, irp)
    assert bench.outcome(irp) == (SUCCESS, 0)


# ---- chained


@both
def test_r36_a_chained_handler_gets_the_whole_datagram(network: str) -> None:
    bench, _ = called(network, CHAINED, maximum_lookahead_bytes=8)
    event = bench.asked[0].event
    assert (event.data, event.available) == (DATA, 60)
    assert event.flags == ReceiveFlags.ENTIRE_MESSAGE
    assert isinstance(event.data, bytes), "it cannot be written to"


@both
@pytest.mark.parametrize("status", [SUCCESS, NOT_ACCEPTED])
def test_r37_anything_but_pending_gives_the_buffer_back_at_once(network: str, status: NtStatus) -> None:
    bench, handle = called(network, CHAINED)
    descriptor = bench.asked[0].event.descriptor
    bench.answer(status)
    loans = bench.transport.loans
    assert (len(loans), loans.byte_count, bench.violations) == (0, 0, [])
    with pytest.raises(Refused, match="R39"):
        bench.transport.return_chained([descriptor])
    goes_on(bench, handle)


@both
def test_r37_pending_keeps_the_buffer_until_it_is_returned_in_any_order(network: str) -> None:
    bench, handle = called(network, CHAINED)
    bench.answer(PENDING)
    bench.arrive(handle, b"two")
    bench.answer(PENDING)
    one, two = (ask.event.descriptor for ask in bench.asked)
    loans = bench.transport.loans
    assert (len(loans), loans.byte_count) == (2, 63)
    assert bench.transport.loan_owner(two) == "client"
    bench.transport.return_chained([two])
    assert (len(loans), loans.byte_count) == (1, 60)
    bench.transport.return_chained([one])
    assert (len(loans), loans.byte_count) == (0, 0)


@both
def test_r37_a_loan_returned_while_the_handler_still_runs_is_not_kept(network: str) -> None:
    bench, _ = called(network, CHAINED)
    descriptor = bench.asked[0].event.descriptor
    bench.transport.return_chained([descriptor])
    with pytest.raises(Refused, match="R39"):
        bench.transport.return_chained([descriptor])
    bench.answer(PENDING)
    assert len(bench.transport.loans) == 0


@both
@pytest.mark.parametrize("status", [MORE, NtStatus.UNSUCCESSFUL, 0x7777])
def test_r37_any_other_return_value_gives_the_buffer_back_and_is_counted(network: str, status: int) -> None:
    bench, handle = called(network, CHAINED)
    bench.answer(status)
    assert (len(bench.transport.loans), bench.broken_rules()) == (0, ["R37"])
    bench.arrive(handle, b"x")
    irp = build_receive_datagram(handle, 10)
    bench.answer(SUCCESS, 0, irp)
    assert bench.outcome(irp) == (NtStatus.CANCELLED, 0)


@both
def test_r37_a_handler_that_never_answers_has_kept_nothing(network: str) -> None:
    bench, handle = called(network, CHAINED)
    bench.now += 5.0
    bench.perform(bench.transport.expire(bench.now))
    assert (len(bench.transport.loans), bench.broken_rules()) == (0, ["R34"])
    bench.answer(PENDING)
    assert len(bench.transport.loans) == 0
    goes_on(bench, handle)


@both
def test_r38_a_buffer_several_keep_is_free_when_the_last_has_returned_it(network: str) -> None:
    bench = Bench(network)
    handles = [bench.open(owner=owner) for owner in ("one", "two", "three")]
    for handle in handles:
        bench.set_handler(handle, CHAINED)
    bench.arrive(handles[0], DATA)
    loans = bench.transport.loans
    assert (len(loans), loans.byte_count) == (3, 60)
    for ask in bench.asked:
        bench.answer(PENDING, ask=ask)
    for left, ask in zip((60, 60, 0), bench.asked, strict=True):
        bench.transport.return_chained([ask.event.descriptor])
        assert loans.byte_count == left


@both
def test_r38_what_a_dead_client_never_returned_is_free(network: str) -> None:
    bench, handle = called(network, CHAINED)
    bench.answer(PENDING)
    bench.close(handle)
    assert len(bench.transport.loans) == 1, "a loan outlives its address object"
    bench.perform(bench.transport.close_owner("client", bench.now))
    assert (len(bench.transport.loans), bench.transport.loans.byte_count) == (0, 0)


@both
def test_r39_every_loan_has_a_descriptor_of_its_own_and_is_returned_once(network: str) -> None:
    bench, handle = called(network, CHAINED)
    for _ in range(5):
        bench.answer(PENDING)
        bench.arrive(handle)
    descriptors = [ask.event.descriptor for ask in bench.asked]
    assert len(set(descriptors)) == 6
    bench.transport.return_chained(descriptors[:2])
    for bad in (descriptors[0], 0, 99):
        with pytest.raises(Refused) as refused:
            bench.transport.return_chained([bad])
        assert (refused.value.status, refused.value.rule) == (NtStatus.INVALID_PARAMETER, "R39")
    assert len(bench.transport.loans) == 4


@both
def test_r40_with_nothing_left_to_lend_the_normal_handler_is_called(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, CHAINED)
    bench.set_handler(handle, NORMAL)
    for _ in range(66):
        bench.arrive(handle, b"x")
        bench.answer(PENDING if bench.asked[-1].handler.event is CHAINED else SUCCESS, 1)
    assert [ask.handler.event for ask in bench.asked] == [CHAINED] * 64 + [NORMAL] * 2
    bench.transport.return_chained([bench.asked[0].event.descriptor])
    bench.arrive(handle, b"x")
    assert bench.asked[-1].handler.event is CHAINED


@both
def test_r40_a_client_with_a_chained_handler_alone_then_loses_datagrams(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, CHAINED)
    for _ in range(66):
        bench.arrive(handle, b"x")
        bench.answer(PENDING)
    assert (len(bench.asked), bench.deliveries) == (64, [])


@both
def test_r40_a_provider_that_lends_nothing_never_calls_the_chained_handler(network: str) -> None:
    bench = Bench(network, lends_buffers=False)
    handle = bench.open()
    bench.set_handler(handle, CHAINED)
    bench.set_handler(handle, NORMAL)
    bench.arrive(handle, b"x")
    assert [ask.handler.event for ask in bench.asked] == [NORMAL]


@both
@pytest.mark.parametrize("status", [SUCCESS, NOT_ACCEPTED, PENDING])
def test_r9_a_datagram_is_given_to_one_of_the_two_handlers_never_to_both(network: str, status: NtStatus) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, NORMAL)
    bench.set_handler(handle, CHAINED)
    bench.arrive(handle, b"x")
    bench.answer(status)
    assert [ask.handler.event for ask in bench.asked] == [CHAINED]
    assert bench.deliveries == []


# ---- setting


@both
def test_r41_setting_a_handler_completes_at_once_with_nothing(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.stall()
    for event in (NORMAL, CHAINED, ERROR):
        assert bench.outcome(bench.set_handler(handle, event)) == (SUCCESS, 0)


@both
def test_r42_function_null_clears_a_handler(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, NORMAL)
    assert bench.outcome(bench.set_handler(handle, NORMAL, 0, 5)) == (SUCCESS, 0)
    assert bench.outcome(bench.set_handler(handle, CHAINED, 0)) == (SUCCESS, 0)
    bench.arrive(handle, b"x")
    assert (bench.asked, bench.heard(handle)) == ([], [b"x"])


@both
def test_r43_one_handler_for_each_file_object_and_type(network: str) -> None:
    bench = Bench(network)
    one, two = bench.open(), bench.open()
    bench.set_handler(one, NORMAL, 1, 10)
    bench.set_handler(two, NORMAL, 2, 20)
    bench.set_handler(one, NORMAL, 3, 30)
    bench.set_handler(one, ERROR, 4, 40)
    bench.arrive(one, b"x")
    assert [ask.handler for ask in bench.asked] == [Handler(NORMAL, 3, 30), Handler(NORMAL, 2, 20)]


@both
def test_r43_a_handler_replaced_while_it_is_called_keeps_its_own_context(network: str) -> None:
    bench, handle = called(network)
    bench.set_handler(handle, NORMAL, 70, 90)
    assert bench.asked[0].handler == Handler(NORMAL, 7, 9)
    bench.answer(SUCCESS)
    bench.arrive(handle)
    assert bench.asked[1].handler == Handler(NORMAL, 70, 90)


@both
@pytest.mark.parametrize("event", range(11))
def test_r44_types_0_to_10_are_known(network: str, event: int) -> None:
    bench = Bench(network)
    handle = bench.open()
    assert bench.outcome(bench.set_handler(handle, event, 5)) == (SUCCESS, 0)
    assert bench.transport.handlers_of(handle).get(EventType(event)) == Handler(EventType(event), 5, 0)


@both
@pytest.mark.parametrize("event", [EventType.CONNECT, EventType.SEND_POSSIBLE, EventType.ERROR_EX])
def test_t21_t22_the_types_that_others_forget_are_set_and_cleared(network: str, event: EventType) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, event, 5)
    assert bench.transport.handlers_of(handle).get(event) is not None
    assert bench.outcome(bench.set_handler(handle, event, 0)) == (SUCCESS, 0)
    assert bench.transport.handlers_of(handle).get(event) is None


@both
@pytest.mark.parametrize("event", [11, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -1])
def test_r44_other_types_are_refused(network: str, event: int) -> None:
    bench = Bench(network)
    irp = bench.set_handler(bench.open(), event)
    assert (bench.outcome(irp), bench.rule(irp)) == ((NtStatus.INVALID_PARAMETER, 0), "R44")


@both
def test_r45_connection_handlers_belong_to_the_address_object(network: str) -> None:
    bench = Bench(network)
    handle, control = bench.open(), bench.control()
    for event in (EventType.CONNECT, EventType.DISCONNECT, EventType.RECEIVE, EventType.SEND_POSSIBLE):
        assert bench.outcome(bench.set_handler(handle, event)) == (SUCCESS, 0)
        assert bench.outcome(bench.set_handler(control, event)) == (NtStatus.INVALID_PARAMETER, 0)
    with pytest.raises(Refused):
        bench.transport.handlers_of(control)


@both
def test_r46_no_call_begins_after_a_handler_was_cleared_and_one_running_finishes(network: str) -> None:
    bench, handle = called(network)
    bench.arrive(handle, b"waits")
    bench.set_handler(handle, NORMAL, 0)
    irp = build_receive_datagram(handle, 100)
    bench.answer(MORE, 0, irp)
    assert bench.outcome(irp) == (SUCCESS, 60)
    assert (len(bench.asked), bench.heard(handle)) == (1, [b"waits"])


@both
def test_r46_no_call_begins_after_cleanup_and_a_request_returned_then_is_cancelled(network: str) -> None:
    bench, handle = called(network)
    bench.arrive(handle, b"waits")
    bench.close(handle)
    irp = build_receive_datagram(handle, 100)
    bench.answer(MORE, 0, irp)
    assert bench.outcome(irp) == (NtStatus.CANCELLED, 0)
    assert (len(bench.asked), bench.deliveries, len(bench.transport.calls)) == (1, [], 0)
    assert bench.transport.next_deadline() is None


@both
def test_cl3_cleanup_takes_every_handler_away(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    for event in EventType:
        bench.set_handler(handle, event)
    bench.perform(bench.transport.cleanup(handle, bench.now))
    assert [event for event in EventType if bench.transport.handlers_of(handle).get(event)] == []


@both
@pytest.mark.parametrize("buffering", [True, False])
def test_r47_what_a_missing_handler_would_refuse_is_buffered_or_the_client_s_stream(
    network: str, buffering: bool
) -> None:
    bench = Bench(network, buffers_internally=buffering)
    handle = bench.open()
    bench.set_handler(handle, ERROR)
    bench.arrive(handle, b"x")
    assert (bench.asked, bench.heard(handle)) == ([], [] if buffering else [b"x"])
    if buffering:
        assert bench.received(bench.post(handle)).data == b"x"


@both
def test_r47_what_a_handler_refused_a_buffering_provider_keeps(network: str) -> None:
    bench, handle = called(network, buffers_internally=True)
    bench.answer(NOT_ACCEPTED)
    assert bench.received(bench.post(handle)).data == DATA


# ---- errors


@both
def test_r48_r50_an_error_goes_to_the_extended_handler_first(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    gone = SocketAddress(bench.peer.host, 9)

    def told() -> list[tuple[EventType, NtStatus, SocketAddress | None]]:
        bench.told.clear()
        bench.perform(bench.transport.error_event(handle, NtStatus.PORT_UNREACHABLE, gone))
        return [(tell.handler.event, tell.event.status, tell.event.remote) for tell in bench.told]

    assert told() == []
    bench.set_handler(handle, ERROR)
    assert told() == [(ERROR, NtStatus.PORT_UNREACHABLE, None)]
    bench.set_handler(handle, ERROR_EX)
    assert told() == [(ERROR_EX, NtStatus.PORT_UNREACHABLE, gone)]
    bench.set_handler(handle, ERROR_EX, 0)
    assert [event for event, _, _ in told()] == [ERROR]
    bench.close(handle)
    assert told() == []


def test_r49_an_error_of_a_socket_is_told_to_every_address_object_on_it() -> None:
    bench = Bench("udp")
    one, two, other = bench.open(5000), bench.open(5000), bench.open(5001)
    for handle in (one, two, other):
        bench.set_handler(handle, ERROR)
    key = next(key for key, local in bench.sockets.items() if local.port == 5000)
    bench.perform(bench.transport.path_error_event(key, NtStatus.HOST_UNREACHABLE, bench.peer))
    assert [tell.handle for tell in bench.told] == [one, two]
    assert all(tell.lossy for tell in bench.told)


@both
def test_s25b_an_error_that_comes_later_does_not_change_a_completed_send(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.set_handler(handle, ERROR_EX)
    irp = bench.send(handle)
    bench.perform(bench.transport.error_event(handle, NtStatus.PORT_UNREACHABLE, bench.peer))
    assert bench.outcome(irp) == (SUCCESS, 5)
    assert [tell.event.status for tell in bench.told] == [NtStatus.PORT_UNREACHABLE]

"""Send, receive and disconnect (C21 to C28, C32 to C36, C38), on a segment, with records and as a stream."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.memory import GuestMemory, Mdl, MdlFlags
from emulator.status import NtStatus
from emulator.tdi.connection_profile import ReceiveStyle
from emulator.tdi.connection_requests import Connect, PeerInformation, Send
from emulator.tdi.connection_states import State
from emulator.tdi.constants import DisconnectFlags, MinorFunction, QueryType, ReceiveFlags, SendFlags
from emulator.tdi.irp import MdlBuffer, build_send_datagram
from emulator.tdi.structures import SocketAddress
from tests.tdi.connection_bench import ABORT, RELEASE, Bench

SUCCESS = NtStatus.SUCCESS
EXPEDITED, NORMAL, PEEK = ReceiveFlags.EXPEDITED, ReceiveFlags.NORMAL, ReceiveFlags.PEEK
both_modes = pytest.mark.parametrize("stream", [False, True], ids=["records", "stream"])


@both_modes
def test_c21_sends_of_one_connection_keep_their_order(stream: bool) -> None:
    bench = Bench(stream=stream, receive_buffer_bytes=8)
    here, there = bench.connected()
    sends = [bench.near.send(here, bytes([65 + index]) * 4) for index in range(5)]
    assert [bench.outcome(irp) is not None for irp in sends] == [True, True, False, False, False]
    received = b"".join(bench.far.got(there, 4)[0] for _ in sends)
    assert received == b"AAAABBBBCCCCDDDDEEEE"
    assert [each.irp for each in bench.completions if each.irp in sends] == sends
    assert {bench.ended(irp)[0] for irp in sends} == {SUCCESS}


@both_modes
def test_c21_expedited_sends_overtake_and_keep_their_own_order(stream: bool) -> None:
    bench = Bench(stream=stream, receive_buffer_bytes=4, expedited_buffer_bytes=2)
    here, there = bench.connected()
    normal = [bench.near.send(here, bytes([97 + index]) * 4) for index in range(3)]
    urgent = [bench.near.send(here, bytes([65 + index]), SendFlags.EXPEDITED) for index in range(4)]
    order = [bench.far.got(there, 4)[0] for _ in range(7)]
    assert order == [b"A", b"B", b"C", b"D", b"aaaa", b"bbbb", b"cccc"]
    ended = [each.irp for each in bench.completions]
    assert [irp for irp in ended if irp in urgent] == urgent
    assert [irp for irp in ended if irp in normal] == normal


def test_c21_a_provider_without_expedited_data_refuses_it() -> None:
    bench = Bench(supports_expedited=False)
    here, _ = bench.connected()
    assert bench.ended(bench.near.send(here, b"!", SendFlags.EXPEDITED)) == (NtStatus.INVALID_PARAMETER, "C21")


def test_c21_only_so_many_sends_wait() -> None:
    bench = Bench(receive_buffer_bytes=1, max_queued_requests=2)
    here, there = bench.connected()
    bench.near.send(here, b"x")
    waiting = [bench.near.send(here, b"y") for _ in range(2)]
    assert bench.ended(bench.near.send(here, b"z")) == (NtStatus.INSUFFICIENT_RESOURCES, "C21")
    assert bench.waits(*waiting)
    assert [bench.far.got(there)[0] for _ in range(3)] == [b"x", b"y", b"y"]


def test_c22_partial_sends_are_one_record_and_irrelevant_on_a_stream() -> None:
    for stream, expected in ((False, b"one record"), (True, b"one ")):
        bench = Bench(stream=stream)
        here, there = bench.connected()
        receive = bench.far.receive(there)
        bench.near.send(here, b"one ", SendFlags.PARTIAL)
        assert bench.waits(receive) is not stream
        bench.near.send(here, b"record", SendFlags.NO_RESPONSE_EXPECTED)
        assert bench.ended(receive)[0] is SUCCESS
        assert receive.returned == expected


def test_c23_a_non_blocking_send_takes_what_fits_and_then_nothing() -> None:
    bench = Bench(stream=True, receive_buffer_bytes=4, send_buffer_bytes=10)
    here, there = bench.connected()
    bench.near.send(here, b"0123")
    full = bench.near.send(here, b"abcdefghijklmnop", SendFlags.NON_BLOCKING)
    complete = bench.outcome(full)
    assert complete is not None
    assert (complete.status, complete.information) == (SUCCESS, 10)
    none = bench.near.send(here, b"q", SendFlags.NON_BLOCKING)
    assert bench.ended(none) == (NtStatus.DEVICE_NOT_READY, "C23")
    assert b"".join(bench.far.got(there, 4)[0] for _ in range(4)) == b"0123abcdefghij"


def test_c23_what_fits_of_a_record_is_not_its_end() -> None:
    bench = Bench(send_buffer_bytes=4)
    here, there = bench.connected()
    bench.near.send(here, b"abcdef", SendFlags.NON_BLOCKING)
    receive = bench.far.receive(there)
    assert bench.waits(receive)
    bench.near.send(here, b"ef", SendFlags.NON_BLOCKING)
    assert receive.returned == b"abcdef"


@both_modes
def test_c24_send_and_disconnect_releases_behind_the_data(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = bench.connected()
    send = bench.near.send(here, b"goodbye", SendFlags.AND_DISCONNECT)
    assert bench.ended(send)[0] is SUCCESS
    assert bench.near.state(here) is State.RELEASE_SENT
    assert bench.far.got(there) == (b"goodbye", SUCCESS)
    assert bench.far.state(there) is State.RELEASE_RECEIVED
    waits = bench.near.disconnect(here)
    assert bench.waits(waits), "who wants to know when it is over asks for a release too"
    bench.far.disconnect(there)
    assert bench.ended(waits)[0] is SUCCESS


def test_c24_only_where_it_is_advertised() -> None:
    bench = Bench(supports_send_and_disconnect=False)
    here, _ = bench.connected()
    refused = bench.near.send(here, b"x", SendFlags.AND_DISCONNECT)
    assert bench.ended(refused) == (NtStatus.INVALID_PARAMETER, "C24")
    assert bench.near.state(here) is State.CONNECTED


def test_c23_c24_what_is_left_of_a_non_blocking_send_does_not_release() -> None:
    bench = Bench(stream=True, send_buffer_bytes=4, receive_buffer_bytes=1)
    here, there = bench.connected()
    flags = SendFlags.NON_BLOCKING | SendFlags.AND_DISCONNECT
    part = bench.outcome(bench.near.send(here, b"123456", flags))
    assert part is not None
    assert part.information == 4
    assert bench.near.state(here) is State.CONNECTED
    assert b"".join(bench.far.got(there, 1)[0] for _ in range(4)) == b"1234"
    bench.near.send(here, b"56", flags)
    assert bench.near.state(here) is State.RELEASE_SENT


def test_c25_too_long_and_empty_sends() -> None:
    bench = Bench(max_send_bytes=100)
    here, there = bench.connected()
    assert bench.ended(bench.near.send(here, bytes(101))) == (NtStatus.INVALID_PARAMETER, "C25")
    bench.near.send(here, bytes(100))
    bench.near.send(here, b"")
    bench.near.send(here, b"after")
    assert [bench.far.got(there) for _ in range(3)] == [(bytes(100), SUCCESS), (b"", SUCCESS), (b"after", SUCCESS)]
    strict = Bench(refuses_zero_length=True)
    here, _ = strict.connected()
    assert strict.ended(strict.near.send(here, b"")) == (NtStatus.INVALID_PARAMETER, "C25")


def test_c25_an_empty_partial_send_ends_no_record() -> None:
    bench = Bench()
    here, there = bench.connected()
    receive = bench.far.receive(there)
    bench.near.send(here, b"", SendFlags.PARTIAL)
    assert bench.waits(receive)
    bench.near.send(here, b"")
    assert bench.ended(receive)[0] is SUCCESS
    assert receive.returned == b""


def test_s11_s12_a_send_takes_its_length_of_an_mdl_chain() -> None:
    memory = GuestMemory(memoryview(bytearray(4 * 4096)))
    bench = Bench()
    here, there = bench.connected()
    second = Mdl(0, 3, (2,), MdlFlags.PAGES_LOCKED)
    buffer = MdlBuffer(memory, Mdl(4090, 6, (0,), MdlFlags.PAGES_LOCKED, second))
    memory.write(4090, b"abcdef")
    memory.write(2 * 4096, b"ghi")
    bench.near.submit(here, Send(buffer, send_length=8))
    assert bench.far.got(there) == (b"abcdefgh", SUCCESS)
    assert bench.near.refused(here, Send(buffer, send_length=10)) == (NtStatus.INVALID_PARAMETER, "S12")


def test_c26_a_receive_gets_the_kind_it_asks_for() -> None:
    bench = Bench()
    here, there = bench.connected()
    only_urgent = bench.far.receive(there, flags=EXPEDITED)
    only_normal = bench.far.receive(there, flags=NORMAL)
    either = bench.far.receive(there, flags=NORMAL | EXPEDITED)
    bench.near.send(here, b"normal")
    assert only_normal.returned == b"normal"
    bench.near.send(here, b"urgent", SendFlags.EXPEDITED)
    assert only_urgent.returned == b"urgent"
    assert bench.ended(only_urgent)[0] is NtStatus.RECEIVE_EXPEDITED
    bench.near.send(here, b"again", SendFlags.EXPEDITED)
    assert (either.returned, bench.ended(either)[0]) == (b"again", NtStatus.RECEIVE_EXPEDITED)


def test_c26_peek_copies_and_keeps() -> None:
    bench = Bench()
    here, there = bench.connected()
    bench.near.send(here, b"look")
    assert bench.far.got(there, flags=PEEK) == (b"look", SUCCESS)
    assert bench.far.got(there, 2, PEEK) == (b"lo", NtStatus.BUFFER_OVERFLOW)
    assert bench.far.got(there) == (b"look", SUCCESS)
    bench.near.send(here, b"!", SendFlags.EXPEDITED)
    assert bench.far.got(there, flags=PEEK | EXPEDITED) == (b"!", NtStatus.RECEIVE_EXPEDITED)
    assert bench.far.got(there) == (b"!", NtStatus.RECEIVE_EXPEDITED)
    waits = bench.far.receive(there, flags=PEEK)
    assert bench.waits(waits)


def test_c27_a_record_longer_than_the_buffer_overflows_into_the_next_receive() -> None:
    bench = Bench()
    here, there = bench.connected()
    bench.near.send(here, b"0123456789")
    bench.near.send(here, b"next")
    assert bench.far.got(there, 4) == (b"0123", NtStatus.BUFFER_OVERFLOW)
    assert bench.far.got(there, 6) == (b"456789", SUCCESS)
    assert bench.far.got(there, 4) == (b"next", SUCCESS)


def test_c27_a_stream_has_no_borders_and_completes_with_what_is_there() -> None:
    bench = Bench(stream=True)
    here, there = bench.connected()
    bench.near.send(here, b"abc")
    bench.near.send(here, b"def")
    assert bench.far.got(there, 4) == (b"abcd", SUCCESS)
    assert bench.far.got(there, 4) == (b"ef", SUCCESS)
    waits = bench.far.receive(there, 4)
    assert bench.waits(waits)
    bench.near.send(here, b"g")
    assert waits.returned == b"g"


def test_c27_the_other_style_fills_the_buffer_unless_the_peer_finishes() -> None:
    bench = Bench(stream=True, receive_style=ReceiveStyle.FILL)
    here, there = bench.connected()
    first, second = bench.far.receive(there, 4), bench.far.receive(there, 4)
    bench.near.send(here, b"abc")
    assert bench.waits(first, second)
    bench.near.send(here, b"def")
    assert first.returned == b"abcd"
    assert bench.waits(second)
    bench.near.disconnect(here, RELEASE)
    assert (second.returned, bench.ended(second)[0]) == (b"ef", SUCCESS)


def test_c27_a_record_may_be_longer_than_what_is_kept() -> None:
    bench = Bench(receive_buffer_bytes=16)
    here, there = bench.connected()
    record = bytes(range(200))
    send = bench.near.send(here, record)
    assert bench.waits(send)
    assert bench.far.got(there, 200) == (record, SUCCESS)
    assert bench.ended(send)[0] is SUCCESS


def test_c28_expedited_data_complete_a_partly_filled_receive() -> None:
    bench = Bench()
    here, there = bench.connected()
    partly = bench.far.receive(there, flags=NORMAL)
    urgent = bench.far.receive(there, flags=EXPEDITED)
    bench.near.send(here, b"begun, ", SendFlags.PARTIAL)
    assert bench.waits(partly, urgent)
    bench.near.send(here, b"!", SendFlags.EXPEDITED)
    assert (partly.returned, bench.ended(partly)[0]) == (b"begun, ", NtStatus.RECEIVE_PARTIAL)
    assert urgent.returned == b"!"
    order = [each.irp for each in bench.completions]
    assert order.index(partly) < order.index(urgent)
    bench.near.send(here, b"ended")
    assert bench.far.got(there) == (b"ended", SUCCESS)


@both_modes
def test_c32_an_abort_ends_everything_at_once(stream: bool) -> None:
    bench = Bench(stream=stream, receive_buffer_bytes=1)
    here, there = bench.connected()
    bench.near.send(here, b"1")
    stuck, posted = bench.near.send(here, b"2"), bench.near.receive(here)
    theirs = bench.far.receive(there, flags=EXPEDITED)
    assert bench.ended(bench.near.disconnect(here, DisconnectFlags.NONE))[0] is SUCCESS
    assert bench.ended(stuck) == bench.ended(posted) == (NtStatus.LOCAL_DISCONNECT, "C32")
    assert bench.ended(theirs) == (NtStatus.CONNECTION_RESET, "C32")
    assert bench.near.state(here) is bench.far.state(there) is State.ASSOCIATED
    assert bench.ended(bench.near.disconnect(here, ABORT))[0] is NtStatus.INVALID_CONNECTION
    assert not bench.segment.links


@both_modes
def test_c33_a_release_lets_the_peer_go_on_and_both_sides_complete(stream: bool) -> None:
    bench = Bench(stream=stream)
    here, there = bench.connected()
    bench.near.send(here, b"request")
    release = bench.near.disconnect(here, RELEASE)
    assert bench.ended(bench.near.send(here, b"more")) == (NtStatus.LOCAL_DISCONNECT, "C33")
    assert bench.waits(release)
    assert bench.far.state(there) is State.CONNECTED, "the release stands behind data nobody has read"
    assert bench.far.got(there) == (b"request", SUCCESS)
    assert bench.far.state(there) is State.RELEASE_RECEIVED
    bench.far.send(there, b"answer")
    answer = bench.far.disconnect(there, RELEASE)
    assert bench.ended(answer)[0] is SUCCESS, "everything of theirs is on its way, and ours has come"
    assert bench.waits(release)
    assert bench.near.got(here) == (b"answer", SUCCESS)
    assert bench.ended(release)[0] is SUCCESS
    assert bench.near.state(here) is bench.far.state(there) is State.ASSOCIATED
    assert not bench.segment.links


def test_c33_queued_sends_go_out_before_the_release() -> None:
    bench = Bench(receive_buffer_bytes=4)
    here, there = bench.connected()
    sends = [bench.near.send(here, bytes([65 + index]) * 4) for index in range(3)]
    bench.near.disconnect(here, RELEASE)
    assert bench.waits(*sends[1:])
    answer = bench.far.disconnect(there, RELEASE)
    assert bench.waits(answer), "three records are still to be read"
    assert [bench.far.got(there)[0] for _ in sends] == [b"AAAA", b"BBBB", b"CCCC"]
    assert {bench.ended(irp)[0] for irp in [*sends, answer]} == {SUCCESS}


def test_c33_both_may_release_at_once() -> None:
    bench = Bench()
    here, there = bench.connected()
    releases = bench.near.disconnect(here), bench.far.disconnect(there)
    assert {bench.ended(irp)[0] for irp in releases} == {SUCCESS}
    assert bench.near.state(here) is bench.far.state(there) is State.ASSOCIATED


def test_c33_user_data_travel_with_a_release() -> None:
    bench = Bench()
    here, there = bench.connected()
    release = bench.near.disconnect(here, user_data=b"bye")
    bench.far.disconnect(there, user_data=b"see you")
    assert bench.returned(release).user_data == b"see you"


def test_c34_an_abort_overtakes_a_release() -> None:
    bench = Bench()
    here, there = bench.connected()
    theirs = bench.far.receive(there)
    release = bench.near.disconnect(here, RELEASE)
    assert bench.ended(theirs) == (NtStatus.REMOTE_DISCONNECT, "C38")
    assert bench.ended(bench.near.disconnect(here, ABORT))[0] is SUCCESS
    assert bench.ended(release) == (NtStatus.LOCAL_DISCONNECT, "C32")
    assert bench.ended(bench.far.send(there, b"x")) == (NtStatus.CONNECTION_RESET, "C38")
    assert bench.near.state(here) is bench.far.state(there) is State.ASSOCIATED


def test_c32_a_disconnect_ends_an_attempt() -> None:
    bench = Bench()
    bench.segment.stall()
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there)
    assert bench.ended(bench.near.disconnect(here, ABORT))[0] is SUCCESS
    assert bench.ended(connect) == (NtStatus.LOCAL_DISCONNECT, "C32")
    assert bench.near.state(here) is State.ASSOCIATED
    assert not bench.segment.links


@pytest.mark.parametrize(("asked", "seconds"), [(None, 120.0), (2.0, 2.0)])
def test_c35_a_release_that_takes_too_long_aborts(asked: float | None, seconds: float) -> None:
    bench = Bench()
    here, there = bench.connected()
    release = bench.near.disconnect(here, RELEASE, timeout=asked)
    assert bench.deadline(bench.near) == seconds
    bench.pass_time(seconds)
    assert bench.ended(release) == (NtStatus.IO_TIMEOUT, "C35")
    assert bench.ended(bench.far.receive(there)) == (NtStatus.CONNECTION_RESET, "C38")
    assert bench.deadline(bench.near) is None


def test_c36_a_disconnect_rejects_an_offer() -> None:
    bench = Bench()
    for flags in (ABORT, RELEASE):
        there = bench.far.associated(7_000)
        bench.far.listen(there, query=True)
        connect = bench.near.connect(bench.near.associated(), bench.there)
        assert bench.ended(bench.far.disconnect(there, flags))[0] is SUCCESS
        assert bench.ended(connect) == (NtStatus.CONNECTION_REFUSED, "C9")
        assert bench.far.state(there) is State.ASSOCIATED
        bench.far.close(there)


def test_c38_without_handlers_a_client_learns_by_status() -> None:
    bench = Bench()
    here, there = bench.connected()
    outstanding = bench.far.receive(there)
    bench.near.disconnect(here, RELEASE)
    assert bench.ended(outstanding) == (NtStatus.REMOTE_DISCONNECT, "C38")
    assert bench.ended(bench.far.receive(there)) == (NtStatus.REMOTE_DISCONNECT, "C38")
    bench.near.disconnect(here, ABORT)
    for irp in (bench.far.send(there, b"x"), bench.far.receive(there)):
        assert bench.ended(irp) == (NtStatus.CONNECTION_RESET, "C38")


def test_an_endpoint_survives_its_connections() -> None:
    bench = Bench()
    here, there = bench.connected()
    for number in range(20):
        bench.near.send(here, b"%d" % number)
        assert bench.far.got(there) == (b"%d" % number, SUCCESS)
        if number % 2:
            bench.near.disconnect(here, ABORT)
        else:
            bench.near.disconnect(here)
            bench.far.disconnect(there)
        listen = bench.far.listen(there)
        connect = bench.near.connect(here, bench.there)
        assert bench.ended(listen)[0] is bench.ended(connect)[0] is SUCCESS


def test_cl4_cleanup_aborts_the_connection_and_completes_its_requests() -> None:
    bench = Bench()
    here, there = bench.connected()
    ours, theirs = bench.near.receive(here), bench.far.receive(there)
    bench.near.close(here)
    assert bench.ended(ours) == (NtStatus.CANCELLED, "CL4")
    assert bench.ended(theirs) == (NtStatus.CONNECTION_RESET, "C32")
    listening = bench.far.listen(there)
    bench.far.close(there)
    assert bench.ended(listening) == (NtStatus.CANCELLED, "CL4")
    assert bench.near.refused(here, Connect(PeerInformation(bench.there)))[0] is NtStatus.INVALID_HANDLE


def test_cl4_cleanup_of_an_offered_or_connecting_endpoint() -> None:
    bench = Bench()
    there = bench.far.associated(7_000)
    bench.far.listen(there, query=True)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there)
    bench.far.close(there)
    assert bench.ended(connect)[0] is NtStatus.REMOTE_NOT_LISTENING
    there = bench.far.associated(7_000)
    bench.far.listen(there, query=True)
    connect = bench.near.connect(here, bench.there)
    bench.near.close(here)
    assert bench.ended(connect) == (NtStatus.CANCELLED, "CL4")
    assert bench.far.state(there) is State.ASSOCIATED


def test_a_cancelled_receive_loses_nothing_and_a_cancelled_send_is_not_sent() -> None:
    bench = Bench(receive_buffer_bytes=8)
    here, there = bench.connected()
    receive = bench.far.receive(there)
    bench.near.send(here, b"half ", SendFlags.PARTIAL)
    bench.far.cancel(receive)
    assert bench.ended(receive) == (NtStatus.CANCELLED, "P7")
    bench.near.send(here, b"two")
    gone, kept = bench.near.send(here, b"gone"), bench.near.send(here, b"kept")
    bench.near.cancel(gone)
    assert bench.ended(gone) == (NtStatus.CANCELLED, "P7")
    assert [bench.far.got(there)[0] for _ in range(2)] == [b"half two", b"kept"]
    assert bench.ended(kept)[0] is SUCCESS
    release = bench.near.disconnect(here)
    bench.near.cancel(release)
    assert bench.ended(release) == (NtStatus.CANCELLED, "P7")
    assert bench.near.state(here) is State.RELEASE_SENT


def test_a_partition_holds_data_back_and_then_aborts() -> None:
    bench = Bench()
    here, there = bench.connected()
    bench.segment.stall()
    send = bench.near.send(here, b"late")
    receive = bench.far.receive(there)
    bench.pass_time(19.9)
    assert bench.waits(send, receive)
    bench.perform(bench.segment.resume(bench.now))
    assert receive.returned == b"late"
    bench.segment.stall()
    send, receive = bench.near.send(here, b"never"), bench.far.receive(there)
    assert bench.deadline(bench.near) == 20.0
    bench.pass_time(20)
    assert bench.ended(send) == (NtStatus.CONNECTION_ABORTED, "C9")
    assert bench.waits(receive), "nobody can tell the other side"
    bench.perform(bench.segment.resume(bench.now))
    assert bench.ended(receive) == (NtStatus.CONNECTION_RESET, "C32")


def test_what_waited_for_a_full_receiver_has_its_whole_time_when_the_segment_is_cut() -> None:
    bench = Bench(receive_buffer_bytes=1)
    here, _ = bench.connected()
    bench.near.send(here, b"1")
    stuck = bench.near.send(here, b"2")
    bench.pass_time(1_000)
    bench.segment.stall()
    bench.perform(bench.segment.pump_links(bench.now))
    assert bench.deadline(bench.near) == 20.0
    bench.perform(bench.segment.resume(bench.now))
    assert bench.deadline(bench.near) is None
    bench.segment.stall()
    bench.perform(bench.segment.pump_links(bench.now))
    bench.pass_time(20)
    assert bench.ended(stuck) == (NtStatus.CONNECTION_ABORTED, "C9")


def test_very_many_small_records_fill_the_receiver_before_their_bytes_do() -> None:
    bench = Bench(max_queued_requests=10_000)
    here, there = bench.connected()
    sends = [bench.near.send(here, b"x") for _ in range(2_000)]
    held = sum(bench.outcome(irp) is not None for irp in sends)
    assert held == 16 + 65_536 // 64
    assert all(bench.far.got(there)[0] == b"x" for _ in sends)
    assert {bench.ended(irp)[0] for irp in sends} == {SUCCESS}


def test_a_full_receiver_is_no_stall() -> None:
    bench = Bench(receive_buffer_bytes=1)
    here, there = bench.connected()
    sends = [bench.near.send(here, b"x") for _ in range(2)]
    bench.pass_time(1_000)
    assert bench.waits(sends[1])
    assert bench.far.got(there)[0] == b"x"
    assert bench.ended(sends[1])[0] is SUCCESS


def test_s28_datagrams_and_connection_sends_do_not_wait_for_each_other() -> None:
    bench = Bench(receive_buffer_bytes=1)
    address = bench.near.address(6_100)
    here, there = bench.connected()
    bench.near.send(here, b"1")
    stuck = bench.near.send(here, b"2")
    datagram = build_send_datagram(address, SocketAddress(bench.far.port.host, 7_000), b"datagram")
    assert datagram.minor == MinorFunction.SEND_DATAGRAM
    bench.perform(bench.near.transport.submit(datagram, bench.now))
    assert bench.ended(datagram)[0] is SUCCESS
    assert bench.waits(stuck)
    assert [bench.far.got(there)[0] for _ in range(2)] == [b"1", b"2"]


def test_q7_connection_information_counts_what_passed() -> None:
    bench = Bench()
    here, there = bench.connected()
    for _ in range(3):
        bench.near.send(here, b"record")
    for handle, side, sent, received in ((here, bench.near, 3, 0), (there, bench.far, 0, 3)):
        data = side.transport.query(handle, QueryType.CONNECTION_INFO, 56).data
        assert len(data) == 56
        state, event, *counts = struct.unpack_from("<6I", data)
        assert (state, event, counts) == (list(State).index(State.CONNECTED), 0, [sent, received, 0, 0])
        assert struct.unpack_from("<2I?", data, 40) == (65_536, 65_536, False)
    short = bench.near.transport.query(here, QueryType.CONNECTION_INFO, 10)
    assert (short.status, short.information) == (NtStatus.BUFFER_OVERFLOW, 10)


def test_the_addresses_of_both_sides_are_the_segments() -> None:
    bench = Bench()
    here, there = bench.connected()
    assert bench.near.core(here).remote == SocketAddress("10.77.0.2", 7_000)
    seen = bench.far.core(there).remote
    assert seen is not None
    assert ip_address(seen.host) == ip_address("10.77.0.1")


@given(st.data())
def test_a_stream_arrives_whole_and_in_order_however_it_is_cut(data: st.DataObject) -> None:
    buffer_bytes = data.draw(st.integers(1, 64))
    bench = Bench(stream=True, receive_buffer_bytes=buffer_bytes)
    here, there = bench.connected()
    sent, received = b"", b""
    receives = []
    for step in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()):
            piece = bytes([step]) * data.draw(st.integers(0, 80))
            bench.near.send(here, piece)
            sent += piece
        else:
            receives.append(bench.far.receive(there, data.draw(st.integers(1, 50))))
    bench.near.disconnect(here)
    while bench.far.state(there) is State.CONNECTED:
        receives.append(bench.far.receive(there, 50))
    for irp in receives:
        received += irp.returned if isinstance(irp.returned, bytes) else b""
    assert received == sent


@given(st.data())
def test_records_arrive_whole_whatever_the_buffers(data: st.DataObject) -> None:
    bench = Bench(receive_buffer_bytes=data.draw(st.integers(1, 64)))
    here, there = bench.connected()
    records = data.draw(st.lists(st.binary(max_size=90), max_size=10))
    for record in records:
        cut = data.draw(st.integers(0, len(record)))
        if cut:
            bench.near.send(here, record[:cut], SendFlags.PARTIAL)
        bench.near.send(here, record[cut:])
    for record in records:
        received = b""
        status = NtStatus.BUFFER_OVERFLOW
        while status is NtStatus.BUFFER_OVERFLOW:
            part, status = bench.far.got(there, data.draw(st.integers(1, 100)))
            received += part
        assert (received, status) == (record, SUCCESS)

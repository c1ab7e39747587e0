"""What latency, jitter, loss, reordering, a rate and a partition make of a connection on a segment: time, not gaps."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.status import NtStatus
from emulator.tdi.connection_requests import Accept, build_connection_request
from emulator.tdi.connection_states import State
from emulator.tdi.constants import EventType, SendFlags
from emulator.tdi.irp import Irp, build_send_datagram
from emulator.tdi.medium import Luck
from emulator.tdi.profile import SegmentProfile
from emulator.tdi.segment import SPARE_WAKES
from emulator.tdi.structures import SocketAddress
from tests.tdi.connection_bench import ABORT, Bench

SUCCESS = NtStatus.SUCCESS
PACKET = 1_460


def lossy_bench(seed: int = 7, **impairments: Any) -> tuple[Bench, int, int]:
    """A stream between two machines that is impaired once it stands."""
    bench = Bench(stream=True, max_queued_requests=10_000)
    bench.segment.reseed(Luck(*(random.Random(f"{seed} {name}") for name in Luck._fields)))
    here, there = bench.connected()
    bench.impair(**impairments)
    return bench, here, there


def until(bench: Bench, irp: Irp, most: float = 100.0) -> float:
    """Let time pass from deadline to deadline until a request is over; seconds."""
    begun = bench.now
    while bench.waits(irp):
        due = bench.segment.next_deadline()
        assert due is not None, "nothing is on its way, and it still waits"
        assert due - begun <= most, "it takes too long"
        bench.pass_time(max(0.0, due - bench.now))
    return round(bench.now - begun, 6)


def received(bench: Bench, there: int, byte_count: int) -> list[tuple[float, bytes]]:
    """Everything of a stream, each part with the time of its arrival."""
    parts: list[tuple[float, bytes]] = []
    begun = bench.now
    while sum(len(part) for _, part in parts) < byte_count:
        irp = bench.far.receive(there, 100_000)
        until(bench, irp)
        assert bench.ended(irp)[0] is SUCCESS
        assert isinstance(irp.returned, bytes)
        parts.append((round(bench.now - begun, 6), irp.returned))
    return parts


def test_a_connection_over_50_ms_takes_a_round_trip_to_stand_and_50_ms_each_way() -> None:
    bench = Bench()
    bench.impair(delay_seconds=0.05)
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there)
    assert until(bench, listen) == 0.05
    assert bench.waits(connect)
    assert until(bench, connect) == 0.05
    sent = bench.near.send(here, b"there")
    assert bench.ended(sent)[0] is SUCCESS, "the segment has taken it"
    receive = bench.far.receive(there)
    assert until(bench, receive) == 0.05
    bench.far.send(there, b"back")
    assert until(bench, bench.near.receive(here)) == 0.05


def test_c8_c9_a_refusal_takes_a_round_trip_and_a_connect_that_is_slower_than_its_time_out_fails() -> None:
    bench = Bench()
    bench.impair(delay_seconds=0.4)
    bench.far.address(7_000)
    here = bench.near.associated()
    refused = bench.near.connect(here, bench.there)
    assert until(bench, refused) == 0.8
    assert bench.ended(refused)[0] is NtStatus.REMOTE_NOT_LISTENING
    bench.impair(delay_seconds=0.6)
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there)
    late = bench.near.connect(here, bench.there)
    bench.pass_time(0.99)
    assert bench.ended(listen)[0] is SUCCESS
    assert bench.waits(late)
    bench.pass_time(0.01)
    assert bench.ended(late) == (NtStatus.IO_TIMEOUT, "C9")
    broken = bench.far.receive(there)
    assert until(bench, broken) == 0.6, "what the caller made of it is told as everything else is"
    assert bench.ended(broken)[0] is NtStatus.CONNECTION_RESET
    assert not bench.segment.links


def test_a_caller_that_has_given_up_before_it_was_heard_takes_nobodys_listen() -> None:
    bench = Bench()
    bench.impair(delay_seconds=0.3)
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there)
    here = bench.near.associated()
    bench.near.cancel(bench.near.connect(here, bench.there))
    bench.pass_time(5)
    assert bench.waits(listen)
    assert not bench.segment.links


def test_attempts_that_were_given_up_are_not_kept_until_they_would_have_arrived() -> None:
    bench, here, there = lossy_bench(delay_seconds=86_400.0)
    slow = bench.near.send(here, b"a day later")
    knocking = bench.near.associated()
    for _ in range(1_000):
        bench.near.cancel(bench.near.connect(knocking, bench.there))
    assert len(bench.segment.links) == 1
    assert len(bench.segment._wakes) <= 2 * len(bench.segment.links) + SPARE_WAKES + 1
    assert bench.ended(slow)[0] is SUCCESS
    bench.pass_time(86_400.0)
    assert bench.far.got(there)[0] == b"a day later"


def test_order_stays_whatever_the_jitter_and_when_the_latency_shrinks() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.1, jitter_seconds=0.09)
    for number in range(100):
        bench.near.send(here, bytes([number]))
    bench.pass_time(0.0999)
    bench.impair(delay_seconds=0.0, jitter_seconds=0.05)
    bench.near.send(here, b"last")
    parts = received(bench, there, 104)
    assert b"".join(part for _, part in parts) == bytes(range(100)) + b"last"
    times = [at for at, _ in parts]
    assert 0.0 <= times[0] <= times[-1] <= 0.05
    assert len(set(times)) > 2, "with jitter they are not all alike"


def test_what_is_on_its_way_arrives_as_it_would_have_but_no_later_than_what_is_sent_now() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.1)
    bench.near.send(here, b"a")
    bench.impair(delay_seconds=10.0)
    assert until(bench, bench.far.receive(there)) == 0.1
    bench.near.send(here, b"b")
    bench.impair(delay_seconds=0.2)
    assert until(bench, bench.far.receive(there)) == 0.2
    bench.near.send(here, b"c")
    bench.impair(delay_seconds=0.0)
    assert bench.far.got(there)[0] == b"c"


def test_loss_is_delay_and_everything_arrives_in_order() -> None:
    data = random.Random(1).randbytes(100_000)
    clean, here, there = lossy_bench(delay_seconds=0.01)
    for at in range(0, len(data), 10_000):
        clean.near.send(here, data[at : at + 10_000])
    swift = received(clean, there, len(data))[-1][0]
    times = []
    for _ in range(2):
        bench, here, there = lossy_bench(seed=3, delay_seconds=0.01, loss=0.1)
        for at in range(0, len(data), 10_000):
            bench.near.send(here, data[at : at + 10_000])
        parts = received(bench, there, len(data))
        assert b"".join(part for _, part in parts) == data
        times.append(parts[-1][0])
        assert bench.segment.medium.counts.resent > 0
        assert bench.segment.describe()["resent"] == bench.segment.medium.counts.resent
        assert bench.segment.medium.counts.lost == 0, "that is for datagrams"
    assert times[0] == times[1], "the same seed gives the same again"
    assert times[0] > swift + 0.2


def test_one_lost_packet_comes_a_round_trip_and_a_fifth_of_a_second_later_and_then_twice_that() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.05, loss=1.0)
    bench.near.send(here, b"a")
    bench.pass_time(0.899)
    bench.impair(loss=0.0)
    assert until(bench, bench.far.receive(there)) == pytest.approx(0.001 + 0.05), "lost at 0 and 0.3, sent again at 0.9"
    assert bench.segment.medium.counts.resent == 2


def test_loss_that_is_taken_back_holds_nothing_up_for_long() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.05, loss=1.0)
    bench.near.send(here, b"a")
    bench.pass_time(10)
    bench.impair(loss=0.0)
    assert until(bench, bench.far.receive(there)) == pytest.approx(0.05 + 0.2 + 0.05)


def test_nothing_gets_through_for_too_long_ends_both_sides() -> None:
    bench, here, there = lossy_bench(loss=1.0)
    assert bench.ended(bench.near.send(here, b"lost"))[0] is SUCCESS
    waiting = bench.near.receive(here), bench.far.receive(there)
    bench.pass_time(19.9)
    assert bench.waits(*waiting)
    bench.pass_time(0.1)
    assert [bench.ended(irp) for irp in waiting] == [(NtStatus.CONNECTION_ABORTED, "C32")] * 2
    assert not bench.segment.links
    connect = bench.near.connect(here, bench.there, timeout=30)
    bench.pass_time(20.0)
    assert bench.ended(connect) == (NtStatus.IO_TIMEOUT, "C9")


def test_reordering_holds_up_what_it_concerns_and_a_copy_is_nothing() -> None:
    bench, here, there = lossy_bench(reorder=1.0, reorder_seconds=0.25, duplicate=1.0)
    bench.near.send(here, b"a")
    assert received(bench, there, 1) == [(0.25, b"a")]
    bench.impair(reorder=0.0)
    bench.near.send(here, b"b")
    assert received(bench, there, 1) == [(0.0, b"b")]
    bench.pass_time(1)
    assert bench.waits(bench.far.receive(there))


def test_a_rate_is_how_fast_data_come() -> None:
    bench, here, there = lossy_bench(rate_bytes_per_second=150_000.0)
    data = bytes(PACKET) * 100
    for at in range(0, len(data), 14_600):
        bench.near.send(here, data[at : at + 14_600])
    parts = received(bench, there, len(data))
    assert parts[-1][0] == pytest.approx(1.0, abs=0.01), "100 packets of 1,500 bytes, headers included"
    assert parts[0][0] == pytest.approx(0.01)
    assert len(parts[0][1]) == PACKET, "they come packet by packet"


def test_two_connections_share_the_line_and_leave_room_for_datagrams() -> None:
    bench, here, there = lossy_bench(rate_bytes_per_second=15_000.0)
    other_there = bench.far.associated(7_001)
    bench.far.listen(other_there)
    other_here = bench.near.associated()
    other = bench.near.connect(other_here, SocketAddress(bench.far.port.host, 7_001))
    until(bench, other)
    for handle in (here, other_here):
        bench.near.send(handle, bytes(60_000))
    bench.pass_time(3.0)
    got = [len(bench.far.got(handle, 100_000)[0]) for handle in (there, other_there)]
    assert sum(got) == pytest.approx(3.0 * 15_000 * PACKET / 1_500, abs=3 * PACKET)
    assert abs(got[0] - got[1]) <= 12 * PACKET, "whoever was first had half of the backlog, and no more than that"
    bench.pass_time(2.0)
    later = [len(bench.far.got(handle, 100_000)[0]) for handle in (there, other_there)]
    assert abs(later[0] - later[1]) <= 2 * PACKET
    address = bench.near.address(6_000)
    datagram = build_send_datagram(address, SocketAddress(bench.far.port.host, 7_000), b"through")
    bench.perform(bench.near.transport.submit(datagram, bench.now))
    assert bench.segment.medium.counts.overflowed == 0


def test_no_more_is_on_its_way_than_the_receiver_keeps() -> None:
    bench = Bench(receive_buffer_bytes=100, stream=True)
    here, there = bench.connected()
    bench.impair(delay_seconds=1.0)
    sends = [bench.near.send(here, bytes(60)) for _ in range(4)]
    assert [bench.outcome(irp) is None for irp in sends] == [False, True, True, True]
    bench.pass_time(10)
    assert [bench.outcome(irp) is None for irp in sends] == [False, True, True, True], "nobody has received"
    assert len(bench.far.got(there, 1_000)[0]) == 100
    bench.pass_time(1)
    assert len(bench.far.got(there, 1_000)[0]) == 100
    many = Bench(stream=True, max_queued_requests=10_000)
    here, there = many.connected()
    many.impair(delay_seconds=1.0)
    small = [many.near.send(here, b"x") for _ in range(2_000)]
    assert sum(many.outcome(irp) is not None for irp in small) == 16 + 65_536 // 64


def test_expedited_data_overtake_what_waits_and_not_what_is_on_its_way() -> None:
    bench = Bench(receive_buffer_bytes=4)
    here, there = bench.connected()
    bench.impair(delay_seconds=0.5)
    bench.near.send(here, b"1234")
    bench.near.send(here, b"5678")
    bench.near.send(here, b"!", SendFlags.EXPEDITED)
    bench.pass_time(0.5)
    assert bench.far.got(there)[0] == b"!"
    assert bench.far.got(there)[0] == b"1234"
    bench.pass_time(0.5)
    assert bench.far.got(there)[0] == b"5678"


def test_c32_an_abort_arrives_behind_what_was_sent_before_it() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.2)
    bench.near.send(here, b"before")
    assert bench.ended(bench.near.disconnect(here, ABORT))[0] is SUCCESS
    first = bench.far.receive(there)
    assert until(bench, first) == 0.2
    assert first.returned == b"before"
    assert bench.far.state(there) is State.ASSOCIATED
    assert not bench.segment.links


def test_c33_a_release_arrives_behind_the_data_and_completes_a_way_after_the_peers() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.2)
    bench.near.send(here, b"all")
    release = bench.near.disconnect(here)
    receive = bench.far.receive(there)
    assert until(bench, receive) == 0.2
    assert bench.far.state(there) is State.RELEASE_RECEIVED
    back = bench.far.disconnect(there)
    assert bench.ended(back)[0] is SUCCESS
    assert until(bench, release) == 0.2
    assert not bench.segment.links


def test_a_partition_stops_what_is_on_its_way_and_its_end_lets_it_arrive() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.2)
    bench.near.send(here, b"on its way")
    bench.pass_time(0.1)
    bench.impair(partition=(frozenset({"vm1"}),))
    receive = bench.far.receive(there)
    bench.pass_time(5)
    assert bench.waits(receive)
    bench.impair(partition=())
    assert bench.ended(receive)[0] is SUCCESS
    assert receive.returned == b"on its way"


def test_a_partition_that_stays_aborts_a_connection_whose_data_had_all_been_taken() -> None:
    bench, here, there = lossy_bench(delay_seconds=0.2)
    assert bench.ended(bench.near.send(here, b"taken"))[0] is SUCCESS
    bench.near.transport.next_deadline()
    bench.impair(partition=(frozenset({"vm1"}),))
    waiting = bench.near.receive(here)
    assert bench.deadline(bench.near) == 20.0
    assert bench.deadline(bench.far) is None, "it has nothing to send, and so notices nothing"
    bench.pass_time(20)
    assert bench.ended(waiting) == (NtStatus.CONNECTION_ABORTED, "C9")
    bench.impair(partition=())
    assert bench.far.got(there)[0] == b"taken", "nobody had taken it back"
    theirs = bench.far.receive(there)
    assert until(bench, theirs) == 0.2
    assert bench.ended(theirs)[0] is NtStatus.CONNECTION_RESET


def test_an_acceptance_that_is_cut_off_runs_out_too() -> None:
    bench = Bench()
    bench.impair(delay_seconds=0.2)
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there)
    until(bench, listen)
    bench.impair(partition=(frozenset({"vm1"}),))
    assert bench.deadline(bench.far) == 20.0
    bench.pass_time(20)
    assert bench.ended(connect)[0] is NtStatus.IO_TIMEOUT
    assert bench.far.state(there) is State.ASSOCIATED
    assert not bench.segment.links


def test_a_handler_that_accepts_during_a_cut_learns_later_that_the_caller_had_gone() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    bench.far.handler(address, EventType.CONNECT)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there, timeout=0.5)
    bench.impair(partition=(frozenset({"vm1"}),))
    bench.pass_time(0.5)
    assert bench.ended(connect)[0] is NtStatus.IO_TIMEOUT
    there = bench.far.associated(address=address)
    accept = build_connection_request(there, Accept(None))
    bench.far.answer(NtStatus.MORE_PROCESSING_REQUIRED, irp=accept)
    assert bench.ended(accept)[0] is SUCCESS
    broken = bench.far.receive(there)
    bench.impair(partition=())
    assert bench.ended(broken)[0] is NtStatus.CONNECTION_RESET
    assert not bench.segment.links


def test_connections_change_nothing_of_what_becomes_of_datagrams() -> None:
    def fates(talk: bool) -> list[int]:
        bench, here, there = lossy_bench(loss=0.5, jitter_seconds=0.01, delay_seconds=0.02, reorder=0.3)
        address = bench.near.address(6_000)
        found = []
        for number in range(40):
            if talk:
                bench.near.send(here, b"talk")
                bench.far.receive(there)
            datagram = build_send_datagram(address, SocketAddress(bench.far.port.host, 7_000), bytes([number]))
            bench.perform(bench.near.transport.submit(datagram, bench.now))
            found.append(bench.segment.medium.counts.lost)
        return [*found, bench.segment.medium.counts.reordered]

    assert fates(talk=True) == fates(talk=False)


def test_a_segment_that_delays_nothing_keeps_nothing_on_its_way() -> None:
    bench, here, there = lossy_bench(partition=(frozenset({"vm1", "vm2"}),), duplicate=0.5)
    bench.near.send(here, b"at once")
    assert bench.segment.next_deadline() is None
    assert bench.far.got(there)[0] == b"at once"
    assert SegmentProfile().is_swift
    assert SegmentProfile(delay_seconds=1).packet_bytes is None
    assert SegmentProfile(loss=0.1).packet_bytes == PACKET
    assert SegmentProfile(loss=0.1, mtu_bytes=29).packet_bytes == 536


IMPAIRMENTS = st.fixed_dictionaries(
    {
        "delay_seconds": st.sampled_from([0.0, 0.01, 1.0]),
        "jitter_seconds": st.sampled_from([0.0, 0.02]),
        "loss": st.sampled_from([0.0, 0.2]),
        "reorder": st.sampled_from([0.0, 0.5]),
        "rate_bytes_per_second": st.sampled_from([0.0, 5_000.0, 1e6]),
    }
)


@settings(max_examples=40)
@given(st.data())
def test_a_stream_arrives_whole_and_in_order_however_it_is_impaired_on_the_way(data: st.DataObject) -> None:
    bench = Bench(stream=True, receive_buffer_bytes=data.draw(st.sampled_from([300, 4_000])), max_queued_requests=1_000)
    here, there = bench.connected()
    sent, receives = b"", []
    for step in range(data.draw(st.integers(1, 15))):
        what = data.draw(st.sampled_from(["send", "receive", "impair", "wait"]))
        if what == "send":
            piece = bytes([step]) * data.draw(st.integers(0, 1_000))
            bench.near.send(here, piece)
            sent += piece
        elif what == "receive":
            receives.append(bench.far.receive(there, data.draw(st.integers(1, 5_000))))
        elif what == "impair":
            bench.impair(**data.draw(IMPAIRMENTS))
        else:
            bench.pass_time(data.draw(st.sampled_from([0.001, 0.1])))
    bench.impair(loss=0.0)
    bench.near.disconnect(here, timeout=1e6)
    while bench.far.state(there) is State.CONNECTED:
        receives.append(bench.far.receive(there, 5_000))
        bench.pass_time(2.0)
    assert b"".join(irp.returned for irp in receives if isinstance(irp.returned, bytes)) == sent

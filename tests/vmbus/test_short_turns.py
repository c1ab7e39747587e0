"""The round trip in short: one packet asked, taken, answered by itself; the unusual is left to the usual calls."""

from __future__ import annotations

import pytest

from emulator.status import NtStatus
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import EndpointLimits, KmclProfile
from tests.vmbus.channel_pair import IN, PENDING, WAIT, ChannelPair, take

pytestmark = pytest.mark.usefixtures("ring_build")

LET_GO = KmclProfile(hold_unasked_packets=False)


def awake(data_pages: int = 4, *, limits: EndpointLimits | None = None, is_pipe: bool = False) -> ChannelPair:
    """A pair whose ends have looked at their rings once, and ask for no doorbells."""
    pair = ChannelPair(data_pages, profile=LET_GO, limits=limits, is_pipe=is_pipe)
    for end, other in ((pair.guest, pair.host), (pair.host, pair.guest)):
        other.send(b"look up!", None, 0, "look")
        take(end)
    return pair


def test_a_round_trip_in_short() -> None:
    pair = awake()
    transaction_id, doorbell = pair.guest.ask(b"question", "context")
    assert (transaction_id, doorbell, pair.guest.outstanding) == (2, False, 1)
    taken = pair.host.take_plain()
    assert taken is not None
    packet, doorbell = taken
    assert (packet.payload, packet.completion_requested, doorbell) == (b"question", True, False)
    assert pair.host.delivered == 1
    pair.host.complete(packet.handle, b"answer")
    assert pair.guest.take_answer(transaction_id) == (b"answer\0\0", False)
    assert (pair.guest.outstanding, pair.host.delivered) == (0, 0)
    # The usual calls go on where that ended.
    pair.guest.send(b"another", None, WAIT, "usual")
    assert [packet.payload for packet in take(pair.host).packets] == [b"another\0"]


def test_what_was_asked_can_be_taken_and_answered_in_the_usual_way_too() -> None:
    pair = awake()
    pair.guest.ask(b"question", "context")
    (packet,) = take(pair.host).packets
    assert packet.completion_requested
    pair.host.complete_many([(packet.handle, b"answer")])
    (completed,) = take(pair.guest).completed
    assert (completed.context, completed.payload) == ("context", b"answer\0\0")


def test_an_end_that_sleeps_is_rung_and_takes_its_packets_in_the_usual_way() -> None:
    pair = awake()
    assert pair.host.go_idle()
    assert pair.guest.ask(b"wake up!", None) == (2, True)
    assert pair.host.take_plain() is None  # its mask still asks for doorbells
    assert len(take(pair.host).packets) == 1


@pytest.mark.parametrize("size", [0, 1, 8, 13, 4096])
def test_payloads_of_every_size_are_padded_as_always(size: int) -> None:
    pair = awake()
    payload = bytes(range(256)) * 16
    transaction_id, _ = pair.guest.ask(payload[:size], None)
    taken = pair.host.take_plain()
    assert taken is not None
    assert taken[0].payload == payload[:size].ljust((size + 7) & ~7, b"\0")
    pair.host.complete(taken[0].handle, payload[:size])
    answer = pair.guest.take_answer(transaction_id)
    assert answer is not None
    assert answer[0] == payload[:size].ljust((size + 7) & ~7, b"\0")


def test_around_the_end_of_the_ring_nothing_is_different() -> None:
    pair = awake(data_pages=1)
    for number in range(300):
        payload = number.to_bytes(8, "little") * (number % 9)
        transaction_id, _ = pair.guest.ask(payload, None)
        taken = pair.host.take_plain()
        assert taken is not None
        assert taken[0].payload == payload
        pair.host.complete(taken[0].handle, payload[::-1])
        assert pair.guest.take_answer(transaction_id) == (payload[::-1], False)


def test_what_is_no_plain_packet_stays_for_the_usual_call() -> None:
    pair = awake()
    pair.host.send(b"unasked", None, 0, None)
    transaction_id, _ = pair.guest.ask(b"question", "context")
    assert pair.guest.take_answer(transaction_id) is None  # the host's own packet comes first
    taken = pair.guest.take_plain()
    assert taken is not None
    assert (taken[0].payload, taken[0].completion_requested) == (b"unasked\0", False)
    assert pair.guest.take_answer(transaction_id) is None  # nothing there yet
    pair.guest.send_with_external_mdl(b"", pair.mdl(0, 64, 0), 0, 0, WAIT, "external")
    assert pair.host.take_plain() is not None  # the question
    assert pair.host.take_plain() is None  # external data is for `receive`
    assert take(pair.host).packets[0].has_external_data


def test_answers_in_another_order_are_for_the_usual_call() -> None:
    pair = awake()
    first, _ = pair.guest.ask(b"first", "first")
    second, _ = pair.guest.ask(b"second", "second")
    handles = [taken[0].handle for _ in range(2) if (taken := pair.host.take_plain()) is not None]
    pair.host.complete(handles[1], b"2")
    assert pair.guest.take_answer(first) is None
    pair.host.complete(handles[0], b"1")
    assert pair.guest.take_answer(second) is not None
    assert [each.context for each in take(pair.guest).completed] == ["first"]


def test_y4_a_cancelled_question_is_not_answered_in_short() -> None:
    pair = awake()
    transaction_id, _ = pair.guest.ask(b"question", "context")
    ended = pair.guest.cancel(transaction_id)
    assert ended is not None
    assert ended.status is NtStatus.CANCELLED
    taken = pair.host.take_plain()
    assert taken is not None
    pair.host.complete(taken[0].handle)
    assert take(pair.guest).completed == []  # swallowed
    assert pair.guest.ask(b"again", None)[0] == transaction_id + 1


def test_nothing_is_asked_where_send_has_to_judge() -> None:
    pair = awake(limits=EndpointLimits(max_packet_bytes=64, max_outstanding=2))
    assert pair.guest.ask(bytes(65), None) == (0, False)  # K3
    pair.guest.ask(b"1", None)
    pair.guest.ask(b"2", None)
    assert pair.guest.ask(b"3", None) == (0, False)  # as many as may be outstanding
    halted = awake()
    halted.guest.set_delivering(False)
    assert halted.guest.ask(b"", None) == (0, False)
    pair.guest.close()
    assert pair.guest.ask(b"", None) == (0, False)
    assert pair.guest.take_answer(2) is None
    assert awake(is_pipe=True).guest.ask(b"", None) == (0, False)


def test_k8_with_a_full_ring_or_a_line_in_front_nothing_is_asked() -> None:
    pair = awake(data_pages=1)
    while pair.guest.ask(bytes(1000), "context")[0]:
        pass
    assert pair.guest.queued_packets == 0
    pair.guest.send(bytes(1000), None, WAIT, "in line")
    assert pair.guest.ask(b"", None) == (0, False)  # it would overtake


def test_q1_a_quota_that_is_used_up_leaves_packets_and_answers_in_the_ring() -> None:
    pair = awake()
    pair.host.set_transaction_quota(1)
    for _ in range(2):
        pair.guest.ask(b"question", None)
    taken = pair.host.take_plain()
    assert taken is not None
    assert pair.host.take_plain() is None
    assert take(pair.host).quota_blocked
    assert pair.host.complete(taken[0].handle).receive_again
    assert pair.host.take_plain() is not None


def test_a_sender_that_waits_for_room_is_rung() -> None:
    pair = awake(data_pages=1)
    while pair.guest.ask(bytes(1000), None)[0]:
        pass
    pair.guest.send(bytes(1000), None, 0, "in line")
    assert pair.to_host.control[PENDING] > 0
    rung = []
    while (taken := pair.host.take_plain()) is not None:
        rung.append(taken[1])
    assert True in rung


@pytest.mark.parametrize("index", [4, 1 << 30])
def test_damage_is_left_to_the_usual_call_or_told(index: int) -> None:
    pair = awake()
    transaction_id, _ = pair.guest.ask(b"question", "context")
    pair.to_guest.control[IN] = index
    with pytest.raises(RingCorruption):
        pair.guest.take_answer(transaction_id)
    with pytest.raises(RingCorruption):
        take(pair.guest)
    assert [each.context for each in pair.guest.close()][-1] == "context"

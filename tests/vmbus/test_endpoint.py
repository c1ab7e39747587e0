"""The channel endpoint: sends, completions, queueing, quota, external data, cancelling, closing."""

from __future__ import annotations

import struct

import pytest

from emulator.memory import GpaRange, Mdl
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, EndpointLimits
from emulator.vmbus.packets import RingCorruption, encode_completion, encode_gpa_direct, encode_in_band
from emulator.vmbus.profile import KmclProfile
from emulator.vmbus.send_rules import SendFlags
from tests.vmbus.channel_pair import FEATURES, MASK, OUT, PENDING, WAIT, ChannelPair, sender_on, take

pytestmark = pytest.mark.usefixtures("ring_build")

SUCCESS = NtStatus.SUCCESS
BIG = bytes(4048)  # one of these leaves no room in a ring of one page, pipe header or not


def fill(endpoint: ChannelEndpoint) -> None:
    assert endpoint.send(BIG, None, 0, "filler").written


def test_request_and_completion() -> None:
    pair = ChannelPair()
    outcome = pair.guest.send(b"question", None, WAIT, "context")
    assert outcome.written
    assert pair.guest.outstanding == 1
    (packet,) = pair.host_packets()
    assert (packet.payload, packet.completion_requested, packet.has_external_data) == (b"question", True, False)
    assert pair.host.complete(packet.handle, b"answer").written
    assert pair.guest_completions() == [("context", SUCCESS, b"answer\0\0", False)]
    assert (pair.guest.outstanding, pair.host.delivered) == (0, 0)


def test_the_oldest_packets_that_are_not_completed_are_known_at_both_ends() -> None:
    pair = ChannelPair()
    for context in ("first", "second"):
        pair.guest.send(b"question", None, WAIT, context)
    assert pair.guest.oldest_outstanding == (1, "first")
    packets = pair.host.receive(1, 1 << 20, 10.5).packets
    packets += pair.host.receive(1, 1 << 20, 20.5).packets
    assert pair.host.oldest_delivered == (1, 10.5)
    pair.host.complete(packets[0].handle)
    take(pair.guest)
    assert pair.guest.oldest_outstanding == (2, "second")
    assert pair.host.oldest_delivered == (2, 20.5)
    pair.host.complete(packets[1].handle)
    take(pair.guest)
    left: list[object] = [pair.guest.oldest_outstanding, pair.host.oldest_delivered]
    assert left == [None, None]


def test_k2_without_wait_a_send_ends_when_written() -> None:
    pair = ChannelPair()
    assert pair.guest.send(b"", None, 0, "context").written
    assert pair.guest.outstanding == 0
    (packet,) = pair.host_packets()
    assert not packet.completion_requested
    outcome = pair.host.complete(packet.handle, b"ignored")
    assert outcome == (False, False, False)
    assert pair.guest_completions() == []


def test_k4_changing_the_buffer_after_the_send_changes_nothing() -> None:
    pair = ChannelPair()
    fill(pair.guest)
    buffer = bytearray(b"original")
    assert not pair.guest.send(buffer, None, 0, "queued").written
    buffer[:] = b"changed!"
    pair.host_packets()
    take(pair.guest)
    assert [packet.payload for packet in pair.host_packets()] == [b"original"]


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, b"changed!"), (SendFlags.PAGED_BUFFER, b"original")], ids=["plain", "paged"]
)
@pytest.mark.parametrize("is_pipe", [False, True])
def test_k4_late_copying_as_a_test_mode(flags: int, expected: bytes, is_pipe: bool) -> None:
    pair = ChannelPair(profile=KmclProfile(copy_queued_buffers_late=True), is_pipe=is_pipe)
    fill(pair.guest)
    buffer = bytearray(b"original")
    assert not pair.guest.send(buffer, None, flags, "queued").written
    buffer[:] = b"changed! and longer"
    pair.host_packets()
    take(pair.guest)
    assert [packet.payload for packet in pair.host_packets()] == [expected]


def test_k8_full_ring_queues_in_order_and_contexts_come_back_when_written() -> None:
    pair = ChannelPair()
    fill(pair.guest)
    assert not pair.guest.send(b"a", None, 0, "a").written
    assert not pair.guest.send(b"b", None, WAIT, "b").written
    assert not pair.guest.send(b"c", None, 0, "c").written
    assert (pair.guest.queued_packets, pair.guest.outstanding) == (3, 0)
    progress = take(pair.host)
    assert progress.doorbell  # the guest asked for it with its pending size
    assert (progress.drained_packets, progress.drained_ring_bytes) == (1, 4072)
    assert pair.guest_completions() == [Completed("a", SUCCESS), Completed("c", SUCCESS)]
    assert (pair.guest.queued_packets, pair.guest.outstanding) == (0, 1)
    assert pair.to_host.control[PENDING] == 0
    assert [packet.payload[:1] for packet in pair.host_packets()] == [b"a", b"b", b"c"]


def test_k8_no_packet_overtakes_a_queued_one_although_it_would_fit() -> None:
    pair = ChannelPair()
    assert pair.guest.send(bytes(3000), None, 0, None).written
    assert not pair.guest.send(bytes(3000), None, 0, None).written
    assert not pair.guest.send(b"small", None, 0, None).written


def test_k8_too_large_for_the_ring_is_refused_not_queued() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_packet_bytes=8192))
    with pytest.raises(Refused, match="can never hold more than 4080"):
        pair.guest.send(bytes(4080), None, 0, None)
    assert pair.guest.queued_packets == 0


def test_k8_the_line_has_a_bound() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_queued_packets=2))
    fill(pair.guest)
    for _ in range(2):
        pair.guest.send(b"", None, 0, None)
    with pytest.raises(Refused) as caught:
        pair.guest.send(b"", None, 0, None)
    assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES
    assert pair.guest.queued_packets == 2


def test_outstanding_packets_have_a_bound() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_outstanding=2))
    first = pair.guest.send(b"", None, WAIT, 1)
    pair.guest.send(b"", None, WAIT, 2)
    pair.guest.cancel(first.transaction_id)  # its completion is still to come, so it still counts
    with pytest.raises(Refused, match="2 packets wait"):
        pair.guest.send(b"", None, WAIT, 3)
    assert pair.guest.send(b"", None, 0, 3).written


def test_y1_a_packet_that_may_not_queue() -> None:
    pair = ChannelPair()
    assert pair.guest.send(BIG, None, 0, None, may_queue=False).written
    with pytest.raises(Refused) as caught:
        pair.guest.send(BIG, None, 0, None, may_queue=False)
    assert caught.value.status is NtStatus.BUFFER_OVERFLOW
    assert pair.guest.queued_packets == 0


def test_k28_a_refused_send_has_no_effect() -> None:
    pair = ChannelPair()
    with pytest.raises(Refused, match="K10"):
        pair.guest.send_with_external_mdl(b"x", pair.mdl(0, 10, 0), 0, 0, 0, "context")
    assert (pair.guest.outstanding, pair.guest.queued_packets) == (0, 0)
    assert pair.host_packets() == []
    assert pair.guest.send_with_external_mdl(b"x", pair.mdl(0, 10, 0), 0, 0, WAIT, "context").transaction_id == 1


def test_external_data_travels_by_reference() -> None:
    pair = ChannelPair(2)
    second = pair.mdl(0, 0x100, 9)
    mdl = pair.mdl(0xF80, 0x100, 4, 2, next=second)
    first, last = pair.first_spare + 2, pair.first_spare + 9
    pair.guest.send_with_external_mdl(b"write", mdl, 0x80, 0x90, WAIT, "context")
    (packet,) = pair.host_packets()
    expected = (GpaRange(0x80, 0, (first,)), GpaRange(0x10, 0, (last,)))
    assert packet.has_external_data
    assert packet.ranges == pair.host.external_data(packet.handle) == expected
    pair.memory.write_range(packet.ranges[0], b"by the host")
    assert pair.memory.read(first << 12, 11) == b"by the host"
    pair.host.complete(packet.handle, b"")
    assert pair.guest_completions() == [("context", SUCCESS, b"", False)]


def test_plain_send_with_an_mdl_and_send_with_pages() -> None:
    pair = ChannelPair()
    pair.guest.send(b"", pair.mdl(8, 16, 0, next=pair.mdl(0, 4096, 1)), WAIT, None)
    pages = (pair.first_spare, pair.first_spare + 7)
    pair.guest.send_with_external_pfns(b"", pages, WAIT, None)
    first, second = pair.host_packets()
    assert first.ranges == (GpaRange(16, 8, pages[:1]), GpaRange(4096, 0, (pair.first_spare + 1,)))
    assert second.ranges == (GpaRange(8192, 0, pages),)


def test_r1_unknown_transaction_id_fails_the_channel_for_good() -> None:
    pair = ChannelPair()
    pair.guest.send(b"", None, WAIT, "context")
    foreign = sender_on(pair.to_guest)
    foreign.send_batch([encode_in_band(b"good"), encode_completion(b"", 1), encode_completion(b"", 1)])
    progress = take(pair.guest)
    assert [packet.payload[:4] for packet in progress.packets] == [b"good"]
    assert [completed.context for completed in progress.completed] == ["context"]
    assert progress.more
    for _ in range(2):
        with pytest.raises(RingCorruption, match="transaction 0x1"):
            take(pair.guest)
    for call in (pair.guest.go_idle, lambda: pair.guest.send(b"", None, 0, None), lambda: pair.guest.cancel(1)):
        with pytest.raises(RingCorruption, match="transaction 0x1"):
            call()


@pytest.mark.parametrize("flags", [0, WAIT])
def test_r1_completing_a_packet_that_is_still_in_line_or_wants_none_fails_the_channel(flags: int) -> None:
    pair = ChannelPair()
    fill(pair.guest)
    outcome = pair.guest.send(b"", None, flags, "context")
    sender_on(pair.to_guest).send_batch([encode_completion(b"", outcome.transaction_id)])
    with pytest.raises(RingCorruption, match="not outstanding"):
        take(pair.guest)
    assert [ended.context for ended in pair.guest.close()] == ["context"]


def test_r2_lengths_are_multiples_of_eight() -> None:
    pair = ChannelPair()
    pair.guest.send(b"12345", None, 0, None)
    assert pair.host_packets()[0].payload == b"12345\0\0\0"


def test_r3_completions_may_come_out_of_order_and_queue_in_the_order_issued() -> None:
    pair = ChannelPair()
    for context in "abc":
        pair.guest.send(b"", None, WAIT, context)
    handles = [packet.handle for packet in pair.host_packets()]
    fill(pair.host)
    pair.host.send(b"data in between", None, 0, None)
    for handle in (handles[2], handles[0], handles[1]):
        assert not pair.host.complete(handle, b"").written
    assert pair.host.queued_packets == 4
    assert [len(packet.payload) for packet in take(pair.guest).packets] == [4048]
    take(pair.host)
    progress = take(pair.guest)
    assert [packet.payload for packet in progress.packets] == [b"data in between\0"]
    assert [completed.context for completed in progress.completed] == ["c", "a", "b"]


def test_r3_handles_are_not_the_peers_transaction_ids() -> None:
    pair = ChannelPair()
    foreign = sender_on(pair.to_host)
    foreign.send_batch([encode_in_band(b"", (1 << 64) - 1, True)] * 2)
    first, second = pair.host_packets()
    assert (first.handle, second.handle) == (1, 2)
    pair.host.complete(second.handle, b"")
    with pytest.raises(Misuse, match="packet 2 has been completed already"):
        pair.host.complete(second.handle, b"")
    with pytest.raises(Misuse, match="packet 3 was never delivered"):
        pair.host.complete(3, b"")
    assert (pair.host.holds(1), pair.host.holds(2), pair.host.holds(3)) == (True, False, False)


def test_r3_a_completion_that_can_never_fit_is_refused_and_may_be_tried_again() -> None:
    pair = ChannelPair()
    pair.guest.send(b"", None, WAIT, "context")
    (packet,) = pair.host_packets()
    with pytest.raises(Refused, match="never fits"):
        pair.host.complete(packet.handle, bytes(5000))
    assert pair.host.complete(packet.handle, b"short").written


def test_r4_fail_sends_nothing_and_stops_the_queue() -> None:
    pair = ChannelPair()
    pair.guest.send(b"1", None, WAIT, "context")
    (packet,) = pair.host_packets()
    pair.host.fail(packet.handle)
    pair.guest.send(b"2", None, 0, None)
    progress = take(pair.host)
    assert (progress.packets, progress.more) == ([], False)
    assert pair.host.go_idle()
    assert pair.guest_completions() == []
    assert pair.guest.outstanding == 1
    with pytest.raises(Misuse, match="completed already"):
        pair.host.fail(packet.handle)


@pytest.mark.parametrize("status", [NtStatus.INVALID_PARAMETER, NtStatus.NOT_SUPPORTED])
def test_r6_no_external_data(status: NtStatus) -> None:
    pair = ChannelPair(profile=KmclProfile(no_external_data_status=status))
    pair.guest.send(b"", None, WAIT, None)
    (packet,) = pair.host_packets()
    with pytest.raises(Refused) as caught:
        pair.host.external_data(packet.handle)
    assert (caught.value.status, caught.value.rule) == (status, "R6")
    pair.host.complete(packet.handle)
    with pytest.raises(Misuse):
        pair.host.external_data(packet.handle)


@pytest.mark.parametrize(
    ("ranges", "rule", "message"),
    [
        ([GpaRange(8, 0, (10_000,))], "R7", "page 0x2710 is outside"),
        ([GpaRange(8, 0, ((1 << 64) - 1,))], "R7", "outside this machine's memory"),
        ([GpaRange(0x2001, 0, (1, 2, 3))], "K24", "8193 bytes"),
        ([GpaRange(8, 0, (1,))] * 3, "K24", "in 3 ranges"),
    ],
)
def test_r7_bad_ranges_reach_the_driver_as_an_error(ranges: list[GpaRange], rule: str, message: str) -> None:
    pair = ChannelPair(limits=EndpointLimits(max_external_bytes=0x2000, max_external_chain=2))
    sender_on(pair.to_host).send_batch([encode_gpa_direct(ranges, b"readable", 9)])
    (packet,) = pair.host_packets()
    assert (packet.payload, packet.ranges, packet.has_external_data) == (b"readable", (), True)
    assert packet.external_error is not None
    assert message in packet.external_error.message
    for _ in range(2):
        with pytest.raises(Refused, match=message) as caught:
            pair.host.external_data(packet.handle)
        assert caught.value.rule == rule
    assert pair.host.complete(packet.handle, b"").written


def test_r7_ranges_against_the_rules_of_the_wire() -> None:
    pair = ChannelPair()
    image = struct.pack("<HHHHQIIIIQ", 9, 5, 5, 1, 1, 0, 1, 8, 0x1000, 1)
    sender_on(pair.to_host).send_batch([image])
    (packet,) = pair.host_packets()
    assert packet.external_error is not None
    assert packet.external_error.rule == "R7"


def test_q1_quota_leaves_packets_in_the_ring() -> None:
    pair = ChannelPair(limits=EndpointLimits(transaction_quota=2))
    for number in range(3):
        pair.guest.send(bytes([number]), None, WAIT, number)
    progress = take(pair.host)
    assert len(progress.packets) == 2
    assert (progress.more, progress.quota_blocked) == (True, True)
    out = pair.to_host.control[OUT]
    progress = take(pair.host)
    assert (progress.packets, progress.quota_blocked) == ([], True)
    assert pair.to_host.control[OUT] == out
    assert pair.host.go_idle()
    assert pair.to_host.control[MASK] == 1  # nobody need ring: only a completion changes anything
    assert pair.host.complete(1, b"").receive_again
    progress = take(pair.host)
    assert [packet.handle for packet in progress.packets] == [3]
    assert (progress.more, progress.quota_blocked) == (False, False)


def test_q1_packets_that_want_no_completion_count_too() -> None:
    limits = EndpointLimits(transaction_quota=1)
    pair = ChannelPair(limits=limits)
    pair.guest.send(b"", None, 0, None)
    pair.guest.send(b"", None, 0, None)
    assert len(pair.host_packets()) == 1
    assert pair.host.complete(1).receive_again
    assert len(pair.host_packets()) == 1

    pair = ChannelPair(limits=limits, profile=KmclProfile(hold_unasked_packets=False))
    pair.guest.send(b"", None, 0, None)
    pair.guest.send_with_external_mdl(b"", pair.mdl(0, 8, 0), 0, 0, WAIT, None)
    assert [packet.handle for packet in take(pair.host).packets] == [1]
    assert [packet.handle for packet in take(pair.host).packets] == [2]
    assert pair.host.delivered == 1


def test_a_packet_with_external_data_is_held_whatever_it_asks_for() -> None:
    pair = ChannelPair(profile=KmclProfile(hold_unasked_packets=False))
    image = bytearray(encode_gpa_direct([GpaRange(8, 0, (pair.first_spare,))], b"", 9))
    image[6] = 0  # no driver sends one without asking for the completion; a stranger may
    sender_on(pair.to_host).send_batch([bytes(image)])
    (packet,) = pair.host_packets()
    assert pair.host.external_data(packet.handle) == packet.ranges == (GpaRange(8, 0, (pair.first_spare,)),)
    assert pair.host.complete(packet.handle, b"") == (False, False, False)
    assert pair.guest_completions() == []


def test_q1_completions_behind_the_quota() -> None:
    for strict in (True, False):
        limits = EndpointLimits(transaction_quota=1)
        pair = ChannelPair(limits=limits, profile=KmclProfile(quota_stops_completions=strict))
        pair.host.send(b"", None, WAIT, "host's own")
        (request,) = take(pair.guest).packets
        pair.guest.send(b"", None, WAIT, None)
        assert len(pair.host_packets()) == 1
        pair.guest.complete(request.handle, b"")
        progress = take(pair.host)
        assert len(progress.completed) == (0 if strict else 1)
        assert progress.quota_blocked is strict


def test_q2_q3_lowering_stops_and_raising_does_not_restart() -> None:
    pair = ChannelPair()
    for _ in range(3):
        pair.guest.send(b"", None, WAIT, None)
    assert len(pair.host.receive(2, 1 << 20).packets) == 2
    pair.host.set_transaction_quota(1)
    assert take(pair.host).quota_blocked
    pair.host.set_transaction_quota(10)
    progress = take(pair.host)
    assert (progress.packets, progress.quota_blocked) == ([], True)
    assert pair.host.complete(1).receive_again
    assert len(pair.host_packets()) == 1


def test_q2_completions_restart_only_below_the_quota() -> None:
    pair = ChannelPair(limits=EndpointLimits(transaction_quota=3))
    for _ in range(4):
        pair.guest.send(b"", None, WAIT, None)
    assert len(pair.host_packets()) == 3
    pair.host.set_transaction_quota(2)
    assert [pair.host.complete(handle).receive_again for handle in (1, 2, 3)] == [False, True, False]


def test_q4_quota_zero() -> None:
    with pytest.raises(Misuse, match="above 0"):
        ChannelPair().host.set_transaction_quota(0)
    pair = ChannelPair(profile=KmclProfile(raise_on_zero_quota=False))
    pair.host.set_transaction_quota(0)
    pair.guest.send(b"", None, 0, None)
    assert len(pair.host_packets()) == 1


def test_bounds_of_one_receive_and_completions_that_need_none() -> None:
    pair = ChannelPair()
    pair.host.send(b"", None, WAIT, "first")
    pair.host.send(b"", None, WAIT, "second")
    for request in take(pair.guest).packets:
        pair.guest.complete(request.handle)
    for _ in range(3):
        pair.guest.send(bytes(1000), None, 0, None)
    progress = pair.host.receive(0, 0)
    assert [completed.context for completed in progress.completed] == ["first", "second"]
    assert (progress.packets, progress.drained_packets, progress.drained_ring_bytes) == ([], 0, 0)
    assert (progress.more, progress.quota_blocked) == (True, False)
    progress = pair.host.receive(2, 1 << 20)
    assert (progress.drained_packets, progress.drained_ring_bytes, progress.more) == (2, 2 * 1024, True)
    progress = pair.host.receive(2, 1)
    assert (progress.drained_packets, progress.more) == (1, False)


def test_doorbells_ring_once_for_a_sleeping_peer() -> None:
    pair = ChannelPair()
    take(pair.host)
    assert pair.host.go_idle()
    assert pair.guest.send(b"", None, 0, None).doorbell
    assert not pair.guest.send(b"", None, 0, None).doorbell
    assert not pair.host.go_idle()
    assert take(pair.host).packets
    assert pair.host.go_idle()
    assert pair.guest.send(b"", None, 0, None).doorbell


def test_host_hears_no_doorbell_before_it_first_polls() -> None:
    pair = ChannelPair()
    assert not pair.guest.send(b"", None, 0, None).doorbell
    assert not pair.host.go_idle()


def test_cancel_takes_a_queued_packet_back() -> None:
    pair = ChannelPair()
    fill(pair.guest)
    queued = pair.guest.send(b"queued", None, WAIT, "context")
    assert pair.guest.cancel(queued.transaction_id) == ("context", NtStatus.CANCELLED, b"", True)
    assert pair.guest.cancel(queued.transaction_id) is None
    assert pair.guest.queued_packets == 0
    assert pair.to_host.control[PENDING] == 0
    assert [len(packet.payload) for packet in pair.host_packets()] == [4048]


def test_y4_the_late_completion_of_a_cancelled_packet_is_swallowed_once() -> None:
    pair = ChannelPair()
    sent = pair.guest.send(b"", None, WAIT, "context")
    assert pair.guest.cancel(sent.transaction_id) == ("context", NtStatus.CANCELLED, b"", False)
    assert pair.guest.cancel(sent.transaction_id) is None
    (packet,) = pair.host_packets()
    pair.host.complete(packet.handle, b"late")
    assert pair.guest_completions() == []
    sender_on(pair.to_guest).send_batch([encode_completion(b"", sent.transaction_id)])
    with pytest.raises(RingCorruption):
        take(pair.guest)


@pytest.mark.parametrize("number", [0, -1, -2, 99])
def test_cancel_of_what_is_not_outstanding(number: int) -> None:
    pair = ChannelPair()
    pair.guest.send(b"", None, WAIT, None)
    (packet,) = pair.host_packets()
    fill(pair.host)
    pair.host.complete(packet.handle)  # queued completions are nobody's to cancel
    assert pair.host.cancel(number) is None
    assert pair.host.queued_packets == 1


def test_close_ends_everything_once_in_the_order_sent() -> None:
    pair = ChannelPair()
    pair.guest.send(b"", None, WAIT, "in the ring")
    swallowed = pair.guest.send(b"", None, WAIT, "cancelled before")
    pair.guest.cancel(swallowed.transaction_id)
    pair.guest.send(bytes(3900), None, 0, "written, so it has ended")
    pair.guest.send(BIG, None, WAIT, "in line")
    pair.guest.send(b"", None, 0, "in line, without wait")
    ended = pair.guest.close(NtStatus.DEVICE_REMOVED)
    assert ended == [
        ("in the ring", NtStatus.DEVICE_REMOVED, b"", False),
        ("in line", NtStatus.DEVICE_REMOVED, b"", True),
        ("in line, without wait", NtStatus.DEVICE_REMOVED, b"", True),
    ]
    assert pair.guest.close() == []
    assert pair.guest.is_closed
    assert (pair.guest.outstanding, pair.guest.queued_packets, pair.guest.delivered) == (0, 0, 0)


def test_44_status_of_a_channel_that_closed_first_by_profile() -> None:
    for profile, status in [
        (KmclProfile(), NtStatus.CANCELLED),
        (KmclProfile(closed_first_status=NtStatus.DEVICE_REMOVED), NtStatus.DEVICE_REMOVED),
    ]:
        pair = ChannelPair(profile=profile)
        pair.guest.send(b"", None, WAIT, "context")
        assert [ended.status for ended in pair.guest.close()] == [status]


def test_after_close_every_call_is_refused_but_argument_errors_come_first() -> None:
    pair = ChannelPair()
    pair.guest.close()
    guest = pair.guest
    mdl = pair.mdl(0, 8, 0)
    for call in (
        lambda: guest.send(b"", None, 0, None),
        lambda: guest.send_with_external_mdl(b"", mdl, 0, 0, WAIT, None),
        lambda: guest.send_with_external_pfns(b"", [1], WAIT, None),
        lambda: guest.receive(1, 1),
        lambda: guest.complete(1),
        lambda: guest.fail(1),
        lambda: guest.external_data(1),
        lambda: guest.cancel(1),
        guest.go_idle,
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.status is NtStatus.INVALID_DEVICE_STATE
    with pytest.raises(Refused, match="K10"):  # K29: the channel's state comes last
        guest.send_with_external_mdl(b"", mdl, 0, 0, 0, None)


def test_checklist_33_pipe_messages_have_exact_sizes() -> None:
    pair = ChannelPair(is_pipe=True)
    for message in (b"abc", b"", b"12345678"):
        pair.guest.send(message, None, WAIT, message)
    packets = pair.host_packets()
    assert [packet.payload for packet in packets] == [b"abc", b"", b"12345678"]
    pair.host.complete(packets[0].handle, b"done")
    assert pair.guest_completions() == [(b"abc", SUCCESS, b"done\0\0\0\0", False)]
    with pytest.raises(Refused, match="pipe channel carries no external data"):
        pair.guest.send_with_external_mdl(b"", pair.mdl(0, 8, 0), 0, 0, WAIT, None)


def test_checklist_33_pipe_messages_block_and_keep_their_order() -> None:
    pair = ChannelPair(is_pipe=True)
    assert pair.guest.send(b"1" * 4000, None, 0, 1).written
    assert not pair.guest.send(b"2" * 4000, None, 0, 2).written
    assert [packet.payload[:1] for packet in pair.host_packets()] == [b"1"]
    assert pair.guest_completions() == [(2, SUCCESS, b"", False)]
    assert [packet.payload for packet in pair.host_packets()] == [b"2" * 4000]


def test_a_pipe_packet_whose_size_lies_fails_the_channel() -> None:
    pair = ChannelPair(is_pipe=True)
    sender_on(pair.to_host).send_batch([encode_in_band(struct.pack("<II", 1, 9) + bytes(8))])
    with pytest.raises(RingCorruption, match="9 bytes in a packet that holds 8"):
        take(pair.host)
    with pytest.raises(RingCorruption):
        pair.host.send(b"", None, 0, None)


def test_a_bad_out_index_fails_the_sending_end_and_close_returns_every_context() -> None:
    pair = ChannelPair()
    pair.guest.send(b"", None, WAIT, "context")
    pair.to_host.control[OUT] = 3
    for _ in range(2):
        with pytest.raises(RingCorruption, match="out index"):
            pair.guest.send(b"", None, WAIT, "never sent")
    with pytest.raises(RingCorruption, match="out index"):
        take(pair.guest)
    assert [ended.context for ended in pair.guest.close()] == ["context"]


def test_31_a_peer_that_ignores_the_pending_size_has_to_be_polled() -> None:
    pair = ChannelPair()
    assert not pair.guest.must_poll_when_blocked
    pair.to_guest.control[FEATURES] = 0
    assert pair.guest.must_poll_when_blocked


def test_mdl_pages_outside_memory_are_refused() -> None:
    pair = ChannelPair()
    with pytest.raises(Refused, match="outside this machine's memory"):
        pair.guest.send_with_external_mdl(b"", Mdl(0, 8, (pair.memory.page_count,)), 0, 0, WAIT, None)

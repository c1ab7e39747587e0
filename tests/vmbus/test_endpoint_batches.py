"""Many packets in one call of an endpoint: one publication, one doorbell, and all of them or none."""

from __future__ import annotations

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, EndpointLimits, Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import KmclProfile
from tests.vmbus.channel_pair import IN, OUT, WAIT, ChannelPair, receiver_on, sender_on, take

pytestmark = pytest.mark.usefixtures("ring_build")

SUCCESS = NtStatus.SUCCESS
PAGED = 0x4
BIG = bytes(1000)  # 1,024 in the ring: three fit one page


def payloads(count: int) -> list[bytes]:
    return [b"packet %d" % number for number in range(count)]


def test_a_batch_arrives_in_order_with_one_doorbell() -> None:
    pair = ChannelPair()
    take(pair.host)
    pair.host.go_idle()
    outcome = pair.guest.send_many(payloads(20), range(20))
    assert (outcome.first_transaction_id, outcome.written, outcome.doorbell) == (1, 20, True)
    assert [packet.payload.rstrip(b"\0") for packet in pair.host_packets()] == payloads(20)
    assert pair.guest.outstanding == 0
    assert pair.guest_completions() == []
    assert pair.guest.send_many(payloads(2), "ab") == (21, 2, False)  # awake, and told that nobody needs to ring


def test_a_batch_is_published_once() -> None:
    pair = ChannelPair()
    published = []
    sender = sender_on(pair.to_host, lambda: published.append(pair.to_host.control[IN]))
    incoming = receiver_on(pair.to_guest)
    guest = ChannelEndpoint(Side.GUEST, incoming, sender, pair.memory, KmclProfile(), EndpointLimits())
    guest.send_many(payloads(3), "abc")
    assert published == [3 * 32]


def test_nothing_is_a_batch_too() -> None:
    pair = ChannelPair()
    assert pair.guest.send_many([], []) == (1, 0, False)
    assert pair.host.complete_many([]) == (False, False, False)
    assert pair.guest.send(b"", None, 0, "").transaction_id == 1


def test_what_finds_no_room_waits_in_line_and_every_context_comes_back() -> None:
    pair = ChannelPair()
    outcome = pair.guest.send_many([BIG] * 5, "abcde")
    assert (outcome.written, pair.guest.queued_packets) == (3, 2)
    assert pair.guest.send_many([b"behind"], "f").written == 0
    assert len(pair.host_packets()) == 3
    assert [completed.context for completed in pair.guest_completions()] == ["d", "e", "f"]
    assert [packet.payload[:6] for packet in pair.host_packets()] == [bytes(6), bytes(6), b"behind"]


def test_a_batch_that_waits_for_completions() -> None:
    pair = ChannelPair()
    outcome = pair.guest.send_many([BIG] * 5, "abcde", WAIT)
    assert (outcome.written, pair.guest.outstanding) == (3, 3)
    packets = pair.host_packets()
    take(pair.guest)
    packets += pair.host_packets()
    assert pair.guest.outstanding == 5
    answers = [(packet.handle, b"to %d" % packet.handle) for packet in packets]
    assert pair.host.complete_many(answers).doorbell
    assert pair.host.delivered == 0
    ended = pair.guest_completions()
    assert [(completed.context, completed.payload.rstrip(b"\0")) for completed in ended] == [
        (name, b"to %d" % handle) for name, (handle, _) in zip("abcde", answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("batch", "flags", "rule"), [([b"", bytes(5000)], 0, "K3"), ([b"", b""], 0x2, "K9"), ([b"", b""], 0x8, "K1")]
)
def test_k28_one_refusal_refuses_the_batch(batch: list[bytes], flags: int, rule: str) -> None:
    pair = ChannelPair(data_pages=4)
    with pytest.raises(Refused) as caught:
        pair.guest.send_many(batch, "ab", flags)
    assert caught.value.rule == rule
    assert pair.host_packets() == []
    assert pair.guest.send(b"", None, 0, "").transaction_id == 1


def test_a_batch_too_long_for_the_line_leaves_nothing_behind() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_queued_packets=2))
    with pytest.raises(Refused, match="already wait"):
        pair.guest.send_many([BIG] * 6, "abcdef")
    assert (pair.host_packets(), pair.guest.queued_packets) == ([], 0)
    assert pair.guest.send_many([BIG] * 5, "abcde").written == 3
    with pytest.raises(Refused, match="2 packets of 2048 bytes already wait"):
        pair.guest.send_many([b""], "x")


def test_a_batch_beyond_the_outstanding_bound_leaves_nothing_behind() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_outstanding=3))
    pair.guest.send(b"", None, WAIT, "one")
    with pytest.raises(Refused, match="wait for their completions"):
        pair.guest.send_many([b""] * 3, "abc", WAIT)
    assert pair.guest.outstanding == 1
    assert pair.guest.send_many([b""] * 2, "ab", WAIT).written == 2


def test_each_packet_has_one_context() -> None:
    with pytest.raises(Misuse, match="2 packets came with 1 contexts"):
        ChannelPair().guest.send_many([b"", b""], "a")


def test_pipe_messages_in_a_batch_have_exact_sizes() -> None:
    pair = ChannelPair(is_pipe=True)
    pair.guest.send_many([b"abc", b"", b"exact"], "abc")
    assert [packet.payload for packet in pair.host_packets()] == [b"abc", b"", b"exact"]


@pytest.mark.parametrize("is_pipe", [False, True])
def test_k4_queued_buffers_of_a_batch_can_be_read_late(is_pipe: bool) -> None:
    pair = ChannelPair(profile=KmclProfile(copy_queued_buffers_late=True), is_pipe=is_pipe)
    pair.guest.send_many([BIG] * 3, "abc")
    buffers = [bytearray(b"first..."), bytearray(b"second..")]
    assert pair.guest.send_many([bytearray(1000), *buffers], "def").written == 0
    assert pair.guest.send_many([bytearray(b"paged...")], "g", PAGED).written == 0
    for buffer in buffers:
        buffer[:2] = b"XX"
    pair.host_packets()
    take(pair.guest)
    arrived = [packet.payload for packet in pair.host_packets()]
    assert arrived[1:] == [b"XXrst...", b"XXcond..", b"paged..."]


def test_r3_a_batch_of_completions_is_checked_before_any_is_sent() -> None:
    pair = ChannelPair()
    pair.guest.send_many([b""] * 3, "abc", WAIT)
    first, second, third = (packet.handle for packet in pair.host_packets())
    with pytest.raises(Misuse, match="twice"):
        pair.host.complete_many([(first, b""), (second, b""), (first, b"")])
    with pytest.raises(Misuse, match="never delivered"):
        pair.host.complete_many([(first, b""), (99, b"")])
    with pytest.raises(Refused, match="never fits"):
        pair.host.complete_many([(first, b""), (second, bytes(5000))])
    assert (pair.host.delivered, pair.guest_completions()) == (3, [])
    assert pair.host.complete_many([(third, b"3"), (first, b"1"), (second, b"2")]) == (True, True, False)
    assert [completed.context for completed in pair.guest_completions()] == ["c", "a", "b"]


def test_q3_a_batch_of_completions_says_once_that_packets_may_come_again() -> None:
    pair = ChannelPair(limits=EndpointLimits(transaction_quota=2))
    pair.guest.send_many([b""] * 5, "abcde", WAIT)
    packets = pair.host_packets()
    assert len(packets) == 2
    assert pair.host.complete_many([(packet.handle, b"") for packet in packets]).receive_again


def test_completions_wait_in_line_without_a_bound() -> None:
    pair = ChannelPair(limits=EndpointLimits(max_queued_packets=1))
    pair.guest.send_many([b""] * 6, "abcdef", WAIT)
    outcome = pair.host.complete_many([(packet.handle, BIG) for packet in pair.host_packets()])
    assert (outcome.written, pair.host.queued_packets) == (False, 3)
    ended = pair.guest_completions()
    take(pair.host)
    ended += pair.guest_completions()
    assert [completed.context for completed in ended] == list("abcdef")


def test_36_a_ring_broken_before_a_batch_takes_none_of_it() -> None:
    pair = ChannelPair()
    pair.to_host.control[OUT] = 3
    with pytest.raises(RingCorruption):
        pair.guest.send_many([b""] * 3, "abc")
    assert pair.guest.close() == []


def test_b4_what_was_read_is_published_once_for_a_batch_and_rings_once() -> None:
    """The sender waits for room; one receive takes all there is, moves the index once, and says "ring" once."""
    pair = ChannelPair()
    sent = 0
    while not pair.guest.queued_packets:
        pair.guest.send(bytes(500), None, 0, sent)
        sent += 1
    incoming = pair.to_host
    before = incoming.control[OUT]
    progress = take(pair.host)
    assert progress.drained_packets == sent - 1
    assert progress.doorbell
    assert incoming.control[OUT] != before
    assert not take(pair.host).doorbell, "and no second time"
    assert [each.context for each in take(pair.guest).completed] == [sent - 1], "the one that waited goes out"
    assert len(take(pair.host).packets) == 1

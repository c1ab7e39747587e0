"""Payloads that want no answer, many at a time: sent as far as the ring has room, and taken as a run."""

from __future__ import annotations

import pytest

from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import KmclProfile
from tests.vmbus.channel_pair import IN, PENDING, WAIT, ChannelPair, take

pytestmark = pytest.mark.usefixtures("ring_build")

ALL = 1 << 20
LET_GO = KmclProfile(hold_unasked_packets=False)


def numbered(count: int, size: int = 8) -> list[bytes]:
    return [number.to_bytes(8, "little").ljust(size, b"\7") for number in range(count)]


def run_of(pair: ChannelPair) -> list[bytes]:
    return pair.host.receive_payloads(ALL, ALL).payloads


def test_a_run_is_sent_with_one_doorbell_and_taken_as_payloads() -> None:
    pair = ChannelPair(profile=LET_GO)
    take(pair.host)
    pair.host.go_idle()
    assert pair.guest.send_payloads(numbered(20), 0, ALL) == (1, 20, True)
    run = pair.host.receive_payloads(ALL, ALL)
    assert run.payloads == numbered(20)
    assert run.drained_ring_bytes == 20 * 32
    assert pair.guest.send_payloads(numbered(20), 15, 3) == (21, 3, False)
    assert run_of(pair) == numbered(20)[15:18]


@pytest.mark.parametrize("is_pipe", [False, True])
def test_what_was_sent_as_a_run_comes_as_packets_too(is_pipe: bool) -> None:
    pair = ChannelPair(4, is_pipe=is_pipe)
    payloads = [b"x" * size for size in range(70)]
    assert pair.guest.send_payloads(payloads, 0, 70).written == (64 if is_pipe else 70)
    pair.guest.send_payloads(payloads, 64, 6)
    packets = pair.host_packets()
    assert [packet.payload.rstrip(b"\0") for packet in packets[:70]] == payloads
    assert not any(packet.completion_requested for packet in packets)


def test_a_full_ring_takes_what_fits_and_rings_when_there_is_room() -> None:
    pair = ChannelPair(profile=LET_GO)
    payloads = numbered(300, 64)
    first = pair.guest.send_payloads(payloads, 0, ALL)
    assert 0 < first.written < 300
    assert pair.guest.queued_packets == 0
    assert pair.to_host.control[PENDING] > 0
    assert pair.guest.send_payloads(payloads, first.written, ALL).written == 0
    run = pair.host.receive_payloads(ALL, ALL)
    assert run.doorbell
    came, sent = run.payloads, first.written
    while sent < 300:
        sent += pair.guest.send_payloads(payloads, sent, ALL).written
        came += run_of(pair)
    assert came == payloads
    assert pair.to_host.control[PENDING] == 0


def test_nothing_passes_what_waits_in_line() -> None:
    pair = ChannelPair(profile=LET_GO)
    while pair.guest.send(bytes(500), None, 0, "single").written:
        pass
    assert pair.guest.send_payloads(numbered(1), 0, 1).written == 0
    came = run_of(pair)
    take(pair.guest)  # writes what waited in line
    assert pair.guest.send_payloads(numbered(1), 0, 1).written == 1
    came += run_of(pair)
    assert came[-1] == numbered(1)[0]
    assert [len(payload) for payload in came[:-1]] == [504] * (len(came) - 1)


def test_k3_a_payload_that_is_too_long_stops_those_behind_it() -> None:
    pair = ChannelPair(profile=LET_GO)
    payloads = [b"12345678", bytes(100_000), b"87654321"]
    assert pair.guest.send_payloads(payloads, 0, ALL).written == 1
    with pytest.raises(Refused, match="K3") as refused:
        pair.guest.send_payloads(payloads, 1, ALL)
    assert refused.value.status is NtStatus.INVALID_PARAMETER_3
    assert run_of(pair) == [b"12345678"]


def test_what_is_no_bytes_is_no_payload() -> None:
    pair = ChannelPair()
    mixed: list[bytes] = [b"12345678", bytearray(8)]  # type: ignore[list-item]  # what a caller may get wrong
    assert pair.guest.send_payloads(mixed, 0, ALL).written == 1
    with pytest.raises(TypeError, match="bytearray"):
        pair.guest.send_payloads(mixed, 1, ALL)


def test_a_run_ends_in_front_of_a_packet_that_wants_an_answer() -> None:
    pair = ChannelPair(profile=LET_GO)
    pair.guest.send_payloads(numbered(2), 0, ALL)
    pair.guest.send(b"question", None, WAIT, "asker")
    pair.guest.send_payloads(numbered(3), 0, ALL)
    assert run_of(pair) == numbered(2)
    assert run_of(pair) == []
    question, *rest = pair.host_packets()
    assert question.completion_requested
    assert [packet.payload for packet in rest] == numbered(3)
    pair.host.complete(question.handle, b"answered")
    pair.host.send_payloads(numbered(1), 0, 1)
    assert pair.guest.receive_payloads(ALL, ALL).payloads == []  # a completion is no payload
    (completed,) = pair.guest_completions()
    assert completed.payload == b"answered"


def test_a_run_has_at_most_as_many_as_were_asked_for() -> None:
    pair = ChannelPair(profile=LET_GO)
    pair.guest.send_payloads(numbered(10), 0, ALL)
    assert pair.host.receive_payloads(0, ALL).payloads == []
    assert pair.host.receive_payloads(3, ALL).payloads == numbered(3)
    assert len(pair.host.receive_payloads(ALL, 64).payloads) == 2
    assert pair.host.receive_payloads(ALL, 1).payloads == numbered(6)[5:]


@pytest.mark.parametrize("profile", [KmclProfile(hold_unasked_packets=True), LET_GO])
def test_where_every_packet_is_held_or_framed_there_are_no_runs(profile: KmclProfile) -> None:
    pair = ChannelPair(profile=profile, is_pipe=not profile.hold_unasked_packets)
    pair.guest.send_payloads(numbered(2), 0, ALL)
    assert run_of(pair) == []
    assert [packet.payload for packet in pair.host_packets()] == numbered(2)


def test_damage_is_left_for_receive_to_tell() -> None:
    pair = ChannelPair(profile=LET_GO)
    pair.guest.send_payloads(numbered(2), 0, ALL)
    pair.to_host.write(32, b"\xff" * 8)
    assert run_of(pair) == numbered(1)
    assert run_of(pair) == []
    with pytest.raises(RingCorruption, match="payload at"):
        take(pair.host)
    pair = ChannelPair(profile=LET_GO)
    pair.to_host.control[IN] = 7
    with pytest.raises(RingCorruption, match="in index"):
        run_of(pair)
    with pytest.raises(RingCorruption, match="in index"):
        take(pair.host)

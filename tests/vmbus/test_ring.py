"""The ring: exact bytes, room, doorbells both ways, wrapping, and pages in any order."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from emulator.memory import PAGE_SIZE, AddressOutsideMemory, GpaRange
from emulator.status import Misuse
from emulator.vmbus.packets import (
    RingCorruption,
    TransferPages,
    TransferRange,
    encode_completion,
    encode_gpa_direct,
    encode_in_band,
    encode_transfer_pages,
    frame_pipe_message,
    parse_packet_untrusted,
)
from emulator.vmbus.profile import required_data_bytes
from emulator.vmbus.ring import RingReceiver, RingSender, initialise_as_guest, initialise_as_host
from tests.vmbus.channel_pair import (
    FEATURES,
    IN,
    MASK,
    OUT,
    PENDING,
    ends_of,
    memory_of,
    receiver_on,
    ring_of,
    ring_over,
    sender_on,
)

pytestmark = pytest.mark.usefixtures("ring_build")

MANY = 1 << 20


def packet(byte_count: int) -> bytes:
    return encode_in_band(bytes(byte_count))


def fill(sender: RingSender, byte_count: int = 4000) -> int:
    count = 0
    while sender.send_batch([packet(byte_count)]).written:
        count += 1
    return count


@pytest.mark.parametrize(
    ("image", "offset", "expected"),
    [
        pytest.param(encode_in_band(b"\1\2\3"), 0, "0600020003" + "00" * 11 + "010203" + "00" * 13, id="V12"),
        pytest.param(
            encode_completion(bytes(4), 0x1122), 0x40, "0b000200030000002211" + "00" * 18 + "40000000", id="V13"
        ),
        pytest.param(
            encode_gpa_direct([GpaRange(0x1000, 0x20, (0x10, 0x11))], b"\xaa" * 8, 5),
            0,
            "090006000700010005000000000000000000000001000000001000002000000010000000000000001100000000000000"
            "aaaaaaaaaaaaaaaa0000000000000000",
            id="V14",
        ),
        pytest.param(
            encode_in_band(frame_pipe_message(b"hello")),
            0,
            "06000200040000000000000000000000010000000500000068656c6c6f0000000000000000000000",
            id="V15",
        ),
        pytest.param(
            encode_transfer_pages(TransferPages(0xCAFE, False, (TransferRange(0x40, 0x1000),)), b"", 9),
            0,
            "07000400040001000900000000000000feca000001000000" + "4000000000100000" + "00" * 8,
            id="V17",
        ),
    ],
)
def test_vectors_in_the_ring_with_footer(image: bytes, offset: int, expected: str) -> None:
    ring = ring_of(1)
    ring.write(0, b"\xff" * PAGE_SIZE)  # what lay there before must not show through the padding
    ring.control[IN] = ring.control[OUT] = offset
    sender = sender_on(ring)
    sender.send_batch([image])
    assert ring.read(offset, len(image) + 8).hex() == expected
    assert ring.control[IN] == offset + len(image) + 8


def test_footers_of_a_batch_name_each_packets_own_place() -> None:
    ring = ring_of(1)
    ring.control[IN] = ring.control[OUT] = 4096 - 64
    sender_on(ring).send_batch([packet(8), packet(16), packet(0)])
    footers = [ring.read(end - 8 & 4095, 8).hex() for end in (4096 - 32, 4096 + 8, 4096 + 32)]
    assert footers == ["00000000c00f0000", "00000000e00f0000", "0000000008000000"]


def test_checklist_25_round_trip_of_eight_bytes_signals_the_receiver_only() -> None:
    sender, receiver = ends_of(ring_of(1))
    image = encode_in_band(b"8 bytes!")
    assert sender.send_batch([image]) == (1, True)
    assert receiver.receive_batch(MANY, MANY) == ([image], 32, False, True)


def test_checklist_26_mask_stops_the_writers_signal() -> None:
    sender, receiver = ends_of(ring_of(1))
    receiver.mask()
    assert not sender.send_batch([packet(8)]).signal
    receiver.receive_batch(MANY, MANY)
    assert receiver.go_idle()
    assert sender.send_batch([packet(8)]).signal


def test_checklist_27_pending_size_is_signalled_when_crossed_and_only_then() -> None:
    ring = ring_of(4)
    sender, receiver = ends_of(ring)
    assert sender.send_batch([packet(4000)] * 5).written == 4
    assert ring.control[IN] == 4 * 4024
    assert not sender.block(8048)
    assert ring.control[PENDING] == 8048
    assert [receiver.receive_batch(1, MANY).signal for _ in range(4)] == [False, True, False, False]


def test_checklist_32_one_page_ring() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    assert sender.send_batch([packet(4000), packet(4000)]).written == 1
    assert not sender.block(4024)
    assert receiver.receive_batch(1, MANY).signal
    assert sender.send_batch([packet(4000)]).written == 1
    sender.unblock()
    assert ring.control[PENDING] == 0


def test_31_what_each_side_initialises() -> None:
    memory = memory_of(4)
    to_host = ring_over(memory, [0, 1])
    to_guest = ring_over(memory, [2, 3])
    memory.write(0, b"\xff" * PAGE_SIZE)
    memory.write(2 * PAGE_SIZE, b"\xff" * PAGE_SIZE)
    initialise_as_guest(to_host, to_guest)
    expected = bytearray(PAGE_SIZE)
    expected[64] = 1
    assert memory.read(0, PAGE_SIZE) == memory.read(2 * PAGE_SIZE, PAGE_SIZE) == expected
    to_guest.control[FEATURES] = 0
    to_guest.control[PENDING] = 5
    to_host.control[IN] = to_host.control[OUT] = 24
    initialise_as_host(incoming=to_host, outgoing=to_guest)
    assert (to_host.control[MASK], to_host.control[IN], to_host.control[OUT]) == (1, 24, 24)
    assert (to_guest.control[PENDING], to_guest.control[FEATURES], to_guest.control[MASK]) == (0, 1, 0)


@pytest.mark.parametrize("word", [IN, OUT])
@pytest.mark.parametrize("value", [4, 4096, 0xFFFFFFF8])
def test_31_host_refuses_illegal_indices_at_open(word: int, value: int) -> None:
    good, bad = ring_of(1), ring_of(1)
    bad.control[word] = value
    for rings in ((good, bad), (bad, good)):
        with pytest.raises(RingCorruption, match="not a multiple of 8 below"):
            initialise_as_host(*rings)
    with pytest.raises(RingCorruption):
        ends_of(bad)


def test_32_room_keeps_eight_bytes_free_and_equal_indices_mean_empty() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    assert sender.free_bytes() == 4088
    assert sender.would_ever_fit(4080)
    assert not sender.would_ever_fit(4088)
    assert sender.send_batch([packet(4088 - 24)]).written == 1  # a foreign sender may fill it to the last unit
    assert sender.free_bytes() == 0
    received = receiver.receive_batch(MANY, MANY)
    assert (received.ring_bytes, received.empty) == (4088, True)
    assert ring.control[IN] == ring.control[OUT] == 4088


def test_34_writer_signals_once_for_a_batch_and_not_into_a_busy_ring() -> None:
    sender, receiver = ends_of(ring_of(1))
    assert sender.send_batch([packet(8)] * 3) == (3, True)
    assert sender.send_batch([packet(8)]) == (1, False)
    receiver.receive_batch(1, MANY)
    receiver.go_idle()
    assert sender.send_batch([packet(8)]) == (1, False)


def test_34_publishing_comes_before_the_look_at_mask_and_out() -> None:
    ring = ring_of(1)
    events: list[tuple[int, ...]] = []

    def reader_goes_idle_meanwhile() -> None:
        events.append((ring.control[IN], ring.control[OUT]))
        ring.control[MASK] = 0  # seen only by a sender that looks after the fence

    sender = sender_on(ring, reader_goes_idle_meanwhile)
    ring.control[MASK] = 1
    assert sender.send_batch([packet(8)]).signal
    assert events == [(32, 0)]


def test_34_reader_looks_for_a_blocked_sender_after_publishing_out() -> None:
    ring = ring_of(1)
    sender = sender_on(ring)
    sender.send_batch([packet(4000)])
    seen: list[int] = []

    def sender_blocks_meanwhile() -> None:
        seen.append(ring.control[OUT])
        ring.control[PENDING] = 1024

    assert receiver_on(ring, sender_blocks_meanwhile).receive_batch(1, MANY).signal
    assert seen == [4024]


def test_34_reader_going_idle_sees_what_came_after_its_last_look() -> None:
    ring = ring_of(1)
    sender = sender_on(ring)
    receiver = receiver_on(ring, lambda: void(sender.send_batch([packet(8)])))
    receiver.mask()
    assert not receiver.go_idle()
    assert ring.control[MASK] == 0
    assert len(receiver.receive_batch(MANY, MANY).images) == 1
    assert ring.control[MASK] == 1


def void(_: object) -> None:
    """For a fence made of a call that returns something."""


def test_34_blocked_sender_sees_room_that_came_meanwhile() -> None:
    ring = ring_of(1)
    receiver: deque[RingReceiver] = deque()
    sender = sender_on(ring, lambda: void([each.receive_batch(1, MANY) for each in receiver]))
    assert fill(sender) == 1
    receiver.append(receiver_on(ring))
    assert sender.block(4024)


@pytest.mark.parametrize(("needed", "pending"), [(32, 1024), (1032, 1032), (1033, 1040), (4080, 4080), (9999, 4088)])
def test_34_pending_size_is_at_least_a_quarter_and_at_most_the_ring(needed: int, pending: int) -> None:
    ring = ring_of(1)
    sender_on(ring).block(needed)
    assert ring.control[PENDING] == pending


def test_34_no_signal_without_the_feature_bit() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    before = receiver.peer_honours_pending_size
    ring.control[FEATURES] = 0
    assert (before, receiver.peer_honours_pending_size) == (True, False)
    fill(sender)
    sender.block(4024)
    assert not receiver.receive_batch(1, MANY).signal


def test_34_no_signal_when_there_was_exactly_enough_room_before() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([packet(8)] * 2)
    ring.control[PENDING] = sender.free_bytes()
    assert not receiver.receive_batch(1, MANY).signal
    ring.control[PENDING] = sender.free_bytes() + 8
    assert receiver.receive_batch(1, MANY).signal


def test_34_low_bits_of_the_pending_size_do_not_count() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    fill(sender)
    ring.control[PENDING] = 4095  # as senders write that ask for "one less than all"
    assert receiver.receive_batch(1, MANY).signal


def test_unpadded_packets_are_refused_before_anything_is_written() -> None:
    ring = ring_of(1)
    with pytest.raises(Misuse, match="padded"):
        sender_on(ring).send_batch([packet(8), b"x" * 20, b"y" * 20])
    assert ring.control[IN] == 0


def test_bounds_of_a_batch_and_one_packet_whatever_its_size() -> None:
    sender, receiver = ends_of(ring_of(4))
    sender.send_batch([packet(1000)] * 10)
    assert len(receiver.receive_batch(3, MANY).images) == 3
    assert len(receiver.receive_batch(MANY, 2 * 1024).images) == 2
    received = receiver.receive_batch(MANY, 1)
    assert (len(received.images), received.ring_bytes, received.empty) == (1, 1024, False)
    assert receiver.receive_batch(0, MANY) == ([], 0, False, False)
    assert receiver.receive_batch(MANY, MANY).empty


def test_b3_completions_do_not_count_in_the_bounds() -> None:
    sender, receiver = ends_of(ring_of(4))
    done = encode_completion(bytes(40), 7)
    sender.send_batch([done, done, packet(8), done, packet(8), done])
    assert receiver.receive_batch(0, 0).images == [done, done]
    assert receiver.receive_batch(1, 1).images == [packet(8), done]
    assert receiver.receive_batch(1, 1).images == [packet(8), done]


@pytest.mark.parametrize("pfns", [(0, 5, 3, 4), (2, 1, 9, 0), (7, 3, 4, 5), (4, 3, 2, 1), (0, 5, 9, 7)])
def test_pages_in_any_order_hold_the_same_bytes(pfns: tuple[int, ...]) -> None:
    memory = memory_of(10)
    ring = ring_of(3, memory, pfns)
    data = Random(1).randbytes(3 * PAGE_SIZE)
    ring.write(0, data)
    assert b"".join(memory.read(pfn * PAGE_SIZE, PAGE_SIZE) for pfn in pfns[1:]) == data
    for offset, count in [(4090, 12), (8, 3 * PAGE_SIZE - 8), (3 * PAGE_SIZE - 8, 24), (4096, 4096), (100, 0)]:
        twice = data + data
        assert ring.read(offset, count) == twice[offset : offset + count]
    ring.write(3 * PAGE_SIZE - 8, b"around the end..")
    assert memory.read(pfns[3] * PAGE_SIZE + 4088, 8) + memory.read(pfns[1] * PAGE_SIZE, 8) == b"around the end.."


def test_a_page_used_twice_stays_inside_itself() -> None:
    memory = memory_of(4)
    ring = ring_of(2, memory, (1, 2, 2))
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(b"first")])
    assert parse_packet_untrusted(receiver.receive_batch(1, MANY).images[0]).payload == b"first\0\0\0"
    sender.send_batch([packet(6000)])
    assert memory.read(0, PAGE_SIZE) == memory.read(3 * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_rings_need_pages_that_exist() -> None:
    memory = memory_of(4)
    with pytest.raises(AddressOutsideMemory):
        ring_over(memory, [0, 4])
    with pytest.raises(Misuse, match="control page"):
        ring_over(memory, [0])


def test_release_lets_memory_go() -> None:
    memory = memory_of(3)
    for pfns in ([0, 1, 2], [0, 2, 1]):
        ring = ring_over(memory, pfns)
        ring.release()
        with pytest.raises(ValueError, match="released"):
            void(ring.control[IN])
        with pytest.raises(ValueError, match="released"):
            ring.read(0, 8)


@pytest.mark.parametrize("pfns", [range(3), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_random_batches_wrap_in_order(pfns: tuple[int, ...], seed: int) -> None:
    random = Random(seed)
    ring = ring_of(2, memory_of(3), pfns)
    sender, receiver = ends_of(ring)
    sent: deque[bytes] = deque()
    number = 0
    for _ in range(1500):
        batch = []
        for _ in range(random.randrange(6)):
            number += 1
            batch.append(encode_in_band(random.randbytes(random.choice([0, 5, 64, 700, 3000])), number))
        written = sender.send_batch(batch).written
        assert written == len(batch) or len(batch[written]) + 8 > sender.free_bytes()
        sent.extend(batch[:written])
        received = receiver.receive_batch(random.randrange(8), random.choice([1, 3000, MANY]))
        assert received.images == [sent.popleft() for _ in received.images]
        assert sum(len(image) + 8 for image in received.images) == received.ring_bytes
        assert received.empty == (not sent)
    assert number > 3000


def test_required_data_bytes_hold_the_largest_packet() -> None:
    for sizes in [(4096, 1 << 20, 32), (1, 1, 1), (8000, 4096, 1), (65536, 8 << 20, 64)]:
        needed = required_data_bytes(*sizes)
        assert needed % PAGE_SIZE == 0
        packet_bytes, external, chain = sizes
        pages = -(-external // PAGE_SIZE) + chain
        cost = 24 + 8 * chain + 8 * pages + -(-packet_bytes // 8) * 8 + 8
        assert cost <= needed - 16 < cost + PAGE_SIZE


def test_a_batch_of_less_than_nothing_is_one_of_nothing() -> None:
    sender, receiver = ends_of(ring_of(1))
    sender.send_batch([packet(8)])
    assert receiver.receive_batch(-1, -1) == ([], 0, False, False)
    assert receiver.receive_batch(1, -1).images == [packet(8)]


def test_what_is_no_bytes_is_a_type_error_and_nothing_is_written() -> None:
    ring = ring_of(1)
    sender, _ = ends_of(ring)
    for wrong in ("a string of text", 5, None):
        with pytest.raises(TypeError):
            sender.send_batch([wrong])  # type: ignore[list-item]  # what a caller without a type checker may do
    assert (ring.control[IN], sender.free_bytes()) == (0, 4088)


def test_what_came_out_stays_as_it_was_when_more_comes() -> None:
    sender, receiver = ends_of(ring_of(1))
    sender.send_batch([packet(8)])
    first = receiver.receive_batch(MANY, MANY)
    nothing = receiver.receive_batch(MANY, MANY)
    sender.send_batch([packet(16), packet(0)])
    both = receiver.receive_batch(MANY, MANY)
    assert first == ([packet(8)], 32, False, True)
    assert nothing == ([], 0, False, True)
    assert both == ([packet(16), packet(0)], 64, False, True)
    assert len({id(first), id(nothing), id(both)}) == 3
    assert [type(field) for field in both] == [list, int, bool, bool]

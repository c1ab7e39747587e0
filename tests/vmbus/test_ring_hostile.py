"""A peer that puts anything into the ring between our looks at it: one sticky error, and nothing outside is touched."""

from __future__ import annotations

import struct

import pytest

from emulator.vmbus.packets import RingCorruption, encode_in_band
from tests.vmbus.channel_pair import IN, MASK, OUT, PENDING, ends_of, receiver_on, ring_of, sender_on

pytestmark = pytest.mark.usefixtures("ring_build")

MANY = 1 << 20


@pytest.mark.parametrize("value", [4096, 4100, 4, 1, 0xFFFFFFFF, 0xFFFFFFF8])
def test_36_illegal_in_is_sticky_at_the_receiver(value: int) -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(b"good")])
    good = ring.control[IN]
    ring.control[IN] = value
    with pytest.raises(RingCorruption, match="in index"):
        receiver.receive_batch(MANY, MANY)
    ring.control[IN] = good
    for call in (lambda: receiver.receive_batch(MANY, MANY), receiver.go_idle, receiver.used_bytes):
        with pytest.raises(RingCorruption, match="in index"):
            call()
    assert ring.control[OUT] == 0


@pytest.mark.parametrize("value", [4096, 4, 0xFFFFFFFF])
def test_36_illegal_out_is_sticky_at_the_sender(value: int) -> None:
    ring = ring_of(1)
    sender = sender_on(ring)
    ring.control[OUT] = value
    with pytest.raises(RingCorruption, match="out index"):
        sender.send_batch([encode_in_band(b"")])
    ring.control[OUT] = 0
    for call in (lambda: sender.send_batch([encode_in_band(b"")]), sender.free_bytes, lambda: sender.block(8)):
        with pytest.raises(RingCorruption, match="out index"):
            call()
    assert ring.control[IN] == 0


def test_36_indices_that_move_back_are_corruption() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(bytes(40))] * 3)
    receiver.receive_batch(1, MANY)
    ring.control[IN] = 128
    with pytest.raises(RingCorruption, match="in index moved back"):
        receiver.receive_batch(1, MANY)

    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(bytes(40))] * 3)
    receiver.receive_batch(2, MANY)
    assert sender.free_bytes() == 4088 - 64
    ring.control[OUT] = 64
    with pytest.raises(RingCorruption, match="out index moved back"):
        sender.free_bytes()


def test_36_our_own_indices_in_shared_memory_are_output_only() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(b"one")])
    ring.control[OUT] = 8  # the receiver's; a sender looks at it, the receiver never does
    assert len(receiver.receive_batch(MANY, MANY).images) == 1
    assert ring.control[OUT] == 32
    ring.control[IN] = 2048
    sender.send_batch([encode_in_band(b"two")])
    assert ring.control[IN] == 64
    assert len(receiver.receive_batch(MANY, MANY).images) == 1


def test_36_a_mask_we_cleared_and_find_set_is_corruption() -> None:
    ring = ring_of(1)
    receiver = receiver_on(ring)
    assert receiver.go_idle()
    ring.control[MASK] = 1
    with pytest.raises(RingCorruption, match="interrupt mask"):
        receiver.receive_batch(1, MANY)


@pytest.mark.parametrize(
    ("out", "signal"), [(0, True), (8, False), (4088, False), (4, True), (4096, True), (0xFFFFFFFF, True)]
)
def test_36_a_bad_out_while_deciding_about_the_doorbell_rings_it_so_that_somebody_looks(out: int, signal: bool) -> None:
    ring = ring_of(1)

    def scribble() -> None:
        ring.control[OUT] = out

    assert sender_on(ring, scribble).send_batch([encode_in_band(b"")]) == (1, signal)
    ring.control[MASK] = 1  # it is awake, and looks anyway
    ring.control[OUT] = 0
    assert not sender_on(ring, scribble).send_batch([encode_in_band(b"")]).signal


@pytest.mark.parametrize("pending", [1, 7, 0xFFFFFFFF, 0xFFFFFFF8])
def test_36_a_senseless_pending_size_means_no_doorbell(pending: int) -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(bytes(4000))])
    ring.control[PENDING] = pending
    assert not receiver.receive_batch(1, MANY).signal


@pytest.mark.parametrize(
    ("data_offset8", "length8", "used"),
    [(1, 3, 32), (0, 0, 32), (3, 2, 32), (2, 4, 32), (2, 0xFFFF, 32), (2, 2, 16), (2, 2, 8), (2, 3, 24)],
)
def test_36_descriptors_that_do_not_fit_are_corruption(data_offset8: int, length8: int, used: int) -> None:
    ring = ring_of(1)
    receiver = receiver_on(ring)
    ring.write(0, struct.pack("<HHHHQ", 6, data_offset8, length8, 0, 0))
    ring.control[IN] = used
    for _ in range(2):
        with pytest.raises(RingCorruption, match=r"payload at|no packet"):
            receiver.receive_batch(MANY, MANY)
    assert ring.control[OUT] == 0


def test_36_good_packets_in_front_of_a_bad_one_are_delivered_first() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    image = encode_in_band(b"good")
    sender.send_batch([image, image])
    ring.write(2 * 32, b"\xff" * 64)
    ring.control[IN] = 128
    received = receiver.receive_batch(MANY, MANY)
    assert received.images == [image, image]
    assert not received.empty
    assert ring.control[OUT] == 64
    with pytest.raises(RingCorruption, match="payload at"):
        receiver.receive_batch(MANY, MANY)


def test_36_fewer_bytes_than_a_descriptor_are_no_packet() -> None:
    ring = ring_of(1)
    receiver = receiver_on(ring)
    ring.control[IN] = 8
    with pytest.raises(RingCorruption, match=r"^8 bytes in the ring are no packet$"):
        receiver.receive_batch(MANY, MANY)

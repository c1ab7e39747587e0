"""A peer that writes anything anywhere in the ring at any moment: one sticky error, and nothing outside is touched."""

from __future__ import annotations

import struct
from random import Random

import pytest

from emulator.memory import PAGE_SIZE
from emulator.vmbus.packets import RingCorruption, encode_in_band, parse_packet_untrusted
from emulator.vmbus.ring import RingMemory, RingReceiver, RingSender
from tests.vmbus.channel_pair import IN, MASK, OUT, PENDING, ends_of, memory_of, ring_of

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
    sender = RingSender(ring)
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
    receiver = RingReceiver(ring)
    assert receiver.go_idle()
    ring.control[MASK] = 1
    with pytest.raises(RingCorruption, match="interrupt mask"):
        receiver.receive_batch(1, MANY)


def test_36_a_bad_out_while_deciding_about_the_doorbell_means_none() -> None:
    ring = ring_of(1)

    def scribble() -> None:
        ring.control[OUT] = 0xFFFFFFFF

    assert RingSender(ring, scribble).send_batch([encode_in_band(b"")]) == (1, False)


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
    receiver = RingReceiver(ring)
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


class ShiftingMemory(RingMemory):
    """Ring memory that a peer rewrites before every single access."""

    def __init__(self, ring: RingMemory, random: Random, harm: float) -> None:
        super().__init__(self, ring._data, ring.data_bytes)
        self._words = ring.control
        self._random = random
        self._harm = harm
        self.accesses = 0

    def _scribble(self) -> None:
        self.accesses += 1
        random = self._random
        if random.random() < self._harm:
            value = random.choice([random.randrange(1 << 32), random.randrange(0, self.data_bytes, 8), 0, 1])
            self._words[random.choice([IN, OUT, MASK, PENDING, 16])] = value
        if random.random() < self._harm:
            at = random.randrange(self.data_bytes - 8)
            self._data[at : at + 8] = random.randbytes(8)

    def __getitem__(self, index: int, /) -> int:
        self._scribble()
        return self._words[index]

    def __setitem__(self, index: int, value: int, /) -> None:
        self._words[index] = value
        self._scribble()

    def read(self, offset: int, byte_count: int) -> bytes:
        self._scribble()
        return super().read(offset, byte_count)


def drive(sender: RingSender, receiver: RingReceiver, random: Random) -> int:
    """Use both ends until one fails; how many packets came out that could be parsed."""
    parsed = 0
    for _ in range(60):
        sender.send_batch([encode_in_band(bytes(random.randrange(300)))] * random.randrange(4))
        sender.block(random.randrange(5000))
        for image in receiver.receive_batch(random.randrange(5), 4096).images:
            parse_packet_untrusted(image)
            parsed += 1
        receiver.go_idle()
    return parsed


@pytest.mark.parametrize("harm", [0.01, 0.1, 0.9])
def test_36_memory_that_changes_at_every_access(harm: float) -> None:
    failures = parsed = 0
    for seed in range(300):
        random = Random(seed)
        memory = memory_of(6)
        guard = random.randbytes(PAGE_SIZE)
        for page in (0, 3, 4, 5):
            memory.write(page * PAGE_SIZE, guard)
        shifting = ShiftingMemory(ring_of(1, memory, (1, 2)), random, harm)
        try:
            parsed += drive(RingSender(shifting), RingReceiver(shifting), random)
        except RingCorruption:
            failures += 1
        for page in (0, 3, 4, 5):
            assert memory.read(page * PAGE_SIZE, PAGE_SIZE) == guard
        assert shifting.accesses < 2000
    assert failures > 200
    assert parsed > 0 or harm > 0.05

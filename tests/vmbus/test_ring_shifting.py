"""The pure ring over memory that a peer rewrites before every single access: one error, and nothing outside is touched.

This sees every interleaving a real peer could bring about. The compiled ring has no such view to be given; a scribbler
that runs at the same time does the like for it, in ``test_ring_scribbler``.
"""

from __future__ import annotations

from random import Random

import pytest

from emulator.memory import PAGE_SIZE
from emulator.vmbus.packets import RingCorruption, encode_in_band, parse_packet_untrusted
from emulator.vmbus.pure_ring import RingMemory, RingReceiver, RingSender
from emulator.vmbus.ring import initialise_as_guest
from tests.vmbus.channel_pair import IN, MASK, OUT, PENDING, memory_of


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
        ring = RingMemory.over(memory, (1, 2))
        initialise_as_guest(ring)
        shifting = ShiftingMemory(ring, random, harm)
        try:
            parsed += drive(RingSender(shifting), RingReceiver(shifting), random)
        except RingCorruption:
            failures += 1
        for page in (0, 3, 4, 5):
            assert memory.read(page * PAGE_SIZE, PAGE_SIZE) == guard
        assert shifting.accesses < 2000
    assert failures > 200
    assert parsed > 0 or harm > 0.05

"""Ring code nobody here wrote is the judge of ours: the library's ends and our ends do the same, in any mix.

One plan is carried out in four worlds, for each way of giving the two ends of a ring to the library and to a build of
ours. After every step the worlds agree in what was said (room, doorbells, packets) and in every byte of memory.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TypeVar

import pytest

from emulator.memory import PAGE_SIZE, GpaRange
from emulator.vmbus.packets import encode_completion, encode_gpa_direct, encode_in_band, ring_bytes
from emulator.vmbus.ring import Sent
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
    sender_on,
)
from tests.vmbus.foreign_ring import LARGEST_PACKET, ForeignChannel, Taken, find_library

pytestmark = pytest.mark.usefixtures("ring_build")

IN_BAND, GPA_DIRECT, COMPLETION = 6, 9, 11
EVERYTHING = 1 << 30
T = TypeVar("T")
Took = tuple[list[bytes] | list[Taken], int, bool, bool]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return find_library()


class Message:
    """A packet to be sent: as our encoder writes it, and as it is asked of the library."""

    def __init__(self, random: Random, byte_count: int) -> None:
        self.kind = random.choice((IN_BAND, IN_BAND, GPA_DIRECT, COMPLETION))
        self.transaction_id = random.choice((0, 1, random.getrandbits(64), (1 << 64) - 1))
        self.ranges: tuple[GpaRange, ...] = ()
        self.flags = 0
        if self.kind == GPA_DIRECT and byte_count >= 40:
            self.ranges = tuple(self._range(random) for _ in range(random.randint(1, min(32, (byte_count - 24) // 16))))
            self.payload = random.randbytes(byte_count - 24 - 16 * len(self.ranges))
            self.image = encode_gpa_direct(self.ranges, self.payload, self.transaction_id)
            return
        self.payload = random.randbytes(byte_count - 16)
        if self.kind == COMPLETION:
            self.image = encode_completion(self.payload, self.transaction_id)
            return
        self.kind = IN_BAND
        self.flags = random.randint(0, 1)
        self.image = encode_in_band(self.payload, self.transaction_id, bool(self.flags))

    @staticmethod
    def _range(random: Random) -> GpaRange:
        offset = random.randrange(PAGE_SIZE)
        return GpaRange(random.randint(1, PAGE_SIZE - offset), offset, (random.getrandbits(52),))


class World:
    """A ring, and an end of ours or of the library's on either side of it."""

    def __init__(self, library: ctypes.CDLL, data_pages: int, start: int, foreign: tuple[bool, bool]) -> None:
        self.memory = memory_of(data_pages + 1)
        self.ring = ring_of(data_pages, self.memory)
        self.ring.control[IN] = self.ring.control[OUT] = start
        pages = range(data_pages + 1)
        self.sender, self.receiver = ends_of(self.ring)
        self.foreign_sender = ForeignChannel(library, self.memory, outgoing=pages) if foreign[0] else None
        self.foreign_receiver = ForeignChannel(library, self.memory, incoming=pages) if foreign[1] else None

    def reopen(self) -> None:
        """Our ends begin anew where the ring stands; the library's have nothing that could be stale."""
        if self.foreign_sender is None:
            self.sender = sender_on(self.ring)
        if self.foreign_receiver is None:
            self.receiver = receiver_on(self.ring)

    def send(self, messages: list[Message], self_ringing: bool) -> Sent:
        """How many found room, and whether to ring."""
        if self.foreign_sender is None:
            return self.sender.send_batch([message.image for message in messages])
        rings = []
        for message in messages:
            ring = self._send_one(self.foreign_sender, message, self_ringing)
            if ring is None:
                break
            rings.append(ring)
        return Sent(len(rings), any(rings))

    @staticmethod
    def _send_one(sender: ForeignChannel, message: Message, self_ringing: bool) -> bool | None:
        if message.ranges:
            return sender.send_ranges(message.ranges, message.payload, message.transaction_id)
        send = sender.send_and_ring if self_ringing else sender.send
        return send(message.kind, message.payload, message.transaction_id, message.flags)

    def take(self, count: int, with_descriptors: bool) -> Took:
        """At most ``count`` packets, the ring bytes they gave back, whether to ring, and whether nothing is left.

        ``with_descriptors`` says which of the library's two calls is used; ours are brought into the form of either.
        """
        if self.foreign_receiver is None:
            images, consumed, signal, empty = self.receiver.receive_batch(count, EVERYTHING)
            return (
                images if with_descriptors else [without_descriptor(image) for image in images],
                consumed,
                signal,
                empty,
            )
        receiver = self.foreign_receiver
        if not receiver.is_empty():
            self.ring.control[MASK] = 1  # the library leaves this to its caller
        before = self.ring.control[OUT]
        if with_descriptors:
            taken = list(itertools.islice(iter(receiver.take, None), count))
            consumed = sum(cost for _, cost in taken)
            assert consumed == (self.ring.control[OUT] - before) % self.ring.data_bytes
            return [image for image, _ in taken], consumed, receiver.signal_after_taking(consumed), receiver.is_empty()
        payloads = list(itertools.islice(iter(receiver.take_payload, None), count))
        consumed = (self.ring.control[OUT] - before) % self.ring.data_bytes
        return payloads, consumed, receiver.rang(), receiver.is_empty()

    def go_idle(self) -> bool:
        if self.foreign_receiver is None:
            return self.receiver.go_idle()
        self.ring.control[MASK] = 0
        return self.foreign_receiver.is_empty()

    def block(self, needed: int) -> None:
        """A sender waits for room. The library has no call for it: its caller writes down what our sender would."""
        sender = self.sender if self.foreign_sender is None else sender_on(self.ring)
        sender.block(needed)


def without_descriptor(image: bytes) -> Taken:
    return Taken(image[image[2] << 3 | image[3] << 11 :], int.from_bytes(image[8:16], "little"))


def all_worlds(library: ctypes.CDLL, data_pages: int, start: int) -> list[World]:
    givings = ((False, False), (True, False), (False, True), (True, True))
    return [World(library, data_pages, start, foreign) for foreign in givings]


def run_alike(worlds: list[World], call: Callable[[World], T]) -> T:
    """Do it in every world; what came of it, which must be the same, as must be all memory then."""
    first, *others = worlds
    result = call(first)
    memory = first.memory.read(0, first.memory.byte_count)
    for world in others:
        assert call(world) == result
        assert world.memory.read(0, world.memory.byte_count) == memory
    return result


def random_messages(random: Random, free: int) -> list[Message]:
    """A few of any size; often one at the end that fills the ring but for 8 bytes, or exactly, or is 8 too long."""
    messages = []
    for _ in range(random.randrange(6)):
        messages.append(Message(random, 16 + random.choice((0, 1, 7, 8, 33, 64, 700, 1500, random.randrange(3000)))))
        free -= ring_bytes(messages[-1].image)
    if free >= 32 and random.random() < 0.4:
        messages.append(Message(random, free - 8 + random.choice((-8, 0, 0, 8))))
    return messages


class Judge:
    """Random steps over the four worlds, and how often everything that can happen did."""

    def __init__(self, worlds: list[World], random: Random) -> None:
        self.worlds = worlds
        self.random = random
        self.sent = self.received = 0
        self.seen: Counter[str] = Counter()

    def step(self) -> None:
        random, worlds = self.random, self.worlds
        choice = random.random()
        if choice < 0.40:
            self.send()
        elif choice < 0.76:
            self.take()
        elif choice < 0.86:
            self.seen[f"idle {run_alike(worlds, World.go_idle)}"] += 1
        elif choice < 0.92:
            needed = random.randrange(1, 5000)
            run_alike(worlds, lambda world: world.block(needed))
        elif choice < 0.97:
            # Anything a peer may write there: rounded up or not, out of reach, or none.
            size = worlds[0].ring.data_bytes
            value = random.choice((0, 1, 7, 8, size - 8, size - 1, size, 0xFFFFFFFF, random.randrange(size)))
            self.poke(PENDING, value)
        elif choice < 0.98:
            self.poke(FEATURES, random.randint(0, 1))
        else:
            run_alike(worlds, World.reopen)

    def poke(self, word: int, value: int) -> None:
        for world in self.worlds:
            world.ring.control[word] = value

    def send(self) -> None:
        messages = random_messages(self.random, self.worlds[0].sender.free_bytes())
        self_ringing = self.random.random() < 0.3
        written, signal = run_alike(self.worlds, lambda world: world.send(messages, self_ringing))
        self.sent += written
        if messages:
            self.seen[f"send, doorbell {signal}"] += 1
            self.seen["all found room" if written == len(messages) else "no room"] += 1

    def take(self) -> None:
        # How many is for our receiver to say, which counts completions another way; the library takes one by one.
        count, with_descriptors = self.random.choice((0, 1, 2, 5, 1000)), self.random.random() < 0.7
        wanted = count

        def take(world: World) -> Took:
            nonlocal wanted
            result = world.take(count if world.foreign_receiver is None else wanted, with_descriptors)
            wanted = len(result[0])
            return result

        packets, _, signal, empty = run_alike(self.worlds, take)
        self.received += len(packets)
        self.seen[f"take, doorbell {signal}"] += 1
        self.seen[f"empty behind it: {empty}"] += 1


@pytest.mark.parametrize("data_pages", [1, 2, 3, 16])
def test_the_librarys_ends_and_ours_do_the_same_in_any_mix(library: ctypes.CDLL, data_pages: int) -> None:
    random = Random(data_pages)
    judge = Judge(all_worlds(library, data_pages, random.randrange(0, data_pages * PAGE_SIZE, 8)), random)
    for _ in range(4000):
        judge.step()
    judge.poke(FEATURES, 1)
    while judge.sent != judge.received:
        judge.take()
    assert judge.sent > 2000
    expected = [f"{what} {way}" for what in ("send, doorbell", "take, doorbell", "idle") for way in (True, False)]
    for happened in [*expected, "no room", "all found room", "empty behind it: False"]:
        assert judge.seen[happened] >= 20, (happened, judge.seen)


def test_the_longest_packet_there_is(library: ctypes.CDLL) -> None:
    worlds = all_worlds(library, 130, 4096 * 100)
    message = Message(Random(1), LARGEST_PACKET)
    assert run_alike(worlds, lambda world: world.send([message], False)) == (1, True)
    assert run_alike(worlds, lambda world: world.take(1, True)) == ([message.image], LARGEST_PACKET + 8, False, True)

"""A thread that writes to the ring while the ring is at work, without the interpreter's lock: at any moment at all.

The kernel does the writing: one ``preadv`` copies a thousand hostile pieces of a file over chosen words of the control
page and units of the data area, and Python gives up its lock for as long. So the ring, compiled or not, runs on one
processor while its memory changes under it from another.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.vmbus.packets import RingCorruption, encode_in_band, parse_packet_untrusted
from emulator.vmbus.ring import RingBuild, initialise_as_guest
from tests.vmbus.channel_pair import IN, OUT

LAYOUTS = ((1, 2, 3), (4, 3, 1))  # in one piece, and through a page table
PIECES = 1000
PIECE_BYTES = 8


def hostile_piece(random: Random, data_bytes: int, control: bool) -> bytes:
    """Eight bytes for a pair of control words, or for the head of a descriptor; not seldom such as could be right."""
    if random.random() < 0.1:
        return random.randbytes(PIECE_BYTES)
    if control:
        return struct.pack("<II", random.randrange(0, data_bytes, 8), random.randrange(0, data_bytes, 8))
    length8 = random.choice([2, 3, 4, 20, 0xFFFF, random.randrange(600)])
    return struct.pack("<HHHH", random.choice([6, 9, 11]), random.choice([2, 2, 3]), length8, random.choice([0, 1]))


def hostile_pieces(pfns: tuple[int, ...], random: Random) -> list[tuple[int, bytes]]:
    """Where to scribble and what: mostly where packets stand, now and then in the control page."""
    data_bytes = (len(pfns) - 1) * PAGE_SIZE
    pieces = []
    for _ in range(PIECES):
        control = random.random() < 0.02
        pfn = pfns[0] if control else random.choice(pfns[1:])
        at = random.choice([0, 8, 64]) if control else random.randrange(0, PAGE_SIZE, 8)
        pieces.append((pfn * PAGE_SIZE + at, hostile_piece(random, data_bytes, control)))
    return pieces


@contextmanager
def scribbler(memory: GuestMemory, pieces: list[tuple[int, bytes]]) -> Iterator[list[int]]:
    """Write all the pieces, over and over, until the block ends; the list has how many system calls were made."""
    file = os.memfd_create("hostile", os.MFD_CLOEXEC)
    os.write(file, b"".join(piece for _, piece in pieces))
    targets = [memory.view(gpa, PIECE_BYTES) for gpa, _ in pieces]
    stop = threading.Event()
    calls = [0]

    def scribble() -> None:
        while not stop.is_set():
            os.preadv(file, targets, 0)
            calls[0] += 1

    thread = threading.Thread(target=scribble)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the scribbler wants the lock back soon, for its next call
    thread.start()
    try:
        yield calls
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
        os.close(file)


def episode(build: RingBuild, memory: GuestMemory, pfns: tuple[int, ...], random: Random) -> tuple[int, bool]:
    """Work with both ends until one has had enough; (packets that came out, it ended in an error)."""
    ring = build.memory.over(memory, pfns)
    initialise_as_guest(ring)
    came = 0
    problem = ""
    try:
        sender, receiver = build.sender(ring), build.receiver(ring)
        for _ in range(50):
            sender.send_batch([encode_in_band(bytes(random.randrange(300)))] * random.randrange(6))
            sender.block(random.randrange(5000))
            received = receiver.receive_batch(random.randrange(5), 4096)
            for image in received.images:
                came += 1
                assert struct.unpack_from("<H", image, 4)[0] * 8 == len(image)  # what was judged is what is handed on
                parse_packet_untrusted(image)
            assert sum(len(image) + 8 for image in received.images) == received.ring_bytes
            receiver.go_idle()
    except RingCorruption as corruption:
        problem = str(corruption)
    ring.release()
    return came, bool(problem)


@pytest.mark.parametrize("pfns", LAYOUTS)
def test_36_a_scribbler_at_the_same_time(ring_build: RingBuild, pfns: tuple[int, ...]) -> None:
    random = Random(3)
    memory = GuestMemory(memoryview(mmap.mmap(-1, 7 * PAGE_SIZE)))
    canary = random.randbytes(PAGE_SIZE)
    guards = [page for page in range(7) if page not in pfns]
    for page in guards:
        memory.write(page * PAGE_SIZE, canary)
    came = failed = 0
    with scribbler(memory, hostile_pieces(pfns, random)) as calls:
        while calls[0] < 400 or failed < 200 or came < 300:
            packets, ended = episode(ring_build, memory, pfns, random)
            came += packets
            failed += ended
    assert len(guards) == 4
    for page in guards:
        assert memory.read(page * PAGE_SIZE, PAGE_SIZE) == canary


def test_36_a_length_that_changes_while_its_packet_is_copied(ring_build: RingBuild) -> None:
    memory = GuestMemory(memoryview(mmap.mmap(-1, 2 * PAGE_SIZE)))
    ring = ring_build.memory.over(memory, (0, 1))
    initialise_as_guest(ring)
    long, short = encode_in_band(bytes(2000)), encode_in_band(bytes(400))
    heads = [(PAGE_SIZE, long[:8]), (PAGE_SIZE, short[:8])] * (PIECES // 2)
    seen: set[int] = set()
    with scribbler(memory, heads) as calls:
        while calls[0] < 1000 or len(seen) < 2:
            ring.control[IN] = ring.control[OUT] = 0
            sender, receiver = ring_build.sender(ring), ring_build.receiver(ring)
            sender.send_batch([long])
            image = receiver.receive_batch(1, PAGE_SIZE).images[0]
            seen.add(len(image))
            assert parse_packet_untrusted(image).payload == bytes(len(image) - 16)
    assert seen == {len(long), len(short)}

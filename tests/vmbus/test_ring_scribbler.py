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


@contextmanager
def scribbler(memory: GuestMemory, pfns: tuple[int, ...], random: Random) -> Iterator[list[int]]:
    """Scribble until the block ends; the list has how many system calls were made."""
    file = os.memfd_create("hostile", os.MFD_CLOEXEC)
    data_bytes = (len(pfns) - 1) * PAGE_SIZE
    targets = []
    for _ in range(PIECES):
        control = random.random() < 0.02
        pfn = pfns[0] if control else random.choice(pfns[1:])
        at = random.choice([0, 8, 64]) if control else random.randrange(0, PAGE_SIZE, 8)
        targets.append(memory.view(pfn * PAGE_SIZE + at, PIECE_BYTES))
        os.write(file, hostile_piece(random, data_bytes, control))
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
    with scribbler(memory, pfns, random) as calls:
        while calls[0] < 400 or failed < 200:
            packets, ended = episode(ring_build, memory, pfns, random)
            came += packets
            failed += ended
    assert came > 500
    assert len(guards) == 4
    for page in guards:
        assert memory.read(page * PAGE_SIZE, PAGE_SIZE) == canary

"""What keeps guest memory mapped and what lets it go, and rings as large as they come."""

from __future__ import annotations

import gc
import mmap

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory
from emulator.status import Misuse
from emulator.vmbus.packets import MAX_LENGTH8, RingCorruption, encode_in_band
from emulator.vmbus.ring import RingBuild, initialise_as_guest
from tests.vmbus.channel_pair import IN, OUT, ends_of, receiver_on, ring_of, ring_over, sender_on

pytestmark = pytest.mark.usefixtures("ring_build")

MANY = 1 << 30
# The two rings of a channel share one list of at most 8,190 pages; the smaller takes a control and a data page.
LARGEST_DATA_PAGES = 8190 - 2 - 1


def mapped(pages: int) -> tuple[mmap.mmap, GuestMemory]:
    mapping = mmap.mmap(-1, pages * PAGE_SIZE)
    return mapping, GuestMemory(memoryview(mapping))


def test_memory_of_a_ring_can_be_unmapped_after_its_release_only() -> None:
    mapping, memory = mapped(4)
    for pfns in ((0, 1, 2), (3, 2, 1)):
        ring = ring_over(memory, pfns)
        initialise_as_guest(ring)
        ends_of(ring)
        with pytest.raises(BufferError):
            mapping.close()
        ring.release()
        ring.release()
    del memory
    gc.collect()
    mapping.close()


def test_every_call_after_the_release_is_refused() -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    sender.send_batch([encode_in_band(b"")])
    ring.release()
    for call in (
        sender.free_bytes,
        lambda: sender.send_batch([encode_in_band(b"")]),
        lambda: sender.block(8),
        receiver.used_bytes,
        lambda: receiver.receive_batch(1, 1),
        receiver.mask,
        receiver.go_idle,
        lambda: receiver.peer_honours_pending_size,
        lambda: ring.read(0, 8),
        lambda: ring.write(0, b"8 bytes!"),
        lambda: sender_on(ring),
        lambda: receiver_on(ring),
    ):
        with pytest.raises(ValueError, match="released"):
            call()


def test_a_release_in_the_middle_of_a_call_is_refused_too() -> None:
    for end in ("send", "receive", "block", "idle"):
        ring = ring_of(1)
        fence = ring.release

        if end in ("send", "block"):
            sender = sender_on(ring, fence)
            with pytest.raises(ValueError, match="released"):
                sender.send_batch([encode_in_band(b"")]) if end == "send" else sender.block(8)
        else:
            sender_on(ring).send_batch([encode_in_band(b"")])
            receiver = receiver_on(ring, fence)
            with pytest.raises(ValueError, match="released"):
                receiver.receive_batch(1, 1) if end == "receive" else receiver.go_idle()


def test_a_ring_in_a_reference_cycle_is_collected() -> None:
    mapping, memory = mapped(2)
    ring = ring_over(memory, range(2))
    initialise_as_guest(ring)
    for _ in range(20):
        cycle: list[object] = [memory.view(0, PAGE_SIZE)]
        cycle += [sender_on(ring, lambda cycle=cycle: cycle.clear()), ring_over(memory, range(2)), cycle]  # type: ignore[misc]  # a default to close over
    del ring, cycle, memory
    gc.collect()
    mapping.close()


@pytest.mark.parametrize("scattered", [False, True])
def test_the_largest_ring_there_is(scattered: bool) -> None:
    _, memory = mapped(LARGEST_DATA_PAGES + 1)
    pfns = [0, *(range(LARGEST_DATA_PAGES, 0, -1) if scattered else range(1, LARGEST_DATA_PAGES + 1))]
    ring = ring_over(memory, pfns)
    initialise_as_guest(ring)
    near_end = LARGEST_DATA_PAGES * PAGE_SIZE - 4096
    ring.control[IN] = ring.control[OUT] = near_end
    sender, receiver = ends_of(ring)
    longest = encode_in_band(bytes(range(256)) * 2047)  # 524,048 of at most 524,280 bytes
    assert len(longest) <= MAX_LENGTH8 * 8 < len(longest) + 256
    assert sender.send_batch([longest] * 100).written == (LARGEST_DATA_PAGES * PAGE_SIZE - 8) // (len(longest) + 8)
    count = 0
    while images := receiver.receive_batch(MANY, 5 << 20).images:
        assert all(image == longest for image in images)
        count += len(images)
    assert count == 63
    assert receiver.go_idle()


def test_a_view_that_is_not_aligned_is_no_guest_memory(ring_build: RingBuild) -> None:
    memory = GuestMemory(memoryview(bytearray(2 * PAGE_SIZE + 8))[4:-4])
    if ring_build.name == "compiled":
        with pytest.raises(Misuse, match="multiple of 8"):
            ring_over(memory, range(2))
    else:
        initialise_as_guest(ring_over(memory, range(2)))  # nothing to go wrong in one process


def test_ends_over_damaged_memory_do_not_come_to_be() -> None:
    ring = ring_of(1)
    ring.control[IN] = 12
    for make in (sender_on, receiver_on):
        with pytest.raises(RingCorruption, match="in index"):
            make(ring)

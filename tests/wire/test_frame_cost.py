"""What a frame costs: memory, measured, and steps, counted. No clock is read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

import msgpack
import pytest

from emulator.wire.codec import FrameDecoder, FrameLimits, FrameScanner, WireError
from emulator.wire.schema import Direction

SIZES = [16, 64, 256, 1024, 4096, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024]
RECEIVED_AT_ONCE = 64 * 1024


def text(size: int, character: str = "a") -> bytes:
    """A packed str of about ``size`` bytes: ASCII, and one other character at the end."""
    filler = "a" * max(0, size - 5 - len(character.encode()))
    packed: bytes = msgpack.packb(filler + character)
    return packed


def filled(head: bytes, one: bytes, size: int) -> bytes:
    """An array of as many ``one`` as ``size`` bytes and the limit of elements allow, behind a response's head."""
    count = min(max(1, (size - len(head) - 3) // len(one)), FrameLimits().elements - 5)
    return head + b"\xdc" + count.to_bytes(2, "big") + one * count


RESULT = b"\x94\x01\x05\xc0"
ARGUMENT = b"\x94\x00\x01\xa4ping"

FAMILIES: dict[str, Callable[[int], bytes]] = {
    "one long bin": lambda size: RESULT + msgpack.packb(bytes(max(0, size - 9))),
    "one long ASCII str": lambda size: RESULT + text(size - 4),
    "a str with one Latin-1 character": lambda size: RESULT + text(size - 4, "ÿ"),
    "a str with one wide character": lambda size: RESULT + text(size - 4, "€"),
    "a str with one astral character": lambda size: RESULT + text(size - 4, "\U0001f600"),
    "a str of astral characters": lambda size: RESULT + msgpack.packb("\U0001f600" * max(1, (size - 9) // 4)),
    "a str that begins astral and ends broken": lambda size: (
        RESULT + msgpack.packb(b"\xf0\x9f\x98\x80" + b"a" * max(0, size - 14) + b"\xff", use_bin_type=False)
    ),
    "empty arrays": lambda size: filled(RESULT, b"\x90", size),
    "empty maps": lambda size: filled(RESULT, b"\x80", size),
    "wide empty maps": lambda size: filled(RESULT, b"\xdf\0\0\0\0", size),
    "nested arrays": lambda size: filled(RESULT, b"\x91\x90", size)[:5] + b"\x08" + b"\x91\x90" * 8,
    "floats": lambda size: filled(RESULT, b"\xcb\x40\x09\x21\xfb\x54\x44\x2d\x18", size),
    "integers of 64 bits": lambda size: filled(RESULT, b"\xcf" + b"\xfe" * 8, size),
    "medium bins": lambda size: filled(RESULT, msgpack.packb(bytes(max(1, (size - 8) // 59 - 5))), size),
    "medium strs with an astral character each": lambda size: filled(RESULT, text(size // 59, "\U0001f600"), size),
    "a map with a long key": lambda size: RESULT + b"\x81" + text(size - 6, "\U0001f600") + b"\xc0",
    "a bin where arguments belong": lambda size: ARGUMENT + msgpack.packb(bytes(max(0, size - 13))),
    "a str where arguments belong": lambda size: ARGUMENT + text(size - 8, "\U0001f600"),
    "an array with a bin where a number belongs": lambda size: (
        b"\x94\x00\x01\xafmemory.allocate\x92\x01\x91" + msgpack.packb(bytes(max(0, size - 27)))
    ),
    "a map with control characters where arguments belong": lambda size: (
        ARGUMENT + b"\x81\xa1a" + msgpack.packb("\x01" * max(0, size - 17) + "\U0001f600")
    ),
    "a long method name": lambda size: b"\x94\x00\x01" + text(size - 4, "\U0001f600") + b"\x90",
    "a long error": lambda size: b"\x94\x01\x01\x92\x01" + text(size - 6, "\U0001f600") + b"\xc0",
    "a long value that is no message": lambda size: text(size, "\U0001f600"),
}


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Measures the block: how many bytes more than at its start were allocated at its worst moment."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def cost_of(frame: bytes, at_once: int = RECEIVED_AT_ONCE) -> tuple[int, int]:
    """(bytes at the worst moment, messages) of decoding, with each message dropped when the next is asked for."""
    received = [frame[at : at + at_once] for at in range(0, len(frame), at_once)]
    messages = 0
    with measured() as peak:
        decoder = FrameDecoder(Direction.TO_CLIENT if frame[1] == 1 else Direction.TO_DAEMON)
        try:
            for piece in received:
                for _message in decoder.feed(piece):
                    messages += 1
        except WireError:
            pass
        return peak(), messages


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frame_of_n_bytes_costs_at_most_8_n_and_8_kib(family: str) -> None:
    cost_of(FAMILIES[family](64))  # whatever the first use of a code path keeps for ever is not the frame's
    for size in SIZES:
        frame = FAMILIES[family](size)
        for at_once in (RECEIVED_AT_ONCE, 1024 * 1024):
            peak, _ = cost_of(frame, at_once)
            assert peak <= 8 * len(frame) + 8192, f"{len(frame)} bytes of {family} cost {peak}"


def test_the_families_reach_a_mebibyte_and_some_are_dear() -> None:
    largest = {family: make(1024 * 1024) for family, make in FAMILIES.items()}
    assert sum(len(frame) > 900_000 for frame in largest.values()) > len(FAMILIES) // 2
    dearest = max(cost_of(frame)[0] / len(frame) for frame in largest.values() if len(frame) > 900_000)
    assert dearest > 5, "an str that widens fourfold is among them"


SMALL_FRAMES = [b"\x94\x01\x05\xc0\xc0", b"\x94\x01\x05\xc0\x90", b"\x94\x01\x05\x92\x01\xa0\xc0"]


# A stream of the largest size takes seconds under measurement, so only one family has it.
@pytest.mark.parametrize(
    ("one", "size"), [*((one, size) for one in SMALL_FRAMES for size in SIZES[:-2]), (SMALL_FRAMES[1], SIZES[-1])]
)
def test_many_small_frames_cost_no_more_than_8_n_and_8_kib(one: bytes, size: int) -> None:
    stream = one * (size // len(one))
    peak, messages = cost_of(stream, 1024 * 1024)
    assert messages == size // len(one)
    assert peak <= 8 * len(stream) + 8192


def test_a_hundred_frames_in_a_row_leave_nothing_behind() -> None:
    frame = RESULT + text(60_000, "\U0001f600")
    decoder = FrameDecoder(Direction.TO_CLIENT)

    def exchange() -> int:
        return sum(1 for _ in decoder.feed(frame))

    assert exchange() == 1
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert sum(exchange() for _ in range(100)) == 100
        assert tracemalloc.get_traced_memory()[0] - before < 8192
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1024, 64 * 1024])
def test_a_frame_that_never_ends_costs_what_its_bytes_cost(size: int) -> None:
    unfinished = RESULT + b"\xc6\x00\x12\x00\x00" + bytes(size)
    peak, messages = cost_of(unfinished)
    assert messages == 0
    assert peak <= 2 * len(unfinished) + 8192, "the declared 1,179,648 bytes are not reserved"


class CountingBuffer(bytearray):
    """A buffer that counts how often somebody looks into it."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> Any:
        self.looks += 1
        return super().__getitem__(key)


def looks_when_dripped(elements: int, one: bytes, step: int) -> int:
    """How often a scanner looks into the bytes of one frame that arrives ``step`` bytes at a time."""
    frame = b"\xdd" + elements.to_bytes(4, "big") + one * elements
    scanner = FrameScanner(FrameLimits(frame_bytes=len(frame), elements=elements + 1, depth=4))
    buffer = CountingBuffer()
    for at in range(0, len(frame), step):
        assert at == 0 or scanner.find_end(buffer) is None
        buffer += frame[at : at + step]
    assert scanner.find_end(buffer) == len(frame)
    return buffer.looks


@pytest.mark.parametrize(
    "one", [b"\x00", b"\xc4\x01\xaa", b"\xa3abc", b"\xc6\x00\x00\x00\x02\xaa\xbb", b"\xcf" + bytes(8)]
)
def test_a_dripping_frame_of_many_elements_is_walked_once(one: bytes) -> None:
    elements = 20_000
    whole = looks_when_dripped(elements, one, 1 << 30)
    assert whole <= 2 * (elements + 1)
    # One byte at a time, an element is looked at again only while its own header or its own last bytes are missing.
    assert looks_when_dripped(elements, one, 1) <= whole + (elements + 1) * 8
    assert looks_when_dripped(elements, one, 1) <= 2 * looks_when_dripped(elements // 2, one, 1) + 64


def test_a_long_value_that_drips_is_looked_at_a_bounded_number_of_times_for_each_piece() -> None:
    assert looks_when_dripped(1, b"\xc6\x00\x00\x75\x30" + bytes(30_000), 1) <= 2 * 30_000 + 64

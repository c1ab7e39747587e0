"""Bits that two sides change at once: none is lost, where the processor's own steps are used."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse
from emulator.vmbus import shared_bits
from emulator.vmbus.shared_bits import set_bit, set_bit_plain, take_bits, take_bits_plain

BUILDS = [(set_bit_plain, take_bits_plain), (set_bit, take_bits)]
ROUNDS = 200_000
compiled = pytest.mark.skipif(not shared_bits.BITS_ARE_ATOMIC, reason="there is no compiled ring here")


@pytest.mark.parametrize(("put", "take"), BUILDS)
def test_both_builds_set_and_take_the_same_bits(
    put: Callable[[memoryview, int], bool], take: Callable[[memoryview], list[int]]
) -> None:
    @given(st.lists(st.integers(0, 511)))
    def check(numbers: list[int]) -> None:
        bits = memoryview(bytearray(64))
        seen: set[int] = set()
        for number in numbers:
            assert put(bits, number) is (number not in seen)
            seen.add(number)
        assert bytes(bits) == sum(1 << number for number in seen).to_bytes(64, "little")
        assert take(bits) == sorted(seen)
        assert not any(bits)

    check()


@pytest.mark.parametrize(("put", "take"), BUILDS)
def test_what_is_not_there_is_refused(
    put: Callable[[memoryview, int], bool], take: Callable[[memoryview], list[int]]
) -> None:
    bits = memoryview(bytearray(64))
    for number in (-1, 512):
        with pytest.raises(Misuse, match="is not in 64 bytes"):
            put(bits, number)
    with pytest.raises(Misuse, match="whole, aligned words"):
        take(bits[:63])


@compiled
def test_the_compiled_functions_are_the_ones_in_use_and_judge_alignment() -> None:
    assert set_bit is not set_bit_plain
    with pytest.raises(Misuse, match="whole, aligned words"):
        take_bits(memoryview(bytearray(72))[1:65])


def lost_bits(put: Callable[[memoryview, int], bool], take: Callable[[memoryview], list[int]]) -> int:
    """How many bits that one process set and found clear before the other never took. Both work on the same 8 bytes."""
    with mmap.mmap(-1, mmap.PAGESIZE) as shared:
        bits, word = memoryview(shared)[:8], memoryview(shared)[64:88].cast("Q")
        pid = os.fork()
        if not pid:
            try:
                while not word[0]:
                    pass
                word[1] = sum(put(bits, number & 63) for number in range(ROUNDS))
            finally:
                os._exit(0)
        word[0] = 1
        taken = 0
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            for _ in range(100):
                taken += len(take(bits))
        taken += len(take(bits))
        lost = word[1] - taken
        bits.release()
        word.release()
        return lost


@compiled
def test_rule_1_no_bit_is_lost_between_two_processes() -> None:
    assert lost_bits(set_bit, take_bits) == 0


def test_plain_python_is_not_enough_between_two_processes() -> None:
    """What the refusal in the configuration rests on, and that the test above would notice."""
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("with one processor the two take turns")
    assert any(lost_bits(set_bit_plain, take_bits_plain) for _ in range(10))

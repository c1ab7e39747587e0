"""No page is handed out twice or lost; what comes back is one piece again; a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from emulator.memory import PageAllocator
from emulator.status import NtStatus, Refused


def runs_of(pages: set[int]) -> list[int]:
    """The lengths of the runs of neighbouring pages."""
    ordered = sorted(pages)
    starts = [at for at, page in enumerate(ordered) if at == 0 or ordered[at - 1] != page - 1]
    return [end - start for start, end in pairwise([*starts, len(ordered)])]


OWNERS: list[Hashable] = ["one", "two", ("ring", 3)]


class AllocatorAgainstASet(RuleBasedStateMachine):
    """The allocator does what a plain set of free pages does, refuses what that would, and keeps pages together."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(24)
        self.free = set(range(1, 24))
        self.owned: dict[Hashable, set[int]] = {owner: set() for owner in OWNERS}
        self.next_new = 40

    @rule(target=held, owner=st.sampled_from(OWNERS), count=st.integers(1, 9))
    def allocate(self, owner: Hashable, count: int) -> object:
        if count > len(self.free):
            with pytest.raises(Refused) as refused:
                self.pages.allocate(owner, count)
            assert refused.value.status is NtStatus.INSUFFICIENT_RESOURCES
            return multiple()
        one_piece = max(runs_of(self.free)) >= count
        pfns = self.pages.allocate(owner, count)
        assert len(set(pfns)) == len(pfns) == count
        assert self.free.issuperset(pfns), "a page was handed out twice, or was never there"
        if one_piece:
            assert pfns == tuple(range(pfns[0], pfns[0] + count)), "there was room in one piece"
        self.free.difference_update(pfns)
        self.owned[owner].update(pfns)
        return (owner, pfns)

    @rule(allocation=consumes(held), keep=st.integers(0, 3), backwards=st.booleans())
    def give_back(self, allocation: tuple[Hashable, tuple[int, ...]], keep: int, backwards: bool) -> None:
        owner, pfns = allocation
        going = [pfn for pfn in pfns[keep:] if pfn in self.owned[owner]]
        self.pages.free(owner, reversed(going) if backwards else going)
        self.free.update(going)
        self.owned[owner].difference_update(going)

    @rule(owner=st.sampled_from(OWNERS), pfns=st.lists(st.integers(-2, 45), min_size=1, max_size=4))
    def give_back_anything(self, owner: Hashable, pfns: list[int]) -> None:
        if len(set(pfns)) == len(pfns) and self.owned[owner].issuperset(pfns):
            self.pages.free(owner, pfns)
            self.free.update(pfns)
            self.owned[owner].difference_update(pfns)
            return
        with pytest.raises(Refused) as refused:
            self.pages.free(owner, pfns)
        assert refused.value.status is NtStatus.INVALID_PARAMETER

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: Hashable) -> None:
        assert set(self.pages.release(owner)) == self.owned[owner]
        self.free |= self.owned[owner]
        self.owned[owner] = set()

    @rule(count=st.integers(0, 2), gap=st.integers(0, 1))
    def add(self, count: int, gap: int) -> None:
        if self.next_new < 60:
            new = range(self.next_new + gap, self.next_new + gap + count)
            self.pages.add(new)
            self.free.update(new)
            self.next_new = new.stop

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.pages.free_pages == len(self.free)
        assert {owner: self.pages.owned_by(owner) for owner in OWNERS} == {
            owner: len(pages) for owner, pages in self.owned.items()
        }

    def teardown(self) -> None:
        """Whatever happened, all that is free can be had, and then nothing more; page 0 was never among it."""
        if self.free:
            rest = self.pages.allocate("rest", len(self.free))
            assert sorted(rest) == sorted(self.free)
            assert 0 not in rest
        with pytest.raises(Refused):
            self.pages.allocate("rest", 1)


TestAllocatorAgainstASet = AllocatorAgainstASet.TestCase
TestAllocatorAgainstASet.settings = settings(max_examples=100, stateful_step_count=40)


def test_page_0_is_never_given() -> None:
    assert PageAllocator(4).allocate("me", 3) == (1, 2, 3)
    for page_count in (0, 1):
        pages = PageAllocator(page_count)
        assert pages.free_pages == 0
        with pytest.raises(Refused):
            pages.allocate("me", 1)


def test_an_empty_pool_can_be_filled() -> None:
    pages = PageAllocator(0, 0)
    pages.add([9, 7, 8])
    assert pages.free_pages == 3
    assert pages.allocate("me", 3) == (7, 8, 9)


@pytest.mark.parametrize("count", [0, -1])
def test_an_allocation_is_one_page_at_least(count: int) -> None:
    pages = PageAllocator(10)
    with pytest.raises(Refused, match=f"at least one page, not {count}") as refused:
        pages.allocate("me", count)
    assert refused.value.status is NtStatus.INVALID_PARAMETER
    assert (pages.free_pages, pages.owned_by("me")) == (9, 0)


def test_a_refused_allocation_says_how_many_are_free_and_takes_none() -> None:
    pages = PageAllocator(10)
    pages.allocate("other", 4)
    with pytest.raises(Refused, match=r"6 pages were asked for, but only 5 .* are free"):
        pages.allocate("me", 6)
    assert (pages.free_pages, pages.owned_by("me")) == (5, 0)
    assert pages.allocate("me", 5) == (5, 6, 7, 8, 9)


@pytest.mark.parametrize("pfns", [(4,), (1, 4), (1, 1), (1, 0), (9,), (-1,), (1, 2, 3, 1)])
def test_a_refused_free_changes_nothing(pfns: tuple[int, ...]) -> None:
    pages = PageAllocator(10)
    assert pages.allocate("me", 3) == (1, 2, 3)
    assert pages.allocate("other", 1) == (4,)
    with pytest.raises(Refused):
        pages.free("me", pfns)
    assert (pages.free_pages, pages.owned_by("me"), pages.owned_by("other")) == (5, 3, 1)
    assert pages.allocate("me", 5) == (5, 6, 7, 8, 9)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
def test_pages_that_come_back_in_any_order_are_one_piece_again(order: tuple[int, ...]) -> None:
    pages = PageAllocator(10)
    pieces = [pages.allocate("me", 3) for _ in range(3)]
    for which in order:
        pages.free("me", pieces[which])
    assert pages.allocate("me", 9) == tuple(range(1, 10))


def test_scattered_pages_serve_when_no_piece_is_long_enough() -> None:
    pages = PageAllocator(10)
    pages.allocate("me", 9)
    pages.free("me", [2, 4, 5, 8])
    assert pages.allocate("other", 2) == (4, 5)
    pages.free("other", [4, 5])
    assert pages.allocate("other", 3) == (2, 4, 5)
    assert pages.allocate("other", 1) == (8,)


def test_release_gives_back_all_of_one_owner_and_nothing_of_another() -> None:
    pages = PageAllocator(10)
    mine, others = pages.allocate("me", 2), pages.allocate("other", 3)
    more = pages.allocate("me", 1)
    assert pages.release("me") == mine + more
    assert pages.release("me") == ()
    assert (pages.free_pages, pages.owned_by("me"), pages.owned_by("other")) == (6, 0, len(others))

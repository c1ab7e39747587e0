"""Guest memory by guest physical address, pages, and Memory Descriptor Lists.

A machine's memory is one flat run of pages, numbered from 0. Page number = guest physical address >> 12, and pages are
always 4,096 bytes. The same classes serve the daemon and the clients: both see one shared mapping of it.

An ``Mdl`` describes a buffer as pages, an offset into the first one and a byte count; a chain of them describes a
longer one. A ``GpaRange`` is what travels in a GPA-direct packet or a GPADL: the same three facts, already cut to size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from emulator.status import EmulatorError, Misuse, NtStatus, Refused

PAGE_SIZE = 4096
PAGE_SHIFT = 12
PAGE_MASK = PAGE_SIZE - 1


class AddressOutsideMemory(EmulatorError):
    """A page number or an address names something that is not in this machine's memory."""


def pages_spanned(byte_offset: int, byte_count: int) -> int:
    """How many pages hold ``byte_count`` bytes that begin ``byte_offset`` bytes into a page.

    Windows: ADDRESS_AND_SIZE_TO_SPAN_PAGES.
    """
    return (byte_offset + byte_count + PAGE_MASK) >> PAGE_SHIFT


class GpaRange(NamedTuple):
    """A piece of guest memory as it travels: ``byte_count`` bytes from ``byte_offset`` in the first page (rule 2.7)."""

    byte_count: int
    byte_offset: int
    pfns: tuple[int, ...]


class MdlFlags(IntFlag):
    """Windows: MDL.MdlFlags, the ones that matter here."""

    MAPPED_TO_SYSTEM_VA = 0x0001
    PAGES_LOCKED = 0x0002
    SOURCE_IS_NONPAGED_POOL = 0x0004
    PARTIAL = 0x0010
    IO_PAGE_READ = 0x0040
    WRITE_OPERATION = 0x0080
    IO_SPACE = 0x0800


@dataclass(frozen=True, slots=True)
class Mdl:
    """A buffer in guest memory, possibly the head of a chain. Windows: MDL.

    ``byte_offset`` is where the buffer begins in its first page (0..4095), ``byte_count`` its length in bytes, ``pfns``
    the pages that hold it, in order, in any arrangement.
    """

    byte_offset: int
    byte_count: int
    pfns: tuple[int, ...]
    flags: MdlFlags = MdlFlags.PAGES_LOCKED
    next: Mdl | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.byte_offset < PAGE_SIZE:
            raise Misuse(f"an MDL's byte offset is 0..{PAGE_MASK}, not {self.byte_offset}")
        if not 0 <= self.byte_count <= 0xFFFFFFFF:
            raise Misuse(f"an MDL's byte count is an unsigned 32-bit number, not {self.byte_count}")
        needed = pages_spanned(self.byte_offset, self.byte_count)
        if len(self.pfns) < needed:
            raise Misuse(
                f"an MDL of {self.byte_count} bytes at offset {self.byte_offset} spans {needed} pages, "
                f"but names {len(self.pfns)}"
            )

    @property
    def is_locked(self) -> bool:
        """Whether its pages stay where they are: locked, or never pageable (rule K25)."""
        return bool(self.flags & (MdlFlags.PAGES_LOCKED | MdlFlags.SOURCE_IS_NONPAGED_POOL))

    def chain(self) -> Iterator[Mdl]:
        """This MDL and every one linked behind it."""
        link: Mdl | None = self
        while link is not None:
            yield link
            link = link.next

    def whole(self) -> GpaRange:
        """All of this one MDL (not of the chain) as a range."""
        return self.cut(0, self.byte_count)

    def cut(self, skip: int, byte_count: int) -> GpaRange:
        """``byte_count`` bytes of this one MDL, ``skip`` bytes in, with only the pages they touch (rule K17)."""
        start = self.byte_offset + skip
        first = start >> PAGE_SHIFT
        offset = start & PAGE_MASK
        return GpaRange(byte_count, offset, self.pfns[first : first + pages_spanned(offset, byte_count)])


def mdl_from_ranges(ranges: Iterable[GpaRange]) -> Mdl | None:
    """A chain of locked, unmapped MDLs, one for each range, in order (rule R6); None for no range."""
    head: Mdl | None = None
    for count, offset, pfns in reversed(tuple(ranges)):
        head = Mdl(offset, count, pfns, MdlFlags.PAGES_LOCKED, head)
    return head


class GuestMemory:
    """One machine's memory, over any writable buffer whose length is a whole number of pages.

    Every access is checked here, against the size this object was made with. Reads copy: guest memory is shared with
    processes nobody trusts, so whoever parses it must parse a private copy.
    """

    def __init__(self, buffer: memoryview) -> None:
        if buffer.nbytes == 0 or buffer.nbytes % PAGE_SIZE:
            raise Misuse(f"guest memory is a whole number of {PAGE_SIZE}-byte pages, not {buffer.nbytes} bytes")
        self._view = buffer.cast("B")
        self.byte_count = self._view.nbytes
        self.page_count = self.byte_count >> PAGE_SHIFT

    def check_pages(self, pfns: Iterable[int]) -> None:
        """Raise AddressOutsideMemory unless every page number lies in this memory."""
        count = self.page_count
        for pfn in pfns:
            if not 0 <= pfn < count:
                raise AddressOutsideMemory(
                    f"page 0x{pfn:X} is outside this machine's memory, which ends before page 0x{count:X}"
                )

    def _check_span(self, gpa: int, byte_count: int) -> None:
        if gpa < 0 or byte_count < 0 or gpa + byte_count > self.byte_count:
            raise AddressOutsideMemory(
                f"{byte_count} bytes at address 0x{gpa:X} are outside this machine's memory "
                f"of 0x{self.byte_count:X} bytes"
            )

    def view(self, gpa: int, byte_count: int) -> memoryview:
        """The live memory itself, for a ring or a bulk copy; never to be parsed in place."""
        self._check_span(gpa, byte_count)
        return self._view[gpa : gpa + byte_count]

    def read(self, gpa: int, byte_count: int) -> bytes:
        """A private copy of ``byte_count`` bytes at a guest physical address."""
        self._check_span(gpa, byte_count)
        return bytes(self._view[gpa : gpa + byte_count])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` to a guest physical address."""
        byte_count = len(data)
        self._check_span(gpa, byte_count)
        self._view[gpa : gpa + byte_count] = data

    def spans(self, rng: GpaRange, skip: int = 0, byte_count: int | None = None) -> Iterator[tuple[int, int]]:
        """The (address, byte count) runs of part of a range; neighbouring pages are joined into one run."""
        left = rng.byte_count - skip if byte_count is None else byte_count
        if skip < 0 or left < 0 or skip + left > rng.byte_count:
            raise Misuse(f"{left} bytes from {skip} do not lie in a range of {rng.byte_count} bytes")
        start = rng.byte_offset + skip
        index, offset = start >> PAGE_SHIFT, start & PAGE_MASK
        pfns = rng.pfns
        if left and start + left > len(pfns) << PAGE_SHIFT:
            raise Misuse(f"{left} bytes from {skip} do not lie in the {len(pfns)} pages of a range")
        while left:
            gpa = (pfns[index] << PAGE_SHIFT) + offset
            run = min(left, PAGE_SIZE - offset)
            while run < left and pfns[index + 1] == pfns[index] + 1:
                index += 1
                run = min(left, run + PAGE_SIZE)
            yield gpa, run
            left -= run
            index += 1
            offset = 0

    def read_range(self, rng: GpaRange, skip: int = 0, byte_count: int | None = None) -> bytes:
        """A private copy of a range, or of ``byte_count`` bytes of it from ``skip``."""
        return b"".join(self.read(gpa, run) for gpa, run in self.spans(rng, skip, byte_count))

    def write_range(self, rng: GpaRange, data: bytes | bytearray | memoryview, skip: int = 0) -> None:
        """Copy ``data`` into a range, ``skip`` bytes in."""
        source = memoryview(data).cast("B")
        done = 0
        for gpa, run in self.spans(rng, skip, source.nbytes):
            self.write(gpa, source[done : done + run])
            done += run


class PagedOut:
    """Which pages of a machine count as paged out (rule R8). A test's doing: the bytes stay where they are."""

    def __init__(self) -> None:
        self._pfns: set[int] = set()

    def mark(self, pfns: Iterable[int], *, out: bool) -> None:
        """Pages go out, or come in again."""
        if out:
            self._pfns.update(pfns)
        else:
            self._pfns.difference_update(pfns)

    def has_any_of(self, pfns: Iterable[int]) -> bool:
        """Whether one of these pages is out."""
        return bool(self._pfns) and not self._pfns.isdisjoint(pfns)

    def pfns(self) -> tuple[int, ...]:
        """All pages that are out, in order."""
        return tuple(sorted(self._pfns))


class PageAllocator:
    """Which pages of a machine's memory are in use, and by whom. First fit; in one piece where one is long enough.

    An owner is any hashable value (a session, a channel's ring). Whatever it still holds comes back with ``release``.
    """

    def __init__(self, page_count: int, reserved: int = 1) -> None:
        # Page 0 is never handed out: a zero page number in a client's structure is then always a mistake.
        # A ring's pages are one allocation, and there are thousands of rings: sets would take six times as much.
        self._owned: dict[Hashable, tuple[int, ...] | set[int]] = {}
        # Free pages as [start, end), sorted, never touching.
        self._runs: list[tuple[int, int]] = [(reserved, page_count)] if page_count > reserved else []
        self.free_pages = max(0, page_count - reserved)

    def add(self, pfns: Iterable[int]) -> None:
        """More pages to hand out, which nobody has yet."""
        self._give_back(sorted(pfns))

    def allocate(self, owner: Hashable, count: int) -> tuple[int, ...]:
        """``count`` page numbers for ``owner``; refused when the memory has not that many left."""
        if count <= 0:
            raise Refused(NtStatus.INVALID_PARAMETER, f"an allocation is at least one page, not {count}")
        if count > self.free_pages:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"{count} pages were asked for, but only {self.free_pages} of this machine's memory are free; "
                "free some, or give the machine more memory",
            )
        pfns = self._take(count)
        if owner in self._owned:
            self._set_of(owner).update(pfns)
        else:
            self._owned[owner] = pfns
        self.free_pages -= count
        return pfns

    def _take(self, count: int) -> tuple[int, ...]:
        for index, (start, end) in enumerate(self._runs):
            if end - start >= count:
                self._runs[index : index + 1] = [(start + count, end)] if end - start > count else []
                return tuple(range(start, start + count))
        pfns: list[int] = []
        emptied = 0
        for start, end in self._runs:
            taken = min(end - start, count - len(pfns))
            pfns.extend(range(start, start + taken))
            if start + taken < end:
                self._runs[emptied] = (start + taken, end)
                break
            emptied += 1
        del self._runs[:emptied]
        return tuple(pfns)

    def free(self, owner: Hashable, pfns: Iterable[int]) -> None:
        """Take pages back from their owner; refused, with nothing done, when one is not the owner's or named twice."""
        pages = tuple(pfns)
        owned = self._set_of(owner) if owner in self._owned else set()
        if len(set(pages)) != len(pages) or not owned.issuperset(pages):
            raise Refused(NtStatus.INVALID_PARAMETER, "only pages that were allocated here, each once, can be freed")
        owned.difference_update(pages)
        if not owned:
            self._owned.pop(owner, None)
        self._give_back(sorted(pages))

    def release(self, owner: Hashable) -> tuple[int, ...]:
        """Take back all an owner holds; returns those pages."""
        pages = tuple(sorted(self._owned.get(owner, ())))
        self.free(owner, pages)
        return pages

    def _set_of(self, owner: Hashable) -> set[int]:
        owned = self._owned[owner]
        if not isinstance(owned, set):
            owned = self._owned[owner] = set(owned)
        return owned

    def owned_by(self, owner: Hashable) -> int:
        """How many pages an owner holds."""
        return len(self._owned.get(owner, ()))

    def _give_back(self, ordered: list[int]) -> None:
        # Whole runs at a time: a session that ends gives back thousands of pages at once.
        first = 0
        for index, pfn in enumerate(ordered, start=1):
            if index == len(ordered) or ordered[index] != pfn + 1:
                self._give_back_run(ordered[first], pfn + 1)
                first = index
        self.free_pages += len(ordered)

    def _give_back_run(self, start: int, end: int) -> None:
        runs = self._runs
        at = bisect_left(runs, (start, start))
        if at < len(runs) and runs[at][0] == end:
            end = runs.pop(at)[1]
        if at > 0 and runs[at - 1][1] == start:
            at -= 1
            start = runs.pop(at)[0]
        runs.insert(at, (start, end))

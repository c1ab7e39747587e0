"""Guest memory as a client has it: a mapping shared with the machine, and buffers from a pool of its pages.

Allocation is local and immediate: the client holds a pool of pages, asked of the daemon beforehand. When the pool is
too small, ``reserve`` gets more.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from types import TracebackType

from emulator.memory import (
    PAGE_SHIFT,
    PAGE_SIZE,
    AddressOutsideMemory,
    GpaRange,
    GuestMemory,
    Mdl,
    PageAllocator,
    pages_spanned,
)
from emulator.status import NtStatus, Refused

# Pages a client asks for when it attaches: 2 MiB, enough for most programs and little of any machine.
POOL_PAGES = 512
# What one memory.read or memory.write may carry.
CHUNK_BYTES = 256 * 1024


class MemoryNotMapped(Exception):
    """This client has not mapped the machine's memory; the text names the call that works without."""


class MachineMemory:
    """One machine's memory, as a client sees it."""

    def __init__(self, byte_count: int, descriptor: int | None, pool: tuple[int, ...]) -> None:
        self.byte_count = byte_count
        self._mapped: GuestMemory | None = None
        if descriptor is not None:
            try:
                self._mapping = mmap.mmap(descriptor, byte_count)
            finally:
                os.close(descriptor)
            self._mapped = GuestMemory(memoryview(self._mapping))
        self._pool = PageAllocator(0, 0)
        self._pool.add(pool)

    @property
    def is_mapped(self) -> bool:
        """Whether reads and writes go straight to the shared memory."""
        return self._mapped is not None

    @property
    def mapped(self) -> GuestMemory:
        """The memory itself."""
        if self._mapped is None:
            raise MemoryNotMapped(
                "this client has not mapped guest memory; use machine.read_memory and machine.write_memory, "
                "or connect with map_memory=True"
            )
        return self._mapped

    @property
    def free_bytes(self) -> int:
        """What the pool has left."""
        return self._pool.free_pages * PAGE_SIZE

    def missing_pages(self, byte_count: int) -> int:
        """How many pages the pool lacks for a buffer of so many bytes."""
        return max(0, pages_spanned(0, byte_count) - self._pool.free_pages)

    def add_pages(self, pfns: tuple[int, ...]) -> None:
        """The daemon gave more pages."""
        self._pool.add(pfns)

    def allocate(self, byte_count: int) -> Buffer:
        """A buffer of so many bytes, on pages of its own. Raises Refused when the pool is too small."""
        pages = max(1, pages_spanned(0, byte_count))
        if pages > self._pool.free_pages:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"a buffer of {byte_count} bytes needs {pages} pages, and {self._pool.free_pages} are left in this "
                f"client's pool; call machine.reserve({byte_count}) first",
            )
        buffer = Buffer(self, self._pool.allocate(self, pages), byte_count)
        if self._mapped is not None:
            # Pages come back to the pool as they were left; a new buffer starts empty.
            buffer.write(0, bytes(byte_count))
        return buffer

    def free(self, pfns: tuple[int, ...]) -> None:
        """A buffer's pages go back to the pool."""
        self._pool.free(self, pfns)


class Buffer:
    """A buffer in guest memory. As a context manager it frees itself; free it only when no packet uses it."""

    def __init__(self, memory: MachineMemory, pfns: tuple[int, ...], byte_count: int) -> None:
        self._memory = memory
        self._is_freed = False
        self.pfns = pfns
        self.range = GpaRange(byte_count, 0, pfns)

    def __len__(self) -> int:
        return self.range.byte_count

    def __enter__(self) -> Buffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free()

    @property
    def mdl(self) -> Mdl:
        """An MDL that describes all of it."""
        return Mdl(0, len(self), self.pfns)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` into it, ``offset`` bytes in."""
        self._check(offset, len(data))
        self._memory.mapped.write_range(self.range, data, offset)

    def read(self, offset: int = 0, byte_count: int | None = None) -> bytes:
        """A copy of part of it, or of all from ``offset``."""
        count = len(self) - offset if byte_count is None else byte_count
        self._check(offset, count)
        return self._memory.mapped.read_range(self.range, offset, count)

    def address(self, offset: int = 0, byte_count: int = 1) -> int:
        """The guest physical address of a byte of it, for structures that point at it.

        Raises ValueError when the ``byte_count`` bytes from there are not in one piece: keep a structure in one page.
        """
        self._check(offset, byte_count)
        first, last = offset >> PAGE_SHIFT, (offset + max(byte_count, 1) - 1) >> PAGE_SHIFT
        if self.pfns[last] - self.pfns[first] != last - first:
            raise ValueError(f"{byte_count} bytes at offset {offset} lie on pages that do not follow each other")
        return (self.pfns[first] << PAGE_SHIFT) + offset % PAGE_SIZE

    def _check(self, offset: int, byte_count: int) -> None:
        if self._is_freed:
            raise ValueError("this buffer has been freed")
        if offset < 0 or byte_count < 0 or offset + byte_count > len(self):
            raise ValueError(f"{byte_count} bytes at offset {offset} do not fit a buffer of {len(self)} bytes")

    def free(self) -> None:
        """Give its pages back to the pool; once."""
        if not self._is_freed:
            self._is_freed = True
            self._memory.free(self.pfns)


def pages_named(memory: GpaRange | Mdl | Buffer) -> tuple[int, ...]:
    """The pages of a range, of all of an MDL chain, or of a buffer."""
    if isinstance(memory, Mdl):
        return tuple(pfn for link in memory.chain() for pfn in link.pfns)
    return memory.pfns


def pages_of(rng: GpaRange) -> Iterator[tuple[int, int]]:
    """(address, bytes) of a range of guest memory, in pieces that one message can carry."""
    offset, left, index = rng.byte_offset, rng.byte_count, 0
    while left:
        start = (rng.pfns[index] << PAGE_SHIFT) + offset
        size = min(left, PAGE_SIZE - offset)
        index += 1
        while size < min(left, CHUNK_BYTES - PAGE_SIZE) and rng.pfns[index] == rng.pfns[index - 1] + 1:
            size = min(left, size + PAGE_SIZE)
            index += 1
        yield start, size
        left -= size
        offset = 0


def gather(memory: GuestMemory, ranges: tuple[GpaRange, ...]) -> bytes:
    """A copy of the external data of a packet. Raises Refused when it names pages that are not there."""
    try:
        for each in ranges:
            memory.check_pages(each.pfns)
        return b"".join([memory.read_range(each) for each in ranges])
    except AddressOutsideMemory as error:
        raise Refused(NtStatus.INVALID_PARAMETER, str(error)) from None

"""Where a ring lives in guest memory: the words of its control page, and a data area that wraps.

This is all of guest memory that ring code ever sees. The data pages may lie in any order, and one page may even be used
twice; neighbouring pages are used as one slice.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, GuestMemory
from emulator.vmbus.ring_contract import ControlWords, check_page_count


class RingMemory:
    """Where one ring lives: the words of its control page, and a data area that wraps. Made by ``over``."""

    def __init__(self, control: ControlWords, data: memoryview, data_bytes: int) -> None:
        self.control = control
        self.data_bytes = data_bytes
        self._data = data

    @staticmethod
    def over(memory: GuestMemory, pfns: Sequence[int]) -> RingMemory:
        """A ring in these pages of guest memory, control page first, the data pages in any order, even repeated.

        Raises AddressOutsideMemory for a page that is not there, Misuse for fewer than two pages.
        """
        check_page_count(len(pfns))
        memory.check_pages(pfns)
        # Cast to native 32-bit words: such an access is a single aligned load or store, which struct does not promise.
        control = memory.view(pfns[0] << PAGE_SHIFT, PAGE_SIZE).cast("I")
        first, data_pages = pfns[1], len(pfns) - 1
        if all(pfns[1 + index] == first + index for index in range(data_pages)):
            data = memory.view(first << PAGE_SHIFT, data_pages << PAGE_SHIFT)
            return RingMemory(control, data, data_pages << PAGE_SHIFT)
        return _ScatteredRingMemory(control, [memory.view(pfn << PAGE_SHIFT, PAGE_SIZE) for pfn in pfns[1:]])

    def read(self, offset: int, byte_count: int) -> bytes:
        """A private copy of ``byte_count`` bytes from ``offset``, around the end if need be; at most the whole area."""
        end = offset + byte_count
        if end <= self.data_bytes:
            return bytes(self._data[offset:end])
        return b"".join((self._data[offset:], self._data[: end - self.data_bytes]))

    def write(self, offset: int, data: bytes) -> None:
        """Copy ``data`` to ``offset``, around the end if need be."""
        end = offset + len(data)
        if end <= self.data_bytes:
            self._data[offset:end] = data
            return
        first = self.data_bytes - offset
        self._data[offset:] = data[:first]
        self._data[: end - self.data_bytes] = data[first:]

    def release(self) -> None:
        """Let go of guest memory, so that it can be unmapped; the ring can not be used any more."""
        self._data.release()
        if isinstance(self.control, memoryview):
            self.control.release()


class _ScatteredRingMemory(RingMemory):
    """The same over data pages that do not lie side by side: one step through a page table for each page touched."""

    def __init__(self, control: ControlWords, pages: list[memoryview]) -> None:
        super().__init__(control, memoryview(b""), len(pages) << PAGE_SHIFT)
        self._pages = pages

    def read(self, offset: int, byte_count: int) -> bytes:
        parts = []
        while byte_count:
            within = offset & PAGE_MASK
            part = self._pages[offset >> PAGE_SHIFT][within : within + byte_count]
            parts.append(part)
            byte_count -= len(part)
            offset += len(part)
            if offset == self.data_bytes:
                offset = 0
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            within = offset & PAGE_MASK
            run = min(PAGE_SIZE - within, len(data) - done)
            self._pages[offset >> PAGE_SHIFT][within : within + run] = data[done : done + run]
            done += run
            offset += run
            if offset == self.data_bytes:
                offset = 0

    def release(self) -> None:
        super().release()
        for page in self._pages:
            page.release()

"""A machine's memory as a file: an anonymous, sealed memfd, mapped here and handed to the machine's clients.

The seals forbid resizing. Without them a client could truncate the file, and every process that touches the lost pages
would die of SIGBUS, this daemon included.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from emulator.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory


class MemoryFile:
    """The file, its mapping, and ``memory``, the view of it that the cores use."""

    def __init__(self, name: str, byte_count: int) -> None:
        self.descriptor = os.memfd_create(f"vmbus:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, byte_count)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            self._mapping = mmap.mmap(self.descriptor, byte_count)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.memory = GuestMemory(memoryview(self._mapping))

    def discard(self, pfns: tuple[int, ...]) -> None:
        """Give pages back to the system; they read as zeros from now on."""
        at = 0
        while at < len(pfns):
            run = 1
            while at + run < len(pfns) and pfns[at + run] == pfns[at] + run:
                run += 1
            self._mapping.madvise(mmap.MADV_REMOVE, pfns[at] << PAGE_SHIFT, run * PAGE_SIZE)
            at += run

    def close(self) -> None:
        """Close the descriptor. The mapping goes when its last user does."""
        os.close(self.descriptor)

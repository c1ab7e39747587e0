"""Where the MMIO space of offers lies: behind a machine's memory, in whole MiB, first fit."""

from __future__ import annotations

from emulator.status import NtStatus, Refused

MEGABYTE = 1 << 20
# The gap real machines have above their memory is smaller; nothing stands behind this one, so it costs nothing.
GAP_MEGABYTES = 64 * 1024


class MmioSpace:
    """One machine's. ``first_byte`` is where its memory ends."""

    def __init__(self, first_byte: int) -> None:
        self._first = -(-first_byte // MEGABYTE) * MEGABYTE
        self._taken: list[tuple[int, int]] = []  # (begin, end) in MiB, sorted

    def allocate(self, megabytes: int, optional: int) -> tuple[int, int]:
        """(address, bytes) of so many MiB, with the optional ones if they are to be had. Raises Refused."""
        for count in (megabytes + optional, megabytes):
            if not count:
                return 0, 0
            begin = self._gap_of(count)
            if begin is not None:
                self._taken.append((begin, begin + count))
                self._taken.sort()
                return self._first + begin * MEGABYTE, count * MEGABYTE
        text = f"{megabytes} MiB of MMIO space in one piece are more than is left; disable channels that have some"
        raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)

    def _gap_of(self, count: int) -> int | None:
        begin = 0
        for taken, end in self._taken:
            if taken - begin >= count:
                break
            begin = end
        return begin if begin + count <= GAP_MEGABYTES else None

    def free(self, space: tuple[int, int]) -> None:
        """Give back what ``allocate`` returned."""
        begin = (space[0] - self._first) // MEGABYTE
        self._taken = [taken for taken in self._taken if taken[0] != begin or not space[1]]

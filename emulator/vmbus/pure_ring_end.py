"""What both ends of a pure ring have. How each looks at the peer's index is written twice: a call costs as much."""

from __future__ import annotations

from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.pure_ring_memory import RingMemory
from emulator.vmbus.ring_contract import Fence, no_fence


class RingEnd:
    """One end of a ring: ``RingSender`` or ``RingReceiver``."""

    def __init__(self, ring: RingMemory, fence: Fence = no_fence) -> None:
        self._ring = ring
        self._control = ring.control
        self._fence = fence
        self._size = ring.data_bytes
        self._problem: str | None = None

    def _fail(self, problem: str) -> RingCorruption:
        self._problem = problem
        return RingCorruption(problem)

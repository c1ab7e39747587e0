"""The names of ring memory where they were before the ring had two builds; new code takes them from ``ring``."""

from __future__ import annotations

from emulator.vmbus.ring import RingMemory, initialise_as_guest, initialise_as_host

__all__ = ["RingMemory", "initialise_as_guest", "initialise_as_host"]

"""Pages of a bus guest's that the daemon writes as a hypervisor would: its interrupt page, its event-flags pages.

Only where the machine is configured so. Then no doorbell towards the guest goes past the daemon, whoever rings it, and
each sets its bit first. Bits are set and taken in steps of the processor's own (``vmbus.shared_bits``).
"""

from __future__ import annotations

from emulator.config import MachineConfig
from emulator.memory import PAGE_MASK, PAGE_SIZE, GuestMemory
from emulator.status import NtStatus, Refused
from emulator.vmbus.synic import SINT_COUNT, set_event_flag, set_interrupt_bit, take_interrupt_bits

# Virtual processors of every machine. Message slots and event-flags pages in use are bounded by it: a guest may name
# any processor as its target.
PROCESSORS = 256


class GuestPages:
    """The pages of one bus guest. ``name`` is the machine's, for what is said about its configuration."""

    def __init__(self, name: str, memory: GuestMemory, settings: MachineConfig) -> None:
        self._name = name
        self._memory = memory
        self._settings = settings
        self._event_flags: dict[int, memoryview] = {}  # by virtual processor

    @property
    def are_written(self) -> bool:
        """Whether any are: then every doorbell has to pass through the daemon."""
        return self._settings.interrupt_page or self._settings.event_flags_page

    def _problem(self, address: int) -> str:
        """What keeps this from being the address of a page; empty if nothing does."""
        if address & PAGE_MASK:
            return f"0x{address:X} is not the beginning of a page"
        if not 0 <= address < self._memory.byte_count:
            return f"0x{address:X} lies outside this machine's memory, which ends at 0x{self._memory.byte_count:X}"
        return ""

    # ---- event flags

    def set_event_flags_page(self, vp: int, address: int | None) -> None:
        """Where the event flags of a processor stand from now on; None for nowhere. Raises Refused.

        Hypervisor: the register HV_X64_MSR_SIEFP.
        """
        if not self._settings.event_flags_page:
            text = f"machine {self._name} writes no event flags; set event_flags_page = true in [machines.{self._name}]"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
        if vp >= PROCESSORS:
            raise Refused(NtStatus.INVALID_PARAMETER, f"there is no processor {vp}: they are 0 to {PROCESSORS - 1}")
        if address is None:
            self._event_flags.pop(vp, None)
            return
        if problem := self._problem(address):
            raise Refused(NtStatus.INVALID_PARAMETER, f"the event-flags page: {problem}", rule="1")
        self._event_flags[vp] = self._memory.view(address, PAGE_SIZE)

    def set_event_flag(self, vp: int, sint: int, flag: int) -> bool:
        """The host signals; whether that interrupts the guest. It does not while the flag still stands from before."""
        page = self._event_flags.get(vp)
        return page is None or sint >= SINT_COUNT or set_event_flag(page, sint, flag)

    # ---- the interrupt page of versions below 2.4

    def interrupt_page_problem(self, address: int | None) -> str:
        """What keeps the daemon from using the page a guest announces; empty if nothing does, or if it is not to."""
        return self._problem(address) if address is not None and self._settings.interrupt_page else ""

    def set_interrupt_bit(self, address: int, channel_id: int) -> None:
        """The host signals a channel."""
        if self._settings.interrupt_page:
            set_interrupt_bit(self._memory.view(address, PAGE_SIZE), channel_id)

    def take_interrupt_bits(self, address: int) -> list[int] | None:
        """The guest signalled: which channels. None where the page is not looked into, and it may be any of them."""
        if not self._settings.interrupt_page:
            return None
        return take_interrupt_bits(self._memory.view(address, PAGE_SIZE))

"""An IRP that lies in guest memory whole: read with everything it leads to, and its status block written at the end.

Windows: IRP, its current IO_STACK_LOCATION, its MDL chain, its system buffer. All of it is copied while the request is
submitted; after that only the status block is touched, once, and for a device control the output buffer before it.
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.memory import PAGE_MASK, AddressOutsideMemory, GuestMemory, Mdl, pages_spanned
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import MajorFunction
from emulator.tdi.control_codes import Method
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.nt_layouts import IO_STACK_LOCATION, IRP, MDL
from emulator.tdi.raw import KernelMemory, parse_location_untrusted, raw_irp

MOST_MDLS = 512
MOST_PAGES = 76_800
"""As many page numbers as one frame can name: 300 MiB."""
MOST_CONTROL_BYTES = 65_536
"""Longest input or output of a device control."""


def parse_mdl_untrusted(memory: GuestMemory, at: int, arch: Arch) -> Mdl | None:
    """The chain of MDLs that begins at an address, each followed by its page numbers; None for a null pointer.

    INVALID_PARAMETER for a chain without an end, and for an MDL too small for the pages it spans.
    """
    links: list[tuple[int, int, tuple[int, ...]]] = []
    reach, header, pointer = KernelMemory(memory), MDL.size(arch), arch.pointer_bytes
    pages = 0
    while at:
        record = MDL.parse_untrusted(reach.fetch(at, header, "an MDL"), arch)
        count, offset = record.number("ByteCount"), record.number("ByteOffset")
        if offset > PAGE_MASK:
            raise _bad(len(links), f"its byte offset {offset} is beyond the first page")
        spanned = pages_spanned(offset, count)
        pages += spanned
        if len(links) == MOST_MDLS or pages > MOST_PAGES:
            raise _bad(len(links), f"a chain has at most {MOST_MDLS} MDLs and {MOST_PAGES} pages: has it an end?")
        if record.number("Size") < header + spanned * pointer and record.number("Size"):
            raise _bad(len(links), f"{record.number('Size')} bytes of it have no room for {spanned} page numbers")
        numbers = reach.fetch(at + header, spanned * pointer, "the page numbers of an MDL")
        pfns = tuple(
            int.from_bytes(numbers[each : each + pointer], "little") for each in range(0, len(numbers), pointer)
        )
        links.append((offset, count, pfns))
        at = record.number("Next")
    head: Mdl | None = None
    for offset, count, pfns in reversed(links):
        head = Mdl(offset, count, pfns, next=head)
    return head


def _bad(index: int, reason: str) -> Refused:
    return Refused(NtStatus.INVALID_PARAMETER, f"MDL {index} of the chain: {reason}")


def pack_mdl(arch: Arch, mdl: Mdl, at: int) -> bytes:
    """A chain as a driver would build it at an address: each MDL with its page numbers, one behind the other."""
    image = b""
    for link in mdl.chain():
        size = MDL.size(arch) + len(link.pfns) * arch.pointer_bytes
        values = {
            "Next": at + len(image) + size if link.next is not None else 0,
            "Size": size,
            "MdlFlags": int(link.flags),
            "ByteCount": link.byte_count,
            "ByteOffset": link.byte_offset,
        }
        image += MDL.pack(arch, values)
        image += b"".join(pfn.to_bytes(arch.pointer_bytes, "little") for pfn in link.pfns)
    return image


class GuestIrp:
    """One IRP in guest memory. Made when it is submitted; ``completed`` writes its end."""

    def __init__(self, memory: GuestMemory, at: int, arch: Arch) -> None:
        reach = KernelMemory(memory)
        record = IRP.parse_untrusted(reach.fetch(at, IRP.size(arch), "the IRP"), arch)
        current = record.number("Tail.Overlay.CurrentStackLocation")
        self._memory = memory
        self._at = at
        self._arch = arch
        self._location = reach.fetch(current, IO_STACK_LOCATION.size(arch), "the current stack location")
        self._mdl = parse_mdl_untrusted(memory, record.number("MdlAddress"), arch)
        self._system_buffer = record.number("AssociatedIrp.SystemBuffer")
        self._output_at = record.number("AssociatedIrp.SystemBuffer")
        self._user_buffer = record.number("UserBuffer")
        self._is_cancelled = bool(record.number("Cancel"))
        self._stack_count = record.number("StackCount")

    def check_stack(self, needed: int) -> None:
        """Refuse an IRP without a stack location for every driver it has to pass (T1). One that says 0 says nothing."""
        if 0 < self._stack_count < needed:
            text = f"the IRP has {self._stack_count} stack locations, and there are {needed} drivers to pass: "
            raise Refused(NtStatus.INVALID_PARAMETER, text + "take as many as the top device's StackSize", rule="T1")

    def irp(self, handle: int, context: object = None, handle_of: Callable[[int], int] = int) -> Irp:
        """The request it stands for, cancelled already if its Cancel says so."""
        data, base = self._input()
        irp = raw_irp(
            handle,
            self._location,
            self._arch,
            self._memory,
            mdl=self._mdl,
            system_buffer=data,
            base=base,
            context=context,
            handle_of=handle_of,
        )
        irp.cancelled = self._is_cancelled
        return irp

    def _input(self) -> tuple[bytes, int]:
        """What a device control brings, and the address it lies at."""
        record = parse_location_untrusted(self._location, self._arch)
        if record.number("MajorFunction") != MajorFunction.DEVICE_CONTROL:
            return b"", 0
        control = "Parameters.DeviceIoControl."
        base = self._system_buffer
        if Method.of(record.number(control + "IoControlCode")) is Method.NEITHER:
            base, self._output_at = record.number(control + "Type3InputBuffer"), self._user_buffer
        length = record.number(control + "InputBufferLength")
        if length > MOST_CONTROL_BYTES:
            text = f"a device control brings at most {MOST_CONTROL_BYTES} bytes, not {length}"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
        return KernelMemory(self._memory).fetch(base, length, "the input buffer"), base

    def completed(self, irp: Irp, output: bytes = b"") -> None:
        """Write the output of a device control and then the status block; nothing of the IRP is touched after it."""
        if output:
            self._write(self._output_at, output)
        block = self._at + IRP.offset("IoStatus", self._arch)
        pointer = self._arch.pointer_bytes
        # A filter says what Information it likes, in 64 bits; a ULONG_PTR of x86 has the lower 32 of them.
        information = irp.information & ((1 << 8 * pointer) - 1)
        self._write(block, int(irp.status).to_bytes(pointer, "little") + information.to_bytes(pointer, "little"))

    def _write(self, at: int, data: bytes) -> None:
        # It could be read there a moment ago; memory has one size for ever, so only a client's own pointer can fail.
        try:
            self._memory.write(at, data)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.ACCESS_VIOLATION, f"the output cannot be written: {error}") from error

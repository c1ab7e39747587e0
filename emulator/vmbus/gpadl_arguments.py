"""Which memory a driver's page list shows to the host: the arguments of VmbChannelCreateGpadlFromMdl (4.2, 5)."""

from __future__ import annotations

from emulator.memory import GpaRange, Mdl
from emulator.status import NtStatus, Refused
from emulator.vmbus.gpadl import MAX_LIST_BYTES, VALUE_BYTES
from emulator.vmbus.send_rules import chain_ranges


def gpadl_ranges(mdl: Mdl | None, offset: int, length: int, page_count: int) -> tuple[GpaRange, ...]:
    """One range for each MDL that contributes; ``length`` 0 is all from ``offset`` to the end of the chain.

    ``page_count`` is the size of the machine's memory. Raises Refused naming the argument of the Windows call: 3 the
    MDL, 4 the offset, 5 the length.
    """
    if mdl is None:
        raise _wrong(3, "an MDL is required")
    if not all(link.is_locked for link in mdl.chain()):
        raise _wrong(3, "an MDL of the chain is not locked; lock its pages before they are shown to the host")
    total = sum(link.byte_count for link in mdl.chain())
    if not 0 <= offset < total:
        raise _wrong(4, f"offset {offset} is not inside the {total} bytes the MDL chain describes")
    if not 0 <= length <= total - offset:
        text = f"{length} bytes were asked for, but from offset {offset} the MDL chain describes {total - offset}"
        raise _wrong(5, f"{text}; pass 0 for all of them")
    ranges = chain_ranges(mdl, offset, length or total - offset)
    if any(not 0 <= pfn < page_count for each in ranges for pfn in each.pfns):
        raise _wrong(3, f"a page is outside this machine's memory, which ends before 0x{page_count:X}")
    values = sum(1 + len(each.pfns) for each in ranges)
    if values * VALUE_BYTES > MAX_LIST_BYTES:
        text = f"{values - len(ranges)} pages in {len(ranges)} ranges are more than one GPADL can hold"
        raise _wrong(5, f"{text}; describe them with several")
    return ranges


def _wrong(argument: int, text: str) -> Refused:
    return Refused(NtStatus[f"INVALID_PARAMETER_{argument}"], text, rule="4.2")

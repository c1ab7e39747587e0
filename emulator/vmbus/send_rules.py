"""What a send call may ask for, and which guest memory it then shows to the host: rules K1 to K32.

Every check runs before anything is done, so a refused packet can be sent again (K28). When several things are wrong,
the first of these is named (K29): not possible on this channel at all, flags, MDL, buffer, offset, length, limits.
The state of the channel comes last and is the endpoint's.

A refusal's status says which argument of the Windows call was wrong, its text what would be right, its rule why.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import NamedTuple

from emulator.memory import PAGE_MASK, PAGE_SHIFT, GpaRange, Mdl
from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import MAX_LENGTH8, PIPE_HEADER_BYTES, PIPE_MAX_PAYLOAD_BYTES, packet_cost
from emulator.vmbus.profile import EndpointLimits, KmclProfile, Side

_U32_MAX = 0xFFFFFFFF
_MAX_PFNS = 0xFFFFF  # so that their bytes fit 32 bits (K32)
_WAIT, _FORCE, _ALL_FLAGS = 0x1, 0x2, 0x7


class SendFlags(IntFlag):
    """Windows: VMBUS_CHANNEL_FORMAT_FLAG_*."""

    WAIT_FOR_COMPLETION = 0x1
    FORCE_MDL_LENGTH = 0x2
    PAGED_BUFFER = 0x4


class Approved(NamedTuple):
    """A send that may go ahead: the memory it shows to the host, whether it waits for a completion, its ring bytes."""

    ranges: tuple[GpaRange, ...]
    completion_requested: bool
    cost: int


class SendRules:
    """The argument checks of one channel end. ``page_count`` is the size of the machine's memory.

    ``largest_cost`` is how many bytes of the outgoing ring one packet can take at most.
    """

    def __init__(
        self,
        side: Side,
        profile: KmclProfile,
        limits: EndpointLimits,
        *,
        is_pipe: bool,
        page_count: int,
        largest_cost: int,
    ) -> None:
        self._profile = profile
        self._limits = limits
        self._side = side
        self._is_pipe = is_pipe
        self._page_count = page_count
        self._largest_cost = largest_cost
        self._frame_bytes = PIPE_HEADER_BYTES if is_pipe else 0
        self._max_packet_bytes = limits.max_packet_bytes
        if is_pipe:
            self._max_packet_bytes = min(limits.max_packet_bytes, PIPE_MAX_PAYLOAD_BYTES)

    @property
    def longest_payload(self) -> int:
        """Bytes up to which ``packet`` approves whatever comes without an MDL and with flags 0."""
        return min(self._max_packet_bytes, (self._largest_cost & ~7) - 24 - self._frame_bytes)

    def packet(self, buffer_bytes: int, mdl: Mdl | None, flags: int) -> Approved:
        """Windows: VmbPacketSend. Every MDL of the chain contributes all its bytes (K9)."""
        bits = int(flags)
        if mdl is None and not bits & ~0x5 and buffer_bytes <= self._max_packet_bytes:  # nearly every call
            cost = ((buffer_bytes + self._frame_bytes + 7) & ~7) + 24
            if cost <= self._largest_cost:
                return Approved((), bits & _WAIT != 0, cost)
        if mdl is not None:
            self._check_external_possible()
        self._check_known_flags(bits, 5)
        if bits & _FORCE and self._profile.reject_force_in_send:
            raise self._wrong(
                5, "K9", "FORCE_MDL_LENGTH (0x2) means nothing in this call; send a part with external MDL"
            )
        if mdl is None:
            self._check_buffer(buffer_bytes)
            return self._approve(buffer_bytes, (), bits & _WAIT != 0, 4, 4)
        if not bits & _WAIT and self._profile.reject_mdl_without_wait:
            text = (
                "a packet with an MDL needs WAIT_FOR_COMPLETION (0x1): the host reads the memory until it completes it"
            )
            raise self._wrong(5, "K7", f"{text}; flags were 0x{bits:X}")
        self._check_locked(mdl, whole_chain=True)
        total = sum(link.byte_count for link in mdl.chain())
        if not total:
            raise self._wrong(
                4, "K9", "the MDL chain describes no byte; pass no MDL for a packet without external data"
            )
        self._check_buffer(buffer_bytes)
        return self._approve(buffer_bytes, chain_ranges(mdl, 0, total), True, 4, 4)

    def external_mdl(self, buffer_bytes: int, mdl: Mdl | None, offset: int, length: int, flags: int) -> Approved:
        """Windows: VmbPacketSendWithExternalMdl. ``offset`` and ``length`` are bytes of the described buffer (K12)."""
        bits = int(flags)
        self._check_external_possible()
        self._check_known_flags(bits, 7)
        self._check_wait(bits, 7, "K10")
        if mdl is None:
            raise self._wrong(4, "K11", "an MDL is required; for a packet without external data use a plain send")
        force = bits & _FORCE != 0
        self._check_locked(mdl, whole_chain=not force)
        self._check_buffer(buffer_bytes)
        self._check_u32(offset, 5, "offset")
        ranges = self._forced_range(mdl, offset, length) if force else self._partial_ranges(mdl, offset, length)
        return self._approve(buffer_bytes, ranges, True, 6, 4)

    def external_pfns(self, buffer_bytes: int, pfns: Sequence[int] | None, flags: int) -> Approved:
        """Windows: VmbPacketSendWithExternalPfns. All of the pages named, as one range (K31)."""
        bits = int(flags)
        self._check_external_possible()
        self._check_known_flags(bits, 6)
        self._check_wait(bits, 6, "K30")
        if bits & _FORCE and self._profile.reject_force_in_pfns:
            raise self._wrong(6, "K30", "FORCE_MDL_LENGTH (0x2) means nothing where there is no MDL")
        if pfns is None:
            raise self._wrong(4, "K32", "an array of page numbers is required")
        self._check_buffer(buffer_bytes)
        if not 0 < len(pfns) <= _MAX_PFNS:
            raise self._wrong(5, "K32", f"name 1 to {_MAX_PFNS} pages, not {len(pfns)}")
        whole = GpaRange(len(pfns) << PAGE_SHIFT, 0, tuple(pfns))
        return self._approve(buffer_bytes, (whole,), True, 5, 4)

    def _wrong(self, argument: int, rule: str, message: str) -> Refused:
        plain = NtStatus.INVALID_PARAMETER
        status = NtStatus[f"INVALID_PARAMETER_{argument}"] if self._profile.positional_statuses else plain
        return Refused(status, message, rule=rule)

    def _check_external_possible(self) -> None:
        if self._is_pipe:
            status = self._profile.pipe_external_status
            raise Refused(status, "a pipe channel carries no external data; put the bytes into the buffer", rule="K5")
        if self._side is Side.HOST:
            status = self._profile.host_external_status
            raise Refused(
                status, "external data goes from guest to host only; put the bytes into the buffer", rule="K6"
            )

    def _check_known_flags(self, bits: int, argument: int) -> None:
        if bits & ~_ALL_FLAGS:
            raise self._wrong(argument, "K1", f"flags 0x{bits:X} have bits outside 0x{_ALL_FLAGS:X}")

    def _check_wait(self, bits: int, argument: int, rule: str) -> None:
        if not bits & _WAIT:
            text = "WAIT_FOR_COMPLETION (0x1) must be set: the host reads the memory until it completes the packet"
            raise self._wrong(argument, rule, f"{text}; flags were 0x{bits:X}")

    def _check_locked(self, mdl: Mdl, *, whole_chain: bool) -> None:
        if not self._profile.check_locked:
            return
        for index, link in enumerate(mdl.chain()):
            if not link.is_locked:
                raise self._wrong(4, "K25", f"MDL {index} of the chain is not locked; lock its pages before the send")
            if not whole_chain:
                return

    def _check_buffer(self, buffer_bytes: int) -> None:
        if buffer_bytes > self._max_packet_bytes:
            text = f"a packet of this channel has at most {self._max_packet_bytes} bytes, not {buffer_bytes}"
            raise self._wrong(3, "K3", f"{text}; send less, or raise the maximum packet size")

    def _check_u32(self, value: int, argument: int, name: str) -> None:
        if not 0 <= value <= _U32_MAX:
            raise self._wrong(argument, "K26", f"{name} is an unsigned 32-bit number of bytes, not {value}")

    def _partial_ranges(self, mdl: Mdl, offset: int, length: int) -> tuple[GpaRange, ...]:
        """K13 to K17: part of a chain; length 0 is all from ``offset`` to its end."""
        total = sum(link.byte_count for link in mdl.chain())
        if offset >= total:
            text = f"offset {offset} is not inside the {total} bytes the MDL chain describes"
            raise self._wrong(5, "K14", text + (f"; the last byte is {total - 1}" if total else ""))
        self._check_u32(length, 6, "length")
        if length > total - offset:
            text = f"{length} bytes were asked for, but from offset {offset} the MDL chain describes {total - offset}"
            raise self._wrong(6, "K16", f"{text}; pass 0 for all of them")
        return chain_ranges(mdl, offset, length or total - offset)

    def _forced_range(self, mdl: Mdl, offset: int, length: int) -> tuple[GpaRange]:
        """K18 to K23: the first MDL only, and up to the end of its last page. Never a page the MDL would not send."""
        end = mdl.byte_offset + mdl.byte_count
        limit = ((end + PAGE_MASK) & ~PAGE_MASK) - mdl.byte_offset
        if offset >= (mdl.byte_count if self._profile.reject_force_offset_past_buffer else limit):
            text = f"offset {offset} is not inside the first MDL's {mdl.byte_count} bytes; the length may pass its end"
            raise self._wrong(5, "K23", f"{text}, the offset may not")
        self._check_u32(length, 6, "length")
        if not length and not self._profile.reject_force_zero_length:
            length = mdl.byte_count - offset
        if length <= 0:
            text = "FORCE_MDL_LENGTH (0x2) with length 0 asks for no byte"
            raise self._wrong(6, "K22", f"{text}; give the length, or clear the flag")
        if offset + length > limit:
            text = f"{length} bytes from offset {offset} pass the end of the buffer's last page"
            raise self._wrong(6, "K19", f"{text}; from there it holds {limit - offset}")
        return (mdl.cut(offset, length),)

    def _approve(
        self, buffer_bytes: int, ranges: tuple[GpaRange, ...], waits: bool, length_argument: int, mdl_argument: int
    ) -> Approved:
        """The limits: of the channel (K24), of memory, of the length field (K27), of the ring (K8)."""
        limits = self._limits
        if ranges and self._profile.check_limits_when_sending:
            total = sum(rng.byte_count for rng in ranges)
            if total > limits.max_external_bytes:
                text = f"{total} bytes of external data; this channel's maximum is {limits.max_external_bytes}"
                raise self._wrong(length_argument, "K24", text)
            if len(ranges) > limits.max_external_chain:
                text = f"{len(ranges)} MDLs of external data; this channel's maximum is {limits.max_external_chain}"
                raise self._wrong(mdl_argument, "K24", text)
        for rng in ranges:
            for pfn in rng.pfns:
                if not 0 <= pfn < self._page_count:
                    text = f"page 0x{pfn:X} is outside this machine's memory, which ends before 0x{self._page_count:X}"
                    raise self._wrong(mdl_argument, "K25", text)
        cost = packet_cost(buffer_bytes + self._frame_bytes, [len(rng.pfns) for rng in ranges])
        status = self._profile.too_large_for_ring_status
        if cost - 8 > MAX_LENGTH8 * 8:
            text = f"the packet needs {cost - 8} bytes in the ring; its length field ends at {MAX_LENGTH8 * 8}"
            raise Refused(status, text, rule="K27")
        if cost > self._largest_cost:
            text = f"the packet needs {cost} bytes of a ring that can never hold more than {self._largest_cost}"
            raise Refused(status, f"{text}; send less, or give the channel more ring pages", rule="K8")
        return Approved(ranges, waits, cost)


def chain_ranges(mdl: Mdl, offset: int, length: int) -> tuple[GpaRange, ...]:
    """K13, K17: ``length`` bytes, above 0, of a chain that holds them; one range for each MDL that contributes."""
    ranges = []
    for link in mdl.chain():
        if offset >= link.byte_count:
            offset -= link.byte_count
            continue
        taken = min(link.byte_count - offset, length)
        ranges.append(link.cut(offset, taken))
        length -= taken
        if not length:
            break
        offset = 0
    return tuple(ranges)

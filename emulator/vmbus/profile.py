"""The choices a channel is made with: which side, how large, and what to do where the documentation is silent.

``KmclProfile`` names every behaviour nobody documents, so that a test of a driver can try the other answer. Its
defaults are the strict ones. ``EndpointLimits`` are the numbers a driver sets before it enables a channel, and bounds
that keep one channel from eating the process it lives in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emulator.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from emulator.status import Misuse, NtStatus


class Side(Enum):
    """Which end of the channel this is. A guest is the documented "client", a host the "server"."""

    GUEST = "guest"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class KmclProfile:
    """What to do where rules leave it open. Each field names the rule it decides."""

    positional_statuses: bool = True  # K1..K32: INVALID_PARAMETER_n for argument n; False: plain INVALID_PARAMETER
    pipe_external_status: NtStatus = NtStatus.NOT_SUPPORTED  # K5: external data on a pipe channel
    host_external_status: NtStatus = NtStatus.NOT_SUPPORTED  # K6: external data from host to guest
    copy_queued_buffers_late: bool = False  # K4: True reads a queued, not paged buffer again when it is written
    reject_mdl_without_wait: bool = True  # K7: False asks for the completion anyway
    too_large_for_ring_status: NtStatus = NtStatus.INVALID_PARAMETER  # K8, K27
    reject_force_in_send: bool = True  # K9: False ignores FORCE_MDL_LENGTH in a plain send
    reject_force_zero_length: bool = True  # K22: False sends the rest of the first MDL
    reject_force_offset_past_buffer: bool = True  # K23: False allows it while K19 holds
    check_limits_when_sending: bool = True  # K24: the limits are promised for the receiver, who checks them always
    check_locked: bool = True  # K25
    reject_force_in_pfns: bool = True  # K30: False ignores it
    closed_first_status: NtStatus = NtStatus.CANCELLED  # 4.4: the channel closed before the packet completed
    bad_ranges_status: NtStatus = NtStatus.INVALID_PARAMETER  # R7
    no_external_data_status: NtStatus = NtStatus.INVALID_PARAMETER  # R6
    hold_unasked_packets: bool = True  # Q1: False: a packet that wants no completion is finished when delivered
    quota_stops_completions: bool = True  # Q1, B3: False lets completions at the head of the ring out, quota or not
    raise_on_zero_quota: bool = True  # Q4: False ignores such a call
    synchronous_from_host_status: NtStatus = NtStatus.INVALID_PARAMETER  # Y2
    completion_buffer_status: NtStatus = NtStatus.INVALID_PARAMETER_7  # Y3: the size is no multiple of 8
    truncate_long_completions: bool = True  # Y3: False returns none of a completion that does not fit


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """The sizes of one channel. Every bound is checked before anything is done."""

    max_packet_bytes: int = 4096  # Windows: VmbChannelInitSetMaximumPacketSize; nobody publishes the default
    max_external_bytes: int = 1 << 20  # Windows: VmbChannelInitSetMaximumExternalData, DataSize
    max_external_chain: int = 32  # the same, ChainLength
    outgoing_ring_pages: int = 16  # data pages, without the control page
    incoming_ring_pages: int = 16
    transaction_quota: int = 4096  # Q1. Windows has none by default; a driver that never completes must not grow us
    max_queued_packets: int = 4096  # K8: packets waiting for room in the ring
    max_queued_bytes: int = 8 << 20
    max_outstanding: int = 65536  # sent and not completed, with those cancelled meanwhile

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise Misuse(f"{name} must be above 0, not {getattr(self, name)}")


def required_data_bytes(max_packet_bytes: int, max_external_bytes: int, max_external_chain: int) -> int:
    """The smallest ring data area, in bytes (whole pages), that can hold one packet of these limits (4.3).

    The room rule keeps 16 bytes free: 8 tell empty from full, 8 more because some readers refuse the very last unit.
    """
    pages = (max_external_bytes + PAGE_MASK) >> PAGE_SHIFT
    packet = 16 + 8 + 8 * max_external_chain + 8 * (pages + max_external_chain) + ((max_packet_bytes + 7) & ~7) + 8
    return (packet + 16 + PAGE_MASK) // PAGE_SIZE * PAGE_SIZE

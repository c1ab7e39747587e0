"""The choices a channel is made with: which side, how large, and what to do where the documentation is silent.

``KmclProfile`` names every behaviour nobody documents, so that a test of a driver can try the other answer. Its
defaults are the strict ones. ``EndpointLimits`` are the numbers a driver sets before it enables a channel, and bounds
that keep one channel from eating the process it lives in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from emulator.choice import choice
from emulator.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from emulator.status import Misuse, NtStatus


class Side(Enum):
    """Which end of the channel this is. A guest is the documented "client", a host the "server"."""

    GUEST = "guest"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class KmclProfile:
    """What to do where rules leave it open. Each field names the rule it decides."""

    positional_statuses: bool = choice(
        True, "K1-K32", "a bad argument n gets INVALID_PARAMETER_n", "plain INVALID_PARAMETER for all"
    )
    pipe_external_status: NtStatus = choice(NtStatus.NOT_SUPPORTED, "K5", "external data on a pipe channel")
    host_external_status: NtStatus = choice(NtStatus.NOT_SUPPORTED, "K6", "external data from host to guest")
    copy_queued_buffers_late: bool = choice(
        False,
        "K4",
        "buffers are copied before a send returns",
        "a queued packet without PAGED_BUFFER is read again when it is written",
    )
    reject_mdl_without_wait: bool = choice(
        True, "K7", "VmbPacketSend with an MDL wants WAIT_FOR_COMPLETION", "the completion is asked for anyway"
    )
    too_large_for_ring_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER, "K8, K27", "a packet that the ring could never hold"
    )
    reject_force_in_send: bool = choice(
        True, "K9", "VmbPacketSend refuses FORCE_MDL_LENGTH", "the flag is ignored there"
    )
    reject_force_zero_length: bool = choice(
        True, "K22", "FORCE_MDL_LENGTH with length 0 is refused", "the rest of the first MDL is sent"
    )
    reject_force_offset_past_buffer: bool = choice(
        True,
        "K23",
        "FORCE_MDL_LENGTH with an offset at or past the end of the buffer is refused",
        "it is allowed while the end stays in the buffer's last page (K19)",
    )
    check_limits_when_sending: bool = choice(
        True, "K24", "the sender checks the limits on external data", "only the receiver does, who always checks"
    )
    check_locked: bool = choice(True, "K25", "an MDL that is not locked is refused", "it is sent all the same")
    reject_force_in_pfns: bool = choice(
        True, "K30", "VmbPacketSendWithExternalPfns refuses FORCE_MDL_LENGTH", "the flag is ignored there"
    )
    closed_first_status: NtStatus = choice(
        NtStatus.CANCELLED, "4.4", "the channel closed before the packet completed", "`DEVICE_REMOVED`, for one"
    )
    bad_ranges_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "R7", "external data outside the rules")
    no_external_data_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER, "R6", "external data is asked of a packet that has none"
    )
    hold_unasked_packets: bool = choice(
        True,
        "Q1",
        "a packet that wants no completion counts as outstanding until it is completed",
        "it is finished when it is delivered",
    )
    quota_stops_completions: bool = choice(
        True,
        "Q1, B3",
        "with the quota used up nothing leaves the ring",
        "completions at the head of the ring still do",
    )
    raise_on_zero_quota: bool = choice(True, "Q4", "a quota of 0 is an error", "such a call is ignored")
    synchronous_from_host_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER, "Y2", "a host's synchronous send that would have to wait"
    )
    completion_buffer_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER_7, "Y3", "a completion buffer whose size is no multiple of 8"
    )
    truncate_long_completions: bool = choice(
        True, "Y3", "of a completion that does not fit, what fits is returned", "nothing of it is returned"
    )
    read_only_gpadl_status: NtStatus = choice(
        NtStatus.ACCESS_DENIED, "4.2", "a mapping for writing of a GPADL that was made read-only"
    )
    opened_expiry_fails: bool = choice(
        True,
        "4.3",
        "an Opened that does not return in time has failed, and the channel is rolled back",
        "it is taken to have succeeded, as every other state callback is",
    )


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """The sizes of one channel. Every bound is checked before anything is done."""

    max_packet_bytes: int = choice(
        4096, "4.3", "bytes of the largest packet; VmbChannelInitSetMaximumPacketSize sets it", "1 and more"
    )
    max_external_bytes: int = choice(
        1 << 20,
        "4.3",
        "bytes of external data of one packet; VmbChannelInitSetMaximumExternalData sets it",
        "1 and more",
    )
    max_external_chain: int = choice(32, "4.3", "MDLs of external data of one packet; the same call", "1 and more")
    outgoing_ring_pages: int = choice(
        16,
        "4.3",
        "data pages of the outgoing ring, without its control page; VmbClientChannelInitSetRingBufferPageCount sets it",
        "1 to 4094",
    )
    incoming_ring_pages: int = choice(16, "4.3", "data pages of the incoming ring; the same call", "1 to 4094")
    # Windows has no quota by default; a driver that never completes must not grow us.
    transaction_quota: int = choice(
        4096, "Q1", "packets delivered and not completed; VmbChannelSetTransactionQuota sets it", "1 and more"
    )
    max_queued_packets: int = choice(4096, "K8", "packets that wait for room in the ring", "1 and more")
    max_queued_bytes: int = choice(8 << 20, "K8", "bytes of packets that wait for room in the ring", "1 and more")
    max_outstanding: int = choice(
        65536, "Q1", "packets sent and not completed, with those cancelled meanwhile", "1 and more"
    )

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise Misuse(f"{name} must be above 0, not {getattr(self, name)}")


class ChannelProfile(NamedTuple):
    """What the ends of a machine's channels are made with, hosted or direct."""

    kmcl: KmclProfile = KmclProfile()
    limits: EndpointLimits = EndpointLimits()


def required_data_bytes(max_packet_bytes: int, max_external_bytes: int, max_external_chain: int) -> int:
    """The smallest ring data area, in bytes (whole pages), that can hold one packet of these limits (4.3).

    The room rule keeps 16 bytes free: 8 tell empty from full, 8 more because some readers refuse the very last unit.
    """
    pages = (max_external_bytes + PAGE_MASK) >> PAGE_SHIFT
    packet = 16 + 8 + 8 * max_external_chain + 8 * (pages + max_external_chain) + ((max_packet_bytes + 7) & ~7) + 8
    return (packet + 16 + PAGE_MASK) // PAGE_SIZE * PAGE_SIZE

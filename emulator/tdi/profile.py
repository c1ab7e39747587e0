"""Every choice the TDI documents leave to a provider, as named settings with the rule each belongs to.

The defaults are what the documents recommend or what a plain UDP provider would do. A profile never changes while in
use.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from emulator.choice import choice
from emulator.status import Misuse, NtStatus
from emulator.tdi.connection_profile import SEGMENT_CONNECTIONS, TCP_CONNECTIONS, ConnectionProfile
from emulator.tdi.constants import ReceiveFlags, ServiceFlags

UDP_MAX_DATAGRAM_BYTES = 65_507
"""The 65,535 bytes an IPv4 packet can have, less 20 for its header and 8 for UDP's."""

IP_AND_UDP_HEADER_BYTES = 28
"""What a segment takes from its MTU before data, so that its limit is the one Ethernet users know: 1,472 of 1,500."""

IP_AND_TCP_HEADER_BYTES = 40
"""The same for a packet of a connection."""

LEAST_PACKET_BYTES = 536
"""A packet of a connection has room for this at least, however small the MTU: what every path has to carry for TCP."""

SMALLEST_MTU_BYTES, LARGEST_MTU_BYTES = IP_AND_UDP_HEADER_BYTES + 1, 65_535

MAXIMUM_LENGTH = 0xFFFFFFFF
"""Lengths in requests are unsigned 32-bit numbers."""


class CleanupStyle(Enum):
    """What happens to sends still queued when their address object is cleaned up (CL2, S40)."""

    CANCEL = "cancel"
    DRAIN = "drain"


class QueryOverflow(Enum):
    """What a query does when its answer does not fit (Q2)."""

    PARTIAL = "partial"
    """Write what fits, BUFFER_OVERFLOW."""
    TOO_SMALL = "too small"
    """Write nothing, BUFFER_TOO_SMALL."""


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """How one kind of device behaves. Lengths in bytes, times in seconds."""

    max_datagram_bytes: int = choice(UDP_MAX_DATAGRAM_BYTES, "S8, S9", "bytes of the longest datagram")
    max_queued_datagrams: int = choice(64, "S30", "datagrams that wait to be sent, for each address object")
    # More than 64 of the longest datagrams.
    max_queued_bytes: int = choice(8 << 20, "S30", "bytes that wait to be sent, for a machine's objects together")
    send_timeout_seconds: float = choice(1.0, "S32", "seconds a datagram may wait to be sent")
    refuses_zero_length: bool = choice(False, "S10", "an empty datagram is sent", "it is refused")
    supports_broadcast: bool = choice(True, "S20", "a datagram may go to a broadcast address", "it is refused")
    supports_multicast: bool = choice(True, "S20", "a datagram may go to a multicast address", "it is refused")
    strict_destination: bool = choice(
        False, "S16", "an address of a type nobody here knows is skipped", "it fails the send"
    )
    cleanup: CleanupStyle = choice(
        CleanupStyle.CANCEL, "CL2, S40", "what becomes of queued sends when their address object is cleaned up"
    )
    query_overflow: QueryOverflow = choice(
        QueryOverflow.PARTIAL,
        "Q2",
        "a query whose answer does not fit writes what fits, with BUFFER_OVERFLOW",
        '`"too small"`: it writes nothing, with BUFFER_TOO_SMALL',
    )
    minimum_lookahead_bytes: int = choice(128, "6", "bytes a receive handler is shown at least")
    maximum_lookahead_bytes: int | None = choice(
        None, "6", "bytes a receive handler is shown at most: the whole datagram", "a number of bytes"
    )
    dynamic_ports: tuple[int, int] = choice(
        (49_152, 65_535),
        "CR7",
        "the first and last port chosen for port 0; the real UDP device has the host's instead",
        "another range",
    )
    counts_joins: bool = choice(
        True, "O7", "a group joined twice has to be left twice", "the second join is ADDRESS_ALREADY_EXISTS"
    )
    # Twenty is what many systems allow a socket by default.
    max_groups: int = choice(20, "O7", "groups one address object can be in")
    too_long_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER,
        "S8",
        "a datagram above the limit",
        "`INVALID_BUFFER_SIZE` is the other usual answer",
    )
    zero_length_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "S10", "an empty datagram, where refused")
    wrong_file_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "S2", "a send on a file that is no address object")
    null_information_status: NtStatus = choice(
        NtStatus.INVALID_PARAMETER, "S4", "a send without connection information"
    )
    short_buffer_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "S12", "a send longer than its MDL chain")
    bad_destination_status: NtStatus = choice(
        NtStatus.INVALID_ADDRESS, "S13, S14, S18", "a destination that cannot be read or used"
    )
    wrong_family_status: NtStatus = choice(
        NtStatus.INVALID_ADDRESS, "S19", "a destination of another family than the source"
    )
    unsupported_cast_status: NtStatus = choice(
        NtStatus.INVALID_ADDRESS, "S20", "a broadcast or multicast destination, where unsupported"
    )
    broadcast_source_status: NtStatus = choice(
        NtStatus.INVALID_ADDRESS, "S21", "a send from an address object on the broadcast address"
    )
    unreachable_status: NtStatus = choice(
        NtStatus.NETWORK_UNREACHABLE, "S22", "no route to the destination, or none this machine may use"
    )
    queue_full_status: NtStatus = choice(NtStatus.INSUFFICIENT_RESOURCES, "S30", "a send beyond the queue's bound")
    expired_status: NtStatus = choice(NtStatus.IO_TIMEOUT, "S33", "a send that waited too long")
    after_cleanup_status: NtStatus = choice(
        NtStatus.CANCELLED, "S41, CL7", "a request after cleanup", "`ADDRESS_CLOSED` says more"
    )
    exclusive_broadcast_status: NtStatus = choice(
        NtStatus.SHARING_VIOLATION, "CR9", "the broadcast address opened exclusively"
    )
    bad_filter_status: NtStatus = choice(
        NtStatus.INVALID_ADDRESS, "R14", "a receive from an address that cannot be read"
    )
    max_posted_receives: int = choice(1_024, "R15", "receives that wait for a datagram, for each address object")
    indicates_past_filters: bool = choice(
        True, "R7", "a datagram that no posted receive wants goes on to the handlers", "it is dropped"
    )
    strict_return_structures: bool = choice(
        False,
        "R18",
        "a returned address is cut to the room there is",
        "room for less than its header is refused with BUFFER_TOO_SMALL",
    )
    buffers_internally: bool = choice(
        False,
        "R22, 5.2",
        "a datagram nobody waits for goes to the client's stream of datagrams",
        "the provider keeps it for a later receive, and says so with TDI_SERVICE_INTERNAL_BUFFERING",
    )
    max_backlog_bytes: int = choice(
        256 << 10, "R34", "bytes that wait for a busy handler or in the provider's buffer, for each address object"
    )
    lends_buffers: bool = choice(
        True, "R40", "the chained handler is called while there is something to lend", "it is never called"
    )
    copies_lookahead: bool = choice(
        True, "R28", "the normal handler is told to copy what it is shown (COPY_LOOKAHEAD)", "it is not"
    )
    flags_partial: bool = choice(
        False, "R28", "a look-ahead shorter than its datagram has no flag", "it has TDI_RECEIVE_PARTIAL"
    )
    flags_dispatch_level: bool = choice(
        False, "R28", "handlers are not told at which level they run", "TDI_RECEIVE_AT_DISPATCH_LEVEL is set"
    )
    unknown_attribute_status: NtStatus = choice(NtStatus.INVALID_EA_NAME, "CR4", "an extended attribute nobody knows")
    unknown_control_status: NtStatus = choice(
        NtStatus.INVALID_DEVICE_REQUEST, "O12", "a device control nobody knows", "`NOT_SUPPORTED` is allowed too"
    )
    null_query_buffer_status: NtStatus = choice(NtStatus.INVALID_PARAMETER, "Q3", "a query without a buffer")
    wrong_query_file_status: NtStatus = choice(
        NtStatus.INVALID_DEVICE_REQUEST,
        "Q5",
        "a query on a file it does not apply to",
        "`INVALID_PARAMETER` is seen too",
    )

    def __post_init__(self) -> None:
        if not 0 < self.max_datagram_bytes <= MAXIMUM_LENGTH:
            raise Misuse(f"a datagram limit is 1..{MAXIMUM_LENGTH} bytes, not {self.max_datagram_bytes}")
        if self.max_queued_datagrams < 1 or self.max_queued_bytes < self.max_datagram_bytes:
            raise Misuse("a send queue has room for one datagram of the greatest length at least")
        if self.max_posted_receives < 1 or self.max_backlog_bytes < 1:
            raise Misuse("an address object can post one receive at least, and one byte may wait")
        low, high = self.dynamic_ports
        if not 0 < low <= high <= 65_535:
            raise Misuse(f"dynamic ports are a range within 1..65535, not {low}..{high}")

    @property
    def service_flags(self) -> ServiceFlags:
        """What TDI_PROVIDER_INFO advertises, from the settings the sends obey."""
        flags = ServiceFlags.CONNECTIONLESS_MODE
        if self.supports_broadcast:
            flags |= ServiceFlags.BROADCAST_SUPPORTED
        if self.supports_multicast:
            flags |= ServiceFlags.MULTICAST_SUPPORTED
        if self.refuses_zero_length:
            flags |= ServiceFlags.NO_ZERO_LENGTH
        if self.buffers_internally:
            flags |= ServiceFlags.INTERNAL_BUFFERING
        return flags

    @property
    def handler_flags(self) -> ReceiveFlags:
        """What every call of a receive handler carries (R28)."""
        return ReceiveFlags.AT_DISPATCH_LEVEL if self.flags_dispatch_level else ReceiveFlags.NONE


UDP_PROVIDER = ProviderProfile()
SEGMENT_PROVIDER = ProviderProfile(max_datagram_bytes=1_472, max_queued_datagrams=16)


@dataclass(frozen=True, slots=True)
class SegmentProfile:
    """How one virtual segment behaves: its provider's choices and its impairments (S24)."""

    mtu_bytes: int = 1_500
    loss: float = 0.0
    """Probability, 0 to 1, that one receiving machine does not get a datagram."""
    duplicate: float = 0.0
    """Probability, 0 to 1, that one receiving machine gets it twice."""
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    """How much less or more the delay is, each time anew; the order of datagrams stays."""
    reorder: float = 0.0
    """Probability, 0 to 1, that one is held back for ``reorder_seconds``, so that those behind it pass it."""
    reorder_seconds: float = 0.01
    rate_bytes_per_second: float = 0.0
    """What the shared line carries, IP and UDP headers included; 0 is no limit."""
    rate_backlog_seconds: float = 1.0
    """How far behind the line may be; what comes then is dropped, as by a full queue before a slow link."""
    partition: tuple[frozenset[str], ...] = ()
    """Names of machines that hear only those they stand with; machines in no group stand together."""
    max_datagrams_in_flight: int = 4_096
    """Delayed datagrams on the way at once; the newest is dropped beyond that, which a medium may do (S24)."""
    max_bytes_in_flight: int = 16 << 20
    start_filetime: int = 116_444_736_000_000_000
    """What its provider reports as StartTime: 100 ns since 1601. A constant (1970), so that runs can be compared."""
    connections: ConnectionProfile = field(default=SEGMENT_CONNECTIONS)
    provider_base: ProviderProfile = field(default=SEGMENT_PROVIDER)

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise Misuse(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}")
        for name in ("delay_seconds", "jitter_seconds", "reorder_seconds", "rate_bytes_per_second"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise Misuse(f"{name} is a number, 0 or more, not {getattr(self, name)}")
        if not SMALLEST_MTU_BYTES <= self.mtu_bytes <= LARGEST_MTU_BYTES:
            raise Misuse(f"an MTU is {SMALLEST_MTU_BYTES} to {LARGEST_MTU_BYTES} bytes, not {self.mtu_bytes}")
        names = [name for group in self.partition for name in group]
        if len(names) != len(set(names)):
            raise Misuse("a machine stands on one side of a partition only")

    @property
    def is_plain(self) -> bool:
        """Whether every datagram arrives, once and at once."""
        fates = self.loss, self.duplicate, self.delay_seconds, self.jitter_seconds, self.reorder
        return not (any(fates) or self.rate_bytes_per_second or self.partition)

    @property
    def is_swift(self) -> bool:
        """Whether what a connection carries arrives at once, wherever it arrives."""
        return not (self.delay_seconds or self._has_packets)

    @property
    def packet_bytes(self) -> int | None:
        """How much of a connection is one packet; None where packets make no difference."""
        return max(LEAST_PACKET_BYTES, self.mtu_bytes - IP_AND_TCP_HEADER_BYTES) if self._has_packets else None

    @property
    def _has_packets(self) -> bool:
        return bool(self.loss or self.jitter_seconds or self.reorder or self.rate_bytes_per_second)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, under the names the configuration has."""
        return {
            "latency_seconds": self.delay_seconds,
            "jitter_seconds": self.jitter_seconds,
            "loss": self.loss,
            "duplication": self.duplicate,
            "reordering": self.reorder,
            "reordering_seconds": self.reorder_seconds,
            "rate_bytes_per_second": self.rate_bytes_per_second,
            "maximum_datagram_bytes": self.mtu_bytes - IP_AND_UDP_HEADER_BYTES,
            "partition": [sorted(group) for group in self.partition],
        }

    @property
    def provider(self) -> ProviderProfile:
        """The provider's choices, its datagram limit being what the MTU leaves (S9, S12b)."""
        return replace(self.provider_base, max_datagram_bytes=self.mtu_bytes - IP_AND_UDP_HEADER_BYTES)


@dataclass(frozen=True, slots=True)
class Profile:
    """How one machine's transport behaves; a segment brings its own profile."""

    udp: ProviderProfile = UDP_PROVIDER
    tcp: ConnectionProfile = TCP_CONNECTIONS
    max_open_files: int = 4_096
    """Address objects and control channels of one machine together (CR13)."""
    handler_timeout_seconds: float = 5.0
    """How long a client's event handler may take to answer; then it has not accepted."""
    max_loans: int = 64
    """Chained datagrams one address object may keep at once; more are given to its normal handler (R40)."""
    max_lent_bytes: int = 16 << 20
    """Bytes of chained datagrams that all clients of one machine may keep together."""

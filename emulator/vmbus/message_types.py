"""What the control messages carry: versions, features, and one plain class for each layout.

Where a later version made a structure longer, the longer layout is a subclass with the added fields. Statuses and
flags are the raw numbers off the wire. The numbers, sizes and minimum versions are in ``messages.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import NamedTuple
from uuid import UUID

MAX_PAYLOAD_BYTES = 240
HEADER_BYTES = 8
USER_DATA_BYTES = 120
NO_USER_DATA = bytes(USER_DATA_BYTES)
NO_GUID = UUID(int=0)
DISABLE_INTERRUPTS_VP = 0xFFFFFFFF
NO_MONITOR_ID = 0xFF

STATUS_OK = 0
STATUS_FAILED = 0x8000FFFF  # what the bus itself answers; not the NTSTATUS of the same meaning
STATUS_CONNECTION_REFUSED = 0xC0000236


def is_failure(status: int) -> bool:
    """Whether a 32-bit status, read as signed, is negative."""
    return bool(status & 0x80000000)


class Version(IntEnum):
    """Protocol versions, as they travel: major in the high half, minor in the low half."""

    V0_13 = 0x0000000D
    V1_1 = 0x00010001
    V2_4 = 0x00020004
    V3_0 = 0x00030000
    V4_0 = 0x00040000
    V4_1 = 0x00040001
    V5_0 = 0x00050000
    V5_1 = 0x00050001
    V5_2 = 0x00050002
    V5_3 = 0x00050003
    V6_0 = 0x00060000

    def __str__(self) -> str:
        return f"{self >> 16}.{self & 0xFFFF}"


class FeatureFlags(IntFlag):
    """What a 6.0 connection can be granted on top of its version."""

    NONE = 0
    GUEST_SPECIFIED_SIGNAL_PARAMETERS = 0x1
    CHANNEL_INTERRUPT_REDIRECTION = 0x2
    MODIFY_CONNECTION = 0x4
    CLIENT_ID = 0x8
    CONFIDENTIAL_CHANNELS = 0x10
    PAUSE_RESUME = 0x20
    SERVER_SPECIFIED_MONITOR_PAGES = 0x40
    GPA_PINNING = 0x80


class ConnectResult(IntEnum):
    """The connection state byte of messages 15 and 26."""

    SUCCESSFUL = 0
    LOW_RESOURCES = 1
    UNKNOWN_FAILURE = 2


class Direction(Enum):
    """Who sends a message."""

    GUEST_TO_HOST = "guest to host"
    HOST_TO_GUEST = "host to guest"


class Negotiated(NamedTuple):
    """What a connection speaks: its version and the granted features."""

    version: Version
    features: FeatureFlags = FeatureFlags.NONE


@dataclass(frozen=True, slots=True)
class Message:
    """Any control message."""


@dataclass(frozen=True, slots=True)
class OfferChannel(Message):
    interface_id: UUID
    instance_id: UUID
    flags: int
    mmio_megabytes: int
    user_defined: bytes
    subchannel_index: int
    mmio_megabytes_optional: int
    channel_id: int
    monitor_id: int
    monitor_allocated: int
    is_dedicated: int
    connection_id: int


@dataclass(frozen=True, slots=True)
class RescindChannelOffer(Message):
    channel_id: int


@dataclass(frozen=True, slots=True)
class RequestOffers(Message):
    pass


@dataclass(frozen=True, slots=True)
class AllOffersDelivered(Message):
    pass


@dataclass(frozen=True, slots=True)
class OpenChannel(Message):
    channel_id: int
    open_id: int
    ring_buffer_gpadl_id: int
    target_vp: int
    downstream_page_offset: int
    user_data: bytes


@dataclass(frozen=True, slots=True)
class OpenChannel2(OpenChannel):
    connection_id: int
    event_flag: int
    flags: int


@dataclass(frozen=True, slots=True)
class OpenChannelResult(Message):
    channel_id: int
    open_id: int
    status: int


@dataclass(frozen=True, slots=True)
class CloseChannel(Message):
    channel_id: int


@dataclass(frozen=True, slots=True)
class GpadlHeader(Message):
    channel_id: int
    gpadl_id: int
    range_buflen: int
    range_count: int
    ranges: bytes


@dataclass(frozen=True, slots=True)
class GpadlBody(Message):
    message_number: int
    gpadl_id: int
    ranges: bytes


@dataclass(frozen=True, slots=True)
class GpadlCreated(Message):
    channel_id: int
    gpadl_id: int
    status: int


@dataclass(frozen=True, slots=True)
class GpadlTeardown(Message):
    channel_id: int
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class GpadlTorndown(Message):
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class RelIdReleased(Message):
    channel_id: int


@dataclass(frozen=True, slots=True)
class InitiateContact(Message):
    version_requested: int
    target_message_vp: int
    target_info: int  # the interrupt page's address below 2.4; SINT, VTL and features from 5.0
    parent_to_child_page: int
    child_to_parent_page: int


@dataclass(frozen=True, slots=True)
class InitiateContact2(InitiateContact):
    client_id: UUID


@dataclass(frozen=True, slots=True)
class VersionResponse(Message):
    version_supported: int
    connection_state: int
    version_or_connection_id: int


@dataclass(frozen=True, slots=True)
class VersionResponse2(VersionResponse):
    supported_features: int


@dataclass(frozen=True, slots=True)
class VersionResponse3(VersionResponse2):
    parent_to_child_page: int
    child_to_parent_page: int


@dataclass(frozen=True, slots=True)
class Unload(Message):
    pass


@dataclass(frozen=True, slots=True)
class UnloadComplete(Message):
    pass


@dataclass(frozen=True, slots=True)
class OpenReservedChannel(Message):
    channel_id: int
    target_vp: int
    target_sint: int
    ring_buffer_gpadl_id: int
    downstream_page_offset: int


@dataclass(frozen=True, slots=True)
class CloseReservedChannel(Message):
    channel_id: int
    target_vp: int
    target_sint: int


@dataclass(frozen=True, slots=True)
class CloseReservedChannelResponse(Message):
    channel_id: int


@dataclass(frozen=True, slots=True)
class TlConnectRequest(Message):
    endpoint_id: UUID
    service_id: UUID


@dataclass(frozen=True, slots=True)
class TlConnectRequest2(TlConnectRequest):
    silo_id: UUID


@dataclass(frozen=True, slots=True)
class ModifyChannel(Message):
    channel_id: int
    target_vp: int


@dataclass(frozen=True, slots=True)
class TlConnectRequestResult(Message):
    endpoint_id: UUID
    service_id: UUID
    status: int


@dataclass(frozen=True, slots=True)
class ModifyChannelResponse(Message):
    channel_id: int
    status: int


@dataclass(frozen=True, slots=True)
class ModifyConnection(Message):
    parent_to_child_page: int
    child_to_parent_page: int


@dataclass(frozen=True, slots=True)
class ModifyConnectionResponse(Message):
    connection_state: int


@dataclass(frozen=True, slots=True)
class Pause(Message):
    pass


@dataclass(frozen=True, slots=True)
class PauseResponse(Message):
    pass


@dataclass(frozen=True, slots=True)
class Resume(Message):
    pass

"""Initiate contact: what a guest's request means, and what the host says to it (rule 2.4).

Which bits of the request count depends on the version it asks for and on the port it came through. A version must match
exactly. Features exist from 6.0 on: granted is what is both supported and asked for, and unknown bits just drop out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.host_effects import MonitorPages
from emulator.vmbus.message_types import (
    NO_GUID,
    ConnectResult,
    FeatureFlags,
    InitiateContact,
    InitiateContact2,
    Negotiated,
    Version,
    VersionResponse,
    VersionResponse2,
    VersionResponse3,
)
from emulator.vmbus.synic import MESSAGE_CONNECTION, PORT_BUFFERS, VMBUS_SINT, Port

# Those no platform has to help with.
LOCAL_FEATURES = FeatureFlags.CLIENT_ID | FeatureFlags.CONFIDENTIAL_CHANNELS | FeatureFlags.GPA_PINNING
DEFAULT_FEATURES = FeatureFlags(0xFF) & ~FeatureFlags.GPA_PINNING


class VersionLimit(NamedTuple):
    """The newest version and the features something accepts."""

    version: Version = Version.V6_0
    features: FeatureFlags = FeatureFlags(0xFF)


NO_LIMIT = VersionLimit()


@dataclass(frozen=True, slots=True)
class BusConfig:
    """How one machine's host bus behaves. Every limit has its reason; every choice names its rule."""

    maximum_version: Version = Version.V6_0
    supported_features: FeatureFlags = DEFAULT_FEATURES
    restore_limit: VersionLimit = NO_LIMIT  # saved states above it are refused
    gpa_pinning: bool = False  # 2.4: GPA_PINNING is granted only by a server that can pin
    require_server_monitor_pages: bool = False  # guest monitor pages are then not used
    vtl: int = 0
    message_connection_id: int = MESSAGE_CONNECTION  # what 5.0 and later are told to post to
    multiclient_port: bool | None = None  # [C] None: present if 5.0 or later can be negotiated, as on older hosts
    refuse_to_requested_vp: bool = True  # [C] a refused version is answered on the processor the request names
    absolute_offer_order: bool = False  # 2.5: sort offers by order first
    require_primary: bool = True  # [Q] a sub-channel needs its primary offered before it
    dedicated_below_2_4: bool = True  # [S] 2.3: old guests, too, hear that channels have doorbells of their own
    allow_empty_rings: bool = False  # [C] rings of a control page alone are refused
    max_gpadls: int = 8192  # page lists of all channels: bounds the bookkeeping a guest can cause
    max_gpadl_pages: int = 1 << 18  # pages of all lists, 1 GiB: a page number costs about 40 bytes here
    max_gpadls_in_progress: int = 64  # each holds at most 64 KiB that nobody can use yet
    max_connects: int = 16  # [S] socket connect requests handled at once
    port_buffers: int = PORT_BUFFERS  # messages waiting while the guest does not read its answers
    outgoing_backlog: int = 512  # answers waiting for the guest before its own messages wait too
    message_window: int | None = None  # messages on the way to one (vp, sint); None: every message arrives at once

    @property
    def has_multiclient_port(self) -> bool:
        """Whether connection id 4 exists."""
        return self.maximum_version >= Version.V5_0 if self.multiclient_port is None else self.multiclient_port


@dataclass(frozen=True, slots=True)
class ContactRequest:
    """An initiate contact message, read the way its version and port demand."""

    version_requested: int
    target_message_vp: int
    target_sint: int
    target_vtl: int
    feature_flags: int
    interrupt_page: int | None
    monitor_pages: MonitorPages | None
    half_monitor_pages: bool  # exactly one of the two was given
    client_id: UUID
    trusted: bool


def read_contact(message: InitiateContact, port: Port, trusted: bool) -> ContactRequest:
    """What a request asks for. Raises BusError when it promises a client id it is too short for."""
    version, info = message.version_requested, message.target_info
    aimed = port is Port.MULTICLIENT
    features = info >> 32 if version >= Version.V6_0 else 0
    client_id = NO_GUID
    if features & FeatureFlags.CLIENT_ID:
        if not isinstance(message, InitiateContact2):
            raise BusError(BusFault.CLIENT_ID_MISSING, "an initiate contact of 40 bytes")
        client_id = message.client_id
    p2c, c2p = message.parent_to_child_page, message.child_to_parent_page
    return ContactRequest(
        version_requested=version,
        target_message_vp=message.target_message_vp if version >= Version.V3_0 else 0,
        target_sint=info & 0xFF if aimed and version >= Version.V5_0 else VMBUS_SINT,
        target_vtl=info >> 8 & 0xFF if aimed and version >= Version.V5_1 else 0,
        feature_flags=features,
        interrupt_page=info or None if version < Version.V2_4 else None,
        monitor_pages=MonitorPages(p2c, c2p) if p2c and c2p else None,
        half_monitor_pages=bool(p2c) != bool(c2p),
        client_id=client_id,
        trusted=trusted,
    )


def choose_version(request: ContactRequest, config: BusConfig) -> Negotiated | None:
    """What a connection would speak; None when the version is unknown or above the limit."""
    try:
        version = Version(request.version_requested)
    except ValueError:
        return None
    if version > config.maximum_version:
        return None
    if version < Version.V6_0:
        return Negotiated(version)
    supported = config.supported_features & FeatureFlags(0xFF)
    if not request.trusted:
        supported &= ~FeatureFlags.CONFIDENTIAL_CHANNELS
    if not config.gpa_pinning:
        supported &= ~FeatureFlags.GPA_PINNING
    else:
        supported |= FeatureFlags.GPA_PINNING
    return Negotiated(version, supported & FeatureFlags(request.feature_flags & 0xFF))


UNSUPPORTED = VersionResponse(0, 0, 0)


def version_response(
    negotiated: Negotiated,
    config: BusConfig,
    state: ConnectResult = ConnectResult.SUCCESSFUL,
    monitor_pages: MonitorPages | None = None,
) -> VersionResponse:
    """The answer in the layout its version has. Below 2.4 a failure cannot be told from an unsupported version."""
    version, features = negotiated
    if state and version < Version.V2_4:
        return UNSUPPORTED
    selected = config.message_connection_id if version >= Version.V5_0 else int(version)
    if version < Version.V6_0:
        return VersionResponse(1, state, selected)
    if monitor_pages is None:
        return VersionResponse2(1, state, selected, int(features))
    return VersionResponse3(1, state, selected, int(features), *monitor_pages)

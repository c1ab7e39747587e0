"""How a GuestBus is set up, and everything it knows: the whole of the latter is what gets saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

from emulator.status import NtStatus, Refused
from emulator.vmbus.guest_channels import GuestChannelsState, GuestChannelState
from emulator.vmbus.host_effects import MonitorPages
from emulator.vmbus.message_types import NO_GUID, FeatureFlags, Version
from emulator.vmbus.synic import MESSAGE_CONNECTION

CLIENT_FEATURES = (
    FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS
    | FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION
    | FeatureFlags.MODIFY_CONNECTION
    | FeatureFlags.CLIENT_ID
    | FeatureFlags.PAUSE_RESUME
)
NO_PAGES = MonitorPages(0, 0)
FIRST_GPADL_ID = 0xE1E10  # where Linux begins; any number would do


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """How a guest presents itself. ``versions`` are tried in this order; ``max_sockets`` bounds waiting connects."""

    versions: tuple[Version, ...] = tuple(sorted(Version, reverse=True))
    features: FeatureFlags = CLIENT_FEATURES
    client_id: UUID = NO_GUID
    target_message_vp: int = 0
    interrupt_page: int = 0  # for versions below 2.4
    monitor_pages: MonitorPages = NO_PAGES
    max_sockets: int = 64


class GuestPhase(Enum):
    """Where the connection is."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNLOADING = "unloading"


@dataclass(slots=True)
class GuestState:
    """Everything a GuestBus knows; ``attempt`` indexes the version being tried."""

    phase: GuestPhase = GuestPhase.DISCONNECTED
    attempt: int = 0
    version: Version | None = None
    features: FeatureFlags = FeatureFlags.NONE
    connection_id: int = MESSAGE_CONNECTION
    channels: GuestChannelsState = field(default_factory=GuestChannelsState)
    sockets: list[tuple[UUID, UUID]] = field(default_factory=list)
    is_modifying: bool = False


def check_restorable(state: GuestState, config: GuestConfig) -> None:
    """Refuse a saved state that is not whole, or was made with other versions configured. Raises Refused."""
    if not 0 <= state.attempt < len(config.versions):
        raise Refused(NtStatus.INVALID_PARAMETER, "saved state: the version being tried is not configured")
    if state.phase in (GuestPhase.CONNECTED, GuestPhase.UNLOADING) and state.version is None:
        raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: {state.phase.value} without a version")
    channels, gpadls = state.channels.channels, state.channels.gpadls
    for channel_id, channel in channels.items():
        ring = None if channel.opening is None else gpadls.get(channel.opening.ring_gpadl_id)
        whole = ring is not None and ring.is_ring and ring.channel_id == channel_id
        if channel.channel_id != channel_id or whole is (channel.state is GuestChannelState.OFFERED):
            raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: channel {channel_id} is not whole")
    for gpadl_id, gpadl in gpadls.items():
        if gpadl.gpadl_id != gpadl_id or gpadl.channel_id not in channels:
            raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: GPADL 0x{gpadl_id:X} belongs to no channel")

"""How a GuestBus is set up, and everything it knows: the whole of the latter is what gets saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

from emulator.vmbus.guest_channels import GuestChannelsState
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

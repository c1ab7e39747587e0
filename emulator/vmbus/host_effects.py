"""What a HostBus wants done: the answers of its input methods, performed in order by whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from emulator.memory import GpaRange
from emulator.vmbus.faults import Violation
from emulator.vmbus.gpadl import RingPages
from emulator.vmbus.message_types import ConnectResult, FeatureFlags, Version

ALL_FEATURES = FeatureFlags(0xFF)


class MonitorPages(NamedTuple):
    """The two pages of batched doorbells, as guest physical addresses."""

    parent_to_child: int
    child_to_parent: int


class SynicTarget(NamedTuple):
    """Where a message or an interrupt goes: a virtual processor and one of its sixteen sources."""

    vp: int
    sint: int


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Put this message in the guest's message slot of (vp, sint)."""

    vp: int
    sint: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class MessageDropped:
    """A message to a target of the guest's own choosing found no room; such messages are never queued (2.5)."""

    vp: int
    sint: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Everything a device needs to open its end of a channel. Windows: VMB_CHANNEL_STATE_CHANGE EvtChannelOpened.

    ``target_vp`` is None when the guest wants no interrupts. ``event_flag`` is what interrupts it otherwise, and
    ``connection_id`` is the guest's doorbell. ``reserved_target`` is set for a reserved channel.
    """

    channel_id: int
    open_id: int
    ring_gpadl_id: int
    ring: RingPages
    downstream_page_offset: int
    target_vp: int | None
    user_data: bytes
    connection_id: int
    event_flag: int
    redirect_interrupt: bool
    monitor_id: int | None
    reserved_target: SynicTarget | None
    version: Version
    features: FeatureFlags


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """Open the device's end; answer with ``device_opened``."""

    offer_key: int
    request: OpenRequest


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """Close the device's end; answer with ``device_closed`` when nothing of it uses the ring any more."""

    offer_key: int


@dataclass(frozen=True, slots=True)
class GpadlOffered:
    """The guest describes memory to the device; answer with ``gpadl_accepted``."""

    offer_key: int
    gpadl_id: int
    ranges: tuple[GpaRange, ...]


@dataclass(frozen=True, slots=True)
class GpadlTeardown:
    """The guest wants its memory back; answer with ``gpadl_torn_down`` once nothing uses it."""

    offer_key: int
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class ModifyDevice:
    """Interrupt another virtual processor from now on; answer with ``modify_done``."""

    offer_key: int
    target_vp: int


@dataclass(frozen=True, slots=True)
class SignalDevice:
    """The guest rang this channel's doorbell."""

    offer_key: int


@dataclass(frozen=True, slots=True)
class ScanInterruptPage:
    """The guest rang the shared doorbell of old versions: look for channel bits in the second half of this page."""

    page_gpa: int


@dataclass(frozen=True, slots=True)
class SetInterruptBit:
    """Set this channel's bit in the first half of the guest's interrupt page (versions below 2.4)."""

    page_gpa: int
    channel_id: int


@dataclass(frozen=True, slots=True)
class SignalGuest:
    """Set an event flag of (vp, sint), and interrupt the guest if it was clear."""

    vp: int
    sint: int
    flag: int


@dataclass(frozen=True, slots=True)
class TlConnect:
    """The guest wants a socket connection to a host service; answer with ``tl_connect_result``."""

    service_id: UUID
    endpoint_id: UUID
    silo_id: UUID


class PlatformChange(Enum):
    """What the machine around the bus is asked to do."""

    CONNECT = "connect"
    RESET = "reset"
    MODIFY = "modify"


@dataclass(frozen=True, slots=True)
class ModifyPlatform:
    """Take over what the guest announced, or forget it; answer with ``modify_connection_done``."""

    change: PlatformChange
    version: Version | None = None
    features: FeatureFlags = FeatureFlags.NONE
    target_message_vp: int | None = None
    interrupt_page: int | None = None
    monitor_pages: MonitorPages | None = None
    client_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class PlatformResult:
    """The answer to ModifyPlatform. The fields behind ``state`` count for CONNECT only.

    ``supported`` False refuses the version; ``features`` are those the platform can serve; ``monitor_pages`` are pages
    of its own, allowed only if the guest asked for such.
    """

    state: ConnectResult = ConnectResult.SUCCESSFUL
    supported: bool = True
    features: FeatureFlags = ALL_FEATURES
    monitor_pages: MonitorPages | None = None


@dataclass(frozen=True, slots=True)
class ForwardContact:
    """The guest contacts the bus of another trust level; this one does nothing with it."""

    vtl: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The guest's connection is gone; only reserved channels are still open."""


@dataclass(frozen=True, slots=True)
class ResetDone:
    """The reset is complete: nothing of the guest's is left."""


@dataclass(frozen=True, slots=True)
class AnswerIgnored:
    """Nobody waits for this answer any more, most often because the guest or the device went away meanwhile.

    A device that reported itself open and gets this must close by itself.
    """

    offer_key: int | None
    answer: str


HostEffect = (
    SendMessage
    | MessageDropped
    | OpenDevice
    | CloseDevice
    | GpadlOffered
    | GpadlTeardown
    | ModifyDevice
    | SignalDevice
    | ScanInterruptPage
    | SetInterruptBit
    | SignalGuest
    | TlConnect
    | ModifyPlatform
    | ForwardContact
    | Disconnected
    | ResetDone
    | AnswerIgnored
    | Violation
)

"""What a GuestBus wants done or reports: the answers of its input methods, performed in order by whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from emulator.vmbus.faults import Violation
from emulator.vmbus.message_types import FeatureFlags, OfferChannel, Version


@dataclass(frozen=True, slots=True)
class PostMessage:
    """Post this message to the host; tell ``post_failed`` if the hypercall refuses it."""

    connection_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """A version is agreed on. Offers follow."""

    version: Version
    features: FeatureFlags


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """No connection: no version suits the host (``connection_state`` 0), or it reports a failure."""

    connection_state: int


@dataclass(frozen=True, slots=True)
class OfferArrived:
    """The host offers a channel."""

    offer: OfferChannel


@dataclass(frozen=True, slots=True)
class OffersDelivered:
    """The initial batch of offers is complete."""


@dataclass(frozen=True, slots=True)
class OfferRescinded:
    """The channel's device is gone. Whoever uses the channel lets go of it, then calls ``release``."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """The end of ``open_channel``. With a negative status the ring's pages are free again.

    ``connection_id`` is the doorbell to the host, ``event_flag`` the one the host sets.
    """

    ticket: int
    channel_id: int
    status: int
    connection_id: int
    event_flag: int


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The end of ``close_channel``: the ring's pages are free again."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class ChannelModified:
    """The end of ``modify``."""

    channel_id: int
    status: int


@dataclass(frozen=True, slots=True)
class ChannelReleased:
    """The end of ``release``: the id is the host's again."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class GpadlReady:
    """The end of ``create_gpadl``; with a negative status there is no such GPADL."""

    channel_id: int
    gpadl_id: int
    status: int


@dataclass(frozen=True, slots=True)
class GpadlGone:
    """The end of ``teardown_gpadl``: its pages are free again."""

    channel_id: int
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class ConnectionModified:
    """The end of ``modify_connection``."""

    connection_state: int


@dataclass(frozen=True, slots=True)
class PauseAnswered:
    """The host will send nothing more until ``resume``."""


@dataclass(frozen=True, slots=True)
class TlConnected:
    """The host service accepted: this channel, offered just before, is the socket."""

    service_id: UUID
    endpoint_id: UUID
    channel_id: int


@dataclass(frozen=True, slots=True)
class TlConnectFailed:
    """The host service refused."""

    service_id: UUID
    endpoint_id: UUID
    status: int


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The end of ``unload``: there are no channels and no GPADLs any more."""


@dataclass(frozen=True, slots=True)
class PostLost:
    """The hypercall refused a message nobody can do without (``hv_status``); the bus is out of step with the host."""

    payload: bytes
    hv_status: int


GuestEffect = (
    PostMessage
    | Connected
    | ConnectFailed
    | OfferArrived
    | OffersDelivered
    | OfferRescinded
    | ChannelOpened
    | ChannelClosed
    | ChannelModified
    | ChannelReleased
    | GpadlReady
    | GpadlGone
    | ConnectionModified
    | PauseAnswered
    | TlConnected
    | TlConnectFailed
    | Unloaded
    | PostLost
    | Violation
)

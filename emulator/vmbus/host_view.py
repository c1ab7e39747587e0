"""A HostBus as people and tools want to see it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from emulator.vmbus.host_save import HostState
from emulator.vmbus.message_types import FeatureFlags, Version


@dataclass(frozen=True, slots=True)
class GpadlView:
    """One page list."""

    gpadl_id: int
    state: str
    page_count: int


@dataclass(frozen=True, slots=True)
class ChannelView:
    """One channel; ``channel_id`` is None while the guest holds no id."""

    offer_key: int
    interface_id: UUID
    instance_id: UUID
    subchannel_index: int
    state: str
    channel_id: int | None
    monitor_id: int | None
    open_id: int | None
    connection_id: int | None
    event_flag: int | None
    target_vp: int | None
    gpadls: tuple[GpadlView, ...]


@dataclass(frozen=True, slots=True)
class BusView:
    """One bus. ``version`` is None while nobody is connected."""

    phase: str
    version: Version | None
    features: FeatureFlags
    offers_sent: bool
    is_paused: bool
    waiting_messages: int
    channels: tuple[ChannelView, ...]


def view_of(state: HostState) -> BusView:
    """What a bus with this state looks like."""
    gpadls: dict[int, list[GpadlView]] = {}
    for (slot, gpadl_id), gpadl in state.gpadls.lists.items():
        pages = sum(len(rng.pfns) for rng in gpadl.ranges)
        gpadls.setdefault(slot, []).append(GpadlView(gpadl_id, gpadl.state.value, pages))
    channels = []
    for channel in state.channels.channels.values():
        request = channel.request
        channels.append(
            ChannelView(
                offer_key=channel.offer_key,
                interface_id=channel.offer.interface_id,
                instance_id=channel.offer.instance_id,
                subchannel_index=channel.offer.subchannel_index,
                state=channel.state.value,
                channel_id=channel.channel_id,
                monitor_id=channel.monitor_id,
                open_id=request.open_id if request else None,
                connection_id=request.connection_id if request else None,
                event_flag=request.event_flag if request else None,
                target_vp=request.target_vp if request else None,
                gpadls=tuple(gpadls.get(channel.slot, ())),
            )
        )
    connection = state.connection
    return BusView(
        phase=connection.phase.value,
        version=connection.version,
        features=connection.features,
        offers_sent=connection.offers_sent,
        is_paused=state.outbox.is_paused,
        waiting_messages=len(state.outbox.waiting),
        channels=tuple(channels),
    )

"""What listings show of a machine's bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emulator.daemon.offers import Offer
from emulator.daemon.violations import Tally
from emulator.vmbus.host_view import BusView, ChannelView


def describe_bus(view: BusView, tally: Tally) -> dict[str, Any]:
    """What ``vmbusctl machines`` shows of the bus."""
    return {
        "vmbus": view.phase,
        "vmbus_version": str(view.version) if view.version is not None else None,
        "vmbus_features": [feature.name for feature in view.features],
        "vmbus_violations": tally.counts(),
        "vmbus_latest_violations": tally.latest(),
    }


def describe_offers(view: BusView, offers: Mapping[int, Offer]) -> list[dict[str, Any]]:
    """What ``vmbusctl channels`` shows: every offer, by its key on the bus, open or not."""
    by_key = {channel.offer_key: channel for channel in view.channels}
    version = str(view.version) if view.version is not None else None
    features = [feature.name for feature in view.features]
    return [
        {**offer.describe(), **_describe_on_bus(by_key[key]), "version": version, "features": features}
        for key, offer in offers.items()
    ]


def _describe_on_bus(view: ChannelView) -> dict[str, Any]:
    return {
        "bus_state": view.state,
        "channel_id": view.channel_id,
        "open_id": view.open_id,
        "connection_id": view.connection_id,
        "event_flag": view.event_flag,
        "target_vp": view.target_vp,
        "gpadls": [{"gpadl_id": each.gpadl_id, "state": each.state, "pages": each.page_count} for each in view.gpadls],
    }

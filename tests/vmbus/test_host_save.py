"""Saved state is plain data, comes back as it was, and is refused when it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from emulator.status import NtStatus, Refused
from emulator.vmbus import message_types as m
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import (
    CloseDevice,
    GpadlOffered,
    GpadlTeardown,
    ModifyDevice,
    ModifyPlatform,
    OpenDevice,
)
from emulator.vmbus.message_types import FeatureFlags, Version
from emulator.vmbus.negotiation import BusConfig, VersionLimit

from .bus_support import Peer, heard, pick


def busy() -> tuple[Peer, int, int, int]:
    """A 6.0 connection with an open, an opening and a reserved channel, a list in progress and one in teardown."""
    peer = Peer()
    one, two, three = peer.offer(1), peer.offer(2, uses_monitor=True), peer.offer(3)
    peer.connect(Version.V6_0, 0x27, pages=(0x1000, 0x2000))
    peer.request_offers()
    peer.open(1, one, 10)
    peer.begin_open(2, two, 11)
    peer.open_reserved(3, three, gpadl_id=12)
    peer.gpadl(1, 20, accept=one)
    peer.post(m.GpadlTeardown(1, 20))
    peer.gpadl(1, 21)
    peer.post(m.GpadlHeader(2, 22, 24, 1, b""))
    peer.post(m.ModifyChannel(1, 3))
    return peer, one, two, three


def is_plain(data: object) -> bool:
    if isinstance(data, dict):
        return all(type(k) is str and is_plain(v) for k, v in data.items())
    if isinstance(data, list):
        return all(is_plain(item) for item in data)
    return data is None or type(data) in (bool, int, str, bytes)


def test_a_saved_bus_is_plain_data_and_comes_back_the_same() -> None:
    peer, *_ = busy()
    saved = peer.bus.save()
    assert is_plain(saved)
    assert HostBus.restore(copy.deepcopy(saved)).save() == saved
    assert HostBus.restore(saved).view() == peer.bus.view()


def test_a_restored_bus_asks_again_what_was_not_answered() -> None:
    peer, one, two, _ = busy()
    effects = HostBus.restore(peer.bus.save()).outstanding()
    assert [e.offer_key for e in pick(effects, OpenDevice)] == [two]
    assert pick(effects, GpadlTeardown) == [GpadlTeardown(one, 20)]
    assert [(e.offer_key, e.gpadl_id) for e in pick(effects, GpadlOffered)] == [(one, 21)]
    assert pick(effects, ModifyDevice) == [ModifyDevice(one, 3)]
    assert pick(effects, CloseDevice) == []
    connecting = Peer()
    asked = connecting.contact(Version.V6_0, 0x3)
    assert pick(asked, ModifyPlatform) == HostBus.restore(connecting.bus.save()).outstanding()


def test_item_22_waiting_messages_survive_save_and_restore_in_order() -> None:
    config = BusConfig(message_window=1)
    peer = Peer(config)
    first, second = peer.offer(1), peer.offer(2)
    peer.connect()
    peer.post(m.RequestOffers())
    for _ in range(4):
        peer.bus.message_delivered(0, 2)
    peer.gpadl(2, 11, accept=second)
    peer.gpadl(1, 10)
    peer.bus.gpadl_accepted(first, 10)
    peer.post(peer.open_message(2, 11))
    peer.bus.device_opened(second)
    restored = HostBus.restore(peer.bus.save(), config)
    waiting: list[m.Message] = []
    for _ in range(3):
        waiting += heard(restored.message_delivered(0, 2))
    assert waiting == [m.GpadlCreated(1, 10, 0), m.OpenChannelResult(2, 7, 0)]


@pytest.mark.parametrize(
    "limit", [VersionLimit(Version.V5_3), VersionLimit(Version.V6_0, FeatureFlags(0x3)), VersionLimit(Version.V4_0)]
)
def test_restore_refuses_a_version_or_feature_above_its_limit(limit: VersionLimit) -> None:
    peer, *_ = busy()
    with pytest.raises(Refused) as caught:
        HostBus.restore(peer.bus.save(), BusConfig(restore_limit=limit))
    assert caught.value.status is NtStatus.NOT_SUPPORTED


def test_restore_refuses_it_for_reserved_channels_too() -> None:
    peer = Peer()
    key = peer.offer(1)
    peer.connect(Version.V6_0, 0x3)
    peer.request_offers()
    peer.open_reserved(1, key)
    peer.platform(peer.post(m.Unload()))
    assert peer.bus.view().version is None
    with pytest.raises(Refused, match="channel 1 speaks"):
        HostBus.restore(peer.bus.save(), BusConfig(restore_limit=VersionLimit(Version.V5_3)))
    assert HostBus.restore(peer.bus.save()).view() == peer.bus.view()


def test_restore_refuses_features_on_a_version_that_has_none() -> None:
    peer = Peer()
    peer.connect(Version.V5_3)
    saved = peer.bus.save()
    saved["connection"]["features"] = 1
    with pytest.raises(Refused, match="too many"):
        HostBus.restore(saved)


def test_a_restored_device_that_is_gone_is_revoked_and_a_new_one_offered() -> None:
    peer, one, *_ = busy()
    bus = HostBus.restore(peer.bus.save())
    assert m.RescindChannelOffer(1) in heard(bus.revoke_offer(one))
    other = Peer()
    other.bus = bus
    _, effects = other.offer_effects(9)
    assert [type(x) for x in heard(effects)] == [m.OfferChannel]


def test_a_monitor_id_stays_taken_when_the_device_comes_back_without_the_wish_for_one() -> None:
    peer = Peer()
    key = peer.offer(1, uses_monitor=True)
    peer.connect(pages=(0x1000, 0x2000))
    peer.request_offers()
    peer.bus.revoke_offer(key)
    peer.offer(1, uses_monitor=False)
    twin = Peer()
    twin.bus = HostBus.restore(peer.bus.save())
    for bus in (peer, twin):
        _, effects = bus.offer_effects(2, uses_monitor=True)
        assert [x.monitor_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [1]
        bus.post(m.RelIdReleased(1))
        _, effects = bus.offer_effects(3, uses_monitor=True)
        assert [x.monitor_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [0]


def channel(saved: Any, index: int = 0) -> Any:
    return saved["channels"]["channels"][index][1]


def set_at(where: Callable[[Any], Any], name: str, value: object) -> Callable[[Any], None]:
    def change(saved: Any) -> None:
        where(saved)[name] = value

    return change


DAMAGE: dict[str, Callable[[Any], object]] = {
    "field missing": lambda saved: saved.pop("outbox"),
    "field too many": set_at(lambda s: s, "more", 1),
    "wrong type": set_at(lambda s: s["outbox"], "target_vp", "0"),
    "bool for a number": set_at(lambda s: s["outbox"], "target_vp", True),
    "unknown state": set_at(channel, "state", "half-open"),
    "open without a request": set_at(channel, "request", None),
    "reserved without a target": set_at(lambda s: channel(s, 2), "reserved_target", None),
    "closed without an id": set_at(channel, "channel_id", None),
    "released with an id": set_at(channel, "state", "released"),
    "id out of range": set_at(channel, "channel_id", 2048),
    "id twice": set_at(channel, "channel_id", 2),
    "key never given out": set_at(channel, "offer_key", 1000),
    "slot that differs": set_at(channel, "slot", 2),
    "GPADL of no channel": lambda saved: saved["gpadls"]["lists"][0].__setitem__(0, [77, 10]),
    "GPADL in progress without its values": lambda saved: [
        g.__setitem__("assembly", None) for _, g in saved["gpadls"]["lists"]
    ],
    "GPADL that is gone": lambda saved: saved["gpadls"]["lists"][0][1].__setitem__("state", "gone"),
    "connected without a version": set_at(lambda s: s["connection"], "version", None),
    "reconnecting without a contact": set_at(lambda s: s["connection"], "next_action", "reconnect"),
    "short GUID": set_at(lambda s: channel(s)["offer"], "interface_id", b"123"),
    "dict instead of pairs": set_at(lambda s: s["channels"], "channels", {}),
    "pairs that are no pairs": set_at(lambda s: s["channels"], "channels", [[1]]),
    "user data too long": set_at(lambda s: channel(s)["offer"], "user_defined", bytes(200)),
    "short tuple": set_at(channel, "reserved_target", [1]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_saved_state_that_does_not_fit_is_refused_and_named(name: str) -> None:
    peer, *_ = busy()
    saved = peer.bus.save()
    DAMAGE[name](saved)
    with pytest.raises(Refused, match="saved state"):
        HostBus.restore(saved)


@pytest.mark.parametrize("data", [None, [], 5, b"", {}])
def test_something_else_entirely_is_refused(data: object) -> None:
    with pytest.raises(Refused, match="saved state"):
        HostBus.restore(data)

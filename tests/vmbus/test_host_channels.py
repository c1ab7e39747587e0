"""Offers, opening, closing, rescinding, reserved channels, sockets and doorbells, as a guest meets them (rule 2.6)."""

from __future__ import annotations

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault, Violation
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    CloseDevice,
    GpadlTeardown,
    MessageDropped,
    ModifyDevice,
    OpenDevice,
    ScanInterruptPage,
    SendMessage,
    SetInterruptBit,
    SignalDevice,
    SignalGuest,
    SynicTarget,
    TlConnect,
)
from emulator.vmbus.message_types import FeatureFlags, Version
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.offers import OfferFlags, OfferParameters, PipeMode, hvsock_offer, vsock_service_id
from emulator.vmbus.synic import HvStatus

from .bus_support import NO_DATA, Peer, guid, heard, pick, values

V = Version
F = FeatureFlags


def connected(version: int = V.V6_0, features: int = 0, channels: int = 1, **config: object) -> tuple[Peer, list[int]]:
    """A peer with this many channels offered."""
    peer = Peer(BusConfig(**config))  # type: ignore[arg-type]  # passed through by name
    keys = [peer.offer(number + 1) for number in range(channels)]
    peer.connect(version, features)
    peer.request_offers()
    return peer, keys


@pytest.mark.parametrize("version", Version)
def test_item_10_the_first_offer_is_channel_1_then_all_offers_are_delivered(version: Version) -> None:
    peer = Peer()
    peer.offer(1)
    peer.connect(version)
    offer, end = peer.request_offers()
    assert offer == m.OfferChannel(guid(1), guid(1), 0, 0, NO_DATA, 0, 0, 1, 0xFF, 0, 1, 0x2001)
    assert end == m.AllOffersDelivered()


def test_rule_2_2_offers_are_requested_once_on_a_connection() -> None:
    peer, _ = connected()
    assert peer.refused(m.RequestOffers()) is BusFault.OFFERS_ALREADY_SENT


LONG_OPEN = m.OpenChannel2(1, 7, 10, 0, 2, NO_DATA, 0x2002, 2, 0xABD)


@pytest.mark.parametrize(
    ("features", "connection_id", "event_flag", "redirected"),
    [(0, 0x2001, 1, False), (1, 0x2002, 2, False), (2, 0x2001, 1, True), (3, 0x2002, 2, True)],
)
def test_item_11_signal_parameters_and_redirection_count_only_with_their_feature(
    features: int, connection_id: int, event_flag: int, redirected: bool
) -> None:
    peer, (key,) = connected(V.V6_0, features)
    peer.gpadl(1, accept=key)
    (ask,) = peer.post(LONG_OPEN)
    assert isinstance(ask, OpenDevice)
    assert (ask.request.connection_id, ask.request.event_flag) == (connection_id, event_flag)
    assert ask.request.redirect_interrupt is redirected


def test_item_11_junk_flag_bits_are_masked_off() -> None:
    peer, (key,) = connected(V.V6_0, 3)
    peer.gpadl(1, accept=key)
    (ask,) = peer.post(m.OpenChannel2(1, 7, 10, 0, 2, NO_DATA, 0x2002, 2, 0xABC))
    assert isinstance(ask, OpenDevice)
    assert not ask.request.redirect_interrupt


@pytest.mark.parametrize(("connection_id", "event_flag"), [(0x2002, 0), (0x2002, 2048), (1, 2), (4, 2)])
def test_signal_parameters_that_cannot_work_fail_the_open(connection_id: int, event_flag: int) -> None:
    peer, (key,) = connected(V.V6_0, 1)
    peer.gpadl(1, accept=key)
    effects = peer.post(m.OpenChannel2(1, 7, 10, 0, 2, NO_DATA, connection_id, event_flag, 0))
    assert heard(effects) == [m.OpenChannelResult(1, 7, m.STATUS_FAILED)]
    assert [v.fault for v in pick(effects, Violation)] == [BusFault.INVALID_SIGNAL]


def test_one_doorbell_cannot_serve_two_open_channels() -> None:
    peer, (first, second) = connected(V.V6_0, 1, channels=2)
    peer.gpadl(1, 10, accept=first)
    peer.gpadl(2, 11, accept=second)
    assert len(pick(peer.post(LONG_OPEN), OpenDevice)) == 1
    effects = peer.post(m.OpenChannel2(2, 7, 11, 0, 2, NO_DATA, 0x2002, 3, 0))
    assert heard(effects) == [m.OpenChannelResult(2, 7, m.STATUS_FAILED)]


def test_rule_2_6_the_signal_parameters_hold_for_one_open_only() -> None:
    peer, (key,) = connected(V.V6_0, 1)
    peer.gpadl(1, accept=key)
    peer.post(LONG_OPEN)
    peer.bus.device_opened(key)
    peer.post(m.CloseChannel(1))
    peer.bus.device_closed(key)
    (ask,) = peer.post(peer.open_message(1))
    assert isinstance(ask, OpenDevice)
    assert (ask.request.connection_id, ask.request.event_flag) == (0x2001, 1)


@pytest.mark.parametrize("version", Version)
def test_item_12_open_result_echoes_the_open_id_and_the_devices_status(version: Version) -> None:
    peer, (key,) = connected(version)
    peer.begin_open(1, key)
    assert heard(peer.bus.device_opened(key, 0xC0000001)) == [m.OpenChannelResult(1, 7, 0xC0000001)]
    assert peer.state_of(key) == "closed"
    peer.post(m.OpenChannel(1, 0x77777777, 10, 0, 2, NO_DATA))
    assert heard(peer.bus.device_opened(key)) == [m.OpenChannelResult(1, 0x77777777, 0)]


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V4_1])
def test_item_12_modify_channel_reaches_the_device_and_is_answered_from_5_3(version: Version) -> None:
    peer, (key,) = connected(version)
    peer.open(1, key)
    assert peer.post(m.ModifyChannel(1, 2)) == [ModifyDevice(key, 2)]
    answer = heard(peer.bus.modify_done(key))
    assert answer == ([m.ModifyChannelResponse(1, 0)] if version >= V.V5_3 else [])


@pytest.mark.parametrize("version", [v for v in Version if v < V.V4_1])
def test_item_12_below_4_1_there_is_no_modify_channel(version: Version) -> None:
    peer, (key,) = connected(version)
    peer.open(1, key)
    assert peer.refused(m.ModifyChannel(1, 2)) is BusFault.INVALID_MESSAGE_TYPE


@pytest.mark.parametrize("version", [V.V5_2, V.V5_3])
def test_rule_2_6_a_failing_modify_is_answered_from_5_3(version: Version) -> None:
    peer, (key,) = connected(version)
    expected = [m.ModifyChannelResponse(1, m.STATUS_FAILED)] if version >= V.V5_3 else []
    effects = peer.post(m.ModifyChannel(1, 2))
    assert heard(effects) == expected
    assert pick(effects, Violation)[0].fault is BusFault.INVALID_CHANNEL_STATE
    peer.open(1, key)
    effects = peer.post(m.ModifyChannel(1, 0xFFFFFFFF))
    assert heard(effects) == expected
    assert pick(effects, Violation)[0].fault is BusFault.INVALID_TARGET_VP


def test_rule_2_6_modify_needs_interrupts() -> None:
    peer, (key,) = connected()
    peer.open(1, key, vp=0xFFFFFFFF)
    assert pick(peer.post(m.ModifyChannel(1, 2)), Violation)[0].fault is BusFault.INTERRUPTS_DISABLED


def test_rule_2_6_below_5_3_a_second_modify_replaces_the_pending_one_and_runs_after_the_first() -> None:
    peer, (key,) = connected(V.V5_2)
    peer.open(1, key)
    assert peer.post(m.ModifyChannel(1, 2)) == [ModifyDevice(key, 2)]
    assert peer.post(m.ModifyChannel(1, 3)) == []
    assert peer.post(m.ModifyChannel(1, 4)) == []
    assert peer.bus.modify_done(key) == [ModifyDevice(key, 4)]
    assert peer.bus.modify_done(key) == []
    assert peer.bus.modify_done(key) == [AnswerIgnored(key, "device modified")]


def test_rule_2_6_from_5_3_a_second_modify_is_a_guest_bug() -> None:
    peer, (key,) = connected(V.V5_3)
    peer.open(1, key)
    peer.post(m.ModifyChannel(1, 2))
    assert peer.refused(m.ModifyChannel(1, 3)) is BusFault.MODIFY_IN_PROGRESS
    assert heard(peer.bus.modify_done(key)) == [m.ModifyChannelResponse(1, 0)]


@pytest.mark.parametrize("version", Version)
def test_item_13_revoke_then_release_frees_the_id(version: Version) -> None:
    peer, (key,) = connected(version)
    assert heard(peer.bus.revoke_offer(key)) == [m.RescindChannelOffer(1)]
    _, effects = peer.offer_effects(2)
    assert [x.channel_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [2]
    assert peer.post(m.RelIdReleased(1)) == []
    _, effects = peer.offer_effects(3)
    assert [x.channel_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [1]


def test_item_14_hot_add_at_every_moment_ends_offered_and_reset_closes_all_four() -> None:
    peer = Peer()
    keys = [peer.offer(1)]
    effects = peer.contact(V.V4_0)
    keys.append(peer.offer(2))
    peer.platform(effects)
    keys.append(peer.offer(3))
    assert [type(x) for x in peer.request_offers()] == [m.OfferChannel] * 3 + [m.AllOffersDelivered]
    key, effects = peer.offer_effects(4)
    keys.append(key)
    assert [type(x) for x in heard(effects)] == [m.OfferChannel]
    for number, key in enumerate(keys, 1):
        peer.open(number, key, gpadl_id=number)
    assert sorted(e.offer_key for e in pick(peer.bus.reset(), CloseDevice)) == keys


def test_hot_add_while_disconnecting_is_offered_on_the_next_connection() -> None:
    peer, (key,) = connected()
    peer.open(1, key)
    peer.post(m.Unload())
    _, effects = peer.offer_effects(2)
    assert effects == []
    peer.bus.device_closed(key)
    peer.platform(peer.bus.gpadl_torn_down(key, 10))
    peer.connect()
    assert len(peer.request_offers()) == 3


@pytest.mark.parametrize("absolute", [False, True])
def test_item_15_ids_follow_the_sort_order(absolute: bool) -> None:
    peer = Peer(BusConfig(absolute_offer_order=absolute))
    offers = [(2, 1, None), (1, 9, 5), (1, 2, None), (1, 1, None), (2, 7, 1), (1, 8, 5)]
    for interface, instance, order in offers:
        peer.offer(0, interface=guid(interface), instance=guid(instance), order=order)
    peer.connect()
    got = [
        (x.interface_id.int, x.instance_id.int, x.channel_id)
        for x in peer.request_offers()
        if isinstance(x, m.OfferChannel)
    ]
    by_interface = [(1, 8), (1, 9), (1, 1), (1, 2), (2, 7), (2, 1)]
    by_order = [(2, 7), (1, 8), (1, 9), (1, 1), (1, 2), (2, 1)]
    expected = by_order if absolute else by_interface
    assert got == [(*pair, number) for number, pair in enumerate(expected, 1)]


def test_rule_2_5_a_sub_channel_comes_after_its_primary_whatever_its_order() -> None:
    peer = Peer()
    peer.offer(1, order=9)
    peer.offer(1, subchannel_index=2, order=1)
    peer.offer(1, subchannel_index=1)
    peer.connect()
    assert [x.subchannel_index for x in peer.request_offers() if isinstance(x, m.OfferChannel)] == [0, 1, 2]


def test_rule_2_5_a_sub_channel_without_its_primary_is_refused() -> None:
    with pytest.raises(Refused, match="primary"):
        Peer().offer(1, subchannel_index=1)
    assert Peer(BusConfig(require_primary=False)).offer(1, subchannel_index=1) == 1


def test_item_16_without_guest_pages_or_where_only_own_pages_count_the_monitor_id_is_ff() -> None:
    for config, pages in ((BusConfig(), (0, 0)), (BusConfig(require_server_monitor_pages=True), (0x1000, 0x2000))):
        peer = Peer(config)
        peer.offer(1, uses_monitor=True)
        peer.connect(pages=pages)
        offer = peer.request_offers()[0]
        assert isinstance(offer, m.OfferChannel)
        assert (offer.monitor_id, offer.monitor_allocated) == (0xFF, 0)


def test_item_16_monitor_ids_count_up_and_preset_ids_are_kept_and_not_counted() -> None:
    peer = Peer()
    peer.offer(1)
    peer.offer(2, uses_monitor=True)
    peer.offer(3, preset_monitor_id=1)
    peer.offer(4, uses_monitor=True)
    peer.connect(pages=(0x1000, 0x2000))
    offers = [x for x in peer.request_offers() if isinstance(x, m.OfferChannel)]
    assert [(x.monitor_id, x.monitor_allocated) for x in offers] == [(0xFF, 0), (0, 1), (1, 1), (1, 1)]


def test_item_16_there_are_128_monitor_ids_and_the_lowest_free_is_reused() -> None:
    peer = Peer()
    keys = [peer.offer(number, uses_monitor=True) for number in range(129)]
    peer.connect(pages=(0x1000, 0x2000))
    offers = [x for x in peer.request_offers() if isinstance(x, m.OfferChannel)]
    assert [x.monitor_id for x in offers] == [*range(128), 0xFF]
    peer.bus.revoke_offer(keys[5])
    peer.post(m.RelIdReleased(6))
    _, effects = peer.offer_effects(500, uses_monitor=True)
    assert [x.monitor_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [5]


def test_item_16_opening_with_interrupts_disabled_yields_no_monitor() -> None:
    for vp, monitor_id, target_vp in ((0xFFFFFFFF, None, None), (1, 0, 1)):
        peer = Peer()
        key = peer.offer(1, uses_monitor=True)
        peer.connect(pages=(0x1000, 0x2000))
        peer.request_offers()
        request = peer.begin_open(1, key, vp=vp)
        assert (request.monitor_id, request.target_vp) == (monitor_id, target_vp)


def test_item_09_offer_flags_are_stripped_without_their_feature() -> None:
    flags = (
        OfferFlags.ENUMERATE_DEVICE_INTERFACE
        | OfferFlags.CONFIDENTIAL_RING
        | OfferFlags.CONFIDENTIAL_EXTERNAL_MEMORY
        | OfferFlags.REQUIRE_PINNED_EXTERNAL_MEMORY
    )
    for features, seen in ((0, 0x1), (0x10, 0x7), (0x80, 0x9), (0x90, 0xF)):
        peer = Peer(BusConfig(gpa_pinning=True))
        peer.offer(1, flags=flags)
        peer.connect(V.V6_0, features, trusted=True)
        offer = heard(peer.post(m.RequestOffers(), trusted=True))[0]
        assert isinstance(offer, m.OfferChannel)
        assert offer.flags == seen


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V5_2])
@pytest.mark.parametrize("long", [False, True])
def test_item_19_both_socket_request_sizes_are_accepted_at_5_2(version: Version, long: bool) -> None:
    peer, _ = connected(version)
    request = m.TlConnectRequest2(guid(1), guid(2), guid(3)) if long else m.TlConnectRequest(guid(1), guid(2))
    assert peer.post(request) == [TlConnect(guid(2), guid(1), guid(3) if long else m.NO_GUID)]


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V4_0])
def test_item_19_socket_failure_is_answered_from_4_1_and_silent_at_4_0(version: Version) -> None:
    peer, _ = connected(version)
    peer.post(m.TlConnectRequest(guid(1), guid(2)))
    answer = heard(peer.bus.tl_connect_result(guid(2), guid(1), success=False))
    assert answer == ([m.TlConnectRequestResult(guid(1), guid(2), 0xC0000236)] if version >= V.V4_1 else [])
    assert peer.bus.tl_connect_result(guid(2), guid(1), success=False) == [AnswerIgnored(None, f"tl connect {guid(2)}")]


def test_item_19_a_socket_connection_is_an_offer_named_by_service_and_endpoint() -> None:
    peer, _ = connected()
    peer.post(m.TlConnectRequest(guid(1), guid(2)))
    assert peer.bus.tl_connect_result(guid(2), guid(1), success=True) == []
    _, effects = peer.bus.add_offer(hvsock_offer(guid(2), guid(1), for_guest_accept=False))
    (offer,) = heard(effects)
    assert isinstance(offer, m.OfferChannel)
    assert (offer.interface_id, offer.instance_id, offer.flags) == (guid(2), guid(1), 0x1 | 0x10 | 0x2000)
    assert offer.user_defined == bytes(6) + b"\x01" + bytes(113)
    accept = hvsock_offer(guid(2), guid(9), for_guest_accept=True, silo_id=guid(0xAB)).wire_user_data()
    assert accept == bytes(4) + b"\x01\0\x01\0\0\0" + guid(0xAB).bytes_le + bytes(94)


def test_no_more_than_16_socket_requests_wait_and_none_twice() -> None:
    peer, _ = connected(channels=0)
    for number in range(16):
        assert len(pick(peer.post(m.TlConnectRequest(guid(number), guid(2))), TlConnect)) == 1
    effects = peer.post(m.TlConnectRequest(guid(99), guid(2)))
    assert heard(effects) == [m.TlConnectRequestResult(guid(99), guid(2), 0xC0000236)]
    assert pick(effects, Violation)[0].fault is BusFault.TOO_MANY_CONNECTS
    peer.bus.tl_connect_result(guid(2), guid(0), success=True)
    assert pick(peer.post(m.TlConnectRequest(guid(1), guid(2))), Violation)


def test_a_vsock_port_has_its_service_guid() -> None:
    assert str(vsock_service_id(0x1234)) == "00001234-facb-11e6-bd58-64006a7986d3"


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V4_0])
def test_item_21_reserved_channels_answer_the_named_target_and_refuse_the_ordinary_close(version: Version) -> None:
    peer, (key,) = connected(version)
    (sent,) = peer.open_reserved(1, key, vp=5, sint=3)
    assert isinstance(sent, SendMessage)
    assert (sent.vp, sent.sint) == (5, 3)
    assert heard([sent]) == [m.OpenChannelResult(1, 0, 0)]
    assert peer.refused(m.CloseChannel(1)) is BusFault.CHANNEL_RESERVED
    assert peer.post(m.CloseReservedChannel(1, 4, 6)) == [CloseDevice(key)]
    (sent,) = peer.bus.device_closed(key)
    assert isinstance(sent, SendMessage)
    assert (sent.vp, sent.sint) == (4, 6)
    assert heard([sent]) == [m.CloseReservedChannelResponse(1)]


@pytest.mark.parametrize("version", [v for v in Version if v < V.V4_0])
def test_item_21_below_4_0_nothing_can_be_opened_reserved(version: Version) -> None:
    peer, _ = connected(version)
    assert peer.refused(m.OpenReservedChannel(1, 0, 2, 10, 2)) is BusFault.INVALID_MESSAGE_TYPE


def test_item_21_reserved_channels_are_opened_without_interrupts_and_user_data() -> None:
    peer, (key,) = connected(V.V6_0, 3)
    peer.gpadl(1, accept=key)
    (ask,) = peer.post(m.OpenReservedChannel(1, 5, 3, 10, 2))
    assert isinstance(ask, OpenDevice)
    request = ask.request
    assert (request.target_vp, request.user_data, request.open_id) == (None, NO_DATA, 0)
    assert (request.connection_id, request.event_flag) == (0x2001, 1)
    assert request.reserved_target == SynicTarget(5, 3)


def test_item_21_reserved_channels_survive_unload_and_close_while_disconnected() -> None:
    peer, (key,) = connected()
    peer.open_reserved(1, key)
    assert heard(peer.platform(peer.post(m.Unload()))) == [m.UnloadComplete()]
    assert peer.state_of(key) == "open-reserved"
    assert peer.post(m.CloseReservedChannel(1, 4, 6)) == [CloseDevice(key)]
    sent, teardown = peer.bus.device_closed(key)
    assert isinstance(sent, SendMessage)
    assert (sent.vp, sent.sint) == (4, 6)
    assert heard([sent]) == [m.CloseReservedChannelResponse(1)]
    assert teardown == GpadlTeardown(key, 10)
    assert peer.bus.gpadl_torn_down(key, 10) == []
    assert peer.state_of(key) == "released"


def test_item_21_reserved_channels_survive_reconnect_and_keep_their_id() -> None:
    peer, (reserved, other) = connected(channels=2)
    peer.open_reserved(1, reserved)
    peer.platform(peer.contact(V.V5_3))
    offers = [x for x in peer.request_offers() if isinstance(x, m.OfferChannel)]
    assert [(x.interface_id, x.channel_id) for x in offers] == [(guid(2), 2)]
    # The same GPADL id on another channel is fine.
    assert heard(peer.gpadl(2, 10, accept=other)) == [m.GpadlCreated(2, 10, 0)]
    assert peer.bus.signal_event(0x2001).effects == [SignalDevice(reserved)]
    peer.post(m.CloseReservedChannel(1, 4, 6))
    peer.bus.device_closed(reserved)
    assert peer.post(m.GpadlTeardown(1, 10)) == [GpadlTeardown(reserved, 10)]


def test_item_21_a_reserved_channel_accepts_no_new_page_list_and_gives_none_back() -> None:
    peer, (key,) = connected()
    peer.open_reserved(1, key)
    effects = peer.gpadl(1, 11)
    assert heard(effects) == [m.GpadlCreated(1, 11, m.STATUS_FAILED)]
    assert pick(effects, Violation)[0].fault is BusFault.CHANNEL_RESERVED
    assert peer.refused(m.GpadlTeardown(1, 10)) is BusFault.CHANNEL_RESERVED


def test_item_21_reset_closes_reserved_channels_even_while_disconnected() -> None:
    peer, (key,) = connected()
    peer.open_reserved(1, key)
    peer.platform(peer.post(m.Unload()))
    assert peer.bus.reset() == [GpadlTeardown(key, 10), CloseDevice(key)]
    peer.bus.device_closed(key)
    peer.platform(peer.bus.gpadl_torn_down(key, 10))
    assert peer.phase() == "disconnected"
    assert peer.state_of(key) == "released"


def test_a_reserved_device_that_goes_away_while_nobody_is_connected_is_forgotten() -> None:
    peer, (key,) = connected()
    peer.open_reserved(1, key)
    peer.platform(peer.post(m.Unload()))
    assert peer.bus.revoke_offer(key) == []
    assert peer.bus.view().channels == ()


@pytest.mark.parametrize("message", [m.OpenReservedChannel(1, 0, 16, 10, 2), m.CloseReservedChannel(1, 0, 16)])
def test_reserved_targets_need_a_source_that_exists(message: m.Message) -> None:
    peer, (key,) = connected()
    peer.gpadl(1, accept=key)
    assert peer.refused(message) is BusFault.INVALID_TARGET_SINT


def test_item_22_undeliverable_messages_queue_in_order_and_reserved_replies_are_dropped() -> None:
    peer, (first, second, third) = connected(channels=3, message_window=1)
    bus = peer.bus
    while bus.view().waiting_messages:
        bus.message_delivered(0, 2)
    assert bus.message_delivered(0, 2) == []
    for key, number in ((second, 2), (third, 3)):
        peer.gpadl(number, number, accept=key)
        bus.message_delivered(0, 2)
    peer.post(m.OpenReservedChannel(2, 5, 3, 2, 2))
    peer.gpadl(1, 10)
    assert heard(bus.gpadl_accepted(first, 10)) == [m.GpadlCreated(1, 10, 0)]
    peer.post(peer.open_message(3, 3))
    assert bus.device_opened(third) == []
    # Reserved: the first reply takes the slot of its own target, the next one finds it taken and is dropped.
    assert len(pick(bus.device_opened(second), SendMessage)) == 1
    peer.post(m.CloseReservedChannel(2, 5, 3))
    (dropped,) = bus.device_closed(second)
    assert isinstance(dropped, MessageDropped)
    assert (dropped.vp, dropped.sint) == (5, 3)
    assert heard(bus.message_delivered(0, 2)) == [m.OpenChannelResult(3, 7, 0)]


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 99])
def test_rule_2_6_a_ring_split_without_data_pages_fails_the_open(offset: int) -> None:
    peer, (key,) = connected()
    peer.gpadl(1, accept=key)
    effects = peer.post(peer.open_message(1, at=offset))
    assert heard(effects) == [m.OpenChannelResult(1, 7, m.STATUS_FAILED)]
    assert pick(effects, Violation)[0].fault is BusFault.INVALID_RING
    assert peer.state_of(key) == "closed"


def test_rule_2_6_the_ring_must_be_an_accepted_list_of_this_channel() -> None:
    peer, (first, second) = connected(channels=2)
    peer.gpadl(1, 10, accept=first)
    peer.gpadl(2, 11)
    for gpadl_id in (10, 11, 12):
        effects = peer.post(peer.open_message(2, gpadl_id))
        assert heard(effects) == [m.OpenChannelResult(2, 7, m.STATUS_FAILED)]
        assert pick(effects, Violation)[0].fault is BusFault.UNKNOWN_GPADL_ID
    assert peer.state_of(second) == "closed"


def test_rule_2_6_ring_pages_may_lie_anywhere_and_repeat() -> None:
    peer, (key,) = connected()
    image = values(6 * 4096, 9, 3, 3, 1000, 2, 9)
    peer.post(m.GpadlHeader(1, 10, len(image), 1, image))
    peer.bus.gpadl_accepted(key, 10)
    (ask,) = peer.post(peer.open_message(1, at=2))
    assert isinstance(ask, OpenDevice)
    assert ask.request.ring == ((9, 3), (3, 1000, 2, 9))


def test_rule_2_6_closing_then_opening_at_once_opens_again_with_the_new_request() -> None:
    peer, (key,) = connected()
    peer.open(1, key)
    peer.gpadl(1, 11, accept=key)
    assert peer.post(m.CloseChannel(1)) == [CloseDevice(key)]
    assert peer.post(peer.open_message(1, 11, open_id=8)) == []
    assert peer.state_of(key) == "closing-reopen"
    (ask,) = peer.bus.device_closed(key)
    assert isinstance(ask, OpenDevice)
    assert (ask.request.ring_gpadl_id, ask.request.open_id) == (11, 8)
    assert heard(peer.bus.device_opened(key)) == [m.OpenChannelResult(1, 8, 0)]


def test_rule_2_6_reoffering_a_revoked_device_reuses_the_id_after_release() -> None:
    peer, (key,) = connected()
    peer.bus.revoke_offer(key)
    fresh, effects = peer.offer_effects(1)
    assert effects == []
    assert fresh != key
    assert peer.bus.revoke_offer(key) == [AnswerIgnored(key, "revoke")]
    (offer,) = heard(peer.post(m.RelIdReleased(1)))
    assert isinstance(offer, m.OfferChannel)
    assert offer.channel_id == 1
    peer.open(1, fresh)


def test_rule_2_6_reoffered_and_revoked_again_says_nothing_more() -> None:
    peer, (key,) = connected()
    peer.bus.revoke_offer(key)
    fresh = peer.offer(1)
    assert peer.bus.revoke_offer(fresh) == []
    assert peer.post(m.RelIdReleased(1)) == []
    assert peer.bus.view().channels == ()


def test_a_released_channel_is_not_offered_again_on_this_connection_but_on_the_next() -> None:
    peer, (key,) = connected()
    assert peer.post(m.RelIdReleased(1)) == []
    assert peer.state_of(key) == "released"
    assert peer.refused(m.CloseChannel(1)) is BusFault.UNKNOWN_CHANNEL_ID
    peer.connect()
    assert len(peer.request_offers()) == 2


def test_answers_of_a_device_that_left_are_ignored() -> None:
    peer, (key,) = connected()
    peer.begin_open(1, key)
    peer.bus.revoke_offer(key)
    assert peer.bus.device_opened(key) == [AnswerIgnored(key, "device opened")]
    assert peer.bus.gpadl_accepted(key, 10) == [AnswerIgnored(key, "gpadl accepted 0xA")]
    assert peer.bus.gpadl_torn_down(key, 10) == [AnswerIgnored(key, "gpadl torn down 0xA")]
    with pytest.raises(Misuse, match="never given out"):
        peer.bus.device_opened(key + 1)


def test_an_open_that_the_reset_gave_up_is_told_so_when_it_answers() -> None:
    peer, (key,) = connected()
    peer.begin_open(1, key)
    assert peer.bus.reset() == [GpadlTeardown(key, 10)]
    assert peer.bus.device_opened(key) == [AnswerIgnored(key, "device opened")]


def test_the_same_device_twice_is_refused() -> None:
    peer = Peer()
    peer.offer(1)
    with pytest.raises(Refused) as caught:
        peer.offer(1)
    assert caught.value.status is NtStatus.OBJECT_NAME_COLLISION


def test_a_bus_has_2047_channels() -> None:
    peer = Peer()
    keys = [peer.offer(number) for number in range(2047)]
    peer.connect()
    assert len(peer.request_offers()) == 2048
    with pytest.raises(Refused) as caught:
        peer.offer(5000)
    assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES
    peer.bus.revoke_offer(keys[1000])
    peer.post(m.RelIdReleased(1001))
    _, effects = peer.offer_effects(5000)
    assert [x.channel_id for x in heard(effects) if isinstance(x, m.OfferChannel)] == [1001]


def test_doorbells_reach_the_device_of_an_open_channel_only() -> None:
    peer, (key,) = connected()
    assert peer.bus.signal_event(0x2001) == (HvStatus.INVALID_CONNECTION_ID, [])
    peer.begin_open(1, key)
    assert peer.bus.signal_event(0x2001) == (HvStatus.SUCCESS, [])
    peer.bus.device_opened(key)
    assert peer.bus.signal_event(0x2001) == (HvStatus.SUCCESS, [SignalDevice(key)])
    assert peer.bus.signal_event(0x2001, 1) == (HvStatus.INVALID_PARAMETER, [])
    peer.post(m.CloseChannel(1))
    peer.bus.device_closed(key)
    assert peer.bus.signal_event(0x2001) == (HvStatus.INVALID_CONNECTION_ID, [])


@pytest.mark.parametrize("version", Version)
def test_rule_1_the_host_signals_by_event_flag_or_by_the_old_interrupt_page(version: Version) -> None:
    peer = Peer()
    key = peer.offer(1)
    peer.connect(version, info=0x7000, connection_id=1)
    peer.request_offers()
    assert peer.bus.signal_guest(key) == []
    peer.open(1, key, vp=3)
    if version < V.V2_4:
        assert peer.bus.signal_guest(key) == [SetInterruptBit(0x7000, 1), SignalGuest(0, 2, 0)]
        assert peer.bus.signal_event(2) == (HvStatus.SUCCESS, [ScanInterruptPage(0x7000)])
        assert peer.bus.signal_channel(1) == [SignalDevice(key)]
        assert peer.bus.signal_channel(2) == []
    else:
        assert peer.bus.signal_guest(key) == [SignalGuest(3, 2, 1)]
        assert peer.bus.signal_event(2) == (HvStatus.INVALID_CONNECTION_ID, [])


def test_rule_1_redirected_and_disabled_interrupts() -> None:
    peer, (key,) = connected(V.V6_0, 3)
    peer.gpadl(1, accept=key)
    peer.post(m.OpenChannel2(1, 7, 10, 6, 2, NO_DATA, 0x2009, 9, 1))
    peer.bus.device_opened(key)
    assert peer.bus.signal_guest(key) == [SignalGuest(6, 7, 9)]
    assert peer.bus.signal_event(0x2009).effects == [SignalDevice(key)]
    peer, (key,) = connected()
    peer.open(1, key, vp=0xFFFFFFFF)
    assert peer.bus.signal_guest(key) == []


def test_pipe_offers_carry_their_mode_in_the_user_area() -> None:
    offer = OfferParameters(guid(1), guid(2), pipe=PipeMode.MESSAGE, user_defined=b"abc")
    assert offer.wire_user_data() == b"\x04\0\0\0abc" + bytes(113)
    assert offer.wire_flags(F.NONE) == 0x10


@pytest.mark.parametrize(
    "bad",
    [{"user_defined": bytes(121)}, {"pipe": PipeMode.BYTE, "user_defined": b"x" * 113}, {"subchannel_index": 65536}],
)
def test_offers_that_do_not_fit_the_message_are_misuse(bad: dict[str, object]) -> None:
    with pytest.raises(Misuse):
        OfferParameters(guid(1), guid(2), **bad)  # type: ignore[arg-type]  # wrong on purpose


def test_the_seventeenth_message_finds_no_room_while_the_guest_does_not_read() -> None:
    peer, (key,) = connected(message_window=1, outgoing_backlog=3)
    del key
    bus = peer.bus
    while bus.view().waiting_messages >= 3:
        bus.message_delivered(0, 2)
    refused = m.GpadlHeader(1, 1, 0, 0, b"")
    while bus.view().waiting_messages < 3:
        peer.post(refused)
    for _ in range(16):
        assert peer.post(m.CloseChannel(9)) == []
    assert bus.post_message(1, b"x").status is HvStatus.INSUFFICIENT_BUFFERS
    effects = bus.message_delivered(0, 2)
    assert len(pick(effects, Violation)) == 16
    assert bus.post_message(1, b"x").status is HvStatus.SUCCESS


def test_a_pause_answer_goes_out_before_the_pause_even_behind_a_queue() -> None:
    peer, _ = connected(V.V6_0, 0x20, message_window=1)
    peer.post(m.Pause())
    peer.offer(2)
    seen: list[m.Message] = []
    for _ in range(6):
        seen += heard(peer.bus.message_delivered(0, 2))
    assert seen[-1] == m.PauseResponse()
    assert isinstance(heard(peer.post(m.Resume()))[0], m.OfferChannel)


def test_a_guest_that_reconnects_on_another_processor_is_not_held_up_by_the_old_slot() -> None:
    peer, _ = connected(message_window=1, channels=2)
    waiting = peer.bus.view().waiting_messages
    assert waiting > 0
    seen = pick(peer.platform(peer.contact(V.V6_0, vp=3)), SendMessage)
    for _ in range(waiting):
        seen += pick(peer.bus.message_delivered(3, 2), SendMessage)
    assert [e.vp for e in seen] == [3] * (waiting + 1)
    assert isinstance(heard(seen)[-1], m.VersionResponse2)

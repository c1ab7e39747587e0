"""Contact, versions, features and disconnecting, as a guest meets them (rules 2.4 and 2.5)."""

from __future__ import annotations

import pytest

from emulator.status import Misuse
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault, Violation
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    CloseDevice,
    Disconnected,
    ForwardContact,
    GpadlTeardown,
    ModifyPlatform,
    MonitorPages,
    PlatformChange,
    PlatformResult,
    ResetDone,
    SendMessage,
)
from emulator.vmbus.message_types import ConnectResult, FeatureFlags, Version
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.synic import HvStatus

from .bus_support import SERVABLE, Peer, asked, contact_bytes, guid, heard, pick

V = Version
F = FeatureFlags


@pytest.mark.parametrize("version", [0xFFFFFFFF, 0, 0x10002, 0x20003, 0x50004, 0x60001])
def test_item_01_an_unknown_version_is_answered_with_zeros_and_no_platform_work(version: int) -> None:
    peer = Peer()
    assert peer.contact(version) == [SendMessage(0, 2, b"\x0f" + bytes(15))]
    assert peer.phase() == "disconnected"


@pytest.mark.parametrize("version", Version)
def test_item_02_the_response_carries_the_version_and_from_5_0_the_connection_id(version: Version) -> None:
    (answer,) = Peer().connect(version)
    assert isinstance(answer, m.VersionResponse)
    assert (answer.version_supported, answer.connection_state) == (1, 0)
    assert answer.version_or_connection_id == (1 if version >= V.V5_0 else version)


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V5_0])
def test_item_03_another_sint_through_the_multiclient_port_is_told_unsupported_there(version: Version) -> None:
    peer = Peer()
    assert peer.contact(version, sint=3, vp=0) == [SendMessage(0, 3, b"\x0f" + bytes(15))]
    assert peer.phase() == "disconnected"
    assert asked(peer.contact(version, sint=3, connection_id=1)) == [PlatformChange.CONNECT]


def test_item_03_a_sint_that_does_not_exist_gets_nothing() -> None:
    (violation,) = Peer().contact(V.V5_0, sint=16)
    assert isinstance(violation, Violation)
    assert violation.fault is BusFault.INVALID_TARGET_SINT


@pytest.mark.parametrize("version", [v for v in Version if v >= V.V5_1])
def test_item_04_another_trust_level_is_forwarded_without_an_answer(version: Version) -> None:
    peer = Peer()
    payload = contact_bytes(version, vtl=2)
    assert peer.raw(payload, 4) == [ForwardContact(2, payload)]
    assert peer.phase() == "disconnected"
    assert asked(peer.raw(payload, 1)) == [PlatformChange.CONNECT]


@pytest.mark.parametrize("version", [v for v in Version if v < V.V5_1])
def test_item_04_below_5_1_no_trust_level_is_read(version: Version) -> None:
    assert asked(Peer().contact(version, vtl=2, connection_id=4)) == [PlatformChange.CONNECT]


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        (0, 0),
        (0x1, 0x1),
        (0xF0000001, 0x1),
        (0x8, 0x8),
        (0x27, 0x27),
        (0xFFFFFF2F, 0x2F),
        (0x10, 0),
        (0x80, 0),
        (0x40, 0),
    ],
)
def test_item_05_known_features_are_granted_and_unknown_ones_dropped(wanted: int, granted: int) -> None:
    assert Peer().connect(V.V6_0, wanted, client_id=guid(9)) == [m.VersionResponse2(1, 0, 1, granted)]


@pytest.mark.parametrize("version", [v for v in Version if v < V.V6_0])
def test_item_05_below_6_0_there_are_no_features(version: Version) -> None:
    (answer,) = Peer().connect(version, 0x7)
    assert type(answer) is m.VersionResponse


def test_item_05_the_client_id_reaches_the_machine_only_with_its_feature() -> None:
    (ask,) = Peer().contact(V.V6_0, 0x8, client_id=guid(77))
    assert isinstance(ask, ModifyPlatform)
    assert ask.client_id == guid(77)
    (ask,) = Peer().contact(V.V6_0, 0x1, client_id=guid(77))
    assert isinstance(ask, ModifyPlatform)
    assert ask.client_id == m.NO_GUID


def test_rule_2_4_a_promised_client_id_that_is_missing_is_dropped_silently() -> None:
    (violation,) = Peer().contact(V.V6_0, 0x8, client_id=None)
    assert isinstance(violation, Violation)
    assert violation.fault is BusFault.CLIENT_ID_MISSING


def test_item_06_pinning_is_granted_only_by_a_server_that_can_pin() -> None:
    assert Peer().connect(V.V6_0, 0x80) == [m.VersionResponse2(1, 0, 1, 0)]
    assert Peer(BusConfig(gpa_pinning=True)).connect(V.V6_0, 0x80) == [m.VersionResponse2(1, 0, 1, 0x80)]


@pytest.mark.parametrize("version", Version)
def test_item_07_interrupt_page_and_target_vp_count_by_version(version: Version) -> None:
    (ask,) = Peer().contact(version, info=0x12345002, vp=3, connection_id=1)
    assert isinstance(ask, ModifyPlatform)
    assert ask.interrupt_page == (0x12345002 if version < V.V2_4 else None)
    assert ask.target_message_vp == (3 if version >= V.V3_0 else 0)


@pytest.mark.parametrize("version", Version)
def test_item_07_later_messages_go_to_the_target_vp(version: Version) -> None:
    peer = Peer()
    sent = pick(peer.platform(peer.contact(version, vp=3)), SendMessage)
    assert [e.vp for e in sent] == [3 if version >= V.V3_0 else 0]


def test_item_08_recontact_while_connected_disconnects_first_and_sends_no_unload_complete() -> None:
    peer = Peer()
    key = peer.offer(1)
    peer.connect(V.V4_0)
    peer.request_offers()
    peer.open(1, key)
    assert peer.contact(V.V5_3) == [GpadlTeardown(key, 10), CloseDevice(key)]
    assert peer.phase() == "disconnecting"
    assert peer.bus.device_closed(key) == []
    effects = peer.bus.gpadl_torn_down(key, 10)
    assert asked(effects) == [PlatformChange.RESET]
    effects = peer.bus.modify_connection_done()
    assert effects[0] == Disconnected()
    assert asked(effects[1:]) == [PlatformChange.CONNECT]
    assert heard(peer.bus.modify_connection_done()) == [m.VersionResponse(1, 0, 1)]
    assert peer.phase() == "connected"


def test_item_08_the_latest_of_several_contacts_counts() -> None:
    peer = Peer()
    key = peer.offer(1)
    peer.connect(V.V4_0)
    peer.request_offers()
    peer.open(1, key)
    peer.contact(V.V4_1)
    assert peer.contact(V.V3_0) == []
    peer.bus.device_closed(key)
    effects = peer.platform(peer.bus.gpadl_torn_down(key, 10))
    assert heard(effects) == [m.VersionResponse(1, 0, V.V3_0)]


def test_item_08_an_unsupported_recontact_still_ends_the_old_connection() -> None:
    peer = Peer()
    peer.connect()
    effects = peer.platform(peer.contact(0x1234))
    assert Disconnected() in effects
    assert heard(effects) == [m.VersionResponse(0, 0, 0)]
    assert peer.phase() == "disconnected"


def test_item_09_confidential_channels_need_a_trusted_connection() -> None:
    assert Peer().connect(V.V6_0, 0x10) == [m.VersionResponse2(1, 0, 1, 0)]
    assert Peer().connect(V.V6_0, 0x10, trusted=True) == [m.VersionResponse2(1, 0, 1, 0x10)]


def test_item_09_a_trusted_connection_rejects_untrusted_messages() -> None:
    peer = Peer()
    peer.connect(trusted=True)
    assert peer.refused(m.RequestOffers()) is BusFault.UNTRUSTED_MESSAGE
    assert heard(peer.post(m.RequestOffers(), trusted=True)) == [m.AllOffersDelivered()]


@pytest.mark.parametrize("pages", [(0x1000, 0), (0, 0x1000)])
@pytest.mark.parametrize("version", Version)
def test_rule_2_4_one_monitor_page_alone_fails_where_failure_can_be_told(
    version: Version, pages: tuple[int, int]
) -> None:
    peer = Peer()
    (answer,) = heard(peer.contact(version, pages=pages))
    if version < V.V2_4:
        assert answer == m.VersionResponse(0, 0, 0)
    elif version < V.V6_0:
        assert answer == m.VersionResponse(1, 2, 1 if version >= V.V5_0 else version)
    else:
        assert answer == m.VersionResponse2(1, 2, 1, 0)
    assert peer.phase() == "disconnected"


@pytest.mark.parametrize("maximum", Version)
def test_rule_2_4_a_maximum_version_refuses_everything_above_it(maximum: Version) -> None:
    for version in Version:
        peer = Peer(BusConfig(maximum_version=maximum, multiclient_port=True))
        (answer,) = peer.connect(version)
        assert isinstance(answer, m.VersionResponse)
        assert answer.version_supported == (version <= maximum)


@pytest.mark.parametrize(("maximum", "known"), [(V.V4_1, False), (V.V5_0, True)])
def test_the_multiclient_port_exists_from_5_0(maximum: Version, known: bool) -> None:
    peer = Peer(BusConfig(maximum_version=maximum))
    status, _ = peer.bus.post_message(4, contact_bytes(V.V5_0))
    assert status is (HvStatus.SUCCESS if known else HvStatus.INVALID_CONNECTION_ID)


@pytest.mark.parametrize("own_guest_pages", [True, False])
def test_item_17_server_monitor_pages_override_the_guests_and_need_40_bytes(own_guest_pages: bool) -> None:
    peer = Peer()
    effects = peer.contact(V.V6_0, 0x40, pages=(0x1000, 0x2000) if own_guest_pages else (0, 0))
    assert asked(effects) == [PlatformChange.CONNECT]
    (sent,) = peer.bus.modify_connection_done(PlatformResult(monitor_pages=MonitorPages(0x5000, 0x6000)))
    assert isinstance(sent, SendMessage)
    assert len(sent.payload) == 40
    assert heard([sent]) == [m.VersionResponse3(1, 0, 1, 0x40, 0x5000, 0x6000)]


def test_item_17_without_server_pages_the_feature_is_withdrawn_and_20_bytes_are_sent() -> None:
    peer = Peer()
    effects = peer.platform(peer.contact(V.V6_0, 0x41))
    assert heard(effects) == [m.VersionResponse2(1, 0, 1, 0x1)]


@pytest.mark.parametrize(("features", "pages"), [(0, MonitorPages(1, 2)), (0x40, MonitorPages(1, 0))])
def test_server_pages_nobody_may_give_are_misuse(features: int, pages: MonitorPages) -> None:
    peer = Peer()
    peer.contact(V.V6_0, features)
    with pytest.raises(Misuse, match="monitor pages"):
        peer.bus.modify_connection_done(PlatformResult(monitor_pages=pages))


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (PlatformResult(supported=False), m.VersionResponse(0, 0, 0)),
        (PlatformResult(ConnectResult.LOW_RESOURCES), m.VersionResponse2(1, 1, 1, 0x1)),
    ],
)
def test_a_machine_that_cannot_connect_says_so_in_the_response(result: PlatformResult, answer: m.Message) -> None:
    peer = Peer()
    assert heard(peer.platform(peer.contact(V.V6_0, 0x1), result)) == [answer]
    assert peer.phase() == "disconnected"


def test_features_the_machine_cannot_serve_are_withdrawn_but_local_ones_stay() -> None:
    peer = Peer()
    effects = peer.platform(peer.contact(V.V6_0, 0xF, client_id=guid(1)), PlatformResult(features=F(0x2)))
    assert heard(effects) == [m.VersionResponse2(1, 0, 1, 0xA)]


def test_item_18_unload_with_channels_closed_resets_the_machine_then_answers() -> None:
    peer = Peer()
    peer.offer(1)
    peer.connect()
    peer.request_offers()
    effects = peer.post(m.Unload())
    assert asked(effects) == [PlatformChange.RESET]
    assert len(effects) == 1
    effects = peer.bus.modify_connection_done()
    assert effects[0] == Disconnected()
    assert heard(effects) == [m.UnloadComplete()]
    assert peer.phase() == "disconnected"


def test_item_18_unload_with_two_open_waits_for_both_closes() -> None:
    peer = Peer()
    first, second = peer.offer(1), peer.offer(2)
    peer.connect()
    peer.request_offers()
    peer.open(1, first, 10)
    peer.open(2, second, 11)
    effects = peer.post(m.Unload())
    assert sorted(e.offer_key for e in pick(effects, CloseDevice)) == [first, second]
    assert peer.bus.gpadl_torn_down(first, 10) == []
    assert peer.bus.gpadl_torn_down(second, 11) == []
    assert peer.bus.device_closed(first) == []
    effects = peer.bus.device_closed(second)
    assert asked(effects) == [PlatformChange.RESET]
    assert heard(peer.platform(effects)) == [m.UnloadComplete()]


def test_item_20_modify_connection_forwards_the_pages_and_echoes_the_result() -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x4)
    (ask,) = peer.post(m.ModifyConnection(0x5000, 0x6000))
    assert ask == ModifyPlatform(PlatformChange.MODIFY, monitor_pages=MonitorPages(0x5000, 0x6000))
    answer = heard(peer.bus.modify_connection_done(PlatformResult(ConnectResult.LOW_RESOURCES)))
    assert answer == [m.ModifyConnectionResponse(1)]
    (ask,) = peer.post(m.ModifyConnection(0, 0))
    assert ask == ModifyPlatform(PlatformChange.MODIFY)


def test_item_20_without_the_feature_modify_connection_is_unknown() -> None:
    peer = Peer()
    peer.connect(V.V6_0, int(SERVABLE) & ~0x4, client_id=guid(1))
    assert peer.refused(m.ModifyConnection(0x5000, 0x6000)) is BusFault.INVALID_MESSAGE_TYPE


@pytest.mark.parametrize("pages", [(0x1000, 0), (0, 0x1000)])
def test_rule_2_5_modify_connection_with_one_page_is_answered_with_a_failure(pages: tuple[int, int]) -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x4)
    effects = peer.post(m.ModifyConnection(*pages))
    assert heard(effects) == [m.ModifyConnectionResponse(2)]
    assert [v.fault for v in pick(effects, Violation)] == [BusFault.MODIFY_CONNECTION_REFUSED]


def test_rule_2_5_a_second_modify_connection_fails_and_the_first_is_still_answered() -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x4)
    peer.post(m.ModifyConnection(0x5000, 0x6000))
    assert heard(peer.post(m.ModifyConnection(0, 0))) == [m.ModifyConnectionResponse(2)]
    assert heard(peer.bus.modify_connection_done()) == [m.ModifyConnectionResponse(0)]


def test_rule_2_5_server_pages_cannot_be_modified() -> None:
    peer = Peer()
    peer.contact(V.V6_0, 0x44)
    peer.bus.modify_connection_done(PlatformResult(monitor_pages=MonitorPages(0x5000, 0x6000)))
    assert heard(peer.post(m.ModifyConnection(0, 0))) == [m.ModifyConnectionResponse(2)]


def test_an_unload_during_modify_connection_waits_for_both_answers_of_the_machine() -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x4)
    peer.post(m.ModifyConnection(0x5000, 0x6000))
    assert asked(peer.post(m.Unload())) == [PlatformChange.RESET]
    assert peer.bus.modify_connection_done() == []
    assert heard(peer.bus.modify_connection_done()) == [m.UnloadComplete()]
    assert peer.bus.modify_connection_done() == [AnswerIgnored(None, "modify connection done")]


@pytest.mark.parametrize(("message", "after"), [("unload", [m.UnloadComplete()]), ("contact", [])])
def test_rule_2_5_while_connecting_another_contact_or_unload_waits(message: str, after: list[m.Message]) -> None:
    peer = Peer()
    peer.contact(V.V4_0)
    assert (peer.post(m.Unload()) if message == "unload" else peer.contact(V.V4_1)) == []
    effects = peer.bus.modify_connection_done()
    assert heard(effects) == [m.VersionResponse(1, 0, V.V4_0)]
    effects = peer.platform([e for e in effects if isinstance(e, ModifyPlatform)])
    assert heard(effects) == (after or [m.VersionResponse(1, 0, V.V4_1)])


def test_rule_2_5_paused_only_resume_unload_and_contact_are_heard() -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x20)
    assert heard(peer.post(m.Pause())) == [m.PauseResponse()]
    assert peer.refused(m.RequestOffers()) is BusFault.PAUSED
    assert peer.refused(m.Pause()) is BusFault.PAUSED
    assert peer.post(m.Resume()) == []
    assert peer.request_offers() == [m.AllOffersDelivered()]


@pytest.mark.parametrize("way_out", ["resume", "unload", "contact"])
def test_rule_2_5_messages_wait_for_the_end_of_a_pause(way_out: str) -> None:
    peer = Peer()
    peer.connect(V.V6_0, 0x20)
    peer.request_offers()
    peer.post(m.Pause())
    _, effects = peer.offer_effects(1)
    assert effects == []
    if way_out == "contact":
        effects = peer.contact(V.V6_0)
    else:
        effects = peer.post(m.Resume() if way_out == "resume" else m.Unload())
    assert isinstance(heard(effects)[0], m.OfferChannel)


def test_rule_2_5_a_reset_says_nothing_and_ends_everything() -> None:
    peer = Peer()
    key = peer.offer(1)
    peer.connect()
    peer.request_offers()
    peer.open(1, key)
    assert peer.bus.reset() == [GpadlTeardown(key, 10), CloseDevice(key)]
    (violation,) = peer.contact(V.V6_0)
    assert isinstance(violation, Violation)
    assert violation.fault is BusFault.RESETTING
    peer.bus.gpadl_torn_down(key, 10)
    effects = peer.platform(peer.bus.device_closed(key))
    assert effects[-2:] == [Disconnected(), ResetDone()]
    assert heard(effects) == []
    assert Peer().bus.reset() == [ResetDone()]


def test_rule_2_5_a_reset_while_connecting_swallows_the_response() -> None:
    peer = Peer()
    peer.contact(V.V6_0)
    assert peer.bus.reset() == []
    effects = peer.platform(peer.bus.modify_connection_done())
    assert heard(effects) == []
    assert effects[-1] == ResetDone()
    assert len(peer.connect()) == 1


@pytest.mark.parametrize("connection_id", [0, 2, 3, 5, 0x2001, 0x800074])
def test_messages_to_connections_without_a_port_are_refused(connection_id: int) -> None:
    assert Peer().bus.post_message(connection_id, bytes(8)) == (HvStatus.INVALID_CONNECTION_ID, [])


def test_only_24_bits_of_a_connection_id_count() -> None:
    assert Peer().bus.post_message(0xFF000001, contact_bytes(V.V4_0)).status is HvStatus.SUCCESS


def test_the_hypercall_refuses_too_long_payloads_and_foreign_types() -> None:
    bus = Peer().bus
    assert bus.post_message(1, bytes(241)).status is HvStatus.INVALID_PARAMETER
    assert bus.post_message(1, bytes(8), message_type=2).status is HvStatus.INVALID_PARAMETER

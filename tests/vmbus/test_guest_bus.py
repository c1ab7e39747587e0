"""GuestBus against a host that is a script of single messages (checklist items 34 to 39)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from emulator.memory import GpaRange
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus import guest_effects as fx
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault, Violation
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import GuestEffect, PostMessage
from emulator.vmbus.guest_state import GuestConfig
from emulator.vmbus.host_effects import MonitorPages
from emulator.vmbus.message_types import Direction, FeatureFlags, Message, Negotiated, Version
from emulator.vmbus.messages import pack_message, parse_message_untrusted
from emulator.vmbus.offers import OfferParameters, hvsock_offer
from emulator.vmbus.synic import HvStatus

from .bus_support import ALL, NO_DATA, guid

V, F = Version, FeatureFlags
RING = [GpaRange(4 * 4096, 0, (9, 3, 7, 3))]
DATA = [GpaRange(100, 50, (5,)), GpaRange(10, 4090, (6, 5))]
FIRST = 0xE1E10


def posted(effects: list[GuestEffect]) -> list[Message]:
    """The messages among effects, as the newest host reads them."""
    return [
        parse_message_untrusted(e.payload, Negotiated(V.V6_0, ALL), Direction.GUEST_TO_HOST)
        for e in effects
        if isinstance(e, PostMessage)
    ]


def told(effects: list[GuestEffect]) -> list[GuestEffect]:
    return [e for e in effects if not isinstance(e, PostMessage)]


def offer_message(channel_id: int, number: int | None = None) -> m.OfferChannel:
    number = channel_id if number is None else number
    return OfferParameters(guid(number), guid(number)).message(channel_id, 0x2000 + channel_id, None, F.NONE)


class Guest:
    """A connected guest; the host's answers are fed in as messages."""

    def __init__(self, version: Version = V.V6_0, features: int = 0, offers: int = 1, **config: Any) -> None:
        self.bus = GuestBus(GuestConfig(versions=(version,), **config))
        self.bus.connect()
        if version >= V.V6_0:
            self.hear(m.VersionResponse2(1, 0, 1, features))
        else:
            self.hear(m.VersionResponse(1, 0, 1 if version >= V.V5_0 else version))
        for channel_id in range(1, offers + 1):
            self.hear(offer_message(channel_id))
        self.hear(m.AllOffersDelivered())

    def hear(self, message: Message) -> list[GuestEffect]:
        return self.bus.message_arrived(pack_message(message))

    def fault(self, message: Message) -> BusFault:
        (violation,) = self.hear(message)
        assert isinstance(violation, Violation)
        return violation.fault

    def open(self, channel_id: int = 1) -> fx.ChannelOpened:
        ticket, effects = self.bus.open_channel(channel_id, RING, 2)
        header = posted(effects)[0]
        assert isinstance(header, m.GpadlHeader)
        (request,) = posted(self.hear(m.GpadlCreated(channel_id, header.gpadl_id, 0)))
        assert isinstance(request, m.OpenChannel)
        (opened,) = self.hear(m.OpenChannelResult(channel_id, ticket, 0))
        assert isinstance(opened, fx.ChannelOpened)
        return opened

    def close(self, channel_id: int = 1) -> list[GuestEffect]:
        _, teardown = posted(self.bus.close_channel(channel_id))
        assert isinstance(teardown, m.GpadlTeardown)
        return self.hear(m.GpadlTorndown(teardown.gpadl_id))


def test_item_34_first_contact_is_6_0_then_5_3_in_40_bytes_then_request_offers() -> None:
    bus = GuestBus()
    (post,) = bus.connect()
    assert isinstance(post, PostMessage)
    assert post.connection_id == 4
    assert posted([post]) == [m.InitiateContact2(0x60000, 0, 0x2F_00000002, 0, 0, m.NO_GUID)]
    (post,) = bus.message_arrived(pack_message(m.VersionResponse(0, 0, 0)))
    assert isinstance(post, PostMessage)
    assert (post.connection_id, len(post.payload)) == (4, 40)
    assert posted([post]) == [m.InitiateContact(0x50003, 0, 2, 0, 0)]
    connected, post = bus.message_arrived(pack_message(m.VersionResponse(1, 0, 9)))
    assert connected == fx.Connected(V.V5_3, F.NONE)
    assert isinstance(post, PostMessage)
    assert post.connection_id == 9
    assert posted([post]) == [m.RequestOffers()]


@pytest.mark.parametrize("version", Version)
def test_item_34_contact_and_later_messages_use_the_connection_of_the_version(version: Version) -> None:
    bus = GuestBus(GuestConfig(versions=(version,), interrupt_page=0x7000))
    (post,) = bus.connect()
    assert isinstance(post, PostMessage)
    assert post.connection_id == (4 if version >= V.V5_0 else 1)
    contact = posted([post])[0]
    assert isinstance(contact, m.InitiateContact)
    assert contact.version_requested == version
    assert contact.target_info & 0xFFFFFFFF == (2 if version >= V.V5_0 else 0x7000 if version < V.V2_4 else 0)
    answer = m.VersionResponse(1, 0, 8 if version >= V.V5_0 else int(version))
    _, post = bus.message_arrived(pack_message(answer))
    assert isinstance(post, PostMessage)
    assert post.connection_id == (8 if version >= V.V5_0 else 1)


def test_a_refusal_of_every_version_ends_in_connect_failed() -> None:
    bus = GuestBus()
    bus.connect()
    refusal = pack_message(m.VersionResponse(0, 0, 0))
    tried = [V.V6_0]
    for _ in range(10):
        contact = posted(bus.message_arrived(refusal))[0]
        assert isinstance(contact, m.InitiateContact)
        tried.append(V(contact.version_requested))
    assert tried == sorted(Version, reverse=True)
    assert bus.message_arrived(refusal) == [fx.ConnectFailed(0)]
    assert len(bus.connect()) == 1


def test_a_failing_host_ends_in_connect_failed_with_its_state() -> None:
    bus = GuestBus()
    bus.connect()
    assert bus.message_arrived(pack_message(m.VersionResponse2(1, 2, 1, 0))) == [fx.ConnectFailed(2)]


def test_a_host_without_the_multiclient_port_is_older_than_5_0() -> None:
    bus = GuestBus()
    (post,) = bus.connect()
    assert isinstance(post, PostMessage)
    (post,) = bus.post_failed(4, post.payload, HvStatus.INVALID_CONNECTION_ID)
    assert isinstance(post, PostMessage)
    assert post.connection_id == 1
    assert posted([post]) == [m.InitiateContact(V.V4_1, 0, 0, 0, 0)]
    assert bus.post_failed(1, post.payload, HvStatus.INVALID_CONNECTION_ID) == [fx.ConnectFailed(0)]


def test_a_lost_message_is_reported() -> None:
    assert Guest().bus.post_failed(1, b"x", HvStatus.NO_MEMORY) == [fx.PostLost(b"x", HvStatus.NO_MEMORY)]


@pytest.mark.parametrize(("granted", "usable"), [(0, 0), (0x3, 0x3), (0xFF, 0x2F)])
def test_item_35_the_granted_subset_is_respected(granted: int, usable: int) -> None:
    guest = Guest(features=granted)
    assert guest.bus.state.features == usable
    if not usable & 0x4:
        with pytest.raises(Refused) as caught:
            guest.bus.modify_connection(MonitorPages(1, 2))
        assert caught.value.status is NtStatus.NOT_SUPPORTED
        with pytest.raises(Refused):
            guest.bus.pause()


def test_item_35_connecting_twice_is_an_error() -> None:
    bus = GuestBus()
    bus.connect()
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            bus.connect()
        assert caught.value.status is NtStatus.INVALID_DEVICE_STATE
        bus.message_arrived(pack_message(m.VersionResponse2(1, 0, 1, 0)))


def test_nothing_can_be_asked_of_a_bus_that_is_not_connected() -> None:
    bus = GuestBus()
    calls: list[Callable[[], object]] = [
        bus.unload,
        lambda: bus.open_channel(1, RING, 2),
        lambda: bus.close_channel(1),
        lambda: bus.create_gpadl(1, DATA),
        lambda: bus.teardown_gpadl(1),
        lambda: bus.modify(1, 1),
        lambda: bus.release(1),
        lambda: bus.tl_connect(guid(1), guid(2)),
        bus.resume,
    ]
    for call in calls:
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.status is NtStatus.DEVICE_NOT_READY


@pytest.mark.parametrize("features", [0, 1, 2, 3])
@pytest.mark.parametrize("version", Version)
def test_item_36_open_success(version: Version, features: int) -> None:
    if features and version < V.V6_0:
        features = 0
    guest = Guest(version, features)
    ticket, effects = guest.bus.open_channel(1, RING, 2, target_vp=3, user_data=b"abc")
    assert posted(effects) == [
        m.GpadlHeader(1, FIRST, 40, 1, b"\0\x40" + bytes(6) + b"".join(n.to_bytes(8, "little") for n in (9, 3, 7, 3)))
    ]
    plain = (1, ticket, FIRST, 3, 2, b"abc" + bytes(117))
    (request,) = posted(guest.hear(m.GpadlCreated(1, FIRST, 0)))
    if features:
        assert request == m.OpenChannel2(*plain, 0x2001, 1, 0)
    else:
        assert type(request) is m.OpenChannel
        assert request == m.OpenChannel(*plain)
    assert guest.hear(m.OpenChannelResult(1, ticket, 0)) == [fx.ChannelOpened(ticket, 1, 0, 0x2001, 1)]
    assert guest.bus.channel_of_flag(1) == 1
    assert guest.bus.channel_of_flag(2) is None


def test_item_36_open_failure_takes_the_ring_back_before_it_is_reported() -> None:
    guest = Guest()
    ticket, _ = guest.bus.open_channel(1, RING, 2)
    guest.hear(m.GpadlCreated(1, FIRST, 0))
    effects = guest.hear(m.OpenChannelResult(1, ticket, 0xC0000001))
    assert posted(effects) == [m.GpadlTeardown(1, FIRST)]
    assert told(effects) == []
    assert guest.hear(m.GpadlTorndown(FIRST)) == [fx.ChannelOpened(ticket, 1, 0xC0000001, 0x2001, 1)]
    assert guest.open().status == 0


def test_item_36_a_refused_ring_is_a_failed_open() -> None:
    guest = Guest()
    ticket, _ = guest.bus.open_channel(1, RING, 2)
    (opened,) = guest.hear(m.GpadlCreated(1, FIRST, m.STATUS_FAILED))
    assert isinstance(opened, fx.ChannelOpened)
    assert (opened.ticket, opened.status) == (ticket, m.STATUS_FAILED)
    assert guest.open().status == 0


def test_item_36_gpadl_success_failure_and_teardown() -> None:
    guest = Guest()
    gpadl_id, effects = guest.bus.create_gpadl(1, DATA)
    assert gpadl_id == FIRST
    assert len(posted(effects)) == 1
    assert guest.hear(m.GpadlCreated(1, FIRST, 0)) == [fx.GpadlReady(1, FIRST, 0)]
    assert posted(guest.bus.teardown_gpadl(FIRST)) == [m.GpadlTeardown(1, FIRST)]
    with pytest.raises(Refused):
        guest.bus.teardown_gpadl(FIRST)
    assert guest.hear(m.GpadlTorndown(FIRST)) == [fx.GpadlGone(1, FIRST)]
    other, _ = guest.bus.create_gpadl(1, DATA)
    assert other == FIRST + 1
    assert guest.hear(m.GpadlCreated(1, other, m.STATUS_FAILED)) == [fx.GpadlReady(1, other, m.STATUS_FAILED)]
    with pytest.raises(Refused):
        guest.bus.teardown_gpadl(other)


def test_a_gpadl_given_up_while_it_is_created_is_taken_back_when_it_is_there() -> None:
    guest = Guest()
    first, _ = guest.bus.create_gpadl(1, DATA)
    second, _ = guest.bus.create_gpadl(1, DATA)
    assert guest.bus.teardown_gpadl(first) == []
    assert guest.bus.teardown_gpadl(second) == []
    assert posted(guest.hear(m.GpadlCreated(1, first, 0))) == [m.GpadlTeardown(1, first)]
    assert guest.hear(m.GpadlTorndown(first)) == [fx.GpadlGone(1, first)]
    assert guest.hear(m.GpadlCreated(1, second, m.STATUS_FAILED)) == [fx.GpadlGone(1, second)]


@pytest.mark.parametrize("version", Version)
def test_item_36_modify_waits_for_its_answer_from_5_3(version: Version) -> None:
    guest = Guest(version)
    guest.open()
    if version < V.V4_1:
        with pytest.raises(Refused) as caught:
            guest.bus.modify(1, 2)
        assert caught.value.status is NtStatus.NOT_SUPPORTED
        return
    effects = guest.bus.modify(1, 2)
    assert posted(effects) == [m.ModifyChannel(1, 2)]
    if version < V.V5_3:
        assert told(effects) == [fx.ChannelModified(1, 0)]
        return
    assert told(effects) == []
    with pytest.raises(Refused):
        guest.bus.modify(1, 3)
    assert guest.hear(m.ModifyChannelResponse(1, 0x8000FFFF)) == [fx.ChannelModified(1, 0x8000FFFF)]
    assert guest.fault(m.ModifyChannelResponse(1, 0)) is BusFault.UNEXPECTED_ANSWER


def test_item_36_messages_go_on_after_a_rescind_and_release_waits_for_everything() -> None:
    guest = Guest()
    guest.open()
    made, _ = guest.bus.create_gpadl(1, DATA)
    pending, _ = guest.bus.create_gpadl(1, DATA)
    guest.hear(m.GpadlCreated(1, made, 0))
    assert guest.hear(m.RescindChannelOffer(1)) == [fx.OfferRescinded(1)]
    effects = guest.bus.release(1)
    assert posted(effects) == [m.GpadlTeardown(1, FIRST), m.GpadlTeardown(1, made)]
    assert guest.hear(m.GpadlTorndown(FIRST)) == [fx.ChannelClosed(1)]
    assert posted(guest.hear(m.GpadlCreated(1, pending, 0))) == [m.GpadlTeardown(1, pending)]
    assert guest.hear(m.GpadlTorndown(made)) == [fx.GpadlGone(1, made)]
    effects = guest.hear(m.GpadlTorndown(pending))
    assert posted(effects) == [m.RelIdReleased(1)]
    assert told(effects) == [fx.GpadlGone(1, pending), fx.ChannelReleased(1)]


def test_item_37_after_a_rescind_open_fails_locally() -> None:
    guest = Guest()
    guest.hear(m.RescindChannelOffer(1))
    calls: list[Callable[[], object]] = [
        lambda: guest.bus.open_channel(1, RING, 2),
        lambda: guest.bus.create_gpadl(1, DATA),
    ]
    for call in calls:
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.status is NtStatus.DEVICE_REMOVED


def test_item_37_an_open_under_way_fails_when_the_offer_is_rescinded() -> None:
    guest = Guest()
    ticket, _ = guest.bus.open_channel(1, RING, 2)
    guest.hear(m.GpadlCreated(1, FIRST, 0))
    effects = guest.hear(m.RescindChannelOffer(1))
    assert told(effects) == [fx.OfferRescinded(1)]
    assert posted(effects) == [m.GpadlTeardown(1, FIRST)]
    (opened,) = guest.hear(m.GpadlTorndown(FIRST))
    assert isinstance(opened, fx.ChannelOpened)
    assert (opened.ticket, opened.status) == (ticket, m.STATUS_FAILED)


def test_item_37_an_open_whose_ring_is_still_created_fails_when_the_offer_is_rescinded() -> None:
    guest = Guest()
    guest.bus.open_channel(1, RING, 2)
    guest.hear(m.RescindChannelOffer(1))
    assert posted(guest.hear(m.GpadlCreated(1, FIRST, 0))) == [m.GpadlTeardown(1, FIRST)]
    (opened,) = guest.hear(m.GpadlTorndown(FIRST))
    assert isinstance(opened, fx.ChannelOpened)
    assert opened.status == m.STATUS_FAILED


def test_item_37_offering_an_id_in_use_is_a_violation_until_it_is_released() -> None:
    guest = Guest()
    assert guest.fault(offer_message(1, 7)) is BusFault.CHANNEL_ID_IN_USE
    guest.hear(m.RescindChannelOffer(1))
    assert guest.fault(offer_message(1, 7)) is BusFault.CHANNEL_ID_IN_USE
    guest.bus.release(1)
    assert guest.hear(offer_message(1, 7)) == [fx.OfferArrived(offer_message(1, 7))]


def test_item_37_the_id_is_free_again_also_when_close_came_before_the_rescind() -> None:
    guest = Guest()
    guest.open()
    guest.close()
    guest.hear(m.RescindChannelOffer(1))
    assert told(guest.bus.release(1)) == [fx.ChannelReleased(1)]
    guest.hear(offer_message(1, 7))
    assert guest.open().status == 0


def test_a_rescind_that_crossed_our_release_is_ignored_once() -> None:
    guest = Guest()
    assert posted(guest.bus.release(1)) == [m.RelIdReleased(1)]
    assert guest.hear(m.RescindChannelOffer(1)) == []
    assert guest.fault(m.RescindChannelOffer(1)) is BusFault.UNKNOWN_CHANNEL_ID


@pytest.mark.parametrize("channel_id", [0, 2048, 0xFFFFFFFF])
def test_channel_ids_that_cannot_be_are_violations(channel_id: int) -> None:
    guest = Guest(offers=0)
    message = OfferParameters(guid(1), guid(1)).message(channel_id, 1, None, F.NONE)
    assert guest.fault(message) is BusFault.CHANNEL_ID_IN_USE


def test_item_38_event_flags_1_to_5_are_the_same_over_open_and_close_cycles() -> None:
    guest = Guest(features=1, offers=5)
    for _ in range(3):
        assert [guest.open(channel).event_flag for channel in (5, 4, 3, 2, 1)] == [1, 2, 3, 4, 5]
        for channel in (3, 1, 5, 2, 4):
            assert guest.close(channel) == [fx.ChannelClosed(channel)]
    guest.open(2)
    guest.open(4)
    guest.close(2)
    assert guest.open(5).event_flag == 1


def test_item_39_a_socket_result_that_is_no_failure_is_a_violation() -> None:
    guest = Guest()
    guest.bus.tl_connect(guid(8), guid(9))
    assert guest.fault(m.TlConnectRequestResult(guid(9), guid(8), 0)) is BusFault.TL_RESULT_SUCCESS
    failed = guest.hear(m.TlConnectRequestResult(guid(9), guid(8), m.STATUS_CONNECTION_REFUSED))
    assert failed == [fx.TlConnectFailed(guid(8), guid(9), m.STATUS_CONNECTION_REFUSED)]
    unexpected = m.TlConnectRequestResult(guid(9), guid(8), m.STATUS_CONNECTION_REFUSED)
    assert guest.fault(unexpected) is BusFault.UNEXPECTED_ANSWER


@pytest.mark.parametrize(
    ("offer", "matches"),
    [
        (hvsock_offer(guid(8), guid(9), for_guest_accept=False), True),
        (hvsock_offer(guid(8), guid(9), for_guest_accept=True), False),
        (hvsock_offer(guid(8), guid(7), for_guest_accept=False), False),
        (hvsock_offer(guid(7), guid(9), for_guest_accept=False), False),
        (OfferParameters(guid(8), guid(9)), False),
    ],
)
def test_item_39_socket_offers_match_by_service_endpoint_flag_and_direction(
    offer: OfferParameters, matches: bool
) -> None:
    guest = Guest(offers=0)
    guest.bus.tl_connect(guid(8), guid(9))
    message = offer.message(3, 0x2003, None, F.NONE)
    effects = guest.hear(message)
    assert effects[0] == fx.OfferArrived(message)
    assert (effects[1:] == [fx.TlConnected(guid(8), guid(9), 3)]) is matches


@pytest.mark.parametrize(("version", "size"), [(V.V4_0, 40), (V.V5_1, 40), (V.V5_2, 56), (V.V6_0, 56)])
def test_socket_requests_have_the_size_of_the_version(version: Version, size: int) -> None:
    guest = Guest(version)
    (post,) = guest.bus.tl_connect(guid(1), guid(2), guid(3))
    assert isinstance(post, PostMessage)
    assert len(post.payload) == size


def test_socket_requests_need_4_0_are_bounded_and_can_be_abandoned() -> None:
    with pytest.raises(Refused) as caught:
        Guest(V.V3_0).bus.tl_connect(guid(1), guid(2))
    assert caught.value.status is NtStatus.NOT_SUPPORTED
    guest = Guest(max_sockets=1)
    guest.bus.tl_connect(guid(1), guid(2))
    with pytest.raises(Refused):
        guest.bus.tl_connect(guid(1), guid(3))
    guest.bus.tl_abandon(guid(1), guid(2))
    guest.bus.tl_abandon(guid(1), guid(2))
    assert len(guest.bus.tl_connect(guid(1), guid(3))) == 1


@pytest.mark.parametrize("moment", ["creating", "opening"])
@pytest.mark.parametrize("works", [True, False])
def test_an_open_can_be_given_up_at_every_moment(moment: str, works: bool) -> None:
    guest = Guest()
    ticket, _ = guest.bus.open_channel(1, RING, 2)
    if moment == "opening":
        guest.hear(m.GpadlCreated(1, FIRST, 0))
    assert guest.bus.close_channel(1) == []
    if moment == "creating":
        effects = guest.hear(m.GpadlCreated(1, FIRST, 0 if works else m.STATUS_FAILED))
        assert posted(effects) == ([m.GpadlTeardown(1, FIRST)] if works else [])
        if not works:
            assert effects == [fx.ChannelClosed(1)]
            return
    else:
        effects = guest.hear(m.OpenChannelResult(1, ticket, 0 if works else 0xC0000001))
        assert posted(effects) == ([m.CloseChannel(1)] if works else []) + [m.GpadlTeardown(1, FIRST)]
    assert guest.hear(m.GpadlTorndown(FIRST)) == [fx.ChannelClosed(1)]
    assert guest.open().status == 0


def test_a_failing_open_can_be_given_up_as_well() -> None:
    guest = Guest()
    failing(guest)
    assert guest.bus.close_channel(1) == []
    assert guest.hear(m.GpadlTorndown(FIRST)) == [fx.ChannelClosed(1)]


def test_using_a_channel_in_the_wrong_state_is_refused() -> None:
    guest = Guest()
    with pytest.raises(Refused, match="close"):
        guest.bus.close_channel(1)
    with pytest.raises(Refused, match="not offered"):
        guest.bus.open_channel(2, RING, 2)
    with pytest.raises(Misuse):
        guest.bus.open_channel(1, [], 2)
    with pytest.raises(Misuse, match="120"):
        guest.bus.open_channel(1, RING, 2, user_data=bytes(121))
    guest.open()
    with pytest.raises(Refused, match="open"):
        guest.bus.open_channel(1, RING, 2)
    with pytest.raises(Refused):
        guest.bus.modify(1, 0xFFFFFFFF)
    guest.bus.release(1)
    with pytest.raises(Refused) as caught:
        guest.bus.release(1)
    assert caught.value.status is NtStatus.DELETE_PENDING


def test_modify_connection_pause_and_resume_run_their_course() -> None:
    guest = Guest(features=0x24)
    assert posted(guest.bus.modify_connection(MonitorPages(0x1000, 0x2000))) == [m.ModifyConnection(0x1000, 0x2000)]
    with pytest.raises(Refused):
        guest.bus.modify_connection(MonitorPages(0, 0))
    assert guest.hear(m.ModifyConnectionResponse(0)) == [fx.ConnectionModified(0)]
    assert guest.fault(m.ModifyConnectionResponse(0)) is BusFault.UNEXPECTED_ANSWER
    assert posted(guest.bus.pause()) == [m.Pause()]
    assert guest.hear(m.PauseResponse()) == [fx.PauseAnswered()]
    assert posted(guest.bus.resume()) == [m.Resume()]


@pytest.mark.parametrize("version", Version)
def test_unload_forgets_everything_when_it_is_answered(version: Version) -> None:
    guest = Guest(version)
    guest.open()
    assert posted(guest.bus.unload()) == [m.Unload()]
    assert guest.hear(offer_message(2)) == []
    assert guest.hear(m.UnloadComplete()) == [fx.Unloaded()]
    assert guest.bus.save() == GuestBus().save()
    assert len(guest.bus.connect()) == 1


STRAY: dict[str, m.Message] = {
    "2 of no channel": m.RescindChannelOffer(9),
    "6 of no channel": m.OpenChannelResult(9, 1, 0),
    "6 of a closed channel": m.OpenChannelResult(1, 1, 0),
    "10 of no GPADL": m.GpadlCreated(1, 1, 0),
    "12 of no GPADL": m.GpadlTorndown(1),
    "15": m.VersionResponse(1, 0, 1),
    "17": m.UnloadComplete(),
    "20": m.CloseReservedChannelResponse(1),
    "24 of no channel": m.ModifyChannelResponse(9, 0),
    "24 of a closed channel": m.ModifyChannelResponse(1, 0),
}


@pytest.mark.parametrize("name", STRAY)
def test_answers_nobody_waits_for_are_violations_and_change_nothing(name: str) -> None:
    guest = Guest(features=0x24)
    before = copy.deepcopy(guest.bus.save())
    assert guest.fault(STRAY[name]) in (
        BusFault.UNEXPECTED_ANSWER,
        BusFault.UNKNOWN_CHANNEL_ID,
        BusFault.UNKNOWN_GPADL_ID,
    )
    assert guest.bus.save() == before


# Every state of a channel against every message about it, written out from the reference and the client checklist.


def creating(guest: Guest) -> None:
    guest.bus.open_channel(1, RING, 2)


def opening(guest: Guest) -> None:
    creating(guest)
    guest.hear(m.GpadlCreated(1, FIRST, 0))


def failing(guest: Guest) -> None:
    opening(guest)
    guest.hear(m.OpenChannelResult(1, 1, 0xC0000001))


def opened(guest: Guest) -> None:
    opening(guest)
    guest.hear(m.OpenChannelResult(1, 1, 0))


def closing(guest: Guest) -> None:
    opened(guest)
    guest.bus.close_channel(1)


STATES: dict[str, Callable[[Guest], None]] = {
    "offered": lambda _: None,
    "creating-ring": creating,
    "opening": opening,
    "failing": failing,
    "open": opened,
    "closing": closing,
}
ABOUT: dict[str, m.Message] = {
    "1": offer_message(1),
    "2": m.RescindChannelOffer(1),
    "6 good": m.OpenChannelResult(1, 1, 0),
    "6 bad": m.OpenChannelResult(1, 1, 0xC0000001),
    "10 good": m.GpadlCreated(1, FIRST, 0),
    "10 bad": m.GpadlCreated(1, FIRST, m.STATUS_FAILED),
    "12": m.GpadlTorndown(FIRST),
    "24": m.ModifyChannelResponse(1, 0),
}
USED, NOW, NONE = "CHANNEL_ID_IN_USE", "UNEXPECTED_ANSWER", "UNKNOWN_GPADL_ID"
GONE, BACK = "offerrescinded", "gpadlteardown"
EXPECTED: dict[str, dict[str, tuple[str, list[str]]]] = {
    "offered": {
        "1": ("offered", [USED]),
        "2": ("offered", [GONE]),
        "6 good": ("offered", [NOW]),
        "6 bad": ("offered", [NOW]),
        "10 good": ("offered", [NONE]),
        "10 bad": ("offered", [NONE]),
        "12": ("offered", [NONE]),
        "24": ("offered", [NOW]),
    },
    "creating-ring": {
        "1": ("creating-ring", [USED]),
        "2": ("creating-ring", [GONE]),
        "6 good": ("creating-ring", [NOW]),
        "6 bad": ("creating-ring", [NOW]),
        "10 good": ("opening", ["openchannel"]),
        "10 bad": ("offered", ["channelopened!"]),
        "12": ("creating-ring", [NOW]),
        "24": ("creating-ring", [NOW]),
    },
    "opening": {
        "1": ("opening", [USED]),
        "2": ("failing", [GONE, BACK]),
        "6 good": ("open", ["channelopened"]),
        "6 bad": ("failing", [BACK]),
        "10 good": ("opening", [NOW]),
        "10 bad": ("opening", [NOW]),
        "12": ("opening", [NOW]),
        "24": ("opening", [NOW]),
    },
    "failing": {
        "1": ("failing", [USED]),
        "2": ("failing", [GONE]),
        "6 good": ("failing", [NOW]),
        "6 bad": ("failing", [NOW]),
        "10 good": ("failing", [NOW]),
        "10 bad": ("failing", [NOW]),
        "12": ("offered", ["channelopened!"]),
        "24": ("failing", [NOW]),
    },
    "open": {
        "1": ("open", [USED]),
        "2": ("open", [GONE]),
        "6 good": ("open", [NOW]),
        "6 bad": ("open", [NOW]),
        "10 good": ("open", [NOW]),
        "10 bad": ("open", [NOW]),
        "12": ("open", [NOW]),
        "24": ("open", [NOW]),
    },
    "closing": {
        "1": ("closing", [USED]),
        "2": ("closing", [GONE]),
        "6 good": ("closing", [NOW]),
        "6 bad": ("closing", [NOW]),
        "10 good": ("closing", [NOW]),
        "10 bad": ("closing", [NOW]),
        "12": ("offered", ["channelclosed"]),
        "24": ("closing", [NOW]),
    },
}


def words(effects: list[GuestEffect]) -> list[str]:
    said = []
    for effect in effects:
        if isinstance(effect, Violation):
            said.append(effect.fault.name)
        elif isinstance(effect, PostMessage):
            said.append(type(posted([effect])[0]).__name__.lower())
        else:
            failed = m.is_failure(getattr(effect, "status", 0))
            said.append(type(effect).__name__.lower() + ("!" if failed else ""))
    return said


@pytest.mark.parametrize("name", ABOUT)
@pytest.mark.parametrize("state", STATES)
def test_every_guest_channel_state_against_every_message_about_it(state: str, name: str) -> None:
    guest = Guest()
    STATES[state](guest)
    assert guest.bus.state.channels.channels[1].state.value == state
    effects = words(guest.hear(ABOUT[name]))
    assert (guest.bus.state.channels.channels[1].state.value, effects) == EXPECTED[state][name]


def test_user_data_and_downstream_are_what_the_caller_gave() -> None:
    guest = Guest()
    guest.bus.open_channel(1, RING, 2)
    (request,) = posted(guest.hear(m.GpadlCreated(1, FIRST, 0)))
    assert isinstance(request, m.OpenChannel)
    assert (request.user_data, request.downstream_page_offset) == (NO_DATA, 2)


@pytest.mark.parametrize("state", STATES)
def test_a_saved_guest_is_plain_and_comes_back_the_same(state: str) -> None:
    guest = Guest(features=0x3)
    STATES[state](guest)
    saved = guest.bus.save()
    restored = GuestBus.restore(copy.deepcopy(saved), guest.bus.config)
    assert restored.save() == saved
    for name, message in ABOUT.items():
        assert restored.message_arrived(pack_message(message)) == guest.hear(message), name


GUEST_DAMAGE: dict[str, Callable[[Any], object]] = {
    "attempt": lambda saved: saved.__setitem__("attempt", 5),
    "version": lambda saved: saved.__setitem__("version", None),
    "open without its opening": lambda saved: saved["channels"]["channels"][0][1].__setitem__("opening", None),
    "open without its ring": lambda saved: saved["channels"]["gpadls"].clear(),
    "open but at rest": lambda saved: saved["channels"]["channels"][0][1].__setitem__("state", "offered"),
    "GPADL of no channel": lambda saved: saved["channels"]["channels"].clear(),
    "another thing": lambda saved: saved.clear(),
}


@pytest.mark.parametrize("name", GUEST_DAMAGE)
def test_a_saved_guest_that_does_not_fit_is_refused(name: str) -> None:
    guest = Guest()
    guest.open()
    saved = guest.bus.save()
    GUEST_DAMAGE[name](saved)
    with pytest.raises(Refused, match="saved state"):
        GuestBus.restore(saved, guest.bus.config)

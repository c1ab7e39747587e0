"""Page lists at the host, as a guest and a device meet them (rule 2.7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.memory import GpaRange
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault, Violation
from emulator.vmbus.gpadl import build_gpadl_messages
from emulator.vmbus.host_effects import GpadlOffered, GpadlTeardown, HostEffect
from emulator.vmbus.message_types import Version
from emulator.vmbus.messages import pack_message
from emulator.vmbus.negotiation import BusConfig

from .bus_support import Peer, heard, outcome, pick, values

FAILED = m.GpadlCreated(1, 10, m.STATUS_FAILED)
WHOLE = values(0x2000, 5, 6)


def connected(
    version: Version = Version.V6_0, channels: int = 1, config: BusConfig | None = None
) -> tuple[Peer, list[int]]:
    peer = Peer(config)
    keys = [peer.offer(number + 1) for number in range(channels)]
    peer.connect(version, 0)
    peer.request_offers()
    return peer, keys


def header(image: bytes, total: int | None = None, count: int = 1, channel: int = 1, gpadl: int = 10) -> m.GpadlHeader:
    return m.GpadlHeader(channel, gpadl, len(image) if total is None else total, count, image)


def faults(effects: list[HostEffect]) -> list[BusFault]:
    return [v.fault for v in pick(effects, Violation)]


@pytest.mark.parametrize("version", Version)
def test_item_23_an_unknown_channel_is_answered_with_the_ids_echoed(version: Version) -> None:
    peer, _ = connected(version)
    effects = peer.post(header(WHOLE, channel=0x1234, gpadl=0x5678))
    assert heard(effects) == [m.GpadlCreated(0x1234, 0x5678, 0x8000FFFF)]
    assert faults(effects) == [BusFault.UNKNOWN_CHANNEL_ID]


@pytest.mark.parametrize("version", Version)
def test_item_23_a_range_with_a_whole_page_of_offset_fails_at_once_or_after_the_body(version: Version) -> None:
    peer, (key,) = connected(version)
    bad = values(0x100 | 0x1000 << 32, 5, 6)
    effects = peer.post(header(bad))
    assert heard(effects) == [FAILED]
    assert faults(effects) == [BusFault.INVALID_GPA_RANGE]
    assert peer.post(header(bad[:8], total=24)) == []
    effects = peer.post(m.GpadlBody(0, 10, bad[8:]))
    assert heard(effects) == [FAILED]
    assert faults(effects) == [BusFault.INVALID_GPA_RANGE]
    # The id is free again.
    assert peer.post(header(WHOLE)) == [GpadlOffered(key, 10, (GpaRange(0x2000, 0, (5, 6)),))]
    assert heard(peer.bus.gpadl_accepted(key, 10)) == [m.GpadlCreated(1, 10, 0)]


def test_item_24_reset_in_the_middle_frees_the_id_for_the_next_connection() -> None:
    peer, (key,) = connected()
    peer.post(header(WHOLE[:8], total=24))
    peer.platform(peer.bus.reset())
    peer.connect()
    peer.request_offers()
    assert peer.post(header(WHOLE[:8], total=24)) == []
    assert peer.post(m.GpadlBody(0, 10, WHOLE[8:])) == [GpadlOffered(key, 10, (GpaRange(0x2000, 0, (5, 6)),))]


def test_rule_2_7_several_ranges_over_header_and_bodies_arrive_whole() -> None:
    peer, (key,) = connected()
    ranges = (GpaRange(70 * 4096, 0, tuple(range(70, 0, -1))), GpaRange(1, 4095, (3,)), GpaRange(2, 4095, (3, 3)))
    *first, last = build_gpadl_messages(1, 10, ranges)
    assert all(peer.post(message) == [] for message in first)
    assert peer.post(last) == [GpadlOffered(key, 10, ranges)]


def test_rule_2_7_messages_padded_to_240_bytes_are_the_same() -> None:
    peer, (key,) = connected()
    ranges = (GpaRange(27 * 4096, 0, tuple(range(27))),)
    first, last = (pack_message(message).ljust(240, b"\xee") for message in build_gpadl_messages(1, 10, ranges))
    assert peer.raw(first) == []
    assert peer.raw(last) == [GpadlOffered(key, 10, ranges)]


def test_rule_2_7_a_body_for_no_list_is_silent() -> None:
    peer, _ = connected()
    assert peer.refused(m.GpadlBody(0, 10, WHOLE)) is BusFault.UNKNOWN_GPADL_ID
    peer.post(header(WHOLE))
    assert peer.refused(m.GpadlBody(0, 10, WHOLE)) is BusFault.UNKNOWN_GPADL_ID


def test_rule_2_7_a_duplicate_id_fails_and_the_old_list_lives_on() -> None:
    peer, (key,) = connected()
    peer.gpadl(1, 10, accept=key)
    effects = peer.post(header(WHOLE))
    assert heard(effects) == [FAILED]
    assert faults(effects) == [BusFault.DUPLICATE_GPADL_ID]
    assert peer.post(m.GpadlTeardown(1, 10)) == [GpadlTeardown(key, 10)]


def test_rule_2_7_an_id_still_in_progress_is_taken_on_every_channel() -> None:
    peer, (key, _) = connected(channels=2)
    peer.post(header(WHOLE[:8], total=24))
    effects = peer.post(header(WHOLE[:8], total=24, channel=2))
    assert heard(effects) == [m.GpadlCreated(2, 10, m.STATUS_FAILED)]
    assert peer.post(m.GpadlBody(0, 10, WHOLE[8:])) == [GpadlOffered(key, 10, (GpaRange(0x2000, 0, (5, 6)),))]
    assert len(pick(peer.post(header(WHOLE, channel=2)), GpadlOffered)) == 1


@pytest.mark.parametrize(("image", "count"), [(b"", 1), (b"", 0), (WHOLE, 0)])
def test_rule_2_7_no_range_or_no_value_fails(image: bytes, count: int) -> None:
    peer, _ = connected()
    assert heard(peer.post(header(image, count=count))) == [FAILED]


def test_rule_2_7_the_device_may_refuse_and_the_id_is_free() -> None:
    peer, (key,) = connected()
    peer.post(header(WHOLE))
    assert heard(peer.bus.gpadl_accepted(key, 10, 0xC0000001)) == [m.GpadlCreated(1, 10, 0xC0000001)]
    assert len(pick(peer.post(header(WHOLE)), GpadlOffered)) == 1


def test_rule_2_7_torn_down_carries_only_the_id_and_waits_for_the_device() -> None:
    peer, (key,) = connected()
    peer.gpadl(1, 10, accept=key)
    assert peer.post(m.GpadlTeardown(1, 10)) == [GpadlTeardown(key, 10)]
    assert peer.refused(m.GpadlTeardown(1, 10)) is BusFault.INVALID_GPADL_STATE
    assert heard(peer.bus.gpadl_torn_down(key, 10)) == [m.GpadlTorndown(10)]
    assert peer.refused(m.GpadlTeardown(1, 10)) is BusFault.UNKNOWN_GPADL_ID


def test_rule_2_7_revoking_answers_what_the_device_owed_then_rescinds() -> None:
    peer, (key,) = connected()
    peer.post(header(WHOLE, gpadl=10))
    peer.gpadl(1, 11, accept=key)
    peer.gpadl(1, 12, accept=key)
    peer.post(m.GpadlTeardown(1, 12))
    peer.post(header(WHOLE[:8], total=24, gpadl=13))
    assert heard(peer.bus.revoke_offer(key)) == [FAILED, m.GpadlTorndown(12), m.RescindChannelOffer(1)]
    assert heard(peer.post(m.GpadlTeardown(1, 11))) == [m.GpadlTorndown(11)]
    assert heard(peer.post(m.GpadlBody(0, 13, WHOLE[8:]))) == [m.GpadlCreated(1, 13, 0)]
    assert heard(peer.post(m.GpadlTeardown(1, 13))) == [m.GpadlTorndown(13)]


def test_rule_2_7_no_torn_down_for_a_channel_the_guest_gave_back() -> None:
    peer, (key,) = connected()
    peer.gpadl(1, 10, accept=key)
    assert peer.post(m.RelIdReleased(1)) == [GpadlTeardown(key, 10)]
    assert peer.bus.gpadl_torn_down(key, 10) == []


def test_rule_2_7_a_list_in_progress_goes_with_a_revoked_channel_the_guest_gives_back() -> None:
    peer, (key,) = connected()
    peer.post(header(WHOLE[:8], total=24))
    peer.bus.revoke_offer(key)
    assert peer.post(m.RelIdReleased(1)) == []
    assert peer.refused(m.GpadlBody(0, 10, WHOLE[8:])) is BusFault.UNKNOWN_GPADL_ID


def test_limits_of_lists_pages_and_lists_in_progress_are_answered_with_a_failure() -> None:
    for config in (BusConfig(max_gpadls=1), BusConfig(max_gpadl_pages=5)):
        peer, _ = connected(config=config)
        assert len(pick(peer.post(header(WHOLE, gpadl=1)), GpadlOffered)) == 1
        effects = peer.post(header(WHOLE))
        assert heard(effects) == [FAILED]
        assert faults(effects) == [BusFault.TOO_MANY_GPADLS]
    peer, _ = connected(config=BusConfig(max_gpadls_in_progress=1))
    assert peer.post(header(WHOLE[:8], total=24, gpadl=1)) == []
    assert faults(peer.post(header(WHOLE[:8], total=24))) == [BusFault.TOO_MANY_GPADLS]
    assert len(pick(peer.post(header(WHOLE)), GpadlOffered)) == 1


def test_pages_given_back_count_no_longer() -> None:
    peer, (key,) = connected(config=BusConfig(max_gpadl_pages=5))
    for _ in range(3):
        peer.gpadl(1, 10, pages=4, accept=key)
        peer.post(m.GpadlTeardown(1, 10))
        assert heard(peer.bus.gpadl_torn_down(key, 10)) == [m.GpadlTorndown(10)]


# Every state of a list against everything that can happen, written out from the reference.


def in_progress() -> tuple[Peer, int]:
    peer, (key,) = connected()
    peer.post(header(WHOLE[:8], total=24))
    return peer, key


def offered() -> tuple[Peer, int]:
    peer, (key,) = connected()
    peer.post(header(WHOLE))
    return peer, key


def accepted() -> tuple[Peer, int]:
    peer, key = offered()
    peer.bus.gpadl_accepted(key, 10)
    return peer, key


def tearing_down() -> tuple[Peer, int]:
    peer, key = accepted()
    peer.post(m.GpadlTeardown(1, 10))
    return peer, key


def offered_tearing_down() -> tuple[Peer, int]:
    peer, key = offered()
    peer.post(m.RelIdReleased(1))
    return peer, key


STATES: dict[str, Callable[[], tuple[Peer, int]]] = {
    "in-progress": in_progress,
    "offered": offered,
    "accepted": accepted,
    "tearing-down": tearing_down,
    "offered-tearing-down": offered_tearing_down,
}
EVENTS: dict[str, Callable[[Peer, int], list[HostEffect]]] = {
    "last body": lambda peer, _: peer.post(m.GpadlBody(0, 10, WHOLE[8:])),
    "accepted": lambda peer, key: peer.bus.gpadl_accepted(key, 10),
    "refused": lambda peer, key: peer.bus.gpadl_accepted(key, 10, 0xC0000001),
    "11": lambda peer, _: peer.post(m.GpadlTeardown(1, 10)),
    "done": lambda peer, key: peer.bus.gpadl_torn_down(key, 10),
    "13": lambda peer, _: peer.post(m.RelIdReleased(1)),
    "disconnect": lambda peer, _: peer.post(m.Unload()),
    "revoke": lambda peer, key: peer.bus.revoke_offer(key),
}

GPADL, CHANNEL, STATE = "UNKNOWN_GPADL_ID", "UNKNOWN_CHANNEL_ID", "INVALID_GPADL_STATE"
NO = ["ignored"]
EXPECTED: dict[str, dict[str, tuple[str, list[str]]]] = {
    "in-progress": {
        "last body": ("offered", ["gpadloffered"]),
        "accepted": ("in-progress", NO),
        "refused": ("in-progress", NO),
        "11": ("in-progress", [STATE]),
        "done": ("in-progress", NO),
        "13": ("gone", []),
        "disconnect": ("gone", ["platform reset"]),
        "revoke": ("in-progress", [">2"]),
    },
    "offered": {
        "last body": ("offered", [GPADL]),
        "accepted": ("accepted", [">10"]),
        "refused": ("gone", [">10!"]),
        "11": ("offered", [STATE]),
        "done": ("offered", NO),
        "13": ("offered-tearing-down", []),
        "disconnect": ("offered-tearing-down", []),
        "revoke": ("gone", [">10!", ">2"]),
    },
    "accepted": {
        "last body": ("accepted", [GPADL]),
        "accepted": ("accepted", NO),
        "refused": ("accepted", NO),
        "11": ("tearing-down", ["gpadlteardown"]),
        "done": ("accepted", NO),
        "13": ("tearing-down", ["gpadlteardown"]),
        "disconnect": ("tearing-down", ["gpadlteardown"]),
        "revoke": ("accepted", [">2"]),
    },
    "tearing-down": {
        "last body": ("tearing-down", [GPADL]),
        "accepted": ("tearing-down", NO),
        "refused": ("tearing-down", NO),
        "11": ("tearing-down", [STATE]),
        "done": ("gone", [">12"]),
        "13": ("tearing-down", []),
        "disconnect": ("tearing-down", []),
        "revoke": ("gone", [">12", ">2"]),
    },
    "offered-tearing-down": {
        "last body": ("offered-tearing-down", [GPADL]),
        "accepted": ("tearing-down", ["gpadlteardown"]),
        "refused": ("gone", []),
        "11": ("offered-tearing-down", [CHANNEL]),
        "done": ("offered-tearing-down", NO),
        "13": ("offered-tearing-down", [CHANNEL]),
        "disconnect": ("offered-tearing-down", []),
        "revoke": ("gone", []),
    },
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_rule_2_7_every_state_against_every_event(state: str, event: str) -> None:
    peer, key = STATES[state]()
    effects = outcome(EVENTS[event](peer, key))
    gpadls = [g for c in peer.bus.view().channels for g in c.gpadls]
    assert (gpadls[0].state if gpadls else "gone", effects) == EXPECTED[state][event]


@pytest.mark.parametrize("state", STATES)
def test_the_script_for_a_state_reaches_it(state: str) -> None:
    peer, _ = STATES[state]()
    (channel,) = peer.bus.view().channels
    assert [g.state for g in channel.gpadls] == [state]

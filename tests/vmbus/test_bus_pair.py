"""GuestBus and HostBus against each other, and HostBus against hostile guests, by random scripts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.memory import GpaRange
from emulator.status import Refused
from emulator.vmbus import guest_effects as fx
from emulator.vmbus import message_types as m
from emulator.vmbus.bus_link import BusLink, Effect
from emulator.vmbus.faults import Violation
from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_state import GuestConfig, GuestPhase
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    CloseDevice,
    Disconnected,
    GpadlOffered,
    GpadlTeardown,
    HostEffect,
    ModifyDevice,
    ModifyPlatform,
    OpenDevice,
    TlConnect,
)
from emulator.vmbus.message_types import FeatureFlags, Version
from emulator.vmbus.messages import pack_message
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.offers import OfferParameters, hvsock_offer

from .bus_support import contact_bytes, guid, pick, values

RING = [GpaRange(4 * 4096, 0, (9, 3, 7, 3))]
LONG = [GpaRange(60 * 4096, 0, tuple(range(60, 0, -1))), GpaRange(3, 4094, (1, 1))]
ASKED = OpenDevice | CloseDevice | GpadlOffered | GpadlTeardown | ModifyDevice | TlConnect


class Machine:
    """Both buses, their wire, and what devices have been asked and not answered yet."""

    def __init__(self, host: BusConfig | None = None, guest: GuestConfig | None = None) -> None:
        self.host_config, self.guest_config = host or BusConfig(), guest or GuestConfig()
        self.link = BusLink(HostBus(self.host_config), GuestBus(self.guest_config))
        self.asked: list[ASKED] = []
        self.log: list[Effect] = []

    @property
    def host(self) -> HostBus:
        return self.link.host

    @property
    def guest(self) -> GuestBus:
        return self.link.guest

    def run(self, effects: list[HostEffect] | list[fx.GuestEffect]) -> list[Effect]:
        rest = self.link.settle(effects)
        self.asked += [e for e in rest if isinstance(e, ASKED)]
        self.log += rest
        return rest

    def offer(self, number: int, **kw: Any) -> int:
        key, effects = self.host.add_offer(OfferParameters(guid(number), guid(number), **kw))
        self.run(effects)
        return key

    def answer(self, request: ASKED, good: bool = True) -> list[Effect]:
        host, status = self.host, m.STATUS_OK if good else 0xC0000001
        match request:
            case OpenDevice(offer_key=key):
                return self.run(host.device_opened(key, status))
            case CloseDevice(offer_key=key):
                return self.run(host.device_closed(key))
            case GpadlOffered(offer_key=key, gpadl_id=gpadl_id):
                return self.run(host.gpadl_accepted(key, gpadl_id, status))
            case GpadlTeardown(offer_key=key, gpadl_id=gpadl_id):
                return self.run(host.gpadl_torn_down(key, gpadl_id))
            case ModifyDevice(offer_key=key):
                return self.run(host.modify_done(key, status))
            case TlConnect(service_id=service, endpoint_id=endpoint):
                return self.run(host.tl_connect_result(service, endpoint, success=good))

    def answer_all(self) -> None:
        while self.asked:
            self.answer(self.asked.pop(0))

    def violations(self) -> list[Violation]:
        return pick(self.log, Violation)  # type: ignore[arg-type]  # any effects will do

    def twin(self) -> Machine:
        """The same machine, from its saved state."""
        other = Machine(self.host_config, self.guest_config)
        host = HostBus.restore(copy.deepcopy(self.host.save()), self.host_config)
        guest = GuestBus.restore(copy.deepcopy(self.guest.save()), self.guest_config)
        other.link = BusLink(host, guest)
        other.asked = list(self.asked)
        return other


def bare(bus: HostBus) -> Any:
    """A bus's saved state without what a history may leave: the next key, and where messages go."""
    saved = bus.save()
    saved["channels"]["next_key"] = saved["outbox"]["target_vp"] = None
    return saved


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("version", Version)
def test_a_whole_life_leaves_everything_as_at_the_start(version: Version, window: int | None) -> None:
    machine = Machine(BusConfig(maximum_version=version, message_window=window))
    key = machine.offer(1)
    guest = machine.guest
    assert machine.run(guest.connect())[0] == fx.Connected(version, FeatureFlags(0x2F if version >= 0x60000 else 0))
    ticket, effects = guest.open_channel(1, RING, 2, target_vp=1)
    machine.run(effects)
    machine.answer_all()
    assert fx.ChannelOpened(ticket, 1, 0, 0x2001, 1) in machine.log
    (request,) = [e.request for e in machine.log if isinstance(e, OpenDevice)]
    assert request.ring == ((9, 3), (7, 3))
    gpadl_id, effects = guest.create_gpadl(1, LONG)
    machine.run(effects)
    machine.answer_all()
    assert fx.GpadlReady(1, gpadl_id, 0) in machine.log
    assert [e.ranges for e in machine.log if isinstance(e, GpadlOffered)][-1] == tuple(LONG)
    if version >= Version.V4_1:
        machine.run(guest.modify(1, 2))
        machine.answer_all()
        assert fx.ChannelModified(1, 0) in machine.log
    machine.run(guest.close_channel(1))
    machine.answer_all()
    assert fx.ChannelClosed(1) in machine.log
    machine.run(machine.host.revoke_offer(key))
    assert fx.OfferRescinded(1) in machine.log
    assert machine.run(guest.release(1))[-1] == fx.ChannelReleased(1)
    machine.run(guest.unload())
    assert machine.log[-1] == fx.Unloaded()
    assert machine.violations() == []
    assert bare(machine.host) == bare(HostBus())
    assert guest.save() == GuestBus().save()


@pytest.mark.parametrize("success", [True, False])
def test_a_socket_from_guest_to_host_connects_or_fails(success: bool) -> None:
    machine = Machine()
    machine.run(machine.guest.connect())
    machine.run(machine.guest.tl_connect(guid(8), guid(9)))
    rest = machine.answer(machine.asked.pop(), success)
    if success:
        _, effects = machine.host.add_offer(hvsock_offer(guid(8), guid(9), for_guest_accept=False))
        assert machine.run(effects)[-1] == fx.TlConnected(guid(8), guid(9), 1)
    else:
        assert rest == [fx.TlConnectFailed(guid(8), guid(9), 0xC0000236)]


def test_a_guest_steps_down_past_a_host_without_the_multiclient_port() -> None:
    machine = Machine(BusConfig(maximum_version=Version.V3_0))
    (connected, delivered) = machine.run(machine.guest.connect())
    assert connected == fx.Connected(Version.V3_0, FeatureFlags.NONE)
    assert delivered == fx.OffersDelivered()


@pytest.mark.parametrize("close_first", [False, True])
def test_unload_with_everything_under_way_ends_when_the_devices_have_answered(close_first: bool) -> None:
    machine = Machine()
    keys = [machine.offer(number) for number in (1, 2, 3)]
    machine.run(machine.guest.connect())
    for channel_id in (1, 2, 3):
        machine.run(machine.guest.open_channel(channel_id, RING, 2)[1])
    machine.answer(machine.asked.pop(0))
    machine.answer(machine.asked.pop(0))
    machine.answer(next(e for e in machine.asked if isinstance(e, OpenDevice)))
    if close_first:
        machine.run(machine.guest.close_channel(1))
    machine.run(machine.guest.unload())
    assert fx.Unloaded() not in machine.log
    machine.answer_all()
    assert machine.log[-2:] == [Disconnected(), fx.Unloaded()]
    assert {c.state for c in machine.host.view().channels} == {"released"}
    assert len(keys) == len(machine.host.view().channels)


# Random legal life: both buses are ours, so neither may ever find fault with the other.

Op = tuple[int, int, int]
OPS = st.lists(st.tuples(st.integers(0, 13), st.integers(0, 7), st.integers(0, 7)), max_size=60)


def choose(items: list[Any], index: int) -> Any:
    return items[index % len(items)] if items else None


def attempt(call: Any) -> list[Any]:
    """The effects of something our own side may be refused."""
    try:
        result = call()
    except Refused:
        return []
    return list(result[1] if isinstance(result, tuple) else result)


def perform(machine: Machine, op: Op) -> list[Effect]:
    kind, a, b = op
    host, guest = machine.host, machine.guest
    channels = list(guest.state.channels.channels)
    gpadls = list(guest.state.channels.gpadls)
    channel = choose(channels, a)
    match kind:
        case 0:
            return machine.run(attempt(guest.connect))
        case 1 | 2 if channel:
            return machine.run(attempt(lambda: guest.open_channel(channel, RING, 1 + b % 3, b)))
        case 3 if channel:
            return machine.run(attempt(lambda: guest.close_channel(channel)))
        case 4 if channel:
            return machine.run(attempt(lambda: guest.create_gpadl(channel, LONG if b % 2 else RING)))
        case 5 if gpadls:
            return machine.run(attempt(lambda: guest.teardown_gpadl(choose(gpadls, a))))
        case 6 if channel:
            return machine.run(attempt(lambda: guest.modify(channel, b)))
        case 7 if channel:
            return machine.run(attempt(lambda: guest.release(channel)))
        case 8 if b == 0:
            return machine.run(attempt(guest.unload))
        case 9:
            return machine.run(attempt(lambda: host.add_offer(OfferParameters(guid(a), guid(b)))))
        case 10:
            alive = [c.offer_key for c in host.view().channels if c.state != "revoked"]
            return machine.run(host.revoke_offer(choose(alive, a))) if alive and b < 4 else []
        case _ if machine.asked:
            return machine.answer(machine.asked.pop(a % len(machine.asked)), good=b != 0)
    return []


def finish(machine: Machine) -> None:
    """Answer everything, leave, take every device away: nothing may be left on either side."""
    machine.answer_all()
    if machine.guest.state.phase is GuestPhase.CONNECTED:
        machine.run(machine.guest.unload())
        machine.answer_all()
    assert machine.guest.save() == GuestBus().save()
    assert all(c.state == "released" and not c.gpadls for c in machine.host.view().channels)
    assert machine.host.outstanding() == []
    for channel in machine.host.view().channels:
        machine.run(machine.host.revoke_offer(channel.offer_key))
    assert bare(machine.host) == bare(HostBus())


@given(OPS, st.sampled_from(Version), st.sampled_from([None, 1]))
@settings(max_examples=150)
def test_random_legal_lives_break_no_rule_and_leak_nothing(ops: list[Op], version: Version, window: int | None) -> None:
    machine = Machine(BusConfig(maximum_version=version, message_window=window, outgoing_backlog=2))
    perform(machine, (9, 1, 1))
    perform(machine, (0, 0, 0))
    for op in ops:
        perform(machine, op)
        assert machine.link.waiting_posts == 0
    finish(machine)
    ring_splits = [v for v in machine.violations() if v.fault.name != "INVALID_RING"]
    assert ring_splits == []


@given(OPS, OPS, st.sampled_from(Version))
@settings(max_examples=100)
def test_restored_buses_answer_a_random_continuation_alike(first: list[Op], second: list[Op], version: Version) -> None:
    machine = Machine(BusConfig(maximum_version=version))
    perform(machine, (9, 1, 1))
    perform(machine, (0, 0, 0))
    for op in first:
        perform(machine, op)
    twin = machine.twin()
    for op in second:
        assert perform(twin, op) == perform(machine, op)
    assert twin.host.save() == machine.host.save()
    assert twin.guest.save() == machine.guest.save()
    finish(twin)


# Hostile guests.

IDS = st.sampled_from([0, 1, 2, 3, 0x7FF, 0x800, 0xFFFFFFFF])
SMALL = st.integers(0, 5)
PAGES = st.sampled_from(
    [b"", values(0x4000, 1, 2, 3, 4), values(0x4000), values(0), values(0x10 | 0x1000 << 32, 1), b"\xff" * 220, b"odd"]
)
SPEC: list[st.SearchStrategy[m.Message]] = [
    st.builds(m.RequestOffers),
    st.builds(m.OpenChannel, IDS, SMALL, SMALL, IDS, SMALL, st.just(bytes(120))),
    st.builds(m.OpenChannel2, IDS, SMALL, SMALL, IDS, SMALL, st.just(bytes(120)), IDS, SMALL, SMALL),
    st.builds(m.CloseChannel, IDS),
    st.builds(m.GpadlHeader, IDS, SMALL, st.sampled_from([0, 7, 8, 40, 48, 0xFFFF]), SMALL, PAGES),
    st.builds(m.GpadlBody, SMALL, SMALL, PAGES),
    st.builds(m.GpadlTeardown, IDS, SMALL),
    st.builds(m.RelIdReleased, IDS),
    st.builds(m.Unload),
    st.builds(m.OpenReservedChannel, IDS, IDS, st.sampled_from([0, 2, 3, 16, 0xFFFFFFFF]), SMALL, SMALL),
    st.builds(m.CloseReservedChannel, IDS, IDS, st.sampled_from([0, 2, 3, 16, 0xFFFFFFFF])),
    st.builds(m.TlConnectRequest, st.just(guid(1)), st.builds(guid, SMALL)),
    st.builds(m.ModifyChannel, IDS, IDS),
    st.builds(m.ModifyConnection, SMALL, SMALL),
    st.builds(m.Pause),
    st.builds(m.Resume),
]
LIKELY = st.one_of(
    st.builds(m.GpadlHeader, st.integers(1, 2), SMALL, st.just(40), st.just(1), st.just(values(0x4000, 1, 2, 3, 4))),
    st.builds(m.OpenChannel, st.integers(1, 2), SMALL, SMALL, SMALL, st.just(2), st.just(bytes(120))),
    st.builds(m.CloseChannel, st.integers(1, 2)),
    st.builds(m.OpenReservedChannel, st.integers(1, 2), SMALL, st.just(2), SMALL, st.just(2)),
)
CONTACT = st.builds(
    lambda version, features, sint, vtl, page: contact_bytes(version, features, sint=sint, vtl=vtl, pages=(page, page)),
    st.sampled_from([*Version, 0x60000, 0x60000, 5]),
    st.sampled_from([0, 0x2F, 0xFFFFFFFF]),
    st.sampled_from([2, 2, 3, 200]),
    st.sampled_from([0, 0, 2]),
    st.sampled_from([0, 0x1000]),
)
PAYLOAD = st.one_of(
    LIKELY.map(pack_message),
    st.one_of(SPEC).map(pack_message),
    st.one_of(SPEC).map(pack_message).map(lambda image: image.ljust(240, b"\xee")),
    st.tuples(st.one_of(SPEC).map(pack_message), st.integers(0, 239)).map(lambda pair: pair[0][: pair[1]]),
    CONTACT,
    st.binary(max_size=260),
    st.tuples(st.integers(0, 31), st.binary(max_size=236)).map(lambda pair: pair[0].to_bytes(4, "little") + pair[1]),
)
STEP = st.one_of(
    st.tuples(st.just("post"), st.sampled_from([1, 1, 1, 4, 7]), PAYLOAD),
    st.tuples(st.just("post"), st.sampled_from([1, 1, 1, 4, 7]), PAYLOAD),
    st.tuples(st.just("answer"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 9), st.booleans()),
    st.tuples(st.sampled_from(["offer", "revoke", "signal", "reset"]), st.integers(0, 9), st.booleans()),
)
Step = tuple[str, int, Any]


class Devices:
    """A HostBus whose devices answer in any order, for guests that follow no rule."""

    def __init__(self, bus: HostBus) -> None:
        self.bus = bus
        self.asked: list[ASKED | ModifyPlatform] = []

    def note(self, effects: list[HostEffect]) -> list[HostEffect]:
        self.asked += [e for e in effects if isinstance(e, ASKED | ModifyPlatform)]
        return effects

    def answer(self, request: ASKED | ModifyPlatform, good: bool) -> list[HostEffect]:
        bus, status = self.bus, 0 if good else 0xC0000001
        match request:
            case ModifyPlatform():
                return bus.modify_connection_done()
            case OpenDevice(offer_key=key):
                return bus.device_opened(key, status)
            case CloseDevice(offer_key=key):
                return bus.device_closed(key)
            case GpadlOffered(offer_key=key, gpadl_id=gpadl_id):
                return bus.gpadl_accepted(key, gpadl_id, status)
            case GpadlTeardown(offer_key=key, gpadl_id=gpadl_id):
                return bus.gpadl_torn_down(key, gpadl_id)
            case ModifyDevice(offer_key=key):
                return bus.modify_done(key, status)
            case TlConnect(service_id=service, endpoint_id=endpoint):
                return bus.tl_connect_result(service, endpoint, success=good)

    def step(self, step: Step) -> list[HostEffect]:
        kind, number, extra = step
        bus = self.bus
        match kind:
            case "post":
                return self.note(bus.post_message(number, extra).effects)
            case "answer" if self.asked:
                return self.note(self.answer(self.asked.pop(number % len(self.asked)), extra))
            case "offer":
                return self.note(
                    attempt(lambda: bus.add_offer(OfferParameters(guid(number), guid(1), uses_monitor=extra)))
                )
            case "revoke":
                alive = [c.offer_key for c in bus.view().channels]
                return self.note(bus.revoke_offer(choose(alive, number))) if alive else []
            case "signal":
                return self.note(bus.signal_event(0x2000 + number).effects)
            case "reset" if extra:
                return self.note(bus.reset())
        return []


def check(bus: HostBus) -> None:
    """What must hold after every input."""
    saved = HostBus.restore(bus.save()).save()  # restoring checks ids, identities and what each state needs
    assert saved == bus.save()
    for channel in bus.view().channels:
        released = channel.state in ("released", "opening-released", "closing-released")
        assert (channel.channel_id is None) is released


@given(st.lists(STEP, max_size=50), st.lists(STEP, max_size=15))
@settings(max_examples=150)
def test_hostile_guests_raise_nothing_leak_nothing_and_are_saved_alike(first: list[Step], second: list[Step]) -> None:
    devices = Devices(HostBus())
    for step in [
        ("offer", 1, True),
        ("offer", 2, False),
        ("post", 1, contact_bytes(0x60000, 0x2F)),
        ("answer", 0, True),
    ]:
        devices.step(step)
    devices.step(("post", 1, pack_message(m.RequestOffers())))
    for step in first:
        devices.step(step)
    check(devices.bus)
    twin = Devices(HostBus.restore(copy.deepcopy(devices.bus.save())))
    twin.asked = list(devices.asked)
    for step in second:
        assert twin.step(step) == devices.step(step)
    check(devices.bus)
    devices.note(devices.bus.reset())
    while devices.asked:
        devices.note(devices.answer(devices.asked.pop(0), True))
    assert devices.bus.outstanding() == []
    for channel in devices.bus.view().channels:
        assert (channel.state, channel.gpadls, channel.channel_id) == ("released", (), None)
        assert devices.bus.revoke_offer(channel.offer_key) == []
    assert bare(devices.bus) == bare(HostBus())


def test_late_answers_are_told_apart_from_early_ones() -> None:
    machine = Machine()
    key = machine.offer(1)
    assert machine.host.device_closed(key) == [AnswerIgnored(key, "device closed")]

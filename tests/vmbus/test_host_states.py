"""Every state against every message and every answer, by tables written out from the reference, not from the code.

An entry is (state afterwards, what came out). What came out is written as a list: a fault's name, ``>number`` for a
message to the guest (``!`` for a failure status), or the lower-case name of what a device or the machine is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.vmbus import message_types as m
from emulator.vmbus.host_effects import HostEffect
from emulator.vmbus.message_types import Version
from emulator.vmbus.messages import message_number, pack_message

from .bus_support import NO_DATA, Peer, guid, outcome, values

RING, NEW = 10, 20


# How to bring channel 1 into each state, on a 6.0 connection with every feature that has messages.


def begin(offers: bool = True) -> tuple[Peer, int]:
    peer = Peer()
    key = peer.offer(1)
    peer.connect(Version.V6_0, 0x24)
    if offers:
        peer.request_offers()
    return peer, key


def closed() -> tuple[Peer, int]:
    peer, key = begin()
    peer.gpadl(1, RING, accept=key)
    return peer, key


def opening() -> tuple[Peer, int]:
    peer, key = closed()
    peer.post(peer.open_message(1, RING))
    return peer, key


def opened() -> tuple[Peer, int]:
    peer, key = opening()
    peer.bus.device_opened(key)
    return peer, key


def closing() -> tuple[Peer, int]:
    peer, key = opened()
    peer.post(m.CloseChannel(1))
    return peer, key


def closing_reopen() -> tuple[Peer, int]:
    peer, key = closing()
    peer.post(peer.open_message(1, RING))
    return peer, key


def opening_reserved() -> tuple[Peer, int]:
    peer, key = closed()
    peer.post(m.OpenReservedChannel(1, 0, 2, RING, 2))
    return peer, key


def open_reserved() -> tuple[Peer, int]:
    peer, key = opening_reserved()
    peer.bus.device_opened(key)
    return peer, key


def closing_reserved() -> tuple[Peer, int]:
    peer, key = open_reserved()
    peer.post(m.CloseReservedChannel(1, 0, 2))
    return peer, key


def revoked() -> tuple[Peer, int]:
    peer, key = opened()
    peer.bus.revoke_offer(key)
    return peer, key


def reoffered() -> tuple[Peer, int]:
    peer, _ = revoked()
    return peer, peer.offer(1)


def closing_released() -> tuple[Peer, int]:
    peer, key = closing()
    peer.post(m.RelIdReleased(1))
    return peer, key


def opening_released() -> tuple[Peer, int]:
    peer, key = opening()
    peer.post(m.Unload())
    return peer, key


def released() -> tuple[Peer, int]:
    return begin(offers=False)


STATES: dict[str, Callable[[], tuple[Peer, int]]] = {
    "released": released,
    "closed": closed,
    "opening": opening,
    "open": opened,
    "closing": closing,
    "closing-reopen": closing_reopen,
    "opening-reserved": opening_reserved,
    "open-reserved": open_reserved,
    "closing-reserved": closing_reserved,
    "revoked": revoked,
    "reoffered": reoffered,
    "closing-released": closing_released,
    "opening-released": opening_released,
}

PAGES = values(0x4000, 1, 2, 3, 4)
MESSAGES: dict[int, m.Message] = {
    5: m.OpenChannel(1, 7, RING, 0, 2, NO_DATA),
    7: m.CloseChannel(1),
    8: m.GpadlHeader(1, NEW, len(PAGES), 1, PAGES),
    11: m.GpadlTeardown(1, RING),
    13: m.RelIdReleased(1),
    18: m.OpenReservedChannel(1, 0, 2, RING, 2),
    19: m.CloseReservedChannel(1, 0, 2),
    22: m.ModifyChannel(1, 3),
}

Entry = tuple[str, list[str]]
ALREADY, NOT_OPEN, STATE = "CHANNEL_ALREADY_OPEN", "CHANNEL_NOT_OPEN", "INVALID_CHANNEL_STATE"
RESERVED, UNKNOWN, TYPE = "CHANNEL_RESERVED", "UNKNOWN_CHANNEL_ID", "INVALID_MESSAGE_TYPE"

BY_MESSAGE: dict[str, dict[int, Entry]] = {
    "released": {
        5: ("released", [UNKNOWN]),
        7: ("released", [UNKNOWN]),
        8: ("released", [">10!", UNKNOWN]),
        11: ("released", [UNKNOWN]),
        13: ("released", [UNKNOWN]),
        18: ("released", [UNKNOWN]),
        19: ("released", [UNKNOWN]),
        22: ("released", [">24!", UNKNOWN]),
    },
    "closed": {
        5: ("opening", ["opendevice"]),
        7: ("closed", [NOT_OPEN]),
        8: ("closed", ["gpadloffered"]),
        11: ("closed", ["gpadlteardown"]),
        13: ("released", ["gpadlteardown"]),
        18: ("opening-reserved", ["opendevice"]),
        19: ("closed", [NOT_OPEN]),
        22: ("closed", [">24!", STATE]),
    },
    "opening": {
        5: ("opening", [ALREADY]),
        7: ("opening", [NOT_OPEN]),
        8: ("opening", ["gpadloffered"]),
        11: ("opening", ["gpadlteardown"]),
        13: ("opening", [STATE]),
        18: ("opening", [ALREADY]),
        19: ("opening", [NOT_OPEN]),
        22: ("opening", [">24!", STATE]),
    },
    "open": {
        5: ("open", [ALREADY]),
        7: ("closing", ["closedevice"]),
        8: ("open", ["gpadloffered"]),
        11: ("open", ["gpadlteardown"]),
        13: ("open", [STATE]),
        18: ("open", [ALREADY]),
        19: ("open", ["CHANNEL_NOT_RESERVED"]),
        22: ("open", ["modifydevice"]),
    },
    "closing": {
        5: ("closing-reopen", []),
        7: ("closing", [NOT_OPEN]),
        8: ("closing", ["gpadloffered"]),
        11: ("closing", ["gpadlteardown"]),
        13: ("closing-released", ["gpadlteardown"]),
        18: ("closing", [STATE]),
        19: ("closing", [NOT_OPEN]),
        22: ("closing", [">24!", STATE]),
    },
    "closing-reopen": {
        5: ("closing-reopen", [ALREADY]),
        7: ("closing-reopen", [NOT_OPEN]),
        8: ("closing-reopen", ["gpadloffered"]),
        11: ("closing-reopen", ["gpadlteardown"]),
        13: ("closing-reopen", [STATE]),
        18: ("closing-reopen", [STATE]),
        19: ("closing-reopen", [NOT_OPEN]),
        22: ("closing-reopen", [">24!", STATE]),
    },
    "opening-reserved": {
        5: ("opening-reserved", [ALREADY]),
        7: ("opening-reserved", [NOT_OPEN]),
        8: ("opening-reserved", [">10!", RESERVED]),
        11: ("opening-reserved", [RESERVED]),
        13: ("opening-reserved", [STATE]),
        18: ("opening-reserved", [ALREADY]),
        19: ("opening-reserved", [NOT_OPEN]),
        22: ("opening-reserved", [">24!", STATE]),
    },
    "open-reserved": {
        5: ("open-reserved", [ALREADY]),
        7: ("open-reserved", [RESERVED]),
        8: ("open-reserved", [">10!", RESERVED]),
        11: ("open-reserved", [RESERVED]),
        13: ("open-reserved", [STATE]),
        18: ("open-reserved", [ALREADY]),
        19: ("closing-reserved", ["closedevice"]),
        22: ("open-reserved", [">24!", STATE]),
    },
    "closing-reserved": {
        5: ("closing-reserved", [RESERVED]),
        7: ("closing-reserved", [NOT_OPEN]),
        8: ("closing-reserved", [">10!", RESERVED]),
        11: ("closing-reserved", [RESERVED]),
        13: ("closing-released", ["gpadlteardown"]),
        18: ("closing-reserved", [STATE]),
        19: ("closing-reserved", [NOT_OPEN]),
        22: ("closing-reserved", [">24!", STATE]),
    },
    "revoked": {
        5: ("revoked", []),
        7: ("revoked", []),
        8: ("revoked", [">10"]),
        11: ("revoked", [">12"]),
        13: ("gone", []),
        18: ("revoked", []),
        19: ("revoked", []),
        22: ("revoked", [">24!", STATE]),
    },
    "reoffered": {
        5: ("reoffered", []),
        7: ("reoffered", []),
        8: ("reoffered", [">10"]),
        11: ("reoffered", [">12"]),
        13: ("closed", [">1"]),
        18: ("reoffered", []),
        19: ("reoffered", []),
        22: ("reoffered", [">24!", STATE]),
    },
    "closing-released": {
        5: ("closing-released", [UNKNOWN]),
        7: ("closing-released", [UNKNOWN]),
        8: ("closing-released", [">10!", UNKNOWN]),
        11: ("closing-released", [UNKNOWN]),
        13: ("closing-released", [UNKNOWN]),
        18: ("closing-released", [UNKNOWN]),
        19: ("closing-released", [UNKNOWN]),
        22: ("closing-released", [">24!", UNKNOWN]),
    },
    "opening-released": {
        5: ("opening-released", [TYPE]),
        7: ("opening-released", [TYPE]),
        8: ("opening-released", [TYPE]),
        11: ("opening-released", [TYPE]),
        13: ("opening-released", [TYPE]),
        18: ("opening-released", [TYPE]),
        19: ("opening-released", [UNKNOWN]),
        22: ("opening-released", [TYPE]),
    },
}

# What devices and the machine do. "reset" is a reset of the whole machine, "unload" message 16.
Act = Callable[[Peer, int], list[HostEffect]]
ANSWERS: dict[str, Act] = {
    "opened": lambda peer, key: peer.bus.device_opened(key),
    "failed": lambda peer, key: peer.bus.device_opened(key, 0xC0000001),
    "closed": lambda peer, key: peer.bus.device_closed(key),
    "modified": lambda peer, key: peer.bus.modify_done(key),
    "revoke": lambda peer, key: peer.bus.revoke_offer(key),
    "unload": lambda peer, _: peer.post(m.Unload()),
    "reset": lambda peer, _: peer.bus.reset(),
}
NO = ["ignored"]
BACK = "gpadlteardown"

BY_ANSWER: dict[str, dict[str, Entry]] = {
    "released": {
        "opened": ("released", NO),
        "failed": ("released", NO),
        "closed": ("released", NO),
        "modified": ("released", NO),
        "revoke": ("gone", []),
        "unload": ("released", ["platform reset"]),
        "reset": ("released", ["platform reset"]),
    },
    "closed": {
        "opened": ("closed", NO),
        "failed": ("closed", NO),
        "closed": ("closed", NO),
        "modified": ("closed", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("released", [BACK]),
        "reset": ("released", [BACK]),
    },
    "opening": {
        "opened": ("open", [">6"]),
        "failed": ("closed", [">6!"]),
        "closed": ("opening", NO),
        "modified": ("opening", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("opening-released", [BACK]),
        "reset": ("released", [BACK]),
    },
    "open": {
        "opened": ("open", NO),
        "failed": ("open", NO),
        "closed": ("open", NO),
        "modified": ("open", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("closing-released", [BACK, "closedevice"]),
        "reset": ("closing-released", [BACK, "closedevice"]),
    },
    "closing": {
        "opened": ("closing", NO),
        "failed": ("closing", NO),
        "closed": ("closed", []),
        "modified": ("closing", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("closing-released", [BACK]),
        "reset": ("closing-released", [BACK]),
    },
    "closing-reopen": {
        "opened": ("closing-reopen", NO),
        "failed": ("closing-reopen", NO),
        "closed": ("opening", ["opendevice"]),
        "modified": ("closing-reopen", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("closing-released", [BACK]),
        "reset": ("closing-released", [BACK]),
    },
    "opening-reserved": {
        "opened": ("open-reserved", [">6"]),
        "failed": ("closed", [">6!"]),
        "closed": ("opening-reserved", NO),
        "modified": ("opening-reserved", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("opening-reserved", ["platform reset"]),
        "reset": ("released", [BACK]),
    },
    "open-reserved": {
        "opened": ("open-reserved", NO),
        "failed": ("open-reserved", NO),
        "closed": ("open-reserved", NO),
        "modified": ("open-reserved", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("open-reserved", ["platform reset"]),
        "reset": ("closing-released", [BACK, "closedevice"]),
    },
    "closing-reserved": {
        "opened": ("closing-reserved", NO),
        "failed": ("closing-reserved", NO),
        "closed": ("closed", [">20"]),
        "modified": ("closing-reserved", NO),
        "revoke": ("revoked", [">2"]),
        "unload": ("closing-reserved", ["platform reset"]),
        "reset": ("closing-released", [BACK]),
    },
    "revoked": {
        "opened": ("revoked", NO),
        "failed": ("revoked", NO),
        "closed": ("revoked", NO),
        "modified": ("revoked", NO),
        "revoke": ("revoked", NO),
        "unload": ("gone", ["platform reset"]),
        "reset": ("gone", ["platform reset"]),
    },
    "reoffered": {
        "opened": ("reoffered", NO),
        "failed": ("reoffered", NO),
        "closed": ("reoffered", NO),
        "modified": ("reoffered", NO),
        "revoke": ("revoked", []),
        "unload": ("released", ["platform reset"]),
        "reset": ("released", ["platform reset"]),
    },
    "closing-released": {
        "opened": ("closing-released", NO),
        "failed": ("closing-released", NO),
        "closed": ("released", []),
        "modified": ("closing-released", NO),
        "revoke": ("gone", []),
        "unload": ("closing-released", []),
        "reset": ("closing-released", []),
    },
    "opening-released": {
        "opened": ("closing-released", ["closedevice"]),
        "failed": ("released", []),
        "closed": ("opening-released", NO),
        "modified": ("opening-released", NO),
        "revoke": ("gone", ["platform reset"]),
        "unload": ("opening-released", [TYPE]),
        "reset": ("opening-released", []),
    },
}


def state_of(peer: Peer) -> str:
    channels = peer.bus.view().channels
    return channels[0].state if channels else "gone"


@pytest.mark.parametrize("state", STATES)
def test_the_script_for_a_state_reaches_it(state: str) -> None:
    peer, _ = STATES[state]()
    assert state_of(peer) == state


@pytest.mark.parametrize("number", MESSAGES)
@pytest.mark.parametrize("state", STATES)
def test_rule_2_6_every_state_against_every_message(state: str, number: int) -> None:
    peer, _ = STATES[state]()
    effects = outcome(peer.post(MESSAGES[number]))
    assert (state_of(peer), effects) == BY_MESSAGE[state][number]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("state", STATES)
def test_rule_2_6_every_state_against_every_answer(state: str, answer: str) -> None:
    peer, key = STATES[state]()
    effects = outcome(ANSWERS[answer](peer, key))
    assert (state_of(peer), effects) == BY_ANSWER[state][answer]


# The connection.


def disconnected() -> Peer:
    return Peer()


def connecting() -> Peer:
    peer = Peer()
    peer.contact(Version.V6_0, 0x24)
    return peer


def connected() -> Peer:
    peer = Peer()
    peer.connect(Version.V6_0, 0x24)
    return peer


def offered() -> Peer:
    peer = connected()
    peer.request_offers()
    return peer


def paused() -> Peer:
    peer = offered()
    peer.post(m.Pause())
    return peer


def disconnecting() -> Peer:
    peer = connected()
    peer.post(m.Unload())
    return peer


PHASES: dict[str, Callable[[], Peer]] = {
    "disconnected": disconnected,
    "connecting": connecting,
    "connected": connected,
    "offered": offered,
    "paused": paused,
    "disconnecting": disconnecting,
}

TO_HOST: dict[int, m.Message] = {
    3: m.RequestOffers(),
    5: m.OpenChannel(1, 1, 1, 0, 1, NO_DATA),
    7: m.CloseChannel(1),
    8: m.GpadlHeader(1, 1, len(PAGES), 1, PAGES),
    9: m.GpadlBody(0, 1, PAGES),
    11: m.GpadlTeardown(1, 1),
    13: m.RelIdReleased(1),
    14: m.InitiateContact(Version.V4_0, 0, 0, 0, 0),
    16: m.Unload(),
    18: m.OpenReservedChannel(1, 0, 2, 1, 1),
    19: m.CloseReservedChannel(1, 0, 2),
    21: m.TlConnectRequest(guid(1), guid(2)),
    22: m.ModifyChannel(1, 1),
    25: m.ModifyConnection(0x1000, 0x2000),
    27: m.Pause(),
    29: m.Resume(),
}
TO_GUEST = [1, 2, 4, 6, 10, 12, 15, 17, 20, 23, 24, 26, 28]

NOBODY = {number: ("disconnected", [TYPE]) for number in TO_HOST} | {
    14: ("connecting", ["platform connect"]),
    19: ("disconnected", [UNKNOWN]),
}
WAITING = {number: ("connecting", [TYPE]) for number in TO_HOST} | {
    14: ("connecting", []),
    16: ("connecting", []),
    19: ("connecting", [UNKNOWN]),
}
HERE: dict[int, Entry] = {
    3: ("connected", [">4"]),
    5: ("connected", [UNKNOWN]),
    7: ("connected", [UNKNOWN]),
    8: ("connected", [">10!", UNKNOWN]),
    9: ("connected", ["UNKNOWN_GPADL_ID"]),
    11: ("connected", [UNKNOWN]),
    13: ("connected", [UNKNOWN]),
    14: ("disconnecting", ["platform reset"]),
    16: ("disconnecting", ["platform reset"]),
    18: ("connected", [UNKNOWN]),
    19: ("connected", [UNKNOWN]),
    21: ("connected", ["tlconnect"]),
    22: ("connected", [">24!", UNKNOWN]),
    25: ("connected", ["platform modify"]),
    27: ("connected", [">28"]),
    29: ("connected", []),
}
QUIET = {number: ("connected", ["PAUSED"]) for number in TO_HOST} | {
    14: ("disconnecting", ["platform reset"]),
    16: ("disconnecting", ["platform reset"]),
    29: ("connected", []),
}
LEAVING = {number: ("disconnecting", [TYPE]) for number in TO_HOST} | {
    14: ("disconnecting", []),
    19: ("disconnecting", [UNKNOWN]),
}
BY_PHASE: dict[str, dict[int, Entry]] = {
    "disconnected": NOBODY,
    "connecting": WAITING,
    "connected": HERE,
    "offered": HERE | {3: ("connected", ["OFFERS_ALREADY_SENT"])},
    "paused": QUIET,
    "disconnecting": LEAVING,
}


@pytest.mark.parametrize("number", TO_HOST)
@pytest.mark.parametrize("phase", PHASES)
def test_rule_2_5_every_connection_state_against_every_message(phase: str, number: int) -> None:
    peer = PHASES[phase]()
    effects = outcome(peer.post(TO_HOST[number]))
    assert (peer.phase(), effects) == BY_PHASE[phase][number]


@pytest.mark.parametrize("number", [0, *TO_GUEST, 30])
@pytest.mark.parametrize("phase", PHASES)
def test_rule_2_1_messages_only_a_host_sends_are_unknown_in_every_state(phase: str, number: int) -> None:
    peer = PHASES[phase]()
    before = peer.phase()
    assert outcome(peer.raw(number.to_bytes(4, "little") + bytes(236))) == [TYPE]
    assert peer.phase() == before


def test_the_tables_name_every_message_once() -> None:
    assert sorted([*TO_HOST, *TO_GUEST]) == list(range(1, 30))
    assert all(message_number(pack_message(message)) == number for number, message in TO_HOST.items())

"""A segment's gateway: machine addresses on host ports, both ways, and no other way out."""

from __future__ import annotations

import random

import pytest

from emulator.status import NtStatus
from emulator.tdi.effects import Deliver, Effect, SendOutside
from emulator.tdi.gateway import Gateway, GatewayPort
from emulator.tdi.irp import Irp, build_send_datagram
from emulator.tdi.profile import Profile, SegmentProfile
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport
from tests.tdi.bench import SHARED

WEB = SocketAddress("10.0.0.1", 80)
ONE, TWO = SocketAddress("10.0.0.7", 5001), SocketAddress("10.0.0.8", 5001)
PROGRAM = SocketAddress("192.0.2.10", 4444)
SERVER = SocketAddress("192.0.2.11", 5001)
PORTS = (
    GatewayPort(WEB, SocketAddress("127.0.0.1", 8000)),
    GatewayPort(ONE, SocketAddress("127.0.0.1", 8001), to=TWO),
    GatewayPort(TWO, SocketAddress("127.0.0.1", 8002), to=ONE, peer=SERVER),
)


class Lan:
    """Machine ``a`` at 10.0.0.1, and a gateway."""

    def __init__(self, profile: SegmentProfile | None = None) -> None:
        self.segment = Segment("lan", profile or SegmentProfile(), random.Random(1), "10.0.0.0/24")
        self.port = self.segment.attach("a")
        self.gateway = self.segment.gateway = Gateway(self.segment, PORTS, ["192.0.2.0/24", "10.0.0.0/8"])
        self.transport = Transport("a", Profile(), {"lan": self.port})
        self.web = self.open(WEB.port)

    def open(self, port: int) -> int:
        return self.transport.open_address("lan", SocketAddress("0.0.0.0", port), SHARED, "a").handle

    def send(self, handle: int, destination: SocketAddress, data: bytes = b"x") -> tuple[Irp, list[Effect]]:
        irp = build_send_datagram(handle, destination, data)
        effects = self.transport.send_datagram(irp, 0.0)
        return irp, [effect for effect in effects if isinstance(effect, (SendOutside, Deliver))]


def test_a_program_outside_reaches_a_forwarded_machine_and_gets_its_answer_from_there() -> None:
    lan = Lan()
    [deliver] = lan.gateway.came_in(0, PROGRAM, b"GET", 0.0)
    assert isinstance(deliver, Deliver)
    assert (deliver.handle, deliver.source, deliver.data) == (lan.web, PROGRAM, b"GET")
    irp, effects = lan.send(lan.web, PROGRAM, b"page")
    assert effects == [SendOutside("lan", 0, PROGRAM, [b"page"])]
    assert irp.status is NtStatus.SUCCESS


def test_s22_a_machine_reaches_out_from_forwarded_ports_only() -> None:
    lan = Lan()
    irp, effects = lan.send(lan.open(81), PROGRAM)
    assert (irp.status, effects) == (NtStatus.NETWORK_UNREACHABLE, [])


@pytest.mark.parametrize("host", ["198.51.100.1", "127.0.0.1"])
def test_s22_a_machine_reaches_allowed_networks_only(host: str) -> None:
    lan = Lan()
    irp, effects = lan.send(lan.web, SocketAddress(host, 5))
    assert (irp.status, effects) == (NtStatus.NETWORK_UNREACHABLE, [])


@pytest.mark.parametrize("host", ["198.51.100.1", "10.0.0.1", "10.0.0.77"])
def test_a_program_that_could_not_be_answered_or_would_pass_for_a_machine_is_not_let_in(host: str) -> None:
    lan = Lan()
    assert lan.gateway.came_in(0, SocketAddress(host, 5), b"x", 0.0) == []
    assert lan.gateway.dropped == 1


def test_two_programs_outside_play_machines_and_talk_to_each_other() -> None:
    lan = Lan()
    assert lan.gateway.came_in(1, PROGRAM, b"there", 0.0) == [SendOutside("lan", 2, SERVER, [b"there"])]
    assert lan.gateway.came_in(2, SERVER, b"back", 0.0) == [SendOutside("lan", 1, PROGRAM, [b"back"])]
    later = SocketAddress("192.0.2.10", 4445)
    lan.gateway.came_in(1, later, b"again", 0.0)
    assert lan.gateway.came_in(2, SERVER, b"back", 0.0) == [SendOutside("lan", 1, later, [b"back"])]


def test_many_from_one_program_to_another_are_what_one_by_one_would_be() -> None:
    datagrams = [bytes([number]) for number in range(5)]
    for profile in (SegmentProfile(), SegmentProfile(loss=0.5), SegmentProfile(partition=(frozenset({"a"}),))):
        together, singly = Lan(profile), Lan(profile)
        effects = together.gateway.came_in_many(1, PROGRAM, datagrams, 0.0)
        expected = [each for data in datagrams for each in singly.gateway.came_in(1, PROGRAM, data, 0.0)]
        heard, wanted = (
            [data for each in some if isinstance(each, SendOutside) for data in each.datagrams]
            for some in (effects, expected)
        )
        assert heard == wanted
        assert together.segment.describe() == singly.segment.describe()
    together = Lan()
    assert together.gateway.came_in_many(2, PROGRAM, datagrams, 0.0) == []
    assert together.gateway.dropped == 5
    assert len(together.gateway.came_in_many(0, PROGRAM, datagrams, 0.0)) == 5


def test_a_played_machine_hears_the_others_and_is_heard_by_them() -> None:
    lan = Lan()
    _, effects = lan.send(lan.web, TWO, b"to the program")
    assert effects == [SendOutside("lan", 2, SERVER, [b"to the program"])]
    _, effects = lan.send(lan.web, ONE, b"nobody there yet")
    assert effects == []
    assert lan.gateway.dropped == 1


def test_a_named_peer_is_the_only_one_let_in() -> None:
    lan = Lan()
    assert lan.gateway.came_in(2, PROGRAM, b"x", 0.0) == []
    assert lan.gateway.dropped == 1


def test_the_way_through_the_gateway_has_the_impairments_of_the_segment() -> None:
    lan = Lan(SegmentProfile(delay_seconds=0.5))
    assert lan.gateway.came_in(1, PROGRAM, b"there", 0.0) == []
    assert lan.segment.next_deadline() == 0.5
    assert lan.segment.poll(0.5) == [SendOutside("lan", 2, SERVER, [b"there"])]
    assert lan.segment.change(SegmentProfile(partition=(frozenset({"gateway"}),)), 0.0) == []
    assert lan.gateway.came_in(0, PROGRAM, b"cut", 1.0) == []
    assert lan.segment.medium.counts.cut == 1


def test_broadcasts_stay_on_the_segment() -> None:
    lan = Lan()
    _, effects = lan.send(lan.web, SocketAddress("10.0.0.255", WEB.port))
    assert [type(effect) for effect in effects] == [Deliver]


def test_what_it_is_can_be_seen() -> None:
    lan = Lan()
    lan.gateway.came_in(1, PROGRAM, b"there", 0.0)
    described = lan.segment.describe()
    assert described["machines"] == {"a": "10.0.0.1"}
    assert [port["peer"] for port in described["gateway"]["ports"]] == [None, str(PROGRAM), str(SERVER)]

"""Who can be on a segment, and what a profile may say."""

from __future__ import annotations

import random

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import ServiceFlags
from emulator.tdi.effects import Deliver
from emulator.tdi.irp import build_send_datagram
from emulator.tdi.profile import Profile, ProviderProfile, SegmentProfile
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport
from tests.tdi.bench import SHARED, Bench


def segment(network: str = "10.77.0.0/16", profile: SegmentProfile | None = None) -> Segment:
    return Segment("lan", profile or SegmentProfile(), random.Random(1), network)


def test_machines_get_addresses_in_turn_or_the_one_they_ask_for() -> None:
    lan = segment()
    assert [lan.attach("a").host, lan.attach("b", "10.77.0.2").host, lan.attach("c").host] == [
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.3",
    ]


@pytest.mark.parametrize(
    ("machine", "host", "status"),
    [
        ("a", None, NtStatus.DUPLICATE_NAME),
        ("b", "10.77.0.1", NtStatus.ADDRESS_ALREADY_EXISTS),
        ("b", "192.0.2.1", NtStatus.INVALID_ADDRESS),
        ("b", "10.77.255.255", NtStatus.INVALID_ADDRESS),
        ("b", "10.77.0.0", NtStatus.INVALID_ADDRESS),
        ("b", "::1", NtStatus.INVALID_ADDRESS),
        ("b", "vm", NtStatus.INVALID_ADDRESS),
    ],
)
def test_an_attachment_that_cannot_be_is_refused(machine: str, host: str | None, status: NtStatus) -> None:
    lan = segment()
    lan.attach("a")
    with pytest.raises(Refused) as caught:
        lan.attach(machine, host)
    assert caught.value.status is status


def test_a_full_segment_says_so() -> None:
    lan = segment("10.0.0.0/30")
    lan.attach("a")
    lan.attach("b")
    with pytest.raises(Refused) as caught:
        lan.attach("c")
    assert caught.value.status is NtStatus.TOO_MANY_ADDRESSES


def test_an_address_given_back_is_given_again_when_its_turn_comes() -> None:
    lan = segment("10.0.0.0/30")
    first = lan.attach("a")
    lan.attach("b")
    lan.detach(first)
    assert lan.attach("c").host == "10.0.0.1"


def test_two_machines_talk_and_deliveries_name_the_machine() -> None:
    lan = segment()
    ports = {name: lan.attach(name) for name in ("a", "b")}
    machines = {name: Transport(name, Profile(), {"lan": port}) for name, port in ports.items()}
    handles = {
        name: machine.open_address("lan", SocketAddress("0.0.0.0", 9), SHARED, name).handle
        for name, machine in machines.items()
    }
    irp = build_send_datagram(handles["a"], SocketAddress(ports["b"].host, 9), b"hi")
    effects = machines["a"].send_datagram(irp, 0.0)
    [deliver] = [effect for effect in effects if isinstance(effect, Deliver)]
    assert (deliver.machine, deliver.handle, deliver.owner) == ("b", handles["b"], "b")
    assert deliver.source == SocketAddress(ports["a"].host, 9)


def test_a_segment_of_ipv6_addresses() -> None:
    lan = segment("fd00::/64")
    port = lan.attach("a")
    transport = Transport("a", Profile(), {"lan": port})
    handle = transport.open_address("lan", SocketAddress("::", 9), SHARED, None).handle
    irp = build_send_datagram(handle, SocketAddress("fd00::1", 9), b"six")
    [_, deliver] = transport.send_datagram(irp, 0.0)
    assert isinstance(deliver, Deliver)
    assert deliver.source == SocketAddress("fd00::1", 9)


def test_a_machine_with_sends_waiting_cannot_be_detached() -> None:
    bench = Bench("lan")
    bench.stall()
    bench.send(bench.open())
    with pytest.raises(Misuse):
        bench.segment.detach(bench.port)


def test_what_is_in_flight_to_a_detached_machine_is_lost() -> None:
    bench = Bench("lan", segment=SegmentProfile(delay_seconds=0.1))
    bench.send(bench.open())
    bench.segment.detach(bench.other_port)
    successor = bench.segment.attach("vm3", bench.peer.host)
    Transport("vm3", Profile(), {"lan": successor}).open_address("lan", bench.peer, SHARED, None)
    assert bench.segment.poll(bench.now + 1) == []


def test_a_segment_cannot_take_the_name_of_the_udp_device() -> None:
    bench = Bench("lan")
    with pytest.raises(Misuse, match="cannot be called udp"):
        Transport("vm3", Profile(), {"udp": bench.segment.attach("vm3")})


def test_the_limit_of_a_segment_follows_its_mtu() -> None:
    assert SegmentProfile().provider.max_datagram_bytes == 1_472
    assert SegmentProfile(mtu_bytes=9_000).provider.max_datagram_bytes == 8_972


def test_service_flags_follow_the_settings() -> None:
    assert ProviderProfile().service_flags == 0x64
    bare = ProviderProfile(supports_broadcast=False, supports_multicast=False, refuses_zero_length=True)
    assert bare.service_flags == ServiceFlags.CONNECTIONLESS_MODE | ServiceFlags.NO_ZERO_LENGTH


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_datagram_bytes": 0},
        {"max_queued_datagrams": 0},
        {"max_queued_bytes": 1},
        {"dynamic_ports": (0, 5)},
        {"dynamic_ports": (6, 5)},
    ],
)
def test_a_profile_nobody_could_obey_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Misuse):
        ProviderProfile(**wrong)  # type: ignore[arg-type]  # one dictionary for settings of several types


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"duplicate": -0.1}, {"delay_seconds": -1.0}])
def test_impairments_nobody_could_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Misuse):
        SegmentProfile(**wrong)  # type: ignore[arg-type]  # as above

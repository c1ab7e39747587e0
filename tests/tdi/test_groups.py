"""Multicast groups: who may join what, who gets what is sent there, and when a membership ends (O7 to O9, R1, S25)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import ReceiveFlags
from emulator.tdi.effects import Effect, JoinGroup, LeaveGroup
from emulator.tdi.groups import SendOptions
from emulator.tdi.profile import Profile
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport
from tests.tdi.bench import NETWORKS, SHARED, Bench

GROUP = "239.1.2.3"
both_networks = pytest.mark.parametrize("network", NETWORKS)


def joined(bench: Bench, handle: int, group: str = GROUP) -> list[Effect]:
    return bench.transport.join(handle, group)


def arrive(bench: Bench, port: int, group: str = GROUP, data: bytes = b"to all") -> None:
    """A multicast comes from the peer."""
    if bench.network == "lan":
        bench.perform(bench.segment.carry(bench.peer, SocketAddress(group, port), data, bench.now))
        return
    for key, bound in list(bench.sockets.items()):
        if bound.port == port:
            bench.perform(bench.transport.datagram_arrived(key, bench.peer, group, data, bench.now))


@both_networks
def test_o7_a_member_gets_what_is_sent_to_the_group_and_is_told_so(network: str) -> None:
    bench = Bench(network)
    member, stranger = bench.open(5000, "0.0.0.0"), bench.open(5000, "0.0.0.0")
    joined(bench, member)
    arrive(bench, 5000)
    assert bench.heard(member) == [b"to all"]
    assert bench.heard(stranger) == []
    assert bench.deliveries[0].flags == ReceiveFlags.ENTIRE_MESSAGE | ReceiveFlags.MULTICAST


@both_networks
@pytest.mark.parametrize("group", ["192.0.2.1", "0.0.0.0", "255.255.255.255", "ff02::1", "nonsense", ""])
def test_o7_what_is_no_group_of_the_family_cannot_be_joined(network: str, group: str) -> None:
    bench = Bench(network)
    handle = bench.open(host="0.0.0.0")
    with pytest.raises(Refused) as caught:
        joined(bench, handle, group)
    assert caught.value.status is NtStatus.INVALID_ADDRESS


@both_networks
@pytest.mark.parametrize("interface", ["198.51.100.1", "::1", "eth0"])
def test_o7_an_interface_the_machine_has_not_is_refused(network: str, interface: str) -> None:
    bench = Bench(network)
    handle = bench.open(host="0.0.0.0")
    with pytest.raises(Refused) as caught:
        bench.transport.join(handle, GROUP, interface)
    assert caught.value.status is NtStatus.INVALID_ADDRESS
    assert bench.transport.join(handle, GROUP, bench.host) == bench.transport.join(handle, GROUP) or network == "udp"


@both_networks
def test_o7_a_group_joined_twice_has_to_be_left_twice(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    joined(bench, handle)
    joined(bench, handle)
    bench.transport.leave(handle, GROUP)
    arrive(bench, 5000)
    assert bench.heard(handle) == [b"to all"]
    bench.transport.leave(handle, GROUP)
    arrive(bench, 5000)
    assert bench.heard(handle) == [b"to all"]


@both_networks
def test_o7_a_profile_can_refuse_the_second_join(network: str) -> None:
    bench = Bench(network, counts_joins=False)
    handle = bench.open()
    joined(bench, handle)
    with pytest.raises(Refused) as caught:
        joined(bench, handle)
    assert caught.value.status is NtStatus.ADDRESS_ALREADY_EXISTS


def test_o7_the_groups_of_one_object_are_bounded() -> None:
    bench = Bench("udp", max_groups=2)
    handle = bench.open()
    for number in (1, 2):
        joined(bench, handle, f"239.0.0.{number}")
    with pytest.raises(Refused) as caught:
        joined(bench, handle, "239.0.0.3")
    assert caught.value.status is NtStatus.INSUFFICIENT_RESOURCES


@both_networks
def test_o8_a_membership_that_is_not_there_cannot_be_left(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    joined(bench, handle, "239.1.2.4")
    with pytest.raises(Refused) as caught:
        bench.transport.leave(handle, GROUP)
    assert caught.value.status is NtStatus.INVALID_ADDRESS


@both_networks
def test_o8_memberships_end_with_the_cleanup(network: str) -> None:
    bench = Bench(network)
    first, second = bench.open(), bench.open()
    for handle in (first, second):
        joined(bench, handle)
    assert not [each for each in bench.transport.cleanup(first, bench.now) if isinstance(each, LeaveGroup)]
    effects = bench.transport.cleanup(second, bench.now)
    leaves = [each for each in effects if isinstance(each, LeaveGroup)]
    assert leaves == ([LeaveGroup(1, GROUP, "127.0.0.1")] if network == "udp" else [])
    arrive(bench, 5000)
    assert bench.deliveries == []
    with pytest.raises(Refused):
        joined(bench, second)


@both_networks
def test_o9_each_object_on_a_port_joins_for_itself_and_each_member_gets_a_copy(network: str) -> None:
    bench = Bench(network)
    members = [bench.open(5000, "0.0.0.0") for _ in range(3)]
    effects = [joined(bench, handle) for handle in members[:2]]
    arrive(bench, 5000)
    assert [bench.heard(handle) for handle in members] == [[b"to all"], [b"to all"], []]
    assert effects == ([[JoinGroup(1, GROUP, "127.0.0.1")], []] if network == "udp" else [[], []])


def test_s25_the_sender_hears_its_own_multicast_unless_its_loop_is_off() -> None:
    bench = Bench("lan")
    handle = bench.open()
    joined(bench, handle)
    everyone = SocketAddress(GROUP, 5000)
    bench.send(handle, b"once", everyone)
    bench.transport.set_options(handle, replace(bench.transport.options(handle), multicast_loop=False))
    bench.send(handle, b"not to myself", everyone)
    assert bench.heard(handle) == [b"once"]


def test_s25_a_multicast_reaches_the_members_on_other_machines_and_a_ttl_of_nought_keeps_it_at_home() -> None:
    bench = Bench("lan")
    sender = bench.open()
    outcome = bench.other.open_address("lan", SocketAddress("0.0.0.0", 6000), SHARED, "other")
    bench.other.join(outcome.handle, GROUP)
    bench.send(sender, b"far", SocketAddress(GROUP, 6000))
    bench.transport.set_options(sender, SendOptions(multicast_ttl=0))
    bench.send(sender, b"near", SocketAddress(GROUP, 6000))
    assert bench.peer_heard() == [b"far"]


@both_networks
def test_s20_an_object_with_broadcasts_switched_off_sends_none(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.transport.set_options(handle, SendOptions(broadcast=False))
    host = "127.255.255.255" if network == "udp" else "255.255.255.255"
    irp = bench.send(handle, destination=SocketAddress(host, 7000))
    assert bench.outcome(irp) == (NtStatus.INVALID_ADDRESS, 0)
    assert bench.rule(irp) == "S20"


@pytest.mark.parametrize(
    "wrong", [{"ttl": 0}, {"ttl": 256}, {"multicast_ttl": -1}, {"multicast_ttl": 256}, {"type_of_service": 256}]
)
def test_options_nobody_could_obey_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Refused) as caught:
        replace(SendOptions(), **wrong)  # type: ignore[arg-type]  # one dictionary for settings of several types
    assert caught.value.status is NtStatus.INVALID_PARAMETER


def test_options_belong_to_one_object_and_name_interfaces_the_machine_has() -> None:
    bench = Bench("udp")
    first, second = bench.open(), bench.open()
    bench.transport.set_options(first, SendOptions(ttl=3, multicast_interface="0.0.0.0"))
    assert bench.transport.options(first) == SendOptions(ttl=3, multicast_interface="127.0.0.1")
    assert bench.transport.options(second) == SendOptions()
    with pytest.raises(Refused) as caught:
        bench.transport.set_options(first, SendOptions(multicast_interface="198.51.100.9"))
    assert caught.value.status is NtStatus.INVALID_ADDRESS
    assert bench.transport.options(first).ttl == 3


@both_networks
def test_only_an_open_address_object_has_groups(network: str) -> None:
    bench = Bench(network)
    with pytest.raises(Refused) as caught:
        joined(bench, bench.control())
    assert caught.value.status is NtStatus.INVALID_PARAMETER


def test_groups_of_version_6() -> None:
    transport = Transport("vm9", Profile(), {})
    outcome = transport.open_address("udp", SocketAddress("::1", 0), SHARED, None)
    handle = transport.socket_bound(1, SocketAddress("::1", 40_000)).handle
    assert outcome.handle == handle
    assert transport.join(handle, "FF02:0::5", "::") == [JoinGroup(1, "ff02::5", "::1")]
    with pytest.raises(Refused):
        transport.join(handle, GROUP)

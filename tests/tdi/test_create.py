"""Opening address objects and control channels: rules CR1 to CR13."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import FileKind, QueryType, ShareAccess
from emulator.tdi.create import CreateRequest, OpenAddress, OpenConnection, OpenControl, parse_create_untrusted
from emulator.tdi.effects import BindSocket
from emulator.tdi.profile import Profile
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.tdi.transport import Transport
from tests.tdi.bench import NETWORKS, SHARED, Bench

both = pytest.mark.parametrize("network", NETWORKS)
LOCAL = SocketAddress("127.0.0.1", 5000)


def attribute(name: bytes, value: bytes, next_offset: int = 0) -> bytes:
    return struct.pack("<IBBH", next_offset, 0, len(name), len(value)) + name + b"\0" + value


ADDRESS_EA = attribute(b"TransportAddress", pack_transport_address(LOCAL))


def test_cr1_an_open_is_never_left_pending_once_its_socket_answered() -> None:
    bench = Bench("udp")
    first = bench.transport.open_address("udp", LOCAL, SHARED, "client")
    assert first.status is NtStatus.PENDING
    [effect] = first.effects
    assert effect == BindSocket(1, LOCAL)
    final = bench.transport.socket_bound(1, LOCAL)
    assert (final.status, final.handle, final.local) == (NtStatus.SUCCESS, first.handle, LOCAL)


@pytest.mark.parametrize("slack", [0, 3, 4])
def test_cr2_t17_the_length_of_the_list_is_an_upper_bound(slack: int) -> None:
    assert len(ADDRESS_EA) == 47
    assert parse_create_untrusted(ADDRESS_EA + bytes(slack)) == OpenAddress(LOCAL)


def test_cr2_a_value_that_ends_past_the_list_is_not_read() -> None:
    for cut in range(len(ADDRESS_EA) - 22, len(ADDRESS_EA)):
        with pytest.raises(Refused) as caught:
            parse_create_untrusted(ADDRESS_EA[:cut])
        assert caught.value.status is NtStatus.NONEXISTENT_EA_ENTRY


@pytest.mark.parametrize(
    "broken",
    [
        ADDRESS_EA[:7],
        ADDRESS_EA[:20],
        attribute(b"Weather", ADDRESS_EA, next_offset=16),
        attribute(b"Weather", b"rain", next_offset=20),
        attribute(b"Weather", b"rain", next_offset=2**32 - 1) + ADDRESS_EA,
    ],
)
def test_cr2_a_list_that_does_not_hold_together(broken: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse_create_untrusted(broken)
    assert (caught.value.status, caught.value.rule) == (NtStatus.EA_LIST_INCONSISTENT, "CR2")


def test_cr2_a_list_longer_than_anyone_needs_is_not_walked() -> None:
    with pytest.raises(Refused) as caught:
        parse_create_untrusted(ADDRESS_EA + bytes(65_536))
    assert caught.value.status is NtStatus.EA_TOO_LARGE


def test_cr3_t16_the_value_begins_behind_the_zero_byte_after_the_name() -> None:
    pointer = bytes(range(1, 9))
    image = attribute(b"ConnectionContext", pointer)
    assert image.index(pointer) == 26
    assert ADDRESS_EA.index(pack_transport_address(LOCAL)) == 25
    assert parse_create_untrusted(image) == OpenConnection(pointer)


def test_cr3_the_byte_image_of_the_reference_address() -> None:
    image = bytes.fromhex("00000000 00 10 1600") + b"TransportAddress\0"
    image += bytes.fromhex("01000000 0E00 0200 1388 C0000207 0000000000000000")
    assert parse_create_untrusted(image) == OpenAddress(SocketAddress("192.0.2.7", 5000))


def test_cr4_both_names_at_once() -> None:
    first = attribute(b"TransportAddress", bytes(22), next_offset=48)
    both_names = first.ljust(48, b"\0") + attribute(b"ConnectionContext", bytes(8))
    with pytest.raises(Refused, match="not both") as caught:
        parse_create_untrusted(both_names)
    assert caught.value.status is NtStatus.INVALID_PARAMETER


@pytest.mark.parametrize("value", [b"", bytes(7), bytes(22), struct.pack("<iHH", 1, 18, 17) + bytes(18)])
def test_cr4_a_value_that_is_no_address(value: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse_create_untrusted(attribute(b"TransportAddress", value))
    assert (caught.value.status, caught.value.rule) == (NtStatus.NONEXISTENT_EA_ENTRY, "CR4")


def test_cr4_an_unknown_name_alone_is_refused_and_beside_a_known_one_ignored() -> None:
    with pytest.raises(Refused, match="unknown") as caught:
        parse_create_untrusted(attribute(b"Weather", b"rain"))
    assert caught.value.status is NtStatus.INVALID_EA_NAME
    beside = attribute(b"Weather", b"rain", next_offset=20) + ADDRESS_EA
    assert parse_create_untrusted(beside) == OpenAddress(LOCAL)


def test_cr4_no_attributes_open_a_control_channel() -> None:
    assert parse_create_untrusted(None) == OpenControl()
    assert parse_create_untrusted(b"") == OpenControl()


def test_cr5_the_first_entry_of_a_supported_type_is_taken() -> None:
    netbios = struct.pack("<HH", 18, 17) + bytes(18)
    value = struct.pack("<i", 2) + netbios + pack_transport_address(LOCAL)[4:]
    assert parse_create_untrusted(attribute(b"TransportAddress", value)) == OpenAddress(LOCAL)


@both
@pytest.mark.parametrize("host", ["192.0.2.1", "10.99.0.1"])
def test_cr6_an_address_that_is_not_the_machines_own_is_refused(network: str, host: str) -> None:
    outcome = Bench(network).try_open(host=host)
    assert (outcome.status, outcome.handle, outcome.rule) == (NtStatus.INVALID_ADDRESS, 0, "CR6")
    assert host in outcome.message


def test_cr6_the_other_family_is_no_address_of_a_segment() -> None:
    assert Bench("lan").try_open(host="::").status is NtStatus.INVALID_ADDRESS


@both
def test_cr6_the_wildcard_can_be_opened_and_is_reported_as_such(network: str) -> None:
    bench = Bench(network)
    handle = bench.open(5000, host="0.0.0.0")
    assert bench.local(handle) == ("0.0.0.0", 5000)
    bench.arrive(handle)
    assert bench.heard(handle) == [b"in"]


def test_cr6_a_wildcard_under_the_default_binds_the_loopback_of_its_family() -> None:
    transport = Transport("vm1", Profile(), {})
    for host, real in (("0.0.0.0", "127.0.0.1"), ("::", "::1")):
        outcome = transport.open_address("udp", SocketAddress(host, 0), SHARED, None)
        [effect] = outcome.effects
        assert isinstance(effect, BindSocket)
        assert effect.local == SocketAddress(real, 0)
        final = transport.socket_bound(effect.key, SocketAddress(real, 4242))
        assert final.local == SocketAddress(host, 4242)


def test_cr6_the_wildcard_is_bound_itself_where_the_machine_may() -> None:
    transport = Transport("vm1", Profile(), {}, local_addresses=("127.0.0.1", "0.0.0.0"))
    [effect] = transport.open_address("udp", SocketAddress("0.0.0.0", 9), SHARED, None).effects
    assert effect == BindSocket(1, SocketAddress("0.0.0.0", 9))


@both
def test_cr7_t31_port_0_becomes_a_port_that_only_a_query_tells(network: str) -> None:
    bench = Bench(network)
    one, two = bench.open(0), bench.open(0)
    ports = {bench.local(one).port, bench.local(two).port}
    assert len(ports) == 2
    assert 0 not in ports


@both
@pytest.mark.parametrize("first", [ShareAccess.EXCLUSIVE, SHARED, ShareAccess.READ, ShareAccess.DELETE])
@pytest.mark.parametrize("second", [ShareAccess.EXCLUSIVE, SHARED, ShareAccess.WRITE])
def test_cr8_the_first_opener_decides_whether_others_may(network: str, first: ShareAccess, second: ShareAccess) -> None:
    bench = Bench(network)
    bench.open(5000, share=first)
    outcome = bench.try_open(5000, share=second)
    shares = {SHARED, ShareAccess.READ, ShareAccess.WRITE}
    expected = NtStatus.SUCCESS if {first, second} <= shares else NtStatus.SHARING_VIOLATION
    assert outcome.status is expected
    assert (outcome.handle == 0) == bool(outcome.message)


@both
def test_cr8_a_wildcard_and_one_address_overlap(network: str) -> None:
    bench = Bench(network)
    bench.open(5000, share=ShareAccess.EXCLUSIVE)
    outcome = bench.try_open(5000, host="0.0.0.0")
    assert (outcome.status, outcome.rule) == (NtStatus.ADDRESS_ALREADY_EXISTS, "CR8")
    assert bench.try_open(5001, host="0.0.0.0").status is NtStatus.SUCCESS
    assert bench.try_open(5001).status is NtStatus.SUCCESS


def test_cr8_a_port_some_other_program_has_is_refused_with_the_hosts_words() -> None:
    bench = Bench("udp")
    bench.taken_ports.add(5000)
    outcome = bench.try_open(5000)
    assert (outcome.status, outcome.handle) == (NtStatus.ADDRESS_ALREADY_EXISTS, 0)
    assert "127.0.0.1:5000 could not be bound: the port is in use" in outcome.message
    bench.taken_ports.clear()
    assert bench.try_open(5000).status is NtStatus.SUCCESS


def test_cr8_no_dynamic_port_is_left() -> None:
    bench = Bench("lan", dynamic_ports=(50_000, 50_001))
    kept, freed = bench.open(0), bench.open(0)
    assert bench.try_open(0).status is NtStatus.TOO_MANY_ADDRESSES
    port = bench.local(freed).port
    bench.close(freed)
    assert bench.local(bench.open(0)).port == port
    assert bench.local(kept).port != port


def test_cr9_the_broadcast_address_opens_for_receiving_never_exclusively() -> None:
    bench = Bench("lan")
    refused = bench.try_open(5000, host="255.255.255.255", share=ShareAccess.EXCLUSIVE)
    assert (refused.status, refused.rule) == (NtStatus.SHARING_VIOLATION, "CR9")
    receiver, sender = bench.open(5000, host="255.255.255.255"), bench.open(6000)
    bench.send(sender, b"all", SocketAddress("10.77.255.255", 5000))
    assert bench.heard(receiver) == [b"all"]


def test_cr11_a_datagram_device_has_no_connection_endpoints() -> None:
    transport = Transport("vm1", Profile(), {})
    outcome = transport.create("udp", attribute(b"ConnectionContext", bytes(8)), SHARED, None)
    assert (outcome.status, outcome.rule) == (NtStatus.INVALID_PARAMETER, "CR11")


def test_cr10_a_connection_context_has_a_pointers_length() -> None:
    assert parse_create_untrusted(attribute(b"ConnectionContext", b"1234"), pointer_bytes=4) == OpenConnection(b"1234")
    with pytest.raises(Refused) as caught:
        parse_create_untrusted(attribute(b"ConnectionContext", b"1234"))
    assert caught.value.status is NtStatus.NONEXISTENT_EA_ENTRY


@both
def test_cr12_a_new_address_object_gives_everything_to_its_owner(network: str) -> None:
    bench = Bench(network)
    owner = object()
    handle = bench.open(owner=owner)
    bench.arrive(handle, b"x")
    [deliver] = bench.deliveries
    assert deliver.owner is owner
    assert bench.transport.owner_of(handle) is owner


def test_cr13_open_files_are_limited_and_closing_makes_room() -> None:
    transport = Transport("vm1", Profile(max_open_files=2), {})
    first = transport.open_control("udp", None)
    transport.open_control("udp", None)
    for outcome in (transport.open_control("udp", None), transport.open_address("udp", LOCAL, SHARED, None)):
        assert (outcome.status, outcome.rule) == (NtStatus.INSUFFICIENT_RESOURCES, "CR13")
    transport.cleanup(first.handle, 0.0)
    transport.close(first.handle)
    assert transport.open_control("udp", None).status is NtStatus.SUCCESS


def test_create_by_attributes_opens_what_they_say() -> None:
    bench = Bench("udp")
    address = bench.settle(bench.transport.create("\\Device\\Udp", ADDRESS_EA, SHARED, "client"))
    control = bench.transport.create("\\Device\\Udp", None, SHARED, "client")
    assert bench.local(address.handle) == LOCAL
    assert bench.transport.query(control.handle, QueryType.MAX_DATAGRAM_INFO, 4).data == bytes.fromhex("E3FF0000")
    assert bench.transport.create("udp", attribute(b"x", b""), SHARED, None).status is NtStatus.INVALID_EA_NAME


def test_an_unknown_network_is_named_with_those_there_are() -> None:
    outcome = Bench("udp").transport.open_control("wan", None)
    assert outcome.status is NtStatus.OBJECT_NAME_NOT_FOUND
    assert "lan, tcp, udp" in outcome.message


@both
@pytest.mark.parametrize("local", [SocketAddress("nowhere", 1), SocketAddress("127.0.0.1", 70_000), b"\x01\0\0\0"])
def test_a_local_address_that_is_none_is_refused(network: str, local: SocketAddress | bytes) -> None:
    outcome = Bench(network).transport.open_address(network, local, SHARED, None)
    assert outcome.status is NtStatus.INVALID_ADDRESS


def test_a_local_address_may_come_as_bytes() -> None:
    bench = Bench("udp")
    outcome = bench.settle(bench.transport.open_address("udp", pack_transport_address(LOCAL), SHARED, None))
    assert outcome.local == LOCAL


def test_a_socket_answer_nobody_waits_for_is_our_own_mistake() -> None:
    transport = Transport("vm1", Profile(), {})
    with pytest.raises(Misuse):
        transport.socket_bound(1, LOCAL)
    transport.open_address("udp", LOCAL, SHARED, None)
    with pytest.raises(Misuse):
        transport.open_address("udp", LOCAL, SHARED, None)


def test_objects_on_one_address_share_one_socket_which_goes_with_the_last() -> None:
    bench = Bench("udp")
    handles = [bench.open(5000), bench.open(5000), bench.open(5000, host="0.0.0.0")]
    assert len(bench.sockets) == 1
    for handle in handles:
        assert not bench.closed_sockets
        bench.close(handle)
    assert bench.closed_sockets == [1]
    assert bench.open(5000) == handles[-1] + 1
    assert list(bench.sockets) == [2]


@given(st.binary(max_size=80))
def test_any_attribute_list_parses_or_is_refused(data: bytes) -> None:
    result: CreateRequest | Refused
    try:
        result = parse_create_untrusted(data)
    except Refused as refusal:
        result = refusal
    if isinstance(result, Refused):
        assert not result.status.is_success
    else:
        assert isinstance(result, OpenControl) == (data == b"")


def test_the_file_kinds_are_the_numbers_filters_look_for() -> None:
    assert [kind.value for kind in (FileKind.ADDRESS, FileKind.CONNECTION, FileKind.CONTROL)] == [1, 2, 3]

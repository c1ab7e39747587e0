"""TDI_SEND_DATAGRAM: one test for each S rule that a datagram device has, on both networks where both have it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import fields
from itertools import product

import pytest

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl
from emulator.status import Misuse, NtStatus
from emulator.tdi.constants import QueryType, ReceiveFlags, ServiceFlags
from emulator.tdi.effects import CleanupComplete, Complete, Deliver
from emulator.tdi.irp import ConnectionInformation, Irp, IrpState, MdlBuffer, SendDatagram, build_send_datagram
from emulator.tdi.profile import CleanupStyle, Profile, SegmentProfile
from emulator.tdi.structures import SocketAddress, Statistics, pack_transport_address
from emulator.tdi.transport import Transport
from emulator.wire.schema import ADDRESS_SEND_DATAGRAM
from tests.tdi.bench import NETWORKS, SHARED, Bench
from tests.tdi.raw_form import FORMS


@pytest.fixture(autouse=True, scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every rule here is tried with requests of objects and of bytes, for both kinds of client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "form", request.param)
        yield


both = pytest.mark.parametrize("network", NETWORKS)
INVALID_PARAMETER = (NtStatus.INVALID_PARAMETER, 0)
INVALID_ADDRESS = (NtStatus.INVALID_ADDRESS, 0)
CANCELLED = (NtStatus.CANCELLED, 0)


def request(handle: int, information: ConnectionInformation | None, data: bytes | None, length: int | None) -> Irp:
    return Irp(handle, SendDatagram(information, data, length))


def entry(address_type: int, data: bytes) -> bytes:
    return struct.pack("<HH", len(data), address_type) + data


def address_list(*entries: bytes) -> bytes:
    return struct.pack("<i", len(entries)) + b"".join(entries)


def ip_entry(address: SocketAddress) -> bytes:
    return pack_transport_address(address)[4:]


NETBIOS = entry(17, bytes(18))


# Addressing the request.


@both
@pytest.mark.parametrize(("major", "minor"), [(0x0F, 0x0A), (0x0F, 0x00), (0x0E, 0x09), (0x0F, 0x109)])
def test_s1_only_minor_9_under_major_15_is_a_datagram_send(network: str, major: int, minor: int) -> None:
    bench = Bench(network)
    handle = bench.open()
    irp = bench.submit(
        Irp(handle, SendDatagram(ConnectionInformation(bench.peer), b"x"), major=major, minor=minor),
    )
    assert bench.outcome(irp) == (NtStatus.INVALID_DEVICE_REQUEST, 0)
    assert bench.peer_heard() == []


@both
def test_s2_a_control_channel_sends_nothing(network: str) -> None:
    bench = Bench(network)
    irp = bench.send(bench.control())
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.rule(irp) == "S2"


@both
def test_s2_a_handle_that_is_not_open(network: str) -> None:
    bench = Bench(network)
    assert bench.outcome(bench.send(77)) == (NtStatus.INVALID_HANDLE, 0)


@both
def test_s3_an_address_object_needs_nothing_else_to_send(network: str) -> None:
    bench = Bench(network)
    assert bench.outcome(bench.send(bench.open(), b"first thing")) == (NtStatus.SUCCESS, 11)
    assert bench.peer_heard() == [b"first thing"]


@both
def test_s4_null_connection_information(network: str) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), None, b"x", 1))
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.rule(irp) == "S4"


@both
def test_s5_user_data_fails_the_request(network: str) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), ConnectionInformation(bench.peer, user_data_length=1), b"x", 1))
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.rule(irp) == "S5"


@both
@pytest.mark.parametrize("options", [None, b"abcd"])
def test_s6_t19_options_are_tolerated_even_with_a_length_and_no_pointer(network: str, options: bytes | None) -> None:
    bench = Bench(network)
    information = ConnectionInformation(bench.peer, options_length=4, options=options)
    assert bench.outcome(bench.submit(request(bench.open(), information, b"x", 1))) == (NtStatus.SUCCESS, 1)


def test_s7_a_datagram_send_has_no_flags() -> None:
    # TDI_SEND_EXPEDITED and its kin belong to connection sends; a request that could carry them would be another one.
    names = {field.name for kind in (SendDatagram, ConnectionInformation) for field in fields(kind)}
    assert names == {
        "information",
        "data",
        "send_length",
        "remote_address",
        "remote_address_length",
        "user_data_length",
        "options_length",
        "options",
    }
    assert not any("flag" in field.name for field in ADDRESS_SEND_DATAGRAM.params)


# Length and buffer.


@both
def test_s8_a_length_over_the_limit_fails_and_sends_nothing(network: str) -> None:
    bench = Bench(network)
    limit = bench_limit(bench)
    irp = bench.send(bench.open(), bytes(limit + 1))
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert str(limit) in bench.completions[0].message
    assert bench.peer_heard() == []


@both
def test_s8_the_status_for_too_long_is_a_setting(network: str) -> None:
    bench = Bench(network, max_datagram_bytes=10, too_long_status=NtStatus.INVALID_BUFFER_SIZE)
    assert bench.outcome(bench.send(bench.open(), bytes(11))) == (NtStatus.INVALID_BUFFER_SIZE, 0)


@both
@pytest.mark.parametrize("length", [-1, 2**32, 2**31])
def test_s8_a_length_no_request_can_have(network: str, length: int) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), ConnectionInformation(bench.peer), b"x", length))
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.rule(irp) == "S8"


def bench_limit(bench: Bench) -> int:
    return int.from_bytes(bench.transport.query(bench.control(), QueryType.MAX_DATAGRAM_INFO, 4).data, "little")


@pytest.mark.parametrize(("network", "limit"), [("udp", 65_507), ("lan", 1_472)])
def test_s9_the_limit_itself_succeeds_and_is_what_all_three_queries_say(network: str, limit: int) -> None:
    bench = Bench(network)
    assert bench.outcome(bench.send(bench.open(), bytes(limit))) == (NtStatus.SUCCESS, limit)
    assert bench.outcome(bench.send(1, bytes(limit - 1))) == (NtStatus.SUCCESS, limit - 1)
    assert [len(data) for data in bench.peer_heard()] == [limit, limit - 1]
    control = bench.control()
    provider = bench.transport.query(control, QueryType.PROVIDER_INFO, 40).data
    datagram = bench.transport.query(control, QueryType.DATAGRAM_INFO, 8).data
    assert struct.unpack_from("<I", provider, 12) == (limit,)
    assert struct.unpack_from("<I", datagram, 0) == (limit,)
    assert bench_limit(bench) == limit


@both
def test_s10_a_zero_length_datagram_arrives_empty(network: str) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), ConnectionInformation(bench.peer), None, 0))
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 0)
    assert bench.peer_heard() == [b""]


@both
def test_s10_a_provider_that_refuses_zero_length_says_so(network: str) -> None:
    bench = Bench(network, refuses_zero_length=True)
    irp = bench.send(bench.open(), b"")
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.peer_heard() == []
    image = bench.transport.query(bench.control(), QueryType.PROVIDER_INFO, 40).data
    assert struct.unpack_from("<I", image, 16)[0] & ServiceFlags.NO_ZERO_LENGTH


@both
def test_s11_only_the_first_send_length_bytes_of_a_longer_buffer_go(network: str) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), ConnectionInformation(bench.peer), b"hello world", 5))
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 5)
    assert bench.peer_heard() == [b"hello"]


@both
@pytest.mark.parametrize(("data", "length"), [(b"four", 5), (None, 1), (b"", 1)])
def test_s12_a_buffer_shorter_than_the_length_is_never_padded(network: str, data: bytes | None, length: int) -> None:
    bench = Bench(network)
    irp = bench.submit(request(bench.open(), ConnectionInformation(bench.peer), data, length))
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.rule(irp) == "S12"
    assert bench.peer_heard() == []


class Memory:
    """Guest memory of four pages, and MDL chains over scattered pieces of it."""

    def __init__(self) -> None:
        self.buffer = bytearray(4 * PAGE_SIZE)
        self.guest = GuestMemory(memoryview(self.buffer))

    def chain(self, *pieces: bytes) -> Mdl:
        head: Mdl | None = None
        for index, piece in reversed(list(enumerate(pieces))):
            at = (index % 4) * PAGE_SIZE + 64 * index
            self.buffer[at : at + len(piece)] = piece
            head = Mdl(at % PAGE_SIZE, len(piece), (at // PAGE_SIZE,), next=head)
        assert head is not None
        return head


def send_chain(bench: Bench, memory: Memory, mdl: Mdl, length: int) -> Irp:
    information = ConnectionInformation(bench.peer)
    return bench.submit(Irp(bench.open(0), SendDatagram(information, MdlBuffer(memory.guest, mdl), length)))


@both
def test_s12_an_mdl_chain_shorter_than_the_length(network: str) -> None:
    bench, memory = Bench(network), Memory()
    irp = send_chain(bench, memory, memory.chain(b"abc", b"", b"de"), 6)
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert bench.peer_heard() == []


@both
def test_s12_an_mdl_of_pages_that_are_not_there(network: str) -> None:
    bench, memory = Bench(network), Memory()
    irp = send_chain(bench, memory, Mdl(0, 8, (4,)), 8)
    assert bench.outcome(irp) == INVALID_PARAMETER
    assert "outside" in bench.completions[0].message


@both
@pytest.mark.parametrize("cut", range(9))
def test_s12a_t23_borders_of_mdls_are_invisible_to_the_receiver(network: str, cut: int) -> None:
    bench, memory = Bench(network), Memory()
    payload = b"12345678"
    irp = send_chain(bench, memory, memory.chain(payload[:cut], b"", payload[cut:]), 8)
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 8)
    assert bench.peer_heard() == [payload]


@both
def test_s11_t24_the_send_length_cuts_an_mdl_chain(network: str) -> None:
    bench, memory = Bench(network), Memory()
    irp = send_chain(bench, memory, memory.chain(b"abcd", b"efgh"), 6)
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 6)
    assert bench.peer_heard() == [b"abcdef"]


@both
def test_s12b_two_sends_are_never_merged_nor_one_split(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.stall()
    for data in (b"one", b"two", bytes(1_400)):
        bench.send(handle, data)
    bench.resume()
    assert bench.peer_heard() == [b"one", b"two", bytes(1_400)]


@both
def test_s12c_s42_data_is_copied_when_the_send_is_submitted(network: str) -> None:
    bench, memory = Bench(network), Memory()
    plain, address = bytearray(b"plain"), bytearray(pack_transport_address(bench.peer))
    bench.stall()
    first = bench.submit(Irp(bench.open(), SendDatagram(ConnectionInformation(address), memoryview(plain), 5)))
    second = send_chain(bench, memory, memory.chain(b"in memory"), 9)
    plain[:] = address[:5] = b"XXXXX"
    memory.buffer[:] = b"X" * len(memory.buffer)
    bench.resume()
    assert bench.peer_heard() == [b"plain", b"in memory"]
    assert bench.outcome(first) == (NtStatus.SUCCESS, 5)
    assert bench.outcome(second) == (NtStatus.SUCCESS, 9)


# Destination.


def send_to(bench: Bench, remote: SocketAddress | bytes | None, length: int | None = None) -> Irp:
    return bench.submit(request(bench.open(0), ConnectionInformation(remote, length), b"x", 1))


@both
def test_s13_a_destination_that_is_missing_or_too_short(network: str) -> None:
    bench = Bench(network)
    whole = pack_transport_address(bench.peer)
    for remote, length in ((None, None), (b"", None), (whole[:7], None), (whole, 7), (whole, 0), (whole, -1)):
        irp = send_to(bench, remote, length)
        assert bench.outcome(irp) == INVALID_ADDRESS
        assert bench.rule(irp) == "S13"
    assert bench.peer_heard() == []


@both
def test_s13_a_length_that_covers_more_than_there_is(network: str) -> None:
    bench = Bench(network)
    assert bench.outcome(send_to(bench, pack_transport_address(bench.peer), 23)) == INVALID_ADDRESS


@both
def test_s14_t14_entries_past_the_end_and_counts_below_one(network: str) -> None:
    bench = Bench(network)
    whole = pack_transport_address(bench.peer)
    overrun = struct.pack("<i", 1) + struct.pack("<HH", 15, 2) + whole[8:]
    missing = struct.pack("<i", 2) + NETBIOS
    for remote in (overrun, missing, whole[:14], whole[:16], b"\0\0\0\0" + whole[4:], b"\xff" * 4 + whole[4:]):
        irp = send_to(bench, remote)
        assert bench.outcome(irp) == INVALID_ADDRESS
        assert bench.rule(irp) == "S14"


@both
def test_s15_the_first_usable_entry_is_taken_and_the_rest_ignored(network: str) -> None:
    bench = Bench(network)
    elsewhere = SocketAddress(bench.peer.host, 7_001)
    remote = address_list(ip_entry(bench.peer), ip_entry(elsewhere)) + b"\xff"
    assert bench.outcome(send_to(bench, remote)) == (NtStatus.SUCCESS, 1)
    assert bench.peer_heard() == [b"x"]


@both
def test_s16_entries_that_cannot_be_used_are_passed_over(network: str) -> None:
    bench = Bench(network)
    unusable = [NETBIOS, entry(2, bytes(13)), ip_entry(SocketAddress("0.0.0.0", 5)), ip_entry(SocketAddress("::1", 5))]
    assert bench.outcome(send_to(bench, address_list(*unusable, ip_entry(bench.peer)))) == (NtStatus.SUCCESS, 1)
    for alone in unusable:
        assert bench.outcome(send_to(bench, address_list(alone))) == INVALID_ADDRESS


@both
def test_s16_the_words_are_about_the_first_entry_that_could_not_be_used(network: str) -> None:
    bench = Bench(network)
    assert bench.rule(send_to(bench, address_list(entry(2, bytes(13)), NETBIOS))) == "S17"


@both
def test_s16_a_strict_profile_fails_at_the_first_unknown_type(network: str) -> None:
    bench = Bench(network, strict_destination=True)
    irp = send_to(bench, address_list(NETBIOS, ip_entry(bench.peer)))
    assert bench.outcome(irp) == INVALID_ADDRESS
    assert bench.rule(irp) == "S16"
    assert bench.outcome(send_to(bench, address_list(entry(2, b""), ip_entry(bench.peer)))) == (NtStatus.SUCCESS, 1)


@both
@pytest.mark.parametrize(("extra", "rule"), [(-1, "S17"), (0, None), (5, None)])
def test_s17_an_ip_entry_has_14_bytes_or_more(network: str, extra: int, rule: str | None) -> None:
    bench = Bench(network)
    data = (ip_entry(bench.peer)[4:] + bytes(5))[: 14 + extra]
    irp = send_to(bench, address_list(entry(2, data)))
    assert bench.rule(irp) == rule
    assert len(bench.at_peer) == (rule is None)


@both
@pytest.mark.parametrize("host", ["0.0.0.0", None])
def test_s18_a_wildcard_or_port_0_is_no_destination(network: str, host: str | None) -> None:
    bench = Bench(network)
    address = SocketAddress(bench.peer.host, 0) if host is None else SocketAddress(host, 7_000)
    for remote in (address, pack_transport_address(address)):
        irp = send_to(bench, remote)
        assert bench.outcome(irp) == INVALID_ADDRESS
        assert bench.rule(irp) == "S18"


@both
@pytest.mark.parametrize("address", [SocketAddress("::1", 5), SocketAddress("::ffff:127.0.0.1", 5)])
def test_s19_another_family_than_the_address_objects(network: str, address: SocketAddress) -> None:
    bench = Bench(network, wrong_family_status=NtStatus.UNSUCCESSFUL)
    for remote in (address, pack_transport_address(address)):
        irp = send_to(bench, remote)
        assert bench.outcome(irp) == (NtStatus.UNSUCCESSFUL, 0)
        assert bench.rule(irp) == "S19"


def test_s19_an_ipv6_object_sends_ipv6_and_no_ipv4_in_disguise() -> None:
    bench = Bench("udp")
    handle = bench.open(5000, host="::1")
    assert bench.outcome(bench.send(handle, b"six", SocketAddress("::1", 7_000))) == (NtStatus.SUCCESS, 3)
    assert bench.at_peer == [(SocketAddress("::1", 5000), b"six")]
    for other in (SocketAddress("::ffff:127.0.0.1", 7_000), SocketAddress("127.0.0.1", 7_000)):
        assert bench.outcome(bench.send(handle, b"x", other)) == INVALID_ADDRESS


@both
@pytest.mark.parametrize("host", ["255.255.255.255", "224.0.0.9"])
def test_s20_a_provider_without_broadcast_or_multicast_refuses_them(network: str, host: str) -> None:
    bench = Bench(network, supports_broadcast=False, supports_multicast=False)
    irp = send_to(bench, SocketAddress(host, 9))
    assert bench.outcome(irp) == INVALID_ADDRESS
    assert bench.rule(irp) == "S20"


def test_s20a_sending_to_a_group_takes_no_membership() -> None:
    bench = Bench("lan")
    assert bench.outcome(send_to(bench, SocketAddress("224.0.0.9", 7_000))) == (NtStatus.SUCCESS, 1)
    assert bench.at_peer == []


def test_s21_nothing_is_sent_from_an_object_on_the_broadcast_address() -> None:
    bench = Bench("lan")
    irp = bench.send(bench.open(5000, host="255.255.255.255"))
    assert bench.outcome(irp) == INVALID_ADDRESS
    assert bench.rule(irp) == "S21"


@both
def test_s21a_no_datagram_connections_so_an_empty_destination_is_an_error(network: str) -> None:
    bench = Bench(network)
    image = bench.transport.query(bench.control(), QueryType.PROVIDER_INFO, 40).data
    assert not struct.unpack_from("<I", image, 16)[0] & ServiceFlags.DGRAM_CONNECTION
    assert bench.outcome(send_to(bench, None)) == INVALID_ADDRESS


# Source and delivery.


@both
@pytest.mark.parametrize("wildcard", [False, True])
def test_s22_the_source_is_the_bound_port_and_a_real_address(network: str, wildcard: bool) -> None:
    bench = Bench(network)
    bench.send(bench.open(5000, host="0.0.0.0" if wildcard else None))
    assert [source for source, _ in bench.at_peer] == [SocketAddress(bench.host, 5000)]


@both
@pytest.mark.parametrize("host", ["192.0.2.9", "8.8.8.8"])
def test_s22_where_there_is_no_way_to(network: str, host: str) -> None:
    bench = Bench(network)
    irp = send_to(bench, SocketAddress(host, 53))
    assert bench.outcome(irp) == (NtStatus.NETWORK_UNREACHABLE, 0)
    assert bench.rule(irp) == "S22"
    assert bench.at_peer == []


def test_s22_what_a_udp_device_may_reach_is_configured() -> None:
    transport = Transport("vm1", Profile(), {}, reachable_networks=("192.0.2.0/24",))
    handle = transport.open_address("udp", SocketAddress("127.0.0.1", 1), SHARED, None).handle
    transport.socket_bound(1, SocketAddress("127.0.0.1", 1))
    inside = build_send_datagram(handle, SocketAddress("192.0.2.200", 5), b"x")
    outside = build_send_datagram(handle, SocketAddress("127.0.0.1", 5), b"x")
    transport.send_datagram(inside, 0.0)
    transport.send_datagram(outside, 0.0)
    assert (inside.state, outside.status) == (IrpState.PENDING, NtStatus.NETWORK_UNREACHABLE)


def test_s22_what_the_host_says_about_a_route_is_the_status() -> None:
    bench = Bench("udp")
    bench.send_status = NtStatus.HOST_UNREACHABLE
    assert bench.outcome(bench.send(bench.open())) == (NtStatus.HOST_UNREACHABLE, 0)


@both
def test_s23_nobody_listening_is_still_success(network: str) -> None:
    bench = Bench(network)
    assert bench.outcome(send_to(bench, SocketAddress(bench.peer.host, 9_999))) == (NtStatus.SUCCESS, 1)
    if network == "lan":
        assert bench.outcome(send_to(bench, SocketAddress("10.77.200.1", 9_999))) == (NtStatus.SUCCESS, 1)
        assert bench.at_peer == []


def test_s24_loss_and_duplication_never_change_a_datagram() -> None:
    bench = Bench("lan", segment=SegmentProfile(loss=0.3, duplicate=0.3))
    handle = bench.open()
    sent = [bytes([number]) * 3 for number in range(200)]
    irps = [bench.send(handle, data) for data in sent]
    assert {bench.outcome(irp) for irp in irps} == {(NtStatus.SUCCESS, 3)}
    counts = [bench.peer_heard().count(data) for data in sent]
    assert set(counts) == {0, 1, 2}
    assert sum(counts) == len(bench.at_peer)
    assert counts.count(0) == bench.segment.dropped


@both
def test_s24_nothing_is_lost_or_doubled_by_default(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    sent = [b"%d" % number for number in range(300)]
    for data in sent:
        bench.send(handle, data)
    assert bench.peer_heard() == sent


@both
def test_s25_own_sockets_are_not_excluded(network: str) -> None:
    bench = Bench(network)
    sender, neighbour = bench.open(5000), bench.open(5000)
    bench.send(sender, b"to myself", SocketAddress(bench.host, 5000))
    assert bench.heard(sender) == bench.heard(neighbour) == [b"to myself"]


@pytest.mark.parametrize("host", ["255.255.255.255", "10.77.255.255"])
def test_s25_t30_a_broadcast_reaches_everyone_the_sender_too(host: str) -> None:
    bench = Bench("lan")
    sender, wildcard, elsewhere = bench.open(7_000), bench.open(7_000, host="0.0.0.0"), bench.open(7_001)
    bench.send(sender, b"all", SocketAddress(host, 7_000))
    assert bench.peer_heard() == bench.heard(sender) == bench.heard(wildcard) == [b"all"]
    assert bench.heard(elsewhere) == []


def test_s25a_the_receiver_sees_that_it_was_a_broadcast() -> None:
    bench = Bench("lan")
    handle = bench.open(7_000)
    bench.send(handle, b"all", SocketAddress("255.255.255.255", 7_000))
    bench.send(handle, b"one", SocketAddress(bench.host, 7_000))
    flags = {deliver.data: deliver.flags for deliver in bench.deliveries}
    whole = ReceiveFlags.ENTIRE_MESSAGE
    assert flags == {b"all": whole | ReceiveFlags.BROADCAST, b"one": whole}


def test_s25a_a_broadcast_through_a_real_socket_is_flagged_by_its_destination() -> None:
    bench = Bench("udp")
    handle = bench.open(5000)
    bench.perform(bench.transport.datagram_arrived(1, bench.peer, "255.255.255.255", b"all", bench.now))
    assert [(deliver.handle, deliver.flags) for deliver in bench.deliveries] == [
        (handle, ReceiveFlags.ENTIRE_MESSAGE | ReceiveFlags.BROADCAST)
    ]


# Queueing, order, time.


@both
def test_s26_s27_sends_leave_and_complete_in_the_order_they_were_accepted(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.stall()
    irps = [bench.send(handle, b"%d" % number) for number in range(10)]
    refused = bench.send(handle, bytes(70_000))
    assert [complete.irp for complete in bench.completions] == [refused]
    bench.resume()
    assert bench.peer_heard() == [b"%d" % number for number in range(10)]
    assert [complete.irp for complete in bench.completions[1:]] == irps


@both
def test_s29_objects_that_share_a_path_take_turns(network: str) -> None:
    bench = Bench(network)
    busy, quiet = bench.open(5000), bench.open(5000)
    bench.stall()
    for number in range(6):
        bench.send(busy, b"busy%d" % number)
    bench.send(quiet, b"quiet")
    bench.resume()
    assert bench.peer_heard().index(b"quiet") == 1
    assert [data for data in bench.peer_heard() if data != b"quiet"] == [b"busy%d" % number for number in range(6)]


def test_s29_a_socket_without_room_stops_nobody_elses() -> None:
    bench = Bench("udp")
    stuck, free = bench.open(5000), bench.open(5001)
    bench.stall()
    waiting = bench.send(stuck)
    bench.writable = True
    assert bench.outcome(bench.send(free, b"through")) == (NtStatus.SUCCESS, 7)
    assert waiting.state is IrpState.PENDING


@pytest.mark.parametrize(("network", "capacity"), [("udp", 64), ("lan", 16)])
def test_s30_one_more_than_the_capacity_fails_at_once_and_disturbs_nothing(network: str, capacity: int) -> None:
    bench = Bench(network)
    full, other = bench.open(5000), bench.open(5000)
    datagram_info = bench.transport.query(bench.control(), QueryType.DATAGRAM_INFO, 8).data
    assert struct.unpack_from("<I", datagram_info, 4) == (capacity,)
    bench.stall()
    irps = [bench.send(full, b"%d" % number) for number in range(capacity)]
    refused = bench.send(full, b"too many")
    assert bench.outcome(refused) == (NtStatus.INSUFFICIENT_RESOURCES, 0)
    assert bench.rule(refused) == "S30"
    assert bench.send(other, b"has its own").state is IrpState.PENDING
    bench.resume()
    assert all(bench.outcome(irp)[0] is NtStatus.SUCCESS for irp in irps)
    assert b"too many" not in bench.peer_heard()
    assert bench.outcome(bench.send(full)) == (NtStatus.SUCCESS, 5)


@both
def test_s30_s43_the_bytes_of_all_queues_are_bounded_too(network: str) -> None:
    bench = Bench(network, max_datagram_bytes=100, max_queued_bytes=250)
    one, two = bench.open(5000), bench.open(5001)
    bench.stall()
    fitting = [bench.send(one, bytes(100)), bench.send(two, bytes(100)), bench.send(two, bytes(50))]
    assert bench.outcome(bench.send(one, b"x")) == (NtStatus.INSUFFICIENT_RESOURCES, 0)
    bench.perform(bench.transport.cancel(fitting[0]))
    assert bench.send(one, bytes(100)).state is IrpState.PENDING
    bench.resume()
    assert len(bench.at_peer) == 3


@both
def test_s31_s32_s33_a_send_that_waits_too_long_ends_and_never_leaves(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    assert bench.transport.next_deadline() is None
    bench.stall()
    early = bench.send(handle, b"early")
    bench.now += 0.4
    late = bench.send(handle, b"late")
    assert bench.transport.next_deadline() == pytest.approx(101.0)
    bench.perform(bench.transport.expire(100.999))
    assert early.state is IrpState.PENDING
    bench.perform(bench.transport.expire(101.0))
    assert bench.outcome(early) == (NtStatus.IO_TIMEOUT, 0)
    assert bench.rule(early) == "S33"
    assert late.state is IrpState.PENDING
    assert bench.transport.next_deadline() == pytest.approx(101.4)
    bench.resume()
    assert bench.peer_heard() == [b"late"]
    assert bench.transport.next_deadline() is None


@both
def test_s32_the_bound_is_a_setting(network: str) -> None:
    bench = Bench(network, send_timeout_seconds=0.25)
    bench.stall()
    bench.send(bench.open())
    assert bench.transport.next_deadline() == 100.25


@both
def test_s34_p6_a_completion_may_submit_the_next_send_without_end(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    left = [3_000]

    class Chain(list[Complete]):
        def append(self, complete: Complete) -> None:
            super().append(complete)
            if complete.status is NtStatus.SUCCESS and left[0]:
                left[0] -= 1
                todo.append(build_send_datagram(handle, bench.peer, b"next"))

    todo: list[Irp] = []
    bench.completions = Chain()
    bench.send(handle, b"first")
    while todo:
        bench.submit(todo.pop())
    assert len(bench.peer_heard()) == 3_001


# Result, cancel, close.


@both
def test_s35_information_counts_the_clients_bytes_or_nothing(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    assert bench.outcome(bench.send(handle, bytes(17))) == (NtStatus.SUCCESS, 17)
    assert bench.outcome(bench.send(handle, bytes(17), b"")) == INVALID_ADDRESS


@both
def test_s36_a_send_completes_at_once_or_is_pending(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    done = bench.send(handle)
    bench.stall()
    waiting = bench.send(handle)
    assert (done.state, waiting.state) == (IrpState.COMPLETED, IrpState.PENDING)
    assert waiting.status is NtStatus.PENDING


@both
def test_s37_cancelled_before_it_is_submitted(network: str) -> None:
    bench = Bench(network)
    irp = build_send_datagram(bench.open(), None, None)
    assert bench.transport.cancel(irp) == []
    bench.submit(irp)
    assert bench.outcome(irp) == CANCELLED
    assert bench.at_peer == []


@both
def test_s38_cancelled_while_queued_leaves_the_order_of_the_rest(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.stall()
    irps = [bench.send(handle, b"%d" % number) for number in range(5)]
    for index in (0, 2):
        bench.perform(bench.transport.cancel(irps[index]))
        assert bench.outcome(irps[index]) == CANCELLED
    bench.resume()
    assert bench.peer_heard() == [b"1", b"3", b"4"]


@both
def test_s39_cancelled_after_the_medium_took_it_does_nothing(network: str) -> None:
    bench = Bench(network)
    irp = bench.send(bench.open())
    assert bench.transport.cancel(irp) == []
    assert bench.outcome(irp) == (NtStatus.SUCCESS, 5)


@both
def test_s40_cl2_cleanup_ends_the_objects_own_sends_before_itself(network: str) -> None:
    bench = Bench(network)
    mine, other = bench.open(5000), bench.open(5000)
    bench.stall()
    irps = [bench.send(mine, b"%d" % number) for number in range(3)]
    kept = bench.send(other, b"kept")
    effects = bench.transport.cleanup(mine, bench.now)
    assert [type(effect) for effect in effects] == [Complete, Complete, Complete, CleanupComplete]
    bench.perform(effects)
    assert [bench.outcome(irp) for irp in irps] == [CANCELLED] * 3
    bench.resume()
    assert bench.peer_heard() == [b"kept"]
    assert bench.outcome(kept) == (NtStatus.SUCCESS, 4)


@both
def test_s40_a_draining_profile_sends_what_waits_and_then_completes_the_cleanup(network: str) -> None:
    bench = Bench(network, cleanup=CleanupStyle.DRAIN)
    handle = bench.open()
    bench.stall()
    irps = [bench.send(handle, b"%d" % number) for number in range(3)]
    bench.perform(bench.transport.cleanup(handle, bench.now))
    assert bench.cleaned == []
    with pytest.raises(Misuse):
        bench.transport.close(handle)
    assert bench.outcome(bench.send(handle)) == CANCELLED
    bench.resume()
    assert bench.peer_heard() == [b"0", b"1", b"2"]
    assert [bench.outcome(irp)[0] for irp in irps] == [NtStatus.SUCCESS] * 3
    assert bench.cleaned == [handle]
    bench.perform(bench.transport.close(handle))


@both
def test_s40_draining_never_outlives_the_time_out(network: str) -> None:
    bench = Bench(network, cleanup=CleanupStyle.DRAIN)
    handle = bench.open()
    bench.stall()
    irp = bench.send(handle)
    bench.perform(bench.transport.cleanup(handle, bench.now))
    bench.perform(bench.transport.expire(bench.now + 1.0))
    assert bench.outcome(irp) == (NtStatus.IO_TIMEOUT, 0)
    assert bench.cleaned == [handle]


@both
@pytest.mark.parametrize("status", [NtStatus.CANCELLED, NtStatus.ADDRESS_CLOSED])
def test_s41_cl7_a_send_after_cleanup(network: str, status: NtStatus) -> None:
    bench = Bench(network, after_cleanup_status=status)
    handle = bench.open()
    bench.perform(bench.transport.cleanup(handle, bench.now))
    irp = bench.send(handle)
    assert bench.outcome(irp) == (status, 0)
    assert bench.rule(irp) == "S41"
    assert bench.transport.query(handle, QueryType.ADDRESS_INFO, 26).status is status
    assert bench.at_peer == []


@both
def test_s44_statistics_count_completed_sends_only(network: str) -> None:
    bench = Bench(network)
    handle, control = bench.open(), bench.control()
    for data in (b"12345", b"", bytes(70_000)):
        bench.send(handle, data)
    bench.stall()
    bench.perform(bench.transport.cancel(bench.send(handle, b"cancelled")))
    bench.resume()
    bench.arrive(handle, b"123")
    image = bench.transport.query(control, QueryType.PROVIDER_STATISTICS, 200).data
    assert image == Statistics(sent=2, sent_bytes=5, received=1, received_bytes=3).pack()


def test_s44_a_send_the_host_refused_is_not_counted() -> None:
    bench = Bench("udp")
    bench.send_status = NtStatus.HOST_UNREACHABLE
    bench.send(bench.open())
    image = bench.transport.query(bench.control(), QueryType.PROVIDER_STATISTICS, 200).data
    assert image == Statistics().pack()


# The order of the checks.

CHECKS = ["cancelled", "file", "information", "user data", "destination", "route", "length", "buffer", "room"]
EXPECTED = ["S37", "S2", "S4", "S5", "S18", "S22", "S8", "S12", "S30"]


@both
@pytest.mark.parametrize(("first", "second"), [pair for pair in product(range(9), range(9)) if pair[0] < pair[1]])
def test_the_checks_come_in_one_fixed_order(network: str, first: int, second: int) -> None:
    wrong = {CHECKS[first], CHECKS[second]}
    bench = Bench(network, max_queued_datagrams=1)
    handle = bench.open()
    bench.stall()
    bench.send(handle)
    destination = bench.peer
    if "route" in wrong:
        destination = SocketAddress("192.0.2.1", 5)
    if "destination" in wrong:
        destination = SocketAddress("0.0.0.0" if "route" in wrong else bench.peer.host, 0)
    length = 70_000 if "length" in wrong else 4
    information = ConnectionInformation(destination, user_data_length=int("user data" in wrong))
    parameters = SendDatagram(
        None if "information" in wrong else information,
        b"123" if "buffer" in wrong else bytes(length),
        length,
    )
    irp = Irp(bench.control() if "file" in wrong else handle, parameters)
    if "cancelled" in wrong:
        bench.transport.cancel(irp)
    bench.submit(irp)
    assert bench.rule(irp) == EXPECTED[first]


def test_a_delayed_datagram_arrives_when_it_is_due() -> None:
    bench = Bench("lan", segment=SegmentProfile(delay_seconds=0.5))
    handle = bench.open()
    assert bench.outcome(bench.send(handle, b"slow")) == (NtStatus.SUCCESS, 4)
    bench.now += 0.1
    bench.send(handle, b"slower")
    assert bench.segment.next_deadline() == 100.5
    assert bench.segment.poll(100.49) == []
    bench.perform(bench.segment.poll(100.5))
    assert bench.peer_heard() == [b"slow"]
    bench.perform(bench.segment.poll(200.0))
    assert bench.peer_heard() == [b"slow", b"slower"]
    assert bench.segment.next_deadline() is None


def test_who_gets_a_delayed_datagram_is_decided_on_arrival() -> None:
    bench = Bench("lan", segment=SegmentProfile(delay_seconds=0.5))
    closed, sender = bench.open(5000), bench.open(5001)
    bench.send(sender, b"x", SocketAddress(bench.host, 5000))
    bench.close(closed)
    opened = bench.open(5000)
    effects = bench.segment.poll(101.0)
    assert [effect.handle for effect in effects if isinstance(effect, Deliver)] == [opened]


def test_what_is_in_flight_is_bounded_and_the_newest_dropped() -> None:
    bench = Bench("lan", segment=SegmentProfile(delay_seconds=1.0, max_datagrams_in_flight=3, max_bytes_in_flight=20))
    handle = bench.open()
    for data in (b"1", bytes(19), b"2", b"3", b"4"):
        assert bench.outcome(bench.send(handle, data))[0] is NtStatus.SUCCESS
    bench.perform(bench.segment.poll(1_000.0))
    assert bench.peer_heard() == [b"1", bytes(19)]
    assert bench.segment.dropped == 3
    for data in (b"5", b"6", b"7", b"8"):
        bench.send(handle, data)
    bench.perform(bench.segment.poll(1_000.0))
    assert bench.peer_heard()[2:] == [b"5", b"6", b"7"]


def test_equal_seeds_give_equal_luck() -> None:
    def heard(seed: int) -> list[bytes]:
        bench = Bench("lan", segment=SegmentProfile(loss=0.5))
        bench.segment.reseed(random.Random(seed))
        handle = bench.open()
        for number in range(64):
            bench.send(handle, bytes([number]))
        return bench.peer_heard()

    assert heard(1) == heard(1) != heard(2)

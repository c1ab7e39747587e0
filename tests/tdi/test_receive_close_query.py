"""What arrives, what ends, and what can be asked: rules R, CL and Q."""

from __future__ import annotations

import struct

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import QueryType, ReceiveFlags
from emulator.tdi.effects import CleanupComplete, CloseSocket, Complete, Deliver
from emulator.tdi.irp import IrpState
from emulator.tdi.profile import CleanupStyle, QueryOverflow
from emulator.tdi.structures import SocketAddress, Statistics, pack_transport_address
from tests.tdi.bench import ME, NETWORKS, Bench

both = pytest.mark.parametrize("network", NETWORKS)


# Receiving.


@both
def test_r1_r2_every_matching_object_gets_the_datagram(network: str) -> None:
    bench = Bench(network)
    same, again, wildcard = bench.open(5000), bench.open(5000), bench.open(5000, host="0.0.0.0")
    elsewhere = bench.open(5001)
    bench.arrive(same, b"x")
    assert [bench.heard(handle) for handle in (same, again, wildcard, elsewhere)] == [[b"x"], [b"x"], [b"x"], []]


@both
def test_r2_a_delivery_names_its_source_and_its_receiver(network: str) -> None:
    bench = Bench(network)
    handle = bench.open(owner="me")
    source = SocketAddress(bench.peer.host, 1234)
    bench.arrive(handle, b"abc", source)
    assert bench.deliveries == [Deliver(ME, handle, "me", source, b"abc", ReceiveFlags.ENTIRE_MESSAGE)]


@both
def test_r3_an_ip_provider_gives_broadcasts_to_ordinary_objects(network: str) -> None:
    bench = Bench(network)
    handle = bench.open(5000)
    if network == "udp":
        bench.perform(bench.transport.datagram_arrived(1, bench.peer, "127.255.255.255", b"all", bench.now))
    else:
        bench.perform(bench.segment.carry(bench.peer, SocketAddress("255.255.255.255", 5000), b"all", 0.0))
    assert bench.heard(handle) == [b"all"]


@both
def test_r5_what_matches_nobody_is_dropped_and_counted(network: str) -> None:
    bench = Bench(network)
    handle, wildcard = bench.open(5000), bench.open(5000, host="0.0.0.0")
    if network == "udp":
        device = bench.transport._udp
        assert bench.transport.datagram_arrived(1, bench.peer, "224.0.0.5", b"x", bench.now) == []
        assert bench.transport.datagram_arrived(1, bench.peer, "::1", b"x", bench.now) == []
        assert (device.statistics.dropped, device.statistics.received) == (2, 0)
        assert bench.transport.datagram_arrived(99, bench.peer, None, b"x", bench.now) == []
    else:
        assert bench.segment.carry(bench.peer, SocketAddress(bench.host, 5001), b"x", 0.0) == []
        assert bench.segment.carry(bench.peer, SocketAddress("224.0.0.5", 5000), b"x", 0.0) == []
        assert (bench.port.statistics.dropped, bench.port.statistics.received) == (2, 0)
    assert bench.heard(handle) == bench.heard(wildcard) == []


@both
def test_r35_an_empty_datagram_is_delivered_like_any_other(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    bench.arrive(handle, b"")
    assert bench.heard(handle) == [b""]


# Cleanup and close.


@both
def test_cl1_cleanup_comes_before_close_and_once(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    with pytest.raises(Misuse):
        bench.transport.close(handle)
    bench.perform(bench.transport.cleanup(handle, bench.now))
    with pytest.raises(Refused) as caught:
        bench.transport.cleanup(handle, bench.now)
    assert caught.value.status is NtStatus.INVALID_HANDLE
    bench.perform(bench.transport.close(handle))
    with pytest.raises(Refused):
        bench.transport.close(handle)


@both
def test_cl3_nothing_is_delivered_after_cleanup(network: str) -> None:
    bench = Bench(network)
    gone, stays = bench.open(5000), bench.open(5000)
    bench.perform(bench.transport.cleanup(gone, bench.now))
    bench.arrive(stays)
    assert (bench.heard(gone), bench.heard(stays)) == ([], [b"in"])


@both
def test_cl5_a_control_channel_ends_by_itself(network: str) -> None:
    bench = Bench(network)
    handle, control = bench.open(), bench.control()
    bench.stall()
    irp = bench.send(handle)
    assert bench.transport.cleanup(control, bench.now) == [CleanupComplete(control)]
    assert bench.transport.close(control) == []
    assert irp.state is IrpState.PENDING


@both
def test_cl6_cleanup_of_an_idle_object_is_over_at_once(network: str) -> None:
    bench = Bench(network)
    handle = bench.open()
    assert bench.transport.cleanup(handle, bench.now) == [CleanupComplete(handle)]


@both
def test_cl8_close_frees_the_address(network: str) -> None:
    bench = Bench(network)
    handle = bench.open(5000)
    bench.close(handle)
    assert bench.transport.query(handle, QueryType.ADDRESS_INFO, 26).status is NtStatus.INVALID_HANDLE
    assert bench.open(5000) != handle


@both
@pytest.mark.parametrize("style", list(CleanupStyle))
def test_a_dead_owner_leaves_nothing_behind(network: str, style: CleanupStyle) -> None:
    bench = Bench(network, cleanup=style)
    mine, others = bench.open(5000, owner="dead"), bench.open(5001, owner="alive")
    draining = bench.open(5002, owner="dead")
    bench.stall()
    dying, draining_irp, living = bench.send(mine), bench.send(draining), bench.send(others)
    bench.perform(bench.transport.cleanup(draining, bench.now))
    bench.perform(bench.transport.close_owner("dead", bench.now))
    assert bench.outcome(dying) == bench.outcome(draining_irp) == (NtStatus.CANCELLED, 0)
    assert sorted(bench.cleaned) == [mine, draining]
    assert living.state is IrpState.PENDING
    for handle in (mine, draining):
        with pytest.raises(Refused):
            bench.transport.owner_of(handle)
    assert bench.transport.owner_of(others) == "alive"
    assert len(bench.sockets) == (1 if network == "udp" else 0)


@both
def test_shutdown_closes_everything(network: str) -> None:
    bench = Bench(network)
    handle, control = bench.open(owner=1), bench.control()
    bench.stall()
    irp = bench.send(handle)
    effects = bench.transport.shutdown(bench.now)
    kinds = [Complete, CleanupComplete] + [CloseSocket] * (network == "udp") + [CleanupComplete]
    assert [type(effect) for effect in effects] == kinds
    assert irp.status is NtStatus.CANCELLED
    with pytest.raises(Refused):
        bench.transport.owner_of(control)
    bench.segment.detach(bench.port)
    assert bench.segment.attach("vm3", bench.port.host).host == bench.port.host


# Queries.


def expected_images(bench: Bench) -> dict[QueryType, bytes]:
    """What a control channel answers on a fresh machine."""
    udp = bench.network == "udp"
    limit, count = (65_507, 64) if udp else (1_472, 16)
    start = 0 if udp else 116_444_736_000_000_000
    mac = bytes(6) if udp else bytes((2, 0, 0, 0, 0, 1))
    # Datagrams alone on the one; records, user data, expedited data and orderly release besides on the other.
    flags, connections = (0x64, (0, 0)) if udp else (0x223EF, (65_536, 256))
    return {
        QueryType.BROADCAST_ADDRESS: pack_transport_address(SocketAddress("255.255.255.255", 0)),
        QueryType.PROVIDER_INFO: struct.pack("<8Iq", 0x200, *connections, limit, flags, 128, limit, 0, start),
        QueryType.PROVIDER_STATISTICS: Statistics().pack(),
        QueryType.DATAGRAM_INFO: struct.pack("<II", limit, count),
        QueryType.DATA_LINK_ADDRESS: bytes.fromhex("01000000 06001200") + mac,
        QueryType.NETWORK_ADDRESS: pack_transport_address(SocketAddress(bench.host, 0)),
        QueryType.MAX_DATAGRAM_INFO: struct.pack("<I", limit),
    }


@both
@pytest.mark.parametrize("room", ["0", "1", "exact-1", "exact", "exact+1"])
@pytest.mark.parametrize("style", list(QueryOverflow))
def test_q1_q2_q7_each_type_into_each_size_of_buffer(network: str, room: str, style: QueryOverflow) -> None:
    bench = Bench(network, query_overflow=style)
    control = bench.control()
    for kind, image in expected_images(bench).items():
        exact = len(image)
        size = {"0": 0, "1": 1, "exact-1": exact - 1, "exact": exact, "exact+1": exact + 1}[room]
        result = bench.transport.query(control, kind, size)
        if size >= exact:
            assert result[:3] == (NtStatus.SUCCESS, exact, image)
        elif style is QueryOverflow.PARTIAL:
            assert result[:3] == (NtStatus.BUFFER_OVERFLOW, size, image[:size])
        else:
            assert result[:3] == (NtStatus.BUFFER_TOO_SMALL, 0, b"")


@both
def test_q3_a_query_without_a_buffer(network: str) -> None:
    bench = Bench(network)
    result = bench.transport.query(bench.control(), QueryType.PROVIDER_INFO, None)
    assert (result.status, result.information, result.rule) == (NtStatus.INVALID_PARAMETER, 0, "Q3")
    assert bench.transport.query(1, QueryType.PROVIDER_INFO, -1).status is NtStatus.INVALID_PARAMETER


@both
def test_q5_the_wrong_kind_of_file(network: str) -> None:
    bench = Bench(network)
    address, control = bench.open(), bench.control()
    wrong = [
        (control, QueryType.ADDRESS_INFO),
        (control, QueryType.CONNECTION_INFO),
        (address, QueryType.CONNECTION_INFO),
        (address, QueryType.PROVIDER_INFO),
        (address, QueryType.PROVIDER_STATISTICS),
        (address, QueryType.BROADCAST_ADDRESS),
        (address, QueryType.NETWORK_ADDRESS),
        (address, QueryType.DATA_LINK_ADDRESS),
    ]
    for handle, kind in wrong:
        result = bench.transport.query(handle, kind, 300)
        assert (result.status, result.data, result.rule) == (NtStatus.INVALID_DEVICE_REQUEST, b"", "Q5")


@both
@pytest.mark.parametrize(
    ("query_type", "status"),
    [
        (0, NtStatus.INVALID_DEVICE_REQUEST),
        (10, NtStatus.INVALID_DEVICE_REQUEST),
        (-1, NtStatus.INVALID_DEVICE_REQUEST),
        (QueryType.ADAPTER_STATUS, NtStatus.NOT_IMPLEMENTED),
        (QueryType.SESSION_STATUS, NtStatus.NOT_IMPLEMENTED),
        (QueryType.FIND_NAME, NtStatus.NOT_IMPLEMENTED),
    ],
)
def test_q6_unknown_types_and_those_of_other_providers(network: str, query_type: int, status: NtStatus) -> None:
    bench = Bench(network)
    for handle in (bench.open(), bench.control()):
        assert bench.transport.query(handle, query_type, 300)[:3] == (status, 0, b"")


@both
def test_q8_the_two_datagram_limits_are_answered_on_address_files_too(network: str) -> None:
    bench = Bench(network)
    address = bench.open()
    for kind in (QueryType.DATAGRAM_INFO, QueryType.MAX_DATAGRAM_INFO):
        assert bench.transport.query(address, kind, 8).data == expected_images(bench)[kind]


@both
def test_q9_t8_an_address_tells_its_own_port_and_how_many_are_open(network: str) -> None:
    bench = Bench(network)
    first = bench.open(0)
    port = bench.local(first).port
    second, wildcard = bench.open(port), bench.open(port, host="0.0.0.0")
    shared = struct.pack("<I", 2) + pack_transport_address(SocketAddress(bench.host, port))
    alone = struct.pack("<I", 1) + pack_transport_address(SocketAddress("0.0.0.0", port))
    answers = [bench.transport.query(handle, QueryType.ADDRESS_INFO, 26) for handle in (first, second, wildcard)]
    assert [answer.data for answer in answers] == [shared, shared, alone]
    assert {answer.information for answer in answers} == {26}
    bench.close(second)
    assert bench.transport.query(first, QueryType.ADDRESS_INFO, 4).data == struct.pack("<I", 1)

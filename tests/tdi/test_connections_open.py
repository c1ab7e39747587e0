"""Association, connect, listen and accept (C1 to C20), on a segment."""

from __future__ import annotations

import pytest

from emulator.status import NtStatus, Refused
from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    Disassociate,
    PeerInformation,
    build_connection_request,
    relative_timeout,
)
from emulator.tdi.connection_states import NEXT, Input, State, following
from emulator.tdi.constants import QueryType, ShareAccess
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.connection_bench import ABORT, Bench


@pytest.mark.parametrize("given", list(Input))
@pytest.mark.parametrize("state", list(State))
def test_a_pair_that_is_not_in_the_table_is_refused_with_its_rule(state: State, given: Input) -> None:
    if (state, given) in NEXT:
        assert following(state, given) is NEXT[state, given]
        return
    with pytest.raises(Refused, match=f"the endpoint is {state.value}") as refused:
        following(state, given)
    assert refused.value.status.is_error
    assert refused.value.rule is not None


def test_c1_associate_takes_the_handle_of_an_address_on_the_same_device() -> None:
    bench = Bench()
    endpoint = bench.near.endpoint()
    other = bench.near.endpoint()
    udp = bench.near.transport.open_address("udp", SocketAddress("127.0.0.1", 0), ShareAccess.EXCLUSIVE, "client")
    control = bench.near.transport.open_control("lan", "client")
    assert udp.effects, "its socket is not bound, so that its handle is not open yet"
    refused = bench.near.refused
    assert refused(endpoint, Associate(99)) == (NtStatus.INVALID_HANDLE, "C1")
    assert refused(endpoint, Associate(udp.handle)) == (NtStatus.INVALID_HANDLE, "C1")
    assert refused(endpoint, Associate(other)) == (NtStatus.INVALID_PARAMETER, "C1")
    assert refused(endpoint, Associate(control.handle)) == (NtStatus.INVALID_PARAMETER, "C1")
    address = bench.near.address()
    assert bench.near.status(endpoint, Associate(address)) is NtStatus.SUCCESS
    assert refused(address, Associate(address)) == (NtStatus.INVALID_PARAMETER, "S2")


def test_c1_an_address_that_is_cleaned_up_is_none() -> None:
    bench = Bench()
    address = bench.near.address()
    bench.perform(bench.near.transport.cleanup(address, bench.now))
    assert bench.near.refused(bench.near.endpoint(), Associate(address)) == (NtStatus.INVALID_HANDLE, "C1")


@pytest.mark.parametrize("status", [NtStatus.ADDRESS_ALREADY_ASSOCIATED, NtStatus.INVALID_PARAMETER])
def test_c2_a_second_association_is_refused(status: NtStatus) -> None:
    bench = Bench(already_associated_status=status)
    endpoint = bench.near.associated()
    assert bench.near.refused(endpoint, Associate(bench.near.address())) == (status, "C2")
    assert bench.near.disassociate(endpoint) is NtStatus.SUCCESS
    assert bench.near.status(endpoint, Associate(bench.near.address())) is NtStatus.SUCCESS


def test_c3_many_connections_share_an_address_but_not_the_broadcast_address() -> None:
    bench = Bench()
    address = bench.near.address()
    endpoints = [bench.near.endpoint() for _ in range(5)]
    for endpoint in endpoints:
        assert bench.near.status(endpoint, Associate(address)) is NtStatus.SUCCESS
    everyone = bench.near.address(host="255.255.255.255", port=6_000)
    assert bench.near.refused(bench.near.endpoint(), Associate(everyone)) == (NtStatus.INVALID_ADDRESS, "C3")
    listens = []
    for _ in endpoints:
        there = bench.far.associated(7_000)
        listens.append(bench.far.listen(there))
    connects = [bench.near.connect(endpoint, bench.there) for endpoint in endpoints]
    assert {bench.ended(irp)[0] for irp in connects + listens} == {NtStatus.SUCCESS}


def test_c4_disassociate_needs_an_inactive_connection() -> None:
    bench = Bench()
    here, there = bench.connected()
    assert bench.near.refused(here, Disassociate()) == (NtStatus.CONNECTION_ACTIVE, "C4")
    assert bench.near.refused(bench.near.endpoint(), Disassociate()) == (NtStatus.ADDRESS_NOT_ASSOCIATED, "C4")
    bench.near.disconnect(here, ABORT)
    assert bench.near.disassociate(here) is NtStatus.SUCCESS
    assert bench.far.disassociate(there) is NtStatus.SUCCESS
    assert bench.near.status(here, Associate(bench.near.address())) is NtStatus.SUCCESS


def test_c5_queries_before_association_but_no_data() -> None:
    bench = Bench()
    endpoint = bench.near.endpoint()
    info = bench.near.transport.query(endpoint, QueryType.CONNECTION_INFO, 100)
    assert (info.status, info.information) == (NtStatus.SUCCESS, 56)
    assert bench.near.transport.query(endpoint, QueryType.MAX_DATAGRAM_INFO, 4).status is NtStatus.SUCCESS
    nowhere = bench.near.transport.query(endpoint, QueryType.ADDRESS_INFO, 100)
    assert (nowhere.status, nowhere.rule) == (NtStatus.INVALID_CONNECTION, "C5")
    for irp in (bench.near.send(endpoint, b"x"), bench.near.receive(endpoint)):
        assert bench.ended(irp) == (NtStatus.INVALID_CONNECTION, "C5")
    address = bench.near.address(6_001)
    bench.near.status(endpoint, Associate(address))
    local = bench.near.transport.query(endpoint, QueryType.ADDRESS_INFO, 100)
    assert local.data == bench.near.transport.query(address, QueryType.ADDRESS_INFO, 100).data


def test_c6_connect_needs_an_associated_idle_endpoint_and_a_usable_destination() -> None:
    bench = Bench()
    bare = bench.near.endpoint()
    assert bench.ended(bench.near.connect(bare, bench.there)) == (NtStatus.ADDRESS_NOT_ASSOCIATED, "C6")
    here, _ = bench.connected()
    assert bench.ended(bench.near.connect(here, bench.there)) == (NtStatus.CONNECTION_ACTIVE, "C6")
    idle = bench.near.associated()
    assert bench.near.refused(idle, Connect(None)) == (NtStatus.INVALID_PARAMETER, "C6")
    for host, port, rule in (("0.0.0.0", 5, "S18"), (bench.there.host, 0, "S18"), ("::1", 5, "S19")):
        irp = bench.near.connect(idle, SocketAddress(host, port))
        assert bench.ended(irp) == (NtStatus.INVALID_ADDRESS, rule)
    for host in ("255.255.255.255", "224.0.0.1"):
        assert bench.ended(bench.near.connect(idle, SocketAddress(host, 5))) == (NtStatus.INVALID_ADDRESS, "C6")
    outside = bench.near.connect(idle, SocketAddress("192.0.2.1", 5))
    assert bench.ended(outside) == (NtStatus.NETWORK_UNREACHABLE, "S22")
    assert bench.near.state(idle) is State.ASSOCIATED
    raw = Connect(PeerInformation(pack_transport_address(bench.there)))
    assert bench.near.refused(idle, raw)[0] is NtStatus.REMOTE_NOT_LISTENING


def test_c7_a_relative_time_out_is_negative_units_of_100_ns() -> None:
    assert relative_timeout(None) is None
    assert relative_timeout(-10_000_000) == 1.0
    assert relative_timeout(0) == 0.0
    with pytest.raises(Refused, match="a time-out is relative") as refused:
        relative_timeout(1)
    assert (refused.value.status, refused.value.rule) == (NtStatus.INVALID_PARAMETER, "C7")


@pytest.mark.parametrize(("asked", "seconds"), [(None, 1.0), (0.25, 0.25), (30.0, 30.0)])
def test_c7_a_connect_ends_after_its_time_out_or_the_providers(asked: float | None, seconds: float) -> None:
    bench = Bench()
    bench.segment.stall()
    here = bench.near.associated()
    irp = bench.near.connect(here, bench.there, timeout=asked)
    assert bench.deadline(bench.near) == seconds
    bench.pass_time(seconds - 0.001)
    assert bench.waits(irp)
    bench.pass_time(0.001)
    assert bench.ended(irp) == (NtStatus.IO_TIMEOUT, "C9")
    assert bench.near.state(here) is State.ASSOCIATED
    assert bench.deadline(bench.near) is None
    assert not bench.segment.links


def test_c8_success_needs_a_listener() -> None:
    bench = Bench()
    here = bench.near.associated()
    bench.far.associated(7_000)
    assert bench.ended(bench.near.connect(here, bench.there))[0] is NtStatus.REMOTE_NOT_LISTENING
    there = bench.far.associated(7_000)
    bench.far.listen(there)
    assert bench.ended(bench.near.connect(here, bench.there))[0] is NtStatus.SUCCESS


def test_c9_each_way_a_connect_can_fail_has_its_status() -> None:
    bench = Bench(unknown_host_status=NtStatus.BAD_NETWORK_PATH)
    here = bench.near.associated()
    nobody = bench.near.connect(here, SocketAddress("10.77.9.9", 5))
    assert bench.ended(nobody) == (NtStatus.BAD_NETWORK_PATH, "C9")
    closed = bench.near.connect(here, bench.there)
    assert bench.ended(closed) == (NtStatus.REMOTE_NOT_LISTENING, "C9")
    there = bench.far.associated(7_000)
    bench.far.listen(there, query=True)
    refused = bench.near.connect(here, bench.there)
    bench.far.disconnect(there, ABORT)
    assert bench.ended(refused) == (NtStatus.CONNECTION_REFUSED, "C9")
    assert bench.near.state(here) is State.ASSOCIATED


def test_c10_both_sides_learn_of_the_peer_and_its_user_data() -> None:
    bench = Bench()
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there, query=True)
    here = bench.near.associated(6_000)
    connect = bench.near.connect(here, bench.there, user_data=b"knock")
    assert bench.returned(listen) == (SocketAddress(bench.near.port.host, 6_000), b"knock")
    accept = bench.far.accept(there, user_data=b"come in")
    assert bench.returned(accept).remote == SocketAddress(bench.near.port.host, 6_000)
    assert bench.returned(connect) == (bench.there, b"come in")


def test_c10_more_user_data_than_the_provider_carries_is_refused() -> None:
    bench = Bench()
    here = bench.near.associated()
    long = bench.near.connect(here, bench.there, user_data=bytes(257))
    assert bench.ended(long) == (NtStatus.INVALID_PARAMETER, "C10")
    there = bench.far.associated(7_000)
    bench.far.listen(there, query=True)
    bench.near.connect(here, bench.there, user_data=bytes(256))
    assert bench.ended(bench.far.accept(there, user_data=bytes(257))) == (NtStatus.INVALID_PARAMETER, "C10")
    assert bench.far.state(there) is State.OFFERED
    assert bench.ended(bench.far.accept(there))[0] is NtStatus.SUCCESS


def test_c11_c20_data_may_come_before_the_completions_are_seen() -> None:
    """The effects of one call are performed in order, and data of both sides may be among them."""
    bench = Bench()
    there = bench.far.associated(7_000)
    bench.far.listen(there)
    here = bench.near.associated()
    connect = build_connection_request(here, Connect(PeerInformation(bench.there)))
    effects = bench.near.transport.submit(connect, bench.now)
    sent = bench.far.send(there, b"early")
    assert bench.far.state(there) is State.CONNECTED
    assert bench.ended(sent)[0] is NtStatus.SUCCESS
    assert bench.waits(connect), "nobody has been told yet"
    assert bench.near.got(here) == (b"early", NtStatus.SUCCESS)
    bench.perform(effects)
    assert bench.ended(connect)[0] is NtStatus.SUCCESS


def test_c12_a_cancelled_connect_leaves_nothing_behind() -> None:
    bench = Bench()
    there = bench.far.associated(7_000)
    bench.far.listen(there, query=True)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there)
    bench.near.cancel(connect)
    assert bench.ended(connect) == (NtStatus.CANCELLED, "C12")
    assert bench.near.state(here) is bench.far.state(there) is State.ASSOCIATED
    assert bench.ended(bench.far.accept(there)) == (NtStatus.INVALID_CONNECTION, "C17")
    assert not bench.segment.links
    bench.near.cancel(connect)  # once more changes nothing: it has its one completion


def test_c12_a_connect_cancelled_before_it_came_is_not_begun() -> None:
    bench = Bench()
    here = bench.near.associated()
    irp = build_connection_request(here, Connect(PeerInformation(bench.there)))
    bench.near.cancel(irp)
    bench.perform(bench.near.transport.submit(irp, bench.now))
    assert bench.ended(irp)[0] is NtStatus.CANCELLED
    assert bench.near.state(here) is State.ASSOCIATED


def test_c13_a_plain_listen_is_connected_by_the_first_offer() -> None:
    bench = Bench()
    here, there = bench.connected()
    assert bench.near.core(here).remote == bench.there
    assert bench.far.core(there).remote is not None
    assert bench.ended(bench.far.listen(there)) == (NtStatus.INVALID_CONNECTION, "C13")


def test_c14_an_offer_waits_for_accept_and_is_rejected_after_a_second() -> None:
    bench = Bench()
    there = bench.far.associated(7_000)
    listen = bench.far.listen(there, query=True)
    here = bench.near.associated()
    connect = bench.near.connect(here, bench.there, timeout=60)
    assert bench.ended(listen)[0] is NtStatus.SUCCESS
    assert bench.far.state(there) is State.OFFERED
    assert bench.waits(connect)
    assert bench.deadline(bench.far) == 1.0
    bench.pass_time(1.0)
    assert bench.ended(connect) == (NtStatus.CONNECTION_REFUSED, "C9")
    assert bench.far.state(there) is State.ASSOCIATED


def test_c14_without_delayed_acceptance_the_listen_fails() -> None:
    bench = Bench(supports_query_accept=False)
    there = bench.far.associated(7_000)
    assert bench.ended(bench.far.listen(there, query=True)) == (NtStatus.INVALID_PARAMETER, "C14")
    assert bench.waits(bench.far.listen(there))


def test_c15_t19_a_listen_takes_offers_from_whom_it_names() -> None:
    bench = Bench()
    near = bench.near.port.host
    here = bench.near.associated(6_000)
    for wanted, fits in (
        (SocketAddress("10.77.9.9", 0), False),
        (SocketAddress(near, 6_001), False),
        (SocketAddress(near, 0), True),
        (SocketAddress(near, 6_000), True),
        (SocketAddress("0.0.0.0", 0), True),
        (pack_transport_address(SocketAddress(near, 6_000)), True),
        (bytes(22), True),
        (b"", True),
    ):
        there = bench.far.associated(7_000)
        listen = bench.far.listen(there, wanted=wanted)
        connect = bench.near.connect(here, bench.there)
        assert bench.waits(listen) is not fits, wanted
        assert (bench.ended(connect)[0] is NtStatus.SUCCESS) is fits
        bench.far.close(there)
        if fits:
            bench.near.state(here)
    unreadable = bench.far.listen(bench.far.associated(7_001), wanted=b"\x01\x00")
    assert bench.ended(unreadable)[0] is NtStatus.INVALID_ADDRESS


def test_c16_listens_are_served_in_the_order_they_came() -> None:
    bench = Bench()
    listens = []
    for _ in range(3):
        listens.append(bench.far.listen(bench.far.associated(7_000)))
    bench.far.cancel(listens[1])
    assert bench.ended(listens[1]) == (NtStatus.CANCELLED, "C12")
    for expected in (listens[0], listens[2]):
        assert bench.waits(expected)
        connect = bench.near.connect(bench.near.associated(), bench.there)
        assert bench.ended(connect)[0] is bench.ended(expected)[0] is NtStatus.SUCCESS
    late = bench.near.connect(bench.near.associated(), bench.there)
    assert bench.ended(late)[0] is NtStatus.REMOTE_NOT_LISTENING


def test_c17_accept_is_for_an_offered_endpoint() -> None:
    bench = Bench()
    there = bench.far.associated(7_000)
    assert bench.far.refused(there, Accept()) == (NtStatus.INVALID_CONNECTION, "C17")
    bench.far.listen(there, query=True)
    assert bench.far.refused(there, Accept()) == (NtStatus.INVALID_CONNECTION, "C17")
    connect = bench.near.connect(bench.near.associated(), bench.there)
    assert bench.ended(bench.far.accept(there))[0] is bench.ended(connect)[0] is NtStatus.SUCCESS
    assert bench.far.refused(there, Accept()) == (NtStatus.INVALID_CONNECTION, "C17")


def test_cr10_cr11_endpoints_by_attribute_and_not_on_a_datagram_device() -> None:
    bench = Bench()
    name = b"ConnectionContext"
    attributes = bytes((0, 0, 0, 0, 0, len(name), 8, 0)) + name + b"\0" + b"8 bytes!"
    opened = bench.near.transport.create("lan", attributes, ShareAccess.EXCLUSIVE, "client")
    assert opened.status is NtStatus.SUCCESS
    assert bench.near.core(opened.handle).context == b"8 bytes!"
    refused = bench.near.transport.create("udp", attributes, ShareAccess.EXCLUSIVE, "client")
    assert (refused.status, refused.rule) == (NtStatus.INVALID_PARAMETER, "CR11")


def test_cl2_an_address_that_goes_ends_the_listens_on_it() -> None:
    bench = Bench()
    address = bench.far.address(7_000)
    there = bench.far.endpoint()
    bench.far.status(there, Associate(address))
    listen = bench.far.listen(there)
    bench.far.close(address)
    assert bench.ended(listen) == (NtStatus.CANCELLED, "CL2")
    assert bench.ended(bench.far.listen(there)) == (NtStatus.ADDRESS_CLOSED, "CL8")
    assert bench.far.disassociate(there) is NtStatus.SUCCESS


def test_cl8_a_connection_outlives_its_address_object() -> None:
    bench = Bench()
    address = bench.near.address()
    here = bench.near.endpoint()
    bench.near.status(here, Associate(address))
    there = bench.far.associated(7_000)
    bench.far.listen(there)
    bench.near.connect(here, bench.there)
    bench.near.close(address)
    bench.near.send(here, b"still here")
    assert bench.far.got(there) == (b"still here", NtStatus.SUCCESS)

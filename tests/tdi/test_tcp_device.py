"""The TCP device without a socket: what it asks of its shell, and what becomes of the answers."""

from __future__ import annotations

import struct
from itertools import permutations

import pytest

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.connection_requests import (
    Associate,
    Connect,
    Listen,
    PeerInformation,
    Receive,
    Send,
    build_connection_request,
)
from emulator.tdi.constants import QueryType, ShareAccess
from emulator.tdi.effects import AcceptStreams, BindStream, CloseStream, Complete, ConnectStream, Effect, StreamChanged
from emulator.tdi.irp import Irp, build_send_datagram
from emulator.tdi.profile import Profile
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.tdi.transport import Transport
from tests.tdi.connection_bench import SHARED

PEER = SocketAddress("127.0.0.1", 9_000)


class Bench:
    """One machine, and the shell's part played by the test."""

    def __init__(self, *own: str) -> None:
        self.transport = Transport("vm1", Profile(), {}, own or ("127.0.0.1", "::1"))
        self.tcp = self.transport.tcp
        self.bound: list[list[str]] = []

    def address(self, port: int = 5_000, share: ShareAccess = SHARED, host: str = "127.0.0.1") -> int:
        outcome = self.transport.open_address("\\Device\\Tcp", SocketAddress(host, port), share, "client")
        if outcome.status is NtStatus.PENDING:
            [effect] = outcome.effects
            assert isinstance(effect, BindStream)
            self.bound.append([effect.local.host, *(also for _, also in effect.also)])
            outcome = self.transport.stream_bound(effect.key, SocketAddress(effect.local.host, port or 40_001))
        assert outcome.status is NtStatus.SUCCESS, outcome
        return outcome.handle

    def endpoint(self, address: int) -> int:
        handle = self.transport.open_connection("tcp", bytes(8), "client").handle
        assert self.submit(handle, Associate(address))[1].status is NtStatus.SUCCESS
        return handle

    def submit(self, handle: int, request: object) -> tuple[list[Effect], Irp]:
        irp = build_connection_request(handle, request)  # type: ignore[arg-type]  # whatever a test asks
        return self.transport.submit(irp, 1.0), irp


def test_one_bound_socket_stands_behind_all_opens_of_an_address() -> None:
    bench = Bench()
    first, second = bench.address(), bench.address()
    outcome = bench.transport.open_address("tcp", SocketAddress("127.0.0.1", 5_000), ShareAccess.EXCLUSIVE, "client")
    assert outcome.status is NtStatus.SHARING_VIOLATION
    bench.transport.cleanup(first, 1.0)
    assert bench.transport.close(first) == []
    bench.transport.cleanup(second, 1.0)
    assert bench.transport.close(second) == [CloseStream(1, abort=False)]


def test_cr7_t31_the_chosen_port_is_known_at_once_and_a_wildcard_stays_one() -> None:
    bench = Bench()
    for host, expected in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")):
        handle = bench.address(0, host=host)
        data = bench.transport.query(handle, QueryType.ADDRESS_INFO, 26).data
        assert data[4:] == pack_transport_address(SocketAddress(expected, 40_001))
        bench.transport.cleanup(handle, 1.0)
        bench.transport.close(handle)


def test_cr8_a_bind_that_fails_refuses_the_open() -> None:
    bench = Bench()
    outcome = bench.transport.open_address("tcp", SocketAddress("127.0.0.1", 80), SHARED, "client")
    with pytest.raises(Misuse, match="has not been answered"):
        bench.transport.open_address("tcp", SocketAddress("127.0.0.1", 81), SHARED, "client")
    refused = bench.transport.stream_failed(1, NtStatus.ACCESS_DENIED, "not allowed")
    assert (refused.status, refused.handle, refused.rule) == (NtStatus.ACCESS_DENIED, 0, "CR8")
    assert outcome.handle > 0
    with pytest.raises(Misuse, match="no BindStream"):
        bench.transport.stream_failed(1, NtStatus.ACCESS_DENIED, "again")
    elsewhere = bench.transport.open_address("tcp", SocketAddress("192.0.2.1", 80), SHARED, "client")
    assert (elsewhere.status, elsewhere.rule) == (NtStatus.INVALID_ADDRESS, "CR6")


def test_s1_o7_there_are_no_datagrams_and_no_groups() -> None:
    bench = Bench()
    address = bench.address()
    irp = build_send_datagram(address, PEER, b"x")
    [complete] = bench.transport.submit(irp, 1.0)
    assert isinstance(complete, Complete)
    assert (complete.status, complete.rule) == (NtStatus.INVALID_DEVICE_REQUEST, "S1")
    assert bench.transport.burst_way(address, PEER, [1, 2]) is None
    for change in (bench.transport.join, bench.transport.leave):
        with pytest.raises(Refused, match="one peer") as refused:
            change(address, "239.1.2.3")
        assert refused.value.status is NtStatus.INVALID_DEVICE_REQUEST


def test_6_1_what_the_provider_says_of_itself() -> None:
    bench = Bench()
    control = bench.transport.open_control("tcp", "client").handle
    data = bench.transport.query(control, QueryType.PROVIDER_INFO, 40).data
    version, send, user_data, datagram, flags = struct.unpack_from("<5I", data)
    assert (version, send, user_data, datagram) == (0x200, 262_144, 0, 0)
    # The documents' 0xB8B without expedited data, which real TCP has only as one urgent byte.
    assert flags == 0xB8B & ~0x100
    assert bench.transport.query(control, QueryType.MAX_DATAGRAM_INFO, 4).data == bytes(4)


def test_an_attempt_ends_with_what_the_shell_found() -> None:
    bench = Bench()
    address = bench.address()
    handle = bench.endpoint(address)
    effects, irp = bench.submit(handle, Connect(PeerInformation(PEER)))
    assert effects == [ConnectStream(2, (1,), PEER)]
    link = bench.tcp.link(2)
    assert link is not None
    close, complete = link.broken(NtStatus.CONNECTION_REFUSED, "nobody", 2.0)
    assert close == CloseStream(2, abort=True)
    assert isinstance(complete, Complete)
    assert (complete.irp, complete.status) == (irp, NtStatus.CONNECTION_REFUSED)
    assert bench.tcp.link(2) is None
    assert link.connected(2.0) == link.arrived(b"late", 2.0) == link.finished(2.0) == link.took(1, 2.0) == []
    assert link.piece() is None
    assert link.room == 0


def test_a_connection_asks_for_what_there_is_room_for() -> None:
    bench = Bench()
    handle = bench.endpoint(bench.address())
    bench.submit(handle, Connect(PeerInformation(PEER)))
    link = bench.tcp.link(2)
    assert link is not None
    complete, look = link.connected(2.0)
    assert isinstance(complete, Complete)
    assert look == StreamChanged(2)
    assert link.room == 65_536
    link.arrived(bytes(65_536), 2.0)
    assert link.room == 0
    effects, _ = bench.submit(handle, Receive(1_000))
    assert StreamChanged(2) in effects
    assert link.room == 1_000
    bench.submit(handle, Send(b"out"))
    piece = link.piece()
    assert piece is not None
    assert bytes(piece.data) == b"out"
    assert link.took(1, 3.0) == []
    assert [type(each) for each in link.took(2, 3.0)] == [Complete]
    assert not link.end_is_due


def test_nobody_is_accepted_while_nobody_listens_and_a_host_may_refuse() -> None:
    bench = Bench()
    address = bench.address()
    handle = bench.endpoint(address)
    assert not bench.tcp.wants_accept(1)
    assert not bench.tcp.wants_accept(99)
    effects, irp = bench.submit(handle, Listen())
    assert effects == [AcceptStreams(1)]
    assert bench.tcp.wants_accept(1)
    ended = bench.tcp.listen_failed(1, NtStatus.ADDRESS_ALREADY_EXISTS, "taken")
    assert irp.status is NtStatus.ADDRESS_ALREADY_EXISTS
    assert any(isinstance(each, Complete) for each in ended)
    bench.submit(handle, Listen())
    key, effects = bench.tcp.offered(1, PEER, 2.0)
    assert not bench.tcp.wants_accept(1)
    assert StreamChanged(key) in effects
    late, effects = bench.tcp.offered(1, PEER, 2.0)
    assert effects == [CloseStream(late, abort=True)]


ONE, TWO, ANY = "127.0.0.1", "127.0.0.2", "0.0.0.0"


@pytest.mark.parametrize(
    ("hosts", "bound"),
    [
        ([ANY, TWO, ONE], [[ONE, TWO]]),
        ([TWO, ANY, ONE], [[TWO], [ONE]]),
        ([ONE, ANY, TWO], [[ONE], [TWO]]),
        ([ONE, TWO, ANY], [[ONE], [TWO]]),
    ],
)
def test_cr8_a_wildcard_and_single_addresses_share_in_any_order(hosts: list[str], bound: list[list[str]]) -> None:
    for order in permutations(range(3)):
        bench = Bench(ONE, TWO)
        handles = [bench.address(host=host) for host in hosts]
        assert bench.bound == bound
        standing = list(hosts)
        for number in order:
            bench.transport.cleanup(handles[number], 0.0)
            effects = bench.transport.close(handles[number])
            standing.remove(hosts[number])
            held = {ONE, TWO} if ANY in standing else set(standing)
            assert {holder.bound.host for holder in bench.tcp._holders.values()} == held
            assert all(isinstance(effect, CloseStream) for effect in effects)


def test_c16_who_is_open_on_the_address_is_asked_before_the_wildcard() -> None:
    bench = Bench(ONE, TWO)
    wild = bench.address(host=ANY)
    one = bench.address(host=TWO)
    on_wild, on_one = bench.endpoint(wild), bench.endpoint(one)
    first, second = (bench.submit(handle, Listen())[1] for handle in (on_wild, on_one))
    assert [bench.tcp.wants_accept(key) for key in (1, 2)] == [True, True]
    bench.tcp.offered(2, PEER, 1.0)
    assert (first.status, second.status) == (NtStatus.PENDING, NtStatus.SUCCESS)
    third = bench.submit(bench.endpoint(one), Listen())[1]
    bench.tcp.offered(1, PEER, 1.0)
    assert (first.status, third.status) == (NtStatus.SUCCESS, NtStatus.PENDING), "what came to another address"
    assert [bench.tcp.wants_accept(key) for key in (1, 2)] == [False, True]

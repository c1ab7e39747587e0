"""Real UDP sockets: trains and single datagrams alike, late errors kept apart, destinations told, groups.

Everything stays on the loopback. Nothing here waits for time to pass: loopback delivery is done when a send returns.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.daemon.interfaces import broadcast_addresses, interface_index
from emulator.daemon.trains import send_burst
from emulator.daemon.udp import UdpSocket
from emulator.status import NtStatus
from emulator.tdi.groups import SendOptions
from emulator.tdi.structures import SocketAddress
from tests.support.processes import free_udp_port

BUFFER_BYTES = 1 << 20
HOSTS = ("127.0.0.1", "::1")
GROUP = "239.77.3.2"


@contextmanager
def opened(host: str = "127.0.0.1", port: int = 0, *, shared_port: bool = False) -> Iterator[UdpSocket]:
    made = UdpSocket(SocketAddress(host, port), BUFFER_BYTES, shared_port=shared_port)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def plain(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A socket that knows nothing of trains."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        made.bind((host, 0))
        made.settimeout(5.0)
        yield made


def address_of(one: socket.socket) -> SocketAddress:
    return SocketAddress(*one.getsockname()[:2])


class Came(NamedTuple):
    """One datagram that arrived."""

    source: SocketAddress
    destination: str | None
    data: bytes


def arrived(one: UdpSocket) -> list[Came]:
    return [Came(source, host, data) for source, host, datagrams in one.receive() for data in datagrams]


def readable(one: UdpSocket) -> list[Came]:
    """What has arrived; waits for the first."""
    assert select.select([one.socket], [], [], 5.0)[0], "nothing came"
    return arrived(one)


def burst(lengths: list[int]) -> bytes:
    """Datagrams that differ, back to back."""
    return b"".join(bytes((number + index) & 0xFF for index in range(length)) for number, length in enumerate(lengths))


def cut(lengths: list[int], data: bytes) -> list[bytes]:
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return pieces


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize(
    "lengths",
    [
        [64] * 100,
        [1_400] * 50,
        [5, 5, 3, 5],
        [5, 0, 5, 5],
        [0],
        [1, 2, 3],
        [10, 10, 11, 10],
        [60_000, 60_000],
        [200] * 65,
    ],
)
def test_a_burst_arrives_as_it_was_sent_with_trains_or_without(host: str, trains: bool, lengths: list[int]) -> None:
    data = burst(lengths)
    with opened(host) as sender, opened(host) as ours, plain(host) as other:
        for receiver in (ours.local, address_of(other)):
            end = send_burst(sender, receiver, lengths, memoryview(data), trains=trains)
            assert end == (len(lengths), len(data), None)
        heard: list[Came] = []
        while len(heard) < len(lengths):
            heard += readable(ours)
        assert [each.data for each in heard] == cut(lengths, data)
        assert {each.source for each in heard} == {sender.local}
        assert {each.destination for each in heard} == {host}
        assert [other.recv(65_536) for _ in lengths] == cut(lengths, data)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 1, 7, 8, 1_400]), min_size=1, max_size=40))
def test_any_burst_arrives_as_it_was_sent(lengths: list[int]) -> None:
    data = burst(lengths)
    with opened() as sender, opened() as receiver:
        assert send_burst(sender, receiver.local, lengths, memoryview(data)).datagrams == len(lengths)
        heard: list[Came] = []
        while len(heard) < len(lengths):
            heard += readable(receiver)
        assert [each.data for each in heard] == cut(lengths, data)


class _NoTrains(UdpSocket):
    """A socket whose kernel refuses trains."""

    def send_train(self, data: memoryview, each_bytes: int, destination: SocketAddress) -> bool:
        raise OSError(22, "no trains here")


def test_a_train_that_fails_is_sent_again_singly() -> None:
    lengths = [64] * 10 + [3]
    data = burst(lengths)
    sender = _NoTrains(SocketAddress("127.0.0.1", 0), BUFFER_BYTES)
    with opened() as receiver:
        try:
            assert send_burst(sender, receiver.local, lengths, memoryview(data)) == (11, len(data), None)
        finally:
            sender.close()
        assert [each.data for each in readable(receiver)] == cut(lengths, data)


def test_a_burst_says_which_datagram_the_host_refuses() -> None:
    lengths = [8, 8, 8]
    with opened() as sender:
        end = send_burst(sender, SocketAddress("192.0.2.1", 9), lengths, memoryview(bytes(24)))
    assert (end.datagrams, end.byte_count) == (0, 0)
    assert isinstance(end.error, OSError), "a loopback address has no way to other networks"


def test_s25b_a_late_error_is_told_with_the_peer_and_fails_no_other_send() -> None:
    nobody = SocketAddress("127.0.0.1", free_udp_port())
    with opened() as sender, opened() as listener:
        assert sender.send(b"to nobody", nobody)
        assert sender.send(b"to somebody", listener.local), "the error of the first must not become this one's"
        assert [each.data for each in readable(listener)] == [b"to somebody"]
        assert sender.late_errors() == [(NtStatus.PORT_UNREACHABLE, nobody)]
        assert sender.late_errors() == []


def test_s25b_many_late_errors_between_sends_fail_none_of_them() -> None:
    nobody = SocketAddress("127.0.0.1", free_udp_port())
    with opened() as sender, opened() as listener:
        for number in range(50):
            assert sender.send(b"to nobody", nobody)
            assert sender.send(bytes([number]), listener.local)
        assert [each.data[0] for each in readable(listener)] == list(range(50))
        assert {peer for _, peer in sender.late_errors()} == {nobody}


def test_s25b_a_late_error_does_not_stand_in_the_way_of_what_arrives() -> None:
    nobody = SocketAddress("127.0.0.1", free_udp_port())
    with opened() as ours, plain() as other:
        assert ours.send(b"to nobody", nobody)
        other.sendto(b"hello", ours.local)
        assert [each.data for each in readable(ours)] == [b"hello"]
        assert [status for status, _ in ours.late_errors()] == [NtStatus.PORT_UNREACHABLE]


def test_s25b_late_errors_of_version_6() -> None:
    nobody = SocketAddress("::1", free_udp_port("::1"))
    with opened("::1") as sender:
        assert sender.send(b"to nobody", nobody)
        assert sender.late_errors() == [(NtStatus.PORT_UNREACHABLE, nobody)]


@pytest.mark.parametrize(("wildcard", "host"), [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), ("::", "::1")])
def test_a_wildcard_socket_tells_where_each_datagram_was_sent_to(wildcard: str, host: str) -> None:
    with opened(wildcard) as ours, plain(host) as other:
        other.sendto(b"x", (host, ours.local.port))
        assert [(each.destination, each.data) for each in readable(ours)] == [(host, b"x")]


def test_a_group_is_heard_by_its_members_only_and_until_they_leave() -> None:
    with opened() as sender, opened(GROUP, free_udp_port(), shared_port=True) as member:
        everyone = member.local
        assert sender.send(b"before", everyone)
        member.join(GROUP, "127.0.0.1")
        assert sender.send(b"during", everyone)
        assert [(each.destination, each.data) for each in readable(member)] == [(GROUP, b"during")]
        member.leave(GROUP, "127.0.0.1")
        assert sender.send(b"after", everyone)
        assert member.receive() == []


def test_two_members_on_one_port_each_get_a_copy() -> None:
    port = free_udp_port()
    with (
        opened() as sender,
        opened(GROUP, port, shared_port=True) as one,
        opened(GROUP, port, shared_port=True) as two,
    ):
        for member in (one, two):
            member.join(GROUP, "127.0.0.1")
        sender.send(b"all", one.local)
        assert [each.data for each in readable(one)] == [each.data for each in readable(two)] == [b"all"]


def test_options_are_the_sockets_and_can_be_taken_back() -> None:
    with opened() as sender:
        sender.obey(
            SendOptions(
                ttl=7, multicast_ttl=3, type_of_service=0x10, multicast_interface="127.0.0.1", multicast_loop=False
            )
        )
        wanted = {socket.IP_MULTICAST_LOOP: 0, socket.IP_TTL: 7, socket.IP_MULTICAST_TTL: 3, socket.IP_TOS: 0x10}
        assert {name: sender.socket.getsockopt(socket.IPPROTO_IP, name) for name in wanted} == wanted
        sender.obey(SendOptions())
        assert sender.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64
        assert sender.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0


def test_options_of_version_6() -> None:
    with opened("::1") as sender:
        sender.obey(replace(SendOptions(), ttl=9, multicast_ttl=4, multicast_interface="::1"))
        assert sender.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) == 9
        index = sender.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF)
        assert index == interface_index("::1") == interface_index("127.0.0.1") == socket.if_nametoindex("lo")


def test_an_address_no_interface_has_is_numbered_0() -> None:
    assert interface_index("192.0.2.1") == interface_index("2001:db8::1") == 0


def test_broadcast_addresses_are_those_of_own_interfaces() -> None:
    assert broadcast_addresses(["127.0.0.1", "192.0.2.1", "::1"]) <= {"127.255.255.255"}
    assert broadcast_addresses(["127.0.0.1"]) <= broadcast_addresses(["0.0.0.0"])

"""One real UDP socket: datagrams in and out, singly or as a train, and late errors kept apart from both.

A *train* is several datagrams of one length to one destination in one system call: the kernel takes it apart
(UDP_SEGMENT), or hands one over as it came in (UDP_GRO). Nobody outside can tell. A kernel without either is served
with single calls.

With IP_RECVERR an ICMP error that comes back later waits in the socket's error queue, but also fails the next call on
the socket, whatever that is about. So a call that fails is tried once more after the queue has been emptied; only what
fails then has failed itself.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from emulator.daemon.interfaces import interface_index
from emulator.status import NtStatus
from emulator.tdi.groups import DEFAULT_OPTIONS, SendOptions
from emulator.tdi.structures import SocketAddress

LARGEST_DATAGRAM = 65_536
# Datagrams taken in one turn before other sockets get theirs, and late errors in one go.
DRAIN_DATAGRAMS = 128
# As many of them when they come as trains, where one call brings up to 64.
DRAIN_TRAINED = 1_024
DRAIN_ERRORS = 64
# What the kernel takes as one train: so many datagrams, so many bytes with one IPv4 header around them all.
TRAIN_DATAGRAMS = 64
TRAIN_BYTES = 65_507
# Sources seen lately on one socket, kept so that their addresses are made once.
SOURCES_KEPT = 256

# Linux's numbers, where Python 3.11 has no names for them.
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
IP_PKTINFO, IP_RECVERR, IP_MULTICAST_ALL = 8, 11, 49
IPV6_RECVERR, IPV6_MULTICAST_ALL = 25, 29
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3
_EXTENDED_ERROR = struct.Struct("=IBBBB")
_SEGMENT = struct.Struct("=H")
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
_ERROR_ANCILLARY_BYTES = 512
_ERROR_QUEUE = int(socket.MSG_ERRQUEUE)

_STATUSES = {
    errno.EADDRINUSE: NtStatus.ADDRESS_ALREADY_EXISTS,
    errno.EADDRNOTAVAIL: NtStatus.INVALID_ADDRESS,
    errno.EAFNOSUPPORT: NtStatus.INVALID_ADDRESS,
    errno.EACCES: NtStatus.ACCESS_DENIED,
    errno.EPERM: NtStatus.ACCESS_DENIED,
    errno.ENETUNREACH: NtStatus.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: NtStatus.HOST_UNREACHABLE,
    errno.ECONNREFUSED: NtStatus.PORT_UNREACHABLE,
    errno.ENOPROTOOPT: NtStatus.PROTOCOL_UNREACHABLE,
    errno.EMSGSIZE: NtStatus.INVALID_PARAMETER,
    errno.EINVAL: NtStatus.INVALID_ADDRESS,
    errno.ENODEV: NtStatus.INVALID_ADDRESS,
}
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_buffer = memoryview(bytearray(LARGEST_DATAGRAM))
_buffers = [_buffer]


def status_of(error: OSError) -> NtStatus:
    """The NTSTATUS an error of the host's stands for."""
    return status_of_errno(error.errno or 0)


def status_of_errno(number: int) -> NtStatus:
    """The same for an error's number."""
    if number in _NO_ROOM:
        return NtStatus.INSUFFICIENT_RESOURCES
    return _STATUSES.get(number, NtStatus.UNSUCCESSFUL)


class Arrived(NamedTuple):
    """Datagrams that came one after another from one source; ``destination`` is the host address they were sent to."""

    source: SocketAddress
    destination: str | None
    datagrams: list[bytes]


class LateError(NamedTuple):
    """What became of an earlier datagram to ``peer``: an ICMP error came back for it."""

    status: NtStatus
    peer: SocketAddress | None


class UdpSocket:
    """One bound socket. Nothing here waits: the machine's task does.

    With ``shared_port`` others may bind the same: for addresses whose datagrams everybody gets a copy of anyway, which
    are broadcast addresses and groups. ``interface`` is the own address on the one a group of IPv6 is meant on.
    """

    __slots__ = (
        "_destination",
        "_late",
        "_options",
        "_sources",
        "is_version_6",
        "is_wildcard",
        "local",
        "socket",
        "waits_to_write",
    )

    def __init__(
        self, local: SocketAddress, receive_bytes: int, *, shared_port: bool = False, interface: str | None = None
    ) -> None:
        self.is_version_6 = ":" in local.host
        family = socket.AF_INET6 if self.is_version_6 else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._set_up(receive_bytes, shared_port)
            scope = interface_index(interface) if interface is not None else 0
            self.socket.bind((*local, 0, scope) if self.is_version_6 else tuple(local))
        except OSError:
            self.socket.close()
            raise
        self.local = _socket_address(self.socket.getsockname())
        self.is_wildcard = self.local.host in ("0.0.0.0", "::")
        self._destination = None if self.is_wildcard else self.local.host
        if self.is_wildcard:
            self._set(socket.IPPROTO_IP, IP_PKTINFO, socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self.is_version_6 and not shared_port:
            index = interface_index(self.local.host)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        self.waits_to_write = False
        self._options = DEFAULT_OPTIONS
        self._late: list[LateError] = []
        self._sources: dict[tuple[str | int, ...], SocketAddress] = {}

    def _set_up(self, receive_bytes: int, shared_port: bool) -> None:
        if self.is_version_6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared_port))
        # The kernel gives what it allows, without saying so when that is less.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._set(socket.IPPROTO_IP, IP_RECVERR, socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        for level, name, value in (
            (SOL_UDP, UDP_GRO, 1),
            (socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            if self.is_version_6
            else (socket.IPPROTO_IP, IP_MULTICAST_ALL, 0),
        ):
            try:
                self.socket.setsockopt(level, name, value)
            except OSError:  # an older kernel: datagrams come singly, and the bound group keeps others out
                continue

    def _set(self, level: int, name: int, level_6: int, name_6: int, value: int) -> None:
        self.socket.setsockopt(*((level_6, name_6) if self.is_version_6 else (level, name)), value)

    # ---- out

    def send(self, data: bytes | memoryview, destination: SocketAddress) -> bool:
        """Send one datagram; False when the socket has no room now. Raises OSError for a refusal of the host's."""
        for last_try in (False, True):
            try:
                self.socket.sendto(data, destination)
            except BlockingIOError:
                return False
            except OSError:
                if not self._collect() and last_try:
                    raise
            else:
                return True
        # Errors keep coming back faster than this can send; it was still not this one's.
        return False

    def send_train(self, data: memoryview, each_bytes: int, destination: SocketAddress) -> bool:
        """Send datagrams of one length, the last one perhaps shorter, in one call; False when there is no room now.

        Raises OSError when the kernel takes none of it, which says nothing about any single one.
        """
        ancillary = [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(each_bytes))]
        try:
            self.socket.sendmsg([data], ancillary, 0, destination)
        except BlockingIOError:
            return False
        return True

    def obey(self, options: SendOptions) -> None:
        """What is sent from now on leaves so. Raises OSError."""
        if options is self._options or options == self._options:
            return
        six = socket.IPPROTO_IPV6
        four = socket.IPPROTO_IP
        self._set(four, socket.IP_TTL, six, socket.IPV6_UNICAST_HOPS, -1 if options.ttl is None else options.ttl)
        self._set(four, socket.IP_MULTICAST_TTL, six, socket.IPV6_MULTICAST_HOPS, options.multicast_ttl)
        self._set(four, socket.IP_MULTICAST_LOOP, six, socket.IPV6_MULTICAST_LOOP, int(options.multicast_loop))
        self._set(four, socket.IP_TOS, six, socket.IPV6_TCLASS, options.type_of_service)
        interface = options.multicast_interface or (None if self._destination is None else self._destination)
        if self.is_version_6:
            self.socket.setsockopt(six, socket.IPV6_MULTICAST_IF, interface_index(interface) if interface else 0)
        else:
            self.socket.setsockopt(four, socket.IP_MULTICAST_IF, socket.inet_aton(interface or "0.0.0.0"))
        self._options = options

    # ---- in

    def receive(self) -> list[Arrived]:
        """What has arrived, at most one turn's worth."""
        arrived: list[Arrived] = []
        run: list[bytes] = []
        last: tuple[str | int, ...] | None = None
        in_trains = 0
        receive = self.socket.recvmsg_into
        for _ in range(DRAIN_DATAGRAMS):
            try:
                size, ancillary, _flags, name = receive(_buffers, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                # A late error of an earlier send; it belongs to no datagram that arrived.
                self._collect()
                continue
            if not ancillary:
                if name != last:
                    last, run = name, []
                    arrived.append(Arrived(self._sources.get(name) or self._source(name), self._destination, run))
                run.append(bytes(_buffer[:size]))
                continue
            last = None
            destination, each = self._look_at(ancillary)
            each = each or max(size, 1)
            train = [bytes(_buffer[at : min(at + each, size)]) for at in range(0, max(size, 1), each)]
            arrived.append(Arrived(self._sources.get(name) or self._source(name), destination, train))
            in_trains += len(train)
            if in_trains >= DRAIN_TRAINED:
                break
        return arrived

    def _source(self, name: tuple[str | int, ...]) -> SocketAddress:
        if len(self._sources) >= SOURCES_KEPT:
            self._sources.clear()
        source = self._sources[name] = _socket_address(name)
        return source

    def _look_at(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[str | None, int]:
        """The destination of what arrived, and the length of each datagram of a train (0 for a single one)."""
        destination, each = self._destination, 0
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                each = int.from_bytes(data[:4], "little")
            elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                destination = socket.inet_ntoa(data[8:12])
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination = socket.inet_ntop(socket.AF_INET6, data[:16])
        return destination, each

    # ---- late errors

    def late_errors(self) -> list[LateError]:
        """What the error queue held."""
        self._collect()
        late, self._late = self._late, []
        return late

    @property
    def has_late_errors(self) -> bool:
        """Whether some were found while something else was done."""
        return bool(self._late)

    def _collect(self) -> bool:
        """Empty the error queue; whether there was anything in it."""
        found = False
        for _ in range(DRAIN_ERRORS):
            try:
                _data, ancillary, _flags, name = self.socket.recvmsg(0, _ERROR_ANCILLARY_BYTES, _ERROR_QUEUE)
            except OSError:
                break
            found = True
            peer = _socket_address(name) if name else None
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                    number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
                    # What the host itself refuses, it refuses to the call that asks for it.
                    if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6) and len(self._late) < DRAIN_ERRORS:
                        self._late.append(LateError(status_of_errno(number), peer))
        return found

    # ---- groups

    def join(self, group: str, interface: str) -> None:
        """Become a member of a group on the interface with that address. Raises OSError."""
        self._membership(socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP, group, interface)

    def leave(self, group: str, interface: str) -> None:
        """End the membership. Raises OSError."""
        self._membership(socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP, group, interface)

    def _membership(self, name: int, name_6: int, group: str, interface: str) -> None:
        if self.is_version_6:
            request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", interface_index(interface))
            self.socket.setsockopt(socket.IPPROTO_IPV6, name_6, request)
        else:
            request = socket.inet_aton(group) + socket.inet_aton(interface)
            self.socket.setsockopt(socket.IPPROTO_IP, name, request)

    def close(self) -> None:
        """Close it; memberships end with it."""
        self.socket.close()


def _socket_address(name: tuple[str | int, ...]) -> SocketAddress:
    return SocketAddress(str(name[0]).partition("%")[0], int(name[1]))

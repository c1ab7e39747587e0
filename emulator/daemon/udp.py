"""Real UDP sockets behind TDI addresses: one for each local transport address, drained whole at each wake-up."""

from __future__ import annotations

import errno
import socket

from emulator.status import NtStatus
from emulator.tdi.structures import SocketAddress

LARGEST_DATAGRAM = 65_536
# Datagrams taken in one turn before other sockets get theirs.
DRAIN_DATAGRAMS = 128

_STATUSES = {
    errno.EADDRINUSE: NtStatus.ADDRESS_ALREADY_EXISTS,
    errno.EADDRNOTAVAIL: NtStatus.INVALID_ADDRESS,
    errno.EAFNOSUPPORT: NtStatus.INVALID_ADDRESS,
    errno.EACCES: NtStatus.ACCESS_DENIED,
    errno.EPERM: NtStatus.ACCESS_DENIED,
    errno.ENETUNREACH: NtStatus.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: NtStatus.HOST_UNREACHABLE,
    errno.EMSGSIZE: NtStatus.INVALID_PARAMETER,
    errno.EINVAL: NtStatus.INVALID_ADDRESS,
}
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_buffer = memoryview(bytearray(LARGEST_DATAGRAM))


def status_of(error: OSError) -> NtStatus:
    """The NTSTATUS an error of the host's stands for."""
    if error.errno in _NO_ROOM:
        return NtStatus.INSUFFICIENT_RESOURCES
    return _STATUSES.get(error.errno or 0, NtStatus.UNSUCCESSFUL)


class UdpSocket:
    """One bound socket. Nothing here waits: the machine's task does."""

    def __init__(self, key: int, local: SocketAddress) -> None:
        self.key = key
        family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self.socket.bind(tuple(local))
        except OSError:
            self.socket.close()
            raise
        self.local = _socket_address(self.socket.getsockname())
        self.waits_to_write = False

    def send(self, data: bytes, destination: SocketAddress) -> bool:
        """Send one datagram; False when the socket has no room now. Raises OSError for a refusal of the host's."""
        try:
            self.socket.sendto(data, tuple(destination))
        except BlockingIOError:
            return False
        return True

    def receive(self) -> list[tuple[SocketAddress, bytes]]:
        """What has arrived, at most one turn's worth."""
        arrived: list[tuple[SocketAddress, bytes]] = []
        for _ in range(DRAIN_DATAGRAMS):
            try:
                size, source = self.socket.recvfrom_into(_buffer)
            except BlockingIOError:
                break
            except OSError:
                # A late error of an earlier send; it belongs to no datagram that arrived.
                continue
            arrived.append((_socket_address(source), bytes(_buffer[:size])))
        return arrived

    def close(self) -> None:
        """Close it."""
        self.socket.close()


def _socket_address(name: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    return SocketAddress(name[0].partition("%")[0], name[1])

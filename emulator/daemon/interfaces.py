"""The host's network interfaces: the number of the one that has an address, and what counts as a broadcast on them.

Asked by ioctl, not as ``socket.if_nameindex`` does: that takes a netlink socket, which a confined service does not get.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

_SIOCGIFCONF, _SIOCGIFBRDADDR, _SIOCGIFINDEX = 0x8912, 0x8919, 0x8933
# struct ifreq: a name, then the answer; and struct ifconf: the length and place of many.
_REQUEST = struct.Struct("16s24s")
_REQUESTS = struct.Struct("iP")
_MOST_ADDRESSES = 1 << 16
_IF_INET6 = Path("/proc/net/if_inet6")


def interface_index(host: str) -> int:
    """The number of the interface that has this address; 0, which leaves it to the host, when none has."""
    if ":" in host:
        wanted = IPv6Address(host.partition("%")[0]).packed.hex()
        for line in _lines(_IF_INET6):
            packed, index, *_ = line.split()
            if packed == wanted:
                return int(index, 16)
        return 0
    return next((_index(own.name) for own in _own_addresses() if own.host == host), 0)


def broadcast_addresses(bound: Iterable[str]) -> frozenset[str]:
    """The broadcast addresses of the IPv4 networks of these own addresses; the wildcard stands for all of them."""
    wanted = frozenset(bound)
    every = "0.0.0.0" in wanted
    found = {own.broadcast() for own in _own_addresses() if every or own.host in wanted}
    return frozenset(address for address in found if address not in (None, "0.0.0.0"))


class _OwnAddress(NamedTuple):
    """An IPv4 address of the host: the name of its interface, and a struct sockaddr_in."""

    name: bytes
    socket_address: bytes

    @property
    def host(self) -> str:
        return _host(self.socket_address)

    def broadcast(self) -> str | None:
        # With its address in the question, this is answered for that one and not for the first of the interface.
        answer = _ask(_SIOCGIFBRDADDR, self.name, self.socket_address)
        return None if answer is None else _host(answer)


def _own_addresses() -> list[_OwnAddress]:
    room = 64
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        while True:
            answers = array.array("B", bytes(room * _REQUEST.size))
            place, length = answers.buffer_info()
            filled, _ = _REQUESTS.unpack(fcntl.ioctl(any_socket, _SIOCGIFCONF, _REQUESTS.pack(length, place)))
            # The kernel fills what there is room for, and does not say that there was more.
            if filled < length or room >= _MOST_ADDRESSES:
                break
            room *= 2
    found = _REQUEST.iter_unpack(answers.tobytes()[:filled])
    return [_OwnAddress(name.rstrip(b"\0"), answer) for name, answer in found]


def _ask(request: int, name: bytes, question: bytes = b"") -> bytes | None:
    """What an interface answers; None when it has no answer, or has just gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer: bytes = fcntl.ioctl(any_socket, request, _REQUEST.pack(name, question))
        except OSError:
            return None
    return answer[16:]


def _host(socket_address: bytes) -> str:
    return socket.inet_ntoa(socket_address[4:8])


def _index(name: bytes) -> int:
    answer = _ask(_SIOCGIFINDEX, name.partition(b":")[0])
    return 0 if answer is None else int.from_bytes(answer[:4], sys.byteorder)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []

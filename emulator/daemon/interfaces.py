"""The host's network interfaces: the number of the one that has an address, and what counts as a broadcast on them."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_SIOCGIFADDR, _SIOCGIFBRDADDR = 0x8915, 0x8919
_REQUEST = struct.Struct("16s24x")
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
    return next((index for index, name in socket.if_nameindex() if _ask(name, _SIOCGIFADDR) == host), 0)


def broadcast_addresses(bound: Iterable[str]) -> frozenset[str]:
    """The broadcast addresses of the IPv4 networks of these own addresses; the wildcard stands for all of them."""
    own = frozenset(bound)
    every = "0.0.0.0" in own
    found = set()
    for _, name in socket.if_nameindex():
        address, broadcast = _ask(name, _SIOCGIFADDR), _ask(name, _SIOCGIFBRDADDR)
        if address is not None and broadcast not in (None, "0.0.0.0") and (every or address in own):
            found.add(str(ip_address(str(broadcast))))
    return frozenset(found)


def _ask(name: str, request: int) -> str | None:
    """The first IPv4 address of an interface, or its broadcast address; None when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, request, _REQUEST.pack(name.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []

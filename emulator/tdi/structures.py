"""TDI structures as bytes: transport addresses and connection information in, addresses and query results out.

Ports and IP addresses are in network order, every other number is little-endian. The declared C structures end in
placeholders and padding, so their ``sizeof`` is never the length of the data: an address list is 4 bytes of count and,
for each entry, 4 bytes of header and the address, with nothing between entries.

What parses bytes from outside says so in its name, works on a private copy, and raises ``Refused`` alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import AddressType, ServiceFlags

Bytes: TypeAlias = bytes | bytearray | memoryview

PROVIDER_VERSION = 0x0200
"""Interface version 2.0, the major number in the higher byte."""

MAX_TRANSPORT_ADDRESS_BYTES = 4_096
"""Longest address list looked at: 186 IPv4 entries, and a bound on what one request can make us walk."""

MAX_HOST_CHARACTERS = 64
"""Longest text looked at as an IP address; the longest legal one, with a scope, is 50."""

_COUNT = struct.Struct("<i")
_ENTRY = struct.Struct("<HH")
_IP = struct.Struct("!H4s8x")
_IP6 = struct.Struct("!HI16s")
_SCOPE = struct.Struct("<I")
_IP_BYTES, _IP6_BYTES = 14, 26


class SocketAddress(NamedTuple):
    """A transport address in Python's words: IP address text, version 4 or 6, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HostFacts(NamedTuple):
    """What there is to know about one IP address."""

    text: str
    """In the one canonical spelling, so that equal addresses are equal text."""
    version: int
    is_wildcard: bool
    is_multicast: bool
    is_mapped: bool
    """An IPv4 address dressed as IPv6, which would leave an IPv6 socket as IPv4."""


@lru_cache(maxsize=64)
def parsed_networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks as a configuration writes them; the machines of a daemon have few different lists between them."""
    return tuple(ip_network(text) for text in texts)


@lru_cache(maxsize=4_096)
def _host_facts(host: str) -> HostFacts | None:
    try:
        parsed = ip_address(host)
    except ValueError:
        return None
    mapped = isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None
    return HostFacts(str(parsed), parsed.version, parsed.is_unspecified, parsed.is_multicast, mapped)


def host_facts_untrusted(host: str) -> HostFacts:
    """Facts about an IP address given as text; INVALID_ADDRESS when it is none (names are not looked up here)."""
    facts = _host_facts(host) if len(host) <= MAX_HOST_CHARACTERS else None
    if facts is None:
        raise Refused(NtStatus.INVALID_ADDRESS, f"{host[:MAX_HOST_CHARACTERS]!r} is not an IPv4 or IPv6 address")
    return facts


def canonical_untrusted(address: SocketAddress) -> SocketAddress:
    """The same address, its host in canonical text and its port known to be 0..65535; else INVALID_ADDRESS."""
    facts = host_facts_untrusted(address.host)
    if not 0 <= address.port <= 0xFFFF:
        raise Refused(NtStatus.INVALID_ADDRESS, f"a port is 0..65535, not {address.port}")
    return SocketAddress(facts.text, address.port)


class AddressEntry(NamedTuple):
    """One entry of an address list, its bytes not yet looked at. Windows: TA_ADDRESS."""

    address_type: int
    data: bytes


def walk_transport_address_untrusted(data: Bytes) -> Iterator[AddressEntry]:
    """The entries of a TRANSPORT_ADDRESS, checked one by one as they are asked for.

    INVALID_ADDRESS for a list too short to hold one entry's header (S13), a count below 1, an entry past the end (S14).
    """
    if len(data) > MAX_TRANSPORT_ADDRESS_BYTES:
        limit = MAX_TRANSPORT_ADDRESS_BYTES
        raise Refused(
            NtStatus.INVALID_ADDRESS, f"an address list has at most {limit} bytes, not {len(data)}", rule="S14"
        )
    copy = bytes(data)
    if len(copy) < 8:
        raise Refused(
            NtStatus.INVALID_ADDRESS,
            f"a transport address has 8 bytes at least (22 for IPv4, 34 for IPv6), not {len(copy)}",
            rule="S13",
        )
    (count,) = _COUNT.unpack_from(copy)
    if count < 1:
        raise Refused(
            NtStatus.INVALID_ADDRESS, f"a transport address counts one entry at least, not {count}", rule="S14"
        )
    at = _COUNT.size
    for index in range(count):
        end = at + _ENTRY.size
        length, address_type = _ENTRY.unpack_from(copy, at) if end <= len(copy) else (0, 0)
        if end + length > len(copy):
            raise Refused(
                NtStatus.INVALID_ADDRESS,
                f"entry {index} of the transport address ends at byte {end + length}, but {len(copy)} were given: "
                "the length covers the whole list, 22 bytes for one IPv4 entry",
                rule="S14",
            )
        yield AddressEntry(address_type, copy[end : end + length])
        at = end + length


def decode_entry(entry: AddressEntry) -> SocketAddress | None:
    """The socket address in an IPv4 or IPv6 entry; None when it is too short (S17) or of another type.

    Longer is tolerated.
    """
    if entry.address_type == AddressType.IP and len(entry.data) >= _IP_BYTES:
        port, host = _IP.unpack_from(entry.data)
        return SocketAddress(str(IPv4Address(host)), port)
    if entry.address_type == AddressType.IP6 and len(entry.data) >= _IP6_BYTES:
        port, _flow, host = _IP6.unpack_from(entry.data)
        (scope,) = _SCOPE.unpack_from(entry.data, _IP6.size)
        text = str(IPv6Address(host))
        return SocketAddress(f"{text}%{scope}" if scope else text, port)
    return None


def parse_transport_address_untrusted(data: Bytes) -> SocketAddress:
    """The first IPv4 or IPv6 entry of a TRANSPORT_ADDRESS, wildcards and port 0 included.

    INVALID_ADDRESS when there is none.
    """
    types: list[int] = []
    for entry in walk_transport_address_untrusted(data):
        address = decode_entry(entry)
        if address is not None:
            return address
        types.append(entry.address_type)
    raise Refused(
        NtStatus.INVALID_ADDRESS,
        f"no usable IPv4 (type 2, 14 bytes) or IPv6 (type 23, 26 bytes) entry; the types given are {types[:8]}",
        rule="S17",
    )


def _pack_entry(address_type: int, address: bytes) -> bytes:
    return _COUNT.pack(1) + _ENTRY.pack(len(address), address_type) + address


def pack_transport_address(address: SocketAddress) -> bytes:
    """A list of one IP entry: 22 bytes for version 4, 34 for version 6. Windows: TA_IP_ADDRESS, TA_IP6_ADDRESS."""
    parsed = ip_address(address.host)
    if isinstance(parsed, IPv4Address):
        return _pack_entry(AddressType.IP, _IP.pack(address.port, parsed.packed))
    scope = parsed.scope_id or "0"
    number = int(scope) & 0xFFFFFFFF if scope.isdecimal() else 0
    return _pack_entry(AddressType.IP6, _IP6.pack(address.port, 0, parsed.packed) + _SCOPE.pack(number))


def pack_data_link_address(mac: bytes) -> bytes:
    """A list of one six-byte hardware address: 14 bytes. Windows: TDI_ADDRESS_8022."""
    return _pack_entry(AddressType.IEEE_802_2, mac)


class ConnectionInformationLayout(NamedTuple):
    """A TDI_CONNECTION_INFORMATION as it lies in a client's memory.

    Lengths in bytes and pointers nobody has followed yet.
    """

    user_data_length: int
    user_data: int
    options_length: int
    options: int
    remote_address_length: int
    remote_address: int


_CONNECTION_INFORMATION = {8: struct.Struct("<i4xQi4xQi4xQ"), 4: struct.Struct("<iIiIiI")}


def parse_connection_information_untrusted(data: Bytes, pointer_bytes: int = 8) -> ConnectionInformationLayout:
    """Read 48 bytes (x64, ``pointer_bytes`` 8) or 24 (x86, 4); INVALID_PARAMETER for fewer or for a negative length."""
    layout = _CONNECTION_INFORMATION[pointer_bytes]
    if len(data) < layout.size:
        raise Refused(
            NtStatus.INVALID_PARAMETER,
            f"TDI_CONNECTION_INFORMATION has {layout.size} bytes with {pointer_bytes}-byte pointers, not {len(data)}",
        )
    found = ConnectionInformationLayout(*layout.unpack(bytes(data[: layout.size])))
    if min(found.user_data_length, found.options_length, found.remote_address_length) < 0:
        raise Refused(NtStatus.INVALID_PARAMETER, "a length in TDI_CONNECTION_INFORMATION is negative")
    return found


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What a device can do; ``start_filetime`` counts 100 ns since 1601. Windows: TDI_PROVIDER_INFO."""

    max_datagram_bytes: int
    service_flags: ServiceFlags
    minimum_lookahead_bytes: int
    maximum_lookahead_bytes: int
    start_filetime: int
    max_send_bytes: int = 0
    max_user_data_bytes: int = 0
    """Both are of connections: 0 on a device for datagrams only."""

    def pack(self) -> bytes:
        """40 bytes."""
        return struct.pack(
            "<8Iq",
            PROVIDER_VERSION,
            self.max_send_bytes,
            self.max_user_data_bytes,
            self.max_datagram_bytes,
            self.service_flags,
            self.minimum_lookahead_bytes,
            self.maximum_lookahead_bytes,
            0,
            self.start_filetime,
        )


def pack_datagram_info(max_datagram_bytes: int, max_queued_datagrams: int) -> bytes:
    """8 bytes. Windows: TDI_DATAGRAM_INFO."""
    return struct.pack("<II", max_datagram_bytes, max_queued_datagrams)


def pack_max_datagram_info(max_datagram_bytes: int) -> bytes:
    """4 bytes. Windows: TDI_MAX_DATAGRAM_INFO."""
    return struct.pack("<I", max_datagram_bytes)


def pack_address_info(activity_count: int, local: SocketAddress) -> bytes:
    """4 bytes and the whole address: 26 for IPv4. Windows: TDI_ADDRESS_INFO."""
    return struct.pack("<I", activity_count) + pack_transport_address(local)


@dataclass(slots=True)
class Statistics:
    """What a device has carried, in datagrams and bytes. Windows: TDI_PROVIDER_STATISTICS."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    dropped: int = 0
    """Datagrams that arrived and matched no address object (R5); our own count, no Windows field."""

    def pack(self) -> bytes:
        """200 bytes: no resource records. The counters wrap as their 32-bit fields do; a packet is a datagram here."""
        image = bytearray(200)
        struct.pack_into("<I", image, 0, PROVIDER_VERSION)
        struct.pack_into("<I4xQ", image, 56, self.sent & 0xFFFFFFFF, self.sent_bytes)
        struct.pack_into("<I4xQ", image, 72, self.received & 0xFFFFFFFF, self.received_bytes)
        struct.pack_into("<II", image, 88, self.sent & 0xFFFFFFFF, self.received & 0xFFFFFFFF)
        return bytes(image)

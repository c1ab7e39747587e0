"""The part of the configuration that describes segments: what they are like, and their way out.

The settings of a segment have the same names here, in ``vmbusctl segment NAME set`` and in the client API.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from emulator.config_section import Section
from emulator.status import NtStatus, Refused
from emulator.tdi.connection_profile import SEGMENT_CONNECTIONS, ConnectionMode
from emulator.tdi.gateway import GATEWAY, GatewayPort
from emulator.tdi.profile import IP_AND_UDP_HEADER_BYTES, SegmentProfile
from emulator.tdi.structures import SocketAddress

MachineName = Annotated[str, Field(min_length=1, max_length=63)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
# A day: what takes longer is a mistake in the unit.
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


def _host_and_port(text: str) -> SocketAddress:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or not 1 <= int(port) <= 65_535 or (":" in host and not bracketed):
        raise ValueError(
            f"{text!r} is not HOST:PORT, with [brackets] around an IPv6 address and a port from 1 to 65535"
        )
    return SocketAddress(str(ipaddress.ip_address(host.strip("[]"))), int(port))


class GatewayPortConfig(Section):
    """One tie between an address on the segment and one of the host; ``emulator/tdi/gateway.py`` says what it does."""

    # HOST:PORT on the segment.
    inside: str
    # HOST:PORT of this computer.
    outside: str
    # Given, a program outside takes the machine's place at `inside`, and what it sends goes there on the segment.
    to: str | None = None
    # The only program let in at `outside`, where `to` is given; without one it is whoever sent last.
    peer: str | None = None

    @field_validator("inside", "outside", "to", "peer")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else str(_host_and_port(value))

    @model_validator(mode="after")
    def _peer_plays(self) -> GatewayPortConfig:
        if self.peer is not None and self.to is None:
            raise ValueError("peer: only a program that plays a machine has one; say with `to` where it sends")
        return self

    def port(self) -> GatewayPort:
        """As the gateway has it."""
        to, peer = (None if text is None else _host_and_port(text) for text in (self.to, self.peer))
        return GatewayPort(_host_and_port(self.inside), _host_and_port(self.outside), to, peer)


class GatewayConfig(Section):
    """A segment's way out. Bound are host addresses that [udp] lets machines bind, reached what it lets them reach."""

    # What is tied together, such as { inside = "10.0.0.1:9000", outside = "127.0.0.1:19000" }.
    ports: tuple[GatewayPortConfig, ...] = Field(default=(), max_length=1024)


class SegmentConfig(Section):
    """One virtual datagram network.

    All but ``subnet``, ``connections`` and ``gateway`` can be changed while the daemon runs. What a connection carries
    arrives whole and in order; latency, jitter, rate, ``stalled`` and ``partition`` hold it up as they do datagrams, a
    lost packet comes again later, and a copy is nothing to it.
    """

    # Its address range; the addresses of machines are inside.
    subnet: str = "10.0.0.0/24"
    # Ethernet's 1,500 less 28 for IP and UDP headers; a segment does not fragment.
    maximum_datagram_bytes: int = Field(default=1472, ge=1, le=65507)
    # Probability, for each receiver, to miss a datagram; for a connection's packet, to be sent again after a round trip
    # and 0.2 seconds more, and twice as long each further time.
    loss: Probability = 0.0
    # Probability to get it twice.
    duplication: Probability = 0.0
    # Probability to get it after those sent behind it; on a connection those wait for it.
    reordering: Probability = 0.0
    # How long one that others shall pass is held back.
    reordering_seconds: Seconds = 0.01
    # Time on the way.
    latency_seconds: Seconds = 0.0
    # How much more or less that can be, from datagram to datagram; their order stays.
    jitter_seconds: Seconds = 0.0
    # What the line carries, headers included, datagrams and connections together; 0 is no limit.
    rate_bytes_per_second: float = Field(default=0.0, ge=0, le=1e12, allow_inf_nan=False)
    # A line that is further behind drops the datagrams that come. Connections fill half of this, and wait beyond.
    rate_backlog_seconds: Seconds = 1.0
    # Groups of machines that hear only their own group, such as [["vm1"], ["vm2", "vm3"]]; the rest stand together.
    partition: tuple[tuple[MachineName, ...], ...] = Field(default=(), max_length=4096)
    # What chance begins with, when the daemon starts and whenever it is set; the same gives the same again.
    seed: int = 0
    # Whether it takes nothing for now, so that sends wait in their queues, and connections with them.
    stalled: bool = False
    # Whether connections between its machines keep the borders of sends.
    connections: Literal["message", "stream"] = "message"
    # Its way out: [segments.NAME.gateway].
    gateway: GatewayConfig | None = None

    @field_validator("subnet")
    @classmethod
    def _subnet(cls, value: str) -> str:
        return str(ipaddress.ip_network(value))

    @model_validator(mode="after")
    def _sides(self) -> SegmentConfig:
        names = [name for group in self.partition for name in group]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"partition: {', '.join(twice)} stands on two sides")
        for port in self.gateway.ports if self.gateway is not None else ():
            for name in ("inside", "to"):
                text = getattr(port, name)
                if text is not None and ipaddress.ip_address(_host_and_port(text).host) not in self.network:
                    raise ValueError(f"gateway.ports: {name} {text} is not in the subnet {self.subnet}")
        return self

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """``subnet`` as a network."""
        return ipaddress.ip_network(self.subnet)

    def profile(self) -> SegmentProfile:
        """As the segment has it."""
        return SegmentProfile(
            mtu_bytes=self.maximum_datagram_bytes + IP_AND_UDP_HEADER_BYTES,
            loss=self.loss,
            duplicate=self.duplication,
            delay_seconds=self.latency_seconds,
            jitter_seconds=self.jitter_seconds,
            reorder=self.reordering,
            reorder_seconds=self.reordering_seconds,
            rate_bytes_per_second=self.rate_bytes_per_second,
            rate_backlog_seconds=self.rate_backlog_seconds,
            partition=tuple(frozenset(group) for group in self.partition if group),
            connections=replace(SEGMENT_CONNECTIONS, mode=ConnectionMode(self.connections)),
        )

    def partition_problems(self, machines: set[str]) -> list[str]:
        """Names in the partition that no machine on the segment has."""
        return [
            f"partition: there is no machine {name!r} on it; there are: {', '.join(sorted(machines)) or 'none'}"
            for group in self.partition
            for name in group
            if name not in machines | {GATEWAY}
        ]

    def problems(self, machines: set[str], bindable: tuple[str, ...]) -> list[str]:
        """What does not fit the rest of the configuration: the machines on it, the host addresses that may be bound."""
        found = self.partition_problems(machines)
        seen: set[str] = set()
        for port in self.gateway.ports if self.gateway is not None else ():
            host = _host_and_port(port.outside).host
            if host not in bindable:
                found.append(f"gateway.ports: {host} is not in udp.bind, so it cannot be bound; add it there")
            for text in (port.inside, port.outside):
                if text in seen:
                    found.append(f"gateway.ports: {text} is named twice")
                seen.add(text)
        return found


def changed(settings: SegmentConfig, changes: dict[str, Any]) -> SegmentConfig:
    """The settings with some of them changed. Raises Refused, with everything that is wrong."""
    fixed = sorted({"subnet", "gateway", "connections"} & changes.keys())
    if fixed:
        text = f"{', '.join(fixed)} of a segment cannot be changed while the daemon runs: change the configuration"
        raise Refused(NtStatus.INVALID_PARAMETER, text)
    try:
        return SegmentConfig.model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, each['loc']))} {each['msg'].removeprefix('Value error, ')}".strip()
            for each in error.errors()
        )
        raise Refused(NtStatus.INVALID_PARAMETER, "; ".join(problems)[:900]) from None

"""The way between a segment and programs outside: machine addresses that stand on UDP ports of the host.

Each entry ties one address and port on the segment, ``inside``, to one of the host, ``outside``. There are two kinds:

*Forwarded*: a machine's own address. Whatever comes in at ``outside`` reaches the machine there with the program's real
address as its source; what the machine sends from there to an address outside the segment leaves at ``outside``. A
machine reaches out from forwarded ports only, and only into the networks that are allowed.

*Played* (``to`` is given): a program outside takes the place of a machine. What it sends to ``outside`` goes on the
segment to ``to`` and comes from ``inside``; what is sent to ``inside`` on the segment leaves at ``outside``, for
``peer``, or else for whoever sent last. Nothing is sent to a program that has not been heard of yet.

Broadcasts and multicasts stay on the segment. On the way everything passes the segment's medium, with its impairments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from emulator.tdi.effects import Effect, SendOutside
from emulator.tdi.structures import SocketAddress, parsed_networks

if TYPE_CHECKING:
    from emulator.tdi.segment import Segment

GATEWAY = "gateway"
"""What a partition calls the gateway."""


@dataclass(frozen=True, slots=True)
class GatewayPort:
    """One entry; see the module."""

    inside: SocketAddress
    outside: SocketAddress
    to: SocketAddress | None = None
    peer: SocketAddress | None = None


class Gateway:
    """A segment's gateway. Its entries are numbered in the order given, from 0."""

    machine = GATEWAY

    def __init__(self, segment: Segment, ports: Sequence[GatewayPort], reachable_networks: Sequence[str]) -> None:
        self.ports = tuple(ports)
        self.dropped = 0
        """Datagrams with nobody to go to, or from somebody who may not send here."""
        self._segment = segment
        self._networks = parsed_networks(tuple(reachable_networks))
        self._forwarded = {port.inside: number for number, port in enumerate(self.ports) if port.to is None}
        self._played = {port.inside: number for number, port in enumerate(self.ports) if port.to is not None}
        self._peers: dict[int, SocketAddress] = {
            number: port.peer for number, port in enumerate(self.ports) if port.peer is not None
        }
        self._reaches = lru_cache(maxsize=1_024)(self._compute_reaches)

    def _compute_reaches(self, host: str) -> bool:
        address = ip_address(host)
        return any(address in network for network in self._networks) and not self._segment.is_inside(host)

    def plays(self, destination: SocketAddress) -> bool:
        """Whether a program outside has the place of this address."""
        return destination in self._played

    def no_way_out(self, source: SocketAddress, host: str) -> str | None:
        """Why a machine cannot send from ``source`` to a host outside; None when it can."""
        if source not in self._forwarded:
            return f"the gateway forwards nothing from {source}; add it to [segments.{self._segment.name}.gateway]"
        if not self._reaches(host):
            allowed = ", ".join(str(network) for network in self._networks) or "none"
            return f"it is not in a network that may be reached ({allowed})"
        return None

    def arrived(self, source: SocketAddress, destination: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """The medium brought a datagram for outside."""
        number = self._played.get(destination)
        if number is None:
            number = self._forwarded.get(source)
            peer: SocketAddress | None = destination
        else:
            peer = self._peers.get(number)
        if number is None or peer is None:
            self.dropped += 1
            return []
        return [SendOutside(self._segment.name, number, peer, [data])]

    def came_in_many(self, number: int, source: SocketAddress, datagrams: list[bytes], now: float) -> list[Effect]:
        """Datagrams from one source came in at the host address of an entry."""
        entry = self.ports[number]
        if entry.to is not None and entry.to in self._played and self._segment.is_plain:
            # From one program outside to another, with nothing on the way: they stay together.
            if not self._lets_in(number, entry, source):
                self.dropped += len(datagrams)
                return []
            leaving = self._played[entry.to]
            self._segment.medium.counts.sent += len(datagrams)
            if (peer := self._peers.get(leaving)) is not None:
                return [SendOutside(self._segment.name, leaving, peer, datagrams)]
            self.dropped += len(datagrams)
            return []
        return [effect for data in datagrams for effect in self.came_in(number, source, data, now)]

    def _lets_in(self, number: int, entry: GatewayPort, source: SocketAddress) -> bool:
        """Whether a program may play the machine of an entry; the last one that does has its place."""
        if entry.peer is not None:
            return source == entry.peer
        self._peers[number] = source
        return True

    def came_in(self, number: int, source: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """A datagram came in at the host address of an entry."""
        entry = self.ports[number]
        if entry.to is None:
            if not self._reaches(source.host):
                # Answers could not go back, or it would pass for a machine.
                self.dropped += 1
                return []
            return self._segment.carry(source, entry.inside, data, now, self)
        if not self._lets_in(number, entry, source):
            self.dropped += 1
            return []
        return self._segment.carry(entry.inside, entry.to, data, now, self)

    def describe(self) -> dict[str, Any]:
        """Its entries as plain values."""
        ports = [
            {
                "inside": str(port.inside),
                "outside": str(port.outside),
                "to": str(port.to) if port.to is not None else None,
                "peer": str(self._peers[number]) if number in self._peers else None,
            }
            for number, port in enumerate(self.ports)
        ]
        return {"ports": ports, "dropped": self.dropped}

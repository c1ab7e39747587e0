"""A virtual datagram network that several machines share: one broadcast domain, one MTU, and perhaps a way out.

Each machine has one ``SegmentPort``: its attachment, with its own IP address, and at the same time the device its
address objects live on. A send leaves its queue as soon as the segment is not stalled, completes with success (the
medium took it, S23), and is delivered to every attached machine it is addressed to, the sender's own included (S25).

    send ─▶ the object's queue ─▶ (stalled: waits) ─▶ the medium ─▶ now, or in flight until poll ─▶ each receiver

With a delay, who gets a datagram is decided when it arrives: an object closed in the meantime gets nothing. What the
medium does to datagrams is in ``medium``, the way out in ``gateway``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any, NamedTuple, Protocol

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.effects import Effect
from emulator.tdi.gateway import Gateway
from emulator.tdi.groups import DEFAULT_OPTIONS, SendOptions
from emulator.tdi.medium import Chance, Luck, Medium
from emulator.tdi.profile import SegmentProfile
from emulator.tdi.segment_links import SegmentLink
from emulator.tdi.segment_port import LIMITED_BROADCAST, SegmentPort
from emulator.tdi.structures import SocketAddress, host_facts_untrusted

__all__ = ["LIMITED_BROADCAST", "Chance", "Segment", "SegmentPort"]


# Wakes beyond two for each connection, before those that mean nothing any more are thrown away.
SPARE_WAKES = 64


def _luck(chance: Chance | Luck) -> Luck:
    return chance if isinstance(chance, Luck) else Luck.of_one(chance)


class Party(Protocol):
    """Who takes part in a segment: a machine's port, or the gateway. ``machine`` is what a partition calls it."""

    @property
    def machine(self) -> str:
        """Its name."""

    def arrived(self, source: SocketAddress, destination: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """The medium brought a datagram."""


class _InFlight(NamedTuple):
    """A delayed datagram on its way to one receiver; ordered by when it is due, then by when it was sent."""

    due: float
    serial: int
    party: Party
    source: SocketAddress
    destination: SocketAddress
    data: bytes


class _Wake(NamedTuple):
    """When a connection has something to do; of several, the one that was not served for the longest time is first."""

    at: float
    served: int
    serial: int
    link: SegmentLink


class Segment:
    """One virtual network. ``network`` is its address range, in the form 10.77.0.0/16."""

    def __init__(
        self, name: str, profile: SegmentProfile, chance: Chance | Luck, network: str = "10.77.0.0/16"
    ) -> None:
        self.name = name
        self.network = ip_network(network)
        self.medium = Medium(profile, _luck(chance))
        self.gateway: Gateway | None = None
        self._ports: dict[str, SegmentPort] = {}
        self.links: dict[SegmentLink, None] = {}
        """The connections between its machines, and the attempts."""
        self._last_node = 0
        self._last_number = 0
        self._last_serial = 0
        self._in_flight: list[_InFlight] = []
        self._bytes_in_flight = 0
        self._wakes: list[_Wake] = []
        self._stalled = False
        self._broadcasts = {LIMITED_BROADCAST}
        if isinstance(self.network, IPv4Network):
            self._broadcasts.add(str(self.network.broadcast_address))
        self._not_hosts = self._broadcasts | {str(self.network.network_address)}

    @property
    def profile(self) -> SegmentProfile:
        """How it behaves now."""
        return self.medium.profile

    @property
    def dropped(self) -> int:
        """Deliveries the medium lost: by chance, by a partition, or for want of room."""
        counts = self.medium.counts
        return counts.lost + counts.cut + counts.overflowed

    # Machines.

    def attach(self, machine: str, host: str | None = None) -> SegmentPort:
        """Give a machine its attachment, at ``host`` or at the next free address. Refused when it cannot have it."""
        if any(port.machine == machine for port in self._ports.values()):
            raise Refused(NtStatus.DUPLICATE_NAME, f"machine {machine} is already attached to segment {self.name}")
        text = self._next_free_host() if host is None else host_facts_untrusted(host).text
        if ip_address(text) not in self.network or text in self._not_hosts:
            raise Refused(
                NtStatus.INVALID_ADDRESS, f"{text} is not a host address of segment {self.name} ({self.network})"
            )
        if text in self._ports:
            raise Refused(
                NtStatus.ADDRESS_ALREADY_EXISTS,
                f"{text} is {self._ports[text].machine}'s address on segment {self.name}",
            )
        self._last_node += 1
        port = SegmentPort(self, machine, text, self._last_node)
        self._ports[text] = port
        return port

    def _next_free_host(self) -> str:
        """The next one in turn: no more are tried than there are machines and addresses that are no host's."""
        for _ in range(len(self._ports) + len(self._not_hosts) + 1):
            self._last_number = (self._last_number + 1) % self.network.num_addresses
            text = str(self.network[self._last_number])
            if text not in self._ports and text not in self._not_hosts:
                return text
        raise Refused(NtStatus.TOO_MANY_ADDRESSES, f"segment {self.name} ({self.network}) has no free address")

    def detach(self, port: SegmentPort) -> None:
        """Take a machine off; its address objects must be closed before. What is in flight to it is lost."""
        if len(port.queues):
            raise Misuse(f"machine {port.machine} still has sends waiting on segment {self.name}")
        self._ports.pop(port.host, None)
        self.medium.forget(port)

    def ports_of(self, machine: str) -> list[SegmentPort]:
        """A machine's attachments."""
        return [port for port in self._ports.values() if port.machine == machine]

    def port_at(self, host: str) -> SegmentPort | None:
        """The machine that has an address."""
        return self._ports.get(host)

    def is_broadcast(self, host: str) -> bool:
        """Whether everyone gets what is sent to this address."""
        return host in self._broadcasts

    def is_inside(self, host: str) -> bool:
        """Whether an address is in the segment's range, or stands for everyone on it."""
        return host in self._broadcasts or host in self._ports or ip_address(host) in self.network

    # Time and trouble.

    def change(self, profile: SegmentProfile, now: float) -> list[Effect]:
        """From now on behave so. A new MTU holds from the next send on.

        What is in flight arrives in its order and as it would have, but no later than what is sent now.
        """
        latest = self.medium.obey(profile, now)
        self._in_flight = [each._replace(due=min(each.due, latest)) for each in self._in_flight]
        heapify(self._in_flight)
        for link in self.links:
            link.hurry(latest)
        for port in self._ports.values():
            port.profile = profile.provider
        return self.poll(now)

    def reseed(self, chance: Chance | Luck) -> None:
        """Begin again with new luck."""
        self.medium.luck = _luck(chance)

    @property
    def is_plain(self) -> bool:
        """Whether datagrams arrive at once, because nothing happens to any of them and none is on its way."""
        return self.medium.is_plain and not self._in_flight

    def is_cut(self, one: str, other: str) -> bool:
        """Whether a partition stands between two machines."""
        return self.medium.is_cut(one, other)

    @property
    def stalled(self) -> bool:
        """Whether the medium takes nothing, so that sends wait in their queues."""
        return self._stalled

    def stall(self) -> None:
        """From now on the medium takes nothing."""
        self._stalled = True

    def resume(self, now: float) -> list[Effect]:
        """The medium takes datagrams again, and first of all those that waited."""
        self._stalled = False
        effects = [effect for port in list(self._ports.values()) for effect in port.drain(now)]
        return effects + self.pump_links(now)

    def pump_links(self, now: float) -> list[Effect]:
        """Connections that could not move may be able to again: a partition has ended."""
        return [effect for link in list(self.links) for effect in link.pump(now)]

    def serial(self) -> int:
        """A number higher than all before."""
        self._last_serial += 1
        return self._last_serial

    def wake(self, link: SegmentLink, at: float) -> None:
        """A connection has something to do then; ``poll`` pumps it, unless it has changed its mind (``wake_at``)."""
        if len(self._wakes) > 2 * len(self.links) + SPARE_WAKES:
            self._forget_idle_wakes()
        heappush(self._wakes, _Wake(at, link.served, self.serial(), link))

    def _forget_idle_wakes(self) -> None:
        """Connections that are over, and minds that were changed, keep nothing until a time that may be far away."""
        kept: list[_Wake] = []
        for each in self._wakes:
            if each.link.wake_at != each.at:
                continue
            if each.link in self.links:
                kept.append(each)
            else:
                each.link.wake_at = None
        self._wakes = kept
        heapify(self._wakes)

    def poll(self, now: float) -> list[Effect]:
        """Deliver every delayed datagram that is due, and what is due on connections."""
        effects: list[Effect] = []
        while self._wakes and self._wakes[0].at <= now:
            woken = heappop(self._wakes)
            if woken.link.wake_at == woken.at:
                woken.link.wake_at = None
                effects += woken.link.pump(now)
        while self._in_flight and self._in_flight[0].due <= now:
            arrival = heappop(self._in_flight)
            self._bytes_in_flight -= len(arrival.data)
            party = arrival.party
            if party is self.gateway or (isinstance(party, SegmentPort) and self._ports.get(party.host) is party):
                effects += party.arrived(arrival.source, arrival.destination, arrival.data, now)
        return effects

    def next_deadline(self) -> float | None:
        """When ``poll`` has something to do; None while nothing is on its way."""
        due = [each.due for each in self._in_flight[:1]] + [each.at for each in self._wakes[:1]]
        return min(due, default=None)

    # The medium.

    def carry(
        self,
        source: SocketAddress,
        destination: SocketAddress,
        data: bytes,
        now: float,
        sender: Party | None = None,
        options: SendOptions = DEFAULT_OPTIONS,
    ) -> list[Effect]:
        """Take one datagram and bring it to whom it is addressed (S23 to S25)."""
        medium = self.medium
        medium.counts.sent += 1
        receivers = self._addressed(destination, sender, options)
        if self.is_plain:
            return [each for party in receivers for each in party.arrived(source, destination, data, now)]
        effects = self.poll(now)  # what was due before this one comes before it
        departure = medium.departure(len(data), now)
        if departure is None:
            medium.counts.overflowed += 1
            return effects
        for party in receivers:
            if sender is not None and medium.is_cut(sender.machine, party.machine):
                medium.counts.cut += 1
                continue
            for due in medium.arrivals(party, departure):
                if due > now:
                    self._delay(due, party, source, destination, data)
                else:
                    effects += party.arrived(source, destination, data, now)
        return effects

    def _addressed(self, destination: SocketAddress, sender: Party | None, options: SendOptions) -> Iterable[Party]:
        host = destination.host
        if host in self._broadcasts:
            return list(self._ports.values())
        if self.gateway is not None and self.gateway.plays(destination):
            return [self.gateway]
        if (port := self._ports.get(host)) is not None:
            return [port]
        if host_facts_untrusted(host).is_multicast:
            return [
                port
                for port in self._ports.values()
                if (options.multicast_loop if port is sender else options.multicast_ttl > 0)
            ]
        return [] if self.gateway is None or ip_address(host) in self.network else [self.gateway]

    def _delay(self, due: float, party: Party, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        profile = self.medium.profile
        full = len(self._in_flight) >= profile.max_datagrams_in_flight
        if full or self._bytes_in_flight + len(data) > profile.max_bytes_in_flight:
            self.medium.counts.overflowed += 1
            return
        self._bytes_in_flight += len(data)
        heappush(self._in_flight, _InFlight(due, self.serial(), party, source, destination, data))

    def describe(self) -> dict[str, Any]:
        """What it is like now and what has become of datagrams, as plain values."""
        profile = self.medium.profile
        return {
            "segment": self.name,
            "subnet": str(self.network),
            "machines": {port.machine: host for host, port in self._ports.items()},
            "stalled": self._stalled,
            "in_flight": len(self._in_flight),
            **profile.describe(),
            **asdict(self.medium.counts),
            "gateway": self.gateway.describe() if self.gateway is not None else None,
        }

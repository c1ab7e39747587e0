"""A virtual datagram network that several machines share: one broadcast domain, one MTU, nothing outside.

Each machine has one ``SegmentPort``: its attachment, with its own IP address, and at the same time the device its
address objects live on. A send leaves its queue as soon as the segment is not stalled, completes with success (the
medium took it, S23), and is delivered to every attached machine it is addressed to, the sender's own included (S25).

    send ─▶ the object's queue ─▶ (stalled: waits) ─▶ the medium ─▶ loss, duplication ─▶ now, or in flight until poll

With a delay, who gets a datagram is decided when it arrives: an object closed in the meantime gets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from ipaddress import IPv4Network, ip_address, ip_network
from typing import NamedTuple, Protocol

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.constants import ShareAccess
from emulator.tdi.device import Device
from emulator.tdi.effects import Effect
from emulator.tdi.profile import SegmentProfile
from emulator.tdi.queues import SendPath
from emulator.tdi.structures import HostFacts, SocketAddress, host_facts_untrusted

LIMITED_BROADCAST = "255.255.255.255"


class Chance(Protocol):
    """Where a segment's luck comes from: ``random.Random(seed)`` will do."""

    def random(self) -> float:
        """A number from 0 to 1, 1 excluded."""


class _InFlight(NamedTuple):
    """A delayed datagram on its way to one machine; ordered by when it is due, then by when it was sent."""

    due: float
    serial: int
    port: SegmentPort
    source: SocketAddress
    destination: SocketAddress
    data: bytes


class Segment:
    """One virtual network. ``network`` is its address range, in the form 10.77.0.0/16."""

    def __init__(self, name: str, profile: SegmentProfile, chance: Chance, network: str = "10.77.0.0/16") -> None:
        self.name = name
        self.profile = profile
        self.network = ip_network(network)
        self._chance = chance
        self._ports: dict[str, SegmentPort] = {}
        self._last_node = 0
        self._last_number = 0
        self._last_serial = 0
        self._in_flight: list[_InFlight] = []
        self._bytes_in_flight = 0
        self._stalled = False
        self.dropped = 0
        """Deliveries the medium lost: by chance, or for want of room in flight."""
        self._broadcasts = {LIMITED_BROADCAST}
        if isinstance(self.network, IPv4Network):
            self._broadcasts.add(str(self.network.broadcast_address))
        self._not_hosts = self._broadcasts | {str(self.network.network_address)}

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

    def is_broadcast(self, host: str) -> bool:
        """Whether everyone gets what is sent to this address."""
        return host in self._broadcasts

    # Time and trouble.

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
        return [effect for port in list(self._ports.values()) for effect in port.drain(now)]

    def poll(self, now: float) -> list[Effect]:
        """Deliver every delayed datagram that is due."""
        effects: list[Effect] = []
        while self._in_flight and self._in_flight[0].due <= now:
            arrival = heappop(self._in_flight)
            self._bytes_in_flight -= len(arrival.data)
            if self._ports.get(arrival.port.host) is arrival.port:
                effects += arrival.port.arrived(arrival.source, arrival.destination, arrival.data, now)
        return effects

    def next_deadline(self) -> float | None:
        """When the next delayed datagram is due."""
        return self._in_flight[0].due if self._in_flight else None

    # The medium.

    def carry(self, source: SocketAddress, destination: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """Take one datagram from a port and bring it to whom it is addressed (S23 to S25)."""
        effects: list[Effect] = []
        for port in self._addressed(destination.host):
            for _ in range(self._copies()):
                if self.profile.delay_seconds > 0:
                    self._delay(port, source, destination, data, now)
                else:
                    effects += port.arrived(source, destination, data, now)
        return effects

    def _addressed(self, host: str) -> Iterator[SegmentPort]:
        if host in self._broadcasts or host_facts_untrusted(host).is_multicast:
            yield from list(self._ports.values())
        elif host in self._ports:
            yield self._ports[host]

    def _copies(self) -> int:
        """How often one machine gets one datagram.

        The chance is asked only where there is one, for reproducible runs.
        """
        profile = self.profile
        if profile.loss and self._chance.random() < profile.loss:
            self.dropped += 1
            return 0
        return 2 if profile.duplicate and self._chance.random() < profile.duplicate else 1

    def _delay(
        self, port: SegmentPort, source: SocketAddress, destination: SocketAddress, data: bytes, now: float
    ) -> None:
        profile = self.profile
        full = len(self._in_flight) >= profile.max_datagrams_in_flight
        if full or self._bytes_in_flight + len(data) > profile.max_bytes_in_flight:
            self.dropped += 1
            return
        self._last_serial += 1
        self._bytes_in_flight += len(data)
        heappush(
            self._in_flight, _InFlight(now + profile.delay_seconds, self._last_serial, port, source, destination, data)
        )


class SegmentPort(Device):
    """One machine on one segment. Made by ``Segment.attach``."""

    def __init__(self, segment: Segment, machine: str, host: str, node: int) -> None:
        super().__init__(machine, segment.name, segment.profile.provider, segment.profile.start_filetime)
        self.segment = segment
        self.host = host
        self._node = node
        self._shared_path = SendPath(0)
        self._version = segment.network.version
        self._last_port = self.profile.dynamic_ports[1]

    # Opening and closing.

    def open(
        self, handle: int, owner: object, local: SocketAddress, share: ShareAccess
    ) -> tuple[AddressObject, tuple[Effect, ...]]:
        """Open at once: the machine's own address here, the wildcard, or the broadcast address."""
        facts = host_facts_untrusted(local.host)
        own = facts.is_wildcard or facts.text == self.host or self.is_broadcast(facts.text)
        _, broadcast = self.check_open(local, share, allowed=own and facts.version == self._version)
        bound = SocketAddress(facts.text, local.port or self._free_port())
        address = AddressObject(handle, owner, self.network, bound, shared=share.is_shared, is_broadcast=broadcast)
        self.table.add(address)
        return address, ()

    def _free_port(self) -> int:
        """The next dynamic port nobody here has, in turn, so that a port just closed is not reused at once (CR7)."""
        low, high = self.profile.dynamic_ports
        for _ in range(high - low + 1):
            self._last_port = low if self._last_port >= high else self._last_port + 1
            if not self.table.has_port(self._last_port):
                return self._last_port
        raise Refused(
            NtStatus.TOO_MANY_ADDRESSES,
            f"all dynamic ports, {low} to {high}, are open: close one or name a port",
            rule="CR8",
        )

    def release(self, address: AddressObject) -> list[Effect]:
        """Nothing outside has to be told."""
        self.table.remove(address)
        return []

    # Sending and receiving.

    def _path(self, address: AddressObject) -> SendPath:
        return self._shared_path

    def _kick(self, path: SendPath, now: float) -> list[Effect]:
        return self.drain(now)

    def _check_route(self, facts: HostFacts) -> None:
        on_link = facts.is_multicast or self.is_broadcast(facts.text) or ip_address(facts.text) in self.segment.network
        if not on_link:
            text = f"{facts.text} is outside segment {self.segment.name} ({self.segment.network}), which has no gateway"
            raise Refused(self.profile.unreachable_status, text, rule="S22")

    def drain(self, now: float) -> list[Effect]:
        """Hand everything queued to the medium, unless it is stalled."""
        effects: list[Effect] = []
        while not self.segment.stalled:
            head = self.queues.head(self._shared_path)
            if head is None:
                break
            send, completion = self.sent(self._shared_path, head.token, NtStatus.SUCCESS)
            source = SocketAddress(self.host, send.address.local.port)
            effects += completion
            effects += self.segment.carry(source, send.destination, send.data, now)
        return effects

    def arrived(self, source: SocketAddress, destination: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """The medium brought a datagram."""
        return self.deliveries(source, host_facts_untrusted(destination.host), destination.port, data, now)

    # What queries report.

    def is_broadcast(self, host: str) -> bool:
        """The segment's broadcast address or the limited one."""
        return self.segment.is_broadcast(host)

    def network_address(self) -> SocketAddress:
        """This machine's address on the segment."""
        return SocketAddress(self.host, 0)

    def broadcast_address(self) -> SocketAddress:
        """The limited broadcast."""
        return SocketAddress(LIMITED_BROADCAST, 0)

    def data_link_address(self) -> bytes:
        """A locally administered address that ends in the node's number."""
        return bytes((2, 0)) + self._node.to_bytes(4, "big")

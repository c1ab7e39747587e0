"""One machine on one segment: its attachment, and the device its address objects live on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emulator.status import NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.bursts import BurstWay
from emulator.tdi.constants import ShareAccess
from emulator.tdi.device import Device
from emulator.tdi.effects import Effect
from emulator.tdi.queues import SendPath
from emulator.tdi.structures import HostFacts, SocketAddress, host_facts_untrusted

if TYPE_CHECKING:
    from emulator.tdi.segment import Segment

LIMITED_BROADCAST = "255.255.255.255"


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

    def check_route(self, address: AddressObject, facts: HostFacts) -> None:
        segment = self.segment
        if facts.is_multicast or segment.is_inside(facts.text):
            return
        text = f"{facts.text} is outside segment {segment.name} ({segment.network})"
        if segment.gateway is None:
            raise Refused(self.profile.unreachable_status, f"{text}, which has no gateway", rule="S22")
        reason = segment.gateway.no_way_out(SocketAddress(self.host, address.local.port), facts.text)
        if reason is not None:
            raise Refused(self.profile.unreachable_status, f"{text}: {reason}", rule="S22")

    def is_crowded(self, address: AddressObject) -> bool:
        """Whether sends wait, or would."""
        return self.segment.stalled or super().is_crowded(address)

    def carry_burst(
        self, address: AddressObject, way: BurstWay, datagrams: Sequence[bytes], now: float
    ) -> list[Effect]:
        """Hand a burst to the medium, which takes each datagram for itself (S23)."""
        self.count_sent(len(datagrams), sum(map(len, datagrams)))
        source = SocketAddress(self.host, address.local.port)
        carry = self.segment.carry
        return [each for data in datagrams for each in carry(source, way.destination, data, now, self, way.options)]

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
            effects += self.segment.carry(source, send.destination, send.data, now, self, send.address.options)
        return effects

    def arrived(self, source: SocketAddress, destination: SocketAddress, data: bytes, now: float) -> list[Effect]:
        """The medium brought a datagram."""
        return self.deliveries(source, host_facts_untrusted(destination.host), destination.port, data, now)

    # What queries report.

    def is_broadcast(self, host: str) -> bool:
        """The segment's broadcast address or the limited one."""
        return self.segment.is_broadcast(host)

    def own_interface(self, host: str, version: int) -> str | None:
        """The one there is."""
        facts = host_facts_untrusted(host)
        return self.host if version == self._version and (facts.is_wildcard or facts.text == self.host) else None

    def network_address(self) -> SocketAddress:
        """This machine's address on the segment."""
        return SocketAddress(self.host, 0)

    def broadcast_address(self) -> SocketAddress:
        """The limited broadcast."""
        return SocketAddress(LIMITED_BROADCAST, 0)

    def data_link_address(self) -> bytes:
        """A locally administered address that ends in the node's number."""
        return bytes((2, 0)) + self._node.to_bytes(4, "big")

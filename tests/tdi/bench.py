"""A workbench for the transport: one machine under test, a peer outside it, and a recorder in the shell's place.

The same bench stands on either network, so that a rule both obey is one test:

* ``udp``: the recorder plays the operating system's sockets. Datagrams between its own bound sockets arrive again, as
  on a loopback; everything else is what the peer got.
* ``lan``: a segment with a second machine on it, whose one address object is the peer.

Time stands still unless a test moves ``now``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from emulator.status import NtStatus
from emulator.tdi.address import AddressObject
from emulator.tdi.constants import QueryType, ShareAccess
from emulator.tdi.effects import (
    Ask,
    BindSocket,
    CleanupComplete,
    CloseSocket,
    Complete,
    Deliver,
    Effect,
    JoinForRequest,
    JoinGroup,
    Tell,
    Transmit,
    Violation,
)
from emulator.tdi.handlers import Answer
from emulator.tdi.irp import Irp, MdlBuffer, build_send_datagram
from emulator.tdi.layout import Arch
from emulator.tdi.profile import SEGMENT_PROVIDER, UDP_PROVIDER, Profile, SegmentProfile
from emulator.tdi.receive_side import build_set_event_handler
from emulator.tdi.receives import Arrived, ReceivedDatagram, build_receive_datagram
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress, parse_transport_address_untrusted
from emulator.tdi.transport import OpenOutcome, Transport
from tests.tdi.raw_form import RawForm, as_bytes

SHARED = ShareAccess.READ | ShareAccess.WRITE
NETWORKS = ("udp", "lan")
ME = "vm1"


class Bench:
    """See the module's docstring. ``provider`` settings replace those of the network under test."""

    form = "objects"

    def __init__(self, network: str, *, segment: SegmentProfile | None = None, **provider: Any) -> None:
        self.network = network
        self.now = 100.0
        base = segment or SegmentProfile()
        overrides: dict[str, Any] = dict(provider)
        if network == "lan" and "max_datagram_bytes" in overrides:
            base = replace(base, mtu_bytes=overrides["max_datagram_bytes"] + 28)
        lan_provider = replace(SEGMENT_PROVIDER, **overrides) if network == "lan" else SEGMENT_PROVIDER
        self.segment = Segment("lan", replace(base, provider_base=lan_provider), random.Random(7))
        self.port = self.segment.attach(ME)
        self.other_port = self.segment.attach("vm2")
        udp = replace(UDP_PROVIDER, **provider) if network == "udp" else UDP_PROVIDER
        self.transport = Transport(ME, Profile(udp=udp), {"lan": self.port})
        self.raw: dict[Irp, RawForm] = {}
        """The requests that went in as bytes."""
        self.completions: list[Complete] = []
        self.deliveries: list[Deliver] = []
        self.asked: list[Ask] = []
        self.told: list[Tell] = []
        self.violations: list[Violation] = []
        self.cleaned: list[int] = []
        self.closed_sockets: list[int] = []
        self.joined: list[JoinGroup] = []
        self.join_status = NtStatus.SUCCESS
        self.at_peer: list[tuple[SocketAddress, bytes]] = []
        self.sockets: dict[int, SocketAddress] = {}
        self.taken_ports: set[int] = set()
        self.next_port = 40_000
        self.writable = True
        self.send_status = NtStatus.SUCCESS
        self.other = Transport("vm2", Profile(), {"lan": self.other_port})
        self.host = "127.0.0.1" if network == "udp" else self.port.host
        self.peer = SocketAddress("127.0.0.1" if network == "udp" else self.other_port.host, 7_000)
        if network == "lan":
            assert self.other.open_address("lan", self.peer, SHARED, "peer").status is NtStatus.SUCCESS

    # The shell's part.

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Complete():
                    self.completions.append(effect)
                case Deliver(machine="vm2"):
                    self.at_peer.append((effect.source, effect.data))
                case Deliver():
                    self.deliveries.append(effect)
                case Transmit(key):
                    self.transmit(key)
                case CloseSocket(key):
                    del self.sockets[key]
                    self.closed_sockets.append(key)
                case Ask():
                    self.asked.append(effect)
                case Tell():
                    self.told.append(effect)
                case Violation():
                    self.violations.append(effect)
                case CleanupComplete(handle):
                    self.cleaned.append(handle)
                case JoinForRequest():
                    self.joined.append(effect.join)
                    self.perform(self.transport.group_answered(effect, self.join_status, "as the test wants"))
                case BindSocket():
                    raise AssertionError("only an open asks for a socket")

    def transmit(self, key: int) -> None:
        while self.writable and (head := self.transport.next_transmit(key)) is not None:
            source = self.sockets[key]
            message = "as the test wants" if self.send_status.is_error else ""
            self.perform(self.transport.transmitted(key, head.token, self.send_status, message))
            if self.send_status is not NtStatus.SUCCESS:
                continue
            receivers = [other for other, bound in self.sockets.items() if bound == head.destination]
            for other in receivers:
                self.perform(self.transport.datagram_arrived(other, source, head.destination.host, head.data, self.now))
            if not receivers:
                self.at_peer.append((source, head.data))

    def bind(self, effect: BindSocket) -> OpenOutcome:
        local = effect.local
        if local in self.sockets.values() or local.port in self.taken_ports:
            return self.transport.socket_failed(effect.key, NtStatus.ADDRESS_ALREADY_EXISTS, "the port is in use")
        if local.port == 0:
            self.next_port += 1
            local = SocketAddress(local.host, self.next_port)
        self.sockets[effect.key] = local
        return self.transport.socket_bound(effect.key, local)

    # What a test says.

    def try_open(
        self,
        port: int = 5_000,
        host: str | None = None,
        share: ShareAccess = SHARED,
        owner: object = "client",
    ) -> OpenOutcome:
        local = SocketAddress(self.host if host is None else host, port)
        return self.settle(self.transport.open_address(self.network, local, share, owner))

    def settle(self, outcome: OpenOutcome) -> OpenOutcome:
        """Give a pending open the socket it asks for."""
        if outcome.status is not NtStatus.PENDING:
            return outcome
        [effect] = outcome.effects
        assert isinstance(effect, BindSocket)
        return self.bind(effect)

    def open(
        self, port: int = 5_000, host: str | None = None, share: ShareAccess = SHARED, owner: object = "client"
    ) -> int:
        outcome = self.try_open(port, host, share, owner)
        assert outcome.status is NtStatus.SUCCESS, outcome
        return outcome.handle

    def control(self) -> int:
        outcome = self.transport.open_control(self.network, "client")
        assert outcome.status is NtStatus.SUCCESS
        return outcome.handle

    def submit(self, irp: Irp) -> Irp:
        """Submit a send, in the form under test: as objects, or as the bytes a client of either kind builds."""
        self.in_form(irp)
        self.perform(self.transport.send_datagram(irp, self.now))
        return irp

    def in_form(self, irp: Irp) -> Irp:
        """The request, in the form under test."""
        raw = as_bytes(irp, Arch[self.form.upper()]) if self.form != "objects" else None
        if raw is not None:
            self.raw[irp] = raw
        return irp

    def send(self, handle: int, data: bytes = b"hello", destination: SocketAddress | bytes | None = None) -> Irp:
        return self.submit(build_send_datagram(handle, self.peer if destination is None else destination, data))

    def post(self, handle: int, buffer: MdlBuffer | int | None = 100, **wanted: Any) -> Irp:
        """A receive, submitted."""
        irp = self.in_form(build_receive_datagram(handle, buffer, **wanted))
        self.perform(self.transport.submit(irp, self.now))
        return irp

    def set_handler(self, handle: int, event: int, function: int = 1, context: int = 0) -> Irp:
        """A handler set (or with function 0 cleared)."""
        irp = self.in_form(build_set_event_handler(handle, event, function, context))
        self.perform(self.transport.submit(irp, self.now))
        return irp

    def answer(self, status: int, bytes_taken: int = 0, irp: Irp | None = None, ask: Ask | None = None) -> None:
        """The handler called last, or that of ``ask``, returns."""
        token = (ask or self.asked[-1]).token
        self.perform(self.transport.handler_answered(token, Answer(status, bytes_taken, irp), self.now))

    def received(self, irp: Irp) -> ReceivedDatagram:
        """What a completed receive brought."""
        assert isinstance(irp.returned, ReceivedDatagram)
        if irp in self.raw:
            self.raw[irp].check(irp)
        return irp.returned

    def broken_rules(self) -> list[str]:
        """The rules a client was seen to break, in order."""
        return [violation.rule for violation in self.violations]

    def stall(self) -> None:
        """The medium has no room."""
        self.writable = False
        self.segment.stall()

    def resume(self) -> None:
        """The medium has room again."""
        self.writable = True
        for key in list(self.sockets):
            self.transmit(key)
        self.perform(self.segment.resume(self.now))

    def arrive(self, handle: int, data: bytes = b"in", source: SocketAddress | None = None) -> None:
        """The peer sends a datagram to where ``handle`` is open."""
        outcome_port = self.local(handle).port
        if self.network == "udp":
            for key, bound in list(self.sockets.items()):
                if bound.port == outcome_port:
                    self.perform(self.transport.datagram_arrived(key, source or self.peer, None, data, self.now))
            return
        self.perform(self.segment.carry(source or self.peer, SocketAddress(self.host, outcome_port), data, self.now))

    def arrive_with_options(self, handle: int, arrived: Arrived) -> None:
        """A datagram for one object that the network brought options with, as neither network here does."""
        indications = self.transport._devices[self.network].indications
        self.perform(indications.deliver(self.address(handle), arrived, self.now))

    def address(self, handle: int) -> AddressObject:
        """An open address object itself."""
        address = self.transport._files[handle]
        assert isinstance(address, AddressObject)
        return address

    def local(self, handle: int) -> SocketAddress:
        """What the address says about itself."""
        result = self.transport.query(handle, QueryType.ADDRESS_INFO, 100)
        assert result.status is NtStatus.SUCCESS, result
        return parse_transport_address_untrusted(result.data[4:])

    def close(self, handle: int) -> None:
        self.perform(self.transport.cleanup(handle, self.now))
        self.perform(self.transport.close(handle))

    def outcome(self, irp: Irp) -> tuple[NtStatus, int]:
        """The one completion of a request."""
        [complete] = [complete for complete in self.completions if complete.irp is irp]
        assert (complete.status, complete.information) == (irp.status, irp.information)
        assert bool(complete.message) == complete.status.is_error
        return complete.status, complete.information

    def rule(self, irp: Irp) -> str | None:
        [complete] = [complete for complete in self.completions if complete.irp is irp]
        return complete.rule

    def heard(self, handle: int) -> list[bytes]:
        return [deliver.data for deliver in self.deliveries if deliver.handle == handle]

    def peer_heard(self) -> list[bytes]:
        return [data for _, data in self.at_peer]

"""A workbench for connections: two machines on one segment, and a recorder in the shells' place.

``near`` and ``far`` are the two sides. Each request is an ``Irp`` whose end the bench looks up: ``bench.outcome(irp)``
is None while it waits. Time stands still unless a test moves ``now``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from emulator.status import NtStatus
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_profile import SEGMENT_CONNECTIONS, ConnectionMode
from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    ConnectionRequest,
    Disassociate,
    Disconnect,
    Listen,
    PeerInformation,
    PeerReturned,
    Receive,
    Send,
    build_connection_request,
)
from emulator.tdi.connection_states import State
from emulator.tdi.constants import DisconnectFlags, EventType, ListenFlags, ReceiveFlags, SendFlags, ShareAccess
from emulator.tdi.effects import Ask, CleanupComplete, Complete, DeadlineChanged, Deliver, Effect, Tell, Violation
from emulator.tdi.handlers import Answer
from emulator.tdi.irp import Irp
from emulator.tdi.profile import Profile, SegmentProfile
from emulator.tdi.receive_side import build_set_event_handler
from emulator.tdi.segment import Segment
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport

SHARED = ShareAccess.READ | ShareAccess.WRITE
ABORT, RELEASE = DisconnectFlags.ABORT, DisconnectFlags.RELEASE


class Side:
    """One machine of the bench."""

    def __init__(self, bench: Bench, machine: str) -> None:
        self.bench = bench
        self.port = bench.segment.attach(machine)
        self.transport = Transport(machine, Profile(), {"lan": self.port})

    def address(self, port: int = 0, host: str | None = None, share: ShareAccess = SHARED) -> int:
        local = SocketAddress(self.port.host if host is None else host, port)
        outcome = self.transport.open_address("lan", local, share, "client")
        assert outcome.status is NtStatus.SUCCESS, outcome
        return outcome.handle

    def endpoint(self, context: bytes = b"contexts") -> int:
        outcome = self.transport.open_connection("lan", context, "client")
        assert outcome.status is NtStatus.SUCCESS, outcome
        return outcome.handle

    def associated(self, port: int = 0, address: int | None = None, context: bytes = b"contexts") -> int:
        """An endpoint on an address of its own, or on the one given."""
        endpoint = self.endpoint(context)
        handle = self.address(port) if address is None else address
        assert self.status(endpoint, Associate(handle)) is NtStatus.SUCCESS
        return endpoint

    def submit(self, handle: int, request: ConnectionRequest) -> Irp:
        irp = build_connection_request(handle, request)
        self.bench.perform(self.transport.submit(irp, self.bench.now))
        return irp

    def status(self, handle: int, request: ConnectionRequest) -> NtStatus:
        """How a request ended that ends at once."""
        complete = self.bench.outcome(self.submit(handle, request))
        assert complete is not None, f"{request} waits"
        return complete.status

    def refused(self, handle: int, request: ConnectionRequest) -> tuple[NtStatus, str | None]:
        """Status and rule of a request that is refused at once."""
        complete = self.bench.outcome(self.submit(handle, request))
        assert complete is not None, f"{request} waits"
        assert complete.status.is_error
        assert complete.message
        assert complete.information == 0
        return complete.status, complete.rule

    def connect(self, handle: int, to: SocketAddress, user_data: bytes = b"", timeout: float | None = None) -> Irp:
        return self.submit(handle, Connect(PeerInformation(to, user_data=user_data), timeout))

    def listen(
        self,
        handle: int,
        *,
        query: bool = False,
        wanted: SocketAddress | bytes | None = None,
        user_data: bytes = b"",
    ) -> Irp:
        flags = ListenFlags.QUERY_ACCEPT if query else ListenFlags.NONE
        return self.submit(handle, Listen(flags, PeerInformation(wanted, user_data=user_data)))

    def accept(self, handle: int, user_data: bytes = b"") -> Irp:
        return self.submit(handle, Accept(PeerInformation(user_data=user_data)))

    def send(self, handle: int, data: bytes, flags: SendFlags = SendFlags.NONE) -> Irp:
        return self.submit(handle, Send(data, flags))

    def receive(self, handle: int, length: int = 100, flags: ReceiveFlags = ReceiveFlags.NONE) -> Irp:
        return self.submit(handle, Receive(length, flags))

    def got(self, handle: int, length: int = 100, flags: ReceiveFlags = ReceiveFlags.NONE) -> tuple[bytes, NtStatus]:
        """What a receive gets at once."""
        irp = self.receive(handle, length, flags)
        complete = self.bench.outcome(irp)
        assert complete is not None, "there is nothing to receive"
        assert isinstance(irp.returned, bytes)
        assert complete.information == len(irp.returned)
        return irp.returned, complete.status

    def disconnect(
        self, handle: int, flags: DisconnectFlags = RELEASE, timeout: float | None = None, user_data: bytes = b""
    ) -> Irp:
        return self.submit(handle, Disconnect(flags, timeout, PeerInformation(user_data=user_data)))

    def disassociate(self, handle: int) -> NtStatus:
        return self.status(handle, Disassociate())

    def handler(self, address: int, event: EventType, function: int = 1) -> None:
        """Set an event handler; its calls wait in ``bench.asks`` until the test answers."""
        irp = build_set_event_handler(address, event, function)
        self.bench.perform(self.transport.submit(irp, self.bench.now))
        assert irp.status is NtStatus.SUCCESS

    def answer(self, status: int, taken: int = 0, irp: Irp | None = None, connection: int | None = None) -> None:
        """The oldest call of a handler returns."""
        ask = self.bench.asks.pop(0)
        answer = Answer(status, taken, irp, connection)
        self.bench.perform(self.transport.handler_answered(ask.token, answer, self.bench.now))

    def cancel(self, irp: Irp) -> None:
        self.bench.perform(self.transport.cancel(irp, self.bench.now))

    def close(self, handle: int) -> None:
        self.bench.perform(self.transport.cleanup(handle, self.bench.now))
        self.bench.perform(self.transport.close(handle))

    def state(self, handle: int) -> State:
        return self.core(handle).state

    def core(self, handle: int) -> ConnectionEndpoint:
        file = self.transport._files[handle]
        assert isinstance(file, ConnectionEndpoint)
        return file


class Bench:
    """See the module's docstring. ``settings`` replace those of the segment's connections."""

    def __init__(self, *, stream: bool = False, **settings: Any) -> None:
        self.now = 100.0
        profile = replace(SEGMENT_CONNECTIONS, **settings)
        if stream:
            profile = replace(profile, mode=ConnectionMode.STREAM)
        self.segment = Segment("lan", SegmentProfile(connections=profile), random.Random(7))
        self.completions: list[Complete] = []
        self.asks: list[Ask] = []
        self.told: list[Tell] = []
        self.violations: list[Violation] = []
        self.near = Side(self, "vm1")
        self.far = Side(self, "vm2")
        self.there = SocketAddress(self.far.port.host, 7_000)

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                assert not effect.status.is_error or effect.information == 0
                self.completions.append(effect)
            elif isinstance(effect, Ask):
                self.asks.append(effect)
            elif isinstance(effect, Tell):
                self.told.append(effect)
            elif isinstance(effect, Violation):
                self.violations.append(effect)
            else:
                assert isinstance(effect, DeadlineChanged | CleanupComplete | Deliver), effect

    def outcome(self, irp: Irp) -> Complete | None:
        """The one completion of a request, None while it waits."""
        found = [complete for complete in self.completions if complete.irp is irp]
        assert len(found) <= 1
        return found[0] if found else None

    def ended(self, irp: Irp) -> tuple[NtStatus, str | None]:
        """Status and rule of a request that is over."""
        complete = self.outcome(irp)
        assert complete is not None, "it waits"
        return complete.status, complete.rule

    def returned(self, irp: Irp) -> PeerReturned:
        assert isinstance(irp.returned, PeerReturned)
        return irp.returned

    def waits(self, *irps: Irp) -> bool:
        """Whether none of these requests is over."""
        return all(self.outcome(irp) is None for irp in irps)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, bring what arrives on the way, and expire what is due on both machines."""
        until = self.now + seconds
        while (due := self.segment.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.perform(self.segment.poll(self.now))
        self.now = until
        for side in (self.near, self.far):
            self.perform(side.transport.expire(self.now))

    def impair(self, **settings: Any) -> None:
        """From now on the segment is so; what is not named is as it was."""
        self.perform(self.segment.change(replace(self.segment.profile, **settings), self.now))
        self.perform(self.segment.pump_links(self.now))

    def deadline(self, side: Side) -> float | None:
        """In how many seconds a machine wants to be called."""
        at = side.transport.next_deadline()
        return None if at is None else round(at - self.now, 6)

    def connected(self, far_address: int | None = None) -> tuple[int, int]:
        """A connection: the endpoint that connected on ``near``, the one that listened on ``far``."""
        there = self.far.associated(7_000, far_address)
        listen = self.far.listen(there)
        here = self.near.associated()
        connect = self.near.connect(here, self.there)
        assert self.ended(listen) == self.ended(connect) == (NtStatus.SUCCESS, None)
        assert self.near.state(here) is self.far.state(there) is State.CONNECTED
        return here, there

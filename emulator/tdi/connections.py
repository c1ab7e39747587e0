"""All connection endpoints of one machine: the way in for their requests, who listens, and what has run out of time.

Which address an endpoint is associated with, and which endpoints listen on an address in which order, is known here;
what happens on one connection is the endpoint's own (``connection``).

    LISTEN ─▶ the address's queue ─▶ an offer that passes its filter ─▶ OFFERED, or CONNECTED without QUERY_ACCEPT
    an offer ─▶ the first listen it fits, else the connect handler, else refused
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.connection import ConnectionEndpoint, Link
from emulator.tdi.connection_deadlines import deadline_of, expired, is_sending
from emulator.tdi.connection_events import ConnectionEvents
from emulator.tdi.connection_listens import Listening, filter_of
from emulator.tdi.connection_offers import Offers
from emulator.tdi.connection_profile import ConnectionProfile
from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    Disassociate,
    Disconnect,
    Listen,
    PeerInformation,
    PeerReturned,
    Receive,
    Send,
)
from emulator.tdi.connection_states import Input, State, following
from emulator.tdi.constants import EventType, ListenFlags
from emulator.tdi.destination import check_cast, pick_destination_untrusted
from emulator.tdi.device import Device
from emulator.tdi.effects import DeadlineChanged, Effect
from emulator.tdi.irp import ConnectionInformation, Irp, IrpState
from emulator.tdi.structures import SocketAddress, host_facts_untrusted


class ConnectionNetwork(Protocol):
    """What a device brings that carries connections."""

    profile: ConnectionProfile

    def dial(self, endpoint: ConnectionEndpoint, remote: SocketAddress, user_data: bytes, now: float) -> list[Effect]:
        """Begin an attempt (``endpoint.begin``), whose end is ``endpoint.established`` or ``endpoint.failed``."""

    def offers_wanted(self, address: AddressObject, wanted: bool) -> list[Effect]:
        """Offers for an address are wanted from now on, or not any more."""


class Connections:
    """See the module's docstring."""

    def __init__(self, events: ConnectionEvents) -> None:
        self.events = events
        self._offers = Offers(self, events)
        self._networks: dict[str, ConnectionNetwork] = {}
        self._endpoints: dict[int, ConnectionEndpoint] = {}
        self._listening: dict[AddressObject, deque[Listening]] = {}
        self._timed: dict[ConnectionEndpoint, None] = {}

    def network(self, device: Device) -> ConnectionNetwork:
        """How a device carries connections."""
        network = device.connections
        if network is None:
            raise Misuse(f"{device.network} has no connections, so nothing can be connected on it")
        self._networks[device.network] = network
        return network

    def find(self, handle: int) -> ConnectionEndpoint | None:
        """The endpoint a handle stands for."""
        return self._endpoints.get(handle)

    def handlers_changed(self, address: AddressObject, device: Device, now: float) -> list[Effect]:
        """An event handler was set or cleared: what waits on the address's connections may be its (C29)."""
        self.network(device)
        effects = self.offers_wanted(address)
        for endpoint in self.of_address(address):
            effects += endpoint.settle(now)
        return effects

    # Files.

    def open(self, endpoint: ConnectionEndpoint) -> None:
        """Enter a new endpoint (CR10)."""
        self._endpoints[endpoint.handle] = endpoint

    def remove(self, endpoint: ConnectionEndpoint) -> None:
        """Forget one that was cleaned up."""
        del self._endpoints[endpoint.handle]
        self._timed.pop(endpoint, None)
        self.events.forget(endpoint)

    def of_address(self, address: AddressObject) -> list[ConnectionEndpoint]:
        """The endpoints associated with an address (C3)."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.address is address]

    # Requests.

    def submit(self, endpoint: ConnectionEndpoint, device: Device, irp: Irp, now: float) -> list[Effect]:
        """Any request on an endpoint but ASSOCIATE, whose parameter is another file."""
        self._timed[endpoint] = None
        match irp.parameters:
            case Send() as send:
                return endpoint.send(irp, send, now)
            case Receive() as receive:
                return endpoint.receive(irp, receive, now)
            case Disconnect() as disconnect:
                return endpoint.disconnect(irp, disconnect, now)
            case Accept() as accept:
                return endpoint.accept(irp, accept, now)
            case Connect() as connect:
                return self._connect(endpoint, device, irp, connect, now)
            case Listen() as listen:
                return self._listen(endpoint, device, irp, listen)
            case Disassociate():
                return self._disassociate(endpoint, irp)
        raise Misuse(f"a connection request has its parameters, not {type(irp.parameters).__name__}")

    def associate(self, endpoint: ConnectionEndpoint, device: Device, irp: Irp, target: object) -> list[Effect]:
        """TDI_ASSOCIATE_ADDRESS with the file its handle names, None for one that is not open (C1 to C3, S21)."""
        assert isinstance(irp.parameters, Associate)
        handle = irp.parameters.address
        try:
            if target is None:
                raise Refused(NtStatus.INVALID_HANDLE, f"handle {handle} is not open", rule="C1")
            if not isinstance(target, AddressObject) or target.network != endpoint.network:
                text = f"handle {handle} is not an address object on {endpoint.network}: open one there"
                raise Refused(NtStatus.INVALID_PARAMETER, text, rule="C1")
            if target.closing:
                raise Refused(NtStatus.INVALID_HANDLE, f"{target.local} has been cleaned up", rule="C1")
            if target.is_broadcast:
                text = f"{target.local} is a broadcast address, which has no connections"
                raise Refused(device.profile.broadcast_source_status, text, rule="C3")
            self._move_associate(endpoint)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        endpoint.address = target
        return [irp.complete(NtStatus.SUCCESS)]

    @staticmethod
    def _move_associate(endpoint: ConnectionEndpoint) -> None:
        try:
            endpoint.move(Input.ASSOCIATE)
        except Refused as refusal:
            raise Refused(endpoint.profile.already_associated_status, refusal.message, rule="C2") from refusal

    @staticmethod
    def _disassociate(endpoint: ConnectionEndpoint, irp: Irp) -> list[Effect]:
        try:
            endpoint.move(Input.DISASSOCIATE)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        endpoint.address = None
        return [irp.complete(NtStatus.SUCCESS)]

    def _connect(
        self, endpoint: ConnectionEndpoint, device: Device, irp: Irp, request: Connect, now: float
    ) -> list[Effect]:
        network = self.network(device)
        try:
            following(endpoint.state, Input.CONNECT)
            user_data = endpoint.user_data(Accept(request.information))
            remote = self._destination(endpoint, device, request.information)
            endpoint.move(Input.CONNECT)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        timeout = endpoint.profile.connect_timeout_seconds
        irp.mark_pending()
        endpoint.opening = irp
        endpoint.opening_deadline = now + (timeout if request.timeout_seconds is None else request.timeout_seconds)
        return network.dial(endpoint, remote, user_data, now)

    @staticmethod
    def _destination(
        endpoint: ConnectionEndpoint, device: Device, information: PeerInformation | None
    ) -> SocketAddress:
        """Where a CONNECT goes, by the rules datagram destinations have (C6, S13 to S19)."""
        address = _usable_address(endpoint)
        if information is None:
            raise Refused(
                device.profile.null_information_status,
                "a connect needs to be told where: the pointer is null",
                rule="C6",
            )
        wanted = ConnectionInformation(information.remote_address, information.remote_address_length)
        remote = pick_destination_untrusted(wanted, address.version, device.profile)
        facts = host_facts_untrusted(remote.host)
        check_cast(facts, device.is_broadcast(facts.text), device.profile)
        if facts.is_multicast or device.is_broadcast(facts.text):
            text = f"{remote} is many machines: a connection has one peer"
            raise Refused(device.profile.bad_destination_status, text, rule="C6")
        device.check_route(address, facts)
        return remote

    def _listen(self, endpoint: ConnectionEndpoint, device: Device, irp: Irp, request: Listen) -> list[Effect]:
        network = self.network(device)
        try:
            if endpoint.state is State.ASSOCIATED:
                _usable_address(endpoint)
            if request.flags & ListenFlags.QUERY_ACCEPT and not endpoint.profile.supports_query_accept:
                text = f"{endpoint.network} cannot accept later: listen without TDI_QUERY_ACCEPT"
                raise Refused(endpoint.profile.no_query_accept_status, text, rule="C14")
            wanted = filter_of(request.information)
            endpoint.move(Input.LISTEN)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        address = endpoint.address
        assert address is not None, "only an associated endpoint can listen"
        irp.mark_pending()
        endpoint.opening = irp
        queue = self._listening.setdefault(address, deque())
        queue.append(Listening(endpoint, request, wanted))
        return network.offers_wanted(address, True) if len(queue) == 1 else []

    # Offers.

    def wants_offers(self, address: AddressObject) -> bool:
        """Whether somebody listens on an address, or has a connect handler there that is free."""
        if address in self._listening:
            return True
        return address.handlers.get(EventType.CONNECT) is not None and not self._offers.is_busy(address)

    def offers_wanted(self, address: AddressObject) -> list[Effect]:
        """Who listens on an address may have changed: its network may have to do something about it."""
        network = self._networks[address.network]
        return network.offers_wanted(address, not address.closing and self.wants_offers(address))

    def offer(
        self, addresses: Iterable[AddressObject], device: Device, link: Link, user_data: bytes, now: float
    ) -> list[Effect]:
        """Somebody wants to connect to one of these address objects: who gets the offer (C13 to C18)."""
        candidates = list(addresses)
        for address in candidates:
            taken = self.offer_to_listen(address, link, user_data, now)
            if taken is not None:
                return taken
        profile = self.network(device).profile
        for address in candidates:
            if address.handlers.get(EventType.CONNECT) is not None:
                effects = self._offers.put(address, link, user_data, profile.max_offers, now)
                return effects + self.offers_wanted(address)
        return link.abort(profile.not_listening_status, b"", now)

    def offer_to_listen(self, address: AddressObject, link: Link, user_data: bytes, now: float) -> list[Effect] | None:
        """Give an offer to the first LISTEN on an address that it fits; None when there is none (C16)."""
        queue = self._listening.get(address, ())
        found = next((each for each in queue if each.matches(link.remote)), None)
        return None if found is None else self._take(found, link, user_data, now)

    def offered(self, endpoint: ConnectionEndpoint, link: Link, now: float) -> None:
        """An endpoint gets an offer, on which it has to decide in time."""
        endpoint.offered(link, now)
        self._timed[endpoint] = None

    def _take(self, found: Listening, link: Link, user_data: bytes, now: float) -> list[Effect]:
        effects = self._stop_listening(found.endpoint)
        endpoint = found.endpoint
        self.offered(endpoint, link, now)
        irp, endpoint.opening = endpoint.opening, None
        assert irp is not None, "an endpoint that listens has its LISTEN"
        irp.returned = PeerReturned(link.remote, user_data)
        effects.append(irp.complete(NtStatus.SUCCESS))
        if found.request.flags & ListenFlags.QUERY_ACCEPT:
            effects.append(DeadlineChanged(endpoint.owner))
        else:
            information = found.request.information
            endpoint.move(Input.ACCEPT)
            endpoint.opening_deadline = None
            effects += link.accept(b"" if information is None else information.user_data, now)
        return effects

    def _stop_listening(self, endpoint: ConnectionEndpoint) -> list[Effect]:
        address = endpoint.address
        assert address is not None, "an endpoint that listens is associated"
        queue = self._listening[address]
        queue.remove(next(each for each in queue if each.endpoint is endpoint))
        if queue:
            return []
        del self._listening[address]
        return self.offers_wanted(address)

    # Ending.

    def cancel(self, irp: Irp, endpoint: ConnectionEndpoint, now: float) -> list[Effect]:
        """The client wants a waiting request back: CONNECT and LISTEN end the attempt (C12), a send not begun goes."""
        if irp.state is not IrpState.PENDING:
            return []
        text = "cancelled by its client"
        if endpoint.opening is irp:
            effects: list[Effect] = []
            if endpoint.state is State.LISTENING:
                effects += self._stop_listening(endpoint)
            elif endpoint.link is not None:
                effects += endpoint.link.abort(NtStatus.CANCELLED, b"", now)
            return [*effects, *endpoint.failed(NtStatus.CANCELLED, text, "C12")]
        if endpoint.incoming.take_back(irp) is not None or endpoint.outgoing.remove(irp) is not None:
            return [irp.complete(NtStatus.CANCELLED, 0, text, "P7"), *endpoint.settle(now)]
        waiting = [each for each in endpoint.releases if each[0] is irp]
        if waiting:
            endpoint.releases.remove(waiting[0])
            return [irp.complete(NtStatus.CANCELLED, 0, "cancelled; the release goes on", "P7")]
        return []

    def cleanup(self, endpoint: ConnectionEndpoint, now: float) -> list[Effect]:
        """The last handle of an endpoint is gone: its connection is aborted, its requests end (CL2, CL4)."""
        endpoint.closing = True
        effects: list[Effect] = []
        if endpoint.state is State.LISTENING:
            effects += self._stop_listening(endpoint)
        elif endpoint.link is not None:
            effects += endpoint.link.abort(endpoint.profile.not_listening_status, b"", now)
        endpoint.state = State.IDLE
        endpoint.address = None
        return effects + endpoint.end(NtStatus.CANCELLED, "its endpoint was cleaned up", "CL4")

    def listens_failed(self, address: AddressObject, status: NtStatus, message: str, rule: str = "C13") -> list[Effect]:
        """Nobody can listen on an address: its host does not allow it, or it goes."""
        effects: list[Effect] = []
        for listening in list(self._listening.get(address, ())):
            effects += self._stop_listening(listening.endpoint)
            effects += listening.endpoint.failed(status, message, rule)
        return effects

    def address_cleanup(self, address: AddressObject) -> list[Effect]:
        """An address goes: nobody can be offered to on it. Connections that stand keep on (CL8)."""
        return self.listens_failed(address, NtStatus.CANCELLED, "its address object was cleaned up", "CL2")

    # Time.

    def next_deadline(self) -> float | None:
        """When ``expire`` has something to do, if nothing else happens before."""
        deadlines: list[float] = []
        for endpoint in list(self._timed):
            deadline = deadline_of(endpoint)
            if deadline is not None:
                deadlines.append(deadline)
            elif not is_sending(endpoint):
                del self._timed[endpoint]
        return min(deadlines, default=None)

    def expire(self, now: float) -> list[Effect]:
        """End what has taken too long: attempts, offers, releases, data on a segment that is cut."""
        effects: list[Effect] = []
        for endpoint in list(self._timed):
            deadline = deadline_of(endpoint)
            if deadline is not None and deadline <= now:
                effects += expired(endpoint, now)
        return effects


def _usable_address(endpoint: ConnectionEndpoint) -> AddressObject:
    address = endpoint.address
    assert address is not None, "an endpoint that is not idle has an address"
    if address.closing:
        text = f"{address.local} has been closed: disassociate, and associate with an open address"
        raise Refused(NtStatus.ADDRESS_CLOSED, text, rule="CL8")
    return address

"""Offers that a connect handler decides on (C18, C19): one call for each address at a time, the others wait, bounded.

offer ─▶ no LISTEN fits ─▶ the handler ─▶ MORE_PROCESSING_REQUIRED with an ACCEPT ─▶ accepted
                                      └─▶ anything else ─▶ refused
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from emulator.status import NtStatus, Refused
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_requests import Accept
from emulator.tdi.connection_states import State
from emulator.tdi.constants import EventType
from emulator.tdi.effects import Effect, Event
from emulator.tdi.handlers import Answer, give_back

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.connection import Link
    from emulator.tdi.connection_events import ConnectionEvents
    from emulator.tdi.connections import Connections

_REFUSALS = (NtStatus.CONNECTION_REFUSED, NtStatus.INSUFFICIENT_RESOURCES)


class _Offer(NamedTuple):
    link: Link
    user_data: bytes


class OfferCall:
    """One call of a connect handler, and who wants the answer."""

    __slots__ = ("_address", "_offer", "_offers")

    def __init__(self, offers: Offers, address: AddressObject, offer: _Offer) -> None:
        self._offers = offers
        self._address = address
        self._offer = offer

    def answered(self, answer: Answer, now: float) -> list[Effect]:
        """The handler has returned, or its time is over."""
        return self._offers.answered(self._address, self._offer, answer, now)


class Offers:
    """The offers of one machine that wait for a connect handler."""

    def __init__(self, connections: Connections, events: ConnectionEvents) -> None:
        self._connections = connections
        self._events = events
        self._asked: dict[AddressObject, deque[_Offer]] = {}

    def is_busy(self, address: AddressObject) -> bool:
        """Whether the address's handler has an offer and another would have to wait."""
        return address in self._asked

    def put(self, address: AddressObject, link: Link, user_data: bytes, most: int, now: float) -> list[Effect]:
        """An offer no LISTEN takes, for an address with a connect handler."""
        offer = _Offer(link, user_data)
        waiting = self._asked.get(address)
        if waiting is None:
            self._asked[address] = deque()
            return self._ask(address, offer, now)
        if len(waiting) >= most:
            return link.abort(NtStatus.INSUFFICIENT_RESOURCES, b"", now)
        waiting.append(offer)
        return []

    def _ask(self, address: AddressObject, offer: _Offer, now: float) -> list[Effect]:
        handler = address.handlers.get(EventType.CONNECT)
        if handler is None:
            effects = offer.link.abort(NtStatus.CONNECTION_REFUSED, b"", now)
            return effects + self._next(address, now)
        event = Event(remote=offer.link.remote, data=offer.user_data)
        return [self._events.calls.ask(OfferCall(self, address, offer), address, handler, event, now)]

    def _next(self, address: AddressObject, now: float) -> list[Effect]:
        """The handler is free: the oldest offer that still stands is its next. It may be a LISTEN's by now (C16)."""
        waiting = self._asked[address]
        while waiting:
            offer = waiting.popleft()
            if offer.link.is_over:
                continue
            taken = self._connections.offer_to_listen(address, offer.link, offer.user_data, now)
            if taken is None:
                return self._ask(address, offer, now)
            return taken + self._next(address, now)
        del self._asked[address]
        return self._connections.offers_wanted(address)

    def answered(self, address: AddressObject, offer: _Offer, answer: Answer, now: float) -> list[Effect]:
        """A connect handler has decided (C18, C19)."""
        effects: list[Effect] = []
        if offer.link.is_over:
            effects += give_back(answer.irp, "the peer gave up before the handler answered", "C18")
        elif answer.status == NtStatus.MORE_PROCESSING_REQUIRED and answer.irp is not None:
            effects += self._accept(address, offer, answer, now)
        else:
            status = next((each for each in _REFUSALS if each == answer.status), NtStatus.CONNECTION_REFUSED)
            effects += give_back(answer.irp, "an ACCEPT comes with STATUS_MORE_PROCESSING_REQUIRED", "C18")
            effects += offer.link.abort(status, b"", now)
        return effects + self._next(address, now)

    def _accept(self, address: AddressObject, offer: _Offer, answer: Answer, now: float) -> list[Effect]:
        irp = answer.irp
        assert irp is not None, "an offer is accepted by a request"
        try:
            endpoint = self._acceptor(address, answer)
        except Refused as refusal:
            refused = [irp.refuse(refusal)] if irp.is_new else []
            return [*refused, *offer.link.abort(NtStatus.CONNECTION_REFUSED, b"", now)]
        request = irp.parameters
        assert isinstance(request, Accept), "checked with its endpoint"
        self._connections.offered(endpoint, offer.link, now)
        effects = endpoint.accept(irp, request, now)
        if irp.status.is_error:
            effects += offer.link.abort(NtStatus.CONNECTION_REFUSED, b"", now)
            effects += endpoint.failed(NtStatus.CONNECTION_REFUSED, "its ACCEPT was refused", "C17")
        return effects

    def _acceptor(self, address: AddressObject, answer: Answer) -> ConnectionEndpoint:
        """The endpoint a handler's ACCEPT is for; Refused when it cannot be (C19)."""
        irp = answer.irp
        assert irp is not None, "an offer is accepted by a request"
        endpoint = self._connections.find(irp.handle)
        if endpoint is None or endpoint.closing or not isinstance(irp.parameters, Accept) or not irp.is_new:
            text = "a connect handler returns a new ACCEPT on an open connection endpoint"
            raise Refused(NtStatus.INVALID_CONNECTION, text, rule="C19")
        if irp.cancelled:
            raise Refused(NtStatus.CANCELLED, "cancelled before it was handed over", rule="C19")
        if endpoint.address is not address:
            text = "the endpoint of the ACCEPT is not associated with the address that got the offer"
            raise Refused(NtStatus.INVALID_CONNECTION, text, rule="C19")
        if answer.connection is not None and answer.connection != endpoint.context_number:
            text = "the ConnectionContext returned is not the one the endpoint of the ACCEPT was opened with"
            raise Refused(NtStatus.INVALID_CONNECTION, text, rule="C19")
        if endpoint.state is not State.ASSOCIATED:
            text = f"the endpoint of the ACCEPT is {endpoint.state.value}: an idle associated one is needed"
            raise Refused(NtStatus.INVALID_CONNECTION, text, rule="C17")
        return endpoint

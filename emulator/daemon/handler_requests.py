"""Asking a client: its event handlers run in its own process, so a call of one is a request the other way.

``Questions`` is one session's part of that, for whatever may ask: a request to the client, and later one answer. For
handlers there is ``ask_handler``: it sends the event and brings what the client says to ``HandlerAnswers.answered``.
How long an answer may take is the transport's business; a question it has given up stays here until the client has
answered it or is gone, so that a request in a late answer still gets its end.

To let handlers of another event hand over a request, add how it is made to ``RETURNED_REQUESTS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from emulator.status import PeerViolation, Refused
from emulator.tdi.connection_requests import Accept, PeerInformation, Receive, build_connection_request
from emulator.tdi.constants import EventType
from emulator.tdi.handlers import NOT_ACCEPTED, Answer
from emulator.tdi.irp import Irp
from emulator.tdi.receives import ReceivedDatagram, build_receive_datagram
from emulator.tdi.structures import pack_transport_address
from emulator.wire.codec import Response, WireError, check_result, encode_notification, encode_request
from emulator.wire.method import DATAGRAM
from emulator.wire.schema import ADDRESS_EVENT, ADDRESS_REQUEST_COMPLETED, Method

if TYPE_CHECKING:
    from emulator.daemon.address_requests import AddressEnd
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Ask, Complete, Effect, Tell


class Question(Protocol):
    """Something a client was asked."""

    machine: Machine

    def answered(self, result: tuple[Any, ...] | None) -> None:
        """What it said, checked against the method's fields; None for an error, or when it is gone."""


class Questions:
    """What one client has been asked and not answered."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked: dict[int, tuple[Method, Question]] = {}
        self._given = 0

    def ask(self, method: Method, args: tuple[object, ...], question: Question) -> bool:
        """Ask; False, and nothing sent, for a client that has too much to answer already."""
        if not self._session.is_open or len(self._asked) >= self._session.limits.outstanding_handler_calls:
            return False
        self._given = self._given % 0xFFFFFFFF + 1
        self._asked[self._given] = method, question
        self._session.put(encode_request(self._given, method, *args))
        return True

    def answered(self, response: Response) -> None:
        """A response of the client's. Raises WireError for one to nothing that was asked."""
        method, question = self._asked.pop(response.msgid, (None, None))
        if method is None or question is None:
            raise WireError(
                f"a response came to a request that was never sent, or is answered already: {response.msgid}"
            )
        try:
            result: tuple[Any, ...] | None = check_result(method, response)
        except Refused:
            result = None
        try:
            question.answered(result)
        except PeerViolation:
            raise
        except Exception as error:  # noqa: BLE001 -- a fault in a core ends its machine, and only that
            question.machine.fail(error)

    def close_all(self, reason: str) -> None:
        """The session ended: nobody will answer any more."""
        asked, self._asked = self._asked, {}
        for _, question in asked.values():
            if question.machine.is_alive:
                question.answered(None)

    # ---- event handlers

    def ask_handler(self, end: AddressEnd, ask: Ask) -> list[Effect]:
        """Call a handler. Where that is not possible it has not accepted; the effects of that."""
        handlers = end.machine.datagrams.handlers
        args = end.number, *event_arguments(ask)
        if not end.is_open or not self.ask(ADDRESS_EVENT, args, HandlerQuestion(end, ask)):
            return handlers.not_called(ask.token)
        handlers.called()
        return []


class HandlerQuestion:
    """A call of a handler that the client has not answered."""

    __slots__ = ("_ask", "_end", "machine")

    def __init__(self, end: AddressEnd, ask: Ask) -> None:
        self.machine = end.machine
        self._end = end
        self._ask = ask

    def answered(self, result: tuple[Any, ...] | None) -> None:
        """Bring what the handler returned to the transport. An error counts as not accepted."""
        answer = NOT_ACCEPTED
        if result is not None:
            status, taken, request, length, endpoint, connection, user_data = result
            irp = self._handed_over(request, length, endpoint, user_data) if request else None
            answer = Answer(status, taken, irp, connection)
        self.machine.datagrams.handlers.answered(self._ask.token, answer)

    def _handed_over(self, request: int, length: int, endpoint: int, user_data: bytes) -> Irp:
        """The request in an answer. For an event that takes none it is one that nothing accepts."""
        make = RETURNED_REQUESTS.get(self._ask.handler.event)
        context = ReturnedRequest(self._end, request)
        if make is None:
            return Irp(self._end.handle, None, context)
        return make(self._end, length, endpoint, user_data, context)


class ReturnedRequest:
    """A request that a handler handed over: the context of its IRP."""

    __slots__ = ("_end", "_number")

    def __init__(self, end: AddressEnd, number: int) -> None:
        self._end = end
        self._number = number

    def finish(self, complete: Complete) -> None:
        """It is over: tell the client."""
        message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
        status = int(complete.status), complete.information, message
        end = self._end
        brought = complete.irp.returned
        end.session.put(
            encode_notification(ADDRESS_REQUEST_COMPLETED, end.number, self._number, *status, *brought_back(brought))
        )


def brought_back(returned: object) -> tuple[bytes, int, bytes]:
    """The remote address, flags and data of a completed receive; nothing for one that failed."""
    if isinstance(returned, bytes):
        return b"", 0, returned
    if isinstance(returned, ReceivedDatagram):
        return returned.remote_address, int(returned.flags), returned.data
    return b"", 0, b""


def _receive_datagram(end: AddressEnd, length: int, endpoint: int, user_data: bytes, context: ReturnedRequest) -> Irp:
    return build_receive_datagram(end.handle, length, context=context)


def _receive(end: AddressEnd, length: int, endpoint: int, user_data: bytes, context: ReturnedRequest) -> Irp:
    handle = end.session.connection_requests.handle_of(endpoint)
    return build_connection_request(handle, Receive(min(length, DATAGRAM.most)), context)


def _accept(end: AddressEnd, length: int, endpoint: int, user_data: bytes, context: ReturnedRequest) -> Irp:
    accept = Accept(PeerInformation(user_data=user_data) if user_data else None)
    return build_connection_request(end.session.connection_requests.handle_of(endpoint), accept, context)


Make = Callable[["AddressEnd", int, int, bytes, ReturnedRequest], Irp]
RETURNED_REQUESTS: dict[EventType, Make] = {
    EventType.RECEIVE_DATAGRAM: _receive_datagram,
    EventType.RECEIVE: _receive,
    EventType.RECEIVE_EXPEDITED: _receive,
    EventType.CONNECT: _accept,
}
"""How the request is made that a handler of an event hands over: from the address, and what else the answer says."""


def event_arguments(call: Ask | Tell) -> tuple[object, ...]:
    """A handler's arguments as they travel."""
    event, handler = call.event, call.handler
    return (
        int(handler.event),
        handler.function,
        handler.context,
        event.connection,
        int(event.status),
        int(event.flags),
        event.available,
        event.descriptor,
        b"" if event.remote is None else pack_transport_address(event.remote),
        event.options,
        bytes(event.data),
    )

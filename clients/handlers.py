"""Event handlers of this client: functions the daemon has called, what they are called with, what they return. Pure.

A handler is set for one event of one address object. The daemon then calls it with a message; the face runs the
function and the answer goes back:

    address.event ─▶ HandlerCall ─▶ (the face: the function) ─▶ HandlerResult ─▶ the answer
    address.told ──▶ HandlerCall ─▶ (the face: the function)    nothing goes back

A function gets a ``HandlerEvent`` and returns a ``HandlerResult``, or None for "I took all of it". To have the rest of
a datagram in a buffer of its own it makes a ``ReturnedRequest`` and returns it with ``HandlerResult.rest_into``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from clients.calls import Call, ConnectionLost, RequestFailed
from clients.holdings import Holdings
from clients.inbox import AddressState
from emulator.status import NtStatus
from emulator.tdi.constants import EventType
from emulator.tdi.structures import parse_transport_address_untrusted
from emulator.wire.codec import WireError, encode_error, encode_response
from emulator.wire.receive_rows import MOST_USER_DATA
from emulator.wire.schema import ADDRESS_SET_EVENT_HANDLER


class HandlerEvent(NamedTuple):
    """What a handler is called with; which fields say something depends on the event.

    ``data`` are the bytes indicated, ``available`` how many there are in all, ``flags`` TDI_RECEIVE_* bits, ``source``
    the other side. ``descriptor`` names chained data, for ``return_chained``. ``connection`` is the ConnectionContext
    of the endpoint concerned, ``status`` what an error handler is told, ``context`` what the handler was set with.
    """

    event: EventType
    context: int
    connection: int
    status: NtStatus
    flags: int
    available: int
    descriptor: int
    source: tuple[str, int] | None
    options: bytes
    data: bytes


class Received(NamedTuple):
    """What a receive brought. BUFFER_OVERFLOW says that the datagram was longer than the buffer, and cut."""

    data: bytes
    source: tuple[str, int] | None
    flags: int
    status: NtStatus


class ReturnedRequest:
    """A buffer of ``length`` bytes for the rest of what a handler was shown. Windows: *IoRequestPacket.

    Return it from the handler once; then ``address.completed(request)`` waits for its end.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.number = 0
        self.received: Received | None = None
        self.error: Exception | None = None
        self.waiter: Any = None

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.received is not None or self.error is not None

    def outcome(self) -> Received:
        """What it brought; raises its error."""
        if self.error is not None:
            raise self.error
        assert self.received is not None, "asked before its end"
        return self.received


class HandlerResult(NamedTuple):
    """What a handler returns: the status, how many of the bytes in ``data`` it took (None for all), and a request.

    ``endpoint`` is the connection that a handed-over accept is for; ``context``, where it is given, has to be what that
    was opened with (C19), and ``user_data`` goes to the client that connects.
    """

    status: NtStatus
    taken: int | None = None
    request: ReturnedRequest | None = None
    endpoint: int = 0
    context: int | None = None
    user_data: bytes = b""

    @classmethod
    def success(cls, taken: int | None = None) -> HandlerResult:
        """It took so many bytes; of a datagram the others are lost."""
        return cls(NtStatus.SUCCESS, taken)

    @classmethod
    def not_accepted(cls) -> HandlerResult:
        """It does not want this."""
        return cls(NtStatus.DATA_NOT_ACCEPTED, 0)

    @classmethod
    def rest_into(cls, request: ReturnedRequest, taken: int = 0, *, endpoint: int = 0) -> HandlerResult:
        """It took so many bytes, and the rest shall go into a request; for data of a connection name its ``number``."""
        return cls(NtStatus.MORE_PROCESSING_REQUIRED, taken, request, endpoint)

    @classmethod
    def accept(cls, endpoint: int, user_data: bytes = b"", *, context: int | None = None) -> HandlerResult:
        """A connect handler accepts, with the endpoint of that ``number``, idle and on the same address (C18).

        A provider carries less user data than the 4096 bytes that can be given: the accept then fails.
        """
        if len(user_data) > MOST_USER_DATA:
            raise ValueError(f"an accept carries at most {MOST_USER_DATA} bytes of user data, not {len(user_data)}")
        return cls(NtStatus.MORE_PROCESSING_REQUIRED, 0, ReturnedRequest(0), endpoint, context, bytes(user_data))

    @classmethod
    def refuse(cls) -> HandlerResult:
        """A connect handler refuses."""
        return cls(NtStatus.CONNECTION_REFUSED, 0)

    @classmethod
    def keep(cls) -> HandlerResult:
        """It keeps chained data until it returns the descriptor."""
        return cls(NtStatus.PENDING, 0)


Function = Callable[[HandlerEvent], Any]
"""A handler: returns a HandlerResult, None, or (trio face only) an awaitable of one."""


class HandlerCall(NamedTuple):
    """A handler the face has to run. Calls with the same ``lane`` come one after the other, in order."""

    msgid: int | None
    address: int
    function: Function
    event: HandlerEvent

    @property
    def lane(self) -> tuple[int, int]:
        """The address object, and the connection of it that is concerned."""
        return self.address, self.event.connection


class Handlers(Holdings):
    """The handlers of one connection to the daemon, and the requests they handed over."""

    def __init__(self) -> None:
        super().__init__()
        self._functions: dict[int, Function] = {}
        self._last_function = 0
        self._current: dict[tuple[int, int], int] = {}
        self._handler_calls: deque[HandlerCall] = deque()
        self._returned: dict[tuple[int, int], ReturnedRequest] = {}
        self._last_returned = 0

    # ---- setting

    def set_handler(self, state: AddressState, event: int, function: Function | None, context: int) -> Call:
        """Set, replace or (with None) take away a handler. Its old function is called no more after the answer."""
        if state.closed is not None:
            raise RequestFailed(*state.closed)
        number = 0
        if function is not None:
            self._last_function += 1
            number = self._last_function
            self._functions[number] = function

        def answered(result: tuple[Any, ...]) -> None:
            if NtStatus(result[0]).is_error:
                self._functions.pop(number, None)
                return
            before = self._current.pop((state.number, event), 0)
            self._functions.pop(before, None)
            if number:
                self._current[state.number, event] = number

        return self.call(ADDRESS_SET_EVENT_HANDLER, state.number, event, number, context, build=answered, undo=answered)

    def drop_address(self, state: AddressState) -> None:
        """An address was closed here, and its handlers with it."""
        super().drop_address(state)
        for key in [key for key in self._current if key[0] == state.number]:
            self._functions.pop(self._current.pop(key), None)

    # ---- being called

    def _handler_called(self, msgid: int | None, args: tuple[Any, ...]) -> None:
        address, event, handler, context, connection, status, flags, available, descriptor, remote, *rest = args
        function = self._functions.get(handler)
        if function is None:
            # The address was closed here while the call was on its way.
            if msgid is not None:
                self._answer(msgid, NtStatus.DATA_NOT_ACCEPTED)
            return
        source = _socket_address(remote)
        try:
            known, why = EventType(event), NtStatus(status)
        except ValueError as error:
            raise WireError(f"a handler is called with what does not exist: {error}") from None
        called = HandlerEvent(known, context, connection, why, flags, available, descriptor, source, *rest)
        self._handler_calls.append(HandlerCall(msgid, address, function, called))

    def next_handler_call(self) -> HandlerCall | None:
        """A handler that has to be run now; the face does so, and then says how it ended."""
        return self._handler_calls.popleft() if self._handler_calls else None

    def handler_returned(self, call: HandlerCall, result: object) -> None:
        """A handler has returned: answer. TypeError for what is no result."""
        if result is None:
            result = HandlerResult.success()
        if not isinstance(result, HandlerResult):
            raise TypeError(f"a handler returns a HandlerResult or None, not {result!r}")
        self._handler_ended(call)
        if call.msgid is None or self.lost is not None:
            return
        taken = len(call.event.data) if result.taken is None else result.taken
        number = length = 0
        if result.request is not None:
            number, length = self._hand_over(call.address, result.request), result.request.length
        accept = result.endpoint, result.context, result.user_data
        self._answer(call.msgid, result.status, taken, number, length, *accept)

    def handler_failed(self, call: HandlerCall, error: BaseException) -> None:
        """A handler has raised: the daemon counts it as not accepted."""
        self._handler_ended(call)
        if call.msgid is not None and self.lost is None:
            text = f"the handler raised {type(error).__name__}: {error}"
            self.outgoing += encode_error(call.msgid, NtStatus.UNSUCCESSFUL, text)

    def _handler_ended(self, call: HandlerCall) -> None:
        state = self._addresses.get(call.address)
        if state is not None:
            state.handled += 1
            self._touched.append(state)

    def _answer(
        self,
        msgid: int,
        status: NtStatus,
        taken: int = 0,
        number: int = 0,
        length: int = 0,
        endpoint: int = 0,
        context: int | None = None,
        user_data: bytes = b"",
    ) -> None:
        self.outgoing += encode_response(msgid, int(status), taken, number, length, endpoint, context, user_data)

    # ---- requests handed over

    def _hand_over(self, address: int, request: ReturnedRequest) -> int:
        if request.number:
            raise TypeError("a request can be returned from a handler once: make another one for each")
        self._last_returned += 1
        request.number = self._last_returned
        self._returned[address, request.number] = request
        return request.number

    def _request_completed(self, args: tuple[Any, ...]) -> None:
        address, number, status, _, message, remote, flags, data = args
        request = self._returned.pop((address, number), None)
        if request is None:
            return
        try:
            request.received = received((status, 0, message, remote, flags, data))
        except RequestFailed as error:
            request.error = error
        self._touched.append(request)

    def _close_all(self, reason: str) -> None:
        super()._close_all(reason)
        self._handler_calls.clear()
        for request in self._returned.values():
            request.error = self.lost or ConnectionLost(reason)
            self._touched.append(request)
        self._returned.clear()


def received(result: tuple[Any, ...]) -> Received:
    """What a receive came to; RequestFailed for an error."""
    status, information, message, remote, flags, data = result
    known = NtStatus(status)
    if known.is_error:
        raise RequestFailed(known, message, information)
    return Received(data, _socket_address(remote), flags, known)


def _socket_address(remote: bytes) -> tuple[str, int] | None:
    """The host and port in a TRANSPORT_ADDRESS; None where there is none."""
    if not remote:
        return None
    parsed = parse_transport_address_untrusted(remote)
    return parsed.host, parsed.port

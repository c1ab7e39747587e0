"""Receiving beyond the stream of datagrams, and event handlers: an address's part of the face without an event loop.

Handlers run while the program waits in a call: any that has to wait for the daemon, or ``serve``. An exception in one
comes out of that call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clients import receive_calls
from clients.handlers import Function, Received, ReturnedRequest, received
from clients.inbox import AddressState
from clients.requests import IoStatus, raise_on_error

if TYPE_CHECKING:
    from clients.protocol import ClientProtocol
    from clients.sync import Connection


class Receiving:
    """What an address can do besides its stream of datagrams."""

    _connection: Connection
    _state: AddressState

    def receive_datagram(
        self, length: int = 65_535, *, source: tuple[str, int] | None = None, peek: bool = False
    ) -> Received:
        """TDI_RECEIVE_DATAGRAM: wait for a datagram into a buffer of ``length`` bytes; see the trio face."""
        call = receive_calls.receive_datagram(self._connection.protocol, self._state, length, source, peek)
        return received(self._connection.finish(call))

    def set_handler(self, event: int, function: Function | None, *, context: int = 0) -> IoStatus:
        """TDI_SET_EVENT_HANDLER: from now on a plain ``function`` is called with each such event; None takes it away.

        It gets a ``HandlerEvent`` and returns a ``HandlerResult``, or None for "I took all of it".
        """
        call = self._connection.protocol.set_handler(self._state, event, function, context)
        return raise_on_error(*self._connection.finish(call))

    def completed(self, request: ReturnedRequest) -> Received:
        """The end of a request that a handler has returned, or will; raises RequestFailed for an error."""
        while not request.done:
            self._connection.wait()
        return request.outcome()

    def return_chained(self, descriptors: Iterable[int]) -> None:
        """TdiReturnChainedReceives: give back chained data that handlers kept."""
        self._connection.finish(receive_calls.return_chained(self._connection.protocol, self._state, descriptors))

    def serve(self, calls: int | None = None) -> None:
        """Run handlers until so many of this address have run that no ``serve`` has waited for, or it is closed.

        Without a number, until it is closed. Raises TimeoutError when nothing comes within the connection's time-out.
        """
        state = self._state
        last = None if calls is None else state.served + calls
        while last is None or state.handled < last:
            if state.closed is not None:
                if self._connection.protocol.lost is not None:
                    raise self._connection.protocol.lost
                return
            self._connection.wait()
        state.served = last


def run_handlers(protocol: ClientProtocol) -> None:
    """Run what the daemon has called, in order. An exception of a handler is answered, and raised."""
    while (call := protocol.next_handler_call()) is not None:
        try:
            protocol.handler_returned(call, call.function(call.event))
        except BaseException as error:
            protocol.handler_failed(call, error)
            raise

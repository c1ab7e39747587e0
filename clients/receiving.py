"""Receiving beyond the stream of datagrams, and event handlers: the trio face's part of an address.

A handler is a plain or an async function. Those of one address (or one connection of it) run one after the other, in
the order of their calls; plain ones where nothing waits run at once, async ones in a task. An exception in one ends the
connection to the daemon: it comes out of ``async with connect()``.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

from clients import receive_calls
from clients.calls import ConnectionLost
from clients.handlers import Function, HandlerCall, Received, ReturnedRequest, received
from clients.inbox import AddressState
from clients.requests import IoStatus, raise_on_error

if TYPE_CHECKING:
    from clients.connection import Connection


class Receiving:
    """What an address can do besides its stream of datagrams."""

    _connection: Connection
    _state: AddressState

    async def receive_datagram(
        self, length: int = 65_535, *, source: tuple[str, int] | None = None, peek: bool = False
    ) -> Received:
        """TDI_RECEIVE_DATAGRAM: wait for a datagram into a buffer of ``length`` bytes, from ``source`` or anybody.

        What it takes is not in the stream of datagrams, and reaches no handler. A longer datagram is cut, which the
        status of the result says. A ``source`` may leave host or port open with "" or 0. Raises RequestFailed.
        """
        call = receive_calls.receive_datagram(self._connection.protocol, self._state, length, source, peek)
        return received(await self._connection.finish(call))

    async def set_handler(self, event: int, function: Function | None, *, context: int = 0) -> IoStatus:
        """TDI_SET_EVENT_HANDLER: from now on ``function`` is called with each such event; None takes it away.

        It gets a ``HandlerEvent`` and returns a ``HandlerResult``, or None for "I took all of it".
        """
        call = self._connection.protocol.set_handler(self._state, event, function, context)
        return raise_on_error(*await self._connection.finish(call))

    async def completed(self, request: ReturnedRequest) -> Received:
        """The end of a request that a handler has returned, or will; raises RequestFailed for an error."""
        while not request.done:
            await self._connection.wait_for(request)
        return request.outcome()

    async def return_chained(self, descriptors: Iterable[int]) -> None:
        """TdiReturnChainedReceives: give back chained data that handlers kept."""
        await self._connection.finish(receive_calls.return_chained(self._connection.protocol, self._state, descriptors))

    async def serve(self, calls: int | None = None) -> None:
        """Wait until so many handlers of this address have run that no ``serve`` has waited for, or it is closed.

        Without a number, until it is closed.
        """
        state = self._state
        last = None if calls is None else state.served + calls
        while last is None or state.handled < last:
            if state.closed is not None:
                if self._connection.protocol.lost is not None:
                    raise ConnectionLost(str(self._connection.protocol.lost))
                return
            await self._connection.wait_for(state)
        state.served = last


class HandlerTasks:
    """Runs the handlers of one connection: in lanes, each in order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lanes: dict[tuple[int, int], deque[HandlerCall]] = {}

    def run_new(self) -> bool:
        """Begin what the daemon has called; whether there was anything."""
        any_ran = False
        while (call := self._connection.protocol.next_handler_call()) is not None:
            any_ran = True
            waiting = self._lanes.get(call.lane)
            if waiting is not None:
                waiting.append(call)
            elif (rest := self._begin(call)) is not None:
                nursery = self._connection.nursery
                assert nursery is not None, "what is received is received in the nursery's task"
                self._lanes[call.lane] = deque()
                nursery.start_soon(self._run_lane, call, rest)
        return any_ran

    def _begin(self, call: HandlerCall) -> Awaitable[object] | None:
        """Call the function. A plain one is then over; of an async one the rest is returned."""
        try:
            result = call.function(call.event)
            if inspect.isawaitable(result):
                return result
            self._connection.protocol.handler_returned(call, result)
        except Exception as error:  # noqa: BLE001 -- raised where the program is
            self._failed(call, error)
        return None

    async def _run_lane(self, call: HandlerCall, rest: Awaitable[object] | None) -> None:
        waiting = self._lanes[call.lane]
        while True:
            if rest is not None:
                try:
                    self._connection.protocol.handler_returned(call, await rest)
                except Exception as error:  # noqa: BLE001 -- raised where the program is
                    self._failed(call, error)
            self._connection.flush()
            if not waiting:
                break
            call = waiting.popleft()
            rest = self._begin(call)
        del self._lanes[call.lane]

    def _failed(self, call: HandlerCall, error: Exception) -> None:
        self._connection.protocol.handler_failed(call, error)
        self._connection.fail(error)

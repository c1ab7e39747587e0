"""Filters above a device: the trio face."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from clients import filter_calls, requests
from clients.calls import RequestFailed
from clients.filter_calls import FilterCompletion, FilterRequest
from clients.views import FilterView

if TYPE_CHECKING:
    from clients.connection import Connection


class Filter(FilterView):
    """This client's place above a device. Iterate over it for what passes; answer each in time.

    Opens, requests and, with ``events``, datagrams and handler calls wait for the answer, 5 seconds unless the daemon
    is configured otherwise; then the filter is removed and everything passes on. Made by ``machine.attach_filter``.
    """

    _connection: Connection

    async def next_request(self) -> FilterRequest:
        """Wait for what passes next. Raises RequestFailed once the filter is out."""
        while filter_calls.must_wait(self._connection.protocol, self._state, self._state.items):
            await self._connection.wait_for(self._state)
        return FilterRequest(self._connection, self._state.items.popleft())

    async def completed(self, request: FilterRequest) -> FilterCompletion:
        """Wait for the end of a request that was answered with ``watch``; ask once."""
        while filter_calls.must_wait(self._connection.protocol, self._state, request.serial in self._state.ends):
            await self._connection.wait_for(self._state)
        return filter_calls.completion(self._state, request)

    async def query(self, file: int, query_type: int, *, buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on somebody's file, below this filter; the structure's bytes."""
        call = filter_calls.query(self._connection.protocol, self._state, file, query_type, buffer_bytes)
        return requests.query_answer(await self._connection.finish(call))

    def __aiter__(self) -> Filter:
        return self

    async def __anext__(self) -> FilterRequest:
        try:
            return await self.next_request()
        except RequestFailed:
            raise StopAsyncIteration from None

    async def detach(self) -> None:
        """Leave; what this client has not answered passes on."""
        call = filter_calls.detach(self._connection.protocol, self._state)
        if call is not None:
            await self._connection.finish(call)

    async def __aenter__(self) -> Filter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.detach()

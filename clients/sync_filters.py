"""Filters above a device: the face without an event loop."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from clients import filter_calls, requests
from clients.calls import RequestFailed
from clients.filter_calls import FilterCompletion, FilterRequest
from clients.views import FilterView

if TYPE_CHECKING:
    from clients.sync import Connection


class Filter(FilterView):
    """This client's place above a device. Iterate over it for what passes; answer each in time.

    Opens, requests and, with ``events``, datagrams and handler calls wait for the answer, 5 seconds unless the daemon
    is configured otherwise; then the filter is removed and everything passes on. Made by ``machine.attach_filter``.
    """

    _connection: Connection

    def next_request(self) -> FilterRequest:
        """Wait for what passes next. Raises RequestFailed once the filter is out."""
        while filter_calls.must_wait(self._connection.protocol, self._state, self._state.items):
            self._connection.wait()
        return FilterRequest(self._connection, self._state.items.popleft())

    def completed(self, request: FilterRequest) -> FilterCompletion:
        """Wait for the end of a request that was answered with ``watch``; ask once."""
        while filter_calls.must_wait(self._connection.protocol, self._state, request.serial in self._state.ends):
            self._connection.wait()
        return filter_calls.completion(self._state, request)

    def query(self, file: int, query_type: int, *, buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on somebody's file, below this filter; the structure's bytes."""
        call = filter_calls.query(self._connection.protocol, self._state, file, query_type, buffer_bytes)
        return requests.query_answer(self._connection.finish(call))

    def __iter__(self) -> Filter:
        return self

    def __next__(self) -> FilterRequest:
        try:
            return self.next_request()
        except RequestFailed:
            raise StopIteration from None

    def detach(self) -> None:
        """Leave; what this client has not answered passes on."""
        call = filter_calls.detach(self._connection.protocol, self._state)
        if call is not None:
            self._connection.finish(call)

    def __enter__(self) -> Filter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

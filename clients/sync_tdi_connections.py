"""Connection endpoints: the face without an event loop."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from clients import connection_calls, requests
from clients.calls import RequestFailed
from clients.connection_calls import RECEIVE_BYTES, Peer, Received
from clients.requests import IoStatus
from clients.views import TdiConnectionView

if TYPE_CHECKING:
    from clients.sync import Connection
    from clients.sync_tdi import Address


class TdiConnection(TdiConnectionView):
    """An open connection endpoint. Connected, it can be iterated over for what arrives, until the peer releases.

    It outlives its connections: after a disconnect it can be connected or listened on again.
    """

    _connection: Connection

    def associate(self, address: Address) -> IoStatus:
        """TDI_ASSOCIATE_ADDRESS: an address of the same machine and network."""
        call = connection_calls.associate(self._connection.protocol, self._state, address.state)
        return requests.raise_on_error(*self._connection.finish(call))

    def disassociate(self) -> IoStatus:
        """TDI_DISASSOCIATE_ADDRESS."""
        call = connection_calls.disassociate(self._connection.protocol, self._state)
        return requests.raise_on_error(*self._connection.finish(call))

    def connect(self, to: tuple[str, int], *, timeout_seconds: float | None = None, user_data: bytes = b"") -> Peer:
        """TDI_CONNECT. Returns when the peer has accepted; RequestFailed says why it did not."""
        call = connection_calls.connect(self._connection.protocol, self._state, to, timeout_seconds, user_data)
        return connection_calls.peer(self._state, self._connection.finish(call))

    def listen(
        self, *, query_accept: bool = False, source: tuple[str, int] | None = None, user_data: bytes = b""
    ) -> Peer:
        """TDI_LISTEN. Returns when somebody has connected; with ``query_accept`` it then waits for ``accept``."""
        call = connection_calls.listen(self._connection.protocol, self._state, query_accept, source, user_data)
        return connection_calls.peer(self._state, self._connection.finish(call))

    def accept(self, *, user_data: bytes = b"") -> Peer:
        """TDI_ACCEPT, after a ``listen(query_accept=True)``; ``disconnect`` rejects instead."""
        call = connection_calls.accept(self._connection.protocol, self._state, user_data)
        return connection_calls.peer(self._state, self._connection.finish(call))

    def send(self, data: bytes, *, flags: int = 0) -> IoStatus:
        """TDI_SEND. Returns (status, information) when the network has it all; ``flags`` are TDI_SEND_*."""
        call = connection_calls.send(self._connection.protocol, self._state, data, flags)
        return requests.raise_on_error(*self._connection.finish(call))

    def receive(self, length: int = RECEIVE_BYTES, *, flags: int = 0) -> Received:
        """TDI_RECEIVE: what has arrived, ``length`` bytes at most; ``flags`` are TDI_RECEIVE_*.

        RequestFailed with REMOTE_DISCONNECT once the peer has released and everything has been received.
        """
        call = connection_calls.receive(self._connection.protocol, self._state, length, flags)
        return connection_calls.received(self._connection.finish(call))

    def disconnect(self, *, abort: bool = False, timeout_seconds: float | None = None, user_data: bytes = b"") -> bytes:
        """TDI_DISCONNECT: release the connection, or abort it.

        A release returns when the peer has released too; what it still sends has to be received meanwhile. Returns the
        user data that came with its release.
        """
        protocol = self._connection.protocol
        call = connection_calls.disconnect(protocol, self._state, abort, timeout_seconds, user_data)
        return connection_calls.goodbye(self._connection.finish(call))

    def query(self, query_type: int, *, buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on this endpoint; the structure's bytes."""
        call = connection_calls.query(self._connection.protocol, self._state, query_type, buffer_bytes)
        return requests.query_answer(self._connection.finish(call))

    def __iter__(self) -> TdiConnection:
        return self

    def __next__(self) -> Received:
        try:
            return self.receive()
        except RequestFailed as failure:
            if connection_calls.is_the_end(failure):
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Close it; a connection that stands is aborted, and what waits ends with CANCELLED."""
        call = connection_calls.close(self._connection.protocol, self._state)
        if call is not None:
            self._connection.finish(call)

    def __enter__(self) -> TdiConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

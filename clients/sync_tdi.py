"""Addresses and datagrams: the face without an event loop."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clients import address_calls, connection_calls, file_calls, network_calls, requests
from clients.calls import RequestFailed
from clients.inbox import Datagram
from clients.requests import IoStatus
from clients.sync_receiving import Receiving
from clients.sync_tdi_connections import TdiConnection
from clients.views import AddressView

if TYPE_CHECKING:
    from clients.file_calls import IrpResult
    from clients.sync import Connection
    from clients.sync_files import File
    from emulator.memory import Mdl
    from emulator.tdi.builders import Location


class Address(Receiving, AddressView):
    """An open transport address. Iterate over it for the datagrams that arrive."""

    _connection: Connection

    def open_connection(self) -> TdiConnection:
        """A connection endpoint on this address's machine and network, associated with it."""
        call = connection_calls.open_connection(self._connection.protocol, self._state.machine, self._state.network)
        self._connection.finish(call)
        opened = TdiConnection(self._connection, call.built)
        try:
            opened.associate(self)
        except RequestFailed:
            opened.close()
            raise
        return opened

    def connect(
        self, to: tuple[str, int], *, timeout_seconds: float | None = None, user_data: bytes = b""
    ) -> TdiConnection:
        """A new endpoint on this address, connected."""
        opened = self.open_connection()
        try:
            opened.connect(to, timeout_seconds=timeout_seconds, user_data=user_data)
        except BaseException:
            opened.abandon()
            raise
        return opened

    def listen(
        self, *, query_accept: bool = False, source: tuple[str, int] | None = None, user_data: bytes = b""
    ) -> TdiConnection:
        """A new endpoint on this address, when somebody has connected to it; with ``query_accept`` to be accepted."""
        opened = self.open_connection()
        try:
            opened.listen(query_accept=query_accept, source=source, user_data=user_data)
        except BaseException:
            opened.abandon()
            raise
        return opened

    def send_datagram(self, data: bytes, destination: tuple[str, int]) -> IoStatus:
        """TDI_SEND_DATAGRAM. Returns (status, information); raises RequestFailed for an error status."""
        call = address_calls.send_datagram(self._connection.protocol, self._state, data, destination)
        return requests.raise_on_error(*self._connection.finish(call))

    def submit(
        self, location: Location, *, mdl: Mdl | None = None, buffer: bytes = b"", buffer_at: int = 0
    ) -> IrpResult:
        """Submit a request as bytes on this address; see ``File.submit``."""
        return self.file.submit(location, mdl=mdl, buffer=buffer, buffer_at=buffer_at)

    @property
    def file(self) -> File:
        """The same file for requests as bytes. Windows: FILE_OBJECT."""
        from clients.sync_files import File  # it is made of this module

        return File(self._connection, file_calls.of_address(self._state, self.local))

    def send_many(self, datagrams: Iterable[bytes], destination: tuple[str, int]) -> list[IoStatus]:
        """Many TDI_SEND_DATAGRAM to one destination, in as few messages and system calls as there can be.

        Returns (status, information) of each, in order, error statuses too; raises RequestFailed only for a burst that
        could not be submitted.
        """
        burst = network_calls.send_burst(self._connection.protocol, self._state, datagrams, destination)
        self._connection.finish(burst)
        return network_calls.burst_statuses(burst)

    def join(self, group: str, *, interface: str | None = None) -> None:
        """Become a member of a multicast group, on the interface with that own address, or on the first."""
        self._connection.finish(network_calls.join(self._connection.protocol, self._state, group, interface))

    def leave(self, group: str, *, interface: str | None = None) -> None:
        """End one join."""
        self._connection.finish(network_calls.leave(self._connection.protocol, self._state, group, interface))

    def options(self, **changes: Any) -> dict[str, Any]:
        """How its datagrams leave, with these changed first.

        ``ttl``, ``multicast_ttl``, ``multicast_interface``, ``multicast_loop``, ``broadcast``, ``type_of_service``.
        """
        call = network_calls.options(self._connection.protocol, self._state, changes)
        self._connection.finish(call)
        options: dict[str, Any] = call.built
        return options

    def query(self, query_type: int, *, buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on this address; the structure's bytes."""
        call = address_calls.query_address(self._connection.protocol, self._state, query_type, buffer_bytes)
        return requests.query_answer(self._connection.finish(call))

    def __iter__(self) -> Address:
        return self

    def __next__(self) -> Datagram:
        self._connection.wait_for_item(self._state)
        datagram = address_calls.take_datagram(self._connection.protocol, self._state)
        self._connection.flush()
        return datagram

    def close(self) -> None:
        """Close it; sends still waiting end with CANCELLED."""
        call = address_calls.close_address(self._connection.protocol, self._state)
        if call is not None:
            self._connection.finish(call)

    def __enter__(self) -> Address:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

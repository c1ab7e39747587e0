"""Transport addresses and datagrams: the trio face."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clients import address_calls, connection_calls, file_calls, network_calls, requests
from clients.calls import RequestFailed
from clients.inbox import Datagram
from clients.receiving import Receiving
from clients.requests import IoStatus
from clients.tdi_connections import TdiConnection
from clients.views import AddressView

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.file_calls import IrpResult
    from clients.files import File
    from emulator.memory import Mdl
    from emulator.tdi.builders import Location


class Address(Receiving, AddressView):
    """An open transport address. Iterate over it for the datagrams that arrive."""

    _connection: Connection

    async def open_connection(self) -> TdiConnection:
        """A connection endpoint on this address's machine and network, associated with it."""
        call = connection_calls.open_connection(self._connection.protocol, self._state.machine, self._state.network)
        await self._connection.finish(call)
        opened = TdiConnection(self._connection, call.built)
        try:
            await opened.associate(self)
        except RequestFailed:
            await opened.close()
            raise
        return opened

    async def connect(
        self, to: tuple[str, int], *, timeout_seconds: float | None = None, user_data: bytes = b""
    ) -> TdiConnection:
        """A new endpoint on this address, connected."""
        opened = await self.open_connection()
        try:
            await opened.connect(to, timeout_seconds=timeout_seconds, user_data=user_data)
        except BaseException:
            opened.abandon()
            raise
        return opened

    async def listen(
        self, *, query_accept: bool = False, source: tuple[str, int] | None = None, user_data: bytes = b""
    ) -> TdiConnection:
        """A new endpoint on this address, when somebody has connected to it; with ``query_accept`` to be accepted."""
        opened = await self.open_connection()
        try:
            await opened.listen(query_accept=query_accept, source=source, user_data=user_data)
        except BaseException:
            opened.abandon()
            raise
        return opened

    async def send_datagram(self, data: bytes, destination: tuple[str, int]) -> IoStatus:
        """TDI_SEND_DATAGRAM. Returns (status, information); raises RequestFailed for an error status."""
        call = address_calls.send_datagram(self._connection.protocol, self._state, data, destination)
        return requests.raise_on_error(*await self._connection.finish(call))

    async def submit(
        self, location: Location, *, mdl: Mdl | None = None, buffer: bytes = b"", buffer_at: int = 0
    ) -> IrpResult:
        """Submit a request as bytes on this address; see ``File.submit``."""
        return await self.file.submit(location, mdl=mdl, buffer=buffer, buffer_at=buffer_at)

    @property
    def file(self) -> File:
        """The same file for requests as bytes. Windows: FILE_OBJECT."""
        from clients.files import File  # it is made of this module

        return File(self._connection, file_calls.of_address(self._state, self.local))

    async def send_many(self, datagrams: Iterable[bytes], destination: tuple[str, int]) -> list[IoStatus]:
        """Many TDI_SEND_DATAGRAM to one destination, in as few messages and system calls as there can be.

        Returns (status, information) of each, in order, error statuses too; raises RequestFailed only for a burst that
        could not be submitted.
        """
        burst = network_calls.send_burst(self._connection.protocol, self._state, datagrams, destination)
        await self._connection.finish(burst)
        return network_calls.burst_statuses(burst)

    async def join(self, group: str, *, interface: str | None = None) -> None:
        """Become a member of a multicast group, on the interface with that own address, or on the first."""
        await self._connection.finish(network_calls.join(self._connection.protocol, self._state, group, interface))

    async def leave(self, group: str, *, interface: str | None = None) -> None:
        """End one join."""
        await self._connection.finish(network_calls.leave(self._connection.protocol, self._state, group, interface))

    async def options(self, **changes: Any) -> dict[str, Any]:
        """How its datagrams leave, with these changed first.

        ``ttl``, ``multicast_ttl``, ``multicast_interface``, ``multicast_loop``, ``broadcast``, ``type_of_service``.
        """
        call = network_calls.options(self._connection.protocol, self._state, changes)
        await self._connection.finish(call)
        options: dict[str, Any] = call.built
        return options

    async def query(self, query_type: int, *, buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on this address; the structure's bytes."""
        call = address_calls.query_address(self._connection.protocol, self._state, query_type, buffer_bytes)
        return requests.query_answer(await self._connection.finish(call))

    def __aiter__(self) -> Address:
        return self

    async def __anext__(self) -> Datagram:
        state = self._state
        if not state.items:
            await self._connection.wait_for_item(state)
        datagram = address_calls.take_datagram(self._connection.protocol, state)
        if self._connection.protocol.outgoing:
            self._connection.flush()
        return datagram

    async def close(self) -> None:
        """Close it; sends still waiting end with CANCELLED."""
        call = address_calls.close_address(self._connection.protocol, self._state)
        if call is not None:
            await self._connection.finish(call)

    async def __aenter__(self) -> Address:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

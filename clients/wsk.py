"""Sockets in the shape of Winsock Kernel over the same transport, for drivers that move from TDI.

The documents' porting table, as it is here (Windows names on the right):

    address object + connection endpoint   one socket                        WskSocket, WskBind
    SEND_DATAGRAM, RECEIVE_DATAGRAM        send_to, receive_from             WskSendTo, WskReceiveFrom
    CONNECT, SEND, RECEIVE, DISCONNECT     the same names                    WskConnect and so on
    connect handler                        listen, accept                    WskAccept, WskAcceptEvent
    DISASSOCIATE_ADDRESS                   nothing: a socket is one thing
    CLEANUP, CLOSE                         close                             WskCloseSocket

Statuses are WSK's where the two differ (``translated``): sharing is refused with ADDRESS_ALREADY_EXISTS or
ACCESS_DENIED, nobody listening is CONNECTION_REFUSED, and a peer's orderly end is a receive of no bytes.
``vmbusctl compare-wsk`` shows the differences at work. This face is for trio only.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio

from clients.calls import RequestFailed
from clients.connection_calls import Received
from clients.handlers import HandlerEvent, HandlerResult, ReturnedRequest
from clients.requests import IoStatus
from clients.tdi import Address
from clients.tdi_connections import TdiConnection
from clients.vmbus import Machine
from emulator.status import NtStatus
from emulator.tdi.constants import EventType

BACKLOG = 4
"""Connections a listening socket takes before they are accepted."""

_STATUSES = {
    NtStatus.REMOTE_NOT_LISTENING: NtStatus.CONNECTION_REFUSED,
    NtStatus.BAD_NETWORK_PATH: NtStatus.HOST_UNREACHABLE,
    NtStatus.REMOTE_DISCONNECT: NtStatus.CONNECTION_DISCONNECTED,
    NtStatus.LOCAL_DISCONNECT: NtStatus.CONNECTION_ABORTED,
    NtStatus.INVALID_CONNECTION: NtStatus.INVALID_DEVICE_STATE,
}
"""What WSK says where TDI has a word of its own."""


class FromPeer(NamedTuple):
    """A datagram, cut to the buffer it was received into: BUFFER_OVERFLOW says so."""

    data: bytes
    source: tuple[str, int]
    status: NtStatus


def translated(failure: RequestFailed, *, reuse: bool = False) -> RequestFailed:
    """A TDI failure as WSK would report it; ``reuse`` for a bind with SO_REUSEADDR."""
    status = failure.status
    if status is NtStatus.SHARING_VIOLATION:
        status = NtStatus.ACCESS_DENIED if reuse else NtStatus.ADDRESS_ALREADY_EXISTS
    return RequestFailed(_STATUSES.get(status, status), failure.message)


class WskProvider:
    """Where sockets of one machine come from. Windows: WSK_PROVIDER_NPI.

    ``datagrams`` and ``streams`` name the networks: real UDP and TCP, or for both the same segment.
    """

    def __init__(self, machine: Machine, *, datagrams: str = "udp", streams: str = "tcp") -> None:
        self.machine = machine
        self._datagrams = datagrams
        self._streams = streams

    def datagram_socket(self) -> WskDatagramSocket:
        """Windows: WskSocket with WSK_FLAG_DATAGRAM_SOCKET."""
        return WskDatagramSocket(self.machine, self._datagrams)

    def connection_socket(self) -> WskConnectionSocket:
        """Windows: WskSocket with WSK_FLAG_CONNECTION_SOCKET."""
        return WskConnectionSocket(self.machine, self._streams)

    def listening_socket(self) -> WskListeningSocket:
        """Windows: WskSocket with WSK_FLAG_LISTEN_SOCKET."""
        return WskListeningSocket(self.machine, self._streams)


class _Socket:
    """What all sockets can: be bound, say where, and be closed."""

    def __init__(self, machine: Machine, network: str) -> None:
        self._machine = machine
        self._network = network
        self._address: Address | None = None

    async def bind(self, local: tuple[str, int] = ("0.0.0.0", 0), *, reuse: bool = False) -> None:
        """Windows: WskBind; ``reuse`` is SO_REUSEADDR, without it the address is this socket's alone."""
        if self._address is not None:
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, "the socket is bound already")
        try:
            self._address = await self._machine.open_address(local, network=self._network, share=reuse)
        except RequestFailed as failure:
            raise translated(failure, reuse=reuse) from None

    @property
    def local(self) -> tuple[str, int]:
        """Windows: WskGetLocalAddress."""
        return self._bound().local

    def _bound(self) -> Address:
        if self._address is None:
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, "bind the socket first")
        return self._address

    async def close(self) -> None:
        """Windows: WskCloseSocket."""
        if self._address is not None:
            await self._address.close()


class WskDatagramSocket(_Socket):
    """Windows: WSK_PROVIDER_DATAGRAM_DISPATCH."""

    async def send_to(self, data: bytes, remote: tuple[str, int]) -> IoStatus:
        """Windows: WskSendTo."""
        try:
            return await self._bound().send_datagram(data, remote)
        except RequestFailed as failure:
            raise translated(failure) from None

    async def receive_from(self, length: int = 65_535) -> FromPeer:
        """Windows: WskReceiveFrom. A socket keeps what comes before it is asked, as an address object does not."""
        datagram = await self._bound().__anext__()
        status = NtStatus.SUCCESS if len(datagram.data) <= length else NtStatus.BUFFER_OVERFLOW
        return FromPeer(datagram.data[:length], datagram.source, status)


class WskConnectionSocket(_Socket):
    """Windows: WSK_PROVIDER_CONNECTION_DISPATCH."""

    def __init__(
        self,
        machine: Machine,
        network: str,
        accepted: TdiConnection | None = None,
        remote: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(machine, network)
        self._connection = accepted
        self.remote = remote
        """The other side, once there is one. Windows: WskGetRemoteAddress."""

    async def connect(self, remote: tuple[str, int], *, timeout_seconds: float | None = None) -> None:
        """Windows: WskConnect."""
        try:
            self._connection = await self._bound().connect(remote, timeout_seconds=timeout_seconds)
        except RequestFailed as failure:
            raise translated(failure) from None
        self.remote = remote

    def _connected(self) -> TdiConnection:
        if self._connection is None:
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, "connect the socket first")
        return self._connection

    async def send(self, data: bytes) -> IoStatus:
        """Windows: WskSend."""
        try:
            return await self._connected().send(data)
        except RequestFailed as failure:
            raise translated(failure) from None

    async def receive(self, length: int = 65_536) -> Received:
        """Windows: WskReceive. No bytes, with SUCCESS, once the peer has finished and everything was received."""
        try:
            return await self._connected().receive(length)
        except RequestFailed as failure:
            if failure.status is NtStatus.REMOTE_DISCONNECT:
                return Received()
            raise translated(failure) from None

    async def disconnect(self, *, abort: bool = False) -> None:
        """Windows: WskDisconnect, without WSK_FLAG_ABORTIVE or with it."""
        try:
            await self._connected().disconnect(abort=abort)
        except RequestFailed as failure:
            raise translated(failure) from None

    async def close(self) -> None:
        """Windows: WskCloseSocket. A connection that stands is aborted."""
        if self._connection is not None:
            await self._connection.close()
        await super().close()


class _Taken(NamedTuple):
    connection: TdiConnection
    request: ReturnedRequest
    remote: tuple[str, int] | None


class WskListeningSocket(_Socket):
    """Windows: WSK_PROVIDER_LISTEN_DISPATCH. It takes connections by itself, up to its backlog."""

    def __init__(self, machine: Machine, network: str) -> None:
        super().__init__(machine, network)
        self._idle: deque[TdiConnection] = deque()
        self._taken: deque[_Taken] = deque()
        self._arrived = trio.Event()

    async def bind(self, local: tuple[str, int] = ("0.0.0.0", 0), *, reuse: bool = False) -> None:
        """Windows: WskBind. A listening socket listens from here on: WSK has no call for that."""
        await super().bind(local, reuse=reuse)
        address = self._bound()
        self._idle += [await address.open_connection() for _ in range(BACKLOG)]
        await address.set_handler(EventType.CONNECT, self._decide)

    def _decide(self, event: HandlerEvent) -> HandlerResult:
        if not self._idle:
            return HandlerResult(NtStatus.INSUFFICIENT_RESOURCES, 0)
        taken = _Taken(self._idle.popleft(), ReturnedRequest(0), event.source)
        self._taken.append(taken)
        self._arrived.set()
        return HandlerResult(NtStatus.MORE_PROCESSING_REQUIRED, 0, taken.request, taken.connection.number)

    async def accept(self) -> WskConnectionSocket:
        """Windows: WskAccept. The oldest connection that was taken and still stands."""
        while True:
            while not self._taken:
                self._arrived = trio.Event()
                await self._arrived.wait()
            taken = self._taken.popleft()
            self._idle.append(await self._bound().open_connection())
            try:
                await self._bound().completed(taken.request)
            except RequestFailed:
                await taken.connection.close()
            else:
                return WskConnectionSocket(self._machine, self._network, taken.connection, taken.remote)

    async def close(self) -> None:
        """Windows: WskCloseSocket. What was taken and not accepted is aborted."""
        for connection in [*self._idle, *(taken.connection for taken in self._taken)]:
            await connection.close()
        await super().close()

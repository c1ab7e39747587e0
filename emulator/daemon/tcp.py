"""Real TCP sockets behind TDI connections: opened, connected, accepted, written, read and closed as the transport asks.

One task serves all of a machine's: it waits for an ``epoll`` of its own. A socket is registered there only while
something is wanted of it, so one whose endpoint is full is left alone, and its peer waits.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import trio

from emulator.daemon.poller import Poller, Start
from emulator.daemon.udp import status_of
from emulator.daemon.udp_sockets import route_source
from emulator.status import NtStatus
from emulator.tdi.effects import AcceptStreams, BindStream, CloseStream, ConnectStream, Effect, StreamChanged
from emulator.tdi.structures import SocketAddress
from emulator.tdi.tcp import TcpDevice

# Ready sockets looked at in one wake-up, and reads of one of them; what is left is ready at the next.
READY_SOCKETS = 64
READS_PER_TURN = 4
# Who has connected and waits for somebody to listen; the host refuses more, or lets them try again.
BACKLOG = 128
# A port the host chose for one address may be taken at another: so often another one is tried.
PORT_TRIES = 8
_IN, _OUT, _ERROR, _HANG_UP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_STATUSES = {
    errno.ECONNREFUSED: NtStatus.CONNECTION_REFUSED,
    errno.ETIMEDOUT: NtStatus.IO_TIMEOUT,
    errno.ECONNRESET: NtStatus.CONNECTION_RESET,
    errno.EPIPE: NtStatus.CONNECTION_RESET,
    errno.ECONNABORTED: NtStatus.CONNECTION_ABORTED,
}


def stream_status(number: int) -> NtStatus:
    """The NTSTATUS an error number of a stream socket stands for."""
    return _STATUSES.get(number) or status_of(OSError(number, ""))


class _Stream:
    """One socket. ``mask`` is what it is registered for in the epoll; None where it is not."""

    __slots__ = ("connecting", "holds", "key", "listening", "mask", "socket")

    def __init__(self, key: int, sock: socket.socket, *, holds: bool, connecting: bool = False) -> None:
        self.key = key
        self.socket = sock
        self.holds = holds
        self.connecting = connecting
        self.listening = False
        self.mask: int | None = None


def _new_socket(local: SocketAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    # A port is free again at once after its connections, and its connections may go out from it.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _bound_socket(local: SocketAddress) -> socket.socket:
    made = _new_socket(local)
    try:
        made.bind(tuple(local))
    except OSError:
        made.close()
        raise
    return made


def _beside(holders: list[_Stream], remote: SocketAddress) -> _Stream:
    """The one of several whose address the host would send from."""
    if len(holders) > 1:
        source = route_source(remote)
        for each in holders:
            if each.socket.getsockname()[0] == source:
                return each
    return holders[0]


def _socket_address(name: Any) -> SocketAddress:
    return SocketAddress(str(name[0]).partition("%")[0], name[1])


class TcpStreams:
    """Every real TCP socket of one machine.

    ``perform`` does what the transport returns, and ends the machine when that fails.
    """

    def __init__(
        self, device: TcpDevice, perform: Callable[[Callable[[], Iterable[Effect]]], None], start: Start
    ) -> None:
        self._device = device
        self._perform = perform
        self._streams: dict[int, _Stream] = {}
        self._by_descriptor: dict[int, _Stream] = {}
        self._poller = Poller(self._ready, start)

    # ---- what the transport asks

    def bind(self, wanted: BindStream) -> SocketAddress:
        """Take a port, at every address that is wanted; what it is. Raises OSError."""
        self._poller.open()
        for tries_left in reversed(range(PORT_TRIES)):
            holders = [_Stream(wanted.key, _bound_socket(wanted.local), holds=True)]
            local = _socket_address(holders[0].socket.getsockname())
            try:
                for key, host in wanted.also:
                    holders.append(_Stream(key, _bound_socket(SocketAddress(host, local.port)), holds=True))
            except OSError as error:
                for each in holders:
                    each.socket.close()
                if wanted.local.port or error.errno != errno.EADDRINUSE or not tries_left:
                    raise
            else:
                break
        for each in holders:
            self._add(each)
        return local

    def perform(self, effect: AcceptStreams | ConnectStream | StreamChanged | CloseStream) -> list[Effect]:
        """Do one thing for one socket; what came of it."""
        match effect:
            case AcceptStreams(key=key):
                return self._listen(key)
            case ConnectStream():
                return self._connect(effect)
            case StreamChanged(key=key):
                return self._look(key)
            case CloseStream(key=key, abort=abort):
                self._close(key, abort=abort)
                return []

    def close_all(self) -> None:
        """The machine ends."""
        for key in list(self._streams):
            self._close(key, abort=True)
        self._poller.close()

    def _add(self, stream: _Stream) -> None:
        self._streams[stream.key] = stream
        self._by_descriptor[stream.socket.fileno()] = stream

    def _close(self, key: int, *, abort: bool) -> None:
        stream = self._streams.pop(key, None)
        if stream is None:
            return
        self._want(stream, None)
        del self._by_descriptor[stream.socket.fileno()]
        if abort:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        stream.socket.close()

    def _want(self, stream: _Stream, mask: int | None) -> None:
        """Be told of these events of a socket, or of none at all."""
        if mask == stream.mask:
            return
        descriptor = stream.socket.fileno()
        if mask is None:
            self._poller.unregister(descriptor)
        elif stream.mask is None:
            self._poller.register(descriptor, mask)
        else:
            self._poller.modify(descriptor, mask)
        stream.mask = mask

    # ---- listening

    def _listen(self, key: int) -> list[Effect]:
        stream = self._streams.get(key)
        if stream is None:
            return []
        wanted = self._device.wants_accept(key)
        if wanted and not stream.listening:
            try:
                stream.socket.listen(BACKLOG)
            except OSError as error:
                status, why = stream_status(error.errno or 0), error.strerror or str(error)
                return self._device.listen_failed(key, status, why)
            stream.listening = True
        self._want(stream, _IN if wanted and stream.listening else None)
        return []

    def _accept(self, stream: _Stream) -> Iterable[Effect]:
        """Take one who has connected, if that is wanted."""
        if not self._device.wants_accept(stream.key):
            self._want(stream, None)
            return []
        try:
            accepted, name = stream.socket.accept()
        except BlockingIOError:
            return []
        except OSError:
            # Gone again, or no descriptor left: whoever wants the next one asks again.
            self._want(stream, None)
            return []
        accepted.setblocking(False)
        key, effects = self._device.offered(stream.key, _socket_address(name), trio.current_time())
        self._add(_Stream(key, accepted, holds=False))
        return effects

    # ---- connecting

    def _connect(self, wanted: ConnectStream) -> list[Effect]:
        holders = [self._streams[key] for key in wanted.holders if key in self._streams]
        link = self._device.link(wanted.key)
        if not holders or link is None:
            return []
        made = _new_socket(wanted.remote)
        stream = _Stream(wanted.key, made, holds=False, connecting=True)
        self._add(stream)
        try:
            self._bind_beside(made, _beside(holders, wanted.remote))
            made.connect(tuple(wanted.remote))
        except BlockingIOError:
            self._want(stream, _OUT)
            return []
        except OSError as error:
            return self._failed(stream, error.errno or 0)
        return self._connected(stream)

    @staticmethod
    def _bind_beside(made: socket.socket, holder: _Stream) -> None:
        """Take the holder's own address and port too. Beside a socket that listens that takes a moment's sharing."""
        sharing = (made, holder.socket) if holder.listening else ()
        for each in sharing:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            made.bind(holder.socket.getsockname())
        finally:
            for each in sharing:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)

    def _connected(self, stream: _Stream) -> list[Effect]:
        stream.connecting = False
        link = self._device.link(stream.key)
        return [] if link is None else link.connected(trio.current_time())

    def _failed(self, stream: _Stream, number: int) -> list[Effect]:
        link = self._device.link(stream.key)
        if link is None:
            return []
        what = "could not be reached" if stream.connecting else "is gone"
        text = f"{link.remote} {what}: {os.strerror(number)}"
        return link.broken(stream_status(number), text, trio.current_time())

    # ---- data

    def _look(self, key: int) -> list[Effect]:
        """Write what there is to write, and be told when more can be written or read."""
        stream, link = self._streams.get(key), self._device.link(key)
        if stream is None or link is None or stream.connecting:
            return []
        now = trio.current_time()
        effects: list[Effect] = []
        blocked = False
        try:
            while (piece := link.piece()) is not None:
                effects += link.took(stream.socket.send(piece.data), now)
            if link.end_is_due:
                stream.socket.shutdown(socket.SHUT_WR)
                effects += link.end_taken(now)
        except BlockingIOError:
            blocked = True
        except OSError as error:
            return effects + self._failed(stream, error.errno or 0)
        mask = (_IN if link.room else 0) | (_OUT if blocked else 0)
        # Nothing wanted: only a peer that has finished and may still reset is listened to.
        self._want(stream, mask if mask or link.may_reset else None)
        return effects

    def _read(self, stream: _Stream) -> list[Effect]:
        """What has arrived, a bounded number of pieces; then look again."""
        effects: list[Effect] = []
        link = self._device.link(stream.key)
        for _ in range(READS_PER_TURN):
            if link is None or not link.room:
                break
            try:
                data = stream.socket.recv(link.room)
            except BlockingIOError:
                break
            except OSError as error:
                return effects + self._failed(stream, error.errno or 0)
            now = trio.current_time()
            effects += link.arrived(data, now) if data else link.finished(now)
            if not data:
                break
        return [*effects, StreamChanged(stream.key)]

    # ---- what happens

    def _ready(self, descriptor: int, events: int) -> None:
        stream = self._by_descriptor.get(descriptor)
        if stream is not None:
            self._serve(stream, events)

    def _serve(self, stream: _Stream, events: int) -> None:
        if stream.holds:
            self._perform(lambda: self._accept(stream))
        elif stream.connecting:
            number = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._perform(lambda: self._failed(stream, number) if number else self._connected(stream))
        elif events & (_ERROR | _HANG_UP) and not events & _IN:
            number = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            self._perform(lambda: self._failed(stream, number))
        elif events & _IN:
            self._perform(lambda: self._read(stream))
        else:
            self._perform(lambda: self._look(stream.key))

    # ---- looking in

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows of it."""
        connections = sum(1 for stream in self._streams.values() if not stream.holds)
        return {"tcp_connections": connections, "tcp_addresses": len(self._streams) - connections}

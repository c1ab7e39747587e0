"""The way to a daemon over UDP: one QUIC connection, driven by the reader of a ``Connection``.

The reader's wait is what takes packets, answers timers and sends what is due; whoever sends sends at once. So there is
no task of its own, and nothing that goes on when the connection has ended.
"""

from __future__ import annotations

import errno
import os
import socket
import urllib.parse
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from clients.calls import ConnectionLost
from clients.protocol import ClientProtocol
from emulator.remote import RemoteUnavailable, require_quic

if TYPE_CHECKING:
    from emulator.remote.credentials import Credentials
    from emulator.remote.engine import Engine

SCHEME = "quic://"
HANDSHAKE_SECONDS = 10.0
# The daemon's setting decides as long as it is shorter.
IDLE_SECONDS = 600.0
# What may be unacknowledged before whoever sends has to wait, and below what it goes on.
MOST_BYTES = 1024 * 1024
ROOM_BYTES = 512 * 1024
RECEIVE_BYTES = 64 * 1024
SOCKET_BYTES = 1024 * 1024
CONVERSATION = 0
CRYPTO_ERROR = 0x100
# What a packet of this client's may hold; as [listen.quic] packet_bytes of the daemon.
LEAST_PACKET_BYTES, MOST_PACKET_BYTES = 1200, 65_000
# The address this host had is gone, or its way out: another socket may find another.
_MOVED = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ENODEV}
# Refused so often, with nothing heard in between: nobody listens there any more.
MOST_REFUSALS = 3


class Place(NamedTuple):
    """Where a daemon is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{SCHEME}[{self.host}]:{self.port}" if ":" in self.host else f"{SCHEME}{self.host}:{self.port}"


def is_remote(where: object) -> bool:
    """Whether a daemon's place is one over UDP."""
    return isinstance(where, str) and where.startswith(SCHEME)


def parse_place(where: str) -> Place:
    """Take ``quic://host:port`` apart. Raises ValueError."""
    try:
        parts = urllib.parse.urlsplit(where)
        if parts.hostname and parts.port and not (parts.path or parts.query or parts.username):
            return Place(parts.hostname, parts.port)
    except ValueError:
        pass
    raise ValueError(f"{where!r} is no place of a daemon; it is written like quic://192.0.2.7:4433")


class QuicLink:
    """One connection over UDP, once ``open_quic`` has made it."""

    def __init__(self, place: Place, found: tuple[int, Any], credentials: Credentials, packet_bytes: int) -> None:
        from emulator.remote.engine import Engine, client_configuration

        self.place = place
        self._family, self._address = found
        own = credentials.own
        configuration = client_configuration(
            credentials.authority_pem, own.certificate, own.key, idle_seconds=IDLE_SECONDS, packet_bytes=packet_bytes
        )
        self._engine: Engine = Engine(configuration)
        self._packets = self._new_socket()
        self._alarm = trio.CancelScope()
        self._arrived = bytearray()
        self._lossy: deque[bytes] = deque()
        self._has_room = trio.Event()
        self._lost: ConnectionLost | None = None
        self._refusals = 0
        self._is_closed = False
        self._is_driven = False
        self.is_established = False

    def _new_socket(self) -> Any:
        from emulator.remote.packet_socket import PacketSocket

        packets = PacketSocket(self._family, SOCKET_BYTES)
        try:
            packets.socket.connect(self._address)
        except OSError as error:
            packets.close()
            raise ConnectionLost(f"there is no way to {self.place}: {error.strerror}") from None
        return packets

    async def handshake(self) -> None:
        """Return when both sides know each other as far as this one can tell. Raises ConnectionLost."""
        self._engine.connect(self._address, trio.current_time())
        self._transmit()
        with trio.move_on_after(HANDSHAKE_SECONDS):
            while not self.is_established and self._lost is None:
                await self._wait()
        if self._lost is not None:
            raise self._lost
        if not self.is_established:
            raise ConnectionLost(
                f"no daemon answered at {self.place} in {HANDSHAKE_SECONDS:g} seconds; "
                "see whether it listens there ([listen.quic]), and whether UDP gets through"
            )

    # ---- as a Link

    @property
    def lossy_bytes(self) -> int:
        """The longest frame that fits a DATAGRAM frame."""
        return self._engine.datagram_bytes

    def send_lossy(self, frames: list[bytes]) -> None:
        """Send frames, each by itself."""
        if self._lost is None and not self._is_closed:
            for frame in frames:
                self._engine.send_lossy(frame, frame)
            self._transmit()

    async def readable(self) -> None:
        """Return when there is something to take or to send again, or the end has come."""
        while not (self._arrived or self._lossy or self._engine.lost) and self._lost is None:
            await self._wait()

    def receive_into(self, protocol: ClientProtocol) -> list[object]:
        """Take what has arrived; what changed by it. Raises BlockingIOError, ConnectionLost, or WireError."""
        for frame in self._engine.take_lost():
            assert isinstance(frame, bytes), "what was given with it"
            protocol.outgoing += frame
        changed: list[object] = []
        while self._lossy:
            changed += protocol.receive_lossy(self._lossy.popleft())
        if changed or (protocol.outgoing and not self._arrived):
            return changed
        if self._arrived:
            data = bytes(self._arrived[:RECEIVE_BYTES])
            del self._arrived[:RECEIVE_BYTES]
            return protocol.receive(data)
        if self._lost is not None:
            raise ConnectionLost(f"{self._lost}{_what_was_lost(protocol)}")
        raise BlockingIOError

    def send(self, data: memoryview) -> int:
        """Take over bytes to send; how many."""
        if self._lost is not None or self._is_closed:
            raise BrokenPipeError
        room = MOST_BYTES - self._engine.unacknowledged_bytes
        if room <= 0:
            raise BlockingIOError
        portion = bytes(data[:room])
        self._engine.send_stream_data(CONVERSATION, portion)
        self._transmit()
        return len(portion)

    async def writable(self) -> None:
        """Return when there is room again, or the end has come."""
        while self._lost is None and self._engine.unacknowledged_bytes > ROOM_BYTES:
            if self._is_closed:
                raise trio.ClosedResourceError
            await self._has_room.wait()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close it, once the daemon has what was sent; cancelled meanwhile, at once."""
        try:
            while self._lost is None and self._engine.unacknowledged_bytes:
                await (self._has_room.wait() if self._is_driven else self._wait())
        finally:
            self._is_closed = True
            if not self._engine.is_over:
                self._engine.close(reason_phrase="the client left")
                self._transmit()
            trio.lowlevel.notify_closing(self._packets.socket)
            self._packets.close()
            self._room()

    # ---- packets

    @property
    def local_port(self) -> int:
        """The port packets leave from."""
        return int(self._packets.socket.getsockname()[1])

    def rebind(self) -> None:
        """Go on from another socket, and so from another address or port; the daemon follows."""
        old = self._packets
        try:
            self._packets = self._new_socket()
        except ConnectionLost:
            return  # there is no way at the moment; the timer tries again until the idle time is over
        self._engine.moved(trio.current_time())
        trio.lowlevel.notify_closing(old.socket)
        old.close()

    async def _wait(self) -> None:
        """Wait for a packet or the timer, and do what it brings."""
        timer = self._engine.timer
        self._is_driven = True
        try:
            with trio.CancelScope(deadline=float("inf") if timer is None else timer) as self._alarm:
                try:
                    await trio.lowlevel.wait_readable(self._packets.socket)
                except trio.ClosedResourceError:
                    if self._is_closed:
                        raise
        finally:
            self._is_driven = False
        self._turn()

    def _turn(self) -> None:
        now = trio.current_time()
        packets, error = self._packets.receive()
        for data, _ in packets:
            self._engine.receive_datagram(data, self._address, now)
        if packets:
            self._refusals = 0
        timer = self._engine.timer
        if timer is not None and timer <= now:
            self._engine.handle_timer(now)
        while (event := self._engine.next_event()) is not None:
            self._happened(event)
        if self._engine.end is not None:
            self._lose(self._why(*self._engine.end))
        if error is not None:
            self._failed(error)
        self._transmit()
        self._room()

    def _room(self) -> None:
        self._has_room.set()
        self._has_room = trio.Event()

    def _transmit(self) -> None:
        for packets in self._engine.trains_to_send(trio.current_time()):
            error = self._packets.send(packets)
            if error is not None:
                self._failed(error)
        timer = self._engine.timer
        if timer is not None:
            self._alarm.deadline = min(self._alarm.deadline, timer)

    def _failed(self, error: OSError) -> None:
        """The host says that packets do not get through. Anybody can make it say so: it counts when it goes on."""
        if error.errno in _MOVED:
            self.rebind()
        elif error.errno == errno.ECONNREFUSED:
            self._refusals += 1
            if self._refusals >= MOST_REFUSALS:
                self._lose(f"nobody listens at {self.place}; see [listen.quic] of the daemon there")

    def _happened(self, event: Any) -> None:
        from aioquic.quic import events

        match event:
            case events.StreamDataReceived(data=data, end_stream=at_end, stream_id=number) if number == CONVERSATION:
                self._arrived += data
                if at_end:
                    self._lose("the daemon closed the connection")
            case events.DatagramFrameReceived(data=data):
                self._lossy.append(data)
            case events.HandshakeCompleted():
                self.is_established = True

    def _why(self, code: int, reason: str) -> str:
        if reason == "Idle timeout":
            return f"nothing was heard of the daemon at {self.place} any more: the path to it is lost"
        if CRYPTO_ERROR <= code < 2 * CRYPTO_ERROR:
            if not self.is_established:
                return f"the daemon at {self.place} could not be authenticated with these credentials: {reason}"
            return f"the daemon at {self.place} does not let this client in: {reason}"
        return f"the daemon closed the connection: {reason}" if reason else "the daemon closed the connection"

    def _lose(self, text: str) -> None:
        if self._lost is None:
            self._lost = ConnectionLost(text)
            self._room()


def _what_was_lost(protocol: ClientProtocol) -> str:
    """For whoever has to decide what to do again."""
    count = protocol.unanswered
    return f"; {count} requests have no answer, and each may have been carried out or not" if count else ""


async def open_quic(
    where: str, directory: str | os.PathLike[str] | None, *, packet_bytes: int = LEAST_PACKET_BYTES
) -> QuicLink:
    """A connection to the daemon at ``quic://host:port`` with the credentials in a directory.

    ``packet_bytes`` is what one packet of this client's holds. Raises ConnectionLost, and ValueError for arguments.
    """
    place = parse_place(where)
    if not LEAST_PACKET_BYTES <= packet_bytes <= MOST_PACKET_BYTES:
        text = f"packet_bytes must be {LEAST_PACKET_BYTES} to {MOST_PACKET_BYTES}, not {packet_bytes}"
        raise ValueError(f"{text}; every path carries {LEAST_PACKET_BYTES}")
    if directory is None:
        raise ConnectionLost(f"{where} needs credentials=DIRECTORY, made by: vmbusctl keys add NAME")
    try:
        require_quic()
    except RemoteUnavailable as error:
        raise ConnectionLost(str(error)) from None
    from emulator.remote.credentials import CredentialsUnusable, read_credentials

    try:
        credentials = read_credentials(Path(directory))
    except CredentialsUnusable as error:
        raise ConnectionLost(str(error)) from None
    try:
        found = await trio.socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionLost(f"{place.host} is no host that can be found: {error.strerror}") from None
    link = QuicLink(place, (found[0][0], found[0][4]), credentials, packet_bytes)
    try:
        await link.handshake()
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time()):
            await link.close()
        raise
    return link

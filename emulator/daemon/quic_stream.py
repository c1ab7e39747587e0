"""One client over UDP: its QUIC connection, and the stream its session reads and writes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from emulator.daemon.roles import Identity
from emulator.daemon.streams import RECEIVE_BYTES

if TYPE_CHECKING:
    from emulator.remote.engine import Engine

# Unacknowledged bytes below which a session that was held up may go on.
ROOM_BYTES = 256 * 1024
# What waits for an answer gets so long to arrive when a session has ended.
LINGER_SECONDS = 1.0
MOST_OF_A_REASON = 200
# DATAGRAM frames that wait to leave; more go by the stream, which is bounded.
MOST_WAITING_LOSSY = 256
CONVERSATION = 0


class QuicStream:
    """The conversation's stream, as ``streams.Stream`` has it. ``transmit`` sends what the connection has to send."""

    passes_descriptors = False
    process = 0
    failure = ""

    def __init__(
        self, engine: Engine, transmit: Callable[[], None], limit_bytes: int, identity: Identity, fingerprint: str
    ) -> None:
        self.identity = identity
        self.fingerprint = fingerprint
        self._engine = engine
        self._transmit = transmit
        self._limit_bytes = limit_bytes
        self._outgoing = bytearray()
        self._arrived = bytearray()
        self._has_arrived = trio.Event()
        self._has_ended = trio.Event()
        self._has_room = trio.Event()
        self._is_held_up = False
        self._at_end = False
        self._lossy: list[bytes] = []
        self._is_due = False
        self.overflowed = False
        self.closing_since: float | None = None
        self.farewell = ""

    @property
    def peer(self) -> str:
        """Who is at the other end, for listings."""
        host, port, *_ = self._engine.get_peer_address() or ("?", 0)
        return f"{self.identity} at {host} port {port}"

    # ---- in

    def feed(self, data: bytes, *, at_end: bool) -> None:
        """Bytes of the client's, in order."""
        if self.closing_since is None:
            self._arrived += data
        if at_end:
            self.end()
        self._has_arrived.set()

    def feed_lossy(self, data: bytes) -> None:
        """A DATAGRAM frame of the client's."""
        if self.closing_since is None:
            self._lossy.append(data)
            self._has_arrived.set()

    def take_lossy(self) -> list[bytes]:
        """What has come by itself since the last time."""
        taken, self._lossy = self._lossy, []
        return taken

    async def readable(self) -> None:
        """Return when there is something to take, or the end."""
        await self._has_arrived.wait()

    async def ended(self) -> None:
        """Return when the client has gone, or says no more, whatever of it is still to be taken."""
        await self._has_ended.wait()

    def take(self) -> bytes | None:
        """What has arrived: None when nothing has, empty at the end."""
        data = bytes(self._arrived[:RECEIVE_BYTES])
        del self._arrived[:RECEIVE_BYTES]
        if not self._arrived and not self._at_end:
            self._has_arrived = trio.Event()
        return data if data or self._at_end else None

    # ---- out

    @property
    def queued_bytes(self) -> int:
        """What the client has not acknowledged."""
        return len(self._outgoing) + self._engine.unacknowledged_bytes

    def put(self, frame: bytes) -> None:
        """Queue a frame. Past the bound nothing more is kept, and ``overflowed`` says the session has to end."""
        if self.overflowed or self._engine.is_over:
            return
        if self.queued_bytes + len(frame) > self._limit_bytes:
            self.overflowed = True
        else:
            self._outgoing += frame

    def put_with_descriptor(self, frame: bytes, descriptor: int, *, then_close: bool) -> None:
        """No descriptor crosses a network; the session refuses what would need one."""
        raise AssertionError("a request that passes a descriptor reached a client over UDP")

    @property
    def lossy_bytes(self) -> int:
        """The longest frame that fits a DATAGRAM frame."""
        return self._engine.datagram_bytes

    def put_lossy(self, frame: bytes, lost: Callable[[], None]) -> bool:
        """Send a frame by itself; ``lost`` is called if it gets lost. False when it does not fit, or many wait."""
        engine = self._engine
        if engine.is_over or len(frame) > engine.datagram_bytes or engine.waiting_datagrams >= MOST_WAITING_LOSSY:
            return False
        engine.send_lossy(frame, lost)
        self._is_due = True
        return True

    def tell_lost(self) -> None:
        """Call what was given with frames that got lost, and let the session go on with what that made room for."""
        lost = self._engine.take_lost()
        for each in lost:
            if callable(each):
                each()
        if lost:
            self._has_room.set()

    def flush(self) -> None:
        """Send what may leave now; what is held back leaves as the client acknowledges."""
        if self._engine.is_over:
            self._outgoing.clear()
        if self._outgoing:
            self._engine.send_stream_data(CONVERSATION, bytes(self._outgoing))
            self._outgoing.clear()
            self._is_due = True
        if self._is_due:
            self._is_due = False
            self._transmit()
        self._is_held_up = self.queued_bytes > ROOM_BYTES

    def acknowledged(self) -> None:
        """Packets came: perhaps the client has taken enough for the session to go on."""
        if self._is_held_up and self.queued_bytes <= ROOM_BYTES:
            self._is_held_up = False
            self._has_room.set()

    async def writable(self) -> None:
        """Return when a session that was held up may go on."""
        await self._has_room.wait()
        self._has_room = trio.Event()

    # ---- end

    def end(self) -> None:
        """The connection is over: the session finds the end of the stream, once it has taken what came before."""
        self._at_end = True
        self._has_ended.set()
        self._has_arrived.set()

    def close(self, reason: str) -> None:
        """The session is over: what was put still leaves, then the connection closes."""
        if self.closing_since is None:
            self.flush()
            self.closing_since = trio.current_time()
            self.farewell = reason.encode()[:MOST_OF_A_REASON].decode(errors="ignore")
            if not self._engine.is_over:
                self._engine.send_stream_data(CONVERSATION, b"", end_stream=True)
                self._transmit()

    def close_if_delivered(self, now: float) -> None:
        """Close the connection of an ended session when the client has everything, or has had time for it."""
        since = self.closing_since
        if since is not None and (self._engine.is_delivered or now >= since + LINGER_SECONDS):
            self._engine.close(reason_phrase=self.farewell)


class RemoteClient:
    """One connection of the daemon's, from its first valid packet on."""

    def __init__(self, engine: Engine, source: str, now: float) -> None:
        self.engine = engine
        self.source = source
        self.began = now
        self.heard = now
        self.deadline: float | None = None
        """When the timer rings for it, and by which number."""
        self.timer = 0
        self.is_authenticated = False
        self.fingerprint = ""
        self.expires: datetime.datetime | None = None
        self.stream: QuicStream | None = None
        self.identifiers: set[bytes] = set()

"""A client of the daemon's own, inside it: what answers it has gone through accept, session, dispatcher and pump.

Whoever asks whether the daemon is alive (a watchdog, a health check) is answered by a real round trip, so that a daemon
whose loop turns but whose sessions no longer get their answers does not count as alive.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from emulator.wire.codec import FrameDecoder, Response, WireError, encode_request
from emulator.wire.schema import HELLO, PING, PROTOCOL_VERSION, Direction, Method

RECEIVE_BYTES = 4096
NAME = "heartbeat"


class Heartbeat:
    """One connection to ourselves, made when it is first needed."""

    def __init__(self, serve_client: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._serve_client = serve_client
        self._nursery: trio.Nursery | None = None
        self._sock: socket.socket | None = None
        self._decoder = FrameDecoder(Direction.TO_CLIENT)
        self._msgid = 0
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Where the session at the other end lives."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    async def beat(self, seconds: float) -> bool:
        """Whether a ping was answered within so many seconds."""
        answered = False
        with trio.move_on_after(seconds):
            async with self._lock:
                answered = await self._round_trip()
        return answered

    async def _round_trip(self) -> bool:
        try:
            if self._sock is None:
                self._connect()
                await self._request(HELLO, PROTOCOL_VERSION, PROTOCOL_VERSION, NAME)
            await self._request(PING)
        except (OSError, WireError):
            self.close()
            return False
        return True

    def _connect(self) -> None:
        assert self._nursery is not None, "its task runs as long as the daemon serves"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._sock, self._decoder = ours, FrameDecoder(Direction.TO_CLIENT)
        self._nursery.start_soon(self._serve_client, theirs)

    async def _request(self, method: Method, *args: object) -> None:
        assert self._sock is not None
        self._msgid = (self._msgid + 1) % 2**32
        self._sock.send(encode_request(self._msgid, method, *args))
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the session ended")
            for message in self._decoder.feed(data):
                # An answer that came too late for an earlier beat is not this one's.
                if isinstance(message, Response) and message.msgid == self._msgid:
                    return

    def close(self) -> None:
        """Leave; the session ends."""
        if self._sock is not None:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._sock = None

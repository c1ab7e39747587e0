"""What a connection of the trio face reads and writes: one interface, and the daemon's Unix socket behind it."""

from __future__ import annotations

import os
import socket
from typing import Protocol

import trio

from clients.protocol import ClientProtocol
from clients.unix import open_socket, receive_into


class Link(Protocol):
    """The bytes to and from the daemon."""

    @property
    def lossy_bytes(self) -> int:
        """The longest frame that can leave by itself, and be lost; 0 where everything is one stream."""

    def send_lossy(self, frames: list[bytes]) -> None:
        """Send frames, each by itself. What gets lost comes back to the protocol, to be sent with the rest."""

    async def readable(self) -> None:
        """Return when there is something to take. Raises trio.ClosedResourceError when it was closed here."""

    def receive_into(self, protocol: ClientProtocol) -> list[object]:
        """Take what has arrived; what changed by it. Raises BlockingIOError, ConnectionLost, or WireError."""

    def send(self, data: memoryview) -> int:
        """Take over bytes to send; how many. Raises BlockingIOError when there is no room, OSError when it is lost."""

    async def writable(self) -> None:
        """Return when there is room again. Raises trio.ClosedResourceError when it was closed here."""

    async def close(self) -> None:
        """Let go of it; what was sent still leaves."""


class UnixLink:
    """The daemon's Unix socket."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """Raises ConnectionLost when no daemon answers there."""
        self.socket: socket.socket = open_socket(path)
        self.socket.setblocking(False)

    lossy_bytes = 0

    def send_lossy(self, frames: list[bytes]) -> None:
        """Nothing leaves by itself here."""
        raise AssertionError("a Unix socket has one stream")

    async def readable(self) -> None:
        """Return when there is something to take."""
        await trio.lowlevel.wait_readable(self.socket)

    def receive_into(self, protocol: ClientProtocol) -> list[object]:
        """Take what has arrived, with the descriptors that came along."""
        return receive_into(protocol, self.socket)

    def send(self, data: memoryview) -> int:
        """Take over bytes to send."""
        return self.socket.send(data)

    async def writable(self) -> None:
        """Return when there is room again."""
        await trio.lowlevel.wait_writable(self.socket)

    async def close(self) -> None:
        """Close the socket; the kernel delivers what it took."""
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()

"""A few pages over HTTP for programs on the same host: figures, and whether the daemon is alive and ready.

h11 speaks HTTP and does no I/O; here is the little I/O there is. Only GET, small requests, few connections at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import h11
import trio

from emulator.daemon.listeners import PathUnusable
from emulator.daemon.log import logger

# Collectors and probes, not crowds: whoever comes beyond that is turned away.
MOST_CONNECTIONS = 16
# For a request to arrive whole, and for a reply to be taken; a connection is kept open as long between requests.
REQUEST_SECONDS = 30.0
MOST_REQUEST_BYTES = 16 * 1024
RECEIVE_BYTES = 4096
PLAIN = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """What one page says."""

    body: bytes
    status: int = 200
    content_type: str = PLAIN


Page = Callable[[], Awaitable[Reply]]


def open_http_socket(address: Path | tuple[str, int]) -> socket.socket:
    """Listen on a Unix socket or a TCP address. Raises PathUnusable."""
    if isinstance(address, Path):
        return _open_unix(address)
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(MOST_CONNECTIONS)
    except OSError as error:
        sock.close()
        where = f"{address[0]}:{address[1]}"
        raise PathUnusable(
            f"cannot listen on {where} for metrics: {error.strerror}; choose another metrics.listen"
        ) from None
    return sock


def _open_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            # The daemon's own socket is claimed by now, so this one was left by a daemon that is gone.
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(MOST_CONNECTIONS)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise PathUnusable(f"cannot listen on {path} for metrics: {reason}; choose another metrics.listen") from None
    return sock


class HttpListener:
    """Serves pages by their paths."""

    def __init__(self, sock: socket.socket, pages: Mapping[str, Page]) -> None:
        sock.setblocking(False)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._pages = dict(pages)
        self._connections = 0
        name = sock.getsockname()
        self._path = Path(name) if sock.family == socket.AF_UNIX else None
        self.place = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"

    async def run(self) -> None:
        """Accept and serve, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    client, _ = await self._sock.accept()
                except OSError as error:
                    logger().warning("metrics.accept_failed", error=error.strerror)
                    await trio.sleep(0.1)
                    continue
                if self._connections >= MOST_CONNECTIONS:
                    client.close()
                    continue
                self._connections += 1
                nursery.start_soon(self._serve, trio.SocketStream(client))

    def close(self) -> None:
        """Stop listening."""
        self._sock.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_REQUEST_BYTES)
        try:
            with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
                async with stream:
                    while await self._serve_one(stream, connection):
                        connection.start_next_cycle()
        finally:
            self._connections -= 1

    async def _serve_one(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        """One request and its reply; False when the connection is over."""
        with trio.move_on_after(REQUEST_SECONDS):
            request = await _next_request(stream, connection)
            if request is None:
                return False
            reply = await self._answer(request)
            headers = [
                ("Content-Type", reply.content_type),
                ("Content-Length", str(len(reply.body))),
                ("Cache-Control", "no-store"),
            ]
            data = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
            if request.method != b"HEAD":
                data += connection.send(h11.Data(data=reply.body)) or b""
            data += connection.send(h11.EndOfMessage()) or b""
            await stream.send_all(data)
            return connection.our_state is h11.DONE and connection.their_state is h11.DONE
        return False

    async def _answer(self, request: h11.Request) -> Reply:
        if request.method not in (b"GET", b"HEAD"):
            return Reply(b"only GET and HEAD are answered here\n", 405)
        page = self._pages.get(request.target.partition(b"?")[0].decode("ascii", "replace"))
        if page is None:
            return Reply(f"there is: {', '.join(sorted(self._pages))}\n".encode(), 404)
        return await page()


async def _next_request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """The next request, with its body read and dropped; None at the end of the stream."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None

"""The yardstick: a trio process that moves raw bytes between two Unix sockets. ``python -m benchmarks.relay DIR PORT``.

For each face and each kind of relay it listens on a path of its own, and joins the two connections that come there.
Connections to ``udp-FACE.sock`` are joined to a UDP socket connected to the echo at PORT: one read, one datagram.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import trio
import trio.testing

from benchmarks.raw import RECEIVE_BYTES, UDP, relay_path
from benchmarks.rows import Carrier, Face

Pair = tuple[socket.socket, socket.socket]


def listen(path: Path) -> socket.socket:
    """A listening Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    return sock


async def accept(listener: socket.socket) -> socket.socket:
    """The next connection."""
    await trio.lowlevel.wait_readable(listener)
    sock, _ = listener.accept()
    sock.setblocking(False)
    return sock


async def move_when_readable(source: socket.socket, sink: socket.socket) -> None:
    """The relay the ratios are to: read what is there, write it at once, wait only when the socket says so."""
    while True:
        await trio.lowlevel.wait_readable(source)
        try:
            data = source.recv(RECEIVE_BYTES)
        except BlockingIOError:
            continue
        if not data:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[sink.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sink)


async def move_stream(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """The same with the streams trio's own documentation would take."""
    while data := await source.receive_some(RECEIVE_BYTES):
        await sink.send_all(data)


async def join_when_readable(pair: Pair) -> None:
    """Move bytes both ways."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(move_when_readable, pair[0], pair[1])
        nursery.start_soon(move_when_readable, pair[1], pair[0])


async def join_streams(pair: Pair) -> None:
    """Move bytes both ways, through SocketStream."""
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(move_stream, one, other)
        nursery.start_soon(move_stream, other, one)


async def serve_streams(directory: str, face: Face, carrier: Carrier) -> None:
    """Join the two connections of one path."""
    with listen(relay_path(directory, carrier, face)) as listener:
        pair = await accept(listener), await accept(listener)
    with pair[0], pair[1]:
        await (join_streams if carrier is Carrier.STREAM_RELAY else join_when_readable)(pair)


async def serve_datagrams(directory: str, face: Face, echo_port: int) -> None:
    """Join a connection to a UDP socket."""
    with listen(relay_path(directory, UDP, face)) as listener:
        near = await accept(listener)
    with near, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.connect(("127.0.0.1", echo_port))
        far.setblocking(False)
        await join_when_readable((near, far))


async def main(directory: str, echo_port: int) -> None:
    """Listen everywhere, say so, and relay until killed."""
    async with trio.open_nursery() as nursery:
        for face in Face:
            for carrier in (Carrier.RELAY, Carrier.STREAM_RELAY):
                nursery.start_soon(serve_streams, directory, face, carrier)
            nursery.start_soon(serve_datagrams, directory, face, echo_port)
        await trio.testing.wait_all_tasks_blocked()
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))

"""The write side of one connection: whoever has a frame puts it here, and this object alone writes the socket.

``flush`` writes at once what the socket takes, so that a reply leaves in the turn that made it, in one system call with
everything else of that turn. Only when the socket is full does the writer task wait for it to drain.
"""

from __future__ import annotations

import array
import os
import socket

import trio

# One send call; about what a Unix socket takes at once, so that a large queue is not copied over and over.
SEND_BYTES = 256 * 1024
# What a descriptor counts for in the bound, besides its frame: each is a system call of its own.
DESCRIPTOR_BYTES = 4096


class Outlet:
    """One connection's outgoing frames, in order, with the descriptors that accompany some of them."""

    def __init__(self, sock: socket.socket, limit_bytes: int) -> None:
        self._sock = sock
        self._limit_bytes = limit_bytes
        # A list: it is empty nearly always, and there is one for each client.
        self._queue: list[bytearray | tuple[bytes, int, bool]] = []
        self._stalled: trio.Event | None = None  # most sockets never fill
        self.queued_bytes = 0
        self.overflowed = False
        self.broken = False
        self.failure = ""

    def _has_room(self, byte_count: int) -> bool:
        if self.queued_bytes + byte_count > self._limit_bytes:
            self.overflowed = True
        if self.overflowed or self.broken:
            return False
        self.queued_bytes += byte_count
        return True

    def put(self, frame: bytes) -> None:
        """Queue a frame. Past the bound nothing more is kept, and ``overflowed`` says the session has to end."""
        if not self._has_room(len(frame)):
            return
        if self._queue and isinstance(last := self._queue[-1], bytearray):
            last += frame
        else:
            self._queue.append(bytearray(frame))

    def put_with_descriptor(self, frame: bytes, descriptor: int, *, then_close: bool) -> None:
        """Queue a frame that carries a copy of a descriptor.

        With ``then_close`` the descriptor is this object's from now on; otherwise it stays open as long as this object.
        """
        if self._has_room(len(frame) + DESCRIPTOR_BYTES):
            self._queue.append((frame, descriptor, then_close))
        elif then_close:
            os.close(descriptor)

    def flush(self) -> None:
        """Write what the socket takes now; what is left is the writer task's."""
        queue = self._queue
        try:
            while queue:
                head = queue[0]
                if isinstance(head, tuple):
                    self._send_with_descriptor(*head)
                    continue
                with memoryview(head) as view, view[:SEND_BYTES] as portion:
                    sent = self._sock.send(portion)
                self.queued_bytes -= sent
                if sent == len(head):
                    queue.pop(0)
                else:
                    del head[:sent]
        except BlockingIOError:
            if self._stalled is None:
                self._stalled = trio.Event()
            self._stalled.set()
        except (BrokenPipeError, ConnectionResetError):
            # The peer is gone. What it said last may still be unread: its session's reader finds the end and ends it.
            self.broken = True
            self.forget()
        except OSError as error:
            self.broken = True
            self.failure = error.strerror or str(error)
            self.forget()

    def _send_with_descriptor(self, frame: bytes, descriptor: int, then_close: bool) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        sent = self._sock.sendmsg([frame], rights)
        if then_close:
            os.close(descriptor)
        self.queued_bytes -= sent + DESCRIPTOR_BYTES
        self._queue.pop(0)
        if sent < len(frame):
            self._queue.insert(0, bytearray(frame[sent:]))

    async def writable(self) -> None:
        """Return when a full socket has drained; for the one task that then flushes again."""
        if self._stalled is None:
            self._stalled = trio.Event()
        await self._stalled.wait()
        self._stalled = None
        await trio.lowlevel.wait_writable(self._sock)

    def forget(self) -> None:
        """Forget what is queued, and close the descriptors that are this object's."""
        while self._queue:
            item = self._queue.pop(0)
            if isinstance(item, tuple) and item[2]:
                os.close(item[1])
        self.queued_bytes = 0


def close_descriptors(ancillary: list[tuple[int, int, bytes]]) -> None:
    """Close descriptors that came with a message and that nobody asked for."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors = array.array("i")
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            for descriptor in descriptors:
                os.close(descriptor)

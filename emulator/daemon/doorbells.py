"""Doorbells of direct endpoints: a connected pair of Unix sockets, one end for each side. Any byte says "look".

Not an eventfd: its flags and its counter belong to both processes, so a client could make a write of the daemon's
block for ever. A socket pair has two ends with flags of their own, and every call here asks not to wait by itself. A
full queue means that the other side has a doorbell still to hear: then nothing is lost by not sending another.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

import trio

# More than one byte is never needed at once; the kernel rounds this up to its smallest.
QUEUE_BYTES = 1024
HEARD_BYTES = 4096
NOT_WAITING = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


def doorbell_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends; each is closed here once it has been handed over."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    first, second = socket.socketpair(socket.AF_UNIX, kind)
    for end in (first, second):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
    return first, second


class Rung(Protocol):
    """Whoever is to look at its ring when the doorbell rings."""

    def ring_doorbell(self) -> None:
        """Look soon."""


class DaemonDoorbell:
    """The daemon's end of a doorbell between a direct endpoint and a hosted one."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def ring(self) -> None:
        """Ring the direct side. Never blocks, and never fails: a side that has gone is noticed elsewhere."""
        try:
            self._end.send(b"\0", NOT_WAITING)
        except OSError:
            return

    async def listen(self, hosted: Rung, pump: Callable[[], None]) -> None:
        """The channel's task: pass on what the direct side rings, until either end is closed."""
        while self._end.fileno() != -1:  # it may have been closed before this task first ran
            try:
                await trio.lowlevel.wait_readable(self._end)
                if not self._end.recv(HEARD_BYTES, NOT_WAITING):
                    return
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return
            hosted.ring_doorbell()
            pump()

    def close(self) -> None:
        """The channel is gone."""
        if self._end.fileno() != -1:
            trio.lowlevel.notify_closing(self._end)
            self._end.close()

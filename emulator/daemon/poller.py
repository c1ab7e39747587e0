"""Waiting for many sockets of a machine at once: an epoll and the task behind it, once there is a socket to wait for.

A machine without sockets has neither, so that a thousand of them cost no descriptors and no tasks.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable

import trio

Pump = Callable[[], None]
Start = Callable[[Callable[[Pump], Awaitable[None]]], None]
"""Starts a task of a machine's, now or when the machine begins to run, with the pump that sends on what it brings."""

# Sockets served in one turn before other tasks get theirs.
READY_SOCKETS = 64


class Poller:
    """Which events of which descriptors are waited for. ``ready`` is called with a descriptor and what happened to it.

    A descriptor must be unregistered before it is closed.
    """

    def __init__(self, ready: Callable[[int, int], None], start: Start) -> None:
        self._ready = ready
        self._start = start
        self._epoll: select.epoll | None = None

    def open(self) -> None:
        """Before the first socket is bound. Raises OSError when there is no descriptor left."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._start(self._run)

    def register(self, descriptor: int, events: int) -> None:
        """Wait for these events of a socket."""
        assert self._epoll is not None, "a poller is opened before sockets are"
        self._epoll.register(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for other events of it."""
        if self._epoll is not None:
            self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Wait for it no more."""
        if self._epoll is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """The machine ends."""
        if self._epoll is not None and not self._epoll.closed:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    async def _run(self, pump: Pump) -> None:
        epoll = self._epoll
        assert epoll is not None, "it was made before this was started"
        while not epoll.closed:
            try:
                await trio.lowlevel.wait_readable(epoll.fileno())
                happened = epoll.poll(0, READY_SOCKETS)
            except (trio.ClosedResourceError, ValueError):
                return
            for descriptor, events in happened:
                # One may have been closed by what another brought.
                self._ready(descriptor, events)
            pump()

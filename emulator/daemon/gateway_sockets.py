"""The real sockets behind the gateways of segments: one for each entry, with what leaves gathered into trains.

A gateway is no machine and keeps no queue: a datagram that finds no room in its socket is dropped and counted, as a
medium may do.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import trio

from emulator.daemon.log import logger
from emulator.daemon.trains import send_burst
from emulator.daemon.udp import Arrived, UdpSocket
from emulator.tdi.effects import Effect, SendOutside
from emulator.tdi.structures import SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.gateway import Gateway

READY_SOCKETS = 64


class GatewayUnusable(Exception):
    """A gateway cannot have what the configuration gives it; the text says which, and why."""


class _Entry(NamedTuple):
    segment: str
    gateway: Gateway
    number: int
    opened: UdpSocket


class GatewaySockets:
    """All of them. ``work`` does what a segment has to do, by its name, and what that means."""

    def __init__(self, receive_bytes: int, work: Callable[[str, Callable[[], list[Effect]]], None]) -> None:
        self._receive_bytes = receive_bytes
        self._work = work
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._by_descriptor: dict[int, _Entry] = {}
        self._leaving: list[SendOutside] = []
        self._epoll = select.epoll()
        self._log = logger()

    def open(self, segment: str, gateway: Gateway) -> None:
        """Bind the host addresses of a gateway's entries. Raises GatewayUnusable."""
        for number, port in enumerate(gateway.ports):
            try:
                opened = UdpSocket(port.outside, self._receive_bytes)
            except OSError as error:
                text = f"the gateway of segment {segment} cannot have {port.outside}: {error.strerror}"
                raise GatewayUnusable(f"{text}; free it, or change segments.{segment}.gateway") from None
            entry = _Entry(segment, gateway, number, opened)
            self._entries[segment, number] = entry
            self._by_descriptor[opened.socket.fileno()] = entry
            self._epoll.register(opened.socket.fileno(), select.EPOLLIN)

    def send(self, wanted: SendOutside) -> None:
        """Keep it for ``flush``."""
        self._leaving.append(wanted)

    def flush(self) -> None:
        """Send what has gathered: neighbours for the same place in one go."""
        if not self._leaving:
            return
        leaving, self._leaving = self._leaving, []
        for (segment, number, destination), together in groupby(leaving, key=itemgetter(0, 1, 2)):
            entry = self._entries.get((segment, number))
            if entry is not None:
                first, *others = (each.datagrams for each in together)
                _send(entry, destination, list(chain(first, *others)) if others else first)

    async def run(self, pump: Callable[[], None]) -> None:
        """Serve the sockets; ``pump`` sends on what they brought."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                ready = self._epoll.poll(0, READY_SOCKETS)
            except (trio.ClosedResourceError, ValueError):
                return
            for descriptor, events in ready:
                entry = self._by_descriptor[descriptor]
                if events & select.EPOLLERR or entry.opened.has_late_errors:
                    for status, peer in entry.opened.late_errors():
                        self._log.debug("gateway.late_error", status=str(status), peer=str(peer))
                self._take(entry)
            pump()

    def _take(self, entry: _Entry) -> None:
        # With delays nothing comes of it now, but there may be a new deadline.
        self._work(entry.segment, partial(_came_in, entry, entry.opened.receive(), trio.current_time()))

    def close_segment(self, segment: str) -> None:
        """A segment is gone: its host addresses are free."""
        for key in [key for key in self._entries if key[0] == segment]:
            entry = self._entries.pop(key)
            del self._by_descriptor[entry.opened.socket.fileno()]
            entry.opened.close()

    def close(self) -> None:
        """The daemon stops."""
        if not self._epoll.closed:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
        for entry in self._entries.values():
            entry.opened.close()
        self._entries.clear()


def _came_in(entry: _Entry, arrived: list[Arrived], now: float) -> list[Effect]:
    effects: list[Effect] = []
    for source, _, datagrams in arrived:
        effects += entry.gateway.came_in_many(entry.number, source, datagrams, now)
    return effects


def _send(entry: _Entry, destination: SocketAddress, datagrams: list[bytes]) -> None:
    while datagrams:
        lengths = list(map(len, datagrams))
        end = send_burst(entry.opened, destination, lengths, memoryview(b"".join(datagrams)))
        if end.error is None:
            entry.gateway.dropped += len(datagrams) - end.datagrams
            return
        # The host refuses one: that one is lost, those behind it go on.
        entry.gateway.dropped += 1
        datagrams = datagrams[end.datagrams + 1 :]

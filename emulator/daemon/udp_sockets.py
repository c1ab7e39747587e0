"""The real UDP sockets of one machine: opened, written, read and closed as its transport asks.

One task serves them all: it waits for an ``epoll`` of its own, so that an idle socket costs no task, and a wake-up
drains every socket that is ready. A transport address that stands for several host addresses, which a wildcard does
where only some may be bound, has a socket for each of them: a ``_Group``.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import trio

from emulator.daemon.poller import Poller, Start
from emulator.daemon.trains import send_burst
from emulator.daemon.udp import UdpSocket, status_of
from emulator.status import NtStatus
from emulator.tdi.bursts import BurstWay
from emulator.tdi.effects import BindSocket, Effect, JoinGroup, LeaveGroup, ReleaseHosts
from emulator.tdi.queues import QueuedSend
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import Transport

# A port the host chose for one address may be taken at another: so often another one is tried.
PORT_TRIES = 8
_WILDCARDS = ("0.0.0.0", "::")
_IN, _OUT, _ERROR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR


class _Joined(NamedTuple):
    group: str
    interface: str


class _Group:
    """The sockets that one BindSocket asked for: the first is what a query reports and what it mostly sends through."""

    __slots__ = ("by_host", "first", "hearing", "joined", "key")

    def __init__(self, key: int, first: UdpSocket) -> None:
        self.key = key
        self.first = first
        self.by_host: dict[str, UdpSocket] = {}
        self.hearing: list[UdpSocket] = []
        self.joined: dict[_Joined, UdpSocket] = {}

    def sockets(self) -> list[UdpSocket]:
        members = (each for each in self.joined.values() if each is not self.first)
        return [self.first, *self.by_host.values(), *self.hearing, *members]

    def drop(self, host: str) -> UdpSocket | None:
        """Take the socket on one host out; another becomes the first, if it was that. None for the last."""
        if host != self.first.local.host:
            return self.by_host.pop(host, None)
        if not self.by_host:
            return None
        dropped = self.first
        self.first = self.by_host.pop(next(iter(self.by_host)))
        return dropped


def route_source(destination: SocketAddress) -> str:
    """The own address the host would send from."""
    family = socket.AF_INET6 if ":" in destination.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(tuple(destination))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


class UdpSockets:
    """Every real UDP socket of one machine.

    ``perform`` does what the transport returns, and ends the machine when that fails.
    """

    def __init__(
        self,
        transport: Transport,
        receive_bytes: int,
        perform: Callable[[Callable[[], Iterable[Effect]]], None],
        start: Start,
    ) -> None:
        self._transport = transport
        self._receive_bytes = receive_bytes
        self._perform = perform
        self._groups: dict[int, _Group] = {}
        self._by_descriptor: dict[int, tuple[_Group, UdpSocket]] = {}
        # The sockets on one port, by host: a wildcard's sends leave by any of its family, whoever asked for it.
        self._on_port: dict[tuple[int, bool], dict[str, UdpSocket]] = {}
        # Queues that wait for a socket of another's to take something, by its descriptor.
        self._waiting: dict[int, set[int]] = {}
        self._poller = Poller(self._ready, start)
        self.received = 0
        self.late_errors = 0

    # ---- opening and closing

    def bind(self, wanted: BindSocket) -> SocketAddress:
        """Open what a BindSocket asks for; what it is bound to. Raises OSError."""
        self._poller.open()
        for tries_left in reversed(range(PORT_TRIES)):
            group = _Group(wanted.key, self._beside_others(wanted.local))
            try:
                self._bind_others(group, wanted)
            except OSError as error:
                _close(group)
                if wanted.local.port or error.errno != errno.EADDRINUSE or not tries_left:
                    raise
            else:
                break
        self._groups[wanted.key] = group
        for each in group.sockets():
            self._listen(group, each)
        for each in (group.first, *group.by_host.values()):
            self._on_port.setdefault(_port_of(each), {})[each.local.host] = each
        return group.first.local

    def _beside_others(self, local: SocketAddress) -> UdpSocket:
        """Bind a socket. The host's own wildcard beside single addresses takes a moment's sharing of the port.

        The host then gives each datagram to the closest one alone, and the transport to all whom it concerns.
        """
        others = self._on_port.get((local.port, ":" in local.host), {})
        sharing = [each.socket for each in others.values() if local.host in _WILDCARDS or each.is_wildcard]
        for each in sharing:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened = UdpSocket(local, self._receive_bytes, shared_port=bool(sharing))
            sharing.append(opened.socket)
        finally:
            for each in sharing:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return opened

    def _bind_others(self, group: _Group, wanted: BindSocket) -> None:
        port = group.first.local.port
        for host in wanted.also:
            group.by_host[host] = UdpSocket(SocketAddress(host, port), self._receive_bytes)
        self._bind_hearing(group, wanted.broadcasts)

    def _bind_hearing(self, group: _Group, broadcasts: Iterable[str]) -> None:
        for host in broadcasts:
            # Somebody else may have the address to himself; then none are heard.
            with suppress(OSError):
                local = SocketAddress(host, group.first.local.port)
                group.hearing.append(UdpSocket(local, self._receive_bytes, shared_port=True))

    def hear(self, key: int, broadcasts: Sequence[str]) -> None:
        """A wildcard was opened on sockets that stand: broadcasts come in too from now on, if they did not before."""
        group = self._groups.get(key)
        if group is None or not broadcasts:
            return
        port = group.first.local.port
        if not any(each.hearing for each in self._groups.values() if each.first.local.port == port):
            self._bind_hearing(group, broadcasts)
            for each in group.hearing:
                self._listen(group, each)

    def _listen(self, group: _Group, opened: UdpSocket) -> None:
        descriptor = opened.socket.fileno()
        self._by_descriptor[descriptor] = group, opened
        self._poller.register(descriptor, _IN)

    def _forget(self, opened: UdpSocket) -> None:
        descriptor = opened.socket.fileno()
        if self._by_descriptor.pop(descriptor, None) is not None:
            self._poller.unregister(descriptor)
        self._waiting.pop(descriptor, None)
        on_port = self._on_port.get(_port_of(opened), {})
        if on_port.get(opened.local.host) is opened:
            del on_port[opened.local.host]
            if not on_port:
                del self._on_port[_port_of(opened)]
        opened.close()

    def release(self, wanted: ReleaseHosts) -> None:
        """Close what a ReleaseHosts names, and what only heard broadcasts."""
        group = self._groups.get(wanted.key)
        if group is None:
            return
        dropped = [group.drop(host) for host in wanted.hosts]
        heard, group.hearing = group.hearing, []
        for each in (*dropped, *heard):
            if each is not None:
                self._forget(each)

    def close(self, key: int) -> None:
        """Close what a CloseSocket names."""
        group = self._groups.pop(key, None)
        if group is not None:
            for each in group.sockets():
                self._forget(each)

    def close_all(self) -> None:
        """The machine ends."""
        for key in list(self._groups):
            self.close(key)
        self._poller.close()

    # ---- groups

    def join(self, wanted: JoinGroup) -> None:
        """Perform a JoinGroup. Raises OSError.

        A socket on one host address hears no multicasts, so the group gets a socket of its own, bound to its address.
        """
        group = self._groups[wanted.key]
        if group.first.is_wildcard:
            opened = group.first
            opened.join(wanted.group, wanted.interface)
        else:
            local = SocketAddress(wanted.group, group.first.local.port)
            opened = UdpSocket(local, self._receive_bytes, shared_port=True, interface=wanted.interface)
            try:
                opened.join(wanted.group, wanted.interface)
            except OSError:
                opened.close()
                raise
            self._listen(group, opened)
        group.joined[_Joined(wanted.group, wanted.interface)] = opened

    def leave(self, wanted: LeaveGroup) -> None:
        """Perform a LeaveGroup; nothing happens for a group that was not joined."""
        group = self._groups.get(wanted.key)
        opened = group.joined.pop(_Joined(wanted.group, wanted.interface), None) if group is not None else None
        if opened is None or group is None:
            return
        if opened is group.first:
            opened.leave(wanted.group, wanted.interface)
        else:
            self._forget(opened)

    # ---- out

    def transmit(self, key: int) -> list[Effect]:
        """Send what a socket's queue holds, as far as the socket takes it."""
        effects: list[Effect] = []
        group = self._groups.get(key)
        while group is not None:
            head = self._transport.next_transmit(key)
            if head is None:
                break
            opened = self._way_from(group, head.address.local.host, head.destination)
            outcome = self._send(group, opened, head)
            if outcome is None:
                self._waiting.setdefault(opened.socket.fileno(), set()).add(key)
                break
            effects += self._transport.transmitted(key, head.token, *outcome)
            if opened.has_late_errors:
                effects += self._tell_late_errors(opened)
        return effects

    def _way_from(self, group: _Group, host: str, destination: SocketAddress) -> UdpSocket:
        """The socket of an address object on ``host``: that on its address, or on the one routes select (S22)."""
        on_port = self._on_port[_port_of(group.first)]
        if len(on_port) == 1 or host == group.first.local.host:
            return group.first
        own = on_port.get(host)
        return own if own is not None else on_port.get(route_source(destination), group.first)

    def _send(self, group: _Group, opened: UdpSocket, head: QueuedSend) -> tuple[NtStatus, str] | None:
        """How sending one went; None when the socket has no room, or had none before."""
        if opened.waits_to_write:
            return None
        outcome: tuple[NtStatus, str] | None = (NtStatus.SUCCESS, "")
        try:
            opened.obey(head.address.options)
            if not opened.send(head.data, head.destination):
                self._wait_to_write(opened)
                outcome = None
        except OSError as error:
            outcome = status_of(error), f"the host refused it: {error.strerror}"
        return outcome

    def _wait_to_write(self, opened: UdpSocket) -> None:
        opened.waits_to_write = True
        self._poller.modify(opened.socket.fileno(), _IN | _OUT)

    def send_burst(self, way: BurstWay, lengths: Sequence[int], data: bytes) -> tuple[int, int, list[Effect]]:
        """Send datagrams that stand back to back in ``data``: how many left, how many bytes, and what else came of it.

        The others have to be submitted one by one: the socket has no room, or the host refuses the next.
        """
        group = self._groups[way.key]
        opened = self._way_from(group, way.host, way.destination)
        if opened.waits_to_write:
            return 0, 0, []
        try:
            opened.obey(way.options)
        except OSError:
            return 0, 0, []
        with memoryview(data) as view:
            end = send_burst(opened, way.destination, lengths, view)
        effects = self._tell_late_errors(opened) if opened.has_late_errors else []
        return end.datagrams, end.byte_count, effects

    # ---- what happens

    def _ready(self, descriptor: int, events: int) -> None:
        found = self._by_descriptor.get(descriptor)
        if found is not None:
            self._serve(*found, events)

    def _serve(self, group: _Group, opened: UdpSocket, events: int) -> None:
        if events & _OUT and opened.waits_to_write:
            opened.waits_to_write = False
            descriptor = opened.socket.fileno()
            self._poller.modify(descriptor, _IN)
            for key in sorted(self._waiting.pop(descriptor, set()) | {group.key}):
                self._perform(partial(self.transmit, key))
        if events & _ERROR or opened.has_late_errors:
            self._perform(lambda: self._tell_late_errors(opened))
        if events & _IN:
            self._perform(lambda: self._take(group, opened))

    def _take(self, group: _Group, opened: UdpSocket) -> Iterable[Effect]:
        now = trio.current_time()
        take = self._transport.datagram_arrived
        for source, destination, datagrams in opened.receive():
            self.received += len(datagrams)
            for data in datagrams:
                yield from take(group.key, source, destination, data, now)

    def _tell_late_errors(self, opened: UdpSocket) -> list[Effect]:
        group, _ = self._by_descriptor[opened.socket.fileno()]
        effects: list[Effect] = []
        for status, peer in opened.late_errors():
            self.late_errors += 1
            effects += self._transport.path_error_event(group.key, status, peer)
        return effects

    # ---- looking in

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows of them."""
        return {
            "udp_sockets": len(self._groups),
            "datagrams_received": self.received,
            "late_errors": self.late_errors,
        }


def _port_of(opened: UdpSocket) -> tuple[int, bool]:
    return opened.local.port, opened.is_version_6


def _close(group: _Group) -> None:
    for each in group.sockets():
        each.close()

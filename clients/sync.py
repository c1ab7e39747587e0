"""The client library without an event loop: the same names, plain calls. For the REPL, tests, and lowest latency.

One connection belongs to one thread. Whatever arrives is read while a call waits; between calls nothing runs.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from clients import network_calls, requests
from clients.busy_poll import BUSY_POLL_SECONDS, BusyPoll
from clients.calls import ConnectionLost, RequestFailed
from clients.direct import DirectEnd
from clients.driver_running import run_callback
from clients.inbox import AddressState, EndState, OfferState
from clients.memory import POOL_PAGES, MachineMemory
from clients.protocol import ClientProtocol
from clients.requests import Completion
from clients.sync_bus import BusGuest, attach_bus
from clients.sync_driver import DriverChannel, DriverPacket
from clients.sync_files import File
from clients.sync_filters import Filter
from clients.sync_receiving import run_handlers
from clients.sync_tdi import Address
from clients.sync_tdi_connections import TdiConnection
from clients.sync_vmbus import Channel, Machine, OfferedChannel, Packet
from clients.unix import Attached, client_name, lost_by, open_socket, receive_into
from emulator.status import PeerViolation
from emulator.wire.schema import DAEMON_INSPECT, DAEMON_LOG_LEVEL, MACHINE_ATTACH, MACHINE_CREATE, MACHINE_REMOVE, PING

__all__ = [
    "Address",
    "BusGuest",
    "Channel",
    "Connection",
    "DriverChannel",
    "DriverPacket",
    "File",
    "Filter",
    "Machine",
    "OfferedChannel",
    "Packet",
    "TdiConnection",
    "attach_bus",
    "connect",
]


class Connection:
    """One connection. Made by ``connect``."""

    def __init__(self, sock: socket.socket, *, map_memory: bool, busy_poll_seconds: float) -> None:
        self.protocol = ClientProtocol()
        self.map_memory = map_memory
        self._sock = sock
        self._attached: dict[str, Attached] = {}
        self._listening: dict[int, DirectEnd] = {}
        self._busy_poll = BusyPoll(busy_poll_seconds)
        self._look: Callable[[], bool] = self._look_at_all
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    # ---- the daemon itself

    def machine(self, name: str) -> Machine:
        """Begin to act on a machine of the daemon's."""
        if name not in self._attached:
            call = self.protocol.call(MACHINE_ATTACH, name, self.map_memory)
            number, memory_bytes, _ = self.finish(call)
            memory = MachineMemory(memory_bytes, call.descriptor, ())
            # With the machine's memory used up, whoever needs buffers is told when they ask for one.
            with suppress(RequestFailed):
                memory.add_pages(self.allocate_pages(number, POOL_PAGES))
            self._attached[name] = Attached(number, memory)
        return Machine(self, name, self._attached[name])

    def inspect(self, what: str, machine: str | None = None) -> list[dict[str, Any]]:
        """What the daemon holds.

        ``daemon``, ``machines``, ``channels``, ``details`` of those, ``waiting`` guests, ``segments``.
        """
        entries: list[dict[str, Any]] = []
        more = True
        while more:
            document, more = self.request(DAEMON_INSPECT, what, machine, len(entries))
            entries += json.loads(document)
        return entries

    def change_segment(self, name: str, **changes: Any) -> dict[str, Any]:
        """Change settings of a segment while it runs, by their names in the configuration; what it is like then.

        Such as ``loss=0.1``, ``latency_seconds=0.02``, ``partition=[["vm1"], ["vm2"]]``.
        """
        call = network_calls.change_segment(self.protocol, name, changes)
        self.finish(call)
        segment: dict[str, Any] = call.built
        return segment

    def create_machine(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        """Make a machine, with settings as ``[machines.NAME]`` in the configuration has them."""
        self.request(MACHINE_CREATE, name, json.dumps(dict(settings or {})))

    def remove_machine(self, name: str, *, force: bool = False) -> None:
        """Take a machine away; refused while channels of it are open, unless with ``force``."""
        self.request(MACHINE_REMOVE, name, force)

    def set_log_level(self, level: str) -> str:
        """Have the daemon log from ``debug``, ``info``, ``warning`` or ``error`` upwards; the level until now."""
        (before,) = self.request(DAEMON_LOG_LEVEL, level)
        return str(before)

    def ping(self) -> None:
        """Return when the daemon has answered."""
        self.request(PING)

    # ---- calls

    def request(self, method: Any, *args: object) -> tuple[Any, ...]:
        """Send a request and wait for its result."""
        return self.finish(self.protocol.call(method, *args))

    def allocate_pages(self, machine: int, pages: int) -> tuple[int, ...]:
        """Page numbers of a machine's memory for this client; it gives what it holds back when it goes."""
        call = requests.allocate_pages(self.protocol, machine, pages)
        self.finish(call)
        pfns: tuple[int, ...] = call.built
        return pfns

    def finish(self, call: requests.Sending) -> tuple[Any, ...]:
        """Wait for the end of a call; its result, or its error raised. Interrupted, the call is abandoned."""
        self.flush()
        try:
            while not call.done:
                self.wait()
        except BaseException:
            if self.protocol.lost is None:
                self.protocol.abandon(call)
                self.flush()
            raise
        return call.outcome()

    def ask_directly(self, end: DirectEnd, buffer: bytes) -> Completion | None:
        """Send bytes through a direct channel and take the completion as soon as it stands in the ring.

        The usual round trip, in short. None: nothing was done, send them in the usual way.
        """
        if len(self._listening) != 1:
            return None  # others' rings would have to wait
        call = end.ask(buffer)
        if call is None:
            return None
        try:
            if self._busy_poll.look_for(end.arrived) and (payload := end.take_answer(call)) is not None:
                return Completion(payload)
        except BaseException:
            self.protocol.abandon(call)
            raise
        self.finish(call)
        return requests.completion(call)

    def wait(self, seconds: float | None = None) -> None:
        """Take what comes next: from the daemon, or a doorbell. Then run the state callbacks that came.

        Raises TimeoutError after the connection's time-out; given ``seconds``, returns after them.
        """
        if self.protocol.lost is not None:
            raise self.protocol.lost
        if seconds is not None and not self._comes_within(seconds):
            return
        if self._listening:
            self._busy_poll.wait(self._look, self._sleep)
        else:
            self._receive()
        try:
            run_handlers(self.protocol)
        finally:
            self.flush()
        self._run_callbacks()

    def _comes_within(self, seconds: float) -> bool:
        """Whether there is anything to take, in time: a ring's doorbell is asked for."""
        came = False
        for end in self._listening.values():
            came |= end.poll()
        if came:
            return False  # it is taken
        return bool(self._poller.poll(max(0.0, seconds) * 1000))

    def _run_callbacks(self) -> None:
        """State callbacks run while something is waited for, in the order they came; they may wait themselves."""
        while callbacks := self.protocol.take_callbacks():
            for due in callbacks:
                run_callback(self.protocol, due)
                self.flush()

    def wait_for_item(self, state: EndState | OfferState | AddressState) -> None:
        """Return when an inbox holds something; StopIteration when nothing comes any more, or the connection's loss."""
        while not state.items:
            if state.closed is not None:
                if self.protocol.lost is not None:
                    raise self.protocol.lost
                raise StopIteration
            # A packet that comes soon needs no more than a look.
            if len(self._listening) != 1 or not self._busy_poll.look_for(self._look):
                self.wait()

    def _receive(self) -> None:
        try:
            receive_into(self.protocol, self._sock)
        except (ConnectionLost, PeerViolation) as error:
            self.protocol.lose(lost_by(error))
        for end in self.protocol.take_attached():
            if isinstance(end, DirectEnd):
                self._listening[end.bell.fileno()] = end
                self._poller.register(end.bell, select.POLLIN)
                self._choose_look()
                end.look()
        for end in [end for end in self._listening.values() if end.closed is not None]:
            self._stop_listening(end)

    def _stop_listening(self, end: DirectEnd) -> None:
        """A channel that is over must not stand in the way of the others' short round trips until the next sleep."""
        self._poller.unregister(end.bell)
        del self._listening[end.bell.fileno()]
        self._choose_look()
        end.bell.close()

    def _choose_look(self) -> None:
        """With one direct channel, which is the common case, looking is one call."""
        ends = list(self._listening.values())
        self._look = ends[0].look if len(ends) == 1 else self._look_at_all

    def _look_at_all(self) -> bool:
        """Whether anything came through the rings of direct channels."""
        came = False
        for end in self._listening.values():
            came |= end.look()
        return came

    def _sleep(self) -> None:
        """Return when anything came: through a ring, whose doorbell is asked for, or from the daemon."""
        if any(end.poll() for end in self._listening.values()):
            return
        timeout = self._sock.gettimeout()
        ready = self._poller.poll(None if timeout is None else timeout * 1000)
        if not ready:
            raise TimeoutError(f"nothing came within {timeout:g} seconds")
        for descriptor, _ in ready:
            if descriptor == self._sock.fileno():
                self._receive()
            elif (end := self._listening.get(descriptor)) is not None:  # else it was over just now
                listening = end.heard()
                end.look()
                if not listening:
                    self._stop_listening(end)

    def flush(self) -> None:
        """Send what there is to send."""
        outgoing = self.protocol.outgoing
        if outgoing:
            self._send(outgoing)
        self.protocol.forget_touched()  # nobody waits here but whoever calls

    def _send(self, outgoing: bytearray) -> None:
        while outgoing:
            try:
                sent = self._sock.send(outgoing)
            except TimeoutError:
                raise  # what was not sent stays, so that no frame is cut
            except OSError:
                outgoing.clear()  # the daemon may have said why before it closed: the next read finds out
            else:
                del outgoing[:sent]

    def close(self) -> None:
        """Send what is left, and close."""
        self.flush()
        self._sock.close()
        self.protocol.lose(ConnectionLost("the connection has been closed here"))
        for end in self._listening.values():
            end.bell.close()
        self._listening.clear()


@contextmanager
def connect(
    path: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    map_memory: bool = True,
    timeout_seconds: float | None = None,
    busy_poll_seconds: float = BUSY_POLL_SECONDS,
) -> Iterator[Connection]:
    """Attach to the daemon at a socket path, or at the default one.

    ``timeout_seconds`` bounds each wait for the daemon (TimeoutError); None waits for ever. With direct channels a wait
    looks at their rings for up to ``busy_poll_seconds`` before it sleeps, where that pays. Else like the trio face.
    """
    if isinstance(path, str) and path.startswith("quic://"):
        raise ValueError(
            f"clients.sync cannot attach to {path}: between its calls nothing runs that would acknowledge packets or "
            "keep the path alive; use clients.connect, which has an event loop"
        )
    sock = open_socket(path)
    sock.settimeout(timeout_seconds)
    connection = Connection(sock, map_memory=map_memory, busy_poll_seconds=busy_poll_seconds)
    try:
        connection.finish(requests.hello(connection.protocol, client_name(name)))
        yield connection
    finally:
        connection.close()

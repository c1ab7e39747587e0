"""connect(): the trio face of a connection to the daemon. One reader, one writer; calls are awaited."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from clients import network_calls, requests
from clients.calls import ConnectionLost, RequestFailed
from clients.direct import DirectEnd
from clients.driver import CallbackDue
from clients.driver_running import running_callback, status_of
from clients.inbox import AddressState, EndState, OfferState
from clients.links import Link, UnixLink
from clients.memory import POOL_PAGES, MachineMemory
from clients.protocol import ClientProtocol
from clients.quic import is_remote, open_quic
from clients.receiving import HandlerTasks
from clients.unix import Attached, client_name
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.wire.schema import DAEMON_INSPECT, DAEMON_LOG_LEVEL, MACHINE_ATTACH, MACHINE_CREATE, MACHINE_REMOVE, PING

if TYPE_CHECKING:
    from clients.vmbus import Machine

# Unsent bytes above which a call waits for the socket before it returns.
OUTGOING_HIGH_BYTES = 256 * 1024
GOODBYE_SECONDS = 1.0


class Connection:
    """One connection. Made by ``connect``."""

    def __init__(self, link: Link, *, map_memory: bool) -> None:
        self.protocol = ClientProtocol()
        self.map_memory = map_memory
        # What the daemon's answer to hello said of it.
        self.protocol_version = 0
        self.daemon_version = ""
        self._link = link
        self.nursery: trio.Nursery | None = None
        self._stalled = trio.Event()
        self._attached: dict[str, Attached] = {}
        self._handlers = HandlerTasks(self)
        self.failure: Exception | None = None

    # ---- the daemon itself

    async def machine(self, name: str) -> Machine:
        """Begin to act on a machine of the daemon's."""
        from clients.vmbus import Machine  # it is made of this module

        if name not in self._attached:
            await self._attach(name)
        return Machine(self, name, self._attached[name])

    async def _attach(self, name: str) -> None:
        call = self.protocol.call(MACHINE_ATTACH, name, self.map_memory)
        number, memory_bytes, _ = await self.finish(call)
        memory = MachineMemory(memory_bytes, call.descriptor, ())
        # With the machine's memory used up, whoever needs buffers is told when they ask for one.
        with suppress(RequestFailed):
            memory.add_pages(await self.allocate_pages(number, POOL_PAGES))
        self._attached[name] = Attached(number, memory)

    async def inspect(self, what: str, machine: str | None = None) -> list[dict[str, Any]]:
        """What the daemon holds.

        ``daemon``, ``machines``, ``channels``, ``details`` of those, ``waiting`` guests, ``segments``.
        """
        entries: list[dict[str, Any]] = []
        more = True
        while more:
            document, more = await self.request(DAEMON_INSPECT, what, machine, len(entries))
            entries += json.loads(document)
        return entries

    async def change_segment(self, name: str, **changes: Any) -> dict[str, Any]:
        """Change settings of a segment while it runs, by their names in the configuration; what it is like then.

        Such as ``loss=0.1``, ``latency_seconds=0.02``, ``partition=[["vm1"], ["vm2"]]``.
        """
        call = network_calls.change_segment(self.protocol, name, changes)
        await self.finish(call)
        segment: dict[str, Any] = call.built
        return segment

    async def create_machine(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        """Make a machine, with settings as ``[machines.NAME]`` in the configuration has them."""
        await self.request(MACHINE_CREATE, name, json.dumps(dict(settings or {})))

    async def remove_machine(self, name: str, *, force: bool = False) -> None:
        """Take a machine away; refused while channels of it are open, unless with ``force``."""
        await self.request(MACHINE_REMOVE, name, force)

    async def set_log_level(self, level: str) -> str:
        """Have the daemon log from ``debug``, ``info``, ``warning`` or ``error`` upwards; the level until now."""
        (before,) = await self.request(DAEMON_LOG_LEVEL, level)
        return str(before)

    async def ping(self) -> None:
        """Return when the daemon has answered."""
        await self.request(PING)

    # ---- calls

    async def request(self, method: Any, *args: object) -> tuple[Any, ...]:
        """Send a request and wait for its result."""
        return await self.finish(self.protocol.call(method, *args))

    async def allocate_pages(self, machine: int, pages: int) -> tuple[int, ...]:
        """Page numbers of a machine's memory for this client; it gives what it holds back when it goes."""
        call = requests.allocate_pages(self.protocol, machine, pages)
        await self.finish(call)
        pfns: tuple[int, ...] = call.built
        return pfns

    async def finish(self, call: requests.Sending) -> tuple[Any, ...]:
        """Wait for the end of a call; its result, or its error raised.

        Cancelled meanwhile, the call is abandoned: the daemon is asked to end it, and nothing of it is left behind.
        """
        self.flush()
        try:
            while not call.done:
                await self.wait_for(call)
        except trio.Cancelled:
            self.protocol.abandon(call)
            self.flush()
            raise
        return call.outcome()

    async def wait_for(self, state: Any) -> None:
        """Return when a call, channel, offer or address has changed."""
        if state.waiter is None:
            state.waiter = trio.Event()
        await state.waiter.wait()

    async def wait_for_item(self, state: EndState | OfferState | AddressState) -> None:
        """Return when an inbox holds something; StopAsyncIteration when nothing comes any more, or ConnectionLost."""
        while not state.items:
            if state.closed is not None:
                if self.protocol.lost is not None:
                    raise ConnectionLost(str(self.protocol.lost))
                raise StopAsyncIteration
            await self.wait_for(state)

    def flush(self) -> None:
        """Write what the socket takes now; the writer task does the rest. Wakes whoever an error concerns."""
        outgoing = self.protocol.outgoing
        if self.protocol.lossy:
            self._link.send_lossy(self.protocol.lossy)
            self.protocol.lossy.clear()
        try:
            while outgoing:
                with memoryview(outgoing) as view:
                    sent = self._link.send(view)
                del outgoing[:sent]
        except BlockingIOError:
            self._stalled.set()
        except OSError:
            # The reader finds the reason: the daemon may have said one before it closed.
            outgoing.clear()
        self._wake(self.protocol.take_touched())

    async def drain(self) -> None:
        """Wait until the socket has taken what was sent, if that is much; for callers that await nothing else."""
        while len(self.protocol.outgoing) > OUTGOING_HIGH_BYTES and self.protocol.lost is None:
            await self._link.writable()
            self.flush()

    @staticmethod
    def _wake(touched: list[Any]) -> None:
        for each in touched:
            waiter, each.waiter = each.waiter, None
            if waiter is not None:
                waiter.set()

    # ---- tasks

    async def read(self) -> None:
        """The reader task."""
        try:
            while self.protocol.lost is None:
                await self._link.readable()
                self._receive()
        except trio.ClosedResourceError:
            return  # closed here
        except (ConnectionLost, PeerViolation) as error:
            lost = (
                error
                if isinstance(error, ConnectionLost)
                else ConnectionLost(f"the daemon broke the protocol: {error}")
            )
            self._wake(self.protocol.lose(lost))

    def _receive(self) -> None:
        try:
            touched = self._link.receive_into(self.protocol)
        except BlockingIOError:
            return
        self._wake(touched)
        for end in self.protocol.take_attached():
            if isinstance(end, DirectEnd) and self.nursery is not None:
                self.nursery.start_soon(self._listen, end)
        if self._handlers.run_new() or self.protocol.outgoing:
            self.flush()
        self._start_callbacks()

    def _start_callbacks(self) -> None:
        for due in self.protocol.take_callbacks():
            if self.nursery is not None:
                self.nursery.start_soon(self._run_callback, due)

    async def _run_callback(self, due: CallbackDue) -> None:
        """The task of one state callback. What it raises ends the connection, once it is answered."""
        running_callback.set(due)
        status = NtStatus.UNSUCCESSFUL
        try:
            returned = due.call()
            status = status_of(due, await returned if inspect.isawaitable(returned) else returned)
        except (Refused, RequestFailed) as error:
            status = error.status
        except Exception as error:  # noqa: BLE001 -- the program is told by ending its connection
            self.fail(error)
        finally:
            self.protocol.answer_callback(due, status)
            self.flush()
            self._start_callbacks()

    def fail(self, error: Exception) -> None:
        """A handler or callback has failed: the program is told by ending it here."""
        self.failure = self.failure or error
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    async def _listen(self, end: DirectEnd) -> None:
        """The task of a direct channel: looks at its rings when its doorbell rings."""
        with end.bell:
            end.poll()
            self.flush()
            while end.closed is None:
                await trio.lowlevel.wait_readable(end.bell)
                listening = end.heard()
                end.poll()
                self.flush()
                if not listening:
                    return

    async def write(self) -> None:
        """The writer task: goes on when a full socket has drained."""
        while True:
            await self._stalled.wait()
            self._stalled = trio.Event()
            try:
                await self._link.writable()
            except trio.ClosedResourceError:
                return
            self.flush()

    async def close(self) -> None:
        """Send what is left, as far as the daemon takes it in a second, and close."""
        with trio.move_on_after(GOODBYE_SECONDS) as scope:
            scope.shield = True
            while self.protocol.outgoing and self.protocol.lost is None:
                await self._link.writable()
                self.flush()
            await self._link.close()
        self._wake(self.protocol.lose(ConnectionLost("the connection has been closed here")))
        for descriptor in self.protocol.take_unclaimed_descriptors():
            os.close(descriptor)


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    map_memory: bool = True,
    credentials: str | os.PathLike[str] | None = None,
    packet_bytes: int = 1200,
) -> AsyncIterator[Connection]:
    """Attach to the daemon at a socket path, at the default one, or over UDP at ``quic://host:port``.

    ``name`` shows in listings and logs. With ``map_memory`` guest memory is mapped into this process; without, and over
    UDP always, it is read and written by message. ``credentials`` is the directory a client over UDP needs
    (docs/remote-attach.md), ``packet_bytes`` what one packet of it holds, more where the path is known to carry it.
    Raises ConnectionLost when no daemon answers, or does not let this client in.
    """
    link: Link
    if is_remote(path):
        link, map_memory = await open_quic(str(path), credentials, packet_bytes=packet_bytes), False
    else:
        link = UnixLink(path)
    connection = Connection(link, map_memory=map_memory)
    async with _background(connection):
        greeting = await connection.finish(requests.hello(connection.protocol, client_name(name)))
        connection.protocol_version, connection.daemon_version = greeting[:2]
        connection.protocol.lossy_bytes = link.lossy_bytes
        yield connection


@asynccontextmanager
async def _background(connection: Connection) -> AsyncIterator[None]:
    """The reader and writer tasks around a body. An exception of the body comes out as it is, in no group."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        connection.nursery = nursery
        nursery.start_soon(connection.read)
        nursery.start_soon(connection.write)
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- raised again below, out of the nursery
            failure = error
        finally:
            await connection.close()
            nursery.cancel_scope.cancel()
    failure = failure or connection.failure
    if failure is not None:
        raise failure

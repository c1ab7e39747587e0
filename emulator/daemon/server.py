"""serve(): the nursery tree of the daemon, its signals, and the pump that moves what sessions have to say."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio

from emulator.config import Config
from emulator.daemon.heartbeat import Heartbeat
from emulator.daemon.http import HttpListener
from emulator.daemon.listeners import UnixListener
from emulator.daemon.log import logger
from emulator.daemon.machines import Machine
from emulator.daemon.pages import open_pages
from emulator.daemon.population import Changes, Population
from emulator.daemon.quic import QuicListener
from emulator.daemon.quic_keys import KeysUnreadable
from emulator.daemon.reload import Reloader
from emulator.daemon.roles import Access, Identity, Role
from emulator.daemon.segments import Segments, without_strangers
from emulator.daemon.service_manager import ATTACH_SOCKET, METRICS_SOCKET, ServiceManager
from emulator.daemon.session import Session
from emulator.daemon.streams import Stream, UnixStream
from emulator.status import NtStatus, Refused
from emulator.vmbus.ring import RING_BUILD, RING_BUILD_PROBLEM

# Turns taken on the spot after a read; whatever is still due then is the pump task's, between other sessions' reads.
PROMPT_ROUNDS = 4
# What sessions get to end in once the daemon has said goodbye to them.
STOP_SECONDS = 5
# How often the service manager is told the counts, where it has set no watchdog time.
STATUS_SECONDS = 10.0
# Names in a message; a thousand machines would not fit a sentence.
SHOWN_NAMES = 20
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPING = NtStatus.DEVICE_REMOVED, "the daemon is stopping"


def daemon_version() -> str:
    """The version of the installed distribution."""
    try:
        return importlib.metadata.version("vmbus-emulator")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


class Server:
    """Machines and sessions, and the one place where a turn of work is driven to its end."""

    def __init__(self, config: Config, manager: ServiceManager | None = None, config_path: Path | None = None) -> None:
        """``config_path`` is where ``config`` came from: what a SIGHUP reads again."""
        self.config = config
        self.reloader = Reloader(self, config_path)
        self.manager = manager or ServiceManager({}, os.getpid())
        self.access = Access(config)
        self.heartbeat = Heartbeat(self._serve_heartbeat)
        self.pages: HttpListener | None = None
        self.quic: QuicListener | None = None
        self.forced_by: int | None = None
        self.version = daemon_version()
        self.segments = Segments(config)
        self.population = Population(config, self.segments)
        self.machines = self.population.machines
        self.changes = Changes(self.population, self.access)
        self._sessions: dict[int, Session] = {}
        self._heartbeats: set[int] = set()
        self.sessions_begun = 0
        self.is_stopping = False
        self._dirty: dict[Session, None] = {}
        self._more = trio.Event()
        self._session_ended = trio.Event()
        self._pumped = trio.Event()
        self._log = logger()

    def machines_for(self, identity: Identity) -> list[Machine]:
        """The machines somebody may know of."""
        return [machine for name, machine in self.machines.items() if self.access.shows(identity, name)]

    def segments_for(self, identity: Identity) -> list[dict[str, Any]]:
        """The segments of those machines, with their names alone; an admin gets all."""
        if self.access.allows(identity, Role.ADMIN):
            return self.segments.describe()
        known = {machine.name for machine in self.machines_for(identity)}
        return [shown for each in self.segments.describe() if (shown := without_strangers(each, known))["machines"]]

    def find_machine(self, name: str, identity: Identity) -> Machine:
        """The machine of that name, for somebody. One that they have no role on is as absent as one that is not."""
        machine = self.machines.get(name)
        if machine is None or not self.access.shows(identity, name):
            names = sorted(each.name for each in self.machines_for(identity))
            known = ", ".join(names[:SHOWN_NAMES]) or "none for you; add [machines.NAME] to the configuration"
            known += f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise Refused(NtStatus.OBJECT_NAME_NOT_FOUND, f"there is no machine {name!r}; there are: {known}")
        return machine

    def replace_access(self, access: Access) -> None:
        """Other lists are in force; what somebody has already opened is theirs."""
        self.access = access
        self.changes = Changes(self.population, access)

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl version`` shows of the daemon."""
        return {
            "version": self.version,
            "ring": RING_BUILD,
            "ring_note": RING_BUILD_PROBLEM,
            "process": os.getpid(),
            "sessions": self.session_count,
            **({} if self.quic is None else self.quic.describe()),
        }

    def sessions(self) -> list[Session]:
        """Attached clients, and the heartbeat."""
        return list(self._sessions.values())

    @property
    def session_count(self) -> int:
        """Attached clients. The heartbeat is none: nobody would know it in figures, nor may clients crowd it out."""
        return len(self._sessions) - len(self._heartbeats)

    # ---- the pump

    def mark_dirty(self, session: Session) -> None:
        """A session has something to do in the next pump."""
        self._dirty[session] = None

    def pump(self) -> None:
        """Let every session with something to do take a turn; again, while that gives others something to do."""
        for _ in range(PROMPT_ROUNDS):
            if not self._dirty:
                return
            dirty, self._dirty = self._dirty, {}
            for session in dirty:
                session.pump()
        if self._dirty:
            self._more.set()
        self._pumped.set()

    async def _pump_rest(self) -> None:
        while True:
            await self._more.wait()
            self._more = trio.Event()
            self.pump()
            # Readers come first: they hold the completions and grants that let rings drain.
            await trio.lowlevel.checkpoint()

    # ---- sessions

    async def _serve_socket(self, sock: socket.socket) -> None:
        await self.serve_client(UnixStream(sock, self.config.limits.outbox_bytes))

    async def _serve_heartbeat(self, sock: socket.socket) -> None:
        session = self._add_session(UnixStream(sock, self.config.limits.outbox_bytes))
        self._heartbeats.add(session.number)
        await session.run()

    async def serve_client(self, stream: Stream) -> None:
        """The life of one client's session."""
        session = self._add_session(stream)
        if self.session_count > self.config.limits.sessions:
            session.end(NtStatus.INSUFFICIENT_RESOURCES, f"the daemon already serves {self.session_count - 1} clients")
        await session.run()

    def _add_session(self, stream: Stream) -> Session:
        self.sessions_begun += 1
        session = Session(self, stream, self.sessions_begun)
        self._sessions[session.number] = session
        if self.is_stopping:
            session.end(*STOPPING)
        return session

    def forget(self, session: Session) -> None:
        """A session is over."""
        self._sessions.pop(session.number, None)
        self._heartbeats.discard(session.number)
        self._session_ended.set()
        self._dirty.pop(session, None)
        self.population.let_go()

    def reload_keys(self) -> tuple[int, int]:
        """Read the register of keys anew: how many keys are let in, and how many sessions that ended.

        Raises KeysUnreadable, and everything stays as it was.
        """
        return (0, 0) if self.quic is None else self.quic.reload_keys(self.sessions())

    # ---- life

    async def run(self, listener: UnixListener, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; ``forced_by`` is the number of a second one, which ended it at once."""
        try:
            await self._run_until_signalled(listener, ready)
        finally:
            self.population.close()

    async def _run_until_signalled(self, listener: UnixListener, ready: Callable[[], None]) -> None:
        with trio.open_signal_receiver(*STOP_SIGNALS, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.segments.run, self.pump)
                await nursery.start(self.population.run, self.pump)
                nursery.start_soon(self._pump_rest)
                nursery.start_soon(self.heartbeat.run)
                nursery.start_soon(listener.run, self._serve_socket)
                if self.quic is not None:
                    nursery.start_soon(self.quic.run, self.serve_client)
                if self.pages is not None:
                    nursery.start_soon(self.pages.run)
                if self.manager.is_listening:
                    nursery.start_soon(self._report)
                self.manager.ready(self.summary())
                ready()
                async for number in signals:
                    if number == signal.SIGHUP:
                        self._reload()
                        continue
                    self._log.info("daemon.stopping", signal=signal.Signals(number).name)
                    break
                nursery.start_soon(self._stop, listener, nursery.cancel_scope)
                async for number in signals:
                    if number == signal.SIGHUP:
                        continue
                    self._log.warning("daemon.forced", signal=signal.Signals(number).name)
                    self.forced_by = number
                    nursery.cancel_scope.cancel()

    def _reload(self) -> None:
        self.manager.reloading()
        self.reloader.reload()
        try:
            self.reload_keys()
        except KeysUnreadable as error:
            self._log.error("quic.keys_unreadable", error=str(error))
        self.manager.ready(self.summary())

    def summary(self) -> str:
        """The daemon in one line, for its service manager."""
        channels = sum(len(machine.channels) for machine in self.machines.values())
        return f"{len(self.machines)} machines, {self.session_count} clients, {channels} open channels"

    async def _report(self) -> None:
        """Tell the service manager the counts, and feed its watchdog as long as our own requests are answered."""
        seconds = (self.manager.watchdog_seconds or 2 * STATUS_SECONDS) / 2
        while True:
            if self.manager.watchdog_seconds is not None:
                if await self.heartbeat.beat(seconds):
                    self.manager.alive()
                else:
                    self._log.error("daemon.heartbeat_missed", seconds=seconds)
            self.manager.status(self.summary())
            await trio.sleep(seconds)

    async def _stop(self, listener: UnixListener, everything: trio.CancelScope) -> None:
        """No new clients; offers go; what is on its way still arrives, for a bounded time; then goodbye."""
        self.is_stopping = True
        self.manager.stopping()
        listener.close()
        if self.quic is not None:
            self.quic.stop_accepting()
        for machine in self.machines.values():
            with machine.contained():
                machine.stop(STOPPING[1])
        self.pump()
        with trio.move_on_after(self.config.limits.drain_seconds) as scope:
            while not all(session.is_quiet for session in self._sessions.values()):
                self._pumped = trio.Event()
                await self._pumped.wait()
        if scope.cancelled_caught:
            busy = [str(session) for session in self._sessions.values() if not session.is_quiet]
            self._log.warning("daemon.not_drained", sessions=busy[:20], count=len(busy))
        for session in list(self._sessions.values()):
            session.end(*STOPPING)
        await self._until_sessions_end()
        everything.cancel()

    async def _until_sessions_end(self) -> None:
        with trio.move_on_after(STOP_SECONDS):
            while self._sessions:
                self._session_ended = trio.Event()
                await self._session_ended.wait()


async def serve(
    config: Config,
    socket_path: Path,
    ready: Callable[[Path], None],
    manager: ServiceManager,
    config_path: Path | None = None,
) -> int | None:
    """Run the daemon; ``ready`` is called once, when it listens, with the path of its socket.

    Returns None, or the number of the signal that came while it was stopping already. Raises PathUnusable for a live
    rival, GatewayUnusable for a host port that is taken.
    """
    mode, group = int(config.listen.socket_mode, 8), config.listen.socket_group
    passed = manager.take_socket(ATTACH_SOCKET)
    with UnixListener(socket_path, passed, mode=mode, group=group) as listener, ExitStack() as stack:
        server = Server(config, manager, config_path)
        path = listener.path
        stack.callback(server.segments.close)
        server.segments.open_gateways()
        server.pages = open_pages(server, config.metrics, manager.take_socket(METRICS_SOCKET))
        if server.pages is not None:
            stack.callback(server.pages.close)
            server.population.measure_latency()
            logger().info("daemon.metrics", place=server.pages.place)
        if config.listen.quic.port is not None:
            server.quic = QuicListener(config.listen.quic, config.limits.outbox_bytes)
            stack.callback(server.quic.close)
            logger().info("quic.listening", place=server.quic.place)
        logger().info("daemon.listening", socket=str(path), machines=len(server.machines), ring=RING_BUILD)
        await server.run(listener, partial(ready, path))
    logger().info("daemon.stopped")
    return server.forced_by

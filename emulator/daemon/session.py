"""One attached client: one reader, one writer, and everything the client holds.

The reader takes what has arrived, has each message carried out (``dispatch``), and lets the server pump: every session
with something to say says it in one system call. Nothing between a core call and performing what it returned awaits.

What ends a session: its client closing the socket, a broken rule of the wire (the client is told which), an outbox
nobody reads, or the daemon stopping. Whatever the client held is then closed, and its peers are told.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from emulator.daemon.address_requests import AddressRequests
from emulator.daemon.bus_requests import BusRequests
from emulator.daemon.channel_requests import ChannelRequests
from emulator.daemon.connection_requests import ConnectionRequests
from emulator.daemon.dispatch import Dispatch
from emulator.daemon.driver_requests import DriverRequests
from emulator.daemon.file_requests import FileRequests
from emulator.daemon.filter_requests import FilterRequests
from emulator.daemon.handler_requests import Questions
from emulator.daemon.log import logger
from emulator.daemon.machine_requests import MachineRequests
from emulator.daemon.network_requests import NetworkRequests
from emulator.daemon.obligations import Drainable, Patient, Pending
from emulator.daemon.operation_requests import OperationRequests
from emulator.daemon.pace import Pace
from emulator.daemon.ready_sources import OUTBOX_HIGH_BYTES, ReadySources
from emulator.daemon.receive_requests import ReceiveRequests
from emulator.daemon.request_owners import close_everything
from emulator.daemon.roles import Role
from emulator.daemon.streams import RECEIVE_BYTES, Stream
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.wire.codec import FrameDecoder, FrameLimits, WireError, encode_notification
from emulator.wire.schema import GOODBYE, Direction

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from emulator.daemon.machines import Machine
    from emulator.daemon.server import Server

# Reads in one turn before other sessions get theirs, and frames: small ones come by the thousand in one read.
READS_PER_TURN = 4
FRAMES_PER_TURN = 256


class Session:
    """The daemon's side of one attached client."""

    def __init__(self, server: Server, stream: Stream, number: int) -> None:
        self.server = server
        self.identity = stream.identity
        self.limits = server.config.limits
        self.number = number
        self.client = ""
        self.is_open = True
        self.pending: dict[int, Pending] = {}
        self.acting_on: Machine | None = None
        self.stream = stream
        self._decoder = FrameDecoder(Direction.TO_DAEMON, FrameLimits())
        self._ready = ReadySources(stream)
        self.messages = 0
        self._pace = Pace.of(self.limits.frames_per_second, self.limits.bytes_per_second, trio.current_time())
        self._turn_frames = self._turn_bytes = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._has_writer = False
        self._farewell: tuple[NtStatus, str] | None = None
        self.machine_requests = MachineRequests(self)
        self.channel_requests = ChannelRequests(self)
        self.address_requests = AddressRequests(self)
        self.connection_requests = ConnectionRequests(self)
        self.receive_requests = ReceiveRequests(self)
        self.questions = Questions(self)
        self.file_requests = FileRequests(self)
        self.filter_requests = FilterRequests(self)
        self.network_requests = NetworkRequests(self)
        self.bus_requests = BusRequests(self)
        self.driver_requests = DriverRequests(self)
        self.operation_requests = OperationRequests(self)
        self._dispatch = Dispatch(self)

    def __str__(self) -> str:
        return f"session {self.number} (client {self.client!r}, {self.stream.peer})"

    @property
    def _log(self) -> FilteringBoundLogger:
        """Made when there is something to log: thousands of sessions have little to say."""
        return logger().bind(session=self.number, pid=self.stream.process)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way: every request is answered that can be, and every answer has left."""
        patient = all(isinstance(pending, Patient) and pending.is_patient for pending in self.pending.values())
        return patient and not self.stream.queued_bytes

    @property
    def is_congested(self) -> bool:
        """Whether so much waits to be written that what may be lost had better be."""
        return self.stream.queued_bytes >= OUTBOX_HIGH_BYTES

    @property
    def outbox_bytes(self) -> int:
        """What waits for the client to read it."""
        return self.stream.queued_bytes

    # ---- life

    async def run(self) -> None:
        """Serve the client until it goes, or has to go."""
        self._log.info("session.began")
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    await self._read_until_the_end()
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._finish()

    async def _read_until_the_end(self) -> None:
        try:
            await self._read()
        except PeerViolation as violation:
            self._farewell = self._farewell or (NtStatus.INVALID_PARAMETER, str(violation))
        except Exception as error:  # noqa: BLE001 -- a fault in what serves one client ends its session, and only that
            self._log.error("session.failed", exc_info=error)
            self._farewell = self._farewell or (NtStatus.UNSUCCESSFUL, "the daemon failed; its log says why")

    def end(self, status: NtStatus, reason: str) -> None:
        """End the session from outside, and tell the client why."""
        if self._farewell is None:
            self._farewell = status, reason
        self._scope.cancel()

    def _finish(self) -> None:
        # What the client said last reaches its peers before its channels close.
        self.server.pump()
        self.is_open = False
        self._ready.clear()
        reason = self._farewell[1] if self._farewell else "the client went away"
        for error in close_everything(self, f"{self} ended: {reason}"):
            self._log.error("session.not_closed", exc_info=error)
        self.pending.clear()
        if self._farewell is not None:
            self.stream.put(encode_notification(GOODBYE, int(self._farewell[0]), self._farewell[1][:1024]))
            self.stream.flush()
        self.stream.close(reason)
        self.server.forget(self)
        self._log.info("session.ended", client=self.client, reason=reason)
        self.server.pump()

    # ---- reading

    async def _read(self) -> None:
        frame_began: float | None = trio.current_time()
        messages = 0
        while True:
            if frame_began is None:
                await self.stream.readable()
            else:
                await self._wait_for_rest(frame_began)
            if not await self._receive():
                return
            self.server.pump()
            if self._pace is not None and await self._keep_pace(self._pace):
                frame_began = None if frame_began is None else trio.current_time()
            if self.client == "":
                continue
            if not self._decoder.has_partial_frame:
                frame_began = None
            elif frame_began is None or self.messages != messages:
                # A client that keeps sending always has one unfinished; what counts is how long this one is.
                frame_began = trio.current_time()
            messages = self.messages

    async def _wait_for_rest(self, began: float) -> None:
        """Wait for more of a hello or of a frame, but not for ever."""
        hello = self.client == ""
        seconds = self.limits.hello_seconds if hello else self.limits.frame_seconds
        with trio.move_on_at(began + seconds) as scope:
            await self.stream.readable()
        if scope.cancelled_caught:
            what = "no hello came" if hello else "a frame was left unfinished"
            raise WireError(f"{what} within {seconds:g} seconds")

    async def _keep_pace(self, pace: Pace) -> bool:
        """Wait, where the client has said more than it may in that time; whether that took any."""
        frames, self._turn_frames = self._turn_frames, 0
        byte_count, self._turn_bytes = self._turn_bytes, 0
        pause = pace.pause(frames, byte_count, trio.current_time())
        if not pause:
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(pause) as waiting:
            await self.stream.ended()
        if not waiting.cancelled_caught:
            # It cannot say more than its socket holds, and those who deal with it shall learn at once that it is gone.
            self._pace = None
        return True

    async def _receive(self) -> bool:
        """Take what has arrived and dispatch it; False at the end of the stream. Others get their turn in between."""
        frames = 0
        dispatch = self._dispatch.message
        if self.stream.lossy_bytes:
            self._dispatch.lossy(self.stream.take_lossy())
        for _ in range(READS_PER_TURN if self._pace is None else 1):
            data = self.stream.take()
            if data is None:
                return True
            if not data:
                return False
            self._turn_bytes += len(data)
            for message in self._decoder.feed(data):
                self.messages += 1
                self._turn_frames += 1
                dispatch(message)
                if self._farewell is not None:
                    return False
                frames += 1
                if frames == FRAMES_PER_TURN:
                    frames = 0
                    self.server.pump()
                    await trio.lowlevel.checkpoint()
            if len(data) < RECEIVE_BYTES:
                return True
        return True

    def require_role_on(self, role: Role, machine: Machine) -> None:
        """Refuse what this client may not be of a machine."""
        if not self.server.access.allows(self.identity, role, machine.name):
            where = f"[machines.{machine.name}.access] {role.value}"
            text = f"{self.identity} may not be a {role.value} of {machine}; {where} in the configuration names who may"
            raise Refused(NtStatus.ACCESS_DENIED, text)

    def settle(self, msgid: int, pending: Pending) -> bool:
        """A request has its end; False when it had one before, and its msgid may stand for another by now."""
        if self.pending.get(msgid) is not pending:
            return False
        del self.pending[msgid]
        return True

    # ---- writing

    async def _write(self) -> None:
        while True:
            await self.stream.writable()
            self.server.mark_dirty(self)
            self.server.pump()

    def put(self, frame: bytes) -> None:
        """Queue a frame for the client; it leaves with the next pump."""
        if self.is_open:
            self.stream.put(frame)
            self.server.mark_dirty(self)
            self._end_if_overflowed()

    def put_with_descriptor(self, frame: bytes, descriptor: int, *, then_close: bool = False) -> None:
        """Queue a frame that carries a copy of a descriptor.

        It must stay open as long as this session, or, with ``then_close``, is closed here when it has been passed.
        """
        if self.is_open:
            self.stream.put_with_descriptor(frame, descriptor, then_close=then_close)
            self.server.mark_dirty(self)
            self._end_if_overflowed()
        elif then_close:
            os.close(descriptor)

    def mark_ready(self, source: Drainable) -> None:
        """A channel end has a reason to look at its ring, or an address a datagram."""
        if self.is_open:
            self._ready.add(source)
            self.server.mark_dirty(self)

    def pump(self) -> None:
        """One turn: drain ready channels while the outbox has room, then write."""
        if self._ready.drain():
            self.server.mark_dirty(self)
        self.stream.flush()
        if self.stream.queued_bytes and not self._has_writer and self._nursery is not None:
            # Most clients never let their socket fill, and need no task that waits for room.
            self._has_writer = True
            self._nursery.start_soon(self._write)
        if self.stream.failure:
            self.end(NtStatus.INSUFFICIENT_RESOURCES, f"nothing can be sent any more: {self.stream.failure}")

    def _end_if_overflowed(self) -> None:
        if self.stream.overflowed:
            self.end(NtStatus.INSUFFICIENT_RESOURCES, "the client does not read its socket, and its outbox is full")

"""A machine's TDI transport brought to life: effects performed, sockets read, deadlines kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import trio

from emulator.config import Config, MachineConfig
from emulator.daemon.filters import Filters
from emulator.daemon.handler_answers import HandlerAnswers
from emulator.daemon.interfaces import broadcast_addresses
from emulator.daemon.log import logger
from emulator.daemon.poller import Pump, Start
from emulator.daemon.quotas import Quotas
from emulator.daemon.tcp import TcpStreams
from emulator.daemon.transport_owners import ConnectionOwner, Outside, Owner, Waiter
from emulator.daemon.udp import status_of
from emulator.daemon.udp_sockets import UdpSockets
from emulator.daemon.violations import Repeats, is_told
from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import FileKind, ShareAccess
from emulator.tdi.create import FILE_KINDS, CreateRequest
from emulator.tdi.effects import (
    AcceptStreams,
    Ask,
    BindSocket,
    BindStream,
    CleanupComplete,
    CloseSocket,
    CloseStream,
    Complete,
    ConnectStream,
    DeadlineChanged,
    Deliver,
    Effect,
    JoinForRequest,
    JoinGroup,
    LeaveGroup,
    ReleaseHosts,
    SendOutside,
    StreamChanged,
    Tell,
    Transmit,
    Violation,
)
from emulator.tdi.groups import SendOptions
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.profile import Profile
from emulator.tdi.segment import SegmentPort
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import OpenOutcome, Transport

FILETIME_OF_1970 = 116_444_736_000_000_000


class Datagrams:
    """One machine's transport and the real sockets behind it."""

    def __init__(
        self,
        machine: str,
        config: Config,
        settings: MachineConfig,
        ports: Mapping[str, SegmentPort],
        started_unix_seconds: float,
    ) -> None:
        profile = Profile(
            udp=config.udp_profile(settings),
            tcp=config.tcp_profile(settings),
            handler_timeout_seconds=config.limits.handler_seconds,
        )
        start = int(started_unix_seconds * 10_000_000) + FILETIME_OF_1970
        own, reachable = config.bindable(settings), config.reachable(settings)
        self._transport = Transport(machine, profile, ports, own, reachable, start)
        self._transport.know_broadcasts(broadcast_addresses(own))
        self._sockets = UdpSockets(self._transport, config.udp.receive_buffer_bytes, self._guarded, self._start)
        self._streams = TcpStreams(self._transport.tcp, self._guarded, self._start)
        self._ports = tuple(ports.values())
        self._cleaning: dict[int, Callable[[], None]] = {}
        self._to_close: set[int] = set()
        self._running: Start | None = None
        self._not_running: list[Callable[[Pump], Awaitable[None]]] = []
        self._deadline_changed: trio.Event | None = None
        self._open = True
        self._log = logger().bind(machine=machine)
        self.fault: Callable[[Exception], None] = self._raise
        self.outside: Outside | None = None
        self.quotas: Quotas | None = None
        self.filters = Filters(self, self._transport, config.limits)
        self.handlers = HandlerAnswers(self._transport, self._perform, self.look_at_deadlines)
        self.violations = 0
        self._violations_by_rule = Repeats()

    def look_at_deadlines(self) -> None:
        """There may be a nearer deadline than the one waited for."""
        if self._deadline_changed is None:
            self._deadline_changed = trio.Event()
            self._start(self._keep_deadlines)
        self._deadline_changed.set()

    @staticmethod
    def _raise(error: Exception) -> None:
        raise error

    # ---- requests

    def open(self, network: str, local: SocketAddress, share: ShareAccess, owner: Owner) -> OpenOutcome:
        """Open an address object; raises Refused."""
        self._check_quota(FileKind.ADDRESS)
        return self._settle(self._transport.open_address(network, local, share, owner))

    def create(self, network: str, attributes: bytes, share: ShareAccess, owner: Owner, arch: Arch) -> OpenOutcome:
        """Open what an attribute list asks for; raises Refused. Windows: IRP_MJ_CREATE."""
        pointer_bytes = arch.pointer_bytes
        if self.quotas is not None:
            self._check_quota(FILE_KINDS[type(self.what_to_create(network, attributes, arch))])
        return self._settle(self._transport.create(network, attributes, share, owner, pointer_bytes=pointer_bytes))

    def what_to_create(self, network: str, attributes: bytes, arch: Arch) -> CreateRequest:
        """What an attribute list asks for, with nothing opened; raises Refused."""
        return self._transport.what_to_create(network, attributes, arch.pointer_bytes)

    def open_connection(self, network: str, context: bytes, owner: ConnectionOwner) -> OpenOutcome:
        """Open a connection endpoint; raises Refused."""
        self._check_quota(FileKind.CONNECTION)
        return self._settle(self._transport.open_connection(network, context, owner))

    def _check_quota(self, kind: FileKind) -> None:
        if self.quotas is not None and self.quotas.limits_files(kind):
            self.quotas.check_files(kind, self._transport.open_files(kind))

    def _settle(self, outcome: OpenOutcome) -> OpenOutcome:
        """Give an open the socket it waits for."""
        if outcome.status is NtStatus.PENDING:
            (effect,) = outcome.effects
            if not isinstance(effect, BindSocket | BindStream):
                raise Misuse(f"an open that waits asks for a socket, not for {effect}")
            outcome = self._bind(effect) if isinstance(effect, BindSocket) else self._bind_stream(effect)
        elif outcome.status is NtStatus.SUCCESS:
            self._sockets.hear(*self._transport.broadcasts_unheard(outcome.handle))
        if outcome.status is not NtStatus.SUCCESS:
            raise Refused(outcome.status, outcome.message, rule=outcome.rule)
        return outcome

    def _bind(self, wanted: BindSocket) -> OpenOutcome:
        try:
            local = self._sockets.bind(wanted)
        except OSError as error:
            return self._transport.socket_failed(wanted.key, status_of(error), error.strerror or str(error))
        return self._transport.socket_bound(wanted.key, local)

    def _bind_stream(self, wanted: BindStream) -> OpenOutcome:
        try:
            local = self._streams.bind(wanted)
        except OSError as error:
            return self._transport.stream_failed(wanted.key, status_of(error), error.strerror or str(error))
        return self._transport.stream_bound(wanted.key, local)

    def submit(self, irp: Irp) -> None:
        """Submit any request; its context learns how it ended, perhaps before this returns. Filters see it first."""
        if not self.filters.take(irp):
            self.submit_below(irp)

    def submit_below(self, irp: Irp) -> None:
        """Submit a request that no filter has, or every filter has let pass."""
        self._perform(self._transport.submit(irp, trio.current_time()))
        self.look_at_deadlines()

    def send_burst(self, handle: int, destination: SocketAddress, lengths: Sequence[int], data: bytes) -> int:
        """Send as many as can leave at once of datagrams that stand back to back in ``data``; how many did.

        The others have to be submitted one by one, and would have been refused or have to wait.
        """
        way = self._transport.burst_way(handle, destination, lengths)
        if way is None or self.filters.on(self._transport.file(handle).network):
            return 0
        if way.key:
            count, byte_count, effects = self._sockets.send_burst(way, lengths, data)
            self._transport.count_burst(handle, count, byte_count)
        else:
            count = len(lengths)
            ends = list(accumulate(lengths))
            datagrams = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
            effects = self._transport.carry_burst(handle, way, datagrams, trio.current_time())
        self._perform(effects)
        return count

    def _join_for(self, asked: JoinForRequest) -> list[Effect]:
        """A request needs a group of the host's."""
        try:
            self._sockets.join(asked.join)
        except OSError as error:
            text = f"the host does not let {asked.join.group} be joined on {asked.join.interface}: {error.strerror}"
            return self._transport.group_answered(asked, status_of(error), text)
        return self._transport.group_answered(asked, NtStatus.SUCCESS)

    def options(self, handle: int) -> SendOptions:
        """How an address object's datagrams leave."""
        return self._transport.options(handle)

    def cancel(self, irp: Irp) -> None:
        """Windows: IoCancelIrp."""
        if self.filters.cancel(irp):
            return
        self._perform(self._transport.cancel(irp, trio.current_time()))

    def open_control(self, network: str) -> int:
        """The handle of a control channel, for whoever closes it; raises Refused."""
        return self._settle(self._transport.open_control(network, self)).handle

    def kind_of(self, handle: int) -> FileKind:
        """Which of the three kinds of file a handle stands for; raises Refused. Windows: FsContext2."""
        return self._transport.file(handle).kind

    def cleanup(self, handle: int, then: Callable[[], None]) -> None:
        """The last use of a handle is over; ``then`` is called when all its requests are. Windows: IRP_MJ_CLEANUP.

        Raises Refused for a handle that is not open, or was cleaned up before.
        """
        if not self._transport.file(handle).closing:
            self.filters.cleanup(handle)
        effects = self._transport.cleanup(handle, trio.current_time())
        self._cleaning[handle] = then
        self._perform(effects)
        self.look_at_deadlines()

    def close(self, handle: int) -> None:
        """Close a handle, cleaned up before or not, as soon as its cleanup is complete. Windows: IRP_MJ_CLOSE.

        What it still had to send completes with CANCELLED, or is sent first where the profile says so.
        """
        if not self._transport.file(handle).closing:
            self.cleanup(handle, lambda: None)
        if handle in self._cleaning:
            self._to_close.add(handle)
        else:
            self._perform(self._transport.close(handle))

    def _cleaned(self, handle: int) -> None:
        then = self._cleaning.pop(handle, None)
        if then is not None:
            then()
        if handle in self._to_close:
            self._to_close.remove(handle)
            self._perform(self._transport.close(handle))

    def close_all(self) -> None:
        """The machine ends."""
        if self._open:
            self._open = False
            self.filters.close_all()
            self._perform(self._transport.shutdown(trio.current_time()))
            self._sockets.close_all()
            self._streams.close_all()

    # ---- effects

    def complete(self, effect: Complete) -> None:
        """A request has its end outside the transport."""
        self._perform([effect])

    def _perform(self, effects: Iterable[Effect]) -> None:
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Complete(irp=irp):
                    cast(Waiter, irp.context).finish(effect)
                case Deliver(owner=owner, source=source, data=data, flags=flags):
                    cast(Owner, owner).deliver(source, flags, data)
                case Ask(owner=owner):
                    pending += cast(Owner, owner).ask(effect)
                case Tell(owner=owner):
                    cast(Owner, owner).tell(effect)
                case Violation():
                    self._violated(effect)
                case Transmit(key=key):
                    pending += self._sockets.transmit(key)
                case CloseSocket(key=key):
                    self._sockets.close(key)
                case ReleaseHosts():
                    self._sockets.release(effect)
                case LeaveGroup():
                    self._sockets.leave(effect)
                case SendOutside():
                    if self.outside is not None:
                        self.outside.send(effect)
                case AcceptStreams() | ConnectStream() | StreamChanged() | CloseStream():
                    pending += self._streams.perform(effect)
                case DeadlineChanged(owner=owner):
                    cast(ConnectionOwner, owner).deadline_changed()
                case CleanupComplete(handle=handle):
                    self._cleaned(handle)
                case BindSocket():
                    raise Misuse("a socket is bound while its open is answered, nowhere else")
                case JoinForRequest():
                    pending += self._join_for(effect)
                case JoinGroup():
                    raise Misuse("a group is joined while that is answered, nowhere else")
        if self.outside is not None:
            self.outside.sent_on(self._ports)

    def _violated(self, violation: Violation) -> None:
        """A client broke a rule of TDI, which it may do as often as it likes without filling the log."""
        self.violations += 1
        count = self._violations_by_rule.add(violation.rule)
        if is_told(count):
            about = {"client": str(violation.owner), "rule": violation.rule, "why": violation.message}
            self._log.warning("tdi.violation", **about, count=count)

    # ---- tasks

    def begin(self, start: Start) -> None:
        """The machine runs. Tasks are started when there is something to wait for, one for sockets of a kind, one for
        deadlines; a machine that uses no transport has none.
        """
        self._running = start
        for task in self._not_running:
            start(task)
        self._not_running.clear()

    def _start(self, task: Callable[[Pump], Awaitable[None]]) -> None:
        if self._running is not None:
            self._running(task)
        else:
            self._not_running.append(task)

    async def _keep_deadlines(self, pump: Pump) -> None:
        while True:
            self._deadline_changed = trio.Event()
            deadlines = self._transport.next_deadline(), self.filters.next_deadline()
            deadline = min((at for at in deadlines if at is not None), default=None)
            if deadline is None:
                await self._deadline_changed.wait()
                continue
            with trio.move_on_at(deadline):
                await self._deadline_changed.wait()
            self._guarded(self._expire)
            pump()

    def _expire(self) -> Iterable[Effect]:
        self.filters.expire(trio.current_time())
        return self._transport.expire(trio.current_time())

    def _guarded(self, work: Callable[[], Iterable[Effect]]) -> None:
        """Do what a task has found to do. A fault in the core ends this machine and nothing else."""
        try:
            self._perform(work())
        except Exception as error:  # noqa: BLE001 -- the machine is the unit of failure
            self.fault(error)

    def perform(self, effects: Iterable[Effect]) -> None:
        """Perform what a segment has for this machine, guarded as the machine's own tasks are."""
        self._guarded(lambda: effects)

    # ---- looking in

    @property
    def received(self) -> int:
        """Datagrams that have come in through real sockets."""
        return self._sockets.received

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows of it."""
        return {
            **self._sockets.describe(),
            **self._streams.describe(),
            "tdi_violations": self.violations,
            "filters_removed": self.filters.removed,
            **self._transport.receive_counts(),
        }

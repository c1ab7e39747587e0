"""A machine's TDI transport brought to life: effects performed, sockets read, deadlines kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import trio

from emulator.config import Config, MachineConfig
from emulator.daemon.log import logger
from emulator.daemon.udp import UdpSocket, status_of
from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import ReceiveFlags, ShareAccess
from emulator.tdi.effects import BindSocket, CleanupComplete, CloseSocket, Complete, Deliver, Effect, Transmit
from emulator.tdi.irp import Irp
from emulator.tdi.profile import Profile
from emulator.tdi.query import QueryResult
from emulator.tdi.segment import SegmentPort
from emulator.tdi.structures import SocketAddress
from emulator.tdi.transport import OpenOutcome, Transport

FILETIME_OF_1970 = 116_444_736_000_000_000


class Owner(Protocol):
    """Whoever opened an address: it gets the datagrams for it."""

    def deliver(self, source: SocketAddress, flags: ReceiveFlags, data: bytes) -> None:
        """One datagram arrived."""


class Waiter(Protocol):
    """The context of a request: it gets the completion."""

    def finish(self, complete: Complete) -> None:
        """The request is over."""


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
        profile = Profile(udp=config.udp_profile(settings))
        start = int(started_unix_seconds * 10_000_000) + FILETIME_OF_1970
        self._transport = Transport(machine, profile, ports, config.udp.bind, config.udp.reach, start)
        self._sockets: dict[int, UdpSocket] = {}
        self._nursery: trio.Nursery | None = None
        self._pump: Callable[[], None] = lambda: None
        self._deadline_changed = trio.Event()
        self._open = True
        self._log = logger().bind(machine=machine)
        self.fault: Callable[[Exception], None] = self._raise
        self.received = 0

    @staticmethod
    def _raise(error: Exception) -> None:
        raise error

    # ---- requests

    def open(self, network: str, local: SocketAddress, share: ShareAccess, owner: Owner) -> OpenOutcome:
        """Open an address object; raises Refused."""
        outcome = self._transport.open_address(network, local, share, owner)
        if outcome.status is NtStatus.PENDING:
            (effect,) = outcome.effects
            if not isinstance(effect, BindSocket):
                raise Misuse(f"an open that waits asks for a socket, not for {effect}")
            outcome = self._bind(effect)
        if outcome.status is not NtStatus.SUCCESS:
            raise Refused(outcome.status, outcome.message, rule=outcome.rule)
        return outcome

    def _bind(self, wanted: BindSocket) -> OpenOutcome:
        try:
            opened = UdpSocket(wanted.key, wanted.local)
        except OSError as error:
            return self._transport.socket_failed(wanted.key, status_of(error), error.strerror or str(error))
        self._sockets[wanted.key] = opened
        if self._nursery is not None:
            self._nursery.start_soon(self._read, opened)
        return self._transport.socket_bound(wanted.key, opened.local)

    def send(self, irp: Irp) -> None:
        """Submit a TDI_SEND_DATAGRAM; its context learns how it ended, perhaps before this returns."""
        self._perform(self._transport.send_datagram(irp, trio.current_time()))
        self._deadline_changed.set()

    def cancel(self, irp: Irp) -> None:
        """Windows: IoCancelIrp."""
        self._perform(self._transport.cancel(irp))

    def query(self, handle: int, query_type: int, buffer_bytes: int) -> QueryResult:
        """TDI_QUERY_INFORMATION on an address object."""
        return self._transport.query(handle, query_type, buffer_bytes)

    def query_network(self, network: str, query_type: int, buffer_bytes: int) -> QueryResult:
        """TDI_QUERY_INFORMATION on a control channel, opened for the purpose."""
        control = self._transport.open_control(network, self)
        if control.status is not NtStatus.SUCCESS:
            raise Refused(control.status, control.message, rule=control.rule)
        try:
            return self._transport.query(control.handle, query_type, buffer_bytes)
        finally:
            self.close(control.handle)

    def close(self, handle: int) -> None:
        """Clean an address object up and close it; what it still had to send completes with CANCELLED."""
        self._perform(self._transport.cleanup(handle, trio.current_time()))
        self._perform(self._transport.close(handle))

    def close_all(self) -> None:
        """The machine ends."""
        if self._open:
            self._open = False
            self._perform(self._transport.shutdown(trio.current_time()))
            for key in list(self._sockets):
                self._close_socket(key)

    # ---- effects

    def _perform(self, effects: Iterable[Effect]) -> None:
        pending = list(effects)
        while pending:
            effect = pending.pop(0)
            match effect:
                case Complete(irp=irp):
                    cast(Waiter, irp.context).finish(effect)
                case Deliver(owner=owner, source=source, data=data, flags=flags):
                    cast(Owner, owner).deliver(source, flags, data)
                case Transmit(key=key):
                    pending += self._transmit(key)
                case CloseSocket(key=key):
                    self._close_socket(key)
                case CleanupComplete():
                    pass
                case BindSocket():
                    raise Misuse("a socket is bound while its open is answered, nowhere else")

    def _transmit(self, key: int) -> list[Effect]:
        """Send what a socket's queue holds, as far as the socket takes it."""
        effects: list[Effect] = []
        opened = self._sockets.get(key)
        while opened is not None and not opened.waits_to_write:
            head = self._transport.next_transmit(key)
            if head is None:
                break
            status, message = NtStatus.SUCCESS, ""
            try:
                if not opened.send(head.data, head.destination):
                    opened.waits_to_write = True
                    if self._nursery is not None:
                        self._nursery.start_soon(self._write_later, opened)
                    break
            except OSError as error:
                status, message = status_of(error), f"the host refused it: {error.strerror}"
            effects += self._transport.transmitted(key, head.token, status, message)
        return effects

    def _close_socket(self, key: int) -> None:
        closed = self._sockets.pop(key, None)
        if closed is not None:
            trio.lowlevel.notify_closing(closed.socket)
            closed.close()

    # ---- tasks

    async def run(
        self, pump: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The machine's tasks: one for each socket, one for deadlines. ``pump`` sends on what they brought."""
        self._pump = pump
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_deadlines)
            task_status.started()

    async def _read(self, opened: UdpSocket) -> None:
        while self._sockets.get(opened.key) is opened:
            try:
                await trio.lowlevel.wait_readable(opened.socket)
            except (trio.ClosedResourceError, ValueError):
                return
            arrived = opened.receive()
            self.received += len(arrived)
            now = trio.current_time()
            self._guarded(
                effect
                for source, data in arrived
                for effect in self._transport.datagram_arrived(opened.key, source, None, data, now)
            )

    async def _write_later(self, opened: UdpSocket) -> None:
        try:
            await trio.lowlevel.wait_writable(opened.socket)
        except (trio.ClosedResourceError, ValueError):
            return
        opened.waits_to_write = False
        self._guarded([Transmit(opened.key)])

    async def _keep_deadlines(self) -> None:
        while True:
            self._deadline_changed = trio.Event()
            deadline = self._transport.next_deadline()
            if deadline is None:
                await self._deadline_changed.wait()
                continue
            with trio.move_on_at(deadline):
                await self._deadline_changed.wait()
            self._guarded(self._transport.expire(trio.current_time()))

    def _guarded(self, effects: Iterable[Effect]) -> None:
        """Perform what a task brought. A fault in the core ends this machine and nothing else."""
        try:
            self._perform(effects)
        except Exception as error:  # noqa: BLE001 -- the machine is the unit of failure
            self.fault(error)
        self._pump()

    # ---- looking in

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl machines`` shows of it."""
        return {"udp_sockets": len(self._sockets), "datagrams_received": self.received}

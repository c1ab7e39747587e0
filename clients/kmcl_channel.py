"""What stands behind KMCL's channel handle: the channel of the client library, a driver's callbacks, its tasks.

The functions with Windows names are in ``kmcl_init``, ``kmcl_life`` and ``kmcl_gpadl``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from clients.calls import ConnectionLost
from clients.driver import ChannelCallbacks
from clients.kmcl_callbacks import (
    EVT_VMB_CHANNEL_PNP_FAILURE,
    EVT_VMB_CHANNEL_PROCESS_PACKET,
    EVT_VMB_CHANNEL_PROCESSING_COMPLETE,
)
from clients.kmcl_calls import call_back
from clients.kmcl_packet import Ends
from clients.kmcl_receive import Receiving
from clients.kmcl_types import VMB_CHANNEL_STATE_CHANGE_CALLBACKS
from emulator.status import NtStatus
from emulator.vmbus.profile import ChannelProfile, Side

if TYPE_CHECKING:
    from clients.driver_channel import DriverChannel
    from clients.vmbus import Machine


class WDFDEVICE:
    """The device a driver runs for: a machine, and how its channels work their rings ("hosted" or "direct")."""

    def __init__(self, machine: Machine, *, mode: str = "hosted") -> None:
        self.machine = machine
        self.mode = mode


class KERNEL_HANDLE:
    """A kernel handle of a virtual machine's bus. ``ZwClose`` ends it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.is_open = True


class VMBCHANNEL:
    """A channel's handle. Its attributes belong to the functions below; a driver's own go through its pointer."""

    def __init__(self, device: WDFDEVICE, is_server: bool) -> None:
        self.device = device
        self.is_server = is_server
        self.pointer: object = None
        self.state_callbacks = VMB_CHANNEL_STATE_CHANGE_CALLBACKS()
        self.process_packet: EVT_VMB_CHANNEL_PROCESS_PACKET | None = None
        self.processing_complete: EVT_VMB_CHANNEL_PROCESSING_COMPLETE | None = None
        self.pnp_failure: EVT_VMB_CHANNEL_PNP_FAILURE | None = None
        self.passive_only = False
        self.is_disposed = False
        self.driver: DriverChannel = self._make(device.machine)
        self.receiving = Receiving(self)
        self._due: deque[Callable[[], Awaitable[object]]] = deque()
        self._is_due = trio.Event()
        self._scopes: set[trio.CancelScope] = set()
        self.start_task(self._work)
        self.ends = Ends(self)

    def _make(self, machine: Machine) -> DriverChannel:
        callbacks = ChannelCallbacks(
            opened=self._opened,
            closed=_StateCallback(self, "EvtChannelClosed"),
            started=_StateCallback(self, "EvtChannelStarted"),
            post_started=_StateCallback(self, "EvtChannelPostStarted"),
            suspend=self._suspended,
            pnp_failure=self._could_not_open,
        )
        self._machine = machine
        side = Side.HOST if self.is_server else Side.GUEST
        return machine.allocate_channel(side, callbacks=callbacks, mode=self.device.mode)

    def move_to(self, machine: Machine) -> None:
        """Be a channel of another machine, with everything that was set so far."""
        values = self.driver.setup.values
        self.driver = self._make(machine)
        self.driver.setup.values = values

    @property
    def profile(self) -> ChannelProfile:
        """What its machine chose where the documents are silent."""
        return self._machine.connection.protocol.profile_of(self._machine.number)

    # ---- callbacks

    async def _opened(self, _: object) -> NtStatus:
        if self.state_callbacks.EvtChannelOpened is None:
            return NtStatus.SUCCESS
        status: NtStatus = await call_back(self.state_callbacks.EvtChannelOpened, self)
        return status

    async def changed(self, callback: Callable[[VMBCHANNEL], Any] | None) -> None:
        """Run a state callback that returns nothing, if there is one."""
        if callback is not None:
            await call_back(callback, self)

    async def _suspended(self, _: object) -> None:
        await self.receiving.quiet()
        await self.changed(self.state_callbacks.EvtChannelSuspend)

    async def _could_not_open(self, _: object, status: NtStatus) -> None:
        if self.pnp_failure is not None:
            await call_back(self.pnp_failure, self, status)

    # ---- work of its own

    def start_task(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run something beside the driver, until the connection ends or the channel is cleaned up."""
        nursery = self.device.machine.connection.nursery
        assert nursery is not None, "a connection has its nursery while it is open"
        nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            # A daemon that is gone calls no driver any more; packets end by themselves.
            with suppress(ConnectionLost):
                if not self.is_disposed:
                    await task()
        self._scopes.discard(scope)

    def do_later(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do something that waits on behalf of a call that does not, in the order of the calls."""
        self._due.append(work)
        self._is_due.set()

    async def _work(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due = trio.Event()
            while self._due:
                await self._due.popleft()()

    def dispose(self) -> None:
        """Its tasks end."""
        self.is_disposed = True
        for scope in self._scopes:
            scope.cancel()


class _StateCallback:
    """One of a driver's state callbacks, as the client library calls it."""

    def __init__(self, channel: VMBCHANNEL, name: str) -> None:
        self._channel = channel
        self._name = name

    def __call__(self, _: object) -> Awaitable[None]:
        return self._channel.changed(getattr(self._channel.state_callbacks, self._name))

    @property
    def __code__(self) -> object:
        """Where the driver's own callback is, for the verifier."""
        return getattr(getattr(self._channel.state_callbacks, self._name), "__code__", None)

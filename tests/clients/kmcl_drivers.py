"""Two small drivers written with ``clients.kmcl``, a client and a server, which record what KMCL does to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from clients import connect
from clients.kmcl import (
    NT_SUCCESS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT,
    VMBCHANNEL,
    VMBPACKET,
    VMBPACKETCOMPLETION,
    VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION,
    WDFDEVICE,
    LastRefusal,
    Out,
    VmbChannelAllocate,
    VmbChannelEnable,
    VmbChannelInitSetProcessPacketCallbacks,
    VmbChannelInitSetStateChangeCallbacks,
    VmbChannelPacketComplete,
    VmbChannelStart,
    VmbClientChannelInitSetTargetPnp,
    VmbPacketAllocate,
    VmbPacketSetCompletionRoutine,
    VmbServerChannelInitSetTargetInterfaceId,
)
from emulator.config import Config
from emulator.daemon.server import Server
from emulator.status import NtStatus
from tests.daemon.raw import served

TYPE = UUID("5b1c1a70-7d15-4b6f-8f6e-1d3c5a7e9b01")
INSTANCE = UUID("5b1c1a70-7d15-4b6f-8f6e-1d3c5a7e9b02")
WAIT = VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION
PATIENCE_SECONDS = 20.0
MODES = [(guest, host) for guest in ("hosted", "direct") for host in ("hosted", "direct")]


def good(status: NtStatus) -> None:
    """A status that has to be a success."""
    assert NT_SUCCESS(status), LastRefusal()


class Driver:
    """What one driver was called with, in order, and what it does then."""

    def __init__(self, device: WDFDEVICE, *, is_server: bool) -> None:
        self.device = device
        self.is_server = is_server
        self.calls: list[Any] = []
        self.packets: list[tuple[VMBPACKETCOMPLETION, bytes, int]] = []
        self.batches: list[int] = []
        self.ends: list[tuple[NtStatus, bytes | None]] = []
        self.ended: list[VMBPACKET] = []
        self.opened_status = NtStatus.SUCCESS
        self.answer: Callable[[VMBPACKETCOMPLETION, bytes, int], Any] | None = self.echo
        self.callbacks = VMB_CHANNEL_STATE_CHANGE_CALLBACKS()
        VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT(self.callbacks)
        self.callbacks.EvtChannelOpened = self._opened
        self.callbacks.EvtChannelClosed = lambda channel: self._called("closed")
        self.callbacks.EvtChannelStarted = lambda channel: self._called("started")
        self.callbacks.EvtChannelPostStarted = lambda channel: self._called("post started")
        self.callbacks.EvtChannelSuspend = lambda channel: self._called("suspend")
        self._changed = trio.Event()
        allocated: Out[VMBCHANNEL] = Out()
        good(VmbChannelAllocate(device, is_server, allocated))
        self.channel = allocated.value

    # ---- what it is called with

    def _called(self, what: Any) -> None:
        self.calls.append(what)
        self._changed.set()

    def _opened(self, channel: VMBCHANNEL) -> NtStatus:
        self._called("opened")
        return self.opened_status

    def _pnp_failure(self, channel: VMBCHANNEL, status: NtStatus) -> None:
        self._called(("pnp failure", status))

    def _packet(
        self, channel: VMBCHANNEL, packet: VMBPACKETCOMPLETION, buffer: bytes, buffer_length: int, flags: int
    ) -> Any:
        assert channel is self.channel
        assert len(buffer) == buffer_length
        self.packets.append((packet, buffer, flags))
        self._changed.set()
        return None if self.answer is None else self.answer(packet, buffer, flags)

    def _batch(self, channel: VMBCHANNEL, packets_processed: int) -> None:
        self.batches.append(packets_processed)
        self._changed.set()

    @staticmethod
    def echo(packet: VMBPACKETCOMPLETION, buffer: bytes, flags: int) -> None:
        VmbChannelPacketComplete(packet, buffer, len(buffer))

    def hear(self, packet: VMBPACKET, status: NtStatus, buffer: bytes | None, buffer_length: int) -> None:
        """A completion routine."""
        assert len(buffer or b"") == buffer_length
        self.ends.append((status, buffer))
        self.ended.append(packet)
        self._changed.set()

    # ---- what it does

    def initialise(self, instance: UUID | None = INSTANCE) -> None:
        """What every driver says before it enables its channel."""
        good(VmbChannelInitSetProcessPacketCallbacks(self.channel, self._packet, self._batch))
        good(VmbChannelInitSetStateChangeCallbacks(self.channel, self.callbacks))
        if self.is_server:
            good(VmbServerChannelInitSetTargetInterfaceId(self.channel, TYPE, instance or INSTANCE))
        else:
            good(VmbClientChannelInitSetTargetPnp(self.channel, TYPE, instance, self._pnp_failure))

    async def enable(self) -> None:
        """Enable and, for a server, start."""
        good(await VmbChannelEnable(self.channel))
        if self.is_server:
            await VmbChannelStart(self.channel)

    def packet(self) -> VMBPACKET:
        """A packet whose end it hears."""
        packet = VmbPacketAllocate(self.channel)
        assert packet is not None
        VmbPacketSetCompletionRoutine(packet, self.hear)
        return packet

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when something is so."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not condition():
                self._changed = trio.Event()
                await self._changed.wait()

    async def called(self, *what: Any) -> None:
        """Return when it was called so, in this order and with nothing else; then forget it."""
        await self.until(lambda: len(self.calls) >= len(what))
        assert self.calls == list(what)
        self.calls.clear()


class Pair:
    """A client and a server of one machine, and the daemon between them."""

    def __init__(self, server_process: Server, client: Driver, server: Driver) -> None:
        self.daemon = server_process
        self.client = client
        self.server = server

    async def open(self) -> None:
        """Both are initialised, enabled and active."""
        for driver in (self.server, self.client):
            if not driver.channel.driver.setup.values.interface:
                driver.initialise()
        await self.server.enable()
        await self.client.enable()
        await self.client.called("opened", "started", "post started")
        await self.server.called("opened", "started", "post started")


@asynccontextmanager
async def drivers(
    tmp_path: Path, modes: tuple[str, str] = ("hosted", "hosted"), config: Config | None = None
) -> AsyncIterator[Pair]:
    """A daemon in this process, and two drivers whose channels are allocated and nothing else; ``modes`` are theirs."""
    async with served(tmp_path, config) as (process, path), connect(path) as one, connect(path) as two:
        client = Driver(WDFDEVICE(await one.machine("vm1"), mode=modes[0]), is_server=False)
        server = Driver(WDFDEVICE(await two.machine("vm1"), mode=modes[1]), is_server=True)
        yield Pair(process, client, server)

"""Driver channels: the trio face. KMCL's channel, whole: life cycle, callbacks, quota, page lists (GPADLs)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from clients.calls import Call, RequestFailed
from clients.driver import DriverPhase, DriverSend
from clients.driver_sends import Payload
from clients.driver_views import DriverChannelView, DriverPacketView
from clients.memory import Buffer
from clients.packet import Packet
from clients.requests import Completion
from emulator.memory import Mdl
from emulator.vmbus.send_rules import SendFlags

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.vmbus import Machine


class DriverPacket(Packet, DriverPacketView):
    """A packet that arrived on a driver channel. Exactly one of ``complete``, ``fail`` and ``defer`` follows."""

    async def complete(self, payload: bytes = b"") -> None:
        """Windows: VmbChannelPacketComplete (R3)."""
        self.complete_now(payload)
        await self._connection.drain()

    async def fail(self) -> None:
        """Windows: VmbChannelPacketFail. The channel delivers nothing more until closed and opened again (R4)."""
        self.fail_now()


class DriverChannel(DriverChannelView):
    """A channel with the life cycle of KMCL (4.3), of a guest or of a host. Iterate over it for packets.

    Made disabled by ``machine.allocate_channel``; ``setup`` takes the Init* values until ``enable``. A guest is active
    by enabling; a host starts paused and needs ``start``. Calls raise RequestFailed or Refused with the status.
    As a context manager it is disabled and cleaned up at the end; an exception gives up the packets that are held.
    """

    _connection: Connection
    _machine: Machine

    # ---- life cycle

    async def enable(self) -> None:
        """Host: offer it. Guest: take the offer, or wait for one. Returns at once. Windows: VmbChannelEnable."""
        allocate = self._core.allocate()
        if allocate is not None:
            await self._connection.finish(allocate)
        await self._connection.finish(self._core.enable())

    async def start(self) -> None:
        """Leave paused. Returns at once. Not from a state callback (refused). Windows: VmbChannelStart."""
        await self._connection.finish(self._core.start())

    async def pause(self, *, timeout_seconds: float | None = None) -> None:
        """Returns when paused, all packets taken here completed. Disabled: paused at enable. Windows: VmbChannelPause.

        A packet that is held and never completed is waited for, for ever without ``timeout_seconds``. With it,
        RequestFailed (IO_TIMEOUT) names what is held; the channel goes on pausing, and ``pause`` may be called again.
        """
        allocate = self._core.allocate()
        if allocate is not None:
            await self._connection.finish(allocate)
        await self._finish_in(timeout_seconds, self._core.pause(), "paused")

    async def disable(self, *, timeout_seconds: float | None = None) -> None:
        """Host: revoke it. Guest: close it. Returns when Closed has returned. Windows: VmbChannelDisable.

        It pauses first, and so waits for held packets as ``pause`` does; ``timeout_seconds`` is the same, too.
        """
        call = self._core.disable()
        if call is not None:
            await self._finish_in(timeout_seconds, call, "disabled")

    async def _finish_in(self, seconds: float | None, call: Call, what: str) -> None:
        try:
            with trio.fail_after(inf if seconds is None else seconds):
                await self._connection.finish(call)
        except trio.TooSlowError:
            raise self._state.not_in_time(seconds or 0.0, what) from None

    async def cleanup(self) -> None:
        """Dispose of it; refused unless disabled. Windows: VmbChannelCleanup."""
        call = self._core.cleanup()
        if call is not None:
            await self._connection.finish(call)

    async def until(self, phase: DriverPhase, *, active: bool | None = None) -> None:
        """Return when it is in this phase (and, if asked, active or paused). Raises RequestFailed when that is gone."""
        while self._state.phase is not phase or (active is not None and self._state.is_paused is active):
            if self._state.closed is not None:
                raise RequestFailed(*self._state.closed)
            await self._connection.wait_for(self._state)

    # ---- sending

    async def finish(self, sent: DriverSend) -> Completion:
        """Wait for the end of what ``submit`` returned; raises RequestFailed with the status it ended with.

        Cancelled meanwhile, the packet is cancelled (4.4).
        """
        self._core.check_wait(sent)
        await self._connection.finish(sent)
        return self._core.finished(sent)

    async def send(
        self, buffer: Payload, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit`` and ``finish``."""
        return await self.finish(self.submit(buffer, mdl, flags=flags))

    async def send_with_external_mdl(
        self,
        buffer: Payload,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> Completion:
        """``submit_with_external_mdl`` and ``finish``."""
        return await self.finish(self.submit_with_external_mdl(buffer, mdl, offset, length, flags))

    async def send_with_external_pfns(
        self, buffer: Payload, pfns: Sequence[int] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit_with_external_pfns`` and ``finish``."""
        return await self.finish(self.submit_with_external_pfns(buffer, pfns, flags))

    async def send_synchronous(
        self,
        buffer: Payload,
        mdl: Mdl | None = None,
        *,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
        completion_bytes: int = 0,
        timeout_seconds: float | None = None,
    ) -> Completion:
        """Windows: VmbChannelSendSynchronousRequest (Y1 to Y5). ``timeout_seconds`` None waits for ever.

        Returns the completion, cut to ``completion_bytes`` (its ``status`` is then BUFFER_OVERFLOW). Raises Refused for
        a call that is not allowed, RequestFailed: BUFFER_OVERFLOW for no room with time-out 0, CANCELLED when time runs
        out, DEVICE_REMOVED when the channel goes.
        """
        sent, seconds = self._core.submit_synchronous(buffer, mdl, flags, completion_bytes, timeout_seconds)
        try:
            with trio.fail_after(seconds):
                got = await self.finish(sent)
        except trio.TooSlowError:
            raise self._core.timed_out(seconds) from None
        except RequestFailed as error:
            raise self._core.synchronous_failure(error) from None
        return self._core.fitted(got, completion_bytes)

    # ---- receiving

    def __aiter__(self) -> DriverChannel:
        return self

    async def __anext__(self) -> DriverPacket:
        """The next packet, while active; ends when the channel is disabled."""
        while not self._state.can_take:
            if self._core.is_over:
                if self._connection.protocol.lost is not None:
                    raise self._connection.protocol.lost
                raise StopAsyncIteration
            await self._connection.wait_for(self._state)
        received = self._core.take()
        self._connection.flush()
        return DriverPacket(self._connection, self._machine, received, self._core)

    async def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be received and not completed (Q1-Q4). Windows: VmbChannelSetTransactionQuota."""
        call = self._core.set_quota(quota)
        if call is not None:
            await self._connection.finish(call)

    # ---- page lists, latency

    async def create_gpadl(
        self, memory: Mdl | Buffer, offset: int = 0, length: int = 0, *, read_only: bool = False
    ) -> int:
        """Describe guest memory to the host: its handle. Length 0 is up to the end.

        Windows: VmbChannelCreateGpadlFromMdl, VmbChannelCreateGpadlFromBuffer.
        """
        call = self._core.create_gpadl(memory, offset, length, read_only=read_only)
        (handle,) = await self._connection.finish(call)
        return int(handle)

    async def delete_gpadl(self, handle: int) -> None:
        """Returns when the host does not have it mapped (any more). Windows: VmbChannelDeleteGpadl."""
        await self._connection.finish(self._core.delete_gpadl(handle))

    async def map_gpadl(self, handle: int, *, read_only: bool = False) -> Mdl:
        """The memory of a guest's page list, on its host; one mapping at a time. Windows: VmbChannelMapGpadl."""
        return self._core.mapped(await self._connection.finish(self._core.map_gpadl(handle, read_only=read_only)))

    async def unmap_gpadl(self, handle: int) -> None:
        """Undo ``map_gpadl``. Windows: VmbChannelUnmapGpadl."""
        await self._connection.finish(self._core.unmap_gpadl(handle))

    async def set_interrupt_latency(self, latency: int) -> int:
        """In 100 ns; returns what it was. Guests, from Opened to Closed. Windows: VmbChannelSetInterruptLatency."""
        (before,) = await self._connection.finish(self._core.set_interrupt_latency(latency))
        return int(before)

    async def __aenter__(self) -> DriverChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._core.is_gone:
            return
        if kind is not None:
            self._core.give_up_taken()
        await self.disable()
        await self.cleanup()

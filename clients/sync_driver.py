"""Driver channels: the face without an event loop. KMCL's channel, whole: see the trio face."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING

from clients.calls import Call, RequestFailed
from clients.driver import DriverPhase, DriverSend
from clients.driver_sends import Payload
from clients.driver_views import DriverChannelView, DriverPacketView
from clients.memory import Buffer
from clients.requests import Completion
from clients.sync_vmbus import Packet
from emulator.memory import Mdl
from emulator.vmbus.send_rules import SendFlags

if TYPE_CHECKING:
    from clients.sync import Connection
    from clients.sync_vmbus import Machine


class DriverPacket(Packet, DriverPacketView):
    """A packet that arrived on a driver channel. Exactly one of ``complete``, ``fail`` and ``defer`` follows."""

    def complete(self, payload: bytes = b"") -> None:
        """Windows: VmbChannelPacketComplete (R3)."""
        self.complete_now(payload)

    def fail(self) -> None:
        """Windows: VmbChannelPacketFail. The channel delivers nothing more until closed and opened again (R4)."""
        self.fail_now()


class DriverChannel(DriverChannelView):
    """A channel with the life cycle of KMCL (4.3), of a guest or of a host. Iterate over it for packets.

    Made disabled by ``machine.allocate_channel``; ``setup`` takes the Init* values until ``enable``. A guest is active
    by enabling; a host starts paused and needs ``start``. Calls raise RequestFailed or Refused with the status.
    """

    _connection: Connection
    _machine: Machine

    # ---- life cycle

    def enable(self) -> None:
        """Host: offer it. Guest: take the offer, or wait for one. Returns at once. Windows: VmbChannelEnable."""
        allocate = self._core.allocate()
        if allocate is not None:
            self._connection.finish(allocate)
        self._connection.finish(self._core.enable())

    def start(self) -> None:
        """Leave paused. Returns at once. Not from a state callback (refused). Windows: VmbChannelStart."""
        self._connection.finish(self._core.start())

    def pause(self, *, timeout_seconds: float | None = None) -> None:
        """Returns when paused, all packets taken here completed. Disabled: paused at enable. Windows: VmbChannelPause.

        A packet that is held and never completed is waited for, for ever without ``timeout_seconds``. With it,
        RequestFailed (IO_TIMEOUT) names what is held; the channel goes on pausing, and ``pause`` may be called again.
        """
        allocate = self._core.allocate()
        if allocate is not None:
            self._connection.finish(allocate)
        self._finish_in(timeout_seconds, self._core.pause(), "paused")

    def disable(self, *, timeout_seconds: float | None = None) -> None:
        """Host: revoke it. Guest: close it. Returns when Closed has returned. Windows: VmbChannelDisable.

        It pauses first, and so waits for held packets as ``pause`` does; ``timeout_seconds`` is the same, too.
        """
        call = self._core.disable()
        if call is not None:
            self._finish_in(timeout_seconds, call, "disabled")

    def _finish_in(self, seconds: float | None, call: Call, what: str) -> None:
        if seconds is not None and not self._ends_in(seconds, call):
            raise self._state.not_in_time(seconds, what)
        self._connection.finish(call)

    def _ends_in(self, seconds: float, call: Call | DriverSend) -> bool:
        """Wait for the end of something, so long; else it is abandoned."""
        self._connection.flush()
        deadline = time.monotonic() + seconds
        while not call.done and (left := deadline - time.monotonic()) > 0:
            self._connection.wait(left if left < inf else None)
        if call.done:
            return True
        self._connection.protocol.abandon(call)
        self._connection.flush()
        return False

    def cleanup(self) -> None:
        """Dispose of it; refused unless disabled. Windows: VmbChannelCleanup."""
        call = self._core.cleanup()
        if call is not None:
            self._connection.finish(call)

    def until(self, phase: DriverPhase, *, active: bool | None = None) -> None:
        """Return when it is in this phase (and, if asked, active or paused). Raises RequestFailed when that is gone."""
        while self._state.phase is not phase or (active is not None and self._state.is_paused is active):
            if self._state.closed is not None:
                raise RequestFailed(*self._state.closed)
            self._connection.wait()

    # ---- sending

    def finish(self, sent: DriverSend) -> Completion:
        """Wait for the end of what ``submit`` returned; raises RequestFailed with the status it ended with.

        Interrupted meanwhile, the packet is cancelled (4.4).
        """
        self._core.check_wait(sent)
        self._connection.finish(sent)
        return self._core.finished(sent)

    def send(
        self, buffer: Payload, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit`` and ``finish``."""
        return self.finish(self.submit(buffer, mdl, flags=flags))

    def send_with_external_mdl(
        self,
        buffer: Payload,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> Completion:
        """``submit_with_external_mdl`` and ``finish``."""
        return self.finish(self.submit_with_external_mdl(buffer, mdl, offset, length, flags))

    def send_with_external_pfns(
        self, buffer: Payload, pfns: Sequence[int] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit_with_external_pfns`` and ``finish``."""
        return self.finish(self.submit_with_external_pfns(buffer, pfns, flags))

    def send_synchronous(
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
        if not self._ends_in(seconds, sent):
            raise self._core.timed_out(seconds)
        try:
            got = self._core.finished(sent)
        except RequestFailed as error:
            raise self._core.synchronous_failure(error) from None
        return self._core.fitted(got, completion_bytes)

    # ---- receiving

    def __iter__(self) -> DriverChannel:
        return self

    def __next__(self) -> DriverPacket:
        """The next packet, while active; ends when the channel is disabled."""
        while not self._state.can_take:
            if self._core.is_over:
                if self._connection.protocol.lost is not None:
                    raise self._connection.protocol.lost
                raise StopIteration
            self._connection.wait()
        received = self._core.take()
        self._connection.flush()
        return DriverPacket(self._connection, self._machine, received, self._core)

    def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be received and not completed (Q1-Q4). Windows: VmbChannelSetTransactionQuota."""
        call = self._core.set_quota(quota)
        if call is not None:
            self._connection.finish(call)

    # ---- page lists, latency

    def create_gpadl(self, memory: Mdl | Buffer, offset: int = 0, length: int = 0, *, read_only: bool = False) -> int:
        """Describe guest memory to the host: its handle. Length 0 is up to the end.

        Windows: VmbChannelCreateGpadlFromMdl, VmbChannelCreateGpadlFromBuffer.
        """
        call = self._core.create_gpadl(memory, offset, length, read_only=read_only)
        (handle,) = self._connection.finish(call)
        return int(handle)

    def delete_gpadl(self, handle: int) -> None:
        """Returns when the host does not have it mapped (any more). Windows: VmbChannelDeleteGpadl."""
        self._connection.finish(self._core.delete_gpadl(handle))

    def map_gpadl(self, handle: int, *, read_only: bool = False) -> Mdl:
        """The memory of a guest's page list, on its host; one mapping at a time. Windows: VmbChannelMapGpadl."""
        return self._core.mapped(self._connection.finish(self._core.map_gpadl(handle, read_only=read_only)))

    def unmap_gpadl(self, handle: int) -> None:
        """Undo ``map_gpadl``. Windows: VmbChannelUnmapGpadl."""
        self._connection.finish(self._core.unmap_gpadl(handle))

    def set_interrupt_latency(self, latency: int) -> int:
        """In 100 ns; returns what it was. Guests, from Opened to Closed. Windows: VmbChannelSetInterruptLatency."""
        (before,) = self._connection.finish(self._core.set_interrupt_latency(latency))
        return int(before)

    def __enter__(self) -> DriverChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._core.is_gone:
            return
        if kind is not None:
            self._core.give_up_taken()
        self.disable()
        self.cleanup()

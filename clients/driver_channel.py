"""Driver channels: the trio face. KMCL's channel, whole: life cycle, callbacks, quota, page lists (GPADLs)."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING
from uuid import UUID

from clients.calls import LocalCall
from clients.driver import ChannelCallbacks, DriverPhase, DriverState
from clients.memory import Buffer
from clients.requests import Completion
from clients.vmbus import Packet
from emulator.memory import Mdl
from emulator.vmbus.channel_setup import ChannelSetup
from emulator.vmbus.profile import Side
from emulator.vmbus.send_rules import SendFlags

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.vmbus import Machine


class DriverPacket(Packet):
    """A packet that arrived on a driver channel. Exactly one of ``complete``, ``fail`` and ``defer`` follows."""

    @property
    def batch_packets(self) -> int:
        """Above 0 on the last packet of a batch: how many it had. Windows: EvtVmbChannelProcessingComplete (B1)."""
        raise NotImplementedError

    @property
    def is_deferred(self) -> bool:
        """Whether it was put back with ``defer``, and this is the second time."""
        raise NotImplementedError

    def external_mdl(self, *, read_only: bool = False) -> Mdl:
        """The guest memory it shows, an MDL for each range. Windows: VmbChannelPacketGetExternalData (R6, R7).

        Raises RequestFailed: with PENDING, take it as not delivered; it comes again when its pages are in.
        """
        raise NotImplementedError

    def defer(self) -> None:
        """Put it back; it comes again before any other. Windows: VmbChannelPacketDeferToPassive (R5)."""
        raise NotImplementedError


class DriverChannel:
    """A channel with the life cycle of KMCL (4.3), of a guest or of a host. Iterate over it for packets.

    Made disabled by ``machine.allocate_channel(side, callbacks=..., mode="hosted")``; ``setup`` takes the Init* values
    until ``enable``. A guest is active by enabling; a host starts paused and needs ``start``. Calls raise RequestFailed
    or Refused with the status.
    """

    def __init__(
        self, connection: Connection, machine: Machine, side: Side, callbacks: ChannelCallbacks, mode: str
    ) -> None:
        self.side = side
        self.setup = ChannelSetup(side)
        self.pointer: object = None  # Windows: VmbChannelSetPointer, VmbChannelGetPointer
        self._connection = connection
        self._machine = machine
        self._state = DriverState(self.setup, callbacks)
        self._mode = mode

    # ---- life cycle

    @property
    def phase(self) -> DriverPhase:
        """Disabled, enabled or open."""
        return self._state.phase

    @property
    def is_paused(self) -> bool:
        """Whether nothing is delivered before ``start``."""
        return self._state.is_paused

    @property
    def instance(self) -> UUID | None:
        """The instance id of the active offer. Windows: VmbChannelGetInterfaceInstance."""
        raise NotImplementedError

    @property
    def mmio_space(self) -> tuple[int, int]:
        """(address, bytes) reserved for it; once it is open. Windows: VmbChannelGetMmioSpace. Raises Refused."""
        raise NotImplementedError

    async def enable(self) -> None:
        """Host: offer it. Guest: take the offer, or wait for one. Returns at once. Windows: VmbChannelEnable."""
        raise NotImplementedError

    async def start(self) -> None:
        """Leave paused. Returns at once. Not from a state callback (refused). Windows: VmbChannelStart."""
        raise NotImplementedError

    async def pause(self) -> None:
        """Returns when paused, all received packets completed. Disabled: paused at enable. Windows: VmbChannelPause."""
        raise NotImplementedError

    async def disable(self) -> None:
        """Host: revoke it. Guest: close it. Returns when Closed has returned. Windows: VmbChannelDisable."""
        raise NotImplementedError

    async def cleanup(self) -> None:
        """Dispose of it; refused unless disabled. Windows: VmbChannelCleanup."""
        raise NotImplementedError

    async def until(self, phase: DriverPhase, *, active: bool | None = None) -> None:
        """Return when it is in this phase (and, if asked, active or paused)."""
        raise NotImplementedError

    # ---- sending

    def submit(self, buffer: bytes, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION) -> LocalCall:
        """Windows: VmbPacketSend. Checks the arguments now (raises Refused) and queues or sends; never waits.

        What is returned is ``done`` when the packet is complete; ``finish`` waits for that. Before the channel is open
        packets wait here, and go out in order when Opened has returned.
        """
        raise NotImplementedError

    def submit_with_external_mdl(
        self,
        buffer: bytes,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> LocalCall:
        """Windows: VmbPacketSendWithExternalMdl, as ``submit``."""
        raise NotImplementedError

    def submit_with_external_pfns(
        self, buffer: bytes, pfns: tuple[int, ...] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> LocalCall:
        """Windows: VmbPacketSendWithExternalPfns, as ``submit``."""
        raise NotImplementedError

    async def finish(self, sent: LocalCall) -> Completion:
        """Wait for the end of what ``submit`` returned; raises RequestFailed with the status it ended with."""
        raise NotImplementedError

    async def send(
        self, buffer: bytes, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit`` and ``finish``."""
        return await self.finish(self.submit(buffer, mdl, flags=flags))

    async def send_with_external_mdl(
        self,
        buffer: bytes,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> Completion:
        """``submit_with_external_mdl`` and ``finish``."""
        return await self.finish(self.submit_with_external_mdl(buffer, mdl, offset, length, flags))

    async def send_with_external_pfns(
        self, buffer: bytes, pfns: tuple[int, ...] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """``submit_with_external_pfns`` and ``finish``."""
        return await self.finish(self.submit_with_external_pfns(buffer, pfns, flags))

    async def send_synchronous(
        self,
        buffer: bytes,
        mdl: Mdl | None = None,
        *,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
        completion_bytes: int = 0,
        timeout_seconds: float | None = None,
    ) -> Completion:
        """Windows: VmbChannelSendSynchronousRequest (Y1-Y5). ``timeout_seconds`` None waits for ever.

        Returns the completion, cut to ``completion_bytes`` (its ``status`` is then BUFFER_OVERFLOW). Raises
        RequestFailed: BUFFER_OVERFLOW for no room with time-out 0, CANCELLED for time out, DEVICE_REMOVED.
        """
        raise NotImplementedError

    # ---- receiving

    def __aiter__(self) -> DriverChannel:
        return self

    async def __anext__(self) -> DriverPacket:
        """The next packet, while active; ends when the channel is disabled."""
        raise NotImplementedError

    async def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be received and not completed (Q1-Q4). Windows: VmbChannelSetTransactionQuota."""
        raise NotImplementedError

    # ---- page lists, latency

    async def create_gpadl(
        self, memory: Mdl | Buffer, offset: int = 0, length: int = 0, *, read_only: bool = False
    ) -> int:
        """Describe guest memory to the host: its handle. Length 0 is up to the end.

        Windows: VmbChannelCreateGpadlFromMdl, VmbChannelCreateGpadlFromBuffer.
        """
        raise NotImplementedError

    async def delete_gpadl(self, handle: int) -> None:
        """Returns when the host does not have it mapped (any more). Windows: VmbChannelDeleteGpadl."""
        raise NotImplementedError

    async def map_gpadl(self, handle: int, *, read_only: bool = False) -> Mdl:
        """The memory of a guest's page list, on its host; one mapping at a time. Windows: VmbChannelMapGpadl."""
        raise NotImplementedError

    async def unmap_gpadl(self, handle: int) -> None:
        """Undo ``map_gpadl``. Windows: VmbChannelUnmapGpadl."""
        raise NotImplementedError

    async def set_interrupt_latency(self, latency: int) -> int:
        """In 100 ns; returns what it was. Guests, from Opened to Closed. Windows: VmbChannelSetInterruptLatency."""
        raise NotImplementedError

    async def __aenter__(self) -> DriverChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disable()
        await self.cleanup()

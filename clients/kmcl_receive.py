"""Received packets under KMCL's Windows names: delivered to a driver's callbacks, and completed by it.

Each channel has one task that delivers, so ProcessPacket and ProcessingComplete run one at a time; an async callback
runs to its end before the next packet comes. A plain callback runs at DISPATCH_LEVEL, unless the channel was told to
deliver at PASSIVE_LEVEL or the packet was deferred to it; an async one waits, and so always runs at PASSIVE_LEVEL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from clients.calls import RequestFailed
from clients.kmcl_calls import call_back, cut, returns_status
from clients.kmcl_types import (
    VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY,
    VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA,
    Out,
)
from emulator.memory import Mdl
from emulator.status import Misuse, NtStatus, Refused

if TYPE_CHECKING:
    from clients.driver_channel import DriverPacket
    from clients.kmcl_channel import VMBCHANNEL


class VMBPACKETCOMPLETION:
    """The context of a received packet. ``ClientContext`` is the driver's, as long as it asked for."""

    def __init__(self, channel: VMBCHANNEL, packet: DriverPacket) -> None:
        self.channel = channel
        self.packet = packet
        self.ClientContext = bytearray(channel.driver.setup.values.context_bytes)
        self.is_inline = False
        self.ended = ""

    def end(self, how: str) -> None:
        """It is completed, failed, deferred or pended, once."""
        verifier = self.channel.driver.verifier
        if self.ended:
            what = f"this packet was {self.ended} and is now to be {how}"
            verifier.report("4.4", what, verifier.place_of(self))
            raise Misuse(f"{what}; a packet ends once (R3, 4.4)")
        verifier.remember(self)
        self.ended = how


class Receiving:
    """What delivers one channel's packets."""

    def __init__(self, channel: VMBCHANNEL) -> None:
        self._channel = channel
        self._enablings = 0
        self._is_running = False
        self._busy: VMBPACKETCOMPLETION | None = None
        self._task: trio.lowlevel.Task | None = None  # that runs a receive callback now
        self._quiet = trio.Event()

    def begin(self) -> None:
        """The channel is being enabled."""
        self._enablings += 1
        if not self._is_running and self._channel.process_packet is not None:
            self._is_running = True
            self._channel.start_task(self._run)

    async def _run(self) -> None:
        try:
            seen = 0
            while seen != self._enablings:
                seen = self._enablings
                async for packet in self._channel.driver:
                    await self._deliver(packet)
        finally:
            self._is_running = False

    def require_outside(self, what: str) -> None:
        """Raise Misuse for a call that waits for the very callback it is made from."""
        if self._busy is not None and self._is_awaiting(trio.lowlevel.current_task()):
            raise Misuse(
                f"{what} waits until no packet is processed, and this one is; call it from a task of its own (4.2)"
            )

    def _is_awaiting(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether the receive callback cannot end before a task has: it is its own, or in a nursery of its own."""
        while task is not None and task is not self._task:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None

    async def quiet(self) -> None:
        """Return when no ProcessPacket runs. None begins: the channel delivers nothing while it suspends."""
        while self._busy is not None:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def _deliver(self, packet: DriverPacket) -> None:
        channel = self._channel
        completion = self._busy = VMBPACKETCOMPLETION(channel, packet)
        self._task = trio.lowlevel.current_task()
        at_dispatch = not (channel.passive_only or packet.is_deferred)
        flags = VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA if packet.has_external_data else 0
        batch = packet.batch_packets
        assert channel.process_packet is not None, "nothing is received without it"
        try:
            completion.is_inline = True
            arguments = channel, completion, packet.payload, len(packet.payload), flags
            await call_back(channel.process_packet, *arguments, at_dispatch=at_dispatch)
            completion.is_inline = False
            if batch and channel.processing_complete is not None:
                await call_back(channel.processing_complete, channel, batch, at_dispatch=at_dispatch)
        finally:
            self._busy = self._task = None
            self._quiet.set()


def VmbChannelPacketComplete(
    PacketCompletionContext: VMBPACKETCOMPLETION, PacketCompletionBuffer: bytes | bytearray | None, BufSize: int
) -> None:
    """End the received packet of ``PacketCompletionContext``; its memory is let go.

    If its sender waits, it gets the first ``BufSize`` bytes of ``PacketCompletionBuffer``, padded to 8; else they are
    ignored. Returns nothing. Raises Misuse for a packet that has ended, or a completion no ring can hold.

    Python: `clients.driver_channel.DriverPacket.complete`. Rules: R3, Q1, Q3, 4.4.
    """
    payload = bytes(cut(PacketCompletionBuffer, BufSize))
    PacketCompletionContext.end("completed")
    try:
        PacketCompletionContext.packet.complete_now(payload)
    except (Refused, RequestFailed) as error:
        PacketCompletionContext.ended = ""
        raise Misuse(f"VmbChannelPacketComplete: {error}") from None


def VmbChannelPacketFail(PacketCompletionContext: VMBPACKETCOMPLETION) -> None:
    """Give up on the malformed packet of ``PacketCompletionContext``: nothing is sent, and nothing more is delivered
    until the channel is closed and opened again.

    Returns nothing. Raises Misuse for a packet that has ended.

    Python: `clients.driver_channel.DriverPacket.fail`. Rules: R4.
    """
    PacketCompletionContext.end("failed")
    PacketCompletionContext.packet.fail_now()


def VmbChannelPacketDeferToPassive(PacketCompletionContext: VMBPACKETCOMPLETION) -> None:
    """Put the packet of ``PacketCompletionContext`` back: it is delivered again, before any other, at PASSIVE_LEVEL.

    Returns nothing. Raises Misuse outside the packet's own EvtVmbChannelProcessPacket.

    Python: `clients.driver_channel.DriverPacket.defer`. Rules: R5.
    """
    if not PacketCompletionContext.is_inline:
        raise Misuse("VmbChannelPacketDeferToPassive is for the packet that is being processed, from its callback (R5)")
    PacketCompletionContext.end("deferred")
    PacketCompletionContext.packet.defer()


@returns_status
def VmbChannelPacketGetExternalData(
    PacketCompletionContext: VMBPACKETCOMPLETION, Flags: int, Mdl: Out[Mdl]
) -> NtStatus | None:
    """Set ``Mdl`` to the guest memory that the packet of ``PacketCompletionContext`` shows, an MDL for each range.

    ``Flags`` is 0 or VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY. The chain is valid until the packet is
    completed, and the same at every call.

    Returns SUCCESS; PENDING: return without completing, the packet is delivered again when its pages are in;
    INVALID_PARAMETER_2 for unknown flags; INVALID_PARAMETER for a packet without external data or with bad ranges.

    Python: `clients.driver_channel.DriverPacket.external_mdl`. Rules: R6, R7, R8, K24.
    """
    read_only = VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY
    if Flags & ~read_only:
        raise Refused(NtStatus.INVALID_PARAMETER_2, f"flags 0x{Flags:X}: only 0x1, read only, is known", rule="R6")
    if PacketCompletionContext.ended:
        raise Misuse(f"this packet was {PacketCompletionContext.ended}; its memory is gone (R3)")
    try:
        Mdl.value = PacketCompletionContext.packet.external_mdl(read_only=bool(Flags & read_only))
    except RequestFailed as error:
        if error.status is NtStatus.PENDING:
            PacketCompletionContext.end("put back until its pages are in")
        raise
    return None

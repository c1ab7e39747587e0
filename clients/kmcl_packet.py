"""Packet objects under KMCL's Windows names, and what a driver hears of their ends. ``kmcl_send`` sends them.

The completion routines of a channel run one at a time, in the order the packets ended. They, too, may be async.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from clients.calls import ConnectionLost, RequestFailed
from clients.kmcl_callbacks import EVT_VMB_PACKET_COMPLETION_ROUTINE
from clients.kmcl_calls import call_back, refused, returns_status, status_of
from emulator.status import Misuse, NtStatus, Refused

if TYPE_CHECKING:
    from clients.kmcl_channel import VMBCHANNEL

POINTER_BYTES = 8
# What a packet object needs beside the packet; VmbPacketInitialize checks the pointer alone.
PACKET_OBJECT_BYTES = 256


class VMBPACKET:
    """A packet's handle, or, as ``VMBPACKET()``, memory of the caller's for VmbPacketInitialize."""

    def __init__(self) -> None:
        self.channel: VMBCHANNEL | None = None
        self.pointer: object = None
        self.routine: EVT_VMB_PACKET_COMPLETION_ROUTINE | None = None
        self.is_allocated = False
        self.in_flight = False
        self.waits = False

    def become(self, channel: VMBCHANNEL, routine: EVT_VMB_PACKET_COMPLETION_ROUTINE | None) -> None:
        """A new packet, whatever the memory held before."""
        self.channel, self.routine = channel, routine
        self.pointer = None
        self.is_allocated = False

    def owner(self, doing: str) -> VMBCHANNEL:
        """Its channel. Raises Misuse for a packet that was freed, or never made."""
        if self.channel is None:
            raise Misuse(f"{doing}: this packet was freed, or never allocated or initialised (4.4)")
        return self.channel

    def report_in_flight(self, doing: str) -> None:
        """With the verifier, raise its report, which names the place of the send, too."""
        if self.channel is not None:
            verifier = self.channel.driver.verifier
            verifier.report("4.4", f"{doing}: this packet is in flight", verifier.place_of(self))

    def check_ready(self, doing: str) -> VMBCHANNEL:
        """Its channel. Raises Misuse unless it can be sent now."""
        channel = self.owner(doing)
        if self.in_flight:
            self.report_in_flight(doing)
            raise Misuse(f"{doing}: this packet is in flight; send it again from its completion routine or after (4.4)")
        if self.routine is None:
            raise Misuse(f"{doing}: an initialised packet needs a completion routine first (4.4)")
        return channel


class Ends:
    """The packets of one channel that have come to their ends, and the task that tells the driver."""

    def __init__(self, channel: VMBCHANNEL) -> None:
        self._channel = channel
        self._ended: deque[tuple[VMBPACKET, Any]] = deque()
        self._woken = trio.Event()
        channel.start_task(self._run)

    def watch(self, packet: VMBPACKET, sent: Any) -> None:
        """Tell of this packet when it has ended."""
        watch = _Watch(self, packet, sent)
        watch.set()

    def ended(self, packet: VMBPACKET, sent: Any) -> None:
        """It has."""
        self._ended.append((packet, sent))
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while self._ended:
                await self._tell(*self._ended.popleft())

    async def _tell(self, packet: VMBPACKET, sent: Any) -> None:
        payload: bytes | None = None
        try:
            completion = await self._channel.driver.finish(sent)
            status = completion.status
            payload = bytes(completion) if packet.waits else None
        except (RequestFailed, Refused, ConnectionLost) as error:
            status = status_of(error)
        packet.in_flight = False
        routine = packet.routine
        assert routine is not None, "a packet is not sent without one"
        await call_back(routine, packet, status, payload, len(payload or b""), at_dispatch=True)


class _Watch:
    """Stands where a call keeps who waits for it."""

    def __init__(self, ends: Ends, packet: VMBPACKET, sent: Any) -> None:
        self._ends = ends
        self._packet = packet
        self._sent = sent

    def set(self) -> None:
        """The call changed, and may have ended."""
        if self._sent.done:
            self._ends.ended(self._packet, self._sent)
        else:
            self._sent.waiter = self


def VmbPacketAllocate(Channel: VMBCHANNEL) -> VMBPACKET | None:
    """A packet of ``Channel``, whose completion routine frees it until VmbPacketSetCompletionRoutine names another.

    Returns the packet, or None (NULL) when there is no memory for it, which does not happen here.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: 4.4.
    """
    packet = VMBPACKET()
    packet.become(Channel, _free)
    packet.is_allocated = True
    return packet


def _free(packet: VMBPACKET, status: NtStatus, buffer: bytes | None, buffer_length: int) -> None:
    VmbPacketFree(packet)


@returns_status
def VmbPacketInitialize(Channel: VMBCHANNEL, VmbPacket: VMBPACKET, ByteCount: int) -> NtStatus | None:
    """Make ``VmbPacket``, memory of the caller's of ``ByteCount`` bytes, a packet of ``Channel``.

    It has no completion routine before VmbPacketSetCompletionRoutine. Returns SUCCESS; INVALID_PARAMETER_3 unless
    ``ByteCount`` is above the maximum packet size and the 8 bytes of a pointer. Raises Misuse for a packet in flight.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: 4.4.
    """
    least = maximum_packet_bytes(Channel) + POINTER_BYTES
    if ByteCount <= least:
        text = f"a packet object of this channel has more than {least} bytes, not {ByteCount}"
        return refused(NtStatus.INVALID_PARAMETER_3, f"{text}; VmbChannelSizeofPacket says how many")
    if VmbPacket.in_flight:
        raise Misuse("VmbPacketInitialize: this packet is in flight (4.4)")
    VmbPacket.become(Channel, None)
    return None


def maximum_packet_bytes(Channel: VMBCHANNEL) -> int:
    """The largest buffer the channel sends."""
    return Channel.driver.setup.values.packet_bytes or Channel.profile.limits.max_packet_bytes


def VmbChannelSizeofPacket(Channel: VMBCHANNEL) -> int:
    """The bytes that VmbPacketInitialize wants for a packet of ``Channel``, by its maximum packet size.

    Returns a number of bytes.

    Python: `emulator.vmbus.channel_setup.SetupValues`. Rules: 4.4.
    """
    return maximum_packet_bytes(Channel) + PACKET_OBJECT_BYTES


def VmbPacketFree(VmbPacket: VMBPACKET) -> None:
    """Free ``VmbPacket``, which VmbPacketAllocate made and which is not in flight.

    Returns nothing. Raises Misuse for a packet in flight, initialised by the caller, or freed already.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: 4.4.
    """
    VmbPacket.owner("VmbPacketFree")
    if VmbPacket.in_flight:
        VmbPacket.report_in_flight("VmbPacketFree")
        raise Misuse("VmbPacketFree: this packet is in flight; its completion routine may free it (4.4)")
    if not VmbPacket.is_allocated:
        raise Misuse(
            "VmbPacketFree: this packet is the caller's memory (VmbPacketInitialize), and not freed here (4.4)"
        )
    VmbPacket.channel = VmbPacket.routine = VmbPacket.pointer = None


def VmbPacketGetChannel(PacketObject: VMBPACKET) -> VMBCHANNEL:
    """The channel of ``PacketObject``.

    Returns its handle. Raises Misuse for a packet that was freed.

    Python: `clients.driver_channel.DriverChannel`. Rules: 4.4.
    """
    return PacketObject.owner("VmbPacketGetChannel")


def VmbPacketSetPointer(PacketObject: VMBPACKET, Pointer: object) -> None:
    """Keep ``Pointer``, the driver's context, with ``PacketObject``.

    Returns nothing. Raises Misuse for a packet that was freed.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: 4.4.
    """
    PacketObject.owner("VmbPacketSetPointer")
    PacketObject.pointer = Pointer


def VmbPacketGetPointer(PacketObject: VMBPACKET) -> Any:
    """What VmbPacketSetPointer kept with ``PacketObject``; None before that.

    Returns the pointer. Raises Misuse for a packet that was freed.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: 4.4.
    """
    PacketObject.owner("VmbPacketGetPointer")
    return PacketObject.pointer


def VmbPacketSetCompletionRoutine(
    PacketObject: VMBPACKET, CompletionRoutine: EVT_VMB_PACKET_COMPLETION_ROUTINE
) -> None:
    """Let ``CompletionRoutine``, plain or async, hear of the end of ``PacketObject`` instead of the default.

    Returns nothing. Raises Misuse for a packet that was freed or is in flight.

    Python: `clients.driver_channel.DriverChannel.finish`. Rules: 4.4.
    """
    PacketObject.owner("VmbPacketSetCompletionRoutine")
    if PacketObject.in_flight:
        raise Misuse("VmbPacketSetCompletionRoutine: this packet is in flight (4.4)")
    PacketObject.routine = CompletionRoutine

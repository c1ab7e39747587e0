"""Sending under KMCL's Windows names. Arguments are checked at once: a refused packet is the driver's again (K28)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from clients.kmcl_calls import Bytes, awaits_status, cut, refused, require_passive, returns_status
from clients.kmcl_packet import VMBPACKET
from clients.kmcl_types import VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION, Out
from emulator.memory import Mdl
from emulator.status import Misuse, NtStatus, Refused

if TYPE_CHECKING:
    from clients.driver_channel import DriverChannel
    from clients.kmcl_channel import VMBCHANNEL

FILETIME_OF_1970 = 116_444_736_000_000_000
UNITS_PER_SECOND = 10_000_000


def _send(packet: VMBPACKET, what: str, flags: int, start: Callable[[DriverChannel], Any]) -> None:
    channel = packet.check_ready(what)
    sent = start(channel.driver)
    channel.driver.verifier.remember(packet)
    packet.in_flight = True
    packet.waits = bool(flags & VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION)
    channel.ends.watch(packet, sent)


@returns_status
def VmbPacketSend(
    PacketObject: VMBPACKET, Buffer: Bytes | None, BufferLength: int, ExternalDataMdl: Mdl | None, Flags: int
) -> None:
    """Send ``PacketObject``: ``BufferLength`` bytes of ``Buffer``, and all the ``ExternalDataMdl`` chain describes.

    ``Flags`` are VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION and _PAGED_BUFFER. A packet that finds no room, or a
    channel that is not open yet, waits in line. Its completion routine hears of the end: with WAIT the peer's
    completion, else that it is in the ring.

    Returns SUCCESS, also for a packet in line; INVALID_PARAMETER_5 for flags (K1, K7, K9), _4 for the MDL (K9, K24,
    K25), _3 for the length (K3), INVALID_PARAMETER for what the ring can never hold (K8), NOT_SUPPORTED for external
    data from a server or on a pipe (K5, K6). Then nothing was sent. Raises Misuse for a packet that is in flight,
    freed, or has no completion routine.

    Python: `clients.driver_channel.DriverChannel.submit`. Rules: K1-K9, K24-K29.
    """
    buffer = cut(Buffer, BufferLength)
    _send(PacketObject, "VmbPacketSend", Flags, lambda driver: driver.submit(buffer, ExternalDataMdl, flags=Flags))


@returns_status
def VmbPacketSendWithExternalMdl(
    PacketObject: VMBPACKET,
    Buffer: Bytes | None,
    BufferLength: int,
    ExternalDataMdl: Mdl | None,
    MdlOffset: int,
    MdlLength: int,
    Flags: int,
) -> None:
    """Send ``PacketObject``: ``BufferLength`` bytes of ``Buffer``, and part of what ``ExternalDataMdl`` describes.

    ``MdlOffset`` bytes into the described buffer, ``MdlLength`` bytes; 0 is all up to its end. ``Flags`` must have
    VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION; with _FORCE_MDL_LENGTH the first MDL alone is used, up to the end of
    its last page.

    Returns SUCCESS, also for a packet in line; INVALID_PARAMETER_7 for flags (K1, K10), _4 for the MDL (K11, K24, K25),
    _3 for the buffer's length (K3), _5 for the offset (K14, K23), _6 for the length (K16, K19, K22, K24), NOT_SUPPORTED
    from a server or on a pipe (K5, K6). Then nothing was sent. Raises Misuse as VmbPacketSend does.

    Python: `clients.driver_channel.DriverChannel.submit_with_external_mdl`. Rules: K1-K8, K10-K29.
    """
    buffer = cut(Buffer, BufferLength)

    def start(driver: DriverChannel) -> Any:
        return driver.submit_with_external_mdl(buffer, ExternalDataMdl, MdlOffset, MdlLength, Flags)

    _send(PacketObject, "VmbPacketSendWithExternalMdl", Flags, start)


@returns_status
def VmbPacketSendWithExternalPfns(
    PacketObject: VMBPACKET,
    Buffer: Bytes | None,
    BufferLength: int,
    ExternalDataPfns: Sequence[int] | None,
    PfnLength: int,
    Flags: int,
) -> None:
    """Send ``PacketObject``: ``BufferLength`` bytes of ``Buffer``, and ``PfnLength`` whole pages.

    Their numbers are the first of ``ExternalDataPfns``.

    ``Flags`` must have VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION. Returns SUCCESS, also for a packet in line;
    INVALID_PARAMETER_6 for flags (K1, K30), _4 for no page numbers (K32), _3 for the buffer's length (K3), _5 for their
    number (K32). Then nothing was sent. Raises Misuse as VmbPacketSend does, and for fewer page numbers than said.

    Python: `clients.driver_channel.DriverChannel.submit_with_external_pfns`. Rules: K1-K8, K24, K27-K32.
    """
    buffer = cut(Buffer, BufferLength)
    if ExternalDataPfns is not None and PfnLength > len(ExternalDataPfns):
        raise Misuse(f"{len(ExternalDataPfns)} page numbers were passed with length {PfnLength}")
    pfns = None if ExternalDataPfns is None else tuple(ExternalDataPfns[:PfnLength])

    def start(driver: DriverChannel) -> Any:
        return driver.submit_with_external_pfns(buffer, pfns, Flags)

    _send(PacketObject, "VmbPacketSendWithExternalPfns", Flags, start)


def timeout_seconds(Timeout: int | None) -> float | None:
    """A time-out as KeWaitForSingleObject takes it, in seconds from now: in 100 ns, negative from now, positive since
    the year 1601; None waits for ever."""
    if Timeout is None or Timeout == 0:
        return None if Timeout is None else 0.0
    if Timeout < 0:
        return -Timeout / UNITS_PER_SECOND
    # A moment that has passed is not the same as 0, which may not even wait for room.
    return max((Timeout - KeQuerySystemTime()) / UNITS_PER_SECOND, 1e-9)


def KeQuerySystemTime() -> int:
    """Now, in 100 ns since the year 1601, for absolute time-outs."""
    return time.time_ns() // 100 + FILETIME_OF_1970


@awaits_status
async def VmbChannelSendSynchronousRequest(
    Channel: VMBCHANNEL,
    Buffer: Bytes | None,
    BufferSize: int,
    ExternalDataMdl: Mdl | None,
    Flags: int,
    CompletionBuffer: bytearray | None,
    CompletionBufferSize: Out[int] | None,
    Timeout: int | None,
) -> NtStatus:
    """Send the first ``BufferSize`` bytes of ``Buffer`` on ``Channel``, with ``ExternalDataMdl``, and wait. Await it.

    ``Flags`` as for VmbPacketSend. The completion is written to ``CompletionBuffer``; ``CompletionBufferSize`` is its
    size, a multiple of 8, and then the bytes written. ``Timeout`` is in 100 ns: None waits for ever, negative is from
    now, positive since 1601; 0 without WAIT does not even wait for room. A server may do nothing else. Without a
    buffer the completion is let go.

    Returns SUCCESS; BUFFER_OVERFLOW without room at time-out 0, or for a completion that was cut; CANCELLED when the
    time is over; DEVICE_REMOVED when the channel closes; INVALID_PARAMETER for a server's other calls (Y2);
    INVALID_PARAMETER_7 for a size that is no multiple of 8 (Y3); else what VmbPacketSend returns. Raises Misuse in
    EvtVmbChannelStarted, where no completion ever comes (Y5).

    Python: `clients.driver_channel.DriverChannel.send_synchronous`. Rules: Y1-Y5.
    """
    seconds = timeout_seconds(Timeout)
    if seconds != 0.0 or Flags & VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION:
        require_passive("VmbChannelSendSynchronousRequest with a time-out")
    size = 0 if CompletionBufferSize is None else CompletionBufferSize.value
    if size > len(CompletionBuffer or b""):
        raise Misuse(f"a completion buffer of {len(CompletionBuffer or b'')} bytes was passed with size {size}")
    buffer = cut(Buffer, BufferSize)
    try:
        completion = await Channel.driver.send_synchronous(
            buffer, ExternalDataMdl, flags=Flags, completion_bytes=size, timeout_seconds=seconds
        )
    except Refused as refusal:
        if refusal.rule == "Y5":
            raise Misuse(f"VmbChannelSendSynchronousRequest: {refusal.text}") from None
        raise
    if CompletionBuffer is None or CompletionBufferSize is None:
        return NtStatus.SUCCESS  # nobody wants it
    CompletionBufferSize.value = len(completion)
    CompletionBuffer[: len(completion)] = completion
    if completion.status is NtStatus.BUFFER_OVERFLOW:
        return refused(completion.status, f"the completion was cut to the {size} bytes of its buffer [Y3]")
    return completion.status

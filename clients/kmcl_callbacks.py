"""The callbacks of a driver, as KMCL documents them: what each gets, what it returns, what is true while it runs.

Each may be a plain function or an async one. A plain one is called and is over when it returns; it must not block. An
async one is awaited, and what comes after it waits for it: the next packet for ProcessPacket, the next state for the
state callbacks, the next completion for completion routines. These three kinds wait only for their own, so that
PostStarted can send a request and wait while packets are delivered and completed.

The daemon waits ``callback_seconds`` of its limits for a state callback, 5 by default, and then goes on without it;
Opened has failed then. An exception from a callback ends the connection's block, as a crash of a driver ends its
system.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from emulator.status import NtStatus

if TYPE_CHECKING:
    from clients.kmcl_channel import VMBCHANNEL
    from clients.kmcl_packet import VMBPACKET
    from clients.kmcl_receive import VMBPACKETCOMPLETION
    from clients.kmcl_types import Out

T = TypeVar("T")

Maybe: TypeAlias = Awaitable[T] | T
"""What a callback returns: the value, or for an async function an awaitable of it."""


class EVT_VMB_CHANNEL_OPENED(Protocol):
    """``Channel`` is open; what was sent before goes out when this returns. Create long-lived GPADLs here, or later.

    Returns a status: a failure closes the channel again, and the peer's opening has failed.

    Python: `clients.driver.ChannelCallbacks.opened`. Rules: 4.2, 4.3.
    """

    def __call__(self, Channel: VMBCHANNEL, /) -> Maybe[NtStatus]: ...


class EVT_VMB_CHANNEL_CLOSED(Protocol):
    """``Channel`` is closed: delete all its GPADLs in here. What is sent from now on waits for the next opening.

    Returns nothing.

    Python: `clients.driver.ChannelCallbacks.closed`. Rules: 4.2, 4.3, 4.4.
    """

    def __call__(self, Channel: VMBCHANNEL, /) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_STARTED(Protocol):
    """``Channel`` is about to deliver packets. Sending is allowed, waiting for a completion is not: none would come.

    Returns nothing.

    Python: `clients.driver.ChannelCallbacks.started`. Rules: 4.2, 4.3, Y5.
    """

    def __call__(self, Channel: VMBCHANNEL, /) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_POST_STARTED(Protocol):
    """``Channel`` delivers packets; synchronous requests are allowed. The place for a protocol's negotiation.

    Returns nothing.

    Python: `clients.driver.ChannelCallbacks.post_started`. Rules: 4.2, 4.3.
    """

    def __call__(self, Channel: VMBCHANNEL, /) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_SUSPEND(Protocol):
    """No packet of ``Channel`` is being processed, or will be before EvtVmbChannelStarted.

    Stop sending, and complete what was received, now or later: KMCL waits for it. Returns nothing.

    Python: `clients.driver.ChannelCallbacks.suspend`. Rules: 4.2, 4.3.
    """

    def __call__(self, Channel: VMBCHANNEL, /) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_PROCESS_PACKET(Protocol):
    """A packet came on ``Channel``: ``BufferLength`` bytes in ``Buffer``, without any header.

    ``Packet`` is its context, for exactly one of VmbChannelPacketComplete, VmbChannelPacketFail and
    VmbChannelPacketDeferToPassive, now or (but for the last) later. ``Flags`` has
    VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA for one that shows guest memory. Returns nothing.

    Python: `clients.driver_channel.DriverChannel.__anext__`. Rules: R1-R8, Q1, B2.
    """

    def __call__(
        self, Channel: VMBCHANNEL, Packet: VMBPACKETCOMPLETION, Buffer: bytes, BufferLength: int, Flags: int, /
    ) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_PROCESSING_COMPLETE(Protocol):
    """The batch is over: ``PacketsProcessed`` packets, at least one, were delivered on ``Channel`` since the last one.

    Returns nothing.

    Python: `clients.driver_channel.DriverPacket.batch_packets`. Rules: B1-B4.
    """

    def __call__(self, Channel: VMBCHANNEL, PacketsProcessed: int, /) -> Maybe[None]: ...


class EVT_VMB_PACKET_COMPLETION_ROUTINE(Protocol):
    """``Packet`` has ended with ``Status``, and is the driver's again: send it anew, or free it.

    Sent with WAIT_FOR_COMPLETION, ``Buffer`` has the ``BufferLength`` bytes of the peer's completion; without, it is
    None, and the packet is in the ring. CANCELLED or DEVICE_REMOVED: the channel closed before. Returns nothing.

    Python: `clients.driver_channel.DriverChannel.finish`. Rules: 4.4, K2.
    """

    def __call__(
        self, Packet: VMBPACKET, Status: NtStatus, Buffer: bytes | None, BufferLength: int, /
    ) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_PNP_FAILURE(Protocol):
    """``Channel`` found its offer and could not open it, for the reason ``FailureStatus``.

    Returns nothing.

    Python: `clients.driver.ChannelCallbacks.pnp_failure`. Rules: 4.2.
    """

    def __call__(self, Channel: VMBCHANNEL, FailureStatus: NtStatus, /) -> Maybe[None]: ...


class EVT_VMB_CHANNEL_SAVE_PACKET(Protocol):
    """Would save the driver's state of ``Packet`` of ``Channel`` in ``SaveBuf``, of ``SaveBufSize`` bytes.

    ``BytesNeeded`` would say how many it takes. Never called: channels are not saved here. Returns a status.

    Python: none. Rules: 4.2, 4.3.
    """

    def __call__(
        self, Channel: VMBCHANNEL, Packet: VMBPACKET, SaveBuf: Any, SaveBufSize: int, BytesNeeded: Out[int], /
    ) -> Maybe[NtStatus]: ...


class EVT_VMB_CHANNEL_RESTORE_PACKET(Protocol):
    """Would restore a packet of ``Channel`` from ``LibBuf``, of ``LibBufSize`` bytes, and the driver's state of it from
    ``SaveBuf``, of ``SaveBufSize`` bytes.

    Never called: channels are not saved here. Returns a status.

    Python: none. Rules: 4.2, 4.3.
    """

    def __call__(
        self, Channel: VMBCHANNEL, LibBuf: bytes, LibBufSize: int, SaveBuf: bytes, SaveBufSize: int, /
    ) -> Maybe[NtStatus]: ...

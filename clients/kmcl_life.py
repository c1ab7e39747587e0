"""A channel's life under KMCL's Windows names: enabled, started, paused, disabled; and what can be asked of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from clients.kmcl_calls import awaits_nothing, awaits_status, returns_status
from clients.kmcl_channel import VMBCHANNEL
from clients.kmcl_types import Out
from emulator.status import Misuse, NtStatus, Refused


@awaits_status
async def VmbChannelEnable(Channel: VMBCHANNEL) -> None:
    """Server: offer ``Channel``. Client: take the offer, or wait for one. Await it; it does not wait for the peer.

    A client is active by that, a server paused until VmbChannelStart. Returns SUCCESS; INVALID_DEVICE_STATE without a
    target, or when it is enabled already; the status of what the daemon refused.

    Python: `clients.driver_channel.DriverChannel.enable`. Rules: 4.3.
    """
    await Channel.driver.enable()
    Channel.receiving.begin()


@awaits_nothing
async def VmbChannelDisable(Channel: VMBCHANNEL) -> None:
    """Server: revoke the offer of ``Channel``. Client: close it. Await it: it returns when EvtVmbChannelClosed has.

    Returns nothing. Raises Misuse for a channel that cannot be disabled now, and in one of its own receive callbacks.

    Python: `clients.driver_channel.DriverChannel.disable`. Rules: 4.3.
    """
    Channel.receiving.require_outside("VmbChannelDisable")
    await Channel.driver.disable()


@awaits_nothing
async def VmbChannelStart(Channel: VMBCHANNEL) -> None:
    """Leave paused: ``Channel`` becomes active when it is open. Await it.

    Returns nothing. Raises Misuse before VmbChannelEnable, after VmbChannelDisable, or in a state callback.

    Python: `clients.driver_channel.DriverChannel.start`. Rules: 4.3.
    """
    await Channel.driver.start()


@awaits_nothing
async def VmbChannelPause(Channel: VMBCHANNEL) -> None:
    """Pause ``Channel``. Await it: it returns when all packets received were completed.

    Before VmbChannelEnable it lets the channel begin paused. Returns nothing. Raises Misuse in a state callback, and in
    a receive callback of its own.

    Python: `clients.driver_channel.DriverChannel.pause`. Rules: 4.3.
    """
    Channel.receiving.require_outside("VmbChannelPause")
    await Channel.driver.pause()


def VmbChannelSetPointer(Channel: VMBCHANNEL, Pointer: object) -> None:
    """Keep ``Pointer``, the driver's context, with ``Channel``.

    Returns nothing.

    Python: `clients.driver_channel.DriverChannel.pointer`. Rules: 4.2.
    """
    Channel.pointer = Pointer


def VmbChannelGetPointer(Channel: VMBCHANNEL) -> Any:
    """What VmbChannelSetPointer kept with ``Channel``; None before that.

    Returns the pointer.

    Python: `clients.driver_channel.DriverChannel.pointer`. Rules: 4.2.
    """
    return Channel.pointer


def VmbChannelGetInterfaceInstance(Channel: VMBCHANNEL, InterfaceInstance: Out[UUID]) -> None:
    """Set ``InterfaceInstance`` to the instance id of the offer that ``Channel`` has or makes.

    Returns nothing. Raises Misuse for a channel that has none.

    Python: `clients.driver_channel.DriverChannel.instance`. Rules: 4.2.
    """
    instance = Channel.driver.instance
    if instance is None:
        raise Misuse("VmbChannelGetInterfaceInstance: the channel has no offer; enable it, and wait for Opened")
    InterfaceInstance.value = instance


def VmbChannelGetMmioSpace(Channel: VMBCHANNEL, MmioAddress: Out[int], MmioSize: Out[int]) -> None:
    """Set ``MmioAddress``, a guest physical address, and ``MmioSize``, bytes, to the space reserved for ``Channel``.

    Returns nothing. Raises Misuse before EvtVmbChannelOpened.

    Python: `clients.driver_channel.DriverChannel.mmio_space`. Rules: 4.2.
    """
    try:
        MmioAddress.value, MmioSize.value = Channel.driver.mmio_space
    except Refused as refusal:
        raise Misuse(f"VmbChannelGetMmioSpace: {refusal}") from None


@awaits_status
async def VmbChannelSetInterruptLatency(Channel: VMBCHANNEL, Latency: int, OriginalLatency: Out[int]) -> None:
    """Set the latency of the outgoing monitor of ``Channel`` to ``Latency``, in 100 ns, 16 bits. Await it.

    ``OriginalLatency`` becomes what it was. From EvtVmbChannelOpened to EvtVmbChannelClosed, inclusive; for clients.
    Returns SUCCESS, or the status of what was refused.

    Python: `clients.driver_channel.DriverChannel.set_interrupt_latency`. Rules: 4.2.
    """
    OriginalLatency.value = await Channel.driver.set_interrupt_latency(Latency)


def VmbChannelSetIncomingProcessingAtPassive(Channel: VMBCHANNEL, RequirePassive: bool) -> None:
    """With ``RequirePassive`` the receive callbacks of ``Channel`` run at PASSIVE_LEVEL only, else at DISPATCH too.

    Returns nothing.

    Python: `clients.driver_channel.DriverPacket.defer`. Rules: 4.2, R5.
    """
    Channel.passive_only = bool(RequirePassive)


def VmbChannelSetTransactionQuota(Channel: VMBCHANNEL, Quota: int) -> None:
    """At most ``Quota`` packets of ``Channel`` are received and not completed; then none is delivered.

    Raising it does not restart the queue, completing a packet does. Returns nothing. Raises Misuse for 0,
    unless the machine's profile ignores it.

    Python: `clients.driver_channel.DriverChannel.set_transaction_quota`. Rules: Q1-Q4.
    """
    if Quota <= 0 and Channel.profile.kmcl.raise_on_zero_quota:
        raise Misuse(f"VmbChannelSetTransactionQuota: a quota is above 0, not {Quota} (Q4)")
    Channel.do_later(lambda: Channel.driver.set_transaction_quota(Quota))


@returns_status
def VmbChannelSaveBegin(Channel: VMBCHANNEL) -> NtStatus | None:
    """Would begin to save ``Channel``, which is paused; channels are not saved here.

    Returns NOT_SUPPORTED.

    Python: none. Rules: 4.2, 4.3.
    """
    raise _not_saved("VmbChannelSaveBegin")


@returns_status
def VmbChannelSaveContinue(
    Channel: VMBCHANNEL, SaveBuffer: bytearray, SaveBufferSize: int, BytesFilled: Out[int], BytesRequired: Out[int]
) -> NtStatus | None:
    """Would save more of ``Channel`` into ``SaveBuffer``, of ``SaveBufferSize`` bytes; channels are not saved here.

    ``BytesFilled`` and ``BytesRequired`` become 0. Returns NOT_SUPPORTED.

    Python: none. Rules: 4.2, 4.3.
    """
    BytesFilled.value = BytesRequired.value = 0
    raise _not_saved("VmbChannelSaveContinue")


def VmbChannelSaveEnd(Channel: VMBCHANNEL) -> None:
    """Would end what VmbChannelSaveBegin began on ``Channel``; channels are not saved here.

    Returns nothing.

    Python: none. Rules: 4.2, 4.3.
    """


@returns_status
def VmbChannelRestoreFromBuffer(Channel: VMBCHANNEL, Buffer: bytes, BufferSize: int) -> NtStatus | None:
    """Would restore ``Channel`` from the first ``BufferSize`` bytes of ``Buffer``; channels are not saved here.

    Returns NOT_SUPPORTED.

    Python: none. Rules: 4.2, 4.3.
    """
    raise _not_saved("VmbChannelRestoreFromBuffer")


@returns_status
def VmbPacketRestore(PacketObject: object, Buffer: bytes, BufferSize: int) -> NtStatus | None:
    """Would restore ``PacketObject`` from the first ``BufferSize`` bytes of ``Buffer``; channels are not saved here.

    Returns NOT_SUPPORTED.

    Python: none. Rules: 4.2, 4.3.
    """
    raise _not_saved("VmbPacketRestore")


def _not_saved(name: str) -> Refused:
    return Refused(NtStatus.NOT_SUPPORTED, f"{name}: this emulator does not save and restore channels")

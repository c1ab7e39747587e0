"""Making a channel under KMCL's Windows names: what a driver says of it between allocating and enabling it.

Every call here but the first two answers INVALID_PARAMETER_1 once the channel was enabled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from clients.kmcl_callbacks import (
    EVT_VMB_CHANNEL_PNP_FAILURE,
    EVT_VMB_CHANNEL_PROCESS_PACKET,
    EVT_VMB_CHANNEL_PROCESSING_COMPLETE,
    EVT_VMB_CHANNEL_RESTORE_PACKET,
    EVT_VMB_CHANNEL_SAVE_PACKET,
)
from clients.kmcl_calls import awaits_nothing, require_passive, returns_status
from clients.kmcl_channel import KERNEL_HANDLE, VMBCHANNEL, WDFDEVICE
from clients.kmcl_types import VMB_CHANNEL_STATE_CHANGE_CALLBACKS, Out
from emulator.status import NtStatus, Refused

if TYPE_CHECKING:
    from clients.vmbus import Machine


@returns_status
def VmbChannelAllocate(ParentDeviceObject: WDFDEVICE, IsServer: bool, Channel: Out[VMBCHANNEL]) -> None:
    """Set ``Channel`` to a new, disabled channel of the machine of ``ParentDeviceObject``, a host's if ``IsServer``.

    VmbChannelCleanup disposes of it. Returns SUCCESS, or a status. Raises Misuse above PASSIVE_LEVEL.

    Python: `clients.vmbus.Machine.allocate_channel`. Rules: 4.2, 4.3.
    """
    require_passive("VmbChannelAllocate")
    Channel.value = VMBCHANNEL(ParentDeviceObject, bool(IsServer))


@awaits_nothing
async def VmbChannelCleanup(Channel: VMBCHANNEL) -> None:
    """Dispose of ``Channel``, which must be disabled. Await it.

    Returns nothing. Raises Misuse for a channel that is enabled or open.

    Python: `clients.driver_channel.DriverChannel.cleanup`. Rules: 4.3, 4.4.
    """
    await Channel.driver.cleanup()
    Channel.dispose()


@returns_status
def VmbChannelInitSetMaximumPacketSize(Channel: VMBCHANNEL, PacketSize: int) -> None:
    """``Channel`` will send buffers of at most ``PacketSize`` bytes.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for 0, or more than a ring can carry.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_maximum_packet_size`. Rules: 4.2, K3.
    """
    Channel.driver.setup.set_maximum_packet_size(PacketSize)


@returns_status
def VmbChannelInitSetMaximumExternalData(Channel: VMBCHANNEL, DataSize: int, ChainLength: int) -> None:
    """Packets that come to ``Channel`` show at most ``DataSize`` bytes of memory, in at most ``ChainLength`` MDLs.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for no bytes, _3 for no MDL.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_maximum_external_data`. Rules: 4.2, K24.
    """
    Channel.driver.setup.set_maximum_external_data(DataSize, ChainLength)


@returns_status
def VmbChannelInitSetClientContextSize(Channel: VMBCHANNEL, ContextSize: int) -> None:
    """Each packet that comes to ``Channel`` shall have ``ContextSize`` bytes for the driver (its ``ClientContext``).

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for a number that is none.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_client_context_size`. Rules: 4.2.
    """
    Channel.driver.setup.set_client_context_size(ContextSize)


@returns_status
def VmbChannelInitSetProcessPacketCallbacks(
    Channel: VMBCHANNEL,
    ProcessPacketCallback: EVT_VMB_CHANNEL_PROCESS_PACKET,
    ProcessingCompleteCallback: EVT_VMB_CHANNEL_PROCESSING_COMPLETE | None,
) -> None:
    """``ProcessPacketCallback`` gets each packet of ``Channel``, ``ProcessingCompleteCallback`` the end of each batch.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled.

    Python: `clients.driver_channel.DriverChannel.__aiter__`, `clients.driver_channel.DriverPacket.batch_packets`.
    Rules: 4.2, B1-B4.
    """
    Channel.driver.setup.check_initialising()
    Channel.process_packet = ProcessPacketCallback
    Channel.processing_complete = ProcessingCompleteCallback


@returns_status
def VmbChannelInitSetStateChangeCallbacks(
    Channel: VMBCHANNEL, StateChangeCallbacks: VMB_CHANNEL_STATE_CHANGE_CALLBACKS
) -> None:
    """``Channel`` tells the driver of its states through the five callbacks in ``StateChangeCallbacks``, each optional.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for a structure of a wrong Version or Size.

    Python: `clients.driver.ChannelCallbacks`. Rules: 4.2, 4.3.
    """
    Channel.driver.setup.set_state_change_callbacks(StateChangeCallbacks.Version, StateChangeCallbacks.Size)
    Channel.state_callbacks = VMB_CHANNEL_STATE_CHANGE_CALLBACKS(**vars(StateChangeCallbacks))


@returns_status
def VmbChannelInitSetFriendlyName(Channel: VMBCHANNEL, Name: str) -> None:
    """``Name`` is what listings call ``Channel``.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for a name that is too long.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_friendly_name`. Rules: 4.2.
    """
    Channel.driver.setup.set_friendly_name(Name)


@returns_status
def VmbChannelInitSetFlags(Channel: VMBCHANNEL, Flags: int) -> None:
    """``Flags`` of ``Channel``: VMBUS_CHANNEL_INIT_FLAG_IS_PIPE, for packets with the pipe header and exact lengths.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled; _2 for unknown bits.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_flags`. Rules: 4.2, K5.
    """
    Channel.driver.setup.set_flags(Flags)


@returns_status
def VmbServerChannelInitSetFlags(Channel: VMBCHANNEL, Flags: int) -> None:
    """``Flags`` of the offer of ``Channel``: VMBUS_SERVER_CHANNEL_INIT_FLAG_* bits.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled, or for a client's; _2 for unknown bits.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_server_flags`. Rules: 4.1, 4.2.
    """
    Channel.driver.setup.set_server_flags(Flags)


@returns_status
def VmbServerChannelInitSetMmioMegabytes(Channel: VMBCHANNEL, MmioMegabytes: int, MmioMegabytesOptional: int) -> None:
    """The offer of ``Channel`` wishes for ``MmioMegabytes`` MiB of MMIO space, or ``MmioMegabytesOptional`` at least.

    Both are 16-bit numbers. Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled, or for a client's;
    INVALID_PARAMETER when both are 0; INVALID_PARAMETER_2 and _3 outside 16 bits.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_mmio_megabytes`. Rules: 4.2.
    """
    Channel.driver.setup.set_mmio_megabytes(MmioMegabytes, MmioMegabytesOptional)


@returns_status
def VmbServerChannelInitSetTargetInterfaceId(Channel: VMBCHANNEL, InterfaceType: UUID, InterfaceInstance: UUID) -> None:
    """``Channel`` is offered as ``InterfaceType``, instance ``InterfaceInstance``.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled, or for a client's.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_target_interface`. Rules: 4.2.
    """
    Channel.driver.setup.set_target_interface(InterfaceType, InterfaceInstance)


@returns_status
def VmbServerChannelInitSetTargetVtl(Channel: VMBCHANNEL, TargetVtl: int) -> None:
    """``Channel`` is offered to the virtual trust level ``TargetVtl`` only; guests here are at level 0.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled, or for a client's; _2 for a level there is not.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_target_vtl`. Rules: 4.2.
    """
    Channel.driver.setup.set_target_vtl(TargetVtl)


@returns_status
def VmbServerChannelInitSetVmbusHandle(Channel: VMBCHANNEL, VmbusHandle: KERNEL_HANDLE) -> None:
    """``Channel`` is offered to the virtual machine of ``VmbusHandle``, a kernel handle, not to its parent device's.

    Returns SUCCESS; INVALID_PARAMETER_1 once it was enabled, or for a client's; INVALID_PARAMETER_2 for a handle that
    was closed.

    Python: `clients.vmbus.Machine.allocate_channel`. Rules: 4.2.
    """
    Channel.driver.setup.check_initialising()
    if not Channel.is_server:
        raise Refused(NtStatus.INVALID_PARAMETER_1, "a client's channel belongs to its own machine", rule="4.2")
    if not (isinstance(VmbusHandle, KERNEL_HANDLE) and VmbusHandle.is_open):
        text = "a kernel handle that is open is wanted; VmbConvertVmbusHandleToKernelHandle makes one"
        raise Refused(NtStatus.INVALID_PARAMETER_2, text, rule="4.2")
    Channel.move_to(VmbusHandle.machine)


@returns_status
def VmbConvertVmbusHandleToKernelHandle(VmbusHandle: Machine, KernelHandle: Out[KERNEL_HANDLE]) -> None:
    """Set ``KernelHandle`` to a kernel handle for ``VmbusHandle``, which is a machine here; ``ZwClose`` closes it.

    Returns SUCCESS; INVALID_HANDLE for what is no machine.

    Python: `clients.connection.Connection.machine`. Rules: 4.2.
    """
    if not hasattr(VmbusHandle, "allocate_channel"):
        raise Refused(NtStatus.INVALID_HANDLE, "a machine of a connection is wanted: await daemon.machine(name)")
    KernelHandle.value = KERNEL_HANDLE(VmbusHandle)


def ZwClose(Handle: KERNEL_HANDLE) -> NtStatus:
    """Close ``Handle``. Returns SUCCESS; INVALID_HANDLE for one that is closed."""
    if not Handle.is_open:
        return NtStatus.INVALID_HANDLE
    Handle.is_open = False
    return NtStatus.SUCCESS


@returns_status
def VmbServerChannelInitSetSaveRestorePacketCallbacks(
    Channel: VMBCHANNEL,
    SavePacketCallback: EVT_VMB_CHANNEL_SAVE_PACKET,
    RestorePacketCallback: EVT_VMB_CHANNEL_RESTORE_PACKET,
) -> None:
    """``SavePacketCallback`` and ``RestorePacketCallback`` would save and restore a driver's state of each packet.

    They are taken and never called: VmbChannelSaveBegin answers NOT_SUPPORTED. Returns SUCCESS; INVALID_PARAMETER_1
    once ``Channel`` was enabled, or for a client's.

    Python: none. Rules: 4.2, 4.3.
    """
    Channel.driver.setup.check_initialising()
    if not Channel.is_server:
        raise Refused(NtStatus.INVALID_PARAMETER_1, "only a server's channel can be saved", rule="4.2")


@returns_status
def VmbClientChannelInitSetRingBufferPageCount(
    Channel: VMBCHANNEL, IncomingPageCount: int, OutgoingPageCount: int
) -> None:
    """The rings of ``Channel``, memory of the client's, have so many data pages of 4,096 bytes each.

    ``IncomingPageCount`` for what comes to the client, ``OutgoingPageCount`` for what it sends. Returns SUCCESS;
    INVALID_PARAMETER_1 once it was enabled, or for a server's; _2 and _3 for numbers outside 1 to 4,094.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_ring_pages`. Rules: 4.2, 4.3.
    """
    Channel.driver.setup.set_ring_pages(IncomingPageCount, OutgoingPageCount)


@returns_status
def VmbClientChannelInitSetTargetPnp(
    Channel: VMBCHANNEL,
    InterfaceType: UUID,
    InterfaceInstance: UUID | None,
    PnpFailureCallback: EVT_VMB_CHANNEL_PNP_FAILURE | None,
) -> None:
    """``Channel`` takes the offer of ``InterfaceType`` that is ``InterfaceInstance``, or any of them for None.

    ``PnpFailureCallback``, if any, hears of an offer that was there and could not be opened. Returns SUCCESS;
    INVALID_PARAMETER_1 once it was enabled, or for a server's.

    Python: `emulator.vmbus.channel_setup.ChannelSetup.set_target`. Rules: 4.2.
    """
    Channel.driver.setup.set_target(InterfaceType, InterfaceInstance)
    Channel.pnp_failure = PnpFailureCallback

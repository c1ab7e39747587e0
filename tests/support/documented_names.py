"""KMCL's documented functions and callbacks: their names, whose they are, and their arguments, taken down by hand.

``clients.kmcl`` is checked against this, never the other way around.
"""

from __future__ import annotations

from typing import NamedTuple


class Documented(NamedTuple):
    """One function or callback. ``side`` is B for both ends, C for clients (guests), S for servers (hosts)."""

    name: str
    side: str
    arguments: tuple[str, ...]


def _rows(text: str) -> tuple[Documented, ...]:
    rows = []
    for line in text.strip().splitlines():
        side, name, arguments = line.split(maxsplit=2) if line.count(" ") > 1 else (*line.split(), "")
        rows.append(Documented(name, side, tuple(arguments.split(", ")) if arguments else ()))
    return tuple(rows)


FUNCTIONS = _rows("""
B VmbChannelAllocate ParentDeviceObject, IsServer, Channel
B VmbChannelCleanup Channel
B VmbChannelInitSetMaximumPacketSize Channel, PacketSize
B VmbChannelInitSetMaximumExternalData Channel, DataSize, ChainLength
B VmbChannelInitSetClientContextSize Channel, ContextSize
B VmbChannelInitSetProcessPacketCallbacks Channel, ProcessPacketCallback, ProcessingCompleteCallback
B VmbChannelInitSetStateChangeCallbacks Channel, StateChangeCallbacks
B VmbChannelInitSetFriendlyName Channel, Name
B VmbChannelInitSetFlags Channel, Flags
S VmbServerChannelInitSetFlags Channel, Flags
S VmbServerChannelInitSetMmioMegabytes Channel, MmioMegabytes, MmioMegabytesOptional
S VmbServerChannelInitSetTargetInterfaceId Channel, InterfaceType, InterfaceInstance
S VmbServerChannelInitSetTargetVtl Channel, TargetVtl
S VmbServerChannelInitSetVmbusHandle Channel, VmbusHandle
S VmbServerChannelInitSetSaveRestorePacketCallbacks Channel, SavePacketCallback, RestorePacketCallback
S VmbConvertVmbusHandleToKernelHandle VmbusHandle, KernelHandle
C VmbClientChannelInitSetRingBufferPageCount Channel, IncomingPageCount, OutgoingPageCount
C VmbClientChannelInitSetTargetPnp Channel, InterfaceType, InterfaceInstance, PnpFailureCallback
B VmbChannelEnable Channel
B VmbChannelDisable Channel
B VmbChannelStart Channel
B VmbChannelPause Channel
B VmbChannelSetPointer Channel, Pointer
B VmbChannelGetPointer Channel
B VmbChannelGetInterfaceInstance Channel, InterfaceInstance
B VmbChannelGetMmioSpace Channel, MmioAddress, MmioSize
C VmbChannelSetInterruptLatency Channel, Latency, OriginalLatency
B VmbChannelSetIncomingProcessingAtPassive Channel, RequirePassive
B VmbChannelSetTransactionQuota Channel, Quota
B VmbChannelSizeofPacket Channel
C VmbChannelCreateGpadlFromMdl Channel, Flags, Mdl, StartOffsetWithinMdl, DataLengthWithinMdl, GpadlHandle
C VmbChannelCreateGpadlFromBuffer Channel, Flags, Buffer, ByteCount, GpadlHandle
C VmbChannelDeleteGpadl Channel, GpadlHandle
S VmbChannelMapGpadl Channel, Flags, GpadlHandle, Mdl
S VmbChannelUnmapGpadl Channel, GpadlHandle
B VmbPacketAllocate Channel
B VmbPacketInitialize Channel, VmbPacket, ByteCount
B VmbPacketFree VmbPacket
B VmbPacketSetPointer PacketObject, Pointer
B VmbPacketGetPointer PacketObject
B VmbPacketGetChannel PacketObject
B VmbPacketSetCompletionRoutine PacketObject, CompletionRoutine
B VmbPacketSend PacketObject, Buffer, BufferLength, ExternalDataMdl, Flags
C VmbPacketSendWithExternalMdl PacketObject, Buffer, BufferLength, ExternalDataMdl, MdlOffset, MdlLength, Flags
C VmbPacketSendWithExternalPfns PacketObject, Buffer, BufferLength, ExternalDataPfns, PfnLength, Flags
B VmbChannelSendSynchronousRequest Channel, Buffer, BufferSize, ExternalDataMdl, Flags, CompletionBuffer, \
CompletionBufferSize, Timeout
B VmbChannelPacketComplete PacketCompletionContext, PacketCompletionBuffer, BufSize
B VmbChannelPacketFail PacketCompletionContext
B VmbChannelPacketDeferToPassive PacketCompletionContext
B VmbChannelPacketGetExternalData PacketCompletionContext, Flags, Mdl
S VmbChannelSaveBegin Channel
S VmbChannelSaveContinue Channel, SaveBuffer, SaveBufferSize, BytesFilled, BytesRequired
S VmbChannelSaveEnd Channel
S VmbChannelRestoreFromBuffer Channel, Buffer, BufferSize
S VmbPacketRestore PacketObject, Buffer, BufferSize
B VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT Callbacks
""")

CALLBACKS = _rows("""
B EvtVmbChannelOpened Channel
B EvtVmbChannelClosed Channel
B EvtVmbChannelStarted Channel
B EvtVmbChannelPostStarted Channel
B EvtVmbChannelSuspend Channel
B EvtVmbChannelProcessPacket Channel, Packet, Buffer, BufferLength, Flags
B EvtVmbChannelProcessingComplete Channel, PacketsProcessed
B EvtVmbPacketCompletionRoutine Packet, Status, Buffer, BufferLength
S EvtVmbChannelSavePacket Channel, Packet, SaveBuf, SaveBufSize, BytesNeeded
S EvtVmbChannelRestorePacket Channel, LibBuf, LibBufSize, SaveBuf, SaveBufSize
C EvtVmbChannelPnpFailure Channel, FailureStatus
""")

CLIENT_ORDER = [
    "ChannelAllocate",
    "ChannelCleanup",
    "ChannelCreateGpadlFromBuffer",
    "ChannelCreateGpadlFromMdl",
    "ChannelDeleteGpadl",
    "ChannelDisable",
    "ChannelEnable",
    "ChannelGetInterfaceInstance",
    "ChannelGetMmioSpace",
    "ChannelGetPointer",
    "ChannelInitSetClientContextSize",
    "ChannelInitSetFlags",
    "ChannelInitSetFriendlyName",
    "ChannelInitSetMaximumExternalData",
    "ChannelInitSetMaximumPacketSize",
    "ChannelInitSetProcessPacketCallbacks",
    "ChannelInitSetStateChangeCallbacks",
    "ChannelPacketComplete",
    "ChannelPacketDeferToPassive",
    "ChannelPacketFail",
    "ChannelPacketGetExternalData",
    "ChannelPause",
    "ChannelSendSynchronousRequest",
    "ChannelSetIncomingProcessingAtPassive",
    "ChannelSetInterruptLatency",
    "ChannelSetPointer",
    "ChannelSetTransactionQuota",
    "ChannelSizeofPacket",
    "ChannelStart",
    "ClientChannelInitSetRingBufferPageCount",
    "ClientChannelInitSetTargetPnp",
    "PacketAllocate",
    "PacketFree",
    "PacketGetChannel",
    "PacketGetPointer",
    "PacketInitialize",
    "PacketSend",
    "PacketSendWithExternalMdl",
    "PacketSendWithExternalPfns",
    "PacketSetCompletionRoutine",
    "PacketSetPointer",
]
"""The client's table, version 1, each with Vmb in front."""

SERVER_ONLY_ORDER = [
    "ChannelMapGpadl",
    "ChannelRestoreFromBuffer",
    "ChannelSaveBegin",
    "ChannelSaveContinue",
    "ChannelSaveEnd",
    "ChannelUnmapGpadl",
    "ConvertVmbusHandleToKernelHandle",
    "PacketRestore",
    "ServerChannelInitSetFlags",
    "ServerChannelInitSetMmioMegabytes",
    "ServerChannelInitSetSaveRestorePacketCallbacks",
    "ServerChannelInitSetTargetInterfaceId",
    "ServerChannelInitSetTargetVtl",
    "ServerChannelInitSetVmbusHandle",
]
"""What the server's table has behind the client's."""


def kmcl_name(name: str) -> str:
    """What a documented name is called in ``clients.kmcl``: a callback's prototype has the header's spelling."""
    if not name.startswith("Evt"):
        return name
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in name)
    return words.lstrip("_").upper()

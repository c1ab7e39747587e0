"""How a driver gets KMCL's functions: an interface query, by type, size and version, that fills a table of them.

The tables are in the documented order. GUIDs of the two interface types are not published; these are this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from clients import kmcl_gpadl, kmcl_init, kmcl_life, kmcl_packet, kmcl_receive, kmcl_send
from clients.kmcl_calls import refused
from clients.kmcl_channel import WDFDEVICE
from emulator.status import NtStatus

KMCL_CLIENT_INTERFACE_TYPE = UUID("b1ce5d0a-6f3c-4a51-9d0e-7c1a54b60001")
KMCL_SERVER_INTERFACE_TYPE = UUID("b1ce5d0a-6f3c-4a51-9d0e-7c1a54b60002")
KMCL_CLIENT_INTERFACE_VERSION_V1 = 1
KMCL_CLIENT_INTERFACE_VERSION_LATEST = KMCL_CLIENT_INTERFACE_VERSION_V1
KMCL_SERVER_INTERFACE_VERSION_V1 = 1
KMCL_SERVER_INTERFACE_VERSION_LATEST = KMCL_SERVER_INTERFACE_VERSION_V1

CLIENT_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    kmcl_init.VmbChannelAllocate,
    kmcl_init.VmbChannelCleanup,
    kmcl_gpadl.VmbChannelCreateGpadlFromBuffer,
    kmcl_gpadl.VmbChannelCreateGpadlFromMdl,
    kmcl_gpadl.VmbChannelDeleteGpadl,
    kmcl_life.VmbChannelDisable,
    kmcl_life.VmbChannelEnable,
    kmcl_life.VmbChannelGetInterfaceInstance,
    kmcl_life.VmbChannelGetMmioSpace,
    kmcl_life.VmbChannelGetPointer,
    kmcl_init.VmbChannelInitSetClientContextSize,
    kmcl_init.VmbChannelInitSetFlags,
    kmcl_init.VmbChannelInitSetFriendlyName,
    kmcl_init.VmbChannelInitSetMaximumExternalData,
    kmcl_init.VmbChannelInitSetMaximumPacketSize,
    kmcl_init.VmbChannelInitSetProcessPacketCallbacks,
    kmcl_init.VmbChannelInitSetStateChangeCallbacks,
    kmcl_receive.VmbChannelPacketComplete,
    kmcl_receive.VmbChannelPacketDeferToPassive,
    kmcl_receive.VmbChannelPacketFail,
    kmcl_receive.VmbChannelPacketGetExternalData,
    kmcl_life.VmbChannelPause,
    kmcl_send.VmbChannelSendSynchronousRequest,
    kmcl_life.VmbChannelSetIncomingProcessingAtPassive,
    kmcl_life.VmbChannelSetInterruptLatency,
    kmcl_life.VmbChannelSetPointer,
    kmcl_life.VmbChannelSetTransactionQuota,
    kmcl_packet.VmbChannelSizeofPacket,
    kmcl_life.VmbChannelStart,
    kmcl_init.VmbClientChannelInitSetRingBufferPageCount,
    kmcl_init.VmbClientChannelInitSetTargetPnp,
    kmcl_packet.VmbPacketAllocate,
    kmcl_packet.VmbPacketFree,
    kmcl_packet.VmbPacketGetChannel,
    kmcl_packet.VmbPacketGetPointer,
    kmcl_packet.VmbPacketInitialize,
    kmcl_send.VmbPacketSend,
    kmcl_send.VmbPacketSendWithExternalMdl,
    kmcl_send.VmbPacketSendWithExternalPfns,
    kmcl_packet.VmbPacketSetCompletionRoutine,
    kmcl_packet.VmbPacketSetPointer,
)
"""The 41 functions of the client's interface, version 1."""

SERVER_ONLY_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    kmcl_gpadl.VmbChannelMapGpadl,
    kmcl_life.VmbChannelRestoreFromBuffer,
    kmcl_life.VmbChannelSaveBegin,
    kmcl_life.VmbChannelSaveContinue,
    kmcl_life.VmbChannelSaveEnd,
    kmcl_gpadl.VmbChannelUnmapGpadl,
    kmcl_init.VmbConvertVmbusHandleToKernelHandle,
    kmcl_life.VmbPacketRestore,
    kmcl_init.VmbServerChannelInitSetFlags,
    kmcl_init.VmbServerChannelInitSetMmioMegabytes,
    kmcl_init.VmbServerChannelInitSetSaveRestorePacketCallbacks,
    kmcl_init.VmbServerChannelInitSetTargetInterfaceId,
    kmcl_init.VmbServerChannelInitSetTargetVtl,
    kmcl_init.VmbServerChannelInitSetVmbusHandle,
)
"""The 14 functions that the server's interface, version 1, has more."""

_HEADER_BYTES = 32  # Windows: INTERFACE on x64: two 16-bit numbers, padding, three pointers
_POINTER_BYTES = 8


class INTERFACE:
    """A table that an interface query fills: its header, and its functions as attributes in the documented order."""

    functions: tuple[Callable[..., Any], ...] = ()

    def __init__(self) -> None:
        self.Size = 0
        self.Version = 0
        self.Context: object = None
        self.InterfaceReference: Callable[[object], None] | None = None
        self.InterfaceDereference: Callable[[object], None] | None = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no {name}; was the interface query successful?")


class KMCL_CLIENT_INTERFACE_V1(INTERFACE):
    """KMCL's functions for a client: 41 of them."""

    functions = CLIENT_FUNCTIONS


class KMCL_SERVER_INTERFACE_V1(INTERFACE):
    """KMCL's functions for a server: the client's 41, and 14 more."""

    functions = CLIENT_FUNCTIONS + SERVER_ONLY_FUNCTIONS


_KNOWN: dict[UUID, type[INTERFACE]] = {
    KMCL_CLIENT_INTERFACE_TYPE: KMCL_CLIENT_INTERFACE_V1,
    KMCL_SERVER_INTERFACE_TYPE: KMCL_SERVER_INTERFACE_V1,
}


def sizeof(Table: type[INTERFACE]) -> int:
    """The bytes of a table on x64: its header, and a pointer for each function."""
    return _HEADER_BYTES + _POINTER_BYTES * len(Table.functions)


def WdfFdoQueryForInterface(
    Fdo: WDFDEVICE | None,
    InterfaceType: UUID | None,
    Interface: INTERFACE | None,
    Size: int,
    Version: int,
    InterfaceSpecificData: object = None,
) -> NtStatus:
    """Fill ``Interface`` with the functions of ``InterfaceType``, in ``Version``, for the device ``Fdo``.

    ``Size`` is ``sizeof`` the table in bytes, or more. ``InterfaceSpecificData`` is None. Returns SUCCESS;
    INVALID_PARAMETER without a device, type or table; NOT_SUPPORTED for an unknown type or version; BUFFER_TOO_SMALL
    for a ``Size`` that is less than the table's.
    """
    if Fdo is None or InterfaceType is None or Interface is None:
        return refused(NtStatus.INVALID_PARAMETER, "a device, an interface type and a table are wanted")
    table = _KNOWN.get(InterfaceType)
    if table is None:
        text = "the types here are KMCL_CLIENT_INTERFACE_TYPE and KMCL_SERVER_INTERFACE_TYPE"
        return refused(NtStatus.NOT_SUPPORTED, f"nobody has an interface {InterfaceType}; {text}")
    if Version != 1:
        return refused(NtStatus.NOT_SUPPORTED, f"{table.__name__} is the only version there is, not {Version}")
    if Size < sizeof(table) or not isinstance(Interface, table):
        text = f"{table.__name__} has {sizeof(table)} bytes, which {Size} bytes of {type(Interface).__name__} are not"
        return refused(NtStatus.BUFFER_TOO_SMALL, text)
    Interface.Size, Interface.Version, Interface.Context = sizeof(table), Version, Fdo
    Interface.InterfaceReference = Interface.InterfaceDereference = _no_count
    for function in table.functions:
        setattr(Interface, function.__name__, function)
    return NtStatus.SUCCESS


def _no_count(Context: object) -> None:
    """Functions do not go away: nothing is counted."""


WdfIoTargetQueryForInterface = WdfFdoQueryForInterface

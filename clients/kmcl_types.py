"""The types, constants and statuses of KMCL's header, as far as Python needs them. Pure.

An ``Out`` stands where C passes the address of a variable: the callee sets ``value``, and may read it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from clients.kmcl_callbacks import (
    EVT_VMB_CHANNEL_CLOSED,
    EVT_VMB_CHANNEL_OPENED,
    EVT_VMB_CHANNEL_POST_STARTED,
    EVT_VMB_CHANNEL_STARTED,
    EVT_VMB_CHANNEL_SUSPEND,
)
from emulator.memory import Mdl
from emulator.status import NtStatus

T = TypeVar("T")

NTSTATUS = NtStatus
PMDL = Mdl
GUID = UUID

STATUS_SUCCESS = NtStatus.SUCCESS
STATUS_PENDING = NtStatus.PENDING
STATUS_BUFFER_OVERFLOW = NtStatus.BUFFER_OVERFLOW
STATUS_UNSUCCESSFUL = NtStatus.UNSUCCESSFUL
STATUS_INVALID_HANDLE = NtStatus.INVALID_HANDLE
STATUS_INVALID_PARAMETER = NtStatus.INVALID_PARAMETER
STATUS_MORE_PROCESSING_REQUIRED = NtStatus.MORE_PROCESSING_REQUIRED
STATUS_BUFFER_TOO_SMALL = NtStatus.BUFFER_TOO_SMALL
STATUS_INSUFFICIENT_RESOURCES = NtStatus.INSUFFICIENT_RESOURCES
STATUS_NOT_SUPPORTED = NtStatus.NOT_SUPPORTED
STATUS_INVALID_PARAMETER_1 = NtStatus.INVALID_PARAMETER_1
STATUS_INVALID_PARAMETER_2 = NtStatus.INVALID_PARAMETER_2
STATUS_INVALID_PARAMETER_3 = NtStatus.INVALID_PARAMETER_3
STATUS_INVALID_PARAMETER_4 = NtStatus.INVALID_PARAMETER_4
STATUS_INVALID_PARAMETER_5 = NtStatus.INVALID_PARAMETER_5
STATUS_INVALID_PARAMETER_6 = NtStatus.INVALID_PARAMETER_6
STATUS_INVALID_PARAMETER_7 = NtStatus.INVALID_PARAMETER_7
STATUS_CANCELLED = NtStatus.CANCELLED
STATUS_INVALID_DEVICE_STATE = NtStatus.INVALID_DEVICE_STATE
STATUS_DEVICE_REMOVED = NtStatus.DEVICE_REMOVED

VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION = 0x1
VMBUS_CHANNEL_FORMAT_FLAG_FORCE_MDL_LENGTH = 0x2
VMBUS_CHANNEL_FORMAT_FLAG_PAGED_BUFFER = 0x4
VMBUS_CHANNEL_FORMAT_FLAGS = 0x7
VMBUS_CHANNEL_GPADL_FLAG_READ_ONLY = 0x1
VMBUS_CHANNEL_INIT_FLAG_IS_PIPE = 0x1
VMBUS_SERVER_CHANNEL_INIT_FLAG_LOOPBACK_OFFER = 0x1
VMBUS_SERVER_CHANNEL_INIT_FLAG_ENUMERATE_DEVICE_INTERFACE = 0x2
VMBUS_SERVER_CHANNEL_INIT_FLAG_OFFER_AS_PIPE = 0x4
VMBUS_SERVER_CHANNEL_INIT_FLAG_FORCE_NEW_CHANNEL = 0x8
VMBUS_SERVER_CHANNEL_INIT_FLAG_TLNPI_PROVIDER_OFFER = 0x10
VMBUS_CHANNEL_PROCESS_PACKET_FLAG_EXTERNAL_DATA = 0x1
VMBUS_CHANNEL_PACKET_EXTERNAL_DATA_FLAG_READ_ONLY = 0x1
VMBUS_SERVER_CHANNEL_INIT_MAXIMUM_OFFER_DATA = 120

PASSIVE_LEVEL = 0
DISPATCH_LEVEL = 2


def NT_SUCCESS(Status: NtStatus) -> bool:
    """Whether a status is a success or an information. STATUS_BUFFER_OVERFLOW, a warning, is not."""
    return Status.is_success


class Out(Generic[T]):
    """A variable whose address C would pass: ``Handle = Out(); Create(..., Handle); use(Handle.value)``."""

    __slots__ = ("value",)
    value: T

    def __init__(self, value: T | None = None) -> None:
        if value is not None:
            self.value = value

    def __repr__(self) -> str:
        return f"Out({self.value!r})" if hasattr(self, "value") else "Out()"


_STATE_CALLBACKS_BYTES = 48  # two 32-bit numbers and five pointers on x64


@dataclass
class VMB_CHANNEL_STATE_CHANGE_CALLBACKS:
    """The five state callbacks; VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT makes it usable. None is not called."""

    Version: int = 0
    Size: int = 0
    EvtChannelOpened: EVT_VMB_CHANNEL_OPENED | None = None
    EvtChannelClosed: EVT_VMB_CHANNEL_CLOSED | None = None
    EvtChannelSuspend: EVT_VMB_CHANNEL_SUSPEND | None = None
    EvtChannelStarted: EVT_VMB_CHANNEL_STARTED | None = None
    EvtChannelPostStarted: EVT_VMB_CHANNEL_POST_STARTED | None = None


def VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT(Callbacks: VMB_CHANNEL_STATE_CHANGE_CALLBACKS) -> None:
    """Empty ``Callbacks``, and give it its version, 1, and its size in bytes, 48 as on x64.

    Returns nothing.

    Python: `clients.driver.ChannelCallbacks`. Rules: 4.2.
    """
    Callbacks.__dict__.update(VMB_CHANNEL_STATE_CHANGE_CALLBACKS(1, _STATE_CALLBACKS_BYTES).__dict__)

"""How a driver gets KMCL's functions, and the small things around them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from clients import kmcl
from clients.kmcl import (
    KERNEL_HANDLE,
    KMCL_CLIENT_INTERFACE_TYPE,
    KMCL_CLIENT_INTERFACE_V1,
    KMCL_CLIENT_INTERFACE_VERSION_LATEST,
    KMCL_SERVER_INTERFACE_TYPE,
    KMCL_SERVER_INTERFACE_V1,
    NT_SUCCESS,
    STATUS_BUFFER_OVERFLOW,
    STATUS_BUFFER_TOO_SMALL,
    STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_SUPPORTED,
    STATUS_PENDING,
    STATUS_SUCCESS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT,
    VMBCHANNEL,
    WDFDEVICE,
    LastRefusal,
    Out,
    VmbChannelInitSetStateChangeCallbacks,
    VmbConvertVmbusHandleToKernelHandle,
    VmbPacketRestore,
    VmbServerChannelInitSetSaveRestorePacketCallbacks,
    WdfFdoQueryForInterface,
    WdfIoTargetQueryForInterface,
    ZwClose,
    sizeof,
)
from clients.kmcl_interface import INTERFACE
from emulator.status import NtStatus
from tests.clients.kmcl_drivers import drivers, good

V1 = KMCL_CLIENT_INTERFACE_VERSION_LATEST
CLIENT, SERVER = KMCL_CLIENT_INTERFACE_TYPE, KMCL_SERVER_INTERFACE_TYPE


def device() -> WDFDEVICE:
    """A device nobody asks anything of."""
    return WDFDEVICE.__new__(WDFDEVICE)


def test_the_sizes_are_those_of_the_structures_on_x64() -> None:
    assert (sizeof(KMCL_CLIENT_INTERFACE_V1), sizeof(KMCL_SERVER_INTERFACE_V1)) == (360, 472)


@pytest.mark.parametrize(("kind", "table"), [(CLIENT, KMCL_CLIENT_INTERFACE_V1), (SERVER, KMCL_SERVER_INTERFACE_V1)])
@pytest.mark.parametrize("query", [WdfFdoQueryForInterface, WdfIoTargetQueryForInterface])
def test_a_query_fills_the_table(kind: UUID, table: type[INTERFACE], query: type) -> None:
    interface = table()
    fdo = device()
    assert query(fdo, kind, interface, sizeof(table), V1, None) is STATUS_SUCCESS
    assert (interface.Size, interface.Version, interface.Context) == (sizeof(table), 1, fdo)
    for function in table.functions:
        assert getattr(interface, function.__name__) is getattr(kmcl, function.__name__)
    assert interface.InterfaceReference is not None
    interface.InterfaceReference(interface.Context)


def test_a_client_does_not_get_a_servers_functions() -> None:
    interface = KMCL_CLIENT_INTERFACE_V1()
    assert NT_SUCCESS(WdfFdoQueryForInterface(device(), CLIENT, interface, 360, V1))
    with pytest.raises(AttributeError, match="has no VmbChannelMapGpadl"):
        _ = interface.VmbChannelMapGpadl


@pytest.mark.parametrize(
    ("kind", "size", "version", "status", "text"),
    [
        (CLIENT, 359, V1, STATUS_BUFFER_TOO_SMALL, "has 360 bytes"),
        (CLIENT, 0, V1, STATUS_BUFFER_TOO_SMALL, "has 360 bytes"),
        (CLIENT, 360, 2, STATUS_NOT_SUPPORTED, "is the only version there is, not 2"),
        (CLIENT, 360, 0, STATUS_NOT_SUPPORTED, "is the only version there is, not 0"),
        (SERVER, 472, V1, STATUS_BUFFER_TOO_SMALL, "472 bytes of KMCL_CLIENT_INTERFACE_V1 are not"),
        (UUID(int=5), 360, V1, STATUS_NOT_SUPPORTED, "nobody has an interface"),
        (None, 360, V1, STATUS_INVALID_PARAMETER, "an interface type"),
    ],
)
def test_a_query_that_is_wrong_gets_its_status_and_nothing_else(
    kind: UUID | None, size: int, version: int, status: NtStatus, text: str
) -> None:
    interface = KMCL_CLIENT_INTERFACE_V1()
    assert WdfFdoQueryForInterface(device(), kind, interface, size, version) is status
    assert text in LastRefusal()
    with pytest.raises(AttributeError, match="was the interface query successful"):
        _ = interface.VmbChannelAllocate
    assert WdfFdoQueryForInterface(None, CLIENT, interface, 360, V1) is STATUS_INVALID_PARAMETER


def test_a_larger_table_than_the_version_has_is_no_mistake() -> None:
    assert WdfFdoQueryForInterface(device(), CLIENT, KMCL_SERVER_INTERFACE_V1(), 472, V1) is STATUS_BUFFER_TOO_SMALL
    interface = KMCL_CLIENT_INTERFACE_V1()
    assert WdfFdoQueryForInterface(device(), CLIENT, interface, 500, V1) is STATUS_SUCCESS
    assert interface.Size == 360


def test_nt_success_is_false_for_warnings() -> None:
    assert NT_SUCCESS(STATUS_SUCCESS)
    assert NT_SUCCESS(STATUS_PENDING)
    assert not NT_SUCCESS(STATUS_BUFFER_OVERFLOW)
    assert not NT_SUCCESS(STATUS_NOT_SUPPORTED)


def test_an_out_that_nobody_set_has_no_value() -> None:
    out: Out[int] = Out()
    assert repr(out) == "Out()"
    with pytest.raises(AttributeError):
        _ = out.value
    out.value = 5
    assert repr(out) == repr(Out(5)) == "Out(5)"


@pytest.mark.windows("VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT")
async def test_the_callbacks_structure_is_usable_once_it_was_initialised(tmp_path: Path) -> None:
    callbacks = VMB_CHANNEL_STATE_CHANGE_CALLBACKS(9, 9, EvtChannelOpened=lambda channel: STATUS_SUCCESS)
    async with drivers(tmp_path) as pair:
        channel = pair.client.channel
        assert VmbChannelInitSetStateChangeCallbacks(channel, callbacks) is NtStatus.INVALID_PARAMETER_2
        VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT(callbacks)
        assert (callbacks.Version, callbacks.Size, callbacks.EvtChannelOpened) == (1, 48, None)
        good(VmbChannelInitSetStateChangeCallbacks(channel, callbacks))


@pytest.mark.windows("VmbConvertVmbusHandleToKernelHandle")
async def test_a_kernel_handle_is_made_of_a_machine_and_closed_once(tmp_path: Path) -> None:
    async with drivers(tmp_path) as pair:
        handle: Out[KERNEL_HANDLE] = Out()
        wrong = VmbConvertVmbusHandleToKernelHandle("vm1", handle)  # type: ignore[arg-type] # what a driver may do
        assert wrong is STATUS_INVALID_HANDLE
        machine = pair.server.device.machine
        good(VmbConvertVmbusHandleToKernelHandle(machine, handle))
        assert handle.value.machine is machine
        assert ZwClose(handle.value) is STATUS_SUCCESS
        assert ZwClose(handle.value) is STATUS_INVALID_HANDLE


@pytest.mark.windows(
    "VmbChannelSaveBegin",
    "VmbChannelSaveContinue",
    "VmbChannelSaveEnd",
    "VmbChannelRestoreFromBuffer",
    "VmbPacketRestore",
    "VmbServerChannelInitSetSaveRestorePacketCallbacks",
    "EvtVmbChannelSavePacket",
    "EvtVmbChannelRestorePacket",
)
async def test_saving_and_restoring_is_clearly_not_supported(tmp_path: Path) -> None:
    def save(channel: VMBCHANNEL, packet: object, buffer: object, size: int, needed: Out[int]) -> NtStatus:
        raise AssertionError("nothing is saved")

    def restore(channel: VMBCHANNEL, library: bytes, size: int, own: bytes, own_size: int) -> NtStatus:
        raise AssertionError("nothing is restored")

    async with drivers(tmp_path) as pair:
        channel = pair.server.channel
        good(VmbServerChannelInitSetSaveRestorePacketCallbacks(channel, save, restore))
        wrong = VmbServerChannelInitSetSaveRestorePacketCallbacks(pair.client.channel, save, restore)
        assert wrong is NtStatus.INVALID_PARAMETER_1
        await pair.open()
        assert kmcl.VmbChannelSaveBegin(channel) is STATUS_NOT_SUPPORTED
        assert "does not save and restore channels" in LastRefusal()
        filled, required = Out(1), Out(1)
        assert kmcl.VmbChannelSaveContinue(channel, bytearray(8), 8, filled, required) is STATUS_NOT_SUPPORTED
        assert (filled.value, required.value) == (0, 0)
        kmcl.VmbChannelSaveEnd(channel)
        assert kmcl.VmbChannelRestoreFromBuffer(channel, b"", 0) is STATUS_NOT_SUPPORTED
        assert VmbPacketRestore(pair.server.packet(), b"", 0) is STATUS_NOT_SUPPORTED
        again = VmbServerChannelInitSetSaveRestorePacketCallbacks(channel, save, restore)
        assert again is NtStatus.INVALID_PARAMETER_1

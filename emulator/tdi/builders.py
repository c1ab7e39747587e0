"""Stack locations as a TDI client prepares them: one builder for each macro of the driver kit.

A builder returns a ``Location``: what the macro writes into the next stack location of an IRP. The data buffer is not
part of it; it goes beside it as an MDL chain. Pointers are addresses in the client's memory, and whoever builds a
request puts there what they point at: ``connection_information`` makes the commonest such structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from emulator.tdi.constants import AddressType, MajorFunction, MinorFunction, ShareAccess
from emulator.tdi.layout import Arch, Bytes, Structure, Value
from emulator.tdi.nt_layouts import IO_STACK_LOCATION
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_KERNEL,
    TDI_REQUEST_KERNEL_ACCEPT,
    TDI_REQUEST_KERNEL_ASSOCIATE,
    TDI_REQUEST_KERNEL_QUERY_INFORMATION,
    TDI_REQUEST_KERNEL_RECEIVE,
    TDI_REQUEST_KERNEL_RECEIVEDG,
    TDI_REQUEST_KERNEL_SEND,
    TDI_REQUEST_KERNEL_SENDDG,
    TDI_REQUEST_KERNEL_SET_EVENT,
    TDI_REQUEST_KERNEL_SET_INFORMATION,
)

INVOKE_ALWAYS = 0xE0
"""Windows: SL_INVOKE_ON_SUCCESS, _ON_ERROR and _ON_CANCEL, which come with a completion routine."""


class Location(NamedTuple):
    """One stack location: 72 bytes on x64, 36 on x86. Windows: IO_STACK_LOCATION."""

    arch: Arch
    image: bytes

    @property
    def major(self) -> int:
        """Windows: MajorFunction."""
        return self.image[0]

    @property
    def minor(self) -> int:
        """Windows: MinorFunction."""
        return self.image[1]


class Target(NamedTuple):
    """Where a request goes, and what is to be called at its end: addresses of the client's, which nobody here follows.

    Windows: the first arguments of every macro.
    """

    device_object: int = 0
    file_object: int = 0
    completion_routine: int = 0
    context: int = 0


NOWHERE = Target()


def location(
    arch: Arch, major: int, minor: int, parameters: bytes, target: Target = NOWHERE, *, control: int | None = None
) -> Location:
    """A stack location of any kind. With a completion routine it is called however the request ends."""
    if control is None:
        control = INVOKE_ALWAYS if target.completion_routine else 0
    values: dict[str, Value] = {
        "MajorFunction": major,
        "MinorFunction": minor,
        "Control": control,
        "Parameters": parameters,
        "DeviceObject": target.device_object,
        "FileObject": target.file_object,
        "CompletionRoutine": target.completion_routine,
        "Context": target.context if target.completion_routine else 0,
    }
    return Location(arch, IO_STACK_LOCATION.pack(arch, values))


def _internal(
    arch: Arch, minor: MinorFunction, target: Target, structure: Structure | None, values: Mapping[str, Value]
) -> Location:
    parameters = structure.pack(arch, values) if structure is not None else b""
    return location(arch, MajorFunction.INTERNAL_DEVICE_CONTROL, minor, parameters, target)


def _connection(
    arch: Arch, minor: MinorFunction, target: Target, flags: int, request: int, returned: int, specific: int
) -> Location:
    values = {
        "RequestFlags": flags,
        "RequestConnectionInformation": request,
        "ReturnConnectionInformation": returned,
        "RequestSpecific": specific,
    }
    return _internal(arch, minor, target, TDI_REQUEST_KERNEL, values)


# Datagrams.


def send_datagram(arch: Arch, send_length: int, information: int, target: Target = NOWHERE) -> Location:
    """``information`` points to a TDI_CONNECTION_INFORMATION. Windows: TdiBuildSendDatagram."""
    values = {"SendLength": send_length, "SendDatagramInformation": information}
    return _internal(arch, MinorFunction.SEND_DATAGRAM, target, TDI_REQUEST_KERNEL_SENDDG, values)


def receive_datagram(
    arch: Arch, receive_length: int, filter_by: int, returned: int, flags: int, target: Target = NOWHERE
) -> Location:
    """Both pointers are to TDI_CONNECTION_INFORMATION or null. Windows: TdiBuildReceiveDatagram."""
    values = {
        "ReceiveLength": receive_length,
        "ReceiveDatagramInformation": filter_by,
        "ReturnDatagramInformation": returned,
        "ReceiveFlags": flags,
    }
    return _internal(arch, MinorFunction.RECEIVE_DATAGRAM, target, TDI_REQUEST_KERNEL_RECEIVEDG, values)


def set_event_handler(arch: Arch, event_type: int, handler: int, context: int, target: Target = NOWHERE) -> Location:
    """Handler 0 takes the handler away. Windows: TdiBuildSetEventHandler."""
    values = {"EventType": event_type, "EventHandler": handler, "EventContext": context}
    return _internal(arch, MinorFunction.SET_EVENT_HANDLER, target, TDI_REQUEST_KERNEL_SET_EVENT, values)


# Questions and settings.


def query_information(arch: Arch, query_type: int, target: Target = NOWHERE) -> Location:
    """The answer goes to the MDL chain. Windows: TdiBuildQueryInformation."""
    values = {"QueryType": query_type}
    return _internal(arch, MinorFunction.QUERY_INFORMATION, target, TDI_REQUEST_KERNEL_QUERY_INFORMATION, values)


def set_information(arch: Arch, set_type: int, target: Target = NOWHERE) -> Location:
    """The structure comes from the MDL chain. Windows: TdiBuildSetInformation."""
    values = {"SetType": set_type}
    return _internal(arch, MinorFunction.SET_INFORMATION, target, TDI_REQUEST_KERNEL_SET_INFORMATION, values)


def action(arch: Arch, target: Target = NOWHERE) -> Location:
    """The MDL chain begins with a TDI_ACTION_HEADER. Windows: TdiBuildAction."""
    return _internal(arch, MinorFunction.ACTION, target, None, {})


# Connections.


def associate_address(arch: Arch, address_handle: int, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildAssociateAddress."""
    values = {"AddressHandle": address_handle}
    return _internal(arch, MinorFunction.ASSOCIATE_ADDRESS, target, TDI_REQUEST_KERNEL_ASSOCIATE, values)


def disassociate_address(arch: Arch, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildDisassociateAddress."""
    return _internal(arch, MinorFunction.DISASSOCIATE_ADDRESS, target, None, {})


def connect(arch: Arch, request: int, returned: int, timeout: int, target: Target = NOWHERE) -> Location:
    """``timeout`` points to a LARGE_INTEGER of negative 100-ns units, or is null. Windows: TdiBuildConnect."""
    return _connection(arch, MinorFunction.CONNECT, target, 0, request, returned, timeout)


def listen(arch: Arch, flags: int, request: int, returned: int, target: Target = NOWHERE) -> Location:
    """``flags`` 1 asks to accept later (Windows: TDI_QUERY_ACCEPT). Windows: TdiBuildListen."""
    return _connection(arch, MinorFunction.LISTEN, target, flags, request, returned, 0)


def accept(arch: Arch, request: int, returned: int, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildAccept."""
    values = {"RequestConnectionInformation": request, "ReturnConnectionInformation": returned}
    return _internal(arch, MinorFunction.ACCEPT, target, TDI_REQUEST_KERNEL_ACCEPT, values)


def disconnect(arch: Arch, flags: int, timeout: int, request: int, returned: int, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildDisconnect."""
    return _connection(arch, MinorFunction.DISCONNECT, target, flags, request, returned, timeout)


def send(arch: Arch, send_length: int, flags: int, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildSend."""
    values = {"SendLength": send_length, "SendFlags": flags}
    return _internal(arch, MinorFunction.SEND, target, TDI_REQUEST_KERNEL_SEND, values)


def receive(arch: Arch, receive_length: int, flags: int, target: Target = NOWHERE) -> Location:
    """Windows: TdiBuildReceive."""
    values = {"ReceiveLength": receive_length, "ReceiveFlags": flags}
    return _internal(arch, MinorFunction.RECEIVE, target, TDI_REQUEST_KERNEL_RECEIVE, values)


# What is no TDI request.


def create(arch: Arch, ea_length: int, share: ShareAccess) -> Location:
    """The attribute list goes into the system buffer; ``ea_length`` may be more than it has. Windows: IRP_MJ_CREATE."""
    values: dict[str, Value] = {
        "MajorFunction": MajorFunction.CREATE,
        "Parameters.Create.ShareAccess": share,
        "Parameters.Create.EaLength": ea_length,
    }
    return Location(arch, IO_STACK_LOCATION.pack(arch, values))


def cleanup(arch: Arch) -> Location:
    """The last handle is gone. Windows: IRP_MJ_CLEANUP."""
    return location(arch, MajorFunction.CLEANUP, 0, b"")


def close(arch: Arch) -> Location:
    """The last reference is gone. Windows: IRP_MJ_CLOSE."""
    return location(arch, MajorFunction.CLOSE, 0, b"")


def device_control(arch: Arch, code: int, input_length: int, output_length: int = 0) -> Location:
    """The input goes into the system buffer. Windows: IRP_MJ_DEVICE_CONTROL."""
    values: dict[str, Value] = {
        "MajorFunction": MajorFunction.DEVICE_CONTROL,
        "Parameters.DeviceIoControl.OutputBufferLength": output_length,
        "Parameters.DeviceIoControl.InputBufferLength": input_length,
        "Parameters.DeviceIoControl.IoControlCode": code,
    }
    return Location(arch, IO_STACK_LOCATION.pack(arch, values))


# What requests point at.


def connection_information(arch: Arch, at: int, remote_address: Bytes | None, options: Bytes = b"") -> bytes:
    """A TDI_CONNECTION_INFORMATION for address ``at``, with what it points at right behind it.

    ``remote_address`` is a whole TRANSPORT_ADDRESS; ``None`` leaves the pointer null.
    """
    behind = at + TDI_CONNECTION_INFORMATION.size(arch)
    remote = bytes(remote_address or b"")
    values = {
        "RemoteAddressLength": len(remote),
        "RemoteAddress": behind if remote_address is not None else 0,
        "OptionsLength": len(options),
        "Options": behind + len(remote) if options else 0,
    }
    return TDI_CONNECTION_INFORMATION.pack(arch, values) + remote + bytes(options)


def netbios_address(name: bytes, *, group: bool) -> bytes:
    """A TRANSPORT_ADDRESS of one NetBIOS name, padded with spaces to its 16 bytes: 26 bytes.

    Windows: TdiBuildNetbiosAddress.
    """
    padded = name[:16].ljust(16, b" ")
    header = b"\1\0\0\0" + (18).to_bytes(2, "little") + int(AddressType.NETBIOS).to_bytes(2, "little")
    return header + int(group).to_bytes(2, "little") + padded


def attribute(name: bytes, value: Bytes) -> bytes:
    """An extended-attribute list of one attribute. Windows: FILE_FULL_EA_INFORMATION, and TdiBuildNetbiosAddressEa."""
    return bytes(5) + bytes((len(name),)) + len(value).to_bytes(2, "little") + name + b"\0" + bytes(value)


def address_attribute(transport_address: Bytes) -> bytes:
    """The list that opens an address: 47 bytes for IPv4."""
    return attribute(b"TransportAddress", transport_address)


def connection_attribute(arch: Arch, context: int) -> bytes:
    """The list that opens a connection endpoint with this context: 34 bytes on x64, 30 on x86."""
    return attribute(b"ConnectionContext", context.to_bytes(arch.pointer_bytes, "little"))

"""Requests as a client's bytes: a stack location, what it points at, and the MDL chain beside it.

A pointer in such a request is a guest physical address: the client lays its structures out in guest memory as a driver
would in kernel memory. In a request of user mode (``user_mode``) it points into the buffer that came with the request,
and nowhere else. Nothing is read before the request's file has been found to take it, everything is copied once, and no
length a client names makes anything larger than a fixed bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from emulator.memory import AddressOutsideMemory, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import MajorFunction, MinorFunction, ReceiveFlags, ShareAccess
from emulator.tdi.irp import ConnectionInformation, Irp, MdlBuffer, SendDatagram
from emulator.tdi.layout import Arch, Bytes, Record, Structure
from emulator.tdi.nt_layouts import IO_STACK_LOCATION
from emulator.tdi.parameters import Action, Content, DeviceControl, QueryInformation, Room, SetInformation
from emulator.tdi.raw_connection import read_connection_request
from emulator.tdi.raw_returns import ReturnPlace, write_back
from emulator.tdi.receive_side import SetEventHandler
from emulator.tdi.receives import ReceiveDatagram, ReturnInformation
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_KERNEL_QUERY_INFORMATION,
    TDI_REQUEST_KERNEL_RECEIVEDG,
    TDI_REQUEST_KERNEL_SENDDG,
    TDI_REQUEST_KERNEL_SET_EVENT,
    TDI_REQUEST_KERNEL_SET_INFORMATION,
)
from emulator.tdi.structures import MAX_TRANSPORT_ADDRESS_BYTES


class Reach(Protocol):
    """Where a request's pointers may point."""

    def fetch(self, pointer: int, byte_count: int, what: str) -> bytes:
        """A private copy; Refused where there is no such memory."""

    def check(self, pointer: int, byte_count: int, what: str) -> None:
        """Refuse what ``fetch`` would refuse."""


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """All of a machine's memory."""

    memory: GuestMemory

    def fetch(self, pointer: int, byte_count: int, what: str) -> bytes:
        """A private copy; ACCESS_VIOLATION for what is not in the machine's memory."""
        try:
            return self.memory.read(pointer, byte_count)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.ACCESS_VIOLATION, f"{what} cannot be read: {error}") from error

    def check(self, pointer: int, byte_count: int, what: str) -> None:
        """Nothing: what is never read may point anywhere."""


class RawParameters:
    """The parameters of an internal device control, nothing of it looked at yet.

    ``handle_of`` turns a handle of the client's into the transport's, or refuses it.
    """

    def __init__(
        self,
        arch: Arch,
        minor: int,
        parameters: bytes,
        memory: GuestMemory,
        mdl: Mdl | None,
        handle_of: Callable[[int], int] = int,
    ) -> None:
        self.arch = arch
        self.minor = minor
        self.parameters = parameters
        self.buffer = None if mdl is None else MdlBuffer(memory, mdl)
        self.handle_of = handle_of
        self._memory = memory
        self._return_place: ReturnPlace | None = None

    def record(self, structure: Structure) -> Record:
        """The parameters as one structure."""
        return structure.parse_untrusted(self.parameters, self.arch)

    def fetch(self, pointer: int, byte_count: int, what: str) -> bytes:
        """A private copy of what a pointer leads to."""
        return KernelMemory(self._memory).fetch(pointer, byte_count, what)

    def information(self, pointer: int) -> ConnectionInformation | None:
        """What a pointer to a TDI_CONNECTION_INFORMATION leads to; None for a null pointer."""
        return read_information(KernelMemory(self._memory), pointer, self.arch)

    def returns_to(self, pointer: int) -> ReturnInformation | None:
        """Results go into the TDI_CONNECTION_INFORMATION there; the room it has, None for a null pointer."""
        if not pointer:
            return None
        size = TDI_CONNECTION_INFORMATION.size(self.arch)
        image = self.fetch(pointer, size, "returned connection information")
        record = TDI_CONNECTION_INFORMATION.parse_untrusted(image, self.arch)
        self._return_place = ReturnPlace(self._memory, self.arch, pointer, record)
        return self._return_place.room

    def read(self) -> object:
        """What the request asks, as the transport takes it."""
        match self.minor:
            case MinorFunction.SEND_DATAGRAM:
                sent = self.record(TDI_REQUEST_KERNEL_SENDDG)
                information = self.information(sent.number("SendDatagramInformation"))
                return SendDatagram(information, self.buffer, sent.number("SendLength"))
            case MinorFunction.RECEIVE_DATAGRAM:
                return self._receive_datagram()
            case MinorFunction.SET_EVENT_HANDLER:
                event = self.record(TDI_REQUEST_KERNEL_SET_EVENT)
                kind = event.number("EventType") & 0xFFFFFFFF
                return SetEventHandler(kind, event.number("EventHandler"), event.number("EventContext"))
            case MinorFunction.QUERY_INFORMATION:
                query = self.record(TDI_REQUEST_KERNEL_QUERY_INFORMATION)
                return QueryInformation(query.number("QueryType"), Room(self.buffer))
            case MinorFunction.SET_INFORMATION:
                setting = self.record(TDI_REQUEST_KERNEL_SET_INFORMATION)
                return SetInformation(setting.number("SetType"), Content(self.buffer))
            case MinorFunction.ACTION:
                return Action(Content(self.buffer))
            case _:
                return read_connection_request(self)

    def _receive_datagram(self) -> ReceiveDatagram:
        wanted = self.record(TDI_REQUEST_KERNEL_RECEIVEDG)
        information = self.information(wanted.number("ReceiveDatagramInformation"))
        room = self.returns_to(wanted.number("ReturnDatagramInformation"))
        flags = ReceiveFlags(wanted.number("ReceiveFlags"))
        return ReceiveDatagram(self.buffer, wanted.number("ReceiveLength"), information, room, flags)

    def completed(self, irp: Irp) -> None:
        """The request is over: what it brought is put where the client wants it, if it is not there already."""
        if not isinstance(irp.parameters, (QueryInformation, RawParameters)):
            write_back(irp, self.buffer, self._return_place)


def read_information(reach: Reach, pointer: int, arch: Arch) -> ConnectionInformation | None:
    """A TDI_CONNECTION_INFORMATION and the address behind it; None for a null pointer.

    Lengths are taken as they are, for the checks that judge them; of an address no more is copied than anyone looks at.
    """
    if not pointer:
        return None
    size = TDI_CONNECTION_INFORMATION.size(arch)
    record = TDI_CONNECTION_INFORMATION.parse_untrusted(reach.fetch(pointer, size, "connection information"), arch)
    for name in ("UserData", "Options", "RemoteAddress"):
        if record.number(name):
            reach.check(record.number(name), record.number(f"{name}Length"), name)
    remote: bytes | None = None
    if record.number("RemoteAddress"):
        length = min(max(record.number("RemoteAddressLength"), 0), MAX_TRANSPORT_ADDRESS_BYTES + 1)
        remote = reach.fetch(record.number("RemoteAddress"), length, "the remote address")
    return ConnectionInformation(
        remote, user_data_length=record.number("UserDataLength"), options_length=record.number("OptionsLength")
    )


class RawCreate:
    """What a create's stack location says beside the attributes (CR1)."""

    def __init__(self, location: Bytes, arch: Arch) -> None:
        record = parse_location_untrusted(location, arch)
        if record.number("MajorFunction") != MajorFunction.CREATE:
            text = f"a create has major function 0, not 0x{record.number('MajorFunction'):02X}"
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="CR1")
        self.share = ShareAccess(record.number("Parameters.Create.ShareAccess") & 7)
        self.ea_length = record.number("Parameters.Create.EaLength")

    def attributes(self, system_buffer: bytes) -> bytes:
        """The list, cut to its length (CR2); INVALID_PARAMETER when less is there than it claims."""
        if self.ea_length > len(system_buffer):
            text = f"the attribute list is said to have {self.ea_length} bytes, and {len(system_buffer)} were given"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="CR2")
        return system_buffer[: self.ea_length]


def parse_location_untrusted(location: Bytes, arch: Arch) -> Record:
    """A stack location's members; INVALID_PARAMETER for too few bytes."""
    return IO_STACK_LOCATION.parse_untrusted(location, arch)


def raw_irp(
    handle: int,
    location: Bytes,
    arch: Arch,
    memory: GuestMemory,
    *,
    mdl: Mdl | None = None,
    system_buffer: bytes = b"",
    base: int = 0,
    context: object = None,
    handle_of: Callable[[int], int] = int,
) -> Irp:
    """A request from a client's bytes, ready to be submitted; Refused for what is no stack location.

    ``system_buffer`` is a device control's input, which the client has at address ``base``; ``handle_of`` turns handles
    in the request into the transport's.
    """
    record = parse_location_untrusted(location, arch)
    major, minor = record.number("MajorFunction"), record.number("MinorFunction")
    buffer = None if mdl is None else MdlBuffer(memory, mdl)
    parameters: object
    if major == MajorFunction.DEVICE_CONTROL:
        control = "Parameters.DeviceIoControl."
        length = record.number(control + "InputBufferLength")
        if length > len(system_buffer):
            text = f"the input is said to have {length} bytes, and {len(system_buffer)} were given"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
        parameters = DeviceControl(
            record.number(control + "IoControlCode"),
            system_buffer[:length],
            base,
            record.number(control + "OutputBufferLength"),
            buffer,
            arch,
            handle_of,
        )
    else:
        start = IO_STACK_LOCATION.offset("Parameters", arch)
        size = 4 * arch.pointer_bytes
        parameters = RawParameters(arch, minor, record.image[start : start + size], memory, mdl, handle_of)
    return Irp(handle, parameters, context, major=major, minor=minor)

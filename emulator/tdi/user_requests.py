"""TDI requests from user mode: a device control turned into the internal request it stands for (O10 to O13).

The structure lies in the buffer that came with the control, behind a TDI_REQUEST nobody looks at. Its pointers lead
into that same buffer; one that leads out of it fails the request. The data of a send or receive are the MDL chain,
whose length stands for the length that kernel structures have. Windows: TdiMapUserRequest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.memory import AddressOutsideMemory
from emulator.status import NtStatus, Refused
from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    Disassociate,
    Disconnect,
    Listen,
    Receive,
    Send,
    relative_timeout,
)
from emulator.tdi.constants import DisconnectFlags, ListenFlags, MajorFunction, MinorFunction, ReceiveFlags, SendFlags
from emulator.tdi.control_codes import Ioctl
from emulator.tdi.irp import Irp, SendDatagram
from emulator.tdi.parameters import Action, Content, QueryInformation, Room, SetInformation
from emulator.tdi.raw import read_information
from emulator.tdi.raw_connection import read_peer
from emulator.tdi.raw_returns import ReturnPlace
from emulator.tdi.receives import ReceiveDatagram, ReturnInformation
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_ACCEPT,
    TDI_REQUEST_ASSOCIATE_ADDRESS,
    TDI_REQUEST_CONNECT,
    TDI_REQUEST_DISCONNECT,
    TDI_REQUEST_LISTEN,
    TDI_REQUEST_QUERY_INFORMATION,
    TDI_REQUEST_RECEIVE,
    TDI_REQUEST_RECEIVE_DATAGRAM,
    TDI_REQUEST_SEND,
    TDI_REQUEST_SEND_DATAGRAM,
    TDI_REQUEST_SET_INFORMATION,
)

if TYPE_CHECKING:
    from emulator.tdi.layout import Record, Structure
    from emulator.tdi.parameters import DeviceControl

_MINORS = {
    Ioctl.ACCEPT: MinorFunction.ACCEPT,
    Ioctl.CONNECT: MinorFunction.CONNECT,
    Ioctl.DISCONNECT: MinorFunction.DISCONNECT,
    Ioctl.LISTEN: MinorFunction.LISTEN,
    Ioctl.QUERY_INFORMATION: MinorFunction.QUERY_INFORMATION,
    Ioctl.RECEIVE: MinorFunction.RECEIVE,
    Ioctl.RECEIVE_DATAGRAM: MinorFunction.RECEIVE_DATAGRAM,
    Ioctl.SEND: MinorFunction.SEND,
    Ioctl.SEND_DATAGRAM: MinorFunction.SEND_DATAGRAM,
    Ioctl.SET_INFORMATION: MinorFunction.SET_INFORMATION,
    Ioctl.ASSOCIATE_ADDRESS: MinorFunction.ASSOCIATE_ADDRESS,
    Ioctl.DISASSOCIATE_ADDRESS: MinorFunction.DISASSOCIATE_ADDRESS,
    Ioctl.ACTION: MinorFunction.ACTION,
}


@dataclass(slots=True)
class UserBuffer:
    """The one place where pointers of a user-mode request may lead: its own buffer, at ``base`` for the client."""

    base: int
    data: bytearray

    def check(self, pointer: int, byte_count: int, what: str) -> None:
        """Refuse what lies outside (O11)."""
        end = self.base + len(self.data)
        if byte_count > 0 and not self.base <= pointer <= pointer + byte_count <= end:
            text = f"{what}, {byte_count} bytes at 0x{pointer:X}, is outside the request's buffer (0x{self.base:X} on)"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O11")

    def fetch(self, pointer: int, byte_count: int, what: str) -> bytes:
        """A copy of part of it."""
        self.check(pointer, byte_count, what)
        start = pointer - self.base
        return bytes(self.data[start : start + byte_count]) if byte_count > 0 else b""

    def write(self, pointer: int, data: bytes) -> None:
        """Put a result into it. AddressOutsideMemory for what does not fit."""
        start = pointer - self.base
        if start < 0 or start + len(data) > len(self.data):
            raise AddressOutsideMemory(f"{len(data)} bytes at 0x{pointer:X} are outside the request's buffer")
        self.data[start : start + len(data)] = data


def is_user_request(code: int) -> bool:
    """Whether a device control is a TDI request, refused or not; else it is private to a provider or unknown (O12)."""
    return code in _MINORS or code == Ioctl.SET_EVENT_HANDLER


def map_user_request(irp: Irp, control: DeviceControl) -> None:
    """Turn a device control into its internal request; Refused, with nothing changed, for what it may not be."""
    minor = _MINORS.get(Ioctl(control.code))
    if minor is None:
        text = "a program in user mode cannot register event handlers, which run in the kernel"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O11")
    request = _UserRequest(control)
    irp.parameters = request.read(minor)
    irp.major, irp.minor = MajorFunction.INTERNAL_DEVICE_CONTROL, minor
    control.results, control.changed = request.place, request.changed


class _UserRequest:
    """One control's structure and its MDL chain."""

    def __init__(self, control: DeviceControl) -> None:
        self._control = control
        self._reach = UserBuffer(control.base, bytearray(control.data))
        self.place: ReturnPlace | None = None
        self.changed: bytearray | None = None

    def _record(self, structure: Structure) -> Record:
        return structure.parse_untrusted(self._control.data, self._control.arch)

    @property
    def _length(self) -> int:
        return 0 if self._control.buffer is None else self._control.buffer.byte_count

    def _returns_to(self, pointer: int) -> ReturnInformation | None:
        if not pointer:
            return None
        arch = self._control.arch
        image = self._reach.fetch(pointer, TDI_CONNECTION_INFORMATION.size(arch), "returned connection information")
        record = TDI_CONNECTION_INFORMATION.parse_untrusted(image, arch)
        for name in ("UserData", "Options", "RemoteAddress"):
            if record.number(name):
                self._reach.check(record.number(name), record.number(f"{name}Length"), name)
        self.place, self.changed = ReturnPlace(self._reach, arch, pointer, record), self._reach.data
        return self.place.room

    def read(self, minor: MinorFunction) -> object:
        """The parameters of the internal request."""
        arch, buffer, reach = self._control.arch, self._control.buffer, self._reach
        match minor:
            case MinorFunction.SEND_DATAGRAM:
                sent = self._record(TDI_REQUEST_SEND_DATAGRAM)
                information = read_information(reach, sent.number("SendDatagramInformation"), arch)
                return SendDatagram(information, buffer, self._length)
            case MinorFunction.RECEIVE_DATAGRAM:
                wanted = self._record(TDI_REQUEST_RECEIVE_DATAGRAM)
                information = read_information(reach, wanted.number("ReceiveDatagramInformation"), arch)
                room = self._returns_to(wanted.number("ReturnInformation"))
                return ReceiveDatagram(buffer, 0, information, room, ReceiveFlags(wanted.number("ReceiveFlags")))
            case MinorFunction.QUERY_INFORMATION:
                asked = self._record(TDI_REQUEST_QUERY_INFORMATION).number("QueryType")
                return QueryInformation(asked, Room(buffer))
            case MinorFunction.SET_INFORMATION:
                return SetInformation(self._record(TDI_REQUEST_SET_INFORMATION).number("SetType"), Content(buffer))
            case MinorFunction.ACTION:
                return Action(Content(buffer))
            case _:
                return self._connection(minor)

    def _connection(self, minor: MinorFunction) -> object:
        buffer = self._control.buffer
        match minor:
            case MinorFunction.SEND:
                return Send(buffer, SendFlags(self._record(TDI_REQUEST_SEND).number("SendFlags")), self._length)
            case MinorFunction.RECEIVE:
                flags = self._record(TDI_REQUEST_RECEIVE).number("ReceiveFlags")
                return Receive(self._length, ReceiveFlags(flags))
            case MinorFunction.ASSOCIATE_ADDRESS:
                handle = self._record(TDI_REQUEST_ASSOCIATE_ADDRESS).number("AddressHandle")
                return Associate(self._control.handle_of(handle))
            case MinorFunction.DISASSOCIATE_ADDRESS:
                return Disassociate()
            case MinorFunction.DISCONNECT:
                request = self._record(TDI_REQUEST_DISCONNECT)
                return Disconnect(DisconnectFlags.NONE, relative_timeout(request.number("Timeout") or None))
            case _:
                return self._meeting(minor)

    def _meeting(self, minor: MinorFunction) -> object:
        structure = {MinorFunction.CONNECT: TDI_REQUEST_CONNECT, MinorFunction.LISTEN: TDI_REQUEST_LISTEN}.get(
            minor, TDI_REQUEST_ACCEPT
        )
        request = self._record(structure)
        peer = read_peer(self._reach, request.number("RequestConnectionInformation"), self._control.arch)
        self._returns_to(request.number("ReturnConnectionInformation"))
        if minor == MinorFunction.CONNECT:
            return Connect(peer, relative_timeout(request.number("Timeout") or None))
        if minor == MinorFunction.LISTEN:
            return Listen(ListenFlags(request.number("ListenFlags")), peer)
        return Accept(peer)

"""A request of objects turned into the bytes a driver would have built: structures and data in guest memory."""

from __future__ import annotations

from struct import error as struct_error

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl, pages_spanned
from emulator.status import EmulatorError
from emulator.tdi.constants import MinorFunction
from emulator.tdi.irp import ConnectionInformation, Irp, MdlBuffer, SendDatagram
from emulator.tdi.layout import Arch
from emulator.tdi.raw import RawParameters
from emulator.tdi.receive_side import SetEventHandler
from emulator.tdi.receives import ReceiveDatagram, ReceivedDatagram, ReturnInformation
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_KERNEL_RECEIVEDG,
    TDI_REQUEST_KERNEL_SENDDG,
    TDI_REQUEST_KERNEL_SET_EVENT,
)
from emulator.tdi.structures import SocketAddress, pack_transport_address

FORMS = ("objects", "x64", "x86")
INFORMATION_AT = PAGE_SIZE + 3
ADDRESS_AT = 2 * PAGE_SIZE + 1
RETURN_AT = 3 * PAGE_SIZE
RETURN_ADDRESS_AT = RETURN_AT + 512
RETURN_OPTIONS_AT = RETURN_AT + 1024
PLENTY_BYTES = 64
"""Room for whatever there is to return."""
FIRST_DATA_PAGE = 4
DATA_OFFSET = 5
MOST_BYTES = 100_000


class RawForm:
    """A request in bytes, and what can be seen of its end in guest memory."""

    def __init__(self, raw: RawParameters, memory: GuestMemory, arch: Arch) -> None:
        self.raw = raw
        self._memory = memory
        self._arch = arch

    def check(self, irp: Irp) -> None:
        """What a completed receive says it brought lies where the client wanted it."""
        self.raw.completed(irp)
        brought = irp.returned
        if not isinstance(brought, ReceivedDatagram):
            return
        if self.raw.buffer is not None:
            assert self.raw.buffer.gather(len(brought.data)) == brought.data
        for name, at, data in (
            ("RemoteAddress", RETURN_ADDRESS_AT, brought.remote_address),
            ("Options", RETURN_OPTIONS_AT, brought.options),
        ):
            if data:
                length_at = RETURN_AT + TDI_CONNECTION_INFORMATION.offset(f"{name}Length", self._arch)
                assert self._memory.read(at, len(data)) == data
                assert self._memory.read(length_at, 4) == len(data).to_bytes(4, "little")


def as_bytes(irp: Irp, arch: Arch) -> RawForm | None:
    """The same request with its parameters in bytes; None, and nothing changed, where bytes cannot say what it says."""
    asked = irp.parameters
    if irp.minor == MinorFunction.SEND_DATAGRAM and isinstance(asked, SendDatagram):
        return _send(irp, asked, arch)
    if irp.minor == MinorFunction.RECEIVE_DATAGRAM and isinstance(asked, ReceiveDatagram):
        return _receive(irp, asked, arch)
    if irp.minor == MinorFunction.SET_EVENT_HANDLER and isinstance(asked, SetEventHandler):
        values = {"EventType": _signed(asked.event), "EventHandler": asked.function, "EventContext": asked.context}
        memory = _memory_for(0)
        return _finish(irp, arch, memory, None, TDI_REQUEST_KERNEL_SET_EVENT.pack(arch, values))
    return None


def _signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def _memory_for(size: int) -> GuestMemory:
    return GuestMemory(memoryview(bytearray((pages_spanned(DATA_OFFSET, size) + FIRST_DATA_PAGE + 1) * PAGE_SIZE)))


def _mdl_of(size: int) -> Mdl:
    pages = pages_spanned(DATA_OFFSET, size)
    return Mdl(DATA_OFFSET, size, tuple(range(FIRST_DATA_PAGE, FIRST_DATA_PAGE + pages)))


def _finish(irp: Irp, arch: Arch, memory: GuestMemory, mdl: Mdl | None, parameters: bytes) -> RawForm:
    raw = RawParameters(arch, irp.minor, parameters, memory, mdl)
    irp.parameters = raw
    return RawForm(raw, memory, arch)


def _send(irp: Irp, asked: SendDatagram, arch: Arch) -> RawForm | None:
    mdl: Mdl | None
    if isinstance(asked.data, MdlBuffer):
        memory, mdl, length = asked.data.memory, asked.data.mdl, asked.send_length
    else:
        size = len(asked.data or b"")
        length = size if asked.send_length is None else asked.send_length
        memory = _memory_for(size)
        mdl = None if asked.data is None else _mdl_of(size)
        memory.write(FIRST_DATA_PAGE * PAGE_SIZE + DATA_OFFSET, asked.data or b"")
    if length is None or not 0 <= length <= 0xFFFFFFFF or memory.page_count <= FIRST_DATA_PAGE:
        return None
    pointer = _place(asked.information, memory, arch)
    if pointer is None:
        return None
    values = {"SendLength": length, "SendDatagramInformation": pointer}
    return _finish(irp, arch, memory, mdl, TDI_REQUEST_KERNEL_SENDDG.pack(arch, values))


def _receive(irp: Irp, asked: ReceiveDatagram, arch: Arch) -> RawForm | None:
    # A test that has a chain of its own looks at its whole memory: no place for structures there.
    size = None if isinstance(asked.buffer, MdlBuffer) else asked.buffer or 0
    if size is None or size > MOST_BYTES or not 0 <= asked.receive_length <= 0xFFFFFFFF:
        return None
    memory, mdl = _memory_for(size), None if asked.buffer is None else _mdl_of(size)
    pointer = _place(asked.information, memory, arch)
    if pointer is None:
        return None
    values = {
        "ReceiveLength": asked.receive_length,
        "ReceiveDatagramInformation": pointer,
        "ReturnDatagramInformation": _place_return(asked.returned, memory, arch),
        "ReceiveFlags": int(asked.flags),
    }
    return _finish(irp, arch, memory, mdl, TDI_REQUEST_KERNEL_RECEIVEDG.pack(arch, values))


def _place_return(room: ReturnInformation | None, memory: GuestMemory, arch: Arch) -> int:
    if room is None:
        return 0
    remote = PLENTY_BYTES if room.remote_address_length is None else room.remote_address_length
    options = PLENTY_BYTES if room.options_length is None else room.options_length
    values = {
        "RemoteAddressLength": remote,
        "RemoteAddress": RETURN_ADDRESS_AT,
        "OptionsLength": options,
        "Options": RETURN_OPTIONS_AT if room.has_options else 0,
    }
    memory.write(RETURN_AT, TDI_CONNECTION_INFORMATION.pack(arch, values))
    return RETURN_AT


def _place(information: ConnectionInformation | None, memory: GuestMemory, arch: Arch) -> int | None:
    """Connection information in guest memory: its address, 0 for none, None for what bytes cannot say."""
    if information is None:
        return 0
    remote = information.remote_address
    if isinstance(remote, SocketAddress):
        try:
            remote = pack_transport_address(remote)
        except (ValueError, OverflowError, EmulatorError, struct_error):
            return None
    length = information.remote_address_length
    if length is None:
        length = len(remote or b"")
    if remote is not None:
        if len(remote) > memory.byte_count - ADDRESS_AT or length > len(remote):
            return None
        memory.write(ADDRESS_AT, remote)
    values = {
        "UserDataLength": information.user_data_length,
        "OptionsLength": information.options_length,
        "RemoteAddressLength": length,
        "RemoteAddress": 0 if remote is None else ADDRESS_AT,
    }
    memory.write(INFORMATION_AT, TDI_CONNECTION_INFORMATION.pack(arch, values))
    return INFORMATION_AT

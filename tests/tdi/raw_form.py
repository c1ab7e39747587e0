"""A request of objects turned into the bytes a driver would have built: structures and data in guest memory."""

from __future__ import annotations

from emulator.memory import PAGE_SIZE, GuestMemory, Mdl, pages_spanned
from emulator.tdi.constants import MinorFunction
from emulator.tdi.irp import ConnectionInformation, Irp, MdlBuffer, SendDatagram
from emulator.tdi.layout import Arch
from emulator.tdi.raw import RawParameters
from emulator.tdi.request_layouts import TDI_CONNECTION_INFORMATION, TDI_REQUEST_KERNEL_SENDDG
from emulator.tdi.structures import SocketAddress, host_facts_untrusted, pack_transport_address

FORMS = ("objects", "x64", "x86")
INFORMATION_AT = PAGE_SIZE + 3
ADDRESS_AT = 2 * PAGE_SIZE + 1
DATA_AT = 4 * PAGE_SIZE + 5


def as_bytes(irp: Irp, arch: Arch) -> Irp:
    """The same request with its parameters in bytes; as it is where bytes cannot say what it says."""
    asked = irp.parameters
    if irp.minor != MinorFunction.SEND_DATAGRAM or not isinstance(asked, SendDatagram):
        return irp
    mdl: Mdl | None
    if isinstance(asked.data, MdlBuffer):
        memory, mdl, length = asked.data.memory, asked.data.mdl, asked.send_length
    else:
        size = len(asked.data or b"")
        length = size if asked.send_length is None else asked.send_length
        memory = GuestMemory(memoryview(bytearray((pages_spanned(5, size) + 5) * PAGE_SIZE)))
        mdl = None if asked.data is None else Mdl(5, size, tuple(range(4, 4 + pages_spanned(5, size))))
        memory.write(DATA_AT, asked.data or b"")
    if length is None or not 0 <= length <= 0xFFFFFFFF or memory.page_count < 3:
        return irp
    pointer = 0
    if asked.information is not None:
        image = _information(asked.information, memory, arch)
        if image is None:
            return irp
        pointer = INFORMATION_AT
        memory.write(pointer, image)
    values = {"SendLength": length, "SendDatagramInformation": pointer}
    irp.parameters = RawParameters(arch, irp.minor, TDI_REQUEST_KERNEL_SENDDG.pack(arch, values), memory, mdl)
    return irp


def _information(information: ConnectionInformation, memory: GuestMemory, arch: Arch) -> bytes | None:
    remote = information.remote_address
    if isinstance(remote, SocketAddress):
        try:
            host_facts_untrusted(remote.host)
            remote = pack_transport_address(remote)
        except Exception:  # noqa: BLE001 -- whatever is wrong with it, there are no bytes for it
            return None
    length = information.remote_address_length
    if length is None:
        length = len(remote or b"")
    if remote is not None:
        if len(remote) > memory.byte_count - ADDRESS_AT or length > len(remote):
            return None
        memory.write(ADDRESS_AT, remote)
    return TDI_CONNECTION_INFORMATION.pack(
        arch,
        {
            "UserDataLength": information.user_data_length,
            "OptionsLength": information.options_length,
            "RemoteAddressLength": length,
            "RemoteAddress": 0 if remote is None else ADDRESS_AT,
        },
    )

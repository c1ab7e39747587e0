"""Files and requests as bytes, as calls of the pure protocol: shared by both faces."""

from __future__ import annotations

from typing import Any, NamedTuple

from clients.calls import Call
from clients.inbox import AddressState
from clients.protocol import GRANT, ClientProtocol, RequestFailed
from emulator.memory import Mdl
from emulator.status import NtStatus
from emulator.tdi.builders import Location, cleanup, close
from emulator.tdi.constants import FileKind
from emulator.tdi.layout import Arch
from emulator.wire.runs import pack_mdl_chain
from emulator.wire.schema import FILE_CREATE, IRP_SUBMIT, IRP_SUBMIT_AT


class IrpResult(NamedTuple):
    """How a request as bytes ended: any status, success or not. Windows: IO_STATUS_BLOCK.

    ``message`` says why it failed; ``output`` is what a device control answered.
    """

    status: NtStatus
    information: int
    message: str = ""
    output: bytes = b""


class FileState:
    """An open file as this client has it; an address object's ``address`` is where its datagrams arrive."""

    def __init__(
        self, number: int, kind: FileKind, local: tuple[str, int] | None, address: AddressState | None
    ) -> None:
        self.number = number
        self.kind = kind
        self.local = local
        self.address = address
        self.is_open = True


def create(protocol: ClientProtocol, machine: int, network: str, location: Location, attributes: bytes) -> Call:
    """IRP_MJ_CREATE; builds the FileState, or None when it was refused."""

    def build(result: tuple[Any, ...]) -> FileState | None:
        status, _information, _message, number, kind, host, port, *window = result
        if NtStatus(status).is_error or not number:
            return None
        address = None
        if kind == FileKind.ADDRESS:
            address = AddressState(number, (window[0], window[1]), GRANT)
            protocol.add_address(address)
        return FileState(number, FileKind(kind), (host, port) if address is not None else None, address)

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None:
            submit(protocol, call.built, close(location.arch), None, b"", 0)

    args = machine, network, location.arch.pointer_bytes, location.image, bytes(attributes)
    call = protocol.call(FILE_CREATE, *args, *GRANT, build=build, undo=undo)
    return call


def created(call: Call) -> FileState:
    """What a create built; RequestFailed when it was refused."""
    if call.built is None:
        status, information, message, *_ = call.outcome()
        raise RequestFailed(NtStatus(status), message, information)
    state: FileState = call.built
    return state


def of_address(state: AddressState, local: tuple[str, int]) -> FileState:
    """The file behind an address opened by its name."""
    return FileState(state.number, FileKind.ADDRESS, local, state)


def submit(
    protocol: ClientProtocol, state: FileState, location: Location, mdl: Mdl | None, buffer: bytes, buffer_at: int
) -> Call:
    """Any request on an open file."""
    args = state.number, location.arch.pointer_bytes, location.image, bytes(buffer), buffer_at, pack_mdl_chain(mdl)
    return protocol.call(IRP_SUBMIT, *args)


def submit_at(protocol: ClientProtocol, state: FileState, irp: int, arch: Arch) -> Call:
    """A request that lies in guest memory whole."""
    return protocol.call(IRP_SUBMIT_AT, state.number, arch.pointer_bytes, irp)


def result(outcome: tuple[Any, ...]) -> IrpResult:
    """How a request ended."""
    status, information, message, *output = outcome
    return IrpResult(NtStatus(status), information, message, bytes(output[0]) if output else b"")


def begin_close(protocol: ClientProtocol, state: FileState) -> list[Call]:
    """Cleanup and close; nothing when it is closed already."""
    if not state.is_open:
        return []
    state.is_open = False
    calls = [submit(protocol, state, each(Arch.X64), None, b"", 0) for each in (cleanup, close)]
    if state.address is not None:
        protocol.drop_address(state.address)
    return calls

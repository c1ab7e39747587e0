"""What the requests that no other module owns ask, once they have been understood.

A request reaches the transport as one of these objects, or still in a client's bytes (``RawParameters``), which turn
into one of these when the file has been found to take it: so a request wrong in several ways gets the same answer in
both forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from emulator.memory import AddressOutsideMemory
from emulator.status import NtStatus, Refused
from emulator.tdi.irp import Irp, MdlBuffer
from emulator.tdi.layout import Arch
from emulator.tdi.raw_returns import ReturnPlace, write_back
from emulator.tdi.structures import Bytes


@runtime_checkable
class Unread(Protocol):
    """Parameters nobody has looked at yet."""

    def read(self) -> object:
        """The parameters they stand for; Refused for what cannot be read."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where an answer goes: an MDL chain (Windows: MdlAddress), or back to whoever asked, up to so many bytes."""

    place: MdlBuffer | int | None

    @property
    def byte_count(self) -> int | None:
        """How much fits; None where there is no buffer at all."""
        return self.place.byte_count if isinstance(self.place, MdlBuffer) else self.place

    def put(self, data: bytes) -> None:
        """Write an answer into the chain; Refused, with nothing written, for pages that do not exist."""
        if not isinstance(self.place, MdlBuffer):
            return
        try:
            self.place.scatter(data)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.ACCESS_VIOLATION, f"the MDL chain cannot be written: {error}", rule="Q4") from error


@dataclass(frozen=True, slots=True)
class Content:
    """What a request brings: an MDL chain, or the bytes themselves."""

    place: MdlBuffer | Bytes | None

    def take(self, least: int, most: int) -> bytes:
        """A private copy of at most ``most`` bytes; INVALID_PARAMETER when there are fewer than ``least``."""
        if isinstance(self.place, MdlBuffer):
            try:
                found = self.place.gather(min(self.place.byte_count, most)) or b""
            except AddressOutsideMemory as error:
                text = f"the MDL chain cannot be read: {error}"
                raise Refused(NtStatus.ACCESS_VIOLATION, text, rule="Q4") from error
        else:
            found = bytes((self.place or b"")[:most])
        if len(found) < least:
            text = f"the structure has {least} bytes at least, and the buffer {len(found)}"
            raise Refused(NtStatus.INVALID_PARAMETER, text)
        return found


@dataclass(frozen=True, slots=True)
class QueryInformation:
    """Windows: TDI_REQUEST_KERNEL_QUERY_INFORMATION."""

    query_type: int
    room: Room


@dataclass(frozen=True, slots=True)
class SetInformation:
    """Windows: TDI_REQUEST_KERNEL_SET_INFORMATION."""

    set_type: int
    content: Content


@dataclass(frozen=True, slots=True)
class Action:
    """The content begins with a TDI_ACTION_HEADER. Windows: TDI_ACTION."""

    content: Content


class DeviceControl:
    """Windows: IRP_MJ_DEVICE_CONTROL.

    ``data`` is the system buffer, or for METHOD_NEITHER the input buffer; ``base`` the address it has for the client,
    which pointers into it count from. ``output_bytes`` is the room for an answer, ``buffer`` the MDL chain of the
    direct methods. ``handle_of`` turns a handle of the client's into the transport's, or refuses it.
    """

    def __init__(
        self,
        code: int,
        data: bytes,
        base: int,
        output_bytes: int,
        buffer: MdlBuffer | None,
        arch: Arch,
        handle_of: Callable[[int], int] = int,
    ) -> None:
        self.code = code
        self.data = data
        self.base = base
        self.output_bytes = output_bytes
        self.buffer = buffer
        self.arch = arch
        self.handle_of = handle_of
        self.results: ReturnPlace | None = None
        """Where a TDI request wants what it learns, once it has been mapped."""
        self.changed: bytearray | None = None
        """The buffer with that in it, where there is such a place."""

    def completed(self, irp: Irp) -> bytes:
        """The request is over: the bytes that go back to the client, a TDI request's whole buffer if it has changed."""
        if irp.parameters is self:
            return irp.returned if isinstance(irp.returned, bytes) else b""
        if not isinstance(irp.parameters, QueryInformation):
            write_back(irp, self.buffer, self.results)
        return bytes(self.changed) if self.changed is not None and not irp.status.is_error else b""

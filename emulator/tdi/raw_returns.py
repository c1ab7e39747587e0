"""Where a request as bytes wants its results: the return structure of a client, filled in at the request's end (R24).

The structure is read once, when the request is submitted; what it said of pointers and room then is what counts. Its
lengths shrink to what was written and never grow, since clients use one structure again and again (R19).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

from emulator.memory import AddressOutsideMemory
from emulator.tdi.connection_requests import PeerReturned
from emulator.tdi.irp import Irp, MdlBuffer
from emulator.tdi.layout import Arch, Record
from emulator.tdi.receives import ReceivedDatagram, ReturnInformation
from emulator.tdi.request_layouts import TDI_CONNECTION_INFORMATION
from emulator.tdi.structures import pack_transport_address

MOST_RETURNED_BYTES = 65_536
"""Most room for one result that is looked at."""


class Writable(Protocol):
    """Where results can be put: guest memory, or the buffer of a user-mode request."""

    def write(self, gpa: int, data: bytes, /) -> None:
        """AddressOutsideMemory for what does not fit."""


@dataclass(frozen=True, slots=True)
class ReturnPlace:
    """One returned TDI_CONNECTION_INFORMATION: where it lies, and what it said when the request was submitted."""

    memory: Writable
    arch: Arch
    at: int
    record: Record

    @property
    def room(self) -> ReturnInformation:
        """What there is room for (R18, R20)."""
        return ReturnInformation(
            self._room("RemoteAddress"), self._room("Options"), has_options=bool(self.record.number("Options"))
        )

    def _room(self, name: str) -> int:
        length = self.record.number(f"{name}Length") if self.record.number(name) else 0
        return min(max(length, 0), MOST_RETURNED_BYTES)

    def fill(self, irp: Irp) -> None:
        """Write what a request brought back; nothing for one that failed."""
        match irp.returned:
            case ReceivedDatagram(remote_address=remote, options=options):
                self._put("RemoteAddress", remote)
                self._put("Options", options)
            case PeerReturned(remote=peer, user_data=user_data):
                self._put("RemoteAddress", pack_transport_address(peer) if peer is not None else b"")
                self._put("UserData", user_data)

    def _put(self, name: str, data: bytes) -> None:
        pointer, room = self.record.number(name), self._room(name)
        if not pointer or not room:
            return
        data = data[:room]
        length_at = self.at + TDI_CONNECTION_INFORMATION.offset(f"{name}Length", self.arch)
        # The request has its end, and the client its data: a pointer that leads nowhere costs it the rest.
        with contextlib.suppress(AddressOutsideMemory):
            self.memory.write(pointer, data)
            self.memory.write(length_at, len(data).to_bytes(4, "little"))


def write_back(irp: Irp, buffer: MdlBuffer | None, place: ReturnPlace | None) -> None:
    """A request as bytes is over: put where its client wants it what is not there yet."""
    if irp.status.is_error:
        return
    if isinstance(irp.returned, bytes) and buffer is not None:
        with contextlib.suppress(AddressOutsideMemory):
            buffer.scatter(irp.returned[: buffer.byte_count])
    if place is not None:
        place.fill(irp)

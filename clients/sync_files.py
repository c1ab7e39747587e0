"""Files and requests as bytes: the face without an event loop."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from clients import file_calls
from clients.file_calls import IrpResult
from clients.sync_tdi import Address
from clients.views import FileView
from emulator.memory import Mdl
from emulator.tdi.builders import Location
from emulator.tdi.layout import Arch

if TYPE_CHECKING:
    from clients.sync import Connection


class File(FileView):
    """An open file of a transport: an address, a connection endpoint or a control channel. Windows: FILE_OBJECT."""

    _connection: Connection

    @property
    def address(self) -> Address:
        """The same file with the calls of an address, datagrams that arrive included. Raises ValueError for others."""
        if self._state.address is None or self.local is None:
            raise ValueError(f"a {self.kind.name.lower()} file has no address")
        return Address(self._connection, self._state.address, self.local)

    def submit(
        self, location: Location, *, mdl: Mdl | None = None, buffer: bytes = b"", buffer_at: int = 0
    ) -> IrpResult:
        """Submit a request as bytes and wait for its end, whatever it is; see the trio face."""
        call = file_calls.submit(self._connection.protocol, self._state, location, mdl, buffer, buffer_at)
        return file_calls.result(self._connection.finish(call))

    def submit_at(self, irp: int, arch: Arch = Arch.X64) -> IrpResult:
        """Submit the IRP that lies at a guest physical address; its status block is written there too."""
        call = file_calls.submit_at(self._connection.protocol, self._state, irp, arch)
        return file_calls.result(self._connection.finish(call))

    def close(self) -> None:
        """Clean it up and close it; requests still waiting end with CANCELLED."""
        for call in file_calls.begin_close(self._connection.protocol, self._state):
            self._connection.finish(call)

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

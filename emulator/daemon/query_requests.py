"""Queries on open files, submitted as requests like all others, so that filters see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.tdi.constants import MinorFunction
from emulator.tdi.irp import Irp
from emulator.tdi.parameters import QueryInformation, Room
from emulator.wire.codec import encode_response

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Complete


class PendingQuery:
    """A TDI_QUERY_INFORMATION: the context of its IRP. It waits only where a filter has it."""

    def __init__(self, session: Session, msgid: int, machine: Machine, control: int | None) -> None:
        self._session = session
        self._msgid = msgid
        self._machine = machine
        self._control = control
        self.irp: Irp | None = None

    def finish(self, complete: Complete) -> None:
        """Answer it, and close the control channel that was opened for it."""
        if self._control is not None and self._machine.failure is None:
            self._machine.datagrams.close(self._control)
        if self._session.settle(self._msgid, self):
            message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
            data = complete.irp.returned
            result = int(complete.status), complete.information, message, data if isinstance(data, bytes) else b""
            self._session.put(encode_response(self._msgid, *result))

    def cancel(self) -> None:
        if self.irp is not None:
            self._machine.datagrams.cancel(self.irp)


def submit_query(session: Session, msgid: int, machine: Machine, handle: int, query_type: int, length: int) -> None:
    """Ask a file of this session's for something, into a buffer of ``length`` bytes."""
    _submit(PendingQuery(session, msgid, machine, None), session, msgid, machine, handle, query_type, length)


def submit_network_query(
    session: Session, msgid: int, machine: Machine, network: str, query_type: int, length: int
) -> None:
    """Ask a device, on a control channel opened for the purpose; raises Refused where there is no such network."""
    handle = machine.datagrams.open_control(network)
    _submit(PendingQuery(session, msgid, machine, handle), session, msgid, machine, handle, query_type, length)


def _submit(
    pending: PendingQuery, session: Session, msgid: int, machine: Machine, handle: int, query_type: int, length: int
) -> None:
    asked = QueryInformation(query_type, Room(length))
    pending.irp = Irp(handle, asked, pending, minor=MinorFunction.QUERY_INFORMATION)
    session.pending[msgid] = pending
    machine.datagrams.submit(pending.irp)

"""What a client may ask about receiving: posted receives, event handlers, and what it kept of chained datagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.daemon.address_requests import AddressEnd
from emulator.daemon.handler_requests import brought_back
from emulator.daemon.obligations import PatientIrp
from emulator.tdi.constants import MinorFunction, ReceiveFlags
from emulator.tdi.irp import Irp
from emulator.tdi.receive_side import SetEventHandler
from emulator.tdi.receives import build_receive_datagram
from emulator.tdi.structures import SocketAddress
from emulator.wire.codec import encode_response
from emulator.wire.runs import unpack_pfns

if TYPE_CHECKING:
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Complete

_KNOWN_FLAGS = int(ReceiveFlags.NORMAL | ReceiveFlags.PEEK)


class PendingRequest(PatientIrp):
    """A request on an address object under way: the context of its IRP."""

    __slots__ = ("_end", "_msgid", "irp")

    def __init__(self, end: AddressEnd, msgid: int) -> None:
        self._end = end
        self._msgid = msgid
        self.irp: Irp | None = None

    def submit(self, irp: Irp) -> None:
        """Submit it; the answer may come before this returns, or after filters have been asked."""
        self.irp = irp
        self._end.session.pending[self._msgid] = self
        self._end.machine.datagrams.submit(irp)

    def finish(self, complete: Complete) -> None:
        """The request is over: answer it."""
        session = self._end.session
        if session.settle(self._msgid, self):
            message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
            status = int(complete.status), complete.information, message
            session.put(encode_response(self._msgid, *status, *self._more(complete)))

    def _more(self, complete: Complete) -> tuple[object, ...]:
        """What the answer has besides."""
        return ()

    def cancel(self) -> None:
        if self.irp is not None:
            self._end.machine.datagrams.cancel(self.irp)


class PendingReceive(PendingRequest):
    """A TDI_RECEIVE_DATAGRAM under way."""

    __slots__ = ()

    def _more(self, complete: Complete) -> tuple[object, ...]:
        return brought_back(complete.irp.returned)


class ReceiveRequests:
    """One session's requests about receiving."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def close_all(self, reason: str) -> None:
        """The session ended: nothing it kept is kept any more."""
        for machine in self._session.machine_requests.attached():
            machine.datagrams.handlers.forget_loans(self._is_ours)

    def _is_ours(self, owner: object) -> bool:
        return isinstance(owner, AddressEnd) and owner.session is self._session

    def address_receive_datagram(self, msgid: int, address: int, length: int, host: str, port: int, flags: int) -> None:
        end = self._session.address_requests.find(address)
        pending = PendingReceive(end, msgid)
        source = SocketAddress(host or "0.0.0.0", port) if host or port else None
        asked = ReceiveFlags(flags & _KNOWN_FLAGS)
        pending.submit(build_receive_datagram(end.handle, length, source=source, context=pending, flags=asked))

    def address_set_event_handler(self, msgid: int, address: int, event: int, handler: int, context: int) -> None:
        end = self._session.address_requests.find(address)
        pending = PendingRequest(end, msgid)
        asked = SetEventHandler(event, handler, context)
        pending.submit(Irp(end.handle, asked, pending, minor=MinorFunction.SET_EVENT_HANDLER))

    def machine_return_chained(self, msgid: int, machine: int, descriptors: bytes) -> tuple[Any, ...]:
        found = self._session.machine_requests.find(machine)
        for descriptor in unpack_pfns(descriptors):
            found.datagrams.handlers.return_chained(descriptor, self._is_ours)
        return ()

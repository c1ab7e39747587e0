"""The receive side of one machine's transport: posted receives, event handlers and their answers, loans, error events.

``Transport`` is one of these. What arrives comes in through its devices; see ``indications`` for what becomes of it.

    submit (TDI_RECEIVE_DATAGRAM) ─▶ Complete, or pending
    submit (TDI_SET_EVENT_HANDLER) ─▶ Complete ; an event ─▶ Ask ─▶ handler_answered ─▶ …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject, OpenFile
from emulator.tdi.constants import EventType, MinorFunction
from emulator.tdi.effects import Event
from emulator.tdi.handlers import Answer, HandlerCalls, HandlerTable
from emulator.tdi.irp import Irp
from emulator.tdi.loans import Loans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emulator.tdi.device import Device
    from emulator.tdi.effects import Effect
    from emulator.tdi.profile import Profile
    from emulator.tdi.structures import SocketAddress


class SetEventHandler(NamedTuple):
    """What setting a handler asks. Windows: TDI_REQUEST_KERNEL_SET_EVENT. ``function`` 0 clears it (R42)."""

    event: int
    function: int
    context: int = 0


def build_set_event_handler(handle: int, event: int, function: int, event_context: int = 0) -> Irp:
    """Set a handler, or clear it. Windows: TdiBuildSetEventHandler."""
    parameters = SetEventHandler(event, function, event_context)
    return Irp(handle, parameters, minor=MinorFunction.SET_EVENT_HANDLER)


def post_receive(transport: ReceiveSide, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Serve a TDI_RECEIVE_DATAGRAM: complete it with what waits already, or keep it (R15)."""
    assert isinstance(file, AddressObject), "receives are for address files"
    return transport.device_of(file).indications.post(file, irp)


def set_event_handler(transport: ReceiveSide, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Serve a TDI_SET_EVENT_HANDLER, which completes at once (R41)."""
    assert isinstance(file, AddressObject), "handlers are for address files"
    asked = irp.parameters
    if not isinstance(asked, SetEventHandler):
        raise Misuse(f"setting a handler comes with {asked!r}")
    file.handlers.set(asked.event, asked.function, asked.context)
    # From now on every datagram goes through the receive side, which knows handlers.
    file.receive_side()
    return [irp.complete(NtStatus.SUCCESS)]


class ReceiveSide:
    """What a transport has for receiving; its files and devices are shared with the rest of it."""

    def __init__(self, machine: str, profile: Profile) -> None:
        self.machine = machine
        self._devices: dict[str, Device] = {}
        self._files: dict[int, OpenFile] = {}
        self.calls = HandlerCalls(machine, profile.handler_timeout_seconds)
        self.loans = Loans(profile.max_loans, profile.max_lent_bytes)

    def _add_device(self, name: str, device: Device) -> None:
        """Every device of a machine counts its handler calls and its loans in one place."""
        device.use(self.calls, self.loans)
        self._devices[name] = device

    def device_of(self, file: OpenFile) -> Device:
        """The device a file was opened on."""
        return self._devices[file.network]

    def file(self, handle: int) -> OpenFile:
        """What a handle stands for; Refused for one that is not open."""
        file = self._files.get(handle)
        if file is None:
            raise Refused(NtStatus.INVALID_HANDLE, f"handle {handle} is not open on machine {self.machine}")
        return file

    # Handlers and what they keep.

    def handlers_of(self, handle: int) -> HandlerTable:
        """The event handlers set on an address object; Refused for anything else."""
        file = self.file(handle)
        if not isinstance(file, AddressObject):
            raise Refused(NtStatus.INVALID_PARAMETER, f"handle {handle} has no event handlers", rule="R43")
        return file.handlers

    def handler_answered(self, token: int, answer: Answer, now: float) -> list[Effect]:
        """A client's handler, called by the effect ``Ask`` with this token, has returned.

        After the call's time, or a second time, it changes nothing; a request that comes with it is completed with
        CANCELLED.
        """
        return self.calls.answered(token, answer, now)

    def loan_owner(self, descriptor: int) -> object:
        """Who keeps a chained datagram; Refused for none that is out (R39)."""
        return self.loans.owner_of(descriptor)

    def return_chained(self, descriptors: Iterable[int]) -> None:
        """A client returns what it kept. Windows: TdiReturnChainedReceives.

        Refused at the first that is not out (R39); those before it are returned.
        """
        for descriptor in descriptors:
            self.loans.give_back(descriptor)

    def receive_counts(self) -> dict[str, int]:
        """What listings show of handlers and of datagrams that found no taker."""
        sides = [device.indications for device in self._devices.values()]
        return {
            "handler_calls_waiting": len(self.calls),
            "handler_calls_expired": self.calls.expired,
            "datagrams_not_accepted": sum(side.not_accepted for side in sides),
            "datagrams_lost_to_handlers": sum(side.dropped for side in sides),
            "chained_kept": len(self.loans),
        }

    # Errors.

    def error_event(self, handle: int, status: NtStatus, peer: SocketAddress | None) -> list[Effect]:
        """Something an address object depends on has failed; a send that was completed stays so (S25b, R48 to R50).

        ``peer`` is who could not be reached, if that is what happened.
        """
        file = self._files.get(handle)
        if not isinstance(file, AddressObject) or file.closing:
            return []
        handler = file.handlers.get(EventType.ERROR_EX)
        event = Event(status=status, remote=peer)
        if handler is None:
            handler = file.handlers.get(EventType.ERROR)
            event = Event(status=status)
        if handler is None:
            return []
        return [self.calls.tell(file, handler, event, lossy=True)]

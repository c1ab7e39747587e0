"""The one way in for every request that is completed: which function of the transport serves it, on which kind of file.

A request may come as objects, or as the bytes a client built; either way it passes here. The checks before a request is
looked into are the same for all: is it still wanted, is it one this transport knows, does its file take it, is that
still open. Then bytes are read, and the request goes to whoever serves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.action import perform_action, set_information
from emulator.tdi.address import AddressObject, OpenFile
from emulator.tdi.connection_files import serve_connection
from emulator.tdi.connection_requests import CONNECTION_MINORS
from emulator.tdi.constants import FileKind, MajorFunction, MinorFunction
from emulator.tdi.effects import Effect
from emulator.tdi.ioctl import serve_private_control
from emulator.tdi.irp import Irp, IrpState
from emulator.tdi.parameters import DeviceControl, QueryInformation, Unread
from emulator.tdi.query import answer
from emulator.tdi.receive_side import post_receive, set_event_handler
from emulator.tdi.user_requests import is_user_request, map_user_request

if TYPE_CHECKING:
    from emulator.tdi.transport import Transport

Serve: TypeAlias = "Callable[[Transport, OpenFile, Irp, float], list[Effect]]"


class Service(NamedTuple):
    """Who serves one minor function: on files of these kinds."""

    kinds: frozenset[FileKind]
    serve: Serve


def submit(transport: Transport, irp: Irp, now: float) -> list[Effect]:
    """Submit any request. Without a Complete for it among the effects it is pending (P2).

    Misuse for one that was submitted before.
    """
    if irp.state is not IrpState.NEW:
        raise Misuse(f"a request that is {irp.state.value} cannot be submitted")
    try:
        _map(irp)
        service, file = _service_for(transport, irp)
        if isinstance(irp.parameters, Unread):
            irp.parameters = irp.parameters.read()
        return service.serve(transport, file, irp, now)
    except Refused as refusal:
        return [irp.refuse(refusal)]


def _map(irp: Irp) -> None:
    if irp.cancelled:
        raise Refused(NtStatus.CANCELLED, "cancelled before it was submitted", rule="S37")
    if isinstance(irp.parameters, DeviceControl) and is_user_request(irp.parameters.code):
        map_user_request(irp, irp.parameters)


def understand(irp: Irp) -> None:
    """Read a request that has not been submitted yet, so that it can be looked into; raises Refused.

    A request of user mode becomes the internal one it stands for.
    """
    _map(irp)
    if isinstance(irp.parameters, Unread):
        irp.parameters = irp.parameters.read()


def _service_for(transport: Transport, irp: Irp) -> tuple[Service, OpenFile]:
    service = _SERVICES.get((irp.major, irp.minor))
    if service is None:
        text = f"major 0x{irp.major:02X} minor 0x{irp.minor:02X} is no request this transport knows"
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="1.3")
    file = transport.file(irp.handle)
    profile = transport.device_of(file).profile
    if file.kind not in service.kinds:
        name = MinorFunction(irp.minor).name
        wanted = " or ".join(sorted(kind.name.lower() for kind in service.kinds))
        text = f"handle {irp.handle} is a {file.kind.name.lower()} file: {name} is for a {wanted} file"
        raise Refused(profile.wrong_file_status, text, rule="S2")
    if file.closing:
        text = f"handle {irp.handle} has been cleaned up and takes no more requests"
        raise Refused(profile.after_cleanup_status, text, rule="S41")
    return service, file


def _send_datagram(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    assert isinstance(file, AddressObject), "the table lets nothing else through"
    return transport.device_of(file).send(file, irp, now)


def _set_event_handler(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """A handler set now may have data of connections to look at, or offers to decide on."""
    assert isinstance(file, AddressObject), "the table lets nothing else through"
    effects = set_event_handler(transport, file, irp, now)
    return effects + transport.connections.handlers_changed(file, now)


def _query_information(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Never pends (Q1): the answer is in the chain, or in ``returned`` where there is none."""
    asked = irp.parameters
    if not isinstance(asked, QueryInformation):
        raise Misuse(f"a query comes with {asked!r}")
    result = answer(transport.device_of(file), file, asked.query_type, asked.room.byte_count)
    asked.room.put(result.data)
    irp.returned = result.data
    return [irp.complete(result.status, result.information, result.message, result.rule)]


_ANY = frozenset({FileKind.ADDRESS, FileKind.CONNECTION, FileKind.CONTROL})
_INTERNAL = MajorFunction.INTERNAL_DEVICE_CONTROL

_SERVICES: dict[tuple[int, int], Service] = {
    (_INTERNAL, MinorFunction.SEND_DATAGRAM): Service(frozenset({FileKind.ADDRESS}), _send_datagram),
    (_INTERNAL, MinorFunction.RECEIVE_DATAGRAM): Service(frozenset({FileKind.ADDRESS}), post_receive),
    (_INTERNAL, MinorFunction.SET_EVENT_HANDLER): Service(frozenset({FileKind.ADDRESS}), _set_event_handler),
    (_INTERNAL, MinorFunction.QUERY_INFORMATION): Service(_ANY, _query_information),
    (_INTERNAL, MinorFunction.SET_INFORMATION): Service(_ANY, set_information),
    (MajorFunction.DEVICE_CONTROL, 0): Service(_ANY, serve_private_control),
    (_INTERNAL, MinorFunction.ACTION): Service(_ANY, perform_action),
    **{(_INTERNAL, minor): Service(frozenset({FileKind.CONNECTION}), serve_connection) for minor in CONNECTION_MINORS},
}

"""Settings and actions: checked as the documents ask, and then not implemented, as they allow (6.3, 6.4).

A provider's limits cannot be changed from outside; here they are its profile. There is no action every provider has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import OpenFile
from emulator.tdi.constants import FileKind, QueryType
from emulator.tdi.effects import Effect
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.parameters import Action, SetInformation
from emulator.tdi.request_layouts import TDI_ACTION_HEADER

if TYPE_CHECKING:
    from emulator.tdi.transport import Transport

_SETTABLE = {
    QueryType.ADDRESS_INFO: frozenset({FileKind.ADDRESS}),
    QueryType.CONNECTION_INFO: frozenset({FileKind.CONNECTION}),
    QueryType.PROVIDER_INFO: frozenset({FileKind.CONTROL}),
    QueryType.PROVIDER_STATISTICS: frozenset({FileKind.CONTROL}),
}
"""What there is to set, and the kind of file it is set on: a mismatch must fail."""


def set_information(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Windows: TDI_SET_INFORMATION. Never pends."""
    asked = irp.parameters
    if not isinstance(asked, SetInformation):
        raise Misuse(f"a setting comes with {asked!r}")
    kinds = next((kinds for kind, kinds in _SETTABLE.items() if kind == asked.set_type), None)
    if kinds is None:
        text = f"nothing of type {asked.set_type} can be set: the types are 3 (address), 4 (connection), 2 and 5"
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="6.3")
    if file.kind not in kinds:
        text = f"{QueryType(asked.set_type).name} is not set on a {file.kind.name.lower()} file"
        raise Refused(transport.device_of(file).profile.wrong_query_file_status, text, rule="6.3")
    text = "what a device offers is decided by its profile, and cannot be set by a request"
    raise Refused(NtStatus.NOT_IMPLEMENTED, text, rule="6.3")


def perform_action(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Windows: TDI_ACTION. Never pends."""
    asked = irp.parameters
    if not isinstance(asked, Action):
        raise Misuse(f"an action comes with {asked!r}")
    size = TDI_ACTION_HEADER.size(Arch.X64)
    header = TDI_ACTION_HEADER.parse_untrusted(asked.content.take(size, size), Arch.X64)
    tag = header.number("TransportId").to_bytes(4, "little")
    text = f"no action {header.number('ActionCode')} of transport {tag!r} is known here"
    raise Refused(NtStatus.NOT_IMPLEMENTED, text, rule="6.4")

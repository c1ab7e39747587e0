"""The private device controls of a TCP/IP provider: address options, and the list of entities (O1 to O9).

An object id names an entity, a class, a type and a number. Which address object it is about is said by the file the
request came on, never by the instance in the id (O3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from emulator.status import NtStatus, Refused
from emulator.tdi.address import AddressObject, OpenFile
from emulator.tdi.control_codes import (
    ENTITY_LIST_ID,
    ENTITY_TYPE_ID,
    AddressOption,
    Entity,
    EntityType,
    InfoClass,
    InfoType,
)
from emulator.tdi.effects import Effect, JoinForRequest, JoinGroup
from emulator.tdi.groups import Membership, SendOptions
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch, Record
from emulator.tdi.query_layouts import (
    TCP_REQUEST_QUERY_INFORMATION_EX,
    TCP_REQUEST_SET_INFORMATION_EX,
    TDI_ENTITY_ID,
    TDI_OBJECT_ID,
)

if TYPE_CHECKING:
    from emulator.tdi.parameters import DeviceControl
    from emulator.tdi.send_side import SendSide

SET_HEADER_BYTES = 24
WOW64_QUERY_BYTES = 36
"""A query of a 32-bit client on a 64-bit system."""

_SCALARS: dict[AddressOption, Callable[[SendOptions, int], SendOptions]] = {
    AddressOption.TTL: lambda options, number: replace(options, ttl=number),
    AddressOption.MCASTTTL: lambda options, number: replace(options, multicast_ttl=number),
    AddressOption.TOS: lambda options, number: replace(options, type_of_service=number),
    AddressOption.MCASTLOOP: lambda options, number: replace(options, multicast_loop=bool(number)),
    AddressOption.BROADCAST: lambda options, number: replace(options, broadcast=bool(number)),
}
"""Options that are one number, of one byte or four."""

_OPTIONS = frozenset(int(option) for option in AddressOption)

_ENTITIES = (
    (Entity.CL_TL, EntityType.CL_TL_UDP),
    (Entity.CO_TL, EntityType.CO_TL_TCP),
    (Entity.CL_NL, EntityType.CL_NL_IP),
)
"""What a provider consists of, one instance of each."""


def set_information_ex(transport: SendSide, file: OpenFile, irp: Irp, control: DeviceControl) -> list[Effect]:
    """Windows: IOCTL_TCP_SET_INFORMATION_EX."""
    record, value = _setting(control)
    info_class, info_type, number = (record.number(f"ID.{name}") for name in ("toi_class", "toi_type", "toi_id"))
    if info_class != InfoClass.PROTOCOL:
        raise _unknown(f"nothing of class 0x{info_class:X} can be set: address options are of class 0x200")
    if info_type == InfoType.CONNECTION:
        raise _unknown(f"connection option {number} has no meaning here")
    if info_type != InfoType.ADDRESS_OBJECT:
        text = f"nothing of type 0x{info_type:X} can be set: address options are of type 0x200"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O4")
    if record.number("ID.toi_entity.tei_entity") not in (Entity.CL_TL, Entity.CO_TL, Entity.CL_NL):
        text = f"entity 0x{record.number('ID.toi_entity.tei_entity'):X} has no address objects: 0x401 is UDP"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O3")
    if not isinstance(file, AddressObject):
        text = f"an address option is set on an address file, not on a {file.kind.name.lower()} file"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O3")
    if number not in _OPTIONS:
        raise _unknown(f"there is no address option {number}")
    return _set_option(transport, file, irp, AddressOption(number), value)


def _setting(control: DeviceControl) -> tuple[Record, bytes]:
    """The checked structure and its data; what is behind the data is slack of clients that count sizeof (O1)."""
    data = control.data
    if len(data) < SET_HEADER_BYTES:
        text = f"a setting has {SET_HEADER_BYTES} bytes before its data, and {len(data)} were given"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
    padded = data.ljust(TCP_REQUEST_SET_INFORMATION_EX.size(control.arch), b"\0")
    record = TCP_REQUEST_SET_INFORMATION_EX.parse_untrusted(padded, control.arch)
    size = record.number("BufferSize")
    if size > len(data) - SET_HEADER_BYTES:
        text = f"BufferSize is {size}, and {len(data) - SET_HEADER_BYTES} bytes of data were given"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
    return record, data[SET_HEADER_BYTES : SET_HEADER_BYTES + size]


def _unknown(text: str) -> Refused:
    return Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="O4")


def _set_option(
    transport: SendSide, file: AddressObject, irp: Irp, option: AddressOption, value: bytes
) -> list[Effect]:
    if option in (AddressOption.ADD_MCAST, AddressOption.DEL_MCAST):
        pair = _exactly(value, 8, option)
        wanted = Membership(str(IPv4Address(pair[:4])), str(IPv4Address(pair[4:])))
        return change_membership(transport, irp, wanted, joins=option is AddressOption.ADD_MCAST)
    options = transport.options(file.handle)
    if option is AddressOption.MCASTIF:
        host = str(IPv4Address(_exactly(value, 4, option)))
        options = replace(options, multicast_interface=None if host == "0.0.0.0" else host)
    elif option in _SCALARS:
        options = _SCALARS[option](options, _scalar(value, option))
    else:
        text = f"{option.name} is an option of real stacks that has no effect here, so it is not taken"
        raise Refused(NtStatus.NOT_SUPPORTED, text, rule="8.1")
    transport.set_options(file.handle, options)
    return [irp.complete(NtStatus.SUCCESS)]


def _exactly(value: bytes, size: int, option: AddressOption) -> bytes:
    if len(value) < size:
        text = f"{option.name} takes {size} bytes, and {len(value)} were given"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
    return value[:size]


def _scalar(value: bytes, option: AddressOption) -> int:
    if len(value) not in (1, 4):
        text = f"{option.name} takes a number of 1 or 4 bytes, and {len(value)} were given"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="8.1")
    return int.from_bytes(value, "little")


def change_membership(transport: SendSide, irp: Irp, wanted: Membership, *, joins: bool) -> list[Effect]:
    """A join may need the host: then the request ends when that has answered."""
    if not joins:
        return [*transport.leave(irp.handle, *wanted), irp.complete(NtStatus.SUCCESS)]
    effects = transport.join(irp.handle, *wanted)
    asked = [each for each in effects if isinstance(each, JoinGroup)]
    if not asked:
        return [irp.complete(NtStatus.SUCCESS)]
    irp.mark_pending()
    return [JoinForRequest(asked[0], irp, irp.handle)]


def group_answered(transport: SendSide, asked: JoinForRequest, status: NtStatus, message: str) -> list[Effect]:
    """The host has let a socket join a group for a request, or has not."""
    if not status.is_error:
        return [asked.irp.complete(NtStatus.SUCCESS)]
    taken_back = transport.leave(asked.handle, asked.join.group, asked.join.interface)
    return [*taken_back, asked.irp.complete(status, 0, message, "O7")]


def query_information_ex(file: OpenFile, irp: Irp, control: DeviceControl) -> list[Effect]:
    """The list of entities, and what each is (O6). Windows: IOCTL_TCP_QUERY_INFORMATION_EX."""
    size = TCP_REQUEST_QUERY_INFORMATION_EX.size(control.arch)
    least = min(size, WOW64_QUERY_BYTES)
    if len(control.data) < least:
        text = f"a query has {size} bytes on {control.arch.name.lower()}, and {len(control.data)} were given"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O1")
    record = TDI_OBJECT_ID.parse_untrusted(control.data, control.arch)
    info_class, info_type, number = (record.number(name) for name in ("toi_class", "toi_type", "toi_id"))
    if info_class != InfoClass.GENERIC:
        raise _unknown(f"nothing of class 0x{info_class:X} can be asked: the list of entities is of class 0x100")
    if info_type != InfoType.PROVIDER:
        text = f"nothing of type 0x{info_type:X} can be asked: the list of entities is of type 0x100"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O4")
    if number == ENTITY_LIST_ID:
        answer = b"".join(TDI_ENTITY_ID.pack(Arch.X64, {"tei_entity": entity}) for entity, _ in _ENTITIES)
    elif number == ENTITY_TYPE_ID:
        asked = record.number("toi_entity.tei_entity")
        kind = next((kind for entity, kind in _ENTITIES if entity == asked), None)
        if kind is None:
            raise Refused(NtStatus.INVALID_PARAMETER, f"there is no entity 0x{asked:X} here", rule="O6")
        answer = int(kind).to_bytes(4, "little")
    else:
        raise _unknown(f"there is no generic question {number}")
    irp.returned = answer[: control.output_bytes]
    # A short buffer is no failure: Information says how long one has to be.
    return [irp.complete(NtStatus.SUCCESS, len(answer))]

"""Settings of address objects as calls by name make them: requests like all others, so that filters see them.

``join``, ``leave`` and options stand for IOCTL_TCP_SET_INFORMATION_EX, and that is what a filter is shown, as an x64
client would have built it. Where Windows has no bytes for it, these are this project's: an IPv6 membership is the
group's 16 bytes and the 16 of the machine's own address on the interface, a TTL left to the host is -1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from emulator.status import NtStatus
from emulator.tdi.control_codes import AddressOption, Entity, InfoClass, InfoType
from emulator.tdi.layout import Arch
from emulator.tdi.object_ids import SET_HEADER_BYTES, change_membership
from emulator.tdi.query_layouts import TCP_REQUEST_SET_INFORMATION_EX

if TYPE_CHECKING:
    from emulator.tdi.effects import Effect
    from emulator.tdi.groups import Membership
    from emulator.tdi.irp import Irp
    from emulator.tdi.send_side import SendSide

OPTION_NAMES = {
    # The one that the transport may refuse goes first, so that nothing is half done.
    "multicast_interface": AddressOption.MCASTIF,
    "ttl": AddressOption.TTL,
    "multicast_ttl": AddressOption.MCASTTTL,
    "multicast_loop": AddressOption.MCASTLOOP,
    "broadcast": AddressOption.BROADCAST,
    "type_of_service": AddressOption.TOS,
}
"""The fields of ``SendOptions`` and the options they are, in the order in which several are set."""


@dataclass(frozen=True, slots=True)
class MembershipSetting:
    """A join, or the end of one."""

    membership: Membership
    joins: bool

    @property
    def option(self) -> AddressOption:
        """Which option this is."""
        return AddressOption.ADD_MCAST if self.joins else AddressOption.DEL_MCAST

    @property
    def value(self) -> bytes:
        """The option's bytes. Windows: IP_MREQ."""
        return b"".join(_host_bytes(host) for host in self.membership)


@dataclass(frozen=True, slots=True)
class OptionSetting:
    """One option of sends, by its name in ``SendOptions``, with a value that fits."""

    name: str
    setting: int | str | None

    @property
    def option(self) -> AddressOption:
        """Which option this is."""
        return OPTION_NAMES[self.name]

    @property
    def value(self) -> bytes:
        """The option's bytes."""
        if self.option is AddressOption.MCASTIF:
            return _host_bytes("0.0.0.0" if self.setting is None else str(self.setting))
        return (-1 if self.setting is None else int(self.setting)).to_bytes(4, "little", signed=True)


def _host_bytes(host: str) -> bytes:
    try:
        return ip_address(host).packed
    except ValueError:
        return bytes(4)  # the transport refuses it


def image_of(asked: MembershipSetting | OptionSetting) -> bytes:
    """The buffer of the device control it stands for. Windows: TCP_REQUEST_SET_INFORMATION_EX."""
    values = {
        "ID.toi_entity.tei_entity": Entity.CL_TL,
        "ID.toi_class": InfoClass.PROTOCOL,
        "ID.toi_type": InfoType.ADDRESS_OBJECT,
        "ID.toi_id": asked.option,
        "BufferSize": len(asked.value),
    }
    return TCP_REQUEST_SET_INFORMATION_EX.pack(Arch.X64, values)[:SET_HEADER_BYTES] + asked.value


def serve_setting(transport: SendSide, irp: Irp, asked: MembershipSetting | OptionSetting) -> list[Effect]:
    """Do it; Refused by what the setting is."""
    if isinstance(asked, MembershipSetting):
        return change_membership(transport, irp, asked.membership, joins=asked.joins)
    change: dict[str, Any] = {asked.name: asked.setting}
    transport.set_options(irp.handle, replace(transport.options(irp.handle), **change))
    return [irp.complete(NtStatus.SUCCESS)]

"""What a filter sees of a request, and how a request takes over what a filter changed.

Before a filter sees it a request is understood and its data are copied, so that nothing a client changes in its memory
afterwards can make the request another one than the filter judged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from emulator.memory import AddressOutsideMemory
from emulator.status import EmulatorError
from emulator.tdi.address_settings import MembershipSetting, OptionSetting, image_of
from emulator.tdi.connection_requests import Associate, Connect, Disconnect, Listen, PeerInformation, Receive, Send
from emulator.tdi.constants import FileKind, MajorFunction
from emulator.tdi.control_codes import Ioctl
from emulator.tdi.filters import Verdict
from emulator.tdi.irp import ConnectionInformation, Irp, MdlBuffer, SendDatagram
from emulator.tdi.parameters import DeviceControl, QueryInformation, SetInformation
from emulator.tdi.receive_side import SetEventHandler
from emulator.tdi.receives import ReceiveDatagram
from emulator.tdi.structures import Bytes, SocketAddress, canonical_untrusted, pack_transport_address

MOST_DATA_BYTES = 65_535
"""More of a request's data is not shown; ``length`` says how much there is."""
MOST_REMOTE_BYTES = 4_096


class FilterView(NamedTuple):
    """One request, create or event as a filter sees it.

    ``file`` is the same for everything on one open file (0 for a create), ``kind`` which of the three it is. ``code``
    is the event, query, set or device-control code, the disconnect flags, or the share access of a create. Addresses
    are TRANSPORT_ADDRESS lists or empty; ``length`` is what is to be sent or received. ``event`` is the event's number,
    None for a request.
    """

    file: int
    kind: int
    major: int
    minor: int
    code: int = 0
    local: bytes = b""
    remote: bytes = b""
    length: int = 0
    data: bytes = b""
    event: int | None = None


def address_bytes(address: SocketAddress | Bytes | None) -> bytes:
    """A TRANSPORT_ADDRESS as a filter gets it: empty for none, and for what is no address."""
    if address is None:
        return b""
    if not isinstance(address, SocketAddress):
        return bytes(address[:MOST_REMOTE_BYTES])
    try:
        return pack_transport_address(canonical_untrusted(address))
    except EmulatorError:
        return b""


def freeze(irp: Irp) -> None:
    """Copy the data a request is to send, as far as they are there: what is not, the transport refuses."""
    asked = irp.parameters
    if isinstance(asked, (SendDatagram, Send)) and isinstance(asked.data, MdlBuffer):
        length = asked.length
        try:
            data = asked.data.gather(length) if length <= asked.data.byte_count else None
        except AddressOutsideMemory:
            data = None
        if data is not None:
            irp.parameters = replace(asked, data=data)


def view_of(irp: Irp, kind: FileKind, local: SocketAddress | None) -> FilterView:
    """What a filter sees of a request that was understood."""
    base = FilterView(irp.handle, int(kind), irp.major, irp.minor, local=address_bytes(local))
    match irp.parameters:
        case SendDatagram(information=information, data=data) as sent:
            remote = information.remote_address if information is not None else None
            return base._replace(remote=address_bytes(remote), length=sent.length, data=_shown(data))
        case ReceiveDatagram(information=information, receive_length=length):
            remote = information.remote_address if information is not None else None
            return base._replace(remote=address_bytes(remote), length=length)
        case SetEventHandler(event=event, function=function):
            return base._replace(code=event & 0xFFFFFFFF, length=int(function != 0))
        case QueryInformation(query_type=code) | SetInformation(set_type=code):
            return base._replace(code=code & 0xFFFFFFFF)
        case Connect(information=peer) | Listen(information=peer):
            return base._replace(remote=address_bytes(peer.remote_address if peer is not None else None))
        case Send(data=data) as sent_on:
            return base._replace(length=sent_on.length, data=_shown(data))
        case Receive(length=length):
            return base._replace(length=length)
        case Associate(address=address):
            return base._replace(code=address & 0xFFFFFFFF)
        case Disconnect(flags=flags):
            return base._replace(code=int(flags))
        case DeviceControl(code=code, data=data):
            return base._replace(code=code, length=len(data), data=data[:MOST_DATA_BYTES])
        case MembershipSetting() | OptionSetting() as setting:
            image = image_of(setting)
            return base._replace(code=Ioctl.TCP_SET_INFORMATION_EX, length=len(image), data=image)
        case _:
            return base


def _shown(data: Bytes | MdlBuffer | None) -> bytes:
    return b"" if data is None or isinstance(data, MdlBuffer) else bytes(data[:MOST_DATA_BYTES])


def change(irp: Irp, verdict: Verdict) -> None:
    """Give a request the destination and the data of a filter, where it has such."""
    asked = irp.parameters
    if isinstance(asked, SendDatagram):
        information = asked.information
        if verdict.remote is not None:
            information = replace(
                information or ConnectionInformation(None), remote_address=verdict.remote, remote_address_length=None
            )
        irp.parameters = replace(asked, information=information)
    if isinstance(asked, (SendDatagram, Send)) and verdict.data is not None:
        current = irp.parameters
        assert isinstance(current, (SendDatagram, Send))
        irp.parameters = replace(current, data=verdict.data, send_length=len(verdict.data))
    if isinstance(asked, Connect) and verdict.remote is not None:
        peer = replace(
            asked.information or PeerInformation(), remote_address=verdict.remote, remote_address_length=None
        )
        irp.parameters = replace(asked, information=peer)


def create_view(kind: FileKind, local: SocketAddress | None, share: int) -> FilterView:
    """What a filter sees of a create (T8)."""
    return FilterView(0, int(kind), MajorFunction.CREATE, 0, code=share, local=address_bytes(local))

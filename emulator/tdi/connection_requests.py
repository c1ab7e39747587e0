"""What the connection requests ask: the parameters of their IRPs, and what comes back besides status and count.

A peer's address, user data and options travel together in both directions. Windows: TDI_CONNECTION_INFORMATION.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import DisconnectFlags, ListenFlags, MinorFunction, ReceiveFlags, SendFlags
from emulator.tdi.irp import Irp, MdlBuffer, SendDatagram
from emulator.tdi.structures import Bytes, SocketAddress


@dataclass(frozen=True, slots=True)
class PeerInformation:
    """What a request says about the other side: where it is, and bytes for its client."""

    remote_address: SocketAddress | Bytes | None = None
    remote_address_length: int | None = None
    user_data: bytes = b""
    options: bytes = b""


class PeerReturned(NamedTuple):
    """What a request learned of the other side (C10). Windows: ReturnConnectionInformation."""

    remote: SocketAddress | None
    user_data: bytes = b""


@dataclass(frozen=True, slots=True)
class Associate:
    """Windows: TDI_ASSOCIATE_ADDRESS, whose parameter is the handle of an address file."""

    address: int


@dataclass(frozen=True, slots=True)
class Disassociate:
    """Windows: TDI_DISASSOCIATE_ADDRESS."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Windows: TDI_CONNECT. ``timeout_seconds`` None is the provider's own (C7)."""

    information: PeerInformation | None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Listen:
    """Windows: TDI_LISTEN. The information's address is a filter, none or all zero for any (C15, T19)."""

    flags: ListenFlags = ListenFlags.NONE
    information: PeerInformation | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """Windows: TDI_ACCEPT. The information's user data go to the side that connects."""

    information: PeerInformation | None = None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Windows: TDI_DISCONNECT. Without RELEASE it aborts (C32)."""

    flags: DisconnectFlags = DisconnectFlags.ABORT
    timeout_seconds: float | None = None
    information: PeerInformation | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Windows: TDI_SEND. ``send_length`` None means all of ``data``, which only plain bytes can say."""

    data: Bytes | MdlBuffer | None
    flags: SendFlags = SendFlags.NONE
    send_length: int | None = None

    def gather(self, status: NtStatus) -> bytes:
        """A private copy of what is to be sent, refused with ``status`` when the buffer holds less (S12)."""
        parameters = SendDatagram(None, self.data, self.send_length)
        return parameters.gather(parameters.length, status)

    @property
    def length(self) -> int:
        """The bytes asked to be sent."""
        return SendDatagram(None, self.data, self.send_length).length


@dataclass(frozen=True, slots=True)
class Receive:
    """Windows: TDI_RECEIVE. What was received comes back as the request's ``returned`` bytes."""

    length: int
    flags: ReceiveFlags = ReceiveFlags.NONE

    @property
    def takes_normal(self) -> bool:
        """Whether it may get normal data: no flag of the two means either kind (C26)."""
        return not self.flags & ReceiveFlags.EXPEDITED or bool(self.flags & ReceiveFlags.NORMAL)

    @property
    def takes_expedited(self) -> bool:
        """Whether it may get expedited data."""
        return not self.flags & ReceiveFlags.NORMAL or bool(self.flags & ReceiveFlags.EXPEDITED)


ConnectionRequest: TypeAlias = Associate | Disassociate | Connect | Listen | Accept | Disconnect | Send | Receive

_MINORS: dict[type[ConnectionRequest], MinorFunction] = {
    Associate: MinorFunction.ASSOCIATE_ADDRESS,
    Disassociate: MinorFunction.DISASSOCIATE_ADDRESS,
    Connect: MinorFunction.CONNECT,
    Listen: MinorFunction.LISTEN,
    Accept: MinorFunction.ACCEPT,
    Disconnect: MinorFunction.DISCONNECT,
    Send: MinorFunction.SEND,
    Receive: MinorFunction.RECEIVE,
}

CONNECTION_MINORS = tuple(_MINORS.values())


def build_connection_request(handle: int, request: ConnectionRequest, context: object = None) -> Irp:
    """An IRP for a request on an endpoint. Windows: TdiBuildConnect, TdiBuildSend and their siblings."""
    return Irp(handle, request, context, minor=_MINORS[type(request)])


def relative_timeout(value: int | None) -> float | None:
    """Seconds of a LARGE_INTEGER time-out in 100-ns units: negative is relative, None the provider's choice (C7).

    INVALID_PARAMETER for a positive one, which would be a time of day: connections know no calendar.
    """
    if value is None:
        return None
    if value > 0:
        text = f"a time-out is relative, a negative number of 100-ns units: {value} would be a time of day"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="C7")
    return -value / 10_000_000

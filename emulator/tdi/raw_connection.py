"""The parameters of connection requests from a client's bytes: kernel structures in, what ``connections`` takes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    ConnectionRequest,
    Disassociate,
    Disconnect,
    Listen,
    PeerInformation,
    Receive,
    Send,
    relative_timeout,
)
from emulator.tdi.constants import DisconnectFlags, ListenFlags, MinorFunction, ReceiveFlags, SendFlags
from emulator.tdi.request_layouts import (
    TDI_CONNECTION_INFORMATION,
    TDI_REQUEST_KERNEL,
    TDI_REQUEST_KERNEL_ACCEPT,
    TDI_REQUEST_KERNEL_ASSOCIATE,
    TDI_REQUEST_KERNEL_RECEIVE,
    TDI_REQUEST_KERNEL_SEND,
)
from emulator.tdi.structures import MAX_TRANSPORT_ADDRESS_BYTES

if TYPE_CHECKING:
    from emulator.tdi.layout import Arch
    from emulator.tdi.raw import RawParameters


class Fetches(Protocol):
    """Where pointers may lead."""

    def fetch(self, pointer: int, byte_count: int, what: str) -> bytes:
        """A private copy; Refused where there is no such memory."""


MOST_USER_DATA_BYTES = 65_536
"""More than any provider takes: so much is copied before it is judged."""


def read_connection_request(raw: RawParameters) -> ConnectionRequest:
    """What a connection request asks; Refused for what cannot be read."""
    match raw.minor:
        case MinorFunction.ASSOCIATE_ADDRESS:
            handle = raw.record(TDI_REQUEST_KERNEL_ASSOCIATE).number("AddressHandle")
            return Associate(raw.handle_of(handle))
        case MinorFunction.DISASSOCIATE_ADDRESS:
            return Disassociate()
        case MinorFunction.SEND:
            sent = raw.record(TDI_REQUEST_KERNEL_SEND)
            return Send(raw.buffer, SendFlags(sent.number("SendFlags")), sent.number("SendLength"))
        case MinorFunction.RECEIVE:
            wanted = raw.record(TDI_REQUEST_KERNEL_RECEIVE)
            room = 0 if raw.buffer is None else raw.buffer.byte_count
            length = min(wanted.number("ReceiveLength") or room, room)
            return Receive(length, ReceiveFlags(wanted.number("ReceiveFlags")))
        case MinorFunction.ACCEPT:
            accept = raw.record(TDI_REQUEST_KERNEL_ACCEPT)
            raw.returns_to(accept.number("ReturnConnectionInformation"))
            return Accept(read_peer(raw, accept.number("RequestConnectionInformation"), raw.arch))
        case _:
            return _with_a_peer(raw)


def _with_a_peer(raw: RawParameters) -> ConnectionRequest:
    request = raw.record(TDI_REQUEST_KERNEL)
    information = read_peer(raw, request.number("RequestConnectionInformation"), raw.arch)
    raw.returns_to(request.number("ReturnConnectionInformation"))
    flags = request.number("RequestFlags")
    if raw.minor == MinorFunction.LISTEN:
        return Listen(ListenFlags(flags), information)
    timeout = _timeout(raw, request.number("RequestSpecific"))
    if raw.minor == MinorFunction.CONNECT:
        return Connect(information, timeout)
    return Disconnect(DisconnectFlags(flags), timeout, information)


def _timeout(raw: RawParameters, pointer: int) -> float | None:
    if not pointer:
        return None
    return relative_timeout(int.from_bytes(raw.fetch(pointer, 8, "the time-out"), "little", signed=True))


def read_peer(reach: Fetches, pointer: int, arch: Arch) -> PeerInformation | None:
    """A TDI_CONNECTION_INFORMATION with all it points at; None for a null pointer."""
    if not pointer:
        return None
    image = reach.fetch(pointer, TDI_CONNECTION_INFORMATION.size(arch), "connection information")
    record = TDI_CONNECTION_INFORMATION.parse_untrusted(image, arch)

    def behind(name: str, most: int) -> bytes | None:
        if not record.number(name):
            return None
        length = min(max(record.number(f"{name}Length"), 0), most + 1)
        return reach.fetch(record.number(name), length, name)

    return PeerInformation(
        behind("RemoteAddress", MAX_TRANSPORT_ADDRESS_BYTES),
        user_data=behind("UserData", MOST_USER_DATA_BYTES) or b"",
        options=behind("Options", MOST_USER_DATA_BYTES) or b"",
    )

"""Posted receives: what a TDI_RECEIVE_DATAGRAM asks for, whom it waits for, and how a datagram ends it.

A receive gives the transport a buffer. The first datagram that passes its filter fills it and completes it (R8, R15 to
R17); what does not fit is gone. What goes back besides the data, such as where it came from, is made only then (R24):
it is the request's ``returned``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from emulator.memory import AddressOutsideMemory
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import MinorFunction, ReceiveFlags
from emulator.tdi.effects import Complete
from emulator.tdi.irp import ConnectionInformation, Irp, MdlBuffer
from emulator.tdi.loans import Lent
from emulator.tdi.profile import MAXIMUM_LENGTH, ProviderProfile
from emulator.tdi.structures import (
    SocketAddress,
    canonical_untrusted,
    host_facts_untrusted,
    pack_transport_address,
    parse_transport_address_untrusted,
)

LONGEST_DATAGRAM = 65_535
"""More than any device here delivers: so much of a buffer is looked at before it is used."""
ADDRESS_HEADER_BYTES = 8
"""The part of a TRANSPORT_ADDRESS before the first address itself."""


@dataclass(slots=True, eq=False)
class Arrived:
    """A datagram, the same for every address object it matches. ``options`` are what the network brought along."""

    source: SocketAddress
    data: bytes
    flags: ReceiveFlags = ReceiveFlags.NONE
    options: bytes = b""
    lent: Lent | None = None
    """The buffer as chained handlers share it, once one was called (R38)."""


@dataclass(frozen=True, slots=True)
class ReturnInformation:
    """Room for what a receive reports besides data. Windows: the returned TDI_CONNECTION_INFORMATION.

    Lengths are the room in bytes, None for as much as there is; 0 reports nothing (R18). Options are returned only with
    ``has_options``: where a pointer for them was given (R20).
    """

    remote_address_length: int | None = None
    options_length: int | None = None
    has_options: bool = True


@dataclass(frozen=True, slots=True)
class ReceiveDatagram:
    """What a receive asks. Windows: TDI_REQUEST_KERNEL_RECEIVEDG, with the IRP's MdlAddress as ``buffer``.

    ``buffer`` is an MDL chain in guest memory, or the size in bytes of one the caller has itself; its content then is
    in ``returned.data`` alone. ``receive_length`` 0 is all of it (R12). ``information`` filters by sender (R13).
    """

    buffer: MdlBuffer | int | None
    receive_length: int = 0
    information: ConnectionInformation | None = None
    returned: ReturnInformation | None = ReturnInformation()
    flags: ReceiveFlags = ReceiveFlags.NONE


class ReceivedDatagram(NamedTuple):
    """What a completed receive brought: all of it cut to the room there was."""

    data: bytes
    remote_address: bytes
    """The beginning of a TRANSPORT_ADDRESS; as long as the client's RemoteAddressLength is to become (R19)."""
    options: bytes
    source: SocketAddress
    flags: ReceiveFlags


class SourceFilter(NamedTuple):
    """From whom a receive takes datagrams; None takes any (R13, R14)."""

    host: str | None = None
    port: int | None = None

    def matches(self, source: SocketAddress) -> bool:
        """Whether a datagram from there may fill the receive."""
        return self.host in (None, source.host) and self.port in (None, source.port)


ANYBODY = SourceFilter()


def source_filter_untrusted(information: ConnectionInformation | None, profile: ProviderProfile) -> SourceFilter:
    """The filter of a receive; Refused for an address that cannot be read (R14) and for user data (R21)."""
    if information is None:
        return ANYBODY
    if information.user_data_length:
        text = f"a receive carries no user data: its length must be 0, not {information.user_data_length}"
        raise Refused(NtStatus.INVALID_PARAMETER, text, rule="R21")
    remote, length = information.remote_address, information.remote_address_length
    if remote is None or length == 0:
        return ANYBODY
    try:
        if isinstance(remote, SocketAddress):
            address = canonical_untrusted(remote)
        else:
            if length is not None and not 0 <= length <= len(remote):
                text = f"the remote address length is {length}, but {len(remote)} bytes are there"
                raise Refused(NtStatus.INVALID_ADDRESS, text, rule="R14")
            data = bytes(remote if length is None else remote[:length])
            # A structure full of zeros counts no entry at all; clients that use one for filter and result pass it.
            if not any(data):
                return ANYBODY
            address = parse_transport_address_untrusted(data)
    except Refused as bad:
        text = f"the sender to receive from cannot be read: {bad.message}"
        raise Refused(profile.bad_filter_status, text, rule="R14") from bad
    wildcard = host_facts_untrusted(address.host).is_wildcard
    return SourceFilter(None if wildcard else address.host, address.port or None)


class PostedReceive(NamedTuple):
    """A receive that passed every check: whom it takes datagrams from, and how many bytes."""

    irp: Irp
    filter: SourceFilter
    capacity: int
    parameters: ReceiveDatagram

    @property
    def peeks(self) -> bool:
        """Whether it leaves the datagram where it is, where the provider has a buffer to leave it in (R22)."""
        return bool(self.parameters.flags & ReceiveFlags.PEEK)

    def fill(self, arrived: Arrived, skip: int = 0) -> Complete:
        """Complete it with a datagram, or with what is behind its first ``skip`` bytes (R16 to R20, R23)."""
        data = arrived.data[skip : skip + self.capacity]
        cut = len(arrived.data) - skip > self.capacity
        buffer = self.parameters.buffer
        if isinstance(buffer, MdlBuffer):
            buffer.scatter(data)
        address = options = b""
        room = self.parameters.returned
        if room is not None:
            address, address_cut = _cut(pack_transport_address(arrived.source), room.remote_address_length)
            options, options_cut = _cut(arrived.options, room.options_length if room.has_options else 0)
            # Room of 0 asks for nothing, so nothing of it is missing.
            cut = cut or (address_cut and bool(address)) or (options_cut and bool(options))
        self.irp.returned = ReceivedDatagram(data, address, options, arrived.source, arrived.flags)
        return self.irp.complete(NtStatus.BUFFER_OVERFLOW if cut else NtStatus.SUCCESS, len(data))


def _cut(data: bytes, room: int | None) -> tuple[bytes, bool]:
    """What fits, and whether something did not."""
    return (data, False) if room is None else (data[:room], len(data) > room)


def check_receive(irp: Irp, profile: ProviderProfile) -> PostedReceive:
    """The request as it can be posted (R12 to R14, R21); Refused when it cannot."""
    parameters = irp.parameters
    if irp.minor != MinorFunction.RECEIVE_DATAGRAM or not isinstance(parameters, ReceiveDatagram):
        text = f"minor 0x{irp.minor:02X} is not a datagram receive: that is 0x0A"
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="R11")
    wanted = source_filter_untrusted(parameters.information, profile)
    room = parameters.returned
    if (
        profile.strict_return_structures
        and room is not None
        and room.remote_address_length is not None
        and 0 < room.remote_address_length < ADDRESS_HEADER_BYTES
    ):
        text = f"a returned address begins with {ADDRESS_HEADER_BYTES} bytes of header: give it room for them, or none"
        raise Refused(NtStatus.BUFFER_TOO_SMALL, text, rule="R18")
    return PostedReceive(irp, wanted, _capacity(parameters), parameters)


def _capacity(parameters: ReceiveDatagram) -> int:
    buffer, length = parameters.buffer, parameters.receive_length
    if not 0 <= length <= MAXIMUM_LENGTH:
        raise Refused(NtStatus.INVALID_PARAMETER, f"a receive length is 0..{MAXIMUM_LENGTH}, not {length}", rule="R12")
    total = buffer.byte_count if isinstance(buffer, MdlBuffer) else buffer or 0
    capacity = min(length or total, total)
    if isinstance(buffer, MdlBuffer):
        try:
            buffer.check(min(capacity, LONGEST_DATAGRAM))
        except AddressOutsideMemory as error:
            text = f"the MDL chain cannot be written: {error}"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="R12") from error
    return capacity


def build_receive_datagram(
    handle: int,
    buffer: MdlBuffer | int | None,
    receive_length: int = 0,
    source: ConnectionInformation | SocketAddress | None = None,
    context: object = None,
    *,
    returned: ReturnInformation | None = ReturnInformation(),
    flags: ReceiveFlags = ReceiveFlags.NONE,
) -> Irp:
    """A receive from ``source``, or from anybody. Windows: TdiBuildReceiveDatagram."""
    information = ConnectionInformation(source) if isinstance(source, SocketAddress) else source
    parameters = ReceiveDatagram(buffer, receive_length, information, returned, flags)
    return Irp(handle, parameters, context, minor=MinorFunction.RECEIVE_DATAGRAM)

"""A request, and its one completion.

Whoever submits an ``Irp`` gives it away until a ``Complete`` comes back for it: exactly one, whatever happens in
between (cancel, time-out, cleanup). Everything the transport needs from it is copied while it is being submitted, so
nothing of the client's is read later, when the client may have changed it.

    NEW ──submit──▶ (checked) ──▶ COMPLETED            answered at once
     │                  └──▶ PENDING ──▶ COMPLETED     queued; ends by sending, cancel, time-out or cleanup
     └─cancel─▶ cancelled, still NEW: completes with CANCELLED when it is submitted
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emulator.memory import AddressOutsideMemory, GuestMemory, Mdl
from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.constants import MajorFunction, MinorFunction
from emulator.tdi.effects import Complete
from emulator.tdi.structures import Bytes, SocketAddress


@dataclass(frozen=True, slots=True)
class MdlBuffer:
    """A client's data where it lies: an MDL chain in its machine's memory."""

    memory: GuestMemory
    mdl: Mdl

    def gather(self, byte_count: int) -> bytes | None:
        """A private copy of the chain's first ``byte_count`` bytes (rules S11, S12a); None when the chain is shorter.

        Nothing is allocated before the chain is known to hold them. AddressOutsideMemory for pages that do not exist.
        """
        wanted = []
        left = byte_count
        for link in self.mdl.chain():
            take = min(left, link.byte_count)
            if take:
                wanted.append(link.cut(0, take))
                left -= take
            if not left:
                break
        if left:
            return None
        for part in wanted:
            self.memory.check_pages(part.pfns)
        return b"".join(self.memory.read_range(part) for part in wanted)

    @property
    def byte_count(self) -> int:
        """How many bytes the whole chain describes."""
        return sum(link.byte_count for link in self.mdl.chain())

    def scatter(self, data: Bytes, skip: int = 0) -> None:
        """Copy ``data`` into the chain, ``skip`` bytes in; nothing outside it is touched.

        Misuse when the chain is shorter; AddressOutsideMemory, with nothing written, for pages that do not exist.
        """
        left, parts = len(data), []
        for link in self.mdl.chain():
            take = min(left, max(0, link.byte_count - skip))
            if take:
                parts.append(link.cut(skip, take))
                left -= take
            skip = max(0, skip - link.byte_count)
        if left:
            raise Misuse(f"{len(data)} bytes do not fit a chain that ends {left} bytes earlier")
        for part in parts:
            self.memory.check_pages(part.pfns)
        done = 0
        for part in parts:
            self.memory.write_range(part, memoryview(data)[done : done + part.byte_count])
            done += part.byte_count

    def check(self, byte_count: int) -> None:
        """Raise AddressOutsideMemory unless the chain's first ``byte_count`` bytes lie in this memory."""
        left = byte_count
        for link in self.mdl.chain():
            take = min(left, link.byte_count)
            self.memory.check_pages(link.cut(0, take).pfns)
            left -= take


@dataclass(frozen=True, slots=True)
class ConnectionInformation:
    """Where a datagram shall go, as the client put it. Windows: TDI_CONNECTION_INFORMATION.

    ``remote_address`` is a socket address or the bytes of a TRANSPORT_ADDRESS, of which ``remote_address_length`` count
    (all of them when None). User data is refused (S5), options are tolerated and have no effect (S6).
    """

    remote_address: SocketAddress | Bytes | None
    remote_address_length: int | None = None
    user_data_length: int = 0
    options_length: int = 0
    options: Bytes | None = None


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """What a send asks. Windows: TDI_REQUEST_KERNEL_SENDDG, with the IRP's MdlAddress as ``data``.

    ``send_length`` None means all of ``data``, which only plain bytes can say.
    """

    information: ConnectionInformation | None
    data: Bytes | MdlBuffer | None
    send_length: int | None = None

    @property
    def length(self) -> int:
        """The bytes asked to be sent; ``send_length`` is authoritative (S11)."""
        if self.send_length is not None:
            return self.send_length
        if isinstance(self.data, MdlBuffer):
            raise Misuse("a send from an MDL chain names its send_length")
        return 0 if self.data is None else len(self.data)

    def gather(self, length: int, status: NtStatus) -> bytes:
        """A private copy of the first ``length`` bytes; refused with ``status`` when there are fewer (S12)."""
        if length == 0:
            return b""
        found: bytes | None = None
        if isinstance(self.data, MdlBuffer):
            try:
                found = self.data.gather(length)
            except AddressOutsideMemory as error:
                raise Refused(
                    NtStatus.INVALID_PARAMETER, f"the MDL chain cannot be read: {error}", rule="S12"
                ) from error
        elif self.data is not None and len(self.data) >= length:
            found = bytes(self.data[:length])
        if found is None:
            have = "there is no buffer" if self.data is None else "the buffer holds fewer"
            raise Refused(status, f"the send length is {length} bytes, but {have}", rule="S12")
        return found


class IrpState(Enum):
    """Where a request is in its life."""

    NEW = "new"
    PENDING = "pending"
    COMPLETED = "completed"


class Irp:
    """One request on one file. Windows: IRP with its IO_STACK_LOCATION.

    ``handle`` is the open file it is for, ``parameters`` the structure its minor function takes (``SendDatagram`` for
    SEND_DATAGRAM), ``context`` whatever the submitter wants to find it again by. ``status`` and ``information`` mean
    something once ``state`` is COMPLETED, and so does ``returned``: what else comes back, such as data received.
    """

    __slots__ = (
        "cancelled",
        "context",
        "handle",
        "information",
        "major",
        "minor",
        "parameters",
        "returned",
        "state",
        "status",
    )

    def __init__(
        self,
        handle: int,
        parameters: object,
        context: object = None,
        *,
        major: int = MajorFunction.INTERNAL_DEVICE_CONTROL,
        minor: int = MinorFunction.SEND_DATAGRAM,
    ) -> None:
        self.handle = handle
        self.parameters = parameters
        self.context = context
        self.major = major
        self.minor = minor
        self.state = IrpState.NEW
        self.cancelled = False
        self.status = NtStatus.PENDING
        self.information = 0
        self.returned: object = None

    @property
    def is_new(self) -> bool:
        """Whether nobody has submitted it yet."""
        return self.state is IrpState.NEW

    def mark_pending(self) -> None:
        """The request has been queued: its submitter gets STATUS_PENDING now and a completion later (P2)."""
        if self.state is not IrpState.NEW:
            raise Misuse(f"a request that is {self.state.value} cannot be queued")
        self.state = IrpState.PENDING

    def complete(self, status: NtStatus, information: int = 0, message: str = "", rule: str | None = None) -> Complete:
        """End the request. Misuse on a second completion (P1), with PENDING (P3), or with bytes on an error (P4)."""
        if self.state is IrpState.COMPLETED:
            raise Misuse(f"completed twice: first {self.status}, now {status}")
        if status is NtStatus.PENDING:
            raise Misuse("STATUS_PENDING is what a submission returns, never how a request ends")
        if status.is_error and information:
            raise Misuse(f"{status} with {information} bytes: a request that failed took none")
        self.state = IrpState.COMPLETED
        self.status = status
        self.information = information
        return Complete(self, status, information, message, rule)

    def refuse(self, refusal: Refused) -> Complete:
        """End the request with the status, words and rule of a refusal."""
        return self.complete(refusal.status, 0, refusal.message, refusal.rule)


def build_send_datagram(
    handle: int,
    destination: SocketAddress | Bytes | None,
    data: Bytes | MdlBuffer | None,
    send_length: int | None = None,
    context: object = None,
) -> Irp:
    """A send of ``data`` to ``destination`` with nothing out of the ordinary. Windows: TdiBuildSendDatagram."""
    return Irp(handle, SendDatagram(ConnectionInformation(destination), data, send_length), context)

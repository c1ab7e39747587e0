"""What a call into the transport wants done.

The caller performs a returned list in order, without waiting in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from emulator.status import NtStatus
from emulator.tdi.constants import EventType, ReceiveFlags
from emulator.tdi.structures import Bytes, SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.irp import Irp


class Complete(NamedTuple):
    """A request is over. It happens exactly once for each (rule P1).

    ``information`` is bytes taken from the client's buffer.
    """

    irp: Irp
    status: NtStatus
    information: int
    message: str = ""
    """Empty on success; else what was wrong and what would be right."""
    rule: str | None = None


class BindSocket(NamedTuple):
    """Bind a real UDP socket to ``local`` (port 0: any free one).

    Answer with ``socket_bound`` or ``socket_failed`` before any other call. The socket must never share its port with
    another socket, allow broadcasts out, and, for IPv6, carry IPv6 only. ``also`` are further hosts it shall be bound
    to, on the same port. So are ``broadcasts``, addresses whose datagrams it shall hear, as far as that is possible;
    those others may have too.
    """

    key: int
    local: SocketAddress
    also: tuple[str, ...] = ()
    broadcasts: tuple[str, ...] = ()


class CloseSocket(NamedTuple):
    """Nobody uses the socket any more."""

    key: int


class ReleaseHosts(NamedTuple):
    """Nobody uses these hosts of a socket any more; the others of it stay, and it hears no broadcasts any more."""

    key: int
    hosts: tuple[str, ...]


class Transmit(NamedTuple):
    """The socket has a send to try: take ``next_transmit(key)`` until it gives None or the socket has no room."""

    key: int


class JoinGroup(NamedTuple):
    """The socket joins a multicast group on the interface that has the address ``interface``.

    What arrives for the group comes in with its address as destination, and for no group that was not joined.
    """

    key: int
    group: str
    interface: str


class JoinForRequest(NamedTuple):
    """A JoinGroup that a request waits for: perform it, and answer with ``group_answered`` before any other call."""

    join: JoinGroup
    irp: Irp
    handle: int


class LeaveGroup(NamedTuple):
    """The socket leaves a group it has joined, or tried to join."""

    key: int
    group: str
    interface: str


class SendOutside(NamedTuple):
    """A segment's gateway has datagrams for a program outside.

    They leave from the host address of that entry, as far as its socket takes them now; else they are dropped and
    counted.
    """

    segment: str
    number: int
    destination: SocketAddress
    datagrams: list[bytes]


class Deliver(NamedTuple):
    """A datagram for one address object, perhaps another machine's. The whole payload, headers stripped (rule R4)."""

    machine: str
    handle: int
    owner: object
    source: SocketAddress
    data: bytes
    flags: ReceiveFlags


class Handler(NamedTuple):
    """An event handler as a client set it: its function and context are the client's own numbers, never used here."""

    event: EventType
    function: int
    context: int


class Event(NamedTuple):
    """What a handler is called with. Each event uses some of the fields; the others keep their defaults.

    ``remote`` travels as a whole TRANSPORT_ADDRESS (R25). ``data`` is what is indicated, or user data of a connection
    event; ``available`` how much there is in all; ``descriptor`` names a chained loan. ``connection`` is the
    ConnectionContext of the endpoint concerned.
    """

    remote: SocketAddress | None = None
    data: Bytes = b""
    available: int = 0
    flags: int = 0
    options: bytes = b""
    descriptor: int = 0
    connection: int = 0
    status: NtStatus = NtStatus.SUCCESS


class Ask(NamedTuple):
    """Call a client's handler and bring the answer to ``handler_answered`` under this token, on the same machine."""

    machine: str
    handle: int
    owner: object
    token: int
    handler: Handler
    event: Event


class Tell(NamedTuple):
    """Call a client's handler; what it returns counts for nothing. A ``lossy`` one may be dropped by a full client."""

    machine: str
    handle: int
    owner: object
    handler: Handler
    event: Event
    lossy: bool


class Violation(NamedTuple):
    """A client broke a rule in a way no status tells it: to be counted and logged."""

    machine: str
    handle: int
    owner: object
    rule: str
    message: str


class BindStream(NamedTuple):
    """Bind a real TCP socket to ``local`` (port 0: any free one), which does not listen yet.

    ``also`` are (key, host) of further ones on the same port: all of them, or none. Answer with ``stream_bound`` or
    ``stream_failed`` before any other call.
    """

    key: int
    local: SocketAddress
    also: tuple[tuple[int, str], ...] = ()


class AcceptStreams(NamedTuple):
    """Who connects to a bound socket is wanted, or not any more: ask ``wants_accept``. It listens from now on."""

    key: int


class ConnectStream(NamedTuple):
    """Connect a new socket ``key`` to ``remote``, from the address of that one of ``holders`` that routes select.

    There is one at least; the first is taken where the routes select none of them.
    """

    key: int
    holders: tuple[int, ...]
    remote: SocketAddress


class StreamChanged(NamedTuple):
    """A connected socket may have something to send, an end to send, or room for what arrives: ask its link."""

    key: int


class CloseStream(NamedTuple):
    """Close a socket, if there is one by that key; with ``abort`` its peer is reset."""

    key: int
    abort: bool


class DeadlineChanged(NamedTuple):
    """What this owner waits for, perhaps on another machine, may have a nearer deadline than it had."""

    owner: object


class CleanupComplete(NamedTuple):
    """The cleanup of a handle is over: every request on it has been completed before this (rule CL2).

    Now it can be closed.
    """

    handle: int


Effect: TypeAlias = (
    Complete
    | BindSocket
    | CloseSocket
    | ReleaseHosts
    | Transmit
    | JoinGroup
    | JoinForRequest
    | LeaveGroup
    | SendOutside
    | Deliver
    | Ask
    | Tell
    | Violation
    | BindStream
    | AcceptStreams
    | ConnectStream
    | StreamChanged
    | CloseStream
    | DeadlineChanged
    | CleanupComplete
)

"""Open files: address objects and control channels.

And the table that says who may open what and who gets what arrives.

One *transport address* (IP address and port) can be opened several times, if the first opener allowed it. Each open is
an address object of its own, with its own send queue, and each gets its own copy of every datagram that matches it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind
from emulator.tdi.groups import DEFAULT_OPTIONS, Membership, SendOptions
from emulator.tdi.handlers import HandlerTable
from emulator.tdi.indications import Intake
from emulator.tdi.structures import SocketAddress, host_facts_untrusted

if TYPE_CHECKING:
    from emulator.tdi.connection import ConnectionEndpoint
    from emulator.tdi.irp import Irp
    from emulator.tdi.queues import QueuedSend

_NO_GROUPS: dict[Membership, int] = {}
"""Shared by every object that has joined nothing; a joining one gets a table of its own."""


class ControlChannel:
    """An open of a device without an address, for questions about the provider."""

    __slots__ = ("closing", "handle", "network", "owner")
    kind = FileKind.CONTROL

    def __init__(self, handle: int, owner: object, network: str) -> None:
        self.handle = handle
        self.owner = owner
        self.network = network
        self.closing = False


class AddressObject:
    """One open of a transport address.

    ``local`` is what a query reports: a wildcard stays one, port 0 has become the chosen port. ``path_key`` names the
    real socket it sends through, 0 on a segment. ``closing`` is true from its cleanup on: it takes no more requests and
    gets no more datagrams (CL3). A new one has no event handlers (CR12): every datagram goes to ``owner``.
    ``intake`` is its receive side, made when it first posts a receive or sets a handler.
    """

    __slots__ = (
        "closing",
        "groups",
        "handle",
        "handlers",
        "has_turn",
        "intake",
        "is_broadcast",
        "local",
        "network",
        "options",
        "owner",
        "path_key",
        "queue",
        "shared",
        "version",
    )
    kind = FileKind.ADDRESS

    def __init__(
        self,
        handle: int,
        owner: object,
        network: str,
        local: SocketAddress,
        *,
        shared: bool,
        is_broadcast: bool = False,
    ) -> None:
        self.handle = handle
        self.owner = owner
        self.network = network
        self.local = local
        self.version = host_facts_untrusted(local.host).version
        self.shared = shared
        self.is_broadcast = is_broadcast
        self.path_key = 0
        self.closing = False
        self.queue: OrderedDict[Irp, QueuedSend] = OrderedDict()
        self.has_turn = False
        self.groups = _NO_GROUPS
        self.options: SendOptions = DEFAULT_OPTIONS
        self.handlers = HandlerTable()
        self.intake: Intake | None = None

    def receive_side(self) -> Intake:
        """Its receive side, made now if it has none."""
        if self.intake is None:
            self.intake = Intake()
        return self.intake

    @property
    def is_wildcard(self) -> bool:
        """Whether it takes datagrams for any of the machine's addresses."""
        return self.local.host in ("0.0.0.0", "::")


OpenFile: TypeAlias = "AddressObject | ControlChannel | ConnectionEndpoint"
"""Whatever a handle can stand for."""


class AddressTable:
    """The address objects of one machine on one network, found by port."""

    def __init__(self) -> None:
        self._by_port: dict[int, list[AddressObject]] = {}

    def add(self, address: AddressObject) -> None:
        """Enter an object that passed ``check_share``."""
        self._by_port.setdefault(address.local.port, []).append(address)

    def remove(self, address: AddressObject) -> None:
        """Take an object out for good."""
        same_port = self._by_port[address.local.port]
        same_port.remove(address)
        if not same_port:
            del self._by_port[address.local.port]

    def has_port(self, port: int) -> bool:
        """Whether any object is open on this port."""
        return port in self._by_port

    def check_share(self, local: SocketAddress, version: int, shared: bool) -> None:
        """Refuse an open that collides with one that stands: the first opener decides (CR8).

        On the very same address an exclusive open collides with any other: SHARING_VIOLATION. A wildcard and a single
        address overlap without being the same; when either is exclusive the port is taken: ADDRESS_ALREADY_EXISTS.
        """
        wildcard = host_facts_untrusted(local.host).is_wildcard
        for other in self._by_port.get(local.port, ()):
            same = other.local.host == local.host
            overlap = same or (other.version == version and (wildcard or other.is_wildcard))
            if not overlap or (shared and other.shared):
                continue
            reason = (
                "is open and its opener does not share it"
                if not other.shared
                else "is open, so it cannot be opened exclusively"
            )
            if same:
                raise Refused(
                    NtStatus.SHARING_VIOLATION, f"{local} {reason}: both opens must ask for sharing", rule="CR8"
                )
            raise Refused(
                NtStatus.ADDRESS_ALREADY_EXISTS,
                f"port {local.port} is taken: {other.local} {reason} and overlaps {local}: "
                "use another port, or share both",
                rule="CR8",
            )

    def activity(self, local: SocketAddress) -> int:
        """How many objects are open on a transport address. Windows: TDI_ADDRESS_INFO.ActivityCount."""
        return sum(1 for other in self._by_port.get(local.port, ()) if other.local == local)

    def matching(self, host: str, version: int, port: int, *, broadcast: bool) -> list[AddressObject]:
        """Everyone who gets a datagram sent to ``host`` and ``port``, oldest open first (R1, R2, R3).

        A broadcast reaches every object on the port.
        """
        return [
            address
            for address in self._by_port.get(port, ())
            if address.version == version
            and not address.closing
            and (broadcast or address.local.host == host or address.is_wildcard)
        ]

    def members(self, group: str, port: int) -> list[AddressObject]:
        """Everyone who gets a multicast: those on the port that have joined the group, oldest open first (R1, O9)."""
        return [
            address
            for address in self._by_port.get(port, ())
            if not address.closing and any(membership.group == group for membership in address.groups)
        ]

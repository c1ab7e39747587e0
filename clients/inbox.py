"""What has arrived for a channel, an offer or an address and waits to be taken. Pure, and shared by both faces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from emulator.memory import GpaRange, Mdl
from emulator.status import NtStatus
from emulator.vmbus.packets import COMPLETION_REQUESTED, Packet, PacketKind
from emulator.wire.window import ReceiveWindow, SendWindow

Grant = tuple[int, int]


class Inbox:
    """A channel's, an address's or a connection's windows, and why it is closed if it is."""

    answers_return_room = False
    """Whether the answer to a send gives its room in the window back."""

    def __init__(self, number: int, sends: Grant, receives: Grant) -> None:
        self.number = number
        self.sends = SendWindow(*sends)
        self.receives = ReceiveWindow(*receives)
        self.closed: tuple[NtStatus, str] | None = None
        self.items: deque[Any] = deque()
        self.collecting = False
        self.waiter: Any = None

    def arrived(self, item: Any) -> None:
        """Something came."""
        self.items.append(item)

    def close(self, status: NtStatus, reason: str) -> None:
        """Nothing more comes. What came before can still be taken."""
        if self.closed is None:
            self.closed = status, reason


class EndState(Protocol):
    """An open channel as this client has it: hosted (``ChannelState``) or direct."""

    number: int
    offer: OfferState | None
    closed: tuple[NtStatus, str] | None
    items: deque[Any]
    collecting: bool
    waiter: Any

    def close(self, status: NtStatus, reason: str) -> None:
        """Nothing more comes. What came before can still be taken."""


class OfferState:
    """A host's offer: the opening it has now, and the packets of all its openings, in order."""

    def __init__(self, number: int, interface: UUID, instance: UUID, *, pipe: bool) -> None:
        self.number = number
        self.interface = interface
        self.instance = instance
        self.pipe = pipe
        self.opening: EndState | None = None
        # For a host that works the rings itself: makes the state of an opening from (number, rings, descriptor).
        self.attach: Callable[[int, tuple[Any, ...], int], EndState | None] | None = None
        self.openings = 0
        self.last_closed: tuple[NtStatus, str] | None = None
        self.items: deque[Any] = deque()
        # Whether somebody waits for payloads alone; the rings of a direct end can then be emptied faster.
        self.collecting = False
        self.closed: tuple[NtStatus, str] | None = None
        self.waiter: Any = None

    def opened(self, state: EndState) -> None:
        """A guest opened it."""
        self.opening = state
        self.openings += 1

    def closed_opening(self, state: EndState) -> None:
        """An opening is over; the offer stands."""
        self.last_closed = state.closed
        if self.opening is state:
            self.opening = None

    def close(self, status: NtStatus, reason: str) -> None:
        """The offer is gone."""
        if self.closed is None:
            self.closed = status, reason


class ChannelState(Inbox):
    """An open channel, of a guest, or of a host's offer."""

    def __init__(self, number: int, sends: Grant, receives: Grant, *, pipe: bool, offer: OfferState | None) -> None:
        super().__init__(number, sends, receives)
        self.pipe = pipe
        self.offer = offer
        if offer is not None:
            self.items = offer.items


class AddressState(Inbox):
    """An open address object; ``machine`` and ``network`` say where, if it was opened by name."""

    answers_return_room = True

    def __init__(self, number: int, sends: Grant, receives: Grant, machine: int = 0, network: str = "") -> None:
        super().__init__(number, sends, receives)
        self.granted_sends = sends[0]
        self.dropped = 0
        self.machine = machine
        self.network = network
        self.handled = 0
        """Calls of its event handlers that have ended."""
        self.served = 0
        """How many of them somebody has waited for."""


class ConnectionState(Inbox):
    """An open connection endpoint. Nothing arrives unasked, so there is no window the other way."""

    answers_return_room = True

    def __init__(self, number: int, sends: Grant, context: int, network: str) -> None:
        super().__init__(number, sends, (0, 0))
        self.context = context
        self.network = network
        self.peer: tuple[str, int] | None = None


class Datagram(NamedTuple):
    """A datagram that arrived: its bytes, where from, and the TDI_RECEIVE_* flags it came with."""

    data: bytes
    source: tuple[str, int]
    flags: int


class ReceivedPacket:
    """A packet as it came out of the ring."""

    __slots__ = ("batch", "completed", "cost", "handle", "is_again", "mdl", "packet", "payload", "refusal", "state")

    def __init__(
        self, state: ChannelState, handle: int, packet: Packet, cost: int, refusal: tuple[int, str] | None
    ) -> None:
        self.state = state
        self.handle = handle
        self.packet = packet
        self.cost = cost
        self.refusal = refusal
        self.completed = False
        self.batch = 0  # on the last of a batch, how many it had (B1)
        self.is_again = False  # put back, and taken for another time
        self.mdl: Mdl | None = None
        self.payload = _pipe_payload(packet.payload) if state.pipe else packet.payload

    @property
    def wants_completion(self) -> bool:
        """Whether the sender waits for a completion."""
        return bool(self.packet.flags & COMPLETION_REQUESTED)

    @property
    def is_held(self) -> bool:
        """Whether the daemon keeps it until it is completed; one that wants no completion is finished on delivery."""
        return self.wants_completion or self.has_external_data

    @property
    def has_external_data(self) -> bool:
        """Whether it points at guest memory (rule R2)."""
        return self.packet.kind is PacketKind.GPA_DIRECT

    @property
    def range_error(self) -> str | None:
        """What is wrong with the ranges, if anything is."""
        return self.packet.range_error

    @property
    def ranges(self) -> tuple[GpaRange, ...]:
        """The guest memory it points at, a range for each MDL."""
        return self.packet.ranges


def _pipe_payload(payload: bytes) -> bytes:
    """The exact bytes of a pipe packet; the daemon has checked its header."""
    size = int.from_bytes(payload[4:8], "little")
    return payload[8 : 8 + size]

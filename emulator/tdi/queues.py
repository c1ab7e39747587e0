"""Sends waiting for a medium: FIFO for each address object, bounded, each with a deadline.

Three orders are kept over the same requests. Within one address object the oldest goes first (S26). Objects that share
a path (one real socket, one attachment to a segment) take turns, one datagram each, so that a full queue of one never
stands before another's first (S29). Over the whole device, requests are kept in the order they were accepted, which is
also the order of their deadlines, since all have the same time-out: so the next deadline is found without looking at
every object.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from emulator.status import Misuse, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.irp import Irp
from emulator.tdi.profile import ProviderProfile
from emulator.tdi.structures import SocketAddress


class QueuedSend:
    """A send that has been accepted: its own copy of the data (S12c), and until when it may wait."""

    __slots__ = ("address", "data", "deadline", "destination", "irp", "token")

    def __init__(
        self, irp: Irp, address: AddressObject, data: bytes, destination: SocketAddress, deadline: float, token: int
    ) -> None:
        self.irp = irp
        self.address = address
        self.data = data
        self.destination = destination
        self.deadline = deadline
        self.token = token


class SendPath:
    """What several address objects send through, one at a time. ``key`` is the socket's, or 0 on a segment."""

    __slots__ = ("_turns", "key")

    def __init__(self, key: int) -> None:
        self.key = key
        self._turns: deque[AddressObject] = deque()

    def join(self, address: AddressObject) -> None:
        """The address has something to send; it keeps the place it has, if it has one."""
        if not address.has_turn:
            address.has_turn = True
            self._turns.append(address)

    def first(self) -> AddressObject | None:
        """Whose turn it is; those with nothing left to send lose their place here."""
        turns = self._turns
        while turns:
            if turns[0].queue:
                return turns[0]
            turns.popleft().has_turn = False
        return None

    def rotate(self) -> None:
        """The first one had its turn."""
        self._turns.rotate(-1)


class SendQueues:
    """All the waiting sends of one device of one machine."""

    def __init__(self, profile: ProviderProfile) -> None:
        self._profile = profile
        self._waiting: OrderedDict[Irp, QueuedSend] = OrderedDict()
        self._bytes = 0
        self._last_token = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def byte_count(self) -> int:
        """Bytes of data waiting."""
        return self._bytes

    def check_room(self, address: AddressObject, byte_count: int) -> None:
        """Refuse a send that would make a queue longer than it may be; the queue is not touched (S30)."""
        profile = self._profile
        if len(address.queue) >= profile.max_queued_datagrams:
            raise Refused(
                profile.queue_full_status,
                f"{profile.max_queued_datagrams} datagrams of this address are waiting to be sent, which is its limit: "
                "wait for completions before sending more",
                rule="S30",
            )
        if self._bytes + byte_count > profile.max_queued_bytes:
            raise Refused(
                profile.queue_full_status,
                f"{self._bytes} bytes are waiting to be sent on this device and {byte_count} more would pass "
                f"its limit of {profile.max_queued_bytes}: wait for completions before sending more",
                rule="S30",
            )

    def put(
        self, address: AddressObject, path: SendPath, irp: Irp, data: bytes, destination: SocketAddress, now: float
    ) -> None:
        """Queue a send that passed every check."""
        self._last_token += 1
        deadline = now + self._profile.send_timeout_seconds
        send = QueuedSend(irp, address, data, destination, deadline, self._last_token)
        self._waiting[irp] = send
        address.queue[irp] = send
        self._bytes += len(data)
        path.join(address)

    def head(self, path: SendPath) -> QueuedSend | None:
        """What goes next on this path. It stays queued until it is taken."""
        address = path.first()
        return None if address is None else next(iter(address.queue.values()))

    def take_head(self, path: SendPath, token: int) -> QueuedSend:
        """Remove what ``head`` gave, which ``token`` must name: it has been tried, and others have their turn now."""
        send = self.head(path)
        if send is None or send.token != token:
            raise Misuse(
                f"token {token} is not at the head of its path: the head may change between asking and answering"
            )
        self.remove(send)
        path.rotate()
        return send

    def find(self, irp: Irp) -> QueuedSend | None:
        """The waiting send of a request."""
        return self._waiting.get(irp)

    def remove(self, send: QueuedSend) -> None:
        """Take a send out, wherever it stands; the order of the rest stays (S38)."""
        del self._waiting[send.irp]
        del send.address.queue[send.irp]
        self._bytes -= len(send.data)

    def overdue(self, now: float) -> list[QueuedSend]:
        """Those whose deadline has come, oldest first; still queued."""
        found = []
        for send in self._waiting.values():
            if send.deadline > now:
                break
            found.append(send)
        return found

    def next_deadline(self) -> float | None:
        """When the oldest waiting send expires."""
        return next((send.deadline for send in self._waiting.values()), None)

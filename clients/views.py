"""What objects of both faces have in common: what they are made of, and what can be seen of them without waiting.

Each is a base of the class of that name in the face with an event loop, and in the one without; those say which kind of
connection theirs is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from clients import connection_calls, requests

if TYPE_CHECKING:
    from uuid import UUID

    from clients.direct_calls import DirectPacket
    from clients.file_calls import FileState
    from clients.filtering import FilterState
    from clients.inbox import AddressState, ConnectionState, EndState, OfferState, ReceivedPacket
    from clients.memory import MachineMemory
    from clients.protocol import ClientProtocol
    from emulator.memory import GpaRange
    from emulator.status import NtStatus


class ConnectionView(Protocol):
    """A connection to the daemon, as far as nobody waits for it."""

    protocol: ClientProtocol

    def flush(self) -> None:
        """Send what there is to send."""


class MachineView(Protocol):
    """A machine this client acts on."""

    number: int
    memory: MachineMemory


class PacketView:
    """A packet that arrived, and what it shows."""

    def __init__(
        self, connection: ConnectionView, machine: MachineView, received: ReceivedPacket | DirectPacket
    ) -> None:
        self._connection = connection
        self._machine = machine
        self._received = received
        self.payload = received.payload
        self.wants_completion = received.wants_completion
        self.has_external_data = received.has_external_data
        self.ranges = received.ranges

    def _ranges(self) -> tuple[GpaRange, ...]:
        return requests.usable_ranges(self._connection.protocol, self._machine.number, self._received)

    def external_data(self) -> bytes:
        """A copy of the guest memory it points at; for clients that have mapped it."""
        return requests.gather_mapped(self._machine.memory, self._ranges())


class EndView:
    """One end of a channel, and where that is open."""

    def __init__(self, connection: ConnectionView, machine: MachineView) -> None:
        self._connection = connection
        self._machine = machine

    def _open_state(self) -> EndState:
        raise NotImplementedError

    def _inbox(self) -> EndState | OfferState:
        raise NotImplementedError


class ChannelView(EndView):
    """An open channel, from its guest."""

    def __init__(self, connection: ConnectionView, machine: MachineView, state: EndState, instance: UUID) -> None:
        super().__init__(connection, machine)
        self.instance = instance
        self._state = state

    def _open_state(self) -> EndState:
        return self._state

    def _inbox(self) -> EndState:
        return self._state

    @property
    def closed(self) -> tuple[NtStatus, str] | None:
        """(status, reason) once it is closed."""
        return self._state.closed


class OfferedChannelView(EndView):
    """A channel offered by this host, and whether a guest has it."""

    def __init__(self, connection: ConnectionView, machine: MachineView, state: OfferState) -> None:
        super().__init__(connection, machine)
        self._state = state
        self.instance = state.instance

    def _open_state(self) -> EndState:
        return requests.opening_of(self._state)

    def _inbox(self) -> OfferState:
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether a guest has it open."""
        return self._state.opening is not None

    @property
    def last_closed(self) -> tuple[NtStatus, str] | None:
        """(status, reason) of the opening that ended last."""
        return self._state.last_closed


class AddressView:
    """An open transport address."""

    def __init__(self, connection: ConnectionView, state: AddressState, local: tuple[str, int]) -> None:
        self._connection = connection
        self._state = state
        self.local = local

    @property
    def state(self) -> AddressState:
        """The address as the connection to the daemon knows it."""
        return self._state

    @property
    def dropped(self) -> int:
        """Datagrams the daemon had to drop because this client did not take them in time."""
        return self._state.dropped


class TdiConnectionView:
    """A connection endpoint, and whom it is connected to."""

    def __init__(self, connection: ConnectionView, state: ConnectionState) -> None:
        self._connection = connection
        self._state = state

    @property
    def peer(self) -> tuple[str, int] | None:
        """The other side of the connection it has or had last."""
        return self._state.peer

    @property
    def context(self) -> int:
        """Its number in events of the address it is associated with. Windows: ConnectionContext."""
        return self._state.context

    @property
    def number(self) -> int:
        """Its number in this connection to the daemon, which a connect handler answers with."""
        return self._state.number

    @property
    def closed(self) -> tuple[NtStatus, str] | None:
        """(status, reason) once it is closed."""
        return self._state.closed

    def abandon(self) -> None:
        """Close it without waiting for that."""
        connection_calls.close(self._connection.protocol, self._state)
        self._connection.flush()


class FileView:
    """An open file of a transport."""

    def __init__(self, connection: ConnectionView, state: FileState) -> None:
        self._connection = connection
        self._state = state
        self.kind = state.kind
        self.local = state.local

    @property
    def number(self) -> int:
        """Its number in this session, where a request names another file."""
        return self._state.number


class FilterView:
    """This client's place above a device."""

    def __init__(self, connection: ConnectionView, state: FilterState) -> None:
        self._connection = connection
        self._state = state

    @property
    def closed(self) -> str | None:
        """Why the filter is out, once it is."""
        return None if self._state.closed is None else self._state.closed[1]

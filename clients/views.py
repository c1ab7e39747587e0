"""What both faces show of their objects without waiting: the one with an event loop and the one without."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from clients.driver_calls import DriverCore
from clients.requests import opening_of

if TYPE_CHECKING:
    from clients.direct_calls import DirectPacket
    from clients.driver import ChannelCallbacks, DriverPhase
    from clients.inbox import ConnectionState, EndState, OfferState, ReceivedPacket
    from clients.memory import MachineMemory
    from clients.protocol import ClientProtocol
    from clients.verifier import Verifier
    from emulator.memory import Mdl
    from emulator.status import NtStatus
    from emulator.vmbus.channel_setup import ChannelSetup
    from emulator.vmbus.profile import Side


class OfferedChannelView:
    """A channel offered by this host, and whether a guest has it."""

    def __init__(self, state: OfferState) -> None:
        self._state = state
        self.instance = state.instance

    def _open_state(self) -> EndState:
        return opening_of(self._state)

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


class DriverPacketView:
    """A packet that arrived on a driver channel; what can be seen of it."""

    _core: DriverCore
    _received: ReceivedPacket | DirectPacket

    def external_mdl(self, *, read_only: bool = False) -> Mdl:
        """The guest memory it shows, an MDL for each range. Windows: VmbChannelPacketGetExternalData (R6, R7).

        Raises RequestFailed: with PENDING, take it as not delivered; it comes again when its pages are in.
        """
        return self._core.external_mdl(self._received, read_only=read_only)


class DriverChannelView:
    """A driver channel, and where it is in its life."""

    def __init__(
        self,
        protocol: ClientProtocol,
        machine: tuple[int, MachineMemory],
        side: Side,
        callbacks: ChannelCallbacks,
        mode: str,
    ) -> None:
        self.side = side
        self.pointer: object = None  # Windows: VmbChannelSetPointer, VmbChannelGetPointer
        self._core = DriverCore(protocol, machine, side, callbacks, mode, self)
        self._state = self._core.state

    @property
    def setup(self) -> ChannelSetup:
        """The Init* values, to be set before ``enable``."""
        return self._core.setup

    @property
    def phase(self) -> DriverPhase:
        """Disabled, enabled or open."""
        return self._state.phase

    @property
    def is_paused(self) -> bool:
        """Whether nothing is delivered before ``start``."""
        return self._state.is_paused

    @property
    def instance(self) -> UUID | None:
        """The instance id of the active offer. Windows: VmbChannelGetInterfaceInstance."""
        return self._state.instance_id

    @property
    def mmio_space(self) -> tuple[int, int]:
        """(address, bytes) reserved for it; once it is open. Windows: VmbChannelGetMmioSpace. Raises Refused."""
        return self._core.mmio_space()

    @property
    def verifier(self) -> Verifier:
        """What it reported, if the machine's configuration has it on; its reports are raised, too."""
        return self._core.verifier

    @property
    def outstanding(self) -> int:
        """Packets that were taken here and not completed."""
        return len(self._state.taken)


class TdiConnectionView:
    """A connection endpoint, and whom it is connected to."""

    _state: ConnectionState

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

"""What driver channels and their packets have in common in both faces: all of them that waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import requests
from clients.driver_calls import DriverCore
from clients.views import PacketView
from emulator.vmbus.send_rules import SendFlags

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from clients.direct_calls import DirectPacket
    from clients.driver import ChannelCallbacks, DriverPhase, DriverSend
    from clients.driver_sends import Payload
    from clients.inbox import ReceivedPacket
    from clients.verifier import Verifier
    from clients.views import ConnectionView, MachineView
    from emulator.memory import Mdl
    from emulator.vmbus.channel_setup import ChannelSetup
    from emulator.vmbus.profile import Side


class DriverPacketView(PacketView):
    """A packet that arrived on a driver channel."""

    def __init__(
        self,
        connection: ConnectionView,
        machine: MachineView,
        received: ReceivedPacket | DirectPacket,
        core: DriverCore,
    ) -> None:
        super().__init__(connection, machine, received)
        self._core = core
        self.is_deferred = received.is_again  # put back with ``defer`` or for its pages, and here again
        # Above 0 on the last of a batch: how many it had. Windows: EvtVmbChannelProcessingComplete (B1).
        self.batch_packets = received.batch

    def external_mdl(self, *, read_only: bool = False) -> Mdl:
        """The guest memory it shows, an MDL for each range. Windows: VmbChannelPacketGetExternalData (R6, R7).

        Raises RequestFailed: with PENDING, take it as not delivered; it comes again when its pages are in.
        """
        return self._core.external_mdl(self._received, read_only=read_only)

    def complete_now(self, payload: bytes = b"") -> None:
        """``complete``, for callers that cannot wait until the socket has taken it."""
        self._core.check_completion(self._received)
        requests.complete(self._connection.protocol, self._received, payload)
        self._core.ended(self._received)
        self._connection.flush()

    def fail_now(self) -> None:
        """``fail``, for callers that wait for nothing."""
        self._core.check_completion(self._received)
        requests.fail(self._connection.protocol, self._received)
        self._core.ended(self._received)
        self._connection.flush()

    def defer(self) -> None:
        """Put it back; it comes again before any other. Windows: VmbChannelPacketDeferToPassive (R5)."""
        self._core.defer(self._received)
        self._connection.flush()


class DriverChannelView:
    """A driver channel, and where it is in its life."""

    def __init__(
        self, connection: ConnectionView, machine: MachineView, side: Side, callbacks: ChannelCallbacks, mode: str
    ) -> None:
        self.side = side
        self.pointer: object = None  # Windows: VmbChannelSetPointer, VmbChannelGetPointer
        self._connection = connection
        self._machine = machine
        place = machine.number, machine.memory
        self._core = DriverCore(connection.protocol, place, side, callbacks, mode, self)
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

    # ---- sending

    def submit(
        self, buffer: Payload, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> DriverSend:
        """Windows: VmbPacketSend. Checks the arguments now (raises Refused) and queues or sends; never waits.

        What is returned is ``done`` when the packet is complete; ``finish`` waits for that. Before the channel is open
        packets wait here, and go out in order when Opened has returned.
        """
        return self._submitted(self._core.submit(buffer, mdl, flags))

    def submit_with_external_mdl(
        self,
        buffer: Payload,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> DriverSend:
        """Windows: VmbPacketSendWithExternalMdl, as ``submit``."""
        return self._submitted(self._core.submit_external_mdl(buffer, mdl, (offset, length), flags))

    def submit_with_external_pfns(
        self, buffer: Payload, pfns: Sequence[int] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> DriverSend:
        """Windows: VmbPacketSendWithExternalPfns, as ``submit``."""
        return self._submitted(self._core.submit_external_pfns(buffer, pfns, flags))

    def _submitted(self, send: DriverSend) -> DriverSend:
        self._connection.flush()
        return send

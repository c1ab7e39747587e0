"""A packet that arrived: the trio face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import remote_memory, requests
from clients.direct_calls import DirectPacket
from clients.inbox import ReceivedPacket
from emulator.memory import GpaRange

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.vmbus import Machine


class Packet:
    """A packet that arrived. Complete it exactly once if its sender waits for that."""

    def __init__(self, connection: Connection, machine: Machine, received: ReceivedPacket | DirectPacket) -> None:
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

    async def read_external_data(self) -> bytes:
        """The same, for every client."""
        ranges = self._ranges()
        if self._machine.memory.is_mapped:
            return requests.gather_mapped(self._machine.memory, ranges)
        return await remote_memory.read_ranges(self._connection, self._machine.number, ranges)

    async def complete(self, payload: bytes = b"") -> None:
        """Windows: VmbChannelPacketComplete. Its sender's call returns ``payload``, padded to 8 bytes."""
        requests.complete(self._connection.protocol, self._received, payload)
        self._connection.flush()
        await self._connection.drain()

    async def fail(self) -> None:
        """Windows: VmbChannelPacketFail. It is malformed; the channel delivers nothing more until opened again."""
        requests.fail(self._connection.protocol, self._received)
        self._connection.flush()

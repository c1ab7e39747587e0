"""A packet that arrived: the trio face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import remote_memory, requests
from clients.views import PacketView

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.vmbus import Machine


class Packet(PacketView):
    """A packet that arrived. Complete it exactly once if its sender waits for that."""

    _connection: Connection
    _machine: Machine

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

"""What can be asked of one end of a channel without changing it: how much waits, is outstanding, is held, and why."""

from __future__ import annotations

from collections.abc import Sized

from emulator.vmbus.deliveries import Deliveries
from emulator.vmbus.outgoing import Outgoing
from emulator.vmbus.ring import RingReceiver


class EndpointView:
    """The questions; ``ChannelEndpoint`` is what they are about."""

    def __init__(self, incoming: RingReceiver, own: Outgoing, deliveries: Deliveries) -> None:
        self._incoming = incoming
        self._own = own
        self._deliveries = deliveries
        self._stopped = False  # a packet was failed (R4)
        self._halted = False  # that, or a pause
        self._closed = False
        # How much has come and was not taken yet; a look that takes nothing. Raises RingCorruption.
        self.arrived_bytes = incoming.used_bytes
        # What waits for room in the outgoing ring; to be asked whether it is empty.
        self.line: Sized = own.line

    @property
    def queued_packets(self) -> int:
        """Packets in line for the outgoing ring, completions included."""
        return self._own.queued

    @property
    def queued_data_packets(self) -> int:
        """Data packets in line for the outgoing ring: what was sent and is not in it yet."""
        return self._own.queued_data

    @property
    def outstanding(self) -> int:
        """Packets of ours that are in the ring or beyond it, and not completed."""
        return len(self._own)

    @property
    def delivered(self) -> int:
        """Packets of the peer's that were delivered and not completed (Q1)."""
        return len(self._deliveries)

    @property
    def transaction_quota(self) -> int:
        """How many packets of the peer's may be delivered and not completed (Q1)."""
        return self._deliveries.quota

    @property
    def quota_blocked(self) -> bool:
        """Whether packets stay in the ring because as many as the quota allows are not completed (Q1)."""
        return self._deliveries.quota_blocked

    @property
    def is_stopped(self) -> bool:
        """Whether a packet was failed, so that nothing is delivered any more (R4)."""
        return self._stopped

    @property
    def is_delivering(self) -> bool:
        """Whether packets and completions are taken from the ring; ``set_delivering`` changes it."""
        return not self._halted

    @property
    def oldest_outstanding(self) -> tuple[int, object] | None:
        """The packet of ours that has waited longest for its completion: its transaction id and its context."""
        return self._own.oldest()

    @property
    def oldest_delivered(self) -> tuple[int, float] | None:
        """The packet of the peer's that was held longest: its transaction id, and when ``receive`` brought it."""
        held = self._deliveries.oldest()
        return None if held is None else (held.transaction_id, held.since)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def must_poll_when_blocked(self) -> bool:
        """Whether the peer never rings when there is room (3.1); with packets in line, ``receive`` on a timer."""
        return not self._incoming.peer_honours_pending_size

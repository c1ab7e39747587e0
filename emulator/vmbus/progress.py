"""What the calls of a channel endpoint return: where a packet went, what came in, what has ended."""

from __future__ import annotations

from typing import NamedTuple

from emulator.memory import GpaRange
from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import TransferPages


class SendOutcome(NamedTuple):
    """Where a packet went: into the ring (``written``) or into line, and whether to ring the peer's doorbell."""

    transaction_id: int
    written: bool
    doorbell: bool


class BatchOutcome(NamedTuple):
    """Where a batch of packets went: the first ``written`` of them into the ring, the others into line.

    Their transaction ids count up from ``first_transaction_id``. ``doorbell``: ring the peer's, once for all of them.
    """

    first_transaction_id: int
    written: int
    doorbell: bool


class PayloadRun(NamedTuple):
    """What one ``receive_payloads`` took: nothing but payloads, padded to 8 bytes, of packets that want no answer.

    ``drained_ring_bytes`` and ``doorbell`` as in ``Progress``. Empty when the ring is, or when what comes next is no
    such packet: then ``receive`` takes it.
    """

    payloads: list[bytes]
    drained_ring_bytes: int
    doorbell: bool


class CompleteOutcome(NamedTuple):
    """``doorbell``: ring the peer's. ``receive_again``: the quota held packets back and no longer does; poll without a
    doorbell. ``written`` is False when the completion waits in line, or the peer asked for none."""

    written: bool
    doorbell: bool
    receive_again: bool


class ReceivedPacket(NamedTuple):
    """A data packet from the peer.

    ``payload`` is padded to 8 bytes (exact on a pipe), ``image`` the whole packet as in the ring, without footer.
    ``external_error`` says why external data cannot be used; then ``ranges`` is empty.
    """

    handle: int
    payload: bytes
    has_external_data: bool
    ranges: tuple[GpaRange, ...]
    completion_requested: bool
    image: bytes
    external_error: Refused | None = None
    transfer: TransferPages | None = None


class Completed(NamedTuple):
    """The end of one of our own packets. ``never_written``: it ended without having been in the ring."""

    context: object
    status: NtStatus
    payload: bytes = b""
    never_written: bool = False


class Progress(NamedTuple):
    """What one ``receive`` did.

    ``drained_packets`` and ``drained_ring_bytes`` count data packets only, for the window of whoever sends them.
    ``more``: the ring was not emptied; call again, unless ``quota_blocked``: then after a ``complete``.
    """

    packets: list[ReceivedPacket]
    completed: list[Completed]
    drained_packets: int
    drained_ring_bytes: int
    doorbell: bool
    more: bool
    quota_blocked: bool

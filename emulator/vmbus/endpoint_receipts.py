"""What an endpoint's owner does with packets of the peer that it was given: completes them, fails them, reads them.

A packet has a handle from the ``receive`` that brought it until ``complete``; see ``endpoint.py`` for the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.memory import GpaRange
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus.deliveries import Deliveries
from emulator.vmbus.endpoint_view import EndpointView
from emulator.vmbus.outgoing import Outgoing
from emulator.vmbus.packets import MAX_LENGTH8, RingCorruption
from emulator.vmbus.progress import CompleteOutcome
from emulator.vmbus.ring import RingReceiver, RingSender
from emulator.vmbus.send_queue import Buffer

_new = tuple.__new__  # a third of the price of calling a named tuple's class


class EndpointReceipts(EndpointView):
    """The packets an endpoint has received and not completed; ``ChannelEndpoint`` is one with all the rest."""

    def __init__(self, incoming: RingReceiver, outgoing: RingSender, own: Outgoing, deliveries: Deliveries) -> None:
        super().__init__(incoming, own, deliveries)
        self._outgoing = outgoing
        self._failure: str | None = None  # how the peer broke the rings, for good

    def holds(self, handle: int) -> bool:
        """Whether a packet with this handle waits to be completed; ask before passing on a stranger's handle."""
        return handle in self._deliveries

    def _check_usable(self) -> None:
        if self._closed:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the channel has been closed; open it again")
        if self._failure is not None:
            raise RingCorruption(self._failure)

    def complete(self, handle: int, payload: Buffer = b"") -> CompleteOutcome:
        """End a received packet; its sender gets ``payload`` if it asked to (R3). Windows: VmbChannelPacketComplete.

        Raises Misuse for a handle that is not outstanding, Refused with nothing done when the payload is too long.
        """
        self._check_usable()
        entry = self._deliveries.find(handle)
        written = doorbell = False
        if entry.completion_requested:
            data = self._checked_completion(payload)
            try:
                written, doorbell = self._own.complete_one(entry.transaction_id, data)
            except RingCorruption as corruption:
                self._failure = str(corruption)
                raise
        return _new(CompleteOutcome, (written, doorbell, self._deliveries.remove(handle)))

    def complete_many(self, completions: Sequence[tuple[int, Buffer]]) -> CompleteOutcome:
        """End received packets, (handle, payload) for each, as ``complete`` does one: published at once, one doorbell.

        Raises as ``complete`` does, with none of them ended. ``written`` says whether all that were asked for are.
        """
        self._check_usable()
        answers: list[tuple[int, bytes]] = []
        handles: set[int] = set()
        for handle, payload in completions:
            entry = self._deliveries.find(handle)
            if handle in handles:
                raise Misuse(f"packet {handle} is completed twice in one call")
            handles.add(handle)
            if entry.completion_requested:
                answers.append((entry.transaction_id, self._checked_completion(payload)))
        written = doorbell = False
        if answers:
            try:
                written, doorbell = self._own.complete(answers)
            except RingCorruption as corruption:
                self._failure = str(corruption)
                raise
        again = [self._deliveries.remove(handle) for handle in handles]
        return CompleteOutcome(written, doorbell, any(again))

    def _checked_completion(self, payload: Buffer) -> bytes:
        data = bytes(payload)
        cost = ((len(data) + 7) & ~7) + 24
        if cost > self._outgoing.largest_cost or cost > MAX_LENGTH8 * 8:
            text = f"a completion of {len(data)} bytes never fits a ring that holds {self._outgoing.largest_cost}"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="K8")
        return data

    def fail(self, handle: int) -> None:
        """Give up on a malformed packet: nothing is sent, and this endpoint delivers nothing any more (R4).

        Windows: VmbChannelPacketFail. Raises Misuse for a handle that is not outstanding; where packets that want no
        completion are finished on delivery, for one that was never delivered.
        """
        self._check_usable()
        if self._stopped:
            self._deliveries.find(handle)  # nothing is delivered any more: it is held, or was failed before
        self._deliveries.give_up(handle)
        self._stopped = self._halted = True

    def external_data(self, handle: int) -> tuple[GpaRange, ...]:
        """The guest memory a received packet shows, the same at every call (R6).

        Windows: VmbChannelPacketGetExternalData. Raises Refused when it has none or it cannot be used, Misuse for a
        handle that is not outstanding.
        """
        self._check_usable()
        return self._deliveries.external_data(handle)

    def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be delivered and not completed. Windows: VmbChannelSetTransactionQuota.

        Raising it does not restart a queue it has stopped; only a completion does (Q3). Raises Misuse for 0 (Q4).
        """
        self._deliveries.set_quota(quota)

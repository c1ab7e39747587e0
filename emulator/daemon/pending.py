"""Requests that wait: for a packet's completion, for a run to be in the ring, for an offer."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from emulator.daemon.channel_side import ChannelSide
from emulator.daemon.channels import Channel
from emulator.daemon.obligations import Patient
from emulator.daemon.offers import Offer
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import Completed
from emulator.wire.codec import encode_error, encode_response

if TYPE_CHECKING:
    from emulator.daemon.channel_requests import ChannelRequests
    from emulator.daemon.machines import Machine


class PendingPacket:
    """A request whose answer is its packet's completion. It is the endpoint's context for that packet."""

    __slots__ = ("_msgid", "_side", "began", "transaction_id")

    def __init__(self, side: ChannelSide, msgid: int) -> None:
        self._side = side
        self._msgid = msgid
        self.began = monotonic()
        self.transaction_id = 0

    def finish(self, completed: Completed) -> None:
        """The packet is complete: answer."""
        session = self._side.session
        if not session.settle(self._msgid, self):
            return
        if completed.status.is_success:
            if self._side.machine.measures_latency:
                self._side.machine.counters.latencies.observe(monotonic() - self.began)
            session.put(encode_response(self._msgid, int(completed.status), completed.payload))
        else:
            session.put(
                encode_error(self._msgid, completed.status, self._side.channel.why_closed or "the packet was cancelled")
            )

    def cancel(self) -> None:
        try:
            completed = self._side.cancel(self.transaction_id)
        except PeerViolation as violation:
            self._side.violated(violation)
            return
        if completed is not None:
            self.finish(completed)


class PendingRun:
    """A request whose answer waits until every packet of its run is in the ring."""

    def __init__(self, side: ChannelSide, msgid: int, packets: int) -> None:
        self._side = side
        self._msgid = msgid
        self._packets = packets
        self.began = monotonic()
        self.waiting = 0

    def finish(self, completed: Completed) -> None:
        """One more packet is in the ring, or will never be."""
        self.waiting -= 1
        session = self._side.session
        if not completed.status.is_success:
            if session.settle(self._msgid, self):
                session.put(encode_error(self._msgid, completed.status, self._side.channel.why_closed))
        elif not self.waiting and session.settle(self._msgid, self):
            session.put(encode_response(self._msgid, self._packets))

    def cancel(self) -> None:
        """Packets on their way into the ring stay on their way: the answer comes when they are in."""


class PendingOpen(Patient):
    """A request to open a channel that waits for its offer."""

    def __init__(self, requests: ChannelRequests, machine: Machine, msgid: int, wanted: OpenRequest) -> None:
        self.session = requests.session
        self.machine = machine
        self.msgid = msgid
        self.wanted = wanted
        self._requests = requests

    def matches(self, offer: Offer) -> bool:
        """Whether it waits for this offer."""
        return self.wanted.matches(offer)

    def answer(self, offer: Offer) -> None:
        """Its offer is there: open it and answer the request."""
        self.machine.waiting.remove(self)
        self.session.settle(self.msgid, self)
        try:
            self._requests.open(offer, self.wanted, self.msgid)
        except Refused as refusal:
            self.session.put(encode_error(self.msgid, refusal.status, refusal.text))

    def cancel(self) -> None:
        self.give_up(NtStatus.CANCELLED, "the open was cancelled before an offer came")

    def give_up(self, status: NtStatus, reason: str) -> None:
        """There will be no offer."""
        self.machine.waiting.remove(self)
        self.session.settle(self.msgid, self)
        self.session.put(encode_error(self.msgid, status, reason))


class PendingOpening(Patient):
    """A request to open a channel whose host's driver has to think about it."""

    def __init__(self, requests: ChannelRequests, channel: Channel, msgid: int) -> None:
        self.machine = channel.machine
        self._requests = requests
        self._channel = channel
        self._msgid = msgid

    def ended(self) -> None:
        """It is open, or will not be."""
        session = self._requests.session
        if not session.settle(self._msgid, self):
            return
        if self._channel.is_open:
            self._requests.answer_open(self._channel, self._msgid)
        else:
            refusal = self._channel.refusal()
            session.put(encode_error(self._msgid, refusal.status, refusal.text))

    def cancel(self) -> None:
        """Nobody waits for it any more: it is closed again."""
        session = self._requests.session
        if session.settle(self._msgid, self):
            self._channel.machine.bus.close(self._channel)
            text = "the open was cancelled before its host had answered"
            session.put(encode_error(self._msgid, NtStatus.CANCELLED, text))


class OpenRequest:
    """Which offer a guest wants, and with what rings and grant; no grant for a guest that works the rings itself."""

    def __init__(
        self, interface: bytes, instance: bytes | None, pages: tuple[int, int], grant: tuple[int, int] | None
    ) -> None:
        self.interface = UUID(bytes_le=interface)
        self.instance = UUID(bytes_le=instance) if instance is not None else None
        self.pages = pages
        self.grant = grant

    def matches(self, offer: Offer) -> bool:
        """Same interface, and the same instance if one was named."""
        return offer.interface == self.interface and self.instance in (None, offer.instance)

    def __str__(self) -> str:
        return f"{self.interface}" + (f" (instance {self.instance})" if self.instance else "")

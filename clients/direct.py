"""Direct endpoints: the ring code runs in this process, over the shared guest memory; a socket is the doorbell.

The control conversation stays with the daemon; what is here begins when a channel is open and ends when it says so.
Semantics are the daemon's own (``ChannelEndpoint``), so a channel behaves the same whoever works its rings.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from clients.calls import RequestFailed
from clients.direct_calls import DirectPacket, DirectRun
from clients.direct_rings import Rings, endpoint_on
from clients.direct_sends import NOT_WAITING, DirectSends
from clients.inbox import OfferState
from emulator.memory import GuestMemory
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import ChannelProfile

# Packets kept here until they are taken; behind them the ring is the queue.
INBOX_PACKETS = 256
TURN_BYTES = 1024 * 1024
# Payloads taken at once: a turn costs some microseconds, a payload some nanoseconds.
RUN_PACKETS = 1024
# More than any ring holds: its largest data area over the smallest packet with its footer.
MOST_RING_PACKETS = 8190 * 4096 // 24
HEARD_BYTES = 4096


class Owner(Protocol):
    """The conversation a direct end belongs to."""

    def touch(self, changed: Any) -> None:
        """Something changed that somebody may wait for."""

    def broke(self, state: DirectEnd, reason: str) -> None:
        """The end is unusable: close the channel."""


class DirectEnd(DirectSends):
    """One end of an open channel, worked here. Its owner is told what changed; its doorbell never blocks."""

    def __init__(
        self,
        memory: GuestMemory,
        side: Side,
        number: int,
        rings: tuple[Any, ...],
        bell: socket.socket,
        *,
        pipe: bool,
        offer: OfferState | None,
        owner: Owner,
        profile: ChannelProfile,
        is_driver: bool = False,
    ) -> None:
        self.number = number
        self.offer = offer
        self.items: deque[Any] = deque() if offer is None else offer.items
        self.waiter: Any = None
        self._owner = owner
        self.collecting = False
        # Where packets go, and who waits for them.
        self._inbox: DirectEnd | OfferState = self if offer is None else offer
        self._more = False
        if not is_driver:
            # A client program is not a driver: a packet that wants no completion is finished when it is delivered.
            profile = profile._replace(kmcl=replace(profile.kmcl, hold_unasked_packets=False))
        super().__init__(endpoint_on(memory, side, Rings(*rings), pipe, profile), bell, owner.touch)
        self._endpoint.set_delivering(not is_driver)
        self._arrived_bytes = self._endpoint.arrived_bytes
        self._line = self._endpoint.line
        self._receive = self._endpoint.receive

    # ---- doorbells

    def heard(self) -> bool:
        """The doorbell can be read: silence it, then look at the rings. False when it will never ring again."""
        try:
            return bool(self.bell.recv(HEARD_BYTES, NOT_WAITING))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def arrived(self) -> bool:
        """Whether something stands in the ring, or the ring cannot be used."""
        try:
            return self._arrived_bytes() > 0
        except RingCorruption:
            return True

    def look(self) -> bool:
        """Take in what has come, without asking for a doorbell: for a caller that looks again. Whether anything did."""
        if self.closed is not None or self.broken is not None:
            return False
        try:
            if self._arrived_bytes() or self._held or self._line:
                return self._take_plain() or self._take_in(INBOX_PACKETS)
        except RingCorruption as corruption:
            self._break(corruption)
            return True
        return False

    def poll(self, most: int = INBOX_PACKETS, *, runs: bool = True) -> bool:
        """Take in what the rings hold, up to ``most`` packets that nobody has taken yet, and send what waited.

        Afterwards the doorbell rings when more comes. Whether anything did.
        """
        came = False
        try:
            while self.closed is None and self.broken is None:
                took = self._take_in(most, runs=runs)
                came = came or took
                if not self._more:
                    if self._endpoint.go_idle():
                        break
                elif not took or len(self.items) >= most or (runs and self._inbox.collecting):
                    break
        except RingCorruption as corruption:
            self._break(corruption)
            return True
        return came

    def _take_in(self, most: int, *, runs: bool = True) -> bool:
        """One turn; whether anything came. ``runs``: as payloads alone, where somebody collects those."""
        if runs and self._inbox.collecting and self._take_run():
            return True
        room = most - len(self.items)
        packets, completed, _, _, doorbell, self._more, _ = self._receive(room if room > 0 else 0, TURN_BYTES)
        for ended in completed:
            self._completed(ended)
        if packets:
            for packet in packets:
                self.items.append(DirectPacket(self, packet))
            self.items[-1].batch = len(packets)
            self._touch(self._inbox)
        # A post that found room for its last packet has ended: whoever waits for that must not go to sleep.
        ended_here = (doorbell or self._held) and self._took_in(doorbell)
        return bool(packets or completed or ended_here)

    def _take_plain(self) -> bool:
        """The next packet by itself, where nothing else is to do: much the most common turn, in short."""
        if self.items or self._held or self._inbox.collecting:
            return False
        taken = self._endpoint.take_plain()
        if taken is None:
            return False
        packet = DirectPacket(self, taken[0])
        packet.batch = 1
        self.items.append(packet)
        self._touch(self._inbox)
        if taken[1]:
            self._ring()
        return True

    def _take_run(self) -> bool:
        if self.items or self._line:
            return False
        run = self._endpoint.receive_payloads(RUN_PACKETS, TURN_BYTES)
        if not run.payloads:
            return False
        self.items.append(DirectRun(self, run.payloads))
        self._touch(self._inbox)
        self._took_in(run.doorbell)
        self._more = True
        return True

    def _took_in(self, doorbell: bool) -> bool:
        if doorbell:
            self._ring()
        return self._send_held()

    def _break(self, violation: PeerViolation) -> None:
        """The rings are damaged: nothing more goes through them, and the channel is closed."""
        if self.broken is None:
            self.broken = f"the ring is damaged, as this end found: {violation}"
            self._owner.broke(self, self.broken)

    # ---- receiving

    def take(self) -> DirectPacket:
        """The oldest packet; the ring fills the room it leaves."""
        packet: DirectPacket = self.items.popleft()
        if self._more and 2 * len(self.items) < INBOX_PACKETS:
            self.poll()
        return packet

    def complete(self, packet: DirectPacket, payload: bytes) -> None:
        """Windows: VmbChannelPacketComplete."""
        if self.closed is not None or self.broken is not None or not self._endpoint.holds(packet.handle):
            return
        try:
            outcome = self._endpoint.complete(packet.handle, payload)
        except Refused as refusal:
            raise RequestFailed(refusal.status, refusal.text) from None
        except RingCorruption as corruption:
            self._break(corruption)
            return
        if outcome.doorbell:
            self._ring()
        if self._held:
            self._send_held()  # the line for the ring may have been used and left since they were told to wait
        if outcome.receive_again:
            self.poll()

    def fail(self, packet: DirectPacket) -> None:
        """Windows: VmbChannelPacketFail."""
        if self.closed is None and self.broken is None and self._endpoint.holds(packet.handle):
            self._endpoint.fail(packet.handle)

    def deliver(self, on: bool) -> None:
        """Take from the ring, or leave all there: its driver is active, or paused."""
        self._endpoint.set_delivering(on)
        self.poll()

    def set_transaction_quota(self, quota: int) -> None:
        """How many packets may be delivered and not completed (Q1)."""
        self._endpoint.set_transaction_quota(quota)

    def close(self, status: NtStatus, reason: str) -> None:
        """The channel is over: whatever was under way ends once."""
        if self.closed is not None:
            return
        # What the peer put into the rings before it closed has arrived; the daemon keeps them until we are done.
        self.poll(len(self.items) + MOST_RING_PACKETS, runs=False)
        self._finish(status, reason)

    def _finish(self, status: NtStatus, reason: str) -> None:
        if self.closed is not None:
            return  # the last look found damage, and closed it
        self.closed = status, reason
        for completed in self._endpoint.close(status):
            self._completed(completed)
        while self._held:
            self._end(self._held.popleft()[0], RequestFailed(status, reason))
        with suppress(OSError):
            # Whoever listens to it hears that, and closes it.
            self.bell.shutdown(socket.SHUT_RDWR)
        self._touch(self)

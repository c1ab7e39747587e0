"""Direct endpoints: the ring code runs in this process, over the shared guest memory; a socket is the doorbell.

The control conversation stays with the daemon; what is here begins when a channel is open and ends when it says so.
Semantics are the daemon's own (``ChannelEndpoint``), so a channel behaves the same whoever works its rings.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from clients.calls import RequestFailed
from clients.direct_calls import DirectCall, DirectPacket, DirectPost
from clients.direct_rings import Rings, endpoint_on
from clients.inbox import OfferState
from emulator.memory import GuestMemory, Mdl
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import Completed, Progress, Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import ChannelProfile

# Packets kept here until they are taken; behind them the ring is the queue.
INBOX_PACKETS = 256
TURN_BYTES = 1024 * 1024
# More than any ring holds: its largest data area over the smallest packet with its footer.
MOST_RING_PACKETS = 8190 * 4096 // 24
HEARD_BYTES = 4096
NOT_WAITING = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class Owner(Protocol):
    """The conversation a direct end belongs to."""

    def touch(self, changed: Any) -> None:
        """Something changed that somebody may wait for."""

    def broke(self, state: DirectEnd, reason: str) -> None:
        """The end is unusable: close the channel."""


class DirectEnd:
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
    ) -> None:
        self.number = number
        self.offer = offer
        self.closed: tuple[NtStatus, str] | None = None
        self.items: deque[Any] = deque() if offer is None else offer.items
        self.waiter: Any = None
        self.bell = bell
        self.broken: str | None = None
        self._owner = owner
        self._touch = owner.touch
        self._held: deque[tuple[Any, Callable[[], None]]] = deque()
        self._more = False
        self._endpoint = endpoint_on(memory, side, Rings(*rings), pipe, profile)

    # ---- doorbells

    def _ring(self) -> None:
        try:
            self.bell.send(b"\0", NOT_WAITING)
        except OSError:
            return  # full: it has one to hear still; closed: the daemon says so

    def heard(self) -> bool:
        """The doorbell can be read: silence it, then look at the rings. False when it will never ring again."""
        try:
            return bool(self.bell.recv(HEARD_BYTES, NOT_WAITING))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def look(self) -> bool:
        """Take in what has come, without asking for a doorbell: for a caller that looks again. Whether anything did."""
        endpoint = self._endpoint
        if self.closed is not None or self.broken is not None:
            return False
        try:
            if not (endpoint.has_arrivals() or self._held or endpoint.queued_packets):
                return False
            progress = self._take_in(INBOX_PACKETS)
        except RingCorruption as corruption:
            self._break(corruption)
            return True
        return bool(progress.packets or progress.completed)

    def poll(self, most: int = INBOX_PACKETS) -> bool:
        """Take in what the rings hold, up to ``most`` packets that nobody has taken yet, and send what waited.

        Afterwards the doorbell rings when more comes. Whether anything did.
        """
        came = False
        try:
            while self.closed is None and self.broken is None:
                progress = self._take_in(most)
                came = came or bool(progress.packets or progress.completed)
                if progress.more:
                    if not progress.packets or len(self.items) >= most or progress.quota_blocked:
                        break
                elif self._endpoint.go_idle():
                    break
        except RingCorruption as corruption:
            self._break(corruption)
            return True
        return came

    def _take_in(self, most: int) -> Progress:
        progress = self._endpoint.receive(max(0, most - len(self.items)), TURN_BYTES)
        for completed in progress.completed:
            self._completed(completed)
        if progress.packets:
            self.items.extend([DirectPacket(self, packet) for packet in progress.packets])
            self._touch(self if self.offer is None else self.offer)
        if progress.doorbell:
            self._ring()
        if self._held:
            self._send_held()
        self._more = progress.more
        return progress

    def _break(self, violation: PeerViolation) -> None:
        """The rings are damaged: nothing more goes through them, and the channel is closed."""
        if self.broken is None:
            self.broken = f"the ring is damaged, as this end found: {violation}"
            self._owner.broke(self, self.broken)

    # ---- sending

    def send(self, buffer: bytes, mdl: Mdl | None, flags: int) -> DirectCall:
        """Windows: VmbPacketSend."""
        call = DirectCall(self, bool(flags & 1))
        self._start(call, lambda: self._put(call, self._endpoint.send(buffer, mdl, flags, call)))
        return call

    def send_external(self, buffer: bytes, mdl: Mdl | None, span: tuple[int, int], flags: int) -> DirectCall:
        """Windows: VmbPacketSendWithExternalMdl."""
        call = DirectCall(self, bool(flags & 1))
        send = self._endpoint.send_with_external_mdl
        self._start(call, lambda: self._put(call, send(buffer, mdl, *span, flags, call)))
        return call

    def post(self, payloads: list[bytes]) -> DirectPost:
        """Many packets without completion, in few publications."""
        post = DirectPost(len(payloads))
        for first in range(0, len(payloads), 64):
            portion = payloads[first : first + 64]
            self._start(post, partial(self._put_many, post, portion))
        return post

    def _start(self, call: Any, attempt: Callable[[], None]) -> None:
        if self.closed is not None or self.broken is not None:
            self._end(call, RequestFailed(*(self.closed or (NtStatus.DEVICE_REMOVED, self.broken or ""))))
        else:
            self._held.append((call, attempt))
            self._send_held()

    def _send_held(self) -> None:
        """Send what waits for the line in front of the ring, in order."""
        while self._held:
            call, attempt = self._held[0]
            try:
                if not call.done:
                    attempt()
            except Refused as refusal:
                if refusal.status is NtStatus.INSUFFICIENT_RESOURCES and self._endpoint.queued_packets:
                    return
                self._end(call, RequestFailed(refusal.status, refusal.text))
            except RingCorruption as corruption:
                self._break(corruption)
                return
            self._held.popleft()

    def _put(self, call: DirectCall, outcome: Any) -> None:
        call.transaction_id = outcome.transaction_id
        if outcome.doorbell:
            self._ring()
        if outcome.written and not call.waits:
            call.result = int(NtStatus.SUCCESS), b""
            call.done = True
            self._touch(call)

    def _put_many(self, post: DirectPost, payloads: list[bytes]) -> None:
        outcome = self._endpoint.send_many(payloads, [post] * len(payloads))
        if outcome.doorbell:
            self._ring()
        post.unwritten -= outcome.written
        if post.done:
            self._touch(post)

    def _completed(self, completed: Completed) -> None:
        call: Any = completed.context
        if not completed.status.is_success:
            reason = self.closed[1] if self.closed is not None else "the packet was cancelled"
            self._end(call, RequestFailed(completed.status, reason))
        elif isinstance(call, DirectPost):
            call.unwritten -= 1
            if call.done:
                self._touch(call)
        elif not call.done:
            call.result = int(completed.status), completed.payload
            call.done = True
            self._touch(call)

    def _end(self, call: Any, error: Exception) -> None:
        if not call.done:
            call.error = error
            if isinstance(call, DirectCall):
                call.done = True
            self._touch(call)

    def cancel(self, call: DirectCall) -> None:
        """Give up a packet."""
        if call.transaction_id and self.broken is None and self.closed is None:
            try:
                completed = self._endpoint.cancel(call.transaction_id)
            except RingCorruption as corruption:
                self._break(corruption)
                return
            if completed is not None:
                self._completed(completed)
        self._end(call, RequestFailed(NtStatus.CANCELLED, "the call was abandoned"))

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
        if outcome.receive_again:
            self.poll()

    def fail(self, packet: DirectPacket) -> None:
        """Windows: VmbChannelPacketFail."""
        if self.closed is None and self.broken is None and self._endpoint.holds(packet.handle):
            self._endpoint.fail(packet.handle)

    def close(self, status: NtStatus, reason: str) -> None:
        """The channel is over: whatever was under way ends once."""
        if self.closed is not None:
            return
        # What the peer put into the rings before it closed has arrived; the daemon keeps them until we are done.
        self.poll(len(self.items) + MOST_RING_PACKETS)
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

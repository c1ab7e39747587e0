"""Direct endpoints: the ring code runs in this process, over the shared guest memory; a socket is the doorbell.

The control conversation stays with the daemon; what is here begins when a channel is open and ends when it says so.
Semantics are the daemon's own (``ChannelEndpoint``), so a channel behaves the same whoever works its rings.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from clients.calls import RequestFailed
from clients.direct_calls import DirectCall, DirectPacket, DirectPost, DirectRun
from clients.direct_rings import Rings, endpoint_on
from clients.inbox import OfferState
from emulator.memory import GuestMemory, Mdl
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import Completed, SendOutcome, Side
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.profile import ChannelProfile

# Packets kept here until they are taken; behind them the ring is the queue.
INBOX_PACKETS = 256
TURN_BYTES = 1024 * 1024
# Payloads published at once, and taken at once: a turn costs some microseconds, a payload some nanoseconds.
PORTION_PACKETS = RUN_PACKETS = 1024
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
        is_driver: bool = False,
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
        self.collecting = False
        # Where packets go, and who waits for them.
        self._inbox: DirectEnd | OfferState = self if offer is None else offer
        self._held: deque[tuple[Any, Callable[[], bool]]] = deque()
        self._more = False
        if not is_driver:
            # A client program is not a driver: a packet that wants no completion is finished when it is delivered.
            profile = profile._replace(kmcl=replace(profile.kmcl, hold_unasked_packets=False))
        self._endpoint = endpoint_on(memory, side, Rings(*rings), pipe, profile)
        self._endpoint.set_delivering(not is_driver)
        self._arrived_bytes = self._endpoint.arrived_bytes
        self._line = self._endpoint.line
        self._receive = self._endpoint.receive

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

    # ---- sending

    def ask(self, buffer: bytes) -> DirectCall | None:
        """Send bytes for a caller that then waits for the completion; None: nothing was done, ``send`` them."""
        if self._held or self.closed is not None or self.broken is not None or type(buffer) is not bytes:
            return None
        call = DirectCall(self, True)
        try:
            call.transaction_id, doorbell = self._endpoint.ask(buffer, call)
        except RingCorruption:
            return None  # the same again when it is sent
        if doorbell:
            self._ring()
        return call if call.transaction_id else None

    def arrived(self) -> bool:
        """Whether something stands in the ring, or the ring cannot be used."""
        try:
            return self._arrived_bytes() > 0
        except RingCorruption:
            return True

    def take_answer(self, call: DirectCall) -> bytes | None:
        """The completion of a packet that was sent with ``ask``, if that stands next in the ring."""
        try:
            answer = self._endpoint.take_answer(call.transaction_id)
        except RingCorruption:
            return None  # whoever takes packets in the usual way meets it
        if answer is None:
            return None
        payload, doorbell = answer
        if doorbell:
            self._ring()
        call.done = True
        return payload

    def send(self, buffer: bytes, mdl: Mdl | None, flags: int, *, may_queue: bool = True) -> DirectCall:
        """Windows: VmbPacketSend. Unless it may queue, it ends with BUFFER_OVERFLOW when there is no room (Y1)."""
        call = DirectCall(self, flags & 1 != 0)
        if not self._held and self.closed is None and self.broken is None:
            try:
                self._put(call, self._endpoint.send(buffer, mdl, flags, call, may_queue=may_queue))
            except (Refused, RingCorruption):
                pass  # the same again below, where it is held or ended
            else:
                return call
        if not may_queue and self._held:
            self._end(call, RequestFailed(NtStatus.BUFFER_OVERFLOW, "others wait for room in the ring already [Y1]"))
            return call
        send = self._endpoint.send
        self._start(call, lambda: self._put(call, send(buffer, mdl, flags, call, may_queue=may_queue)))
        return call

    def send_pfns(self, buffer: bytes, pfns: tuple[int, ...] | None, flags: int) -> DirectCall:
        """Windows: VmbPacketSendWithExternalPfns."""
        call = DirectCall(self, flags & 1 != 0)
        send = self._endpoint.send_with_external_pfns
        self._start(call, lambda: self._put(call, send(buffer, pfns, flags, call)))
        return call

    def send_external(self, buffer: bytes, mdl: Mdl | None, span: tuple[int, int], flags: int) -> DirectCall:
        """Windows: VmbPacketSendWithExternalMdl."""
        call = DirectCall(self, flags & 1 != 0)
        send = self._endpoint.send_with_external_mdl
        self._start(call, lambda: self._put(call, send(buffer, mdl, *span, flags, call)))
        return call

    def post(self, payloads: list[bytes]) -> DirectPost:
        """Many packets without completion, in few publications; what finds no room in the ring waits here."""
        post = DirectPost(payloads)
        self._start(post, partial(self._write, post))
        return post

    def _start(self, call: Any, attempt: Callable[[], bool]) -> None:
        if self.closed is not None or self.broken is not None:
            self._end(call, RequestFailed(*(self.closed or (NtStatus.DEVICE_REMOVED, self.broken or ""))))
        else:
            self._held.append((call, attempt))
            self._send_held()

    def _send_held(self) -> bool:
        """Send what waits here for its turn or for room, in order; whether any is done with. An attempt says that."""
        before = len(self._held)
        while self._held:
            call, attempt = self._held[0]
            try:
                if not call.done and not attempt():
                    break
            except Refused as refusal:
                if refusal.status is NtStatus.INSUFFICIENT_RESOURCES and self._endpoint.queued_packets:
                    break
                self._end(call, RequestFailed(refusal.status, refusal.text))
            except RingCorruption as corruption:
                self._break(corruption)
                return True
            self._held.popleft()
        return len(self._held) < before

    def _put(self, call: DirectCall, outcome: SendOutcome) -> bool:
        call.transaction_id = outcome.transaction_id
        if outcome.doorbell:
            self._ring()
        if outcome.written and not call.waits:
            call.result = int(NtStatus.SUCCESS), b""
            call.done = True
            self._touch(call)
        return True

    def _write(self, post: DirectPost) -> bool:
        """As much of a post as there is room for; whether that was the rest."""
        while post.written < len(post.payloads):
            try:
                outcome = self._endpoint.send_payloads(post.payloads, post.written, PORTION_PACKETS)
            except TypeError as problem:
                # Something that is not bytes: a copy will do, and without one this post has failed.
                if not post.copy_payloads():
                    self._end(post, RequestFailed(NtStatus.INVALID_PARAMETER, str(problem)))
                    return True
                continue
            if outcome.doorbell:
                self._ring()
            if not outcome.written:
                return False
            post.written += outcome.written
        self._touch(post)
        return True

    def _completed(self, completed: Completed) -> None:
        call: Any
        call, status, payload, _ = completed
        if status and not status.is_success:
            reason = self.closed[1] if self.closed is not None else "the packet was cancelled"
            self._end(call, RequestFailed(status, reason))
        elif not call.done:
            call.result = int(status), payload
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
            self._send_held()
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

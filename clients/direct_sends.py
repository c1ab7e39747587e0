"""What a program sends on a direct channel: into the ring at once, or held here in order until there is room."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from clients.calls import RequestFailed
from clients.direct_calls import DirectCall, DirectPost
from emulator.memory import Mdl
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import ChannelEndpoint, Completed, SendOutcome
from emulator.vmbus.packets import RingCorruption

# Payloads published at once: a turn costs some microseconds, a payload some nanoseconds.
PORTION_PACKETS = 1024
NOT_WAITING = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class DirectSends:
    """The sending half of a ``DirectEnd``, with the endpoint and the doorbell that both halves use."""

    def __init__(self, endpoint: ChannelEndpoint, bell: socket.socket, touch: Callable[[Any], None]) -> None:
        self.bell = bell
        self.closed: tuple[NtStatus, str] | None = None
        self.broken: str | None = None
        self._endpoint = endpoint
        self._touch = touch
        self._held: deque[tuple[Any, Callable[[], bool]]] = deque()

    def _break(self, violation: PeerViolation) -> None:
        raise NotImplementedError

    def _ring(self) -> None:
        try:
            self.bell.send(b"\0", NOT_WAITING)
        except OSError:
            return  # full: it has one to hear still; closed: the daemon says so

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

"""The calls of one connection: sent, held back, answered or given up, each in the window of its channel or address.

Pure. Bytes to send gather in ``outgoing``; calls, channels and addresses that changed gather as *touched*.
"""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from clients.calls import Burst, Call, Lane, LocalCall, Post, RequestFailed
from clients.inbox import AddressState, Inbox
from emulator.status import NtStatus, Refused
from emulator.vmbus.packets import encode_in_band
from emulator.wire.codec import Response, WireError, check_result, encode_notification, encode_request
from emulator.wire.fields import FieldError, check_fields
from emulator.wire.schema import (
    ADDRESS_SEND_BURST,
    ADDRESS_SEND_DATAGRAM,
    BUS_DOORBELL,
    CANCEL,
    CHANNEL_OPEN_DIRECT,
    MACHINE_ATTACH,
    PACKET_SEND_RUN,
    Method,
)
from emulator.wire.window import PACKET_OVERHEAD_BYTES

DESCRIPTOR_BYTES = 16
# Packets in one run: a quarter of a window, so that the next can be made while one is on its way.
RUN_PACKETS = 64
# Bytes of datagrams in one frame: what a frame may hold, less what is around them.
BURST_BYTES = 512 * 1024
# Requests whose result says in its last value how many descriptors came with it.
ANNOUNCING = frozenset({MACHINE_ATTACH, CHANNEL_OPEN_DIRECT, BUS_DOORBELL})


class CallTable:
    """Requests under way, and descriptors that came with answers."""

    def __init__(self) -> None:
        self.outgoing = bytearray()
        # Over UDP, datagrams up to so long leave each by itself; those that get lost are sent with the rest.
        self.lossy_bytes = 0
        self.lossy: list[bytes] = []
        self.lost: Exception | None = None
        self._last_msgid = 0
        self._most_outstanding = 16
        self._calls: dict[int, Call] = {}
        self._held: deque[Call] = deque()
        self._descriptors: deque[int] = deque()
        self._unclaimed: list[int] = []
        self._lanes: dict[Inbox, Lane] = {}
        self._touched: list[Any] = []

    @property
    def unanswered(self) -> int:
        """Requests sent that have not come to their end."""
        return len(self._calls)

    # ---- sending

    def call(
        self,
        method: Method,
        *args: object,
        build: Callable[[tuple[Any, ...]], Any] | None = None,
        undo: Callable[[tuple[Any, ...]], None] | None = None,
    ) -> Call:
        """Send a request; see ``Call`` for ``build`` and ``undo``."""
        call = Call(method, args)
        call.build, call.undo = build, undo
        self._start(call)
        return call

    def has_window(self, inbox: Inbox) -> bool:
        """Whether a request in this window would go out at once."""
        lane = self._lanes.get(inbox)
        return inbox.sends.is_open and not (lane is not None and lane.waiting)

    def call_in_window(self, inbox: Inbox, cost: int, method: Method, *args: object) -> Call:
        """Send a request that takes ``cost`` bytes of a channel's or address's window, when there is room.

        Raises RequestFailed for arguments the daemon would refuse unread: it does not count what it did not read.
        """
        try:
            check_fields(method.params, list(args), method.name)
        except FieldError as error:
            raise RequestFailed(NtStatus.INVALID_PARAMETER, str(error)) from None
        call = Call(method, args)
        call.cost = cost
        call.lane = lane = self._lane(inbox)
        if inbox.closed is not None:
            self._end(call, error=RequestFailed(*inbox.closed))
        elif lane.waiting or not inbox.sends.is_open:
            lane.waiting.append(call)
        else:
            inbox.sends.spend(cost)
            self._start(call)
        return call

    def post(self, inbox: Inbox, payloads: list[bytes]) -> Post:
        """Send in-band packets without completion, in order behind what waits already."""
        post = Post(payloads)
        if inbox.closed is not None:
            post.error = RequestFailed(*inbox.closed)
        else:
            post.lane = lane = self._lane(inbox)
            lane.waiting.append(post)
            self._run_lane(lane)
        return post

    def burst(self, inbox: Inbox, burst: Burst) -> Burst:
        """Send datagrams, in order behind what waits already."""
        if inbox.closed is not None:
            burst.error = RequestFailed(*inbox.closed)
        elif burst.payloads:
            burst.lane = lane = self._lane(inbox)
            lane.waiting.append(burst)
            self._run_lane(lane)
        return burst

    def _lane(self, inbox: Inbox) -> Lane:
        lane = self._lanes.get(inbox)
        if lane is None:
            lane = self._lanes[inbox] = Lane(inbox)
        return lane

    def _start(self, call: Call) -> None:
        if self.lost is not None:
            self._end(call, error=self.lost)
        elif len(self._calls) >= self._most_outstanding:
            self._held.append(call)
        else:
            self._last_msgid = (self._last_msgid + 1) & 0xFFFFFFFF
            while self._last_msgid in self._calls:
                self._last_msgid = (self._last_msgid + 1) & 0xFFFFFFFF
            call.msgid = self._last_msgid
            self._calls[call.msgid] = call
            frame = encode_request(call.msgid, call.method, *call.args)
            if call.method is ADDRESS_SEND_DATAGRAM and len(frame) <= self.lossy_bytes:
                self.lossy.append(frame)
            else:
                self.outgoing += frame

    def notify(self, method: Method, *args: object) -> None:
        """Send a notification."""
        if self.lost is None:
            self.outgoing += encode_notification(method, *args)

    def touch(self, changed: Any) -> None:
        """Something outside this conversation changed that somebody may wait for."""
        self._touched.append(changed)

    def abandon(self, call: Call | Post | LocalCall) -> None:
        """Nobody waits for this any more: what was not sent is taken back, what was is asked to end early."""
        if isinstance(call, LocalCall):
            call.abandon()
        elif isinstance(call, Post):
            self._abandon_post(call)
        elif not call.abandoned:
            call.abandoned = True
            if call.done:
                # Its result came in the moment its waiter gave up.
                self._undo(call)
            elif call.msgid >= 0:
                self.notify(CANCEL, call.msgid)
            else:
                self._take_back(call)

    def _take_back(self, call: Call) -> None:
        self._end(call, error=RequestFailed(NtStatus.CANCELLED, "the call was abandoned before it was sent"))
        lane = call.lane
        if call in self._held:
            self._held.remove(call)
            if lane is not None:
                lane.inbox.sends.grant(1, call.cost)
                self._run_lane(lane)
        elif lane is not None and call in lane.waiting:
            lane.waiting.remove(call)

    def _abandon_post(self, post: Post) -> None:
        """Runs that were sent stay on their way; no further one is sent."""
        if not post.done:
            post.error = RequestFailed(NtStatus.CANCELLED, "the post was abandoned")
            if post.lane is not None and post in post.lane.waiting:
                post.lane.waiting.remove(post)
                self._run_lane(post.lane)

    def _undo(self, call: Call) -> None:
        if call.descriptor is not None:
            self._unclaimed.append(call.descriptor)
            call.descriptor = None
        if call.error is None and call.undo is not None:
            call.undo(call.result)

    def greeted(self, most_outstanding: int) -> None:
        """The hello was answered: so many requests may be unanswered at once."""
        self._most_outstanding = most_outstanding

    def take_touched(self) -> list[Any]:
        """What has changed since the last time."""
        touched, self._touched = self._touched, []
        return touched

    def forget_touched(self) -> None:
        """For a face where nobody waits but whoever calls."""
        self._touched.clear()

    def take_unclaimed_descriptors(self) -> list[int]:
        """Descriptors that came with nothing that announces them; the face closes them."""
        if not self._descriptors and not self._unclaimed:
            return []
        unclaimed, self._unclaimed = self._unclaimed, []
        if not any(call.method in ANNOUNCING for call in self._calls.values()):
            unclaimed += self._descriptors
            self._descriptors.clear()
        return unclaimed

    # ---- answers

    def _answered(self, response: Response) -> None:
        call = self._calls.pop(response.msgid, None)
        if call is None:
            raise WireError(f"the daemon answered request {response.msgid}, which was not sent")
        try:
            result = check_result(call.method, response)
        except Refused as refusal:
            self._end(call, error=RequestFailed(refusal.status, refusal.message))
        else:
            if call.method in ANNOUNCING and result[-1]:
                call.descriptor = self._announced_descriptor()
            self._end(call, result=result)
        if call.lane is not None:
            if call.lane.inbox.answers_return_room:
                call.lane.inbox.sends.grant(call.packets, call.cost)
            self._run_lane(call.lane)
        while self._held and len(self._calls) < self._most_outstanding:
            self._start(self._held.popleft())

    def _end(self, call: Call, result: tuple[Any, ...] = (), error: Exception | None = None) -> None:
        call.done = True
        call.result = result
        call.error = error
        if call.abandoned:
            self._undo(call)
        elif error is None and call.build is not None:
            call.built = call.build(result)
        self._touched.append(call)
        if call.post is not None:
            call.post.unanswered -= 1
            call.post.error = call.post.error or error
            self._touched.append(call.post)

    def _run_lane(self, lane: Lane) -> None:
        window = lane.inbox.sends
        while lane.waiting and window.is_open:
            head = lane.waiting[0]
            if isinstance(head, Post):
                if head.error is None:
                    self._start_run(lane, head)
                    if head.started < len(head.payloads):
                        continue
                lane.waiting.popleft()
            else:
                lane.waiting.popleft()
                window.spend(head.cost)
                self._start(head)

    def _start_run(self, lane: Lane, post: Post) -> None:
        """One run of a post: as many of its packets as the window and a run allow."""
        inbox = lane.inbox
        if isinstance(post, Burst):
            self._start_burst(lane, post)
            return
        images: list[bytes] = []
        while post.started < len(post.payloads) and inbox.sends.is_open and len(images) < RUN_PACKETS:
            image = encode_in_band(post.payloads[post.started])
            inbox.sends.spend(len(image) - DESCRIPTOR_BYTES + PACKET_OVERHEAD_BYTES)
            images.append(image)
            post.started += 1
        if images:
            call = Call(PACKET_SEND_RUN, (inbox.number, b"".join(images)))
            call.post, call.lane = post, lane
            post.unanswered += 1
            self._start(call)

    def _start_burst(self, lane: Lane, burst: Burst) -> None:
        """As many of a burst's datagrams as the window and a frame allow, but no more than half of a window.

        So the next are on their way while these are sent.
        """
        inbox = lane.inbox
        assert isinstance(inbox, AddressState), "bursts are for addresses"
        first = burst.started
        count = min(len(burst.payloads) - first, inbox.sends.packets, max(1, inbox.granted_sends // 2))
        datagrams = burst.payloads[first : first + count]
        room = min(inbox.sends.bytes, BURST_BYTES)
        while count > 1 and sum(map(len, datagrams)) > room:
            count = (count + 1) // 2
            datagrams = datagrams[:count]
        lengths = array("I", map(len, datagrams))
        data = b"".join(datagrams)
        call = Call(ADDRESS_SEND_BURST, (inbox.number, *burst.destination, lengths.tobytes(), data))
        call.cost = len(data) + PACKET_OVERHEAD_BYTES * count
        call.packets = count
        call.post, call.lane = burst, lane
        call.build = partial(_note_statuses, burst, first, count)
        inbox.sends.packets -= count
        inbox.sends.bytes -= call.cost
        burst.started += count
        burst.unanswered += 1
        self._start(call)

    def _announced_descriptor(self) -> int:
        if not self._descriptors:
            raise WireError("the daemon announced a descriptor that did not come")
        return self._descriptors.popleft()

    def _end_lane(self, inbox: Inbox, error: RequestFailed) -> None:
        """A channel or an address is over: what waited for its window ends."""
        lane = self._lanes.pop(inbox, None)
        for waiting in lane.waiting if lane is not None else ():
            if isinstance(waiting, Post):
                waiting.error = waiting.error or error
                self._touched.append(waiting)
            else:
                self._end(waiting, error=error)

    def _end_calls(self, error: Exception) -> None:
        """The connection is gone: every call ends."""
        for call in [*self._calls.values(), *self._held]:
            self._end(call, error=error)
        self._calls.clear()
        self._held.clear()


def _note_statuses(burst: Burst, first: int, count: int, result: tuple[Any, ...]) -> None:
    """The part of a burst that an answer is about."""
    _, statuses, message = result
    if not statuses:
        return
    if len(statuses) != 4 * count:
        raise WireError(f"a burst of {count} datagrams was answered with {len(statuses) // 4} statuses")
    if not burst.statuses:
        burst.statuses = [0] * len(burst.payloads)
    burst.statuses[first : first + count] = struct.unpack(f"<{count}I", statuses)
    burst.message = burst.message or message

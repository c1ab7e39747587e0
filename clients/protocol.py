"""The client's half of the conversation, pure: no socket, no clock, no event loop. Both faces are made of it.

Bytes received go in, with the descriptors that came along; bytes to send gather in ``outgoing``; what changed comes
back as a list of the calls, channels and addresses concerned, and the face wakes whoever waits for them.

A request is a ``Call``. It is sent at once, or when the window of its channel or address opens; it gets exactly one
end: its result, an error, or the loss of the connection. A call nobody waits for any more is abandoned: the daemon is
asked to cancel it, and a result that comes all the same is undone (``Call.undo``) where it would leave something open.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from clients.bus_inbox import Arrivals, BusEvent, BusMessage, BusState
from clients.calls import Call, ConnectionLost, Lane, LocalCall, Post, RequestFailed
from clients.inbox import AddressState, ChannelState, Datagram, EndState, Inbox, OfferState, ReceivedPacket
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi.structures import parse_transport_address_untrusted
from emulator.vmbus.packets import encode_in_band, parse_packet_untrusted
from emulator.wire.codec import (
    BadRequest,
    FrameDecoder,
    FrameLimits,
    Message,
    Notification,
    Request,
    Response,
    WireError,
    check_result,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
)
from emulator.wire.fields import FieldError, check_fields
from emulator.wire.runs import split_datagrams_untrusted, split_packets_untrusted
from emulator.wire.schema import (
    ADDRESS_DATAGRAMS,
    ADDRESS_WINDOW,
    BUS_DOORBELL,
    BUS_EVENT,
    BUS_MESSAGE,
    CANCEL,
    CHANNEL_CLOSE,
    CHANNEL_CLOSED,
    CHANNEL_OPEN_DIRECT,
    CHANNEL_OPENED,
    CHANNEL_OPENED_DIRECT,
    CHANNEL_PACKETS,
    CHANNEL_WINDOW,
    GOODBYE,
    MACHINE_ATTACH,
    PACKET_SEND_RUN,
    PING,
    PROTOCOL_VERSION,
    Direction,
    Method,
)
from emulator.wire.window import PACKET_OVERHEAD_BYTES

DESCRIPTOR_BYTES = 16
# Packets in one run: a quarter of a window, so that the next can be made while one is on its way.
RUN_PACKETS = 64

# What this client lets arrive before it must be taken: a few hundred packets, or a MiB of them.
GRANT = 256, 1024 * 1024
# Requests whose result says in its last value how many descriptors came with it.
ANNOUNCING = frozenset({MACHINE_ATTACH, CHANNEL_OPEN_DIRECT, BUS_DOORBELL})


class ClientProtocol:
    """One connection's conversation."""

    def __init__(self) -> None:
        self.outgoing = bytearray()
        self.lost: Exception | None = None
        self._decoder = FrameDecoder(Direction.TO_CLIENT, FrameLimits())
        self._last_msgid = 0
        self._most_outstanding = 16
        self._calls: dict[int, Call] = {}
        self._held: deque[Call] = deque()
        self._descriptors: deque[int] = deque()
        self._unclaimed: list[int] = []
        self._channels: dict[int, EndState] = {}
        self._attached: list[EndState] = []
        self._offers: dict[int, OfferState] = {}
        self._addresses: dict[int, AddressState] = {}
        self._buses: dict[int, BusState] = {}
        self._lanes: dict[Inbox, Lane] = {}
        self._touched: list[Any] = []

    # ---- requests

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
            self.outgoing += encode_request(call.msgid, call.method, *call.args)

    def notify(self, method: Method, *args: object) -> None:
        """Send a notification."""
        if self.lost is None:
            self.outgoing += encode_notification(method, *args)

    def touch(self, changed: Any) -> None:
        """Something outside this conversation changed that somebody may wait for."""
        self._touched.append(changed)

    def broke(self, state: EndState, reason: str) -> None:
        """The rings of a direct channel are damaged: it is closed."""
        if state.closed is None:
            self.call(CHANNEL_CLOSE, state.number)
            self.drop_channel(state, NtStatus.DEVICE_REMOVED, reason)

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

    # ---- channels and addresses

    def add_offer(self, state: OfferState) -> None:
        """An offer was made: its openings will come."""
        self._offers[state.number] = state

    def add_channel(self, state: EndState) -> None:
        """A channel was opened."""
        if not isinstance(state, ChannelState):
            self._attached.append(state)
        self._channels[state.number] = state

    def add_address(self, state: AddressState) -> None:
        """An address was opened."""
        self._addresses[state.number] = state

    def add_bus(self, state: BusState) -> None:
        """This client is the bus guest of a machine."""
        self._buses[state.number] = state

    def drop_bus(self, state: BusState, status: NtStatus, reason: str) -> None:
        """It is not any more."""
        self._buses.pop(state.number, None)
        state.close(status, reason)
        self._touched += state.messages, state.events

    def drop_offer(self, state: OfferState) -> None:
        """An offer was taken back."""
        self._offers.pop(state.number, None)
        state.close(NtStatus.CANCELLED, "the offer was rescinded")
        self._touched.append(state)

    def drop_address(self, state: AddressState) -> None:
        """An address was closed here."""
        self._addresses.pop(state.number, None)
        self._close_inbox(state, NtStatus.ADDRESS_CLOSED, "the address was closed")

    def drop_channel(self, state: EndState, status: NtStatus, reason: str) -> None:
        """A channel is closed: here, or by the other side."""
        self._channels.pop(state.number, None)
        if isinstance(state, Inbox):
            self._close_inbox(state, status, reason)
        else:
            state.close(status, reason)
            self._touched.append(state)
        if state.offer is not None:
            state.offer.closed_opening(state)
            self._touched.append(state.offer)

    def _close_inbox(self, inbox: Inbox, status: NtStatus, reason: str) -> None:
        inbox.close(status, reason)
        self._touched.append(inbox)
        lane = self._lanes.pop(inbox, None)
        for waiting in lane.waiting if lane is not None else ():
            if isinstance(waiting, Post):
                waiting.error = waiting.error or RequestFailed(status, reason)
                self._touched.append(waiting)
            else:
                self._end(waiting, error=RequestFailed(status, reason))

    def taken(self, inbox: Inbox, cost: int) -> None:
        """Something of that cost was taken from an inbox: return its room to the daemon when a portion is due."""
        portion = inbox.receives.drain(1, cost)
        if portion is not None and inbox.closed is None:
            method = ADDRESS_WINDOW if isinstance(inbox, AddressState) else CHANNEL_WINDOW
            self.notify(method, inbox.number, *portion)

    # ---- receiving

    def receive(self, data: bytes, descriptors: Iterable[int] = ()) -> list[Any]:
        """Take bytes and descriptors; the calls, channels, offers and addresses that changed. Raises WireError."""
        self._descriptors.extend(descriptors)
        for message in self._decoder.feed(data):
            self._dispatch(message)
        return self.take_touched()

    def take_attached(self) -> list[EndState]:
        """Direct channels that have begun since the last time: somebody has to listen to their doorbells."""
        attached, self._attached = self._attached, []
        return attached

    def take_touched(self) -> list[Any]:
        """What has changed since the last time."""
        touched, self._touched = self._touched, []
        return touched

    def take_unclaimed_descriptors(self) -> list[int]:
        """Descriptors that came with nothing that announces them; the face closes them."""
        if not self._descriptors and not self._unclaimed:
            return []
        unclaimed, self._unclaimed = self._unclaimed, []
        if not any(call.method in ANNOUNCING for call in self._calls.values()):
            unclaimed += self._descriptors
            self._descriptors.clear()
        return unclaimed

    def lose(self, error: Exception) -> list[Any]:
        """The connection is gone: everything under way ends with ``error``."""
        if self.lost is None:
            self.lost = error
        for state in list(self._channels.values()):
            self.drop_channel(state, NtStatus.DEVICE_REMOVED, str(self.lost))
        for inbox in self._addresses.values():
            self._close_inbox(inbox, NtStatus.DEVICE_REMOVED, str(self.lost))
        for bus in list(self._buses.values()):
            self.drop_bus(bus, NtStatus.DEVICE_REMOVED, str(self.lost))
        for offer in self._offers.values():
            offer.close(NtStatus.DEVICE_REMOVED, str(self.lost))
            self._touched.append(offer)
        for call in [*self._calls.values(), *self._held]:
            self._end(call, error=self.lost)
        self._calls.clear()
        self._held.clear()
        return self.take_touched()

    def _dispatch(self, message: Message) -> None:
        match message:
            case Response():
                self._answered(message)
            case Notification(method, args):
                self._notified(method, args)
            case Request(msgid, method, _) if method is PING:
                self.outgoing += encode_response(msgid)
            case Request(msgid, method, _):
                self.outgoing += encode_error(
                    msgid, NtStatus.NOT_IMPLEMENTED, f"this client does not answer {method.name}"
                )
            case BadRequest(msgid, status, text):
                self.outgoing += encode_error(msgid, status, text)

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
            if isinstance(call.lane.inbox, AddressState):
                call.lane.inbox.sends.grant(1, call.cost)
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

    def _announced_descriptor(self) -> int:
        if not self._descriptors:
            raise WireError("the daemon announced a descriptor that did not come")
        return self._descriptors.popleft()

    def _notified(self, method: Method, args: tuple[Any, ...]) -> None:
        if method is CHANNEL_PACKETS:
            self._packets_arrived(*args)
        elif method is CHANNEL_WINDOW:
            state = self._channels.get(args[0])
            if isinstance(state, ChannelState):
                state.sends.grant(args[1], args[2])
                lane = self._lanes.get(state)
                if lane is not None:
                    self._run_lane(lane)
        elif method is ADDRESS_DATAGRAMS:
            self._datagrams_arrived(*args)
        elif method is CHANNEL_OPENED:
            self._opened(*args)
        elif method is CHANNEL_OPENED_DIRECT:
            self._opened_direct(*args)
        elif method is CHANNEL_CLOSED:
            state = self._channels.get(args[0])
            if state is not None:
                self.drop_channel(state, _known_status(args[1]), args[2])
                if not isinstance(state, ChannelState):
                    # Done with the rings, which the daemon keeps until now.
                    self.call(CHANNEL_CLOSE, state.number)
        elif method is BUS_MESSAGE:
            if (bus := self._buses.get(args[0])) is not None:
                self._bus_arrived(bus.messages, BusMessage(*args[1:]))
        elif method is BUS_EVENT:
            if (bus := self._buses.get(args[0])) is not None:
                self._bus_arrived(bus.events, BusEvent(*args[1:]))
        elif method is GOODBYE:
            raise ConnectionLost(f"the daemon ended the session: {args[1]}")

    def _bus_arrived(self, arrivals: Arrivals, item: BusMessage | BusEvent) -> None:
        arrivals.arrived(item)
        self._touched.append(arrivals)

    def _opened(self, offer_number: int, number: int, packets: int, byte_count: int) -> None:
        offer = self._offers.get(offer_number)
        if offer is None:
            return
        state = ChannelState(number, (packets, byte_count), GRANT, pipe=offer.pipe, offer=offer)
        offer.opened(state)
        self.add_channel(state)
        self._touched.append(offer)

    def _opened_direct(self, offer_number: int, number: int, *rings: Any) -> None:
        descriptor = self._announced_descriptor()
        offer = self._offers.get(offer_number)
        if offer is None or offer.attach is None:
            self._unclaimed.append(descriptor)
            return
        state = offer.attach(number, rings, descriptor)
        if state is None:
            return
        offer.opened(state)
        self.add_channel(state)
        self._touched.append(offer)

    def _packets_arrived(self, number: int, first: int, run: bytes, errors: str) -> None:
        state = self._channels.get(number)
        if not isinstance(state, ChannelState):
            return
        refusals = {handle: (status, text) for handle, status, text in json.loads(errors)} if errors else {}
        for index, image in enumerate(split_packets_untrusted(run)):
            handle = first + index
            packet = parse_packet_untrusted(image)
            state.arrived(ReceivedPacket(state, handle, packet, len(image), refusals.get(handle)))
        self._touched.append(state if state.offer is None else state.offer)

    def _datagrams_arrived(self, number: int, run: bytes, dropped: int) -> None:
        state = self._addresses.get(number)
        if state is None:
            return
        state.dropped = dropped
        for address, flags, data in split_datagrams_untrusted(run):
            state.arrived(Datagram(data, parse_transport_address_untrusted(address), flags))
        self._touched.append(state)


def hello_arguments(name: str) -> tuple[int, int, str]:
    """The arguments of this client's hello."""
    return PROTOCOL_VERSION, PROTOCOL_VERSION, name[:64]


def _known_status(value: int) -> NtStatus:
    try:
        return NtStatus(value)
    except ValueError:
        return NtStatus.UNSUCCESSFUL


__all__ = ["GRANT", "Call", "ClientProtocol", "ConnectionLost", "PeerViolation", "RequestFailed", "hello_arguments"]

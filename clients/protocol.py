"""The client's half of the conversation, pure: no socket, no clock, no event loop. Both faces are made of it.

Bytes received go in, with the descriptors that came along; bytes to send gather in ``outgoing``; what changed comes
back as a list of the calls, channels and addresses concerned, and the face wakes whoever waits for them.

A request is a ``Call``. It is sent at once, or when the window of its channel or address opens; it gets exactly one
end: its result, an error, or the loss of the connection. A call nobody waits for any more is abandoned: the daemon is
asked to cancel it, and a result that comes all the same is undone (``Call.undo``) where it would leave something open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from clients.bus_inbox import Arrivals, BusEvent, BusMessage
from clients.calls import Call, ConnectionLost, RequestFailed
from clients.driver_table import GRANT, DriverTable
from clients.filtering import Filtering
from clients.inbox import ChannelState, Datagram, ReceivedPacket
from emulator.status import NtStatus, PeerViolation
from emulator.tdi.structures import parse_transport_address_untrusted
from emulator.vmbus.packets import parse_packet_untrusted
from emulator.wire.codec import (
    BadRequest,
    FrameDecoder,
    FrameLimits,
    Message,
    Notification,
    Request,
    Response,
    encode_error,
    encode_response,
)
from emulator.wire.runs import split_datagrams_untrusted, split_packets_untrusted
from emulator.wire.schema import (
    ADDRESS_DATAGRAMS,
    ADDRESS_EVENT,
    ADDRESS_REQUEST_COMPLETED,
    ADDRESS_TOLD,
    BUS_EVENT,
    BUS_MESSAGE,
    CHANNEL_CLOSE,
    CHANNEL_CLOSED,
    CHANNEL_OPENED,
    CHANNEL_OPENED_DIRECT,
    CHANNEL_PACKETS,
    CHANNEL_WINDOW,
    DRIVER_CALLBACK,
    FILTER_CLEANUP,
    FILTER_COMPLETED,
    FILTER_DETACHED,
    FILTER_REQUEST,
    GOODBYE,
    MACHINE_PROFILE,
    OFFER_RESCINDED,
    PING,
    PROTOCOL_VERSION,
    Direction,
    Method,
)

FILTER_NEWS = frozenset({FILTER_COMPLETED, FILTER_CLEANUP, FILTER_DETACHED})


class ClientProtocol(DriverTable, Filtering):
    """One connection's conversation: what is received. Calls are in ``CallTable``, what is open in ``Holdings``.

    What the daemon calls here is in ``Handlers``, ``Filtering`` and ``DriverTable``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._decoder = FrameDecoder(Direction.TO_CLIENT, FrameLimits())
        self._told_of_drivers = self.told_of_drivers()

    def receive(self, data: bytes, descriptors: Iterable[int] = ()) -> list[Any]:
        """Take bytes and descriptors; the calls, channels, offers and addresses that changed. Raises WireError."""
        self._descriptors.extend(descriptors)
        for message in self._decoder.feed(data):
            self._dispatch(message)
        return self.take_touched()

    def receive_lossy(self, data: bytes) -> list[Any]:
        """Take a frame that came by itself: a datagram. Raises WireError."""
        for message in FrameDecoder(Direction.TO_CLIENT, FrameLimits()).feed(data):
            if isinstance(message, Notification) and message.method is ADDRESS_DATAGRAMS:
                self._datagrams_arrived(*message.args)
        return self.take_touched()

    def lose(self, error: Exception) -> list[Any]:
        """The connection is gone: everything under way ends with ``error``."""
        if self.lost is None:
            self.lost = error
        self._close_all(str(self.lost))
        self._close_filters(str(self.lost))
        self._end_calls(self.lost)
        return self.take_touched()

    def _dispatch(self, message: Message) -> None:
        match message:
            case Response():
                self._answered(message)
            case Notification(method, args):
                self._notified(method, args)
            case Request(msgid, method, _) if method is PING:
                self.outgoing += encode_response(msgid)
            case Request(msgid, method, args) if method is ADDRESS_EVENT:
                self._handler_called(msgid, args)
            case Request(msgid, method, args) if method is DRIVER_CALLBACK:
                self.callback_asked(msgid, *args)
            case Request(msgid, method, args) if method is FILTER_REQUEST:
                self._filter_asked(msgid, args)
            case Request(msgid, method, _):
                self.outgoing += encode_error(
                    msgid, NtStatus.NOT_IMPLEMENTED, f"this client does not answer {method.name}"
                )
            case BadRequest(msgid, status, text):
                self.outgoing += encode_error(msgid, status, text)

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
        elif method is ADDRESS_TOLD:
            self._handler_called(None, args)
        elif method is ADDRESS_REQUEST_COMPLETED:
            self._request_completed(args)
        elif method in FILTER_NEWS:
            self._filter_told(method, args)
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
        elif method is OFFER_RESCINDED:
            if (offer := self._offers.get(args[0])) is not None:
                self.drop_offer(offer, _known_status(args[1]), args[2])
        elif method is MACHINE_PROFILE:
            self.add_profile(*args)
        elif method in self._told_of_drivers:
            self._told_of_drivers[method](*args)
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
        count = 0
        for count, image in enumerate(split_packets_untrusted(run), start=1):
            handle = first + count - 1
            packet = parse_packet_untrusted(image)
            state.arrived(ReceivedPacket(state, handle, packet, len(image), refusals.get(handle)))
        if count:
            state.items[-1].batch = count
        self._touched.append(state if state.offer is None else state.offer)

    def _datagrams_arrived(self, number: int, run: bytes, dropped: int) -> None:
        state = self._addresses.get(number)
        if state is None:
            return
        state.dropped = max(state.dropped, dropped)  # over UDP an older count may come later
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

"""Taking packets out of an inbox, hosted or direct: singly, or the payloads of many at once."""

from __future__ import annotations

from typing import Any

from clients.direct import DirectEnd
from clients.direct_calls import DirectPacket, DirectRun
from clients.inbox import EndState, OfferState, ReceivedPacket
from clients.protocol import ClientProtocol


def take_packet(protocol: ClientProtocol, items: Any) -> ReceivedPacket | DirectPacket:
    """The oldest packet of a channel's or an offer's inbox, its room given back."""
    front = items[0]
    if isinstance(front, DirectPacket):
        return front.state.take()
    if isinstance(front, DirectRun):
        single = front.take_first()
        if not front.payloads:
            items.popleft()
            front.state.poll()
        return single
    packet: ReceivedPacket = items.popleft()
    protocol.taken(packet.state, packet.cost)
    return packet


def collect(protocol: ClientProtocol, items: Any) -> list[bytes]:
    """The payloads at the front of an inbox, up to the first packet that wants an answer or shows memory."""
    payloads: list[bytes] = []
    while items:
        front = items[0]
        if isinstance(front, DirectRun):
            items.popleft()
            payloads = payloads + front.payloads if payloads else front.payloads
        elif front.wants_completion or front.has_external_data:
            break
        elif isinstance(front, DirectPacket):
            # Not by `take`, which would fill the inbox with more single packets before a run can come.
            payloads.append(items.popleft().payload)
        else:
            payloads.append(take_packet(protocol, items).payload)
    return payloads


def refill(state: EndState | OfferState) -> None:
    """Look at a direct channel's rings again after their packets were collected, for a face that otherwise sleeps."""
    end = state.opening if isinstance(state, OfferState) else state
    if isinstance(end, DirectEnd):
        end.poll()

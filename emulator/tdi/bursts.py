"""Bursts: many sends of one address object to one destination, submitted in one call.

Each datagram of a burst is a TDI_SEND_DATAGRAM of its own, with the outcome it would have had alone. What can be
checked once for all of them is, and when nothing stands in the way they leave without a request being made of each. If
anything does (a refusal, a send that waits already), there is no ``BurstWay``: they have to be submitted one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from emulator.status import Refused
from emulator.tdi.groups import SendOptions
from emulator.tdi.irp import ConnectionInformation, SendDatagram
from emulator.tdi.structures import SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.device import Device


class BurstWay(NamedTuple):
    """What a burst leaves by: the real socket ``key`` (0: a segment), from ``host`` to a canonical destination."""

    key: int
    host: str
    destination: SocketAddress
    options: SendOptions


def burst_way(
    device: Device, address: AddressObject, destination: SocketAddress, lengths: Sequence[int]
) -> BurstWay | None:
    """The way for datagrams of these lengths, if every one of them may leave now."""
    profile = device.profile
    if address.closing or not lengths or device.is_crowded(address):
        return None
    if max(lengths) > profile.max_datagram_bytes or (profile.refuses_zero_length and not min(lengths)):
        return None
    try:
        known = device.destination_of(address, SendDatagram(ConnectionInformation(destination), None))
    except Refused:
        return None
    return BurstWay(address.path_key, address.local.host, known, address.options)

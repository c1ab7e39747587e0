"""Making the direct end of a channel that has been opened: a plain one's, or a driver's."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

from clients.direct import DirectEnd
from clients.driver import DriverState
from clients.inbox import OfferState
from clients.protocol import ClientProtocol
from emulator.memory import AddressOutsideMemory, GuestMemory
from emulator.status import PeerViolation
from emulator.vmbus.endpoint import Side
from emulator.wire.schema import CHANNEL_CLOSE


def attach(
    of: tuple[ClientProtocol, int],
    memory: GuestMemory,
    side: Side,
    pipe: bool,
    offer: OfferState | None,
    number: int,
    rings: tuple[Any, ...],
    descriptor: int,
) -> DirectEnd | None:
    """A direct end over the rings the daemon named; None, and the channel closed, for rings that are damaged.

    ``of`` is the conversation and the machine's number in it.
    """
    protocol, machine = of
    bell = socket.socket(fileno=descriptor)
    try:
        profile = protocol.profile_of(machine)
        return DirectEnd(memory, side, number, rings, bell, pipe=pipe, offer=offer, owner=protocol, profile=profile)
    except (PeerViolation, AddressOutsideMemory):
        bell.close()
        protocol.call(CHANNEL_CLOSE, number)
        return None


def attach_driver(
    of: tuple[ClientProtocol, int],
    memory: GuestMemory,
    state: DriverState,
    number: int,
    rings: tuple[Any, ...],
    descriptor: int,
) -> DirectEnd | None:
    """The same, for a driver channel: it delivers nothing before Started has returned."""
    protocol, machine = of
    bell = socket.socket(fileno=descriptor)
    profile = protocol.profile_of(machine)
    if state.quota is not None:
        profile = profile._replace(limits=replace(profile.limits, transaction_quota=state.quota))
    args = memory, state.side, number, rings, bell
    try:
        return DirectEnd(*args, pipe=state.pipe, offer=state, owner=protocol, profile=profile, is_driver=True)
    except (PeerViolation, AddressOutsideMemory):
        bell.close()
        protocol.call(CHANNEL_CLOSE, number)
        return None

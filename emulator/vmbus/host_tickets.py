"""Opening a channel: what an open message asks for, and whether it can be had (rule 2.6, open parameters)."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.memory import GpaRange
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.gpadl import split_ring_untrusted
from emulator.vmbus.host_effects import OpenRequest, SynicTarget
from emulator.vmbus.message_types import (
    DISABLE_INTERRUPTS_VP,
    NO_USER_DATA,
    FeatureFlags,
    Negotiated,
    OpenChannel,
    OpenChannel2,
    OpenReservedChannel,
    Version,
)
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.synic import (
    CONNECTION_ID_MASK,
    MAX_CHANNELS,
    MULTICLIENT_CONNECTION,
    SINT_COUNT,
    channel_connection_id,
)


@dataclass(frozen=True, slots=True)
class OpenTicket:
    """An open message as it counts on its connection. ``signal``: (connection id, event flag), if the guest chose."""

    open_id: int
    ring_gpadl_id: int
    target_vp: int | None
    downstream_page_offset: int
    user_data: bytes
    signal: tuple[int, int] | None
    redirect_interrupt: bool
    reserved_target: SynicTarget | None
    version: Version
    features: FeatureFlags


def ticket_to_open(message: OpenChannel, negotiated: Negotiated) -> OpenTicket:
    """What message 5 asks for; its long layout counts as far as features were granted."""
    signal, redirect = None, False
    if isinstance(message, OpenChannel2):
        if negotiated.features & FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS:
            signal = (message.connection_id & CONNECTION_ID_MASK, message.event_flag)
        redirect = bool(negotiated.features & FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION and message.flags & 1)
    return OpenTicket(
        open_id=message.open_id,
        ring_gpadl_id=message.ring_buffer_gpadl_id,
        target_vp=None if message.target_vp == DISABLE_INTERRUPTS_VP else message.target_vp,
        downstream_page_offset=message.downstream_page_offset,
        user_data=message.user_data,
        signal=signal,
        redirect_interrupt=redirect,
        reserved_target=None,
        version=negotiated.version,
        features=negotiated.features,
    )


def ticket_to_open_reserved(message: OpenReservedChannel, negotiated: Negotiated) -> OpenTicket:
    """What message 18 asks for: no interrupts, no user data, the answer to a target of its own. Raises BusError."""
    return OpenTicket(
        open_id=0,
        ring_gpadl_id=message.ring_buffer_gpadl_id,
        target_vp=None,
        downstream_page_offset=message.downstream_page_offset,
        user_data=NO_USER_DATA,
        signal=None,
        redirect_interrupt=False,
        reserved_target=reserved_target(message.channel_id, message.target_vp, message.target_sint),
        version=negotiated.version,
        features=negotiated.features,
    )


def reserved_target(channel_id: int, vp: int, sint: int) -> SynicTarget:
    """Where answers about a reserved channel go. Raises BusError for a source that does not exist."""
    if sint >= SINT_COUNT:
        raise BusError(BusFault.INVALID_TARGET_SINT, f"reserved channel {channel_id} with SINT {sint}")
    return SynicTarget(vp, sint)


def resolve_ticket(
    ticket: OpenTicket,
    channel_id: int,
    ranges: tuple[GpaRange, ...] | None,
    monitor_id: int | None,
    config: BusConfig,
) -> OpenRequest:
    """The request for the device. ``ranges`` is the ring's accepted page list, if there is one. Raises BusError."""
    name = f"open of channel {channel_id}"
    if ranges is None:
        raise BusError(BusFault.UNKNOWN_GPADL_ID, f"{name} with ring GPADL 0x{ticket.ring_gpadl_id:X}")
    ring = split_ring_untrusted(ranges, ticket.downstream_page_offset, config.allow_empty_rings)
    connection_id, event_flag = ticket.signal or (channel_connection_id(channel_id, config.vtl), channel_id)
    if connection_id <= MULTICLIENT_CONNECTION or not 0 < event_flag <= MAX_CHANNELS:
        raise BusError(BusFault.INVALID_SIGNAL, f"{name} by connection 0x{connection_id:X}, event flag {event_flag}")
    return OpenRequest(
        channel_id=channel_id,
        open_id=ticket.open_id,
        ring_gpadl_id=ticket.ring_gpadl_id,
        ring=ring,
        downstream_page_offset=ticket.downstream_page_offset,
        target_vp=ticket.target_vp,
        user_data=ticket.user_data,
        connection_id=connection_id,
        event_flag=event_flag,
        redirect_interrupt=ticket.redirect_interrupt,
        monitor_id=None if ticket.target_vp is None else monitor_id,
        reserved_target=ticket.reserved_target,
        version=ticket.version,
        features=ticket.features,
    )

"""What a HostBus is made of, in one record: the whole of it is what gets saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from emulator.status import NtStatus, Refused
from emulator.vmbus.channel_states import ChannelState
from emulator.vmbus.host_connection import ConnectionState, NextAction, Phase
from emulator.vmbus.host_directory import ChannelsState
from emulator.vmbus.host_gpadls import GpadlsState, GpadlState
from emulator.vmbus.message_types import FeatureFlags, Version
from emulator.vmbus.negotiation import VersionLimit
from emulator.vmbus.outbox import OutboxState
from emulator.vmbus.synic import MAX_CHANNELS, Port


@dataclass(slots=True)
class HostState:
    """Everything. ``inbox`` holds messages that wait until the guest reads its answers."""

    connection: ConnectionState = field(default_factory=ConnectionState)
    channels: ChannelsState = field(default_factory=ChannelsState)
    gpadls: GpadlsState = field(default_factory=GpadlsState)
    outbox: OutboxState = field(default_factory=OutboxState)
    inbox: list[tuple[Port, bytes, bool]] = field(default_factory=list)
    connecting_sockets: list[tuple[UUID, UUID]] = field(default_factory=list)


def check_restorable(state: HostState, limit: VersionLimit) -> None:
    """Refuse a saved state that speaks more than ``limit``, or features its version cannot have. Raises Refused."""
    connection = state.connection
    half = connection.phase in (Phase.CONNECTING, Phase.CONNECTED) and connection.version is None
    if half or (connection.next_action is NextAction.RECONNECT and connection.contact is None):
        raise Refused(
            NtStatus.INVALID_PARAMETER, f"saved state: the connection is not {connection.phase.value} in full"
        )
    if connection.version is not None:
        _check("the connection", connection.version, connection.features, limit)
    for channel in state.channels.channels.values():
        if channel.ticket is not None:
            _check(f"channel {channel.channel_id}", channel.ticket.version, channel.ticket.features, limit)
    _check_channels(state.channels)
    for (slot, gpadl_id), gpadl in state.gpadls.lists.items():
        if slot not in state.channels.channels or (gpadl.owner, gpadl.gpadl_id) != (slot, gpadl_id):
            raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: GPADL 0x{gpadl_id:X} belongs to no channel")
        incomplete = gpadl.state is GpadlState.IN_PROGRESS
        if incomplete is not (gpadl.assembly is not None) or gpadl.state is GpadlState.GONE:
            raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: GPADL 0x{gpadl_id:X} is not whole")


_IN_USE = {s for s in ChannelState if s.is_reserved} | {
    ChannelState.OPENING,
    ChannelState.OPEN,
    ChannelState.CLOSING,
    ChannelState.CLOSING_REOPEN,
    ChannelState.OPENING_RELEASED,
}


def _check_channels(state: ChannelsState) -> None:
    """Every channel has what its state promises, and nothing is given out twice. Raises Refused."""
    channels = list(state.channels.items())
    ids = [c.channel_id for _, c in channels if c.channel_id is not None]
    if len(set(ids)) != len(ids) or len({c.offer.identity for _, c in channels}) != len(channels):
        raise Refused(NtStatus.INVALID_PARAMETER, "saved state: two channels with one id or one identity")
    for slot, c in channels:
        named = c.channel_id is not None and 0 < c.channel_id <= MAX_CHANNELS
        used = c.state not in _IN_USE or (c.ticket is not None and c.request is not None)
        reserved = not c.state.is_reserved or c.reserved_target is not None
        reopening = c.state is not ChannelState.CLOSING_REOPEN or c.reopen_ticket is not None
        known = slot == c.slot and 0 < c.offer_key < state.next_key
        if named is c.state.is_released or not (used and reserved and reopening and known):
            raise Refused(NtStatus.INVALID_PARAMETER, f"saved state: channel {slot} is not {c.state.value} in full")


def _check(what: str, version: Version, features: FeatureFlags, limit: VersionLimit) -> None:
    if version > limit.version:
        raise Refused(NtStatus.NOT_SUPPORTED, f"saved state: {what} speaks {version}, more than {limit.version}")
    allowed = limit.features if version >= Version.V6_0 else FeatureFlags.NONE
    if features & ~allowed:
        raise Refused(
            NtStatus.NOT_SUPPORTED, f"saved state: {what} has features 0x{int(features & ~allowed):X} too many"
        )

"""The guest's messages, each taken to the part of the host bus it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from emulator.vmbus import message_types as m
from emulator.vmbus.channel_states import ChannelInput
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.host_channels import HostChannels, Link
from emulator.vmbus.host_connection import HostConnection, NextAction, Phase
from emulator.vmbus.host_directory import HostDirectory
from emulator.vmbus.host_effects import HostEffect, TlConnect
from emulator.vmbus.host_gpadls import HostGpadls
from emulator.vmbus.host_save import HostState
from emulator.vmbus.host_tickets import reserved_target, ticket_to_open, ticket_to_open_reserved
from emulator.vmbus.message_types import Direction, Message, Negotiated, Version
from emulator.vmbus.messages import message_number, parse_message_untrusted
from emulator.vmbus.negotiation import BusConfig, read_contact
from emulator.vmbus.outbox import Outbox
from emulator.vmbus.synic import Port

_UNLOAD = 16
_NAMING_A_CHANNEL = frozenset({5, 7, 8, 11, 13, 18, 19, 22})  # at byte 8
_WHILE_PAUSED = (m.Resume, m.Unload, m.InitiateContact)


def _channel_named(payload: bytes) -> int | None:
    """The channel id in a message that is wrong, for whoever reports it."""
    names = len(payload) >= 12 and message_number(payload) in _NAMING_A_CHANNEL
    return int.from_bytes(payload[8:12], "little") if names else None


class HostMessages:
    """Parses, checks what holds for every message, and dispatches. Borrows everything from the HostBus that made it."""

    def __init__(
        self,
        state: HostState,
        link: Link,
        config: BusConfig,
        directory: HostDirectory,
        channels: HostChannels,
        gpadls: HostGpadls,
        connection: HostConnection,
        outbox: Outbox,
        effects: list[HostEffect],
    ) -> None:
        self._state, self._link, self.config = state, link, config
        self._directory, self._channels, self._gpadls = directory, channels, gpadls
        self._connection, self._outbox, self._effects = connection, outbox, effects
        self._handlers: dict[type[Message], Callable[[Any, Negotiated], None]] = {
            m.RequestOffers: self._request_offers,
            m.OpenChannel: self._open,
            m.OpenChannel2: self._open,
            m.CloseChannel: self._close,
            m.GpadlHeader: self._gpadl_header,
            m.GpadlBody: self._gpadl_body,
            m.GpadlTeardown: self._gpadl_teardown,
            m.RelIdReleased: self._release,
            m.OpenReservedChannel: self._open_reserved,
            m.TlConnectRequest: self._tl_connect,
            m.TlConnectRequest2: self._tl_connect,
            m.ModifyChannel: self._modify,
            m.ModifyConnection: self._modify_connection,
            m.Pause: self._pause,
            m.Resume: self._resume,
        }

    def receive(self, port: Port, payload: bytes, trusted: bool) -> None:
        """One message of the guest's; what is wrong with it becomes a Violation."""
        try:
            self._dispatch(port, payload, trusted)
        except BusError as error:
            self._effects.append(Violation.of(error, _channel_named(payload)))
        self.settle()

    def settle(self) -> None:
        """To be called at the end of every input: go on with a disconnect, forget what belonged to the connection."""
        self._connection.advance()
        if self._link.negotiated is None:
            self._state.connecting_sockets.clear()

    def _dispatch(self, port: Port, payload: bytes, trusted: bool) -> None:
        connection = self._state.connection
        if connection.next_action is NextAction.RESET:
            raise BusError(BusFault.RESETTING, f"message type {message_number(payload)}")
        message = parse_message_untrusted(payload, self._speaks(payload), Direction.GUEST_TO_HOST)
        if connection.trusted and connection.phase in (Phase.CONNECTING, Phase.CONNECTED) and not trusted:
            raise BusError(BusFault.UNTRUSTED_MESSAGE, type(message).__name__)
        if self._state.outbox.is_paused:
            if not isinstance(message, _WHILE_PAUSED):
                raise BusError(BusFault.PAUSED, type(message).__name__)
            self._outbox.resume()
        if isinstance(message, m.InitiateContact):
            self._connection.contact(read_contact(message, port, trusted), payload)
        elif isinstance(message, m.Unload):
            self._connection.disconnect(NextAction.UNLOAD)
        elif isinstance(message, m.CloseReservedChannel):
            self._close_reserved(message)
        else:
            assert self._link.negotiated is not None  # no other type passes the parser without a connection
            self._handlers[type(message)](message, self._link.negotiated)

    def _speaks(self, payload: bytes) -> Negotiated | None:
        # An unload is legal while connecting, too, and the version it needs is the lowest.
        if self._state.connection.phase is Phase.CONNECTING and message_number(payload) == _UNLOAD:
            return Negotiated(Version.V0_13)
        return self._link.negotiated

    def _request_offers(self, _message: m.RequestOffers, _negotiated: Negotiated) -> None:
        self._connection.offers_requested()

    def _open(self, message: m.OpenChannel, negotiated: Negotiated) -> None:
        self._channels.open(self._directory.named(message.channel_id), ticket_to_open(message, negotiated))

    def _open_reserved(self, message: m.OpenReservedChannel, negotiated: Negotiated) -> None:
        self._channels.open(self._directory.named(message.channel_id), ticket_to_open_reserved(message, negotiated))

    def _close(self, message: m.CloseChannel, _negotiated: Negotiated) -> None:
        self._channels.guest_input(self._directory.named(message.channel_id), ChannelInput.CLOSE)

    def _close_reserved(self, message: m.CloseReservedChannel) -> None:
        target = reserved_target(message.channel_id, message.target_vp, message.target_sint)
        self._channels.close_reserved(self._directory.named(message.channel_id), target)

    def _release(self, message: m.RelIdReleased, _negotiated: Negotiated) -> None:
        self._channels.guest_input(self._directory.named(message.channel_id), ChannelInput.RELEASE)

    def _modify(self, message: m.ModifyChannel, _negotiated: Negotiated) -> None:
        self._channels.modify(message.channel_id, message.target_vp)

    def _gpadl_header(self, message: m.GpadlHeader, _negotiated: Negotiated) -> None:
        try:
            channel = self._directory.named(message.channel_id)
            if channel.state.is_reserved:
                raise BusError(BusFault.CHANNEL_RESERVED, f"GPADL on channel {message.channel_id}")
            self._gpadls.header(message, channel.slot, channel.offer_key, channel.state.is_revoked)
        except BusError:
            self._outbox.send(m.GpadlCreated(message.channel_id, message.gpadl_id, m.STATUS_FAILED))
            raise

    def _gpadl_body(self, message: m.GpadlBody, _negotiated: Negotiated) -> None:
        gpadl = self._gpadls.in_progress(message)
        channel = self._directory.named(gpadl.channel_id)
        self._gpadls.body(message, gpadl, channel.offer_key, channel.state.is_revoked)

    def _gpadl_teardown(self, message: m.GpadlTeardown, _negotiated: Negotiated) -> None:
        channel = self._directory.named(message.channel_id)
        state = channel.state
        self._gpadls.teardown(
            channel.slot, message.gpadl_id, channel.offer_key, revoked=state.is_revoked, reserved=state.is_reserved
        )

    def _tl_connect(self, message: m.TlConnectRequest, _negotiated: Negotiated) -> None:
        pair = (message.service_id, message.endpoint_id)
        waiting = self._state.connecting_sockets
        if len(waiting) >= self.config.max_connects or pair in waiting:
            self.refuse_socket(*pair)
            raise BusError(BusFault.TOO_MANY_CONNECTS, f"socket connect to {message.service_id}")
        waiting.append(pair)
        silo_id = message.silo_id if isinstance(message, m.TlConnectRequest2) else m.NO_GUID
        self._effects.append(TlConnect(*pair, silo_id))

    def refuse_socket(self, service_id: UUID, endpoint_id: UUID) -> None:
        """Message 23, where the version has it; older guests never hear of it."""
        negotiated = self._link.negotiated
        if negotiated is not None and negotiated.version >= Version.V4_1:
            self._outbox.send(m.TlConnectRequestResult(endpoint_id, service_id, m.STATUS_CONNECTION_REFUSED))

    def _modify_connection(self, message: m.ModifyConnection, _negotiated: Negotiated) -> None:
        self._connection.modify(message)

    def _pause(self, _message: m.Pause, _negotiated: Negotiated) -> None:
        self._outbox.send(m.PauseResponse())
        self._outbox.pause()

    def _resume(self, _message: m.Resume, _negotiated: Negotiated) -> None:
        pass  # any message that is legal while paused has resumed already

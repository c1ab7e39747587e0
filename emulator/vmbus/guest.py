"""GuestBus: the guest's side of one machine's control conversation, in nothing but its bytes.

Synchronous and without a clock. One serves all guest programs of a machine. Every input returns effects
(``guest_effects``); what the host answers comes in through ``message_arrived``. It contacts with its newest version and
steps down on refusal; from the accepted one on it asks for the offers by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from emulator.memory import GpaRange
from emulator.status import NtStatus, Refused
from emulator.vmbus import guest_effects as fx
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.guest_effects import GuestEffect
from emulator.vmbus.guest_operations import GuestLink, GuestOperations
from emulator.vmbus.guest_state import FIRST_GPADL_ID, GuestConfig, GuestPhase, GuestState, check_restorable
from emulator.vmbus.host_effects import MonitorPages
from emulator.vmbus.message_types import Direction, FeatureFlags, Message, Negotiated, Version
from emulator.vmbus.messages import parse_message_untrusted
from emulator.vmbus.offers import OfferFlags
from emulator.vmbus.plain_state import Plain, from_plain, to_plain
from emulator.vmbus.synic import MAX_CHANNELS, MESSAGE_CONNECTION, MULTICLIENT_CONNECTION, VMBUS_SINT, HvStatus


class GuestBus:
    """The guest side of one machine's bus."""

    def __init__(self, config: GuestConfig | None = None) -> None:
        self._start(config or GuestConfig(), GuestState())

    def _start(self, config: GuestConfig, state: GuestState) -> None:
        self.config = config
        self._state = state
        self._effects: list[GuestEffect] = []
        self._link = GuestLink(self._negotiated(), state.connection_id)
        self._operations = operations = GuestOperations(state.channels, self._link, self._effects)
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            m.OfferChannel: self._offer,
            m.RescindChannelOffer: operations.rescinded,
            m.AllOffersDelivered: self._offers_delivered,
            m.OpenChannelResult: operations.open_result,
            m.GpadlCreated: operations.gpadl_created,
            m.GpadlTorndown: operations.gpadl_torndown,
            m.ModifyChannelResponse: operations.modify_response,
            m.ModifyConnectionResponse: self._modify_connection_response,
            m.TlConnectRequestResult: self._tl_result,
            m.PauseResponse: self._pause_response,
        }

    # Connection

    def connect(self) -> list[GuestEffect]:
        """Contact the host. Ends with Connected or ConnectFailed. Raises Refused unless disconnected."""
        if self._state.phase is not GuestPhase.DISCONNECTED:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, f"the bus is {self._state.phase.value} already", rule="2.5")
        self._state.phase, self._state.attempt = GuestPhase.CONNECTING, 0
        self._contact()
        return self._take()

    def unload(self) -> list[GuestEffect]:
        """Leave. Ends with Unloaded; channels and GPADLs go without further notice. Raises Refused unless connected."""
        self._check_connected()
        self._post(m.Unload())
        self._state.phase = GuestPhase.UNLOADING
        return self._take()

    def modify_connection(self, pages: MonitorPages) -> list[GuestEffect]:
        """Change the monitor pages. Ends with ConnectionModified. Raises Refused without the feature, or twice."""
        self._check_feature(FeatureFlags.MODIFY_CONNECTION)
        if self._state.is_modifying:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the last modify connection is not answered yet", rule="2.5")
        self._state.is_modifying = True
        self._post(m.ModifyConnection(*pages))
        return self._take()

    def pause(self) -> list[GuestEffect]:
        """Ask the host to be silent. Ends with PauseAnswered. Raises Refused without the feature."""
        self._check_feature(FeatureFlags.PAUSE_RESUME)
        self._post(m.Pause())
        return self._take()

    def resume(self) -> list[GuestEffect]:
        """End a pause. Raises Refused without the feature."""
        self._check_feature(FeatureFlags.PAUSE_RESUME)
        self._post(m.Resume())
        return self._take()

    def post_failed(self, connection_id: int, payload: bytes, status: HvStatus) -> list[GuestEffect]:
        """The hypercall refused a message. A host without the multiclient port is one older than 5.0."""
        state = self._state
        if state.phase is not GuestPhase.CONNECTING:
            return [fx.PostLost(payload, status)]
        if connection_id == MULTICLIENT_CONNECTION and status is HvStatus.INVALID_CONNECTION_ID:
            self._step_down(below=Version.V5_0)
        else:
            self._give_up(0)
        return self._take()

    # Channels

    def open_channel(
        self,
        channel_id: int,
        ring: Sequence[GpaRange],
        downstream_page_offset: int,
        target_vp: int = 0,
        user_data: bytes = m.NO_USER_DATA,
    ) -> tuple[int, list[GuestEffect]]:
        """Open a channel over these pages: the guest's ring first, the host's from ``downstream_page_offset`` on.

        Returns a ticket; ends with ChannelOpened. Raises Refused, and Misuse for ranges that are not legal.
        """
        self._check_connected()
        ticket = self._operations.open(channel_id, ring, downstream_page_offset, target_vp, user_data)
        return ticket, self._take()

    def close_channel(self, channel_id: int) -> list[GuestEffect]:
        """Close a channel, or give up opening it. Ends with ChannelClosed. Raises Refused."""
        self._check_connected()
        self._operations.close(channel_id)
        return self._take()

    def create_gpadl(self, channel_id: int, ranges: Sequence[GpaRange]) -> tuple[int, list[GuestEffect]]:
        """Describe memory to a channel's device. Returns its id; ends with GpadlReady. Raises Refused or Misuse."""
        self._check_connected()
        gpadl_id = self._operations.create_gpadl(channel_id, ranges)
        return gpadl_id, self._take()

    def teardown_gpadl(self, gpadl_id: int) -> list[GuestEffect]:
        """Take memory back. Ends with GpadlGone. Raises Refused for an id that is not ours to tear down."""
        self._check_connected()
        self._operations.teardown(gpadl_id)
        return self._take()

    def modify(self, channel_id: int, target_vp: int) -> list[GuestEffect]:
        """Have a channel interrupt another processor. Ends with ChannelModified. Raises Refused."""
        self._check_connected()
        self._operations.modify(channel_id, target_vp)
        return self._take()

    def release(self, channel_id: int) -> list[GuestEffect]:
        """Close a channel, take its GPADLs back, then release its id. Ends with ChannelReleased. Raises Refused."""
        self._check_connected()
        self._operations.release(channel_id)
        return self._take()

    def tl_connect(self, service_id: UUID, endpoint_id: UUID, silo_id: UUID = m.NO_GUID) -> list[GuestEffect]:
        """Connect a socket to a host service. Ends with TlConnected or, from 4.1, TlConnectFailed. Raises Refused."""
        negotiated = self._check_connected()
        if negotiated.version < Version.V4_0:
            raise Refused(NtStatus.NOT_SUPPORTED, f"sockets need version 4.0, not {negotiated.version}", rule="2.2")
        pair = (service_id, endpoint_id)
        if pair in self._state.sockets or len(self._state.sockets) >= self.config.max_sockets:
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, "this connect is waiting already, or too many are")
        self._state.sockets.append(pair)
        long = negotiated.version >= Version.V5_2
        self._post(
            m.TlConnectRequest2(endpoint_id, service_id, silo_id)
            if long
            else m.TlConnectRequest(endpoint_id, service_id)
        )
        return self._take()

    def tl_abandon(self, service_id: UUID, endpoint_id: UUID) -> None:
        """Nobody waits for this connect any more (a 4.0 host never reports a failure)."""
        if (service_id, endpoint_id) in self._state.sockets:
            self._state.sockets.remove((service_id, endpoint_id))

    def channel_of_flag(self, event_flag: int) -> int | None:
        """The open channel the host interrupts with this event flag."""
        return self._operations.channel_of_flag(event_flag)

    # State

    @property
    def state(self) -> GuestState:
        """Everything there is, to look at."""
        return self._state

    def save(self) -> Plain:
        """Everything this bus knows, as plain data."""
        return to_plain(self._state)

    @classmethod
    def restore(cls, data: Plain, config: GuestConfig | None = None) -> GuestBus:
        """A bus that goes on where the saved one stood. Raises Refused for data that does not fit."""
        config, state = config or GuestConfig(), from_plain(GuestState, data)
        check_restorable(state, config)
        bus = cls.__new__(cls)
        bus._start(config, state)
        return bus

    # Messages

    def message_arrived(self, payload: bytes) -> list[GuestEffect]:
        """A message from the host. What is wrong with it becomes a Violation."""
        try:
            self._dispatch(payload)
        except BusError as error:
            self._effects.append(Violation.of(error))
        return self._take()

    def _dispatch(self, payload: bytes) -> None:
        state = self._state
        negotiated = self._negotiated()
        if state.phase is GuestPhase.UNLOADING and state.version is not None:
            negotiated = Negotiated(max(state.version, Version.V1_1), state.features)
        message = parse_message_untrusted(payload, negotiated, Direction.HOST_TO_GUEST)
        if isinstance(message, m.VersionResponse):
            self._version_response(message)
        elif state.phase is GuestPhase.UNLOADING:
            if isinstance(message, m.UnloadComplete):
                self._forget()
                self._effects.append(fx.Unloaded())
        else:
            handler = self._handlers.get(type(message))
            if handler is None:
                raise BusError(BusFault.UNEXPECTED_ANSWER, type(message).__name__)
            handler(message)

    def _version_response(self, message: m.VersionResponse) -> None:
        state = self._state
        if state.phase is not GuestPhase.CONNECTING:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"version response while {state.phase.value}")
        if not message.version_supported:
            self._step_down()
            return
        if message.connection_state:
            self._give_up(message.connection_state)
            return
        version = self.config.versions[state.attempt]
        granted = FeatureFlags.NONE
        if version >= Version.V6_0 and isinstance(message, m.VersionResponse2):
            granted = FeatureFlags(message.supported_features & self._wanted())
        state.phase, state.version, state.features = GuestPhase.CONNECTED, version, granted
        state.connection_id = message.version_or_connection_id if version >= Version.V5_0 else MESSAGE_CONNECTION
        self._link.negotiated, self._link.connection_id = self._negotiated(), state.connection_id
        state.channels.next_gpadl_id = FIRST_GPADL_ID
        self._effects.append(fx.Connected(version, granted))
        self._post(m.RequestOffers())

    def _offer(self, message: m.OfferChannel) -> None:
        channels = self._state.channels.channels
        if message.channel_id in channels or not 0 < message.channel_id <= MAX_CHANNELS:
            raise BusError(BusFault.CHANNEL_ID_IN_USE, f"offer of channel {message.channel_id}")
        self._operations.offered(message)
        pair = (message.interface_id, message.instance_id)
        for_host = not message.user_defined[4]
        if pair in self._state.sockets and message.flags & OfferFlags.TLNPI_PROVIDER and for_host:
            self._state.sockets.remove(pair)
            self._effects.append(fx.TlConnected(*pair, message.channel_id))

    def _offers_delivered(self, _message: m.AllOffersDelivered) -> None:
        self._effects.append(fx.OffersDelivered())

    def _modify_connection_response(self, message: m.ModifyConnectionResponse) -> None:
        if not self._state.is_modifying:
            raise BusError(BusFault.UNEXPECTED_ANSWER, "modify connection response")
        self._state.is_modifying = False
        self._effects.append(fx.ConnectionModified(message.connection_state))

    def _tl_result(self, message: m.TlConnectRequestResult) -> None:
        pair = (message.service_id, message.endpoint_id)
        if not m.is_failure(message.status):
            raise BusError(BusFault.TL_RESULT_SUCCESS, f"connect to {message.service_id}: 0x{message.status:X}")
        if pair not in self._state.sockets:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"connect to {message.service_id}")
        self._state.sockets.remove(pair)
        self._effects.append(fx.TlConnectFailed(*pair, message.status))

    def _pause_response(self, _message: m.PauseResponse) -> None:
        self._effects.append(fx.PauseAnswered())

    # Parts

    def _wanted(self) -> FeatureFlags:
        return self.config.features

    def _contact(self) -> None:
        config, version = self.config, self.config.versions[self._state.attempt]
        info = config.interrupt_page if version < Version.V2_4 else 0
        if version >= Version.V5_0:
            info = VMBUS_SINT
        if version >= Version.V6_0:
            info |= int(self._wanted()) << 32
        plain = (int(version), config.target_message_vp, info, *config.monitor_pages)
        message = m.InitiateContact2(*plain, config.client_id) if version >= Version.V6_0 else m.InitiateContact(*plain)
        self._state.connection_id = MULTICLIENT_CONNECTION if version >= Version.V5_0 else MESSAGE_CONNECTION
        self._link.connection_id = self._state.connection_id
        self._post(message)

    def _step_down(self, below: Version | None = None) -> None:
        versions, state = self.config.versions, self._state
        state.attempt += 1
        while below is not None and state.attempt < len(versions) and versions[state.attempt] >= below:
            state.attempt += 1
        if state.attempt < len(versions):
            self._contact()
        else:
            self._give_up(0)

    def _give_up(self, connection_state: int) -> None:
        self._forget()
        self._effects.append(fx.ConnectFailed(connection_state))

    def _forget(self) -> None:
        fresh = GuestState()
        for name in GuestState.__slots__:
            setattr(self._state, name, getattr(fresh, name))
        self._operations.state, self._link.negotiated = self._state.channels, None

    def _negotiated(self) -> Negotiated | None:
        state = self._state
        if state.phase is not GuestPhase.CONNECTED or state.version is None:
            return None
        return Negotiated(state.version, state.features)

    def _check_connected(self) -> Negotiated:
        negotiated = self._negotiated()
        if negotiated is None:
            raise Refused(NtStatus.DEVICE_NOT_READY, f"the bus is {self._state.phase.value}", rule="2.5")
        return negotiated

    def _check_feature(self, feature: FeatureFlags) -> None:
        if not self._check_connected().features & feature:
            raise Refused(NtStatus.NOT_SUPPORTED, f"the host did not grant {feature.name}", rule="2.4")

    def _post(self, message: Message) -> None:
        self._operations.post(message)

    def _take(self) -> list[GuestEffect]:
        taken = self._effects[:]
        self._effects.clear()
        return taken

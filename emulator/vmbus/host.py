"""HostBus: the host's side of one machine's control conversation, in nothing but its bytes.

Synchronous and without a clock. Every input returns effects (``host_effects``), to be performed in order; what devices
and the machine around the bus answer comes back through further inputs, at once or later, in any order.

============== ======================================================================================================
state          meaning
============== ======================================================================================================
DISCONNECTED   nobody is there; initiate contact, and closing reserved channels, are legal
CONNECTING     the machine takes over what the guest announced; another contact or an unload waits for that
CONNECTED      everything the version and the features allow
DISCONNECTING  channels and page lists go back first, then the machine forgets the connection, then ``next_action``
============== ======================================================================================================

Errors of the guest are silent on the wire but for a few that have an answer; each becomes a ``Violation`` effect.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from emulator.vmbus.channel_states import ChannelInput, ChannelState
from emulator.vmbus.host_channels import HostChannels, Link
from emulator.vmbus.host_connection import HostConnection, NextAction
from emulator.vmbus.host_directory import HostDirectory
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    HostEffect,
    PlatformResult,
    ScanInterruptPage,
    SetInterruptBit,
    SignalDevice,
    SignalGuest,
    SynicTarget,
)
from emulator.vmbus.host_gpadls import HostGpadls
from emulator.vmbus.host_messages import HostMessages
from emulator.vmbus.host_save import HostState, check_restorable
from emulator.vmbus.host_view import BusView, view_of
from emulator.vmbus.message_types import MAX_PAYLOAD_BYTES, STATUS_OK, Version, is_failure
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.offers import OfferParameters
from emulator.vmbus.outbox import Outbox
from emulator.vmbus.plain_state import Plain, from_plain, to_plain
from emulator.vmbus.synic import (
    CONNECTION_ID_MASK,
    LEGACY_EVENT_CONNECTION,
    REDIRECTED_SINT,
    VMBUS_MESSAGE_TYPE,
    VMBUS_SINT,
    HvStatus,
    message_port,
)


class PostResult(NamedTuple):
    """What a hypercall returns to the guest at once, and what is to be done."""

    status: HvStatus
    effects: list[HostEffect]


class HostBus:
    """The host bus of one machine. See the module's docstring; ``config`` holds every limit and choice."""

    def __init__(self, config: BusConfig | None = None) -> None:
        self._start(config or BusConfig(), HostState())

    def _start(self, config: BusConfig, state: HostState) -> None:
        self.config = config
        self._state = state
        self._effects: list[HostEffect] = []
        self._link = Link()
        self._outbox = Outbox(state.outbox, self._effects, config.message_window)
        self._gpadls = HostGpadls(state.gpadls, config, self._outbox, self._effects)
        self._directory = HostDirectory(state.channels)
        self._channels = HostChannels(self._directory, self._link, config, self._gpadls, self._outbox, self._effects)
        self._connection = HostConnection(
            state.connection, self._link, config, self._channels, self._outbox, self._effects
        )
        self._messages = HostMessages(
            state,
            self._link,
            config,
            self._directory,
            self._channels,
            self._gpadls,
            self._connection,
            self._outbox,
            self._effects,
        )

    # Hypercalls

    def post_message(
        self, connection_id: int, payload: bytes, *, trusted: bool = False, message_type: int = VMBUS_MESSAGE_TYPE
    ) -> PostResult:
        """The guest posts a message. Windows: HvPostMessage. The status is the hypercall's, never the message's."""
        port = message_port(connection_id, self.config.vtl, self.config.has_multiclient_port)
        if port is None:
            return PostResult(HvStatus.INVALID_CONNECTION_ID, [])
        if len(payload) > MAX_PAYLOAD_BYTES or message_type != VMBUS_MESSAGE_TYPE:
            return PostResult(HvStatus.INVALID_PARAMETER, [])
        inbox = self._state.inbox
        if inbox or self._is_backlogged():
            if len(inbox) >= self.config.port_buffers:
                return PostResult(HvStatus.INSUFFICIENT_BUFFERS, [])
            inbox.append((port, bytes(payload), trusted))
        else:
            self._messages.receive(port, bytes(payload), trusted)
        return PostResult(HvStatus.SUCCESS, self._take())

    def signal_event(self, connection_id: int, flag: int = 0) -> PostResult:
        """The guest rings a doorbell. Windows: HvSignalEvent."""
        number = connection_id & CONNECTION_ID_MASK
        page = self._state.connection.interrupt_page
        if number == LEGACY_EVENT_CONNECTION and page is not None:
            return PostResult(HvStatus.SUCCESS, [ScanInterruptPage(page)])
        channel = self._directory.by_doorbell(number)
        if channel is None:
            return PostResult(HvStatus.INVALID_CONNECTION_ID, [])
        if flag:
            return PostResult(HvStatus.INVALID_PARAMETER, [])
        in_use = channel.state in (ChannelState.OPEN, ChannelState.OPEN_RESERVED)
        return PostResult(HvStatus.SUCCESS, [SignalDevice(channel.offer_key)] if in_use else [])

    def signal_channel(self, channel_id: int) -> list[HostEffect]:
        """A channel's bit was found in the guest's interrupt page (versions below 2.4)."""
        channel = self._directory.by_id(channel_id)
        return [SignalDevice(channel.offer_key)] if channel is not None and channel.state is ChannelState.OPEN else []

    def signal_guest(self, offer_key: int) -> list[HostEffect]:
        """The device rings the guest; nothing when the channel is not open or has its interrupts disabled."""
        channel = self._directory.by_key(offer_key)
        request = None if channel is None else channel.request
        if request is None or request.target_vp is None:
            return []
        page = self._state.connection.interrupt_page
        if page is not None and request.version < Version.V2_4:
            return [SetInterruptBit(page, request.channel_id), SignalGuest(0, VMBUS_SINT, 0)]
        sint = REDIRECTED_SINT if request.redirect_interrupt else VMBUS_SINT
        return [SignalGuest(request.target_vp, sint, request.event_flag)]

    def message_delivered(self, vp: int, sint: int) -> list[HostEffect]:
        """With a message window: one message to (vp, sint) has been taken by the guest."""
        self._outbox.delivered(SynicTarget(vp, sint))
        return self._finish()

    # Devices

    def add_offer(self, offer: OfferParameters) -> tuple[int, list[HostEffect]]:
        """A device offers a channel, now or whenever the guest asks; returns its offer key. Raises Refused."""
        key = self._channels.offer(offer)
        return key, self._take()

    def revoke_offer(self, offer_key: int) -> list[HostEffect]:
        """A device goes away; its key is dead from here on, and nothing more is asked of it."""
        self._channels.device_input(offer_key, ChannelInput.REVOKE)
        return self._finish()

    def device_opened(self, offer_key: int, status: int = STATUS_OK) -> list[HostEffect]:
        """Answer to OpenDevice; a negative status is the failure the guest will see."""
        event = ChannelInput.DEVICE_FAILED if is_failure(status) else ChannelInput.DEVICE_OPENED
        self._channels.device_input(offer_key, event, status)
        return self._finish()

    def device_closed(self, offer_key: int) -> list[HostEffect]:
        """Answer to CloseDevice."""
        self._channels.device_input(offer_key, ChannelInput.DEVICE_CLOSED)
        return self._finish()

    def modify_done(self, offer_key: int, status: int = STATUS_OK) -> list[HostEffect]:
        """Answer to ModifyDevice: no interrupt will arrive on the old processor any more."""
        self._channels.device_input(offer_key, ChannelInput.DEVICE_MODIFIED, status)
        return self._finish()

    def gpadl_accepted(self, offer_key: int, gpadl_id: int, status: int = STATUS_OK) -> list[HostEffect]:
        """Answer to GpadlOffered; a negative status refuses it."""
        channel = self._directory.by_key(offer_key)
        if channel is None:
            return [AnswerIgnored(offer_key, f"gpadl accepted 0x{gpadl_id:X}")]
        self._gpadls.answered(channel.slot, gpadl_id, offer_key, status)
        return self._finish()

    def gpadl_torn_down(self, offer_key: int, gpadl_id: int) -> list[HostEffect]:
        """Answer to GpadlTeardown."""
        channel = self._directory.by_key(offer_key)
        if channel is None:
            return [AnswerIgnored(offer_key, f"gpadl torn down 0x{gpadl_id:X}")]
        self._gpadls.torn_down(channel.slot, gpadl_id, offer_key, not channel.state.is_released)
        return self._finish()

    def modify_connection_done(self, result: PlatformResult | None = None) -> list[HostEffect]:
        """Answer to ModifyPlatform. Raises Misuse for monitor pages the guest did not ask for."""
        self._connection.platform_done(result or PlatformResult())
        return self._finish()

    def tl_connect_result(self, service_id: UUID, endpoint_id: UUID, success: bool) -> list[HostEffect]:
        """Answer to TlConnect. After a success, offer the channel (``hvsock_offer``)."""
        waiting = self._state.connecting_sockets
        if (service_id, endpoint_id) not in waiting:
            return [AnswerIgnored(None, f"tl connect {service_id}")]
        waiting.remove((service_id, endpoint_id))
        if not success:
            self._messages.refuse_socket(service_id, endpoint_id)
        return self._finish()

    # The machine

    def reset(self) -> list[HostEffect]:
        """The machine starts over: everything of the guest's goes, reserved channels too. Ends with ResetDone."""
        self._state.inbox.clear()
        self._state.connecting_sockets.clear()
        self._connection.disconnect(NextAction.RESET)
        return self._finish()

    def outstanding(self) -> list[HostEffect]:
        """What devices and the machine were asked and have not answered: to be asked again after a restore."""
        return [*self._connection.outstanding(), *self._channels.outstanding()]

    def key_of(self, channel_id: int) -> int | None:
        """The offer key of the channel the guest knows by this id; None when it knows none."""
        channel = self._directory.by_id(channel_id)
        return None if channel is None else channel.offer_key

    def save(self) -> Plain:
        """Everything this bus knows, as plain data."""
        return to_plain(self._state)

    @classmethod
    def restore(cls, data: Plain, config: BusConfig | None = None) -> HostBus:
        """A bus that goes on where the saved one stood. Raises Refused for data that does not fit or exceeds the limit.

        Its devices keep their offer keys. Ask ``outstanding`` afterwards; revoke the offers whose devices are gone.
        """
        config = config or BusConfig()
        state = from_plain(HostState, data)
        check_restorable(state, config.restore_limit)
        bus = cls.__new__(cls)
        bus._start(config, state)
        bus._connection.update_link()
        return bus

    def view(self) -> BusView:
        """What there is, for people and tools."""
        return view_of(self._state)

    # Ends of inputs

    def _is_backlogged(self) -> bool:
        return self._outbox.backlog >= self.config.outgoing_backlog

    def _finish(self) -> list[HostEffect]:
        self._messages.settle()
        inbox = self._state.inbox
        while inbox and not self._is_backlogged():
            self._messages.receive(*inbox.pop(0))
        return self._take()

    def _take(self) -> list[HostEffect]:
        taken = self._effects[:]
        self._effects.clear()
        return taken

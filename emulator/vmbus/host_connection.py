"""The host's connection: contact, version response, disconnect, and what happens next (rules 2.4 and 2.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from emulator.status import Misuse
from emulator.vmbus.channel_states import ChannelInput
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.host_channels import HostChannels, Link
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    Disconnected,
    ForwardContact,
    HostEffect,
    ModifyPlatform,
    MonitorPages,
    PlatformChange,
    PlatformResult,
    ResetDone,
    SynicTarget,
)
from emulator.vmbus.message_types import (
    NO_GUID,
    AllOffersDelivered,
    ConnectResult,
    FeatureFlags,
    ModifyConnection,
    ModifyConnectionResponse,
    Negotiated,
    UnloadComplete,
    Version,
)
from emulator.vmbus.negotiation import (
    LOCAL_FEATURES,
    UNSUPPORTED,
    BusConfig,
    ContactRequest,
    choose_version,
    version_response,
)
from emulator.vmbus.outbox import Outbox
from emulator.vmbus.synic import SINT_COUNT, VMBUS_SINT


class Phase(Enum):
    """Where the connection is."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"


class NextAction(Enum):
    """What follows once the connection is gone. Nothing replaces a reset; otherwise the latest wins."""

    NONE = "none"
    UNLOAD = "unload"
    RECONNECT = "reconnect"
    RESET = "reset"


class PlatformReset(Enum):
    """How far the machine is with forgetting the connection."""

    NOT_ASKED = "not asked"
    ASKED = "asked"
    DONE = "done"


@dataclass(slots=True)
class ConnectionState:
    """What is known of the connection. ``contact`` belongs to a RECONNECT."""

    phase: Phase = Phase.DISCONNECTED
    version: Version | None = None
    features: FeatureFlags = FeatureFlags.NONE
    trusted: bool = False
    interrupt_page: int | None = None
    monitor_pages: MonitorPages | None = None
    server_owns_pages: bool = False
    client_id: UUID = NO_GUID
    offers_sent: bool = False
    is_modifying: bool = False
    next_action: NextAction = NextAction.NONE
    contact: ContactRequest | None = None
    platform_reset: PlatformReset = PlatformReset.NOT_ASKED


class HostConnection:
    """The connection of one machine. Keeps ``link`` true for the channels."""

    def __init__(
        self,
        state: ConnectionState,
        link: Link,
        config: BusConfig,
        channels: HostChannels,
        outbox: Outbox,
        effects: list[HostEffect],
    ) -> None:
        self.state = state
        self._link, self._config, self._channels = link, config, channels
        self._outbox, self._effects = outbox, effects

    def update_link(self) -> None:
        """Tell the channels what they may know."""
        state, link = self.state, self._link
        connected = state.phase is Phase.CONNECTED and state.version is not None
        link.negotiated = Negotiated(state.version, state.features) if connected and state.version else None
        link.offers_sent = connected and state.offers_sent
        link.has_monitor_pages = connected and state.monitor_pages is not None

    def contact(self, request: ContactRequest, payload: bytes) -> None:
        """Message 14. Raises BusError when not even a refusal can be delivered."""
        if request.target_vtl != self._config.vtl:
            self._effects.append(ForwardContact(request.target_vtl, payload))
            return
        if request.target_sint != VMBUS_SINT:
            if request.target_sint >= SINT_COUNT:
                raise BusError(BusFault.INVALID_TARGET_SINT, f"initiate contact for SINT {request.target_sint}")
            self._outbox.send_to(SynicTarget(request.target_message_vp, request.target_sint), UNSUPPORTED)
            return
        self.disconnect(NextAction.RECONNECT, request)

    def disconnect(self, action: NextAction, contact: ContactRequest | None = None) -> None:
        """End the connection, then do ``action``. Completes in ``advance``, perhaps much later."""
        state = self.state
        if state.next_action is NextAction.RESET:
            return
        state.next_action, state.contact = action, contact
        is_reset = action is NextAction.RESET
        if state.phase is not Phase.CONNECTING:  # that finishes first
            self._leave(is_reset)
        elif is_reset:
            self._channels.release_all(ChannelInput.RESET)

    def _leave(self, is_reset: bool) -> None:
        state = self.state
        if state.phase is Phase.CONNECTED:
            state.phase, state.platform_reset = Phase.DISCONNECTING, PlatformReset.NOT_ASKED
        self.update_link()
        self._channels.release_all(ChannelInput.RESET if is_reset else ChannelInput.DISCONNECT)
        if state.phase is Phase.DISCONNECTED:
            # Only a reset can have something to wait for here: reserved channels.
            state.phase = Phase.DISCONNECTING
            nothing_left = not is_reset or self._channels.all_released(include_reserved=True)
            state.platform_reset = PlatformReset.DONE if nothing_left else PlatformReset.NOT_ASKED

    def advance(self) -> None:
        """Go on with a disconnect as far as channels, page lists and the machine allow."""
        state = self.state
        while state.phase is Phase.DISCONNECTING:
            if not self._channels.all_released(include_reserved=state.next_action is NextAction.RESET):
                return
            if state.platform_reset is PlatformReset.NOT_ASKED:
                state.platform_reset = PlatformReset.ASKED
                self._effects.append(ModifyPlatform(PlatformChange.RESET))
            if state.platform_reset is PlatformReset.ASKED:
                return
            self._disconnected()

    def _disconnected(self) -> None:
        state = self.state
        action, contact, had_version = state.next_action, state.contact, state.version is not None
        fresh = ConnectionState()
        for name in ConnectionState.__slots__:
            setattr(state, name, getattr(fresh, name))
        self.update_link()
        if had_version:
            self._effects.append(Disconnected())
        match action:
            case NextAction.RESET:
                self._outbox.clear()
                self._effects.append(ResetDone())
            case NextAction.UNLOAD:
                self._outbox.send(UnloadComplete())
            case NextAction.RECONNECT:
                assert contact is not None
                self._begin(contact)
            case NextAction.NONE:
                pass

    def _begin(self, request: ContactRequest) -> None:
        negotiated = choose_version(request, self._config)
        if negotiated is None:
            # Whoever asked listens where it said, whatever version it asked for.
            if self._config.refuse_to_requested_vp:
                self._outbox.state.target_vp = request.target_message_vp
            self._outbox.send(UNSUPPORTED)
            return
        if request.half_monitor_pages:
            self._outbox.state.target_vp = request.target_message_vp
            self._outbox.send(version_response(negotiated, self._config, ConnectResult.UNKNOWN_FAILURE))
            return
        state = self.state
        state.phase = Phase.CONNECTING
        state.version, state.features = negotiated
        state.trusted, state.client_id = request.trusted, request.client_id
        state.interrupt_page = request.interrupt_page
        state.monitor_pages = None if self._config.require_server_monitor_pages else request.monitor_pages
        self._outbox.state.target_vp = request.target_message_vp
        self._effects.append(self._connect_request())

    def _connect_request(self) -> ModifyPlatform:
        state = self.state
        return ModifyPlatform(
            PlatformChange.CONNECT,
            version=state.version,
            features=state.features,
            target_message_vp=self._outbox.state.target_vp,
            interrupt_page=state.interrupt_page,
            monitor_pages=state.monitor_pages,
            client_id=state.client_id,
        )

    def platform_done(self, result: PlatformResult) -> None:
        """The machine answers a ModifyPlatform. Raises Misuse for monitor pages that cannot be given."""
        state = self.state
        if state.phase is Phase.CONNECTING:
            self._finish_connecting(result)
        elif state.phase is Phase.DISCONNECTING and state.is_modifying:
            state.is_modifying = False  # answers come in order: this one was asked for before the reset
        elif state.phase is Phase.DISCONNECTING and state.platform_reset is PlatformReset.ASKED:
            state.platform_reset = PlatformReset.DONE
        elif state.phase is Phase.CONNECTED and state.is_modifying:
            state.is_modifying = False
            self._outbox.send(ModifyConnectionResponse(result.state))
        else:
            self._effects.append(AnswerIgnored(None, "modify connection done"))

    def _finish_connecting(self, result: PlatformResult) -> None:
        state, pages = self.state, result.monitor_pages
        assert state.version is not None
        wanted = FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
        if pages is not None and (not state.features & wanted or not pages.child_to_parent):
            raise Misuse("monitor pages of the server's own need the guest's request and a child-to-parent page")
        state.features &= (result.features | LOCAL_FEATURES) & ~wanted
        if pages is not None:
            state.features |= wanted
            state.monitor_pages, state.server_owns_pages = pages, True
        action, contact = state.next_action, state.contact
        worked = result.supported and result.state is ConnectResult.SUCCESSFUL
        if action is not NextAction.RESET:  # after a reset nobody waits for the answer
            negotiated = Negotiated(state.version, state.features)
            answer = version_response(negotiated, self._config, result.state, pages)
            self._outbox.send(answer if result.supported else UNSUPPORTED)
        state.phase = Phase.CONNECTED if worked else Phase.DISCONNECTED
        state.version = state.version if worked else None
        self.update_link()
        if action is not NextAction.NONE:
            state.next_action = NextAction.NONE
            self.disconnect(action, contact)
        elif not worked:
            self._disconnected()

    def offers_requested(self) -> None:
        """Message 3. Raises BusError the second time."""
        if self.state.offers_sent:
            raise BusError(BusFault.OFFERS_ALREADY_SENT, "request offers")
        self.state.offers_sent = True
        self.update_link()
        self._channels.offer_all()
        self._outbox.send(AllOffersDelivered())

    def modify(self, message: ModifyConnection) -> None:
        """Message 25. Raises BusError after answering with a failure."""
        state = self.state
        p2c, c2p = message.parent_to_child_page, message.child_to_parent_page
        if state.is_modifying or state.server_owns_pages or bool(p2c) != bool(c2p):
            self._outbox.send(ModifyConnectionResponse(ConnectResult.UNKNOWN_FAILURE))
            raise BusError(BusFault.MODIFY_CONNECTION_REFUSED, f"modify connection to pages 0x{p2c:X} and 0x{c2p:X}")
        state.is_modifying = True
        state.monitor_pages = MonitorPages(p2c, c2p) if p2c else None
        self.update_link()
        self._effects.append(ModifyPlatform(PlatformChange.MODIFY, monitor_pages=state.monitor_pages))

    def outstanding(self) -> Iterator[HostEffect]:
        """What the machine has been asked and has not answered."""
        state = self.state
        if state.phase is Phase.CONNECTING:
            yield self._connect_request()
        if state.is_modifying:
            yield ModifyPlatform(PlatformChange.MODIFY, monitor_pages=state.monitor_pages)
        if state.phase is Phase.DISCONNECTING and state.platform_reset is PlatformReset.ASKED:
            yield ModifyPlatform(PlatformChange.RESET)

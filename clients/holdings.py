"""What one client holds of the daemon: its offers, channels and addresses, and the buses it is the guest of. Pure."""

from __future__ import annotations

import json

from clients.bus_inbox import BusState
from clients.call_table import CallTable
from clients.calls import RequestFailed
from clients.inbox import AddressState, ChannelState, ConnectionState, EndState, Inbox, OfferState
from emulator.choice import chosen
from emulator.status import EmulatorError, NtStatus, PeerViolation
from emulator.vmbus.profile import ChannelProfile, EndpointLimits, KmclProfile
from emulator.wire.schema import ADDRESS_WINDOW, CHANNEL_CLOSE, CHANNEL_DAMAGED, CHANNEL_WINDOW

# A sentence on the wire has 1,024 bytes.
MOST_OF_A_REASON = 1000


class Holdings(CallTable):
    """The tables of what is open, and how each of it ends."""

    def __init__(self) -> None:
        super().__init__()
        self._channels: dict[int, EndState] = {}
        self._attached: list[EndState] = []
        self._offers: dict[int, OfferState] = {}
        self._addresses: dict[int, AddressState] = {}
        self._connections: dict[int, ConnectionState] = {}
        self._contexts = 0
        self._buses: dict[int, BusState] = {}
        self._profiles: dict[int, ChannelProfile] = {}

    # ---- opened

    def add_offer(self, state: OfferState) -> None:
        """An offer was made: its openings will come."""
        self._offers[state.number] = state

    def add_channel(self, state: EndState) -> None:
        """A channel was opened."""
        if not isinstance(state, ChannelState):
            self._attached.append(state)
        self._channels[state.number] = state

    def add_address(self, state: AddressState) -> None:
        """An address was opened."""
        self._addresses[state.number] = state

    def new_context(self) -> int:
        """A ConnectionContext no other endpoint of this client has."""
        self._contexts += 1
        return self._contexts

    def add_connection(self, state: ConnectionState) -> None:
        """A connection endpoint was opened."""
        self._connections[state.number] = state

    def drop_connection(self, state: ConnectionState) -> None:
        """A connection endpoint was closed here."""
        self._connections.pop(state.number, None)
        self._close_inbox(state, NtStatus.FILE_CLOSED, "the connection was closed")

    def add_bus(self, state: BusState) -> None:
        """This client is the bus guest of a machine."""
        self._buses[state.number] = state

    def take_attached(self) -> list[EndState]:
        """Direct channels that have begun since the last time: somebody has to listen to their doorbells."""
        attached, self._attached = self._attached, []
        return attached

    def add_profile(self, machine: int, document: str) -> None:
        """What the direct ends of a machine shall do. Raises PeerViolation for what is no profile."""
        try:
            told = json.loads(document)
            profile = ChannelProfile(chosen(KmclProfile, told["kmcl"]), chosen(EndpointLimits, told["channel"]))
        except (ValueError, KeyError, TypeError, AttributeError, EmulatorError) as error:
            raise PeerViolation(f"the profile of machine {machine} cannot be used: {error!r}") from None
        self._profiles[machine] = profile

    def profile_of(self, machine: int) -> ChannelProfile:
        """What the direct ends of a machine are made with."""
        return self._profiles.get(machine, ChannelProfile())

    # ---- over

    def drop_bus(self, state: BusState, status: NtStatus, reason: str) -> None:
        """It is not any more."""
        self._buses.pop(state.number, None)
        state.close(status, reason)
        self._touched += state.messages, state.events

    def drop_offer(
        self, state: OfferState, status: NtStatus = NtStatus.CANCELLED, reason: str = "the offer was rescinded"
    ) -> None:
        """An offer was taken back, here or by the daemon."""
        self._offers.pop(state.number, None)
        state.close(status, reason)
        self._touched.append(state)

    def drop_address(self, state: AddressState) -> None:
        """An address was closed here."""
        self._addresses.pop(state.number, None)
        self._close_inbox(state, NtStatus.ADDRESS_CLOSED, "the address was closed")

    def drop_channel(self, state: EndState, status: NtStatus, reason: str) -> None:
        """A channel is closed: here, or by the other side."""
        self._channels.pop(state.number, None)
        if isinstance(state, Inbox):
            self._close_inbox(state, status, reason)
        else:
            state.close(status, reason)
            self._touched.append(state)
        if state.offer is not None:
            state.offer.closed_opening(state)
            self._touched.append(state.offer)

    def broke(self, state: EndState, reason: str) -> None:
        """The rings of a direct channel are damaged: it is closed."""
        if state.closed is None:
            self.notify(CHANNEL_DAMAGED, state.number, reason[:MOST_OF_A_REASON])
            self.call(CHANNEL_CLOSE, state.number)
            self.drop_channel(state, NtStatus.DEVICE_REMOVED, reason)

    def _close_inbox(self, inbox: Inbox, status: NtStatus, reason: str) -> None:
        inbox.close(status, reason)
        self._touched.append(inbox)
        self._end_lane(inbox, RequestFailed(status, reason))

    def _close_all(self, reason: str) -> None:
        """The connection is gone, and everything with it."""
        for state in list(self._channels.values()):
            self.drop_channel(state, NtStatus.DEVICE_REMOVED, reason)
        for inbox in self._addresses.values():
            self._close_inbox(inbox, NtStatus.DEVICE_REMOVED, reason)
        for connection in self._connections.values():
            self._close_inbox(connection, NtStatus.DEVICE_REMOVED, reason)
        for bus in list(self._buses.values()):
            self.drop_bus(bus, NtStatus.DEVICE_REMOVED, reason)
        for offer in self._offers.values():
            offer.close(NtStatus.DEVICE_REMOVED, reason)
            self._touched.append(offer)

    # ---- room

    def taken(self, inbox: Inbox, cost: int) -> None:
        """Something of that cost was taken from an inbox: return its room to the daemon when a portion is due."""
        portion = inbox.receives.drain(1, cost)
        if portion is not None and inbox.closed is None:
            method = ADDRESS_WINDOW if isinstance(inbox, AddressState) else CHANNEL_WINDOW
            self.notify(method, inbox.number, *portion)

"""Where the host's channels are found: by device, by the guest's id, by identity, by doorbell. Gives ids out too."""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.status import Misuse
from emulator.vmbus.channel_states import ChannelState
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.host_effects import OpenRequest, SynicTarget
from emulator.vmbus.host_tickets import OpenTicket
from emulator.vmbus.offers import MONITOR_IDS, OfferIdentity, OfferParameters, lowest_free
from emulator.vmbus.synic import MAX_CHANNELS


@dataclass(slots=True)
class Channel:
    """One channel. ``channel_id`` and ``monitor_id`` hold while the guest knows it; ``ticket`` while it is in use.

    It keeps its slot from its first offer until it is forgotten. The offer key names the device behind it: when a
    revoked device is offered again before the guest let go of the id, the slot stays and the key is new, so that late
    answers of the old device are recognised and ignored.
    """

    slot: int
    offer_key: int
    offer: OfferParameters
    state: ChannelState = ChannelState.RELEASED
    channel_id: int | None = None
    monitor_id: int | None = None
    owns_monitor: bool = False  # the id is ours to free; a device that came back may have changed its wish since
    ticket: OpenTicket | None = None
    reopen_ticket: OpenTicket | None = None
    request: OpenRequest | None = None
    reserved_target: SynicTarget | None = None
    is_modifying: bool = False
    next_target_vp: int | None = None

    def stop_using(self) -> None:
        """Nobody uses the ring any more."""
        self.request = self.ticket = self.reserved_target = None
        self.is_modifying, self.next_target_vp = False, None


@dataclass(slots=True)
class ChannelsState:
    """Every channel of a bus, by slot."""

    channels: dict[int, Channel] = field(default_factory=dict)
    next_key: int = 1


class HostDirectory:
    """The channels of one machine and every way to name one; all of it follows from the state it is given."""

    def __init__(self, state: ChannelsState) -> None:
        self.state = state
        channels = list(state.channels.values())
        self._by_key = {c.offer_key: c for c in channels if c.state is not ChannelState.REVOKED}
        self._by_id = {c.channel_id: c for c in channels if c.channel_id is not None}
        self._by_identity: dict[OfferIdentity, Channel] = {c.offer.identity: c for c in channels}
        self._monitor_ids = {c.monitor_id for c in channels if c.monitor_id is not None and c.owns_monitor}
        self._doorbells = {
            c.request.connection_id: c for c in channels if c.request is not None and not c.state.is_released
        }

    def all(self) -> list[Channel]:
        """Every channel, oldest offer first."""
        return list(self.state.channels.values())

    def __len__(self) -> int:
        return len(self.state.channels)

    def by_key(self, offer_key: int) -> Channel | None:
        """The channel behind an offer key; None once that device was revoked. Raises Misuse for a key never issued."""
        if not 0 < offer_key < self.state.next_key:
            raise Misuse(f"offer key {offer_key} was never given out")
        return self._by_key.get(offer_key)

    def by_id(self, channel_id: int) -> Channel | None:
        """The channel the guest knows by this id."""
        return self._by_id.get(channel_id)

    def named(self, channel_id: int) -> Channel:
        """The channel a message names. Raises BusError when there is none the guest may name."""
        channel = self._by_id.get(channel_id)
        if channel is None:
            raise BusError(BusFault.UNKNOWN_CHANNEL_ID, f"channel {channel_id}")
        return channel

    def by_identity(self, identity: OfferIdentity) -> Channel | None:
        """The channel with these GUIDs and this sub-channel index."""
        return self._by_identity.get(identity)

    def by_doorbell(self, connection_id: int) -> Channel | None:
        """The channel in use whose doorbell this is."""
        return self._doorbells.get(connection_id)

    def new_key(self) -> int:
        """A number no device has had."""
        self.state.next_key += 1
        return self.state.next_key - 1

    def add(self, offer: OfferParameters) -> Channel:
        """A new channel for a new device."""
        key = self.new_key()
        channel = Channel(slot=key, offer_key=key, offer=offer)
        self.state.channels[key] = self._by_key[key] = self._by_identity[offer.identity] = channel
        return channel

    def replace_device(self, channel: Channel, offer: OfferParameters) -> None:
        """The same device came back while the guest still holds the id."""
        channel.offer, channel.offer_key = offer, self.new_key()
        self._by_key[channel.offer_key] = channel

    def retire_key(self, channel: Channel) -> None:
        """The device is gone; its answers no longer find the channel."""
        self._by_key.pop(channel.offer_key, None)

    def forget(self, channel: Channel) -> None:
        """The channel is gone for good."""
        self.retire_key(channel)
        del self.state.channels[channel.slot]
        del self._by_identity[channel.offer.identity]

    def assign_ids(self, channel: Channel) -> None:
        """The lowest free channel id, and a monitor id."""
        channel.channel_id = lowest_free(self._by_id, 1, MAX_CHANNELS)
        assert channel.channel_id is not None  # there are never more channels than ids
        self._by_id[channel.channel_id] = channel
        self.assign_monitor(channel)

    def assign_monitor(self, channel: Channel) -> None:
        """The lowest free monitor id for an offer that uses one; a preset id is not counted as taken."""
        self._free_monitor(channel)
        channel.monitor_id = channel.offer.preset_monitor_id
        if channel.offer.uses_monitor:
            channel.monitor_id = lowest_free(self._monitor_ids, 0, MONITOR_IDS)
            if channel.monitor_id is not None:
                self._monitor_ids.add(channel.monitor_id)
                channel.owns_monitor = True

    def free_ids(self, channel: Channel) -> None:
        """The guest let go of the channel."""
        if channel.channel_id is not None:
            del self._by_id[channel.channel_id]
        self._free_monitor(channel)
        channel.channel_id = channel.monitor_id = None

    def _free_monitor(self, channel: Channel) -> None:
        if channel.monitor_id is not None and channel.owns_monitor:
            self._monitor_ids.discard(channel.monitor_id)
        channel.owns_monitor = False

    def connect_doorbell(self, channel: Channel, request: OpenRequest) -> None:
        """The guest may ring from now on. Raises BusError when another channel in use has this doorbell."""
        if request.connection_id in self._doorbells:
            raise BusError(
                BusFault.INVALID_SIGNAL, f"connection 0x{request.connection_id:X}, the doorbell of another open channel"
            )
        self._doorbells[request.connection_id] = channel

    def disconnect_doorbell(self, channel: Channel) -> None:
        """The guest may no longer ring."""
        if channel.request is not None and self._doorbells.get(channel.request.connection_id) is channel:
            del self._doorbells[channel.request.connection_id]

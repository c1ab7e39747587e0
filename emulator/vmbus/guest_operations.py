"""What a guest does with its channels, step by step: open, close, page lists, rescind and release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.memory import GpaRange
from emulator.status import Misuse, NtStatus, Refused
from emulator.vmbus import guest_effects as fx
from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusError, BusFault
from emulator.vmbus.gpadl import build_gpadl_messages
from emulator.vmbus.guest_channels import (
    GuestChannel,
    GuestChannelsState,
    GuestChannelState,
    GuestGpadl,
    GuestGpadlState,
    GuestInput,
    OpenParameters,
)
from emulator.vmbus.guest_effects import GuestEffect
from emulator.vmbus.message_types import FeatureFlags, Message, Negotiated, Version
from emulator.vmbus.messages import pack_message
from emulator.vmbus.offers import lowest_free
from emulator.vmbus.synic import MAX_CHANNELS

S, E, G = GuestChannelState, GuestInput, GuestGpadlState
_SIGNAL = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS
_LONG_OPEN = _SIGNAL | FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION


@dataclass(slots=True)
class GuestLink:
    """What channels need to know of the connection; the bus keeps it up to date."""

    negotiated: Negotiated | None
    connection_id: int


class GuestOperations:
    """The channels of one connection. Appends its effects to the list it is given."""

    def __init__(self, state: GuestChannelsState, link: GuestLink, effects: list[GuestEffect]) -> None:
        self.state = state
        self._link, self._effects = link, effects

    def post(self, message: Message) -> None:
        """Have a message posted where the host listens now."""
        self._effects.append(fx.PostMessage(self._link.connection_id, pack_message(message)))

    # Our own side

    def open(
        self, channel_id: int, ring: Sequence[GpaRange], downstream_page_offset: int, target_vp: int, user_data: bytes
    ) -> int:
        """Start opening; returns the ticket. Raises Refused or Misuse."""
        state = self.state
        channel = state.usable(channel_id)
        channel.check(E.OPEN)
        if len(user_data) > m.USER_DATA_BYTES:
            raise Misuse(f"an open has at most {m.USER_DATA_BYTES} bytes of user data, not {len(user_data)}")
        gpadl_id = self._create(channel_id, ring, is_ring=True)
        ticket = state.next_ticket
        state.next_ticket += 1
        user_data = user_data.ljust(m.USER_DATA_BYTES, b"\0")
        channel.opening = OpenParameters(ticket, gpadl_id, downstream_page_offset, target_vp, user_data)
        channel.close_wanted, channel.open_status = False, m.STATUS_FAILED
        channel.step(E.OPEN)
        return ticket

    def close(self, channel_id: int) -> None:
        """Start closing, or stop opening. Raises Refused."""
        channel = self.state.held(channel_id)
        channel.check(E.CLOSE)
        channel.close_wanted = True
        was_open = channel.state is S.OPEN
        channel.step(E.CLOSE)
        if was_open:
            self._close_open(channel)

    def create_gpadl(self, channel_id: int, ranges: Sequence[GpaRange]) -> int:
        """Start creating a page list; returns its id. Raises Refused or Misuse."""
        self.state.usable(channel_id)
        return self._create(channel_id, ranges, is_ring=False)

    def teardown(self, gpadl_id: int) -> None:
        """Start taking a page list back. Raises Refused."""
        gpadl = self.state.gpadls.get(gpadl_id)
        if gpadl is None or gpadl.is_ring or gpadl.is_doomed or gpadl.state is G.TEARING_DOWN:
            raise Refused(NtStatus.INVALID_PARAMETER, f"GPADL 0x{gpadl_id:X} cannot be torn down", rule="2.7")
        self._take_back(gpadl)

    def modify(self, channel_id: int, target_vp: int) -> None:
        """Change an open channel's processor. Raises Refused."""
        negotiated, channel = self._connection(), self.state.usable(channel_id)
        if negotiated.version < Version.V4_1:
            raise Refused(NtStatus.NOT_SUPPORTED, f"modify channel needs version 4.1, not {negotiated.version}")
        no_interrupts = channel.opening is None or channel.opening.target_vp == m.DISABLE_INTERRUPTS_VP
        if channel.state is not S.OPEN or channel.is_modifying or no_interrupts or target_vp == m.DISABLE_INTERRUPTS_VP:
            raise Refused(
                NtStatus.INVALID_DEVICE_STATE,
                f"channel {channel_id} must be open with interrupts, and one modify at a time may run",
                rule="2.6",
            )
        self.post(m.ModifyChannel(channel_id, target_vp))
        if negotiated.version >= Version.V5_3:
            channel.is_modifying = True
        else:
            self._effects.append(fx.ChannelModified(channel_id, m.STATUS_OK))  # older hosts never answer

    def release(self, channel_id: int) -> None:
        """Start giving a channel back. Raises Refused when that has been asked for."""
        channel = self.state.held(channel_id)
        if channel.release_wanted:
            raise Refused(NtStatus.DELETE_PENDING, f"channel {channel_id} is being released already")
        channel.release_wanted = True
        if channel.state in (S.OPEN, S.OPENING, S.CREATING_RING):
            self.close(channel_id)
        for gpadl in self._lists_of(channel_id):
            if not gpadl.is_ring and not gpadl.is_doomed and gpadl.state is not G.TEARING_DOWN:
                self._take_back(gpadl)
        self._try_release(channel)

    def channel_of_flag(self, event_flag: int) -> int | None:
        """The channel in use with this event flag."""
        return next(
            (c.channel_id for c in self.state.channels.values() if c.event_flag == event_flag and c.state is S.OPEN),
            None,
        )

    # The host's side

    def offered(self, message: m.OfferChannel) -> None:
        """Message 1, with an id that is free."""
        if message.channel_id in self.state.released_ids:
            self.state.released_ids.remove(message.channel_id)
        self.state.channels[message.channel_id] = GuestChannel(message)
        self._effects.append(fx.OfferArrived(message))

    def rescinded(self, message: m.RescindChannelOffer) -> None:
        """Message 2. Raises BusError."""
        if message.channel_id in self.state.released_ids:
            self.state.released_ids.remove(message.channel_id)
            return  # it crossed our release
        channel = self.state.named(message.channel_id)
        if channel.is_rescinded:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"second rescind of channel {message.channel_id}")
        was_opening = channel.state is S.OPENING
        channel.is_rescinded, channel.is_modifying = True, False
        channel.step(E.RESCIND)
        self._effects.append(fx.OfferRescinded(message.channel_id))
        if was_opening:
            self._take_ring_back(channel)

    def open_result(self, message: m.OpenChannelResult) -> None:
        """Message 6. Raises BusError."""
        channel = self.state.named(message.channel_id)
        opening = channel.opening
        if opening is None or opening.ticket & 0xFFFFFFFF != message.open_id:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"open result {message.open_id} of channel {message.channel_id}")
        if m.is_failure(message.status):
            channel.step(E.OPEN_FAILED)
            channel.open_status = message.status
            self._take_ring_back(channel)
        elif channel.close_wanted:
            channel.step(E.OPENED_TOO_LATE)
            self._close_open(channel)
        else:
            channel.step(E.OPENED)
            self._effects.append(self._opened(channel, message.status))

    def gpadl_created(self, message: m.GpadlCreated) -> None:
        """Message 10. Raises BusError."""
        gpadl = self.state.gpadl(message.gpadl_id, G.CREATING)
        if gpadl.channel_id != message.channel_id:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"GPADL 0x{message.gpadl_id:X} on channel {message.channel_id}")
        channel = self.state.named(gpadl.channel_id)
        if m.is_failure(message.status):
            del self.state.gpadls[gpadl.gpadl_id]
        else:
            gpadl.state = G.CREATED
        if gpadl.is_ring:
            self._ring_created(channel, message.status)
        elif gpadl.is_doomed:
            if gpadl.state is G.CREATED:
                self._take_back(gpadl)
            else:
                self._effects.append(fx.GpadlGone(gpadl.channel_id, gpadl.gpadl_id))
        else:
            self._effects.append(fx.GpadlReady(gpadl.channel_id, gpadl.gpadl_id, message.status))
        self._try_release(channel)

    def gpadl_torndown(self, message: m.GpadlTorndown) -> None:
        """Message 12. Raises BusError."""
        gpadl = self.state.gpadl(message.gpadl_id, G.TEARING_DOWN)
        channel = self.state.named(gpadl.channel_id)
        del self.state.gpadls[gpadl.gpadl_id]
        if gpadl.is_ring:
            failed = channel.state is S.FAILING
            channel.step(E.RING_GONE)
            self._finish_use(channel, failed)
        else:
            self._effects.append(fx.GpadlGone(gpadl.channel_id, gpadl.gpadl_id))
        self._try_release(channel)

    def modify_response(self, message: m.ModifyChannelResponse) -> None:
        """Message 24. Raises BusError."""
        channel = self.state.named(message.channel_id)
        if not channel.is_modifying:
            raise BusError(BusFault.UNEXPECTED_ANSWER, f"modify response of channel {message.channel_id}")
        channel.is_modifying = False
        self._effects.append(fx.ChannelModified(message.channel_id, message.status))

    # Steps

    def _connection(self) -> Negotiated:
        if self._link.negotiated is None:
            raise Refused(NtStatus.DEVICE_NOT_READY, "the bus is not connected", rule="2.5")
        return self._link.negotiated

    def _create(self, channel_id: int, ranges: Sequence[GpaRange], is_ring: bool) -> int:
        state = self.state
        gpadl_id = state.next_gpadl_id
        while gpadl_id in state.gpadls:
            gpadl_id = (gpadl_id + 1) & 0xFFFFFFFF
        messages = build_gpadl_messages(channel_id, gpadl_id, ranges)
        state.next_gpadl_id = (gpadl_id + 1) & 0xFFFFFFFF
        state.gpadls[gpadl_id] = GuestGpadl(gpadl_id, channel_id, is_ring)
        for message in messages:
            self.post(message)
        return gpadl_id

    def _take_back(self, gpadl: GuestGpadl) -> None:
        gpadl.is_doomed = True
        if gpadl.state is G.CREATED:
            gpadl.state = G.TEARING_DOWN
            self.post(m.GpadlTeardown(gpadl.channel_id, gpadl.gpadl_id))

    def _take_ring_back(self, channel: GuestChannel) -> None:
        assert channel.opening is not None
        self._take_back(self.state.gpadls[channel.opening.ring_gpadl_id])

    def _close_open(self, channel: GuestChannel) -> None:
        channel.is_modifying = False
        if not channel.is_rescinded:
            self.post(m.CloseChannel(channel.channel_id))
        self._take_ring_back(channel)

    def _ring_created(self, channel: GuestChannel, status: int) -> None:
        if m.is_failure(status):
            channel.step(E.RING_REFUSED)
            channel.open_status = status
            self._finish_use(channel, failed=True)
        elif channel.is_rescinded or channel.close_wanted:
            channel.step(E.RING_READY_TOO_LATE)
            self._take_ring_back(channel)
        else:
            channel.step(E.RING_READY)
            self._post_open(channel)

    def _post_open(self, channel: GuestChannel) -> None:
        opening, features = channel.opening, self._connection().features
        assert opening is not None
        channel.event_flag = channel.channel_id
        if features & _SIGNAL:
            flag = lowest_free(self.state.event_flags, 1, MAX_CHANNELS)
            assert flag is not None  # there are as many flags as channel ids
            self.state.event_flags.append(flag)
            channel.event_flag = flag
        plain = (
            channel.channel_id,
            opening.ticket & 0xFFFFFFFF,
            opening.ring_gpadl_id,
            opening.target_vp,
            opening.downstream_page_offset,
            opening.user_data,
        )
        if features & _LONG_OPEN:
            self.post(m.OpenChannel2(*plain, channel.offer.connection_id, channel.event_flag, 0))
        else:
            self.post(m.OpenChannel(*plain))

    def _opened(self, channel: GuestChannel, status: int) -> fx.ChannelOpened:
        assert channel.opening is not None
        return fx.ChannelOpened(
            channel.opening.ticket, channel.channel_id, status, channel.offer.connection_id, channel.event_flag
        )

    def _finish_use(self, channel: GuestChannel, failed: bool) -> None:
        if failed and not channel.close_wanted:
            self._effects.append(self._opened(channel, channel.open_status))
        else:
            self._effects.append(fx.ChannelClosed(channel.channel_id))
        if channel.event_flag in self.state.event_flags:
            self.state.event_flags.remove(channel.event_flag)
        channel.opening, channel.event_flag, channel.close_wanted = None, 0, False

    def _lists_of(self, channel_id: int) -> list[GuestGpadl]:
        return [g for g in self.state.gpadls.values() if g.channel_id == channel_id]

    def _try_release(self, channel: GuestChannel) -> None:
        if channel.release_wanted and channel.state is S.OFFERED and not self._lists_of(channel.channel_id):
            del self.state.channels[channel.channel_id]
            if not channel.is_rescinded:
                self.state.released_ids.append(channel.channel_id)
            self.post(m.RelIdReleased(channel.channel_id))
            self._effects.append(fx.ChannelReleased(channel.channel_id))

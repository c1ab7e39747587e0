"""The host's channels on their walk through the life cycle table in ``channel_states``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from emulator.status import NtStatus, Refused
from emulator.vmbus.channel_states import TRANSITIONS, Action, ChannelInput, ChannelState, refusal
from emulator.vmbus.faults import BusError, BusFault, Violation
from emulator.vmbus.host_directory import Channel, HostDirectory
from emulator.vmbus.host_effects import AnswerIgnored, CloseDevice, HostEffect, ModifyDevice, OpenDevice, SynicTarget
from emulator.vmbus.host_gpadls import HostGpadls
from emulator.vmbus.host_tickets import OpenTicket, resolve_ticket
from emulator.vmbus.message_types import (
    DISABLE_INTERRUPTS_VP,
    STATUS_FAILED,
    CloseReservedChannelResponse,
    ModifyChannelResponse,
    Negotiated,
    OpenChannelResult,
    RescindChannelOffer,
    Version,
)
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.offers import OfferParameters, sort_offers
from emulator.vmbus.outbox import Outbox
from emulator.vmbus.synic import MAX_CHANNELS, channel_connection_id

S, E, A = ChannelState, ChannelInput, Action


@dataclass(slots=True)
class Link:
    """What channels need to know of the connection; the bus keeps it up to date."""

    negotiated: Negotiated | None = None
    offers_sent: bool = False
    has_monitor_pages: bool = False


class HostChannels:
    """All channels of one machine. Answers the guest through the outbox, asks devices through the effect list."""

    def __init__(
        self,
        directory: HostDirectory,
        link: Link,
        config: BusConfig,
        gpadls: HostGpadls,
        outbox: Outbox,
        effects: list[HostEffect],
    ) -> None:
        self.directory, self.link = directory, link
        self._config, self._gpadls, self._outbox, self._effects = config, gpadls, outbox, effects

    # What devices do

    def offer(self, offer: OfferParameters) -> int:
        """A device appears. Raises Refused when its identity is taken, its primary is missing or the bus is full."""
        directory = self.directory
        known = directory.by_identity(offer.identity)
        if known is not None:
            step = TRANSITIONS.get((known.state, E.REOFFER))
            if step is None:
                raise Refused(NtStatus.OBJECT_NAME_COLLISION, f"{offer.identity} is offered already", rule="2.6")
            known.state = step.state
            directory.replace_device(known, offer)
            return known.offer_key
        if self._config.require_primary and offer.subchannel_index and not directory.by_identity(offer.primary):
            raise Refused(NtStatus.INVALID_PARAMETER, "a sub-channel follows its primary's offer", rule="2.5")
        if len(directory) >= MAX_CHANNELS:
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, f"a bus has at most {MAX_CHANNELS} channels", rule="1")
        channel = directory.add(offer)
        if self.link.offers_sent:
            self.apply(channel, E.OFFER)
        return channel.offer_key

    def device_input(self, offer_key: int, event: ChannelInput, status: int = 0) -> None:
        """A device answers or goes away; answers nobody waits for become AnswerIgnored. Raises Misuse like by_key."""
        channel = self.directory.by_key(offer_key)
        legal = channel is not None and (channel.state, event) in TRANSITIONS
        if channel is None or not legal or (event is E.DEVICE_MODIFIED and not channel.is_modifying):
            self._effects.append(AnswerIgnored(offer_key, event.name.lower().replace("_", " ")))
            return
        self.apply(channel, event, status)

    # What the guest does

    def guest_input(self, channel: Channel, event: ChannelInput) -> bool:
        """A guest message moves a channel; False when it came too late to matter. Raises BusError when refused."""
        step = TRANSITIONS.get((channel.state, event))
        if step is None:
            name = f"{event.name.lower().replace('_', ' ')} of channel {channel.channel_id}"
            raise BusError(refusal(channel.state, event), f"{name}, which is {channel.state.value}")
        self.apply(channel, event)
        return step.action is not A.NOTHING

    def open(self, channel: Channel, ticket: OpenTicket) -> None:
        """Messages 5 and 18. Raises BusError."""
        event = E.OPEN if ticket.reserved_target is None else E.OPEN_RESERVED
        step = TRANSITIONS.get((channel.state, event))
        if step is not None and step.action is A.ASK_OPEN:
            channel.ticket, channel.reserved_target = ticket, ticket.reserved_target
        elif step is not None and step.action is A.KEEP_REOPEN:
            channel.reopen_ticket = ticket
        self.guest_input(channel, event)

    def close_reserved(self, channel: Channel, target: SynicTarget) -> None:
        """Message 19; its answer goes to the target named here. Raises BusError."""
        if self.guest_input(channel, E.CLOSE_RESERVED):
            channel.reserved_target = target

    def modify(self, channel_id: int, target_vp: int) -> None:
        """Message 22. Raises BusError; from 5.3 on a failure is answered as well."""
        try:
            self._modify(channel_id, target_vp)
        except BusError:
            self._answer_modify(channel_id, STATUS_FAILED)
            raise

    def _modify(self, channel_id: int, target_vp: int) -> None:
        name = f"modify of channel {channel_id}"
        if target_vp == DISABLE_INTERRUPTS_VP:
            raise BusError(BusFault.INVALID_TARGET_VP, name)
        channel = self.directory.named(channel_id)
        if (channel.state, E.MODIFY) not in TRANSITIONS or channel.ticket is None:
            raise BusError(refusal(channel.state, E.MODIFY), f"{name}, which is {channel.state.value}")
        if channel.ticket.target_vp is None:
            raise BusError(BusFault.INTERRUPTS_DISABLED, name)
        if not channel.is_modifying:
            self._start_modify(channel, target_vp)
        elif self._answers_modify():
            # The guest knows that the first one is not answered yet; the second one has no answer of its own.
            self._effects.append(Violation.of(BusError(BusFault.MODIFY_IN_PROGRESS, name), channel_id))
        else:
            channel.next_target_vp = target_vp

    def _start_modify(self, channel: Channel, target_vp: int) -> None:
        assert channel.ticket is not None
        assert channel.request is not None
        channel.is_modifying = True
        channel.ticket = replace(channel.ticket, target_vp=target_vp)
        channel.request = replace(channel.request, target_vp=target_vp)
        self._effects.append(ModifyDevice(channel.offer_key, target_vp))

    def _answers_modify(self) -> bool:
        return self.link.negotiated is not None and self.link.negotiated.version >= Version.V5_3

    def _answer_modify(self, channel_id: int, status: int) -> None:
        if self._answers_modify():
            self._outbox.send(ModifyChannelResponse(channel_id, status))

    # What the bus does

    def offer_all(self) -> None:
        """Message 3: give out ids and send offers, in the documented order."""
        waiting = {c.offer.identity: c for c in self.directory.all() if c.state is S.RELEASED}
        for offer in sort_offers([c.offer for c in waiting.values()], self._config.absolute_offer_order):
            self.apply(waiting[offer.identity], E.OFFER)

    def release_all(self, event: ChannelInput) -> None:
        """The connection ends (DISCONNECT) or the machine starts over (RESET)."""
        for channel in self.directory.all():
            if (channel.state, event) in TRANSITIONS:
                self.apply(channel, event)

    def all_released(self, include_reserved: bool) -> bool:
        """Whether nothing of the guest's is left; reserved channels and their page lists count only if asked for."""
        channels = self.directory.all()
        spared = {c.slot for c in channels if c.state.is_reserved and not include_reserved}
        return self._gpadls.owners() <= spared and all(c.state is S.RELEASED or c.slot in spared for c in channels)

    def outstanding(self) -> Iterator[HostEffect]:
        """What devices have been asked and have not answered."""
        for channel in self.directory.all():
            key, state = channel.offer_key, channel.state
            if state.is_revoked:
                continue
            yield from self._gpadls.outstanding(channel.slot, key)
            if state in (S.OPENING, S.OPENING_RESERVED, S.OPENING_RELEASED) and channel.request is not None:
                yield OpenDevice(key, channel.request)
            elif state in (S.CLOSING, S.CLOSING_REOPEN, S.CLOSING_RESERVED, S.CLOSING_RELEASED):
                yield CloseDevice(key)
            elif channel.is_modifying and channel.request is not None and channel.request.target_vp is not None:
                yield ModifyDevice(key, channel.request.target_vp)

    # The table, performed

    def apply(self, channel: Channel, event: ChannelInput, status: int = 0) -> None:
        """Move a channel as the table says (the pair must be in it)."""
        before, step = channel.state, TRANSITIONS[channel.state, event]
        channel.state = step.state
        if event is E.REVOKE:
            self.directory.retire_key(channel)
        match step.action:
            case A.SEND_OFFER:
                self.directory.assign_ids(channel)
                self._send_offer(channel)
            case A.ASK_OPEN:
                self._ask_open(channel)
            case A.REOPEN:
                self._stop_using(channel)
                channel.ticket, channel.reopen_ticket = channel.reopen_ticket, None
                self._ask_open(channel)
            case A.ANSWER_OPEN:
                self._answer_open(channel, status)
            case A.ASK_CLOSE:
                channel.is_modifying, channel.next_target_vp = False, None
                self._effects.append(CloseDevice(channel.offer_key))
            case A.ANSWER_CLOSE:
                self._answer_close(channel)
            case A.ANSWER_MODIFY:
                self._finish_modify(channel, status)
            case A.GIVE_BACK | A.CLOSE_AND_GIVE_BACK | A.OFFER_AGAIN:
                self._give_back(channel, before, step.action)
            case A.RESCIND | A.DROP:
                self._revoke(channel, before)
            case A.END_USE:
                self._stop_using(channel)
            case A.NOTHING | A.KEEP_REOPEN | A.ASK_MODIFY:
                pass

    def _send_offer(self, channel: Channel) -> None:
        link, channel_id = self.link, channel.channel_id
        assert channel_id is not None
        assert link.negotiated is not None
        connection_id = channel_connection_id(channel_id, self._config.vtl)
        monitor_id = channel.monitor_id if link.has_monitor_pages else None
        version, features = link.negotiated
        dedicated = version >= Version.V2_4 or self._config.dedicated_below_2_4
        self._outbox.send(
            channel.offer.message(channel_id, connection_id, monitor_id, features, is_dedicated=dedicated)
        )

    def _ask_open(self, channel: Channel) -> None:
        ticket, channel_id = channel.ticket, channel.channel_id
        assert ticket is not None
        assert channel_id is not None
        ranges = self._gpadls.accepted_ranges(channel.slot, ticket.ring_gpadl_id)
        monitor_id = channel.monitor_id if self.link.has_monitor_pages else None
        try:
            request = resolve_ticket(ticket, channel_id, ranges, monitor_id, self._config)
            self.directory.connect_doorbell(channel, request)
        except BusError as error:
            self._effects.append(Violation.of(error, channel_id))
            self.apply(channel, E.DEVICE_FAILED, STATUS_FAILED)
            return
        channel.request = request
        self._effects.append(OpenDevice(channel.offer_key, request))

    def _answer_open(self, channel: Channel, status: int) -> None:
        assert channel.ticket is not None
        assert channel.channel_id is not None
        answer = OpenChannelResult(channel.channel_id, channel.ticket.open_id, status)
        if channel.ticket.reserved_target is not None:
            self._outbox.send_to(channel.ticket.reserved_target, answer)
        else:
            self._outbox.send(answer)
        if channel.state is S.CLOSED:
            self._stop_using(channel)
            self._release_if_unconnected(channel)

    def _answer_close(self, channel: Channel) -> None:
        assert channel.channel_id is not None
        assert channel.reserved_target is not None
        target = channel.reserved_target
        self._stop_using(channel)
        self._outbox.send_to(target, CloseReservedChannelResponse(channel.channel_id))
        self._release_if_unconnected(channel)

    def _release_if_unconnected(self, channel: Channel) -> None:
        # Only a reserved channel gets here without a connection: it outlived the one that offered it.
        if self.link.negotiated is None:
            self.apply(channel, E.DISCONNECT)

    def _finish_modify(self, channel: Channel, status: int) -> None:
        assert channel.channel_id is not None
        channel.is_modifying = False
        self._answer_modify(channel.channel_id, status)
        following, channel.next_target_vp = channel.next_target_vp, None
        if following is not None:
            self._start_modify(channel, following)

    def _give_back(self, channel: Channel, before: ChannelState, action: Action) -> None:
        self._gpadls.release(channel.slot, channel.offer_key, before.is_revoked)
        if action is A.CLOSE_AND_GIVE_BACK:
            self._effects.append(CloseDevice(channel.offer_key))
        self.directory.disconnect_doorbell(channel)
        channel.reopen_ticket = None
        if channel.state is not S.OPENING_RELEASED:  # there the device still works on the request
            channel.stop_using()
        if action is A.OFFER_AGAIN:
            self.directory.assign_monitor(channel)
            self._send_offer(channel)
            return
        self.directory.free_ids(channel)
        if channel.state is S.REMOVED:
            self.directory.forget(channel)

    def _revoke(self, channel: Channel, before: ChannelState) -> None:
        listens = self.link.negotiated is not None and not before.is_released
        self._gpadls.revoke(channel.slot, listens)
        self._stop_using(channel)
        channel.reopen_ticket = None
        if channel.state is S.REMOVED:
            self.directory.forget(channel)
        elif channel.channel_id is not None and listens:
            self._outbox.send(RescindChannelOffer(channel.channel_id))
        else:
            self.apply(channel, E.DISCONNECT)  # a reserved channel with nobody connected to tell

    def _stop_using(self, channel: Channel) -> None:
        self.directory.disconnect_doorbell(channel)
        channel.stop_using()

"""What a client may ask about offers, channels and packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from emulator.daemon.channel_side import ChannelSide, DirectEnd
from emulator.daemon.channels import Channel
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.daemon.offers import Offer, refuse_if_open
from emulator.daemon.pending import OpenRequest, PendingOpen, PendingOpening, PendingPacket, PendingRun
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.endpoint import SendOutcome, Side
from emulator.vmbus.packets import Packet, PacketKind, parse_packet_untrusted
from emulator.vmbus.send_rules import SendFlags
from emulator.wire.codec import encode_response
from emulator.wire.method import DO_NOT_QUEUE
from emulator.wire.runs import parse_mdl_chain_untrusted, split_packets_untrusted, unpack_pfns

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session


# A packet's descriptor, where it has no external data.
DESCRIPTOR_BYTES = 16
# Channels that went, of which a session still knows why: for requests its client sent before it heard of it.
ENDS_REMEMBERED = 64
# A plain number: this is asked for every packet.
WAIT_FOR_COMPLETION = int(SendFlags.WAIT_FOR_COMPLETION)


class ChannelRequests:
    """One session's offers and channel ends, and the requests that name them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._offers: dict[int, Offer] = {}
        self._offers_given = 0
        self._channels: dict[int, ChannelSide | DirectEnd] = {}
        self._channels_given = 0
        self._leaving: dict[int, DirectEnd] = {}
        self._ends: dict[int, tuple[NtStatus, str]] = {}

    def _find(self, number: int) -> ChannelSide | DirectEnd | None:
        """The channel end of that number, or None when it has just gone."""
        side = self._channels.get(number)
        if side is None:
            stale_or_unknown("channel", number, self._channels_given)
        else:
            self.session.acting_on = side.channel.machine
        return side

    def _find_hosted(self, number: int) -> ChannelSide | None:
        """The same, for what only a hosted end takes."""
        side = self._find(number)
        if isinstance(side, DirectEnd):
            raise PeerViolation(
                f"channel {number} is direct: its packets go through its rings, not through this socket"
            )
        return side

    def _find_for_request(self, number: int) -> ChannelSide:
        side = self._find_hosted(number)
        if side is None:
            # It ends as it would have, had it come a moment earlier.
            status, reason = self._ends.get(number, (NtStatus.CANCELLED, "long ago"))
            raise Refused(status, f"channel {number} has been closed: {reason}")
        return side

    def add(self, side: ChannelSide | DirectEnd) -> int:
        """Number a channel end."""
        self._channels_given += 1
        self._channels[self._channels_given] = side
        return self._channels_given

    def ring_pages(self, machine: Machine) -> int:
        """Pages of a machine's memory in rings this session's client opened as a guest."""
        guests = [side for side in self._channels.values() if side.role is Side.GUEST and side.machine is machine]
        return sum(len(side.channel.ring_pfns) for side in guests)

    def drop(self, side: ChannelSide | DirectEnd, status: NtStatus, reason: str, *, is_leaving: bool = False) -> None:
        """A channel end is gone, and what still comes for it ends with ``status``.

        A direct one ``is_leaving`` until its client says that it is done with the rings.
        """
        self._channels.pop(side.number, None)
        self._ends[side.number] = status, reason
        if len(self._ends) > ENDS_REMEMBERED:
            del self._ends[next(iter(self._ends))]
        if isinstance(side, DirectEnd) and is_leaving:
            if self.session.is_open:
                self._leaving[side.number] = side
            else:
                side.channel.let_go(side)

    def close_all(self, reason: str) -> None:
        """The session ended: forget what it waits for, rescind its offers, close its channels."""
        # First, so that no channel that closes here is opened again for this session.
        for pending in list(self.session.pending.values()):
            if isinstance(pending, (PendingOpen, PendingOpening)):
                with pending.machine.contained():
                    pending.cancel()
        for offer in list(self._offers.values()):
            with offer.machine.contained():
                offer.machine.rescind(offer, reason)
        for side in list(self._channels.values()):
            with side.machine.contained():
                side.channel.close(NtStatus.CANCELLED, reason, by=side)
        for leaving in self._leaving.values():
            with leaving.machine.contained():
                leaving.channel.let_go(leaving)
        self._leaving.clear()

    def _machine_for_more(self, number: int) -> Machine:
        """The machine, for whoever wants another offer or channel of it: there are none while the daemon stops."""
        if self.session.server.is_stopping:
            raise Refused(NtStatus.DEVICE_REMOVED, "the daemon is stopping; start it again, then connect anew")
        return self.session.machine_requests.find(number)

    # ---- offers

    def channel_offer(
        self,
        msgid: int,
        machine: int,
        interface: bytes,
        instance: bytes | None,
        pipe: bool,
        packets: int,
        byte_count: int,
    ) -> None:
        self._offer(msgid, machine, interface, instance, pipe, (packets, byte_count))

    def channel_offer_direct(
        self, msgid: int, machine: int, interface: bytes, instance: bytes | None, pipe: bool
    ) -> None:
        self._offer(msgid, machine, interface, instance, pipe, None)

    def _offer(
        self,
        msgid: int,
        machine: int,
        interface: bytes,
        instance: bytes | None,
        pipe: bool,
        grant: tuple[int, int] | None,
    ) -> None:
        found = self._machine_for_more(machine)
        if len(self._offers) >= self.session.limits.channels_per_session:
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, f"this session already has {len(self._offers)} offers")
        identity = UUID(bytes_le=instance) if instance is not None else found.new_instance_id()
        offer = Offer(found, self.session, UUID(bytes_le=interface), identity, pipe, grant)
        self._offers_given += 1
        offer.number = self._offers_given
        found.add_offer(offer)
        self._offers[offer.number] = offer
        # Whoever waits for it opens it after the answer has been queued.
        self.session.put(encode_response(msgid, offer.number, identity.bytes_le))
        found.offer_available(offer)

    def offer_rescind(self, msgid: int, offer: int) -> tuple[Any, ...]:
        found = self._offers.pop(offer, None)
        if found is None:
            stale_or_unknown("offer", offer, self._offers_given)
        else:
            self.session.acting_on = found.machine
            found.machine.rescind(found, "the host rescinded the offer")
        return ()

    # ---- channels

    def channel_open(
        self,
        msgid: int,
        machine: int,
        interface: bytes,
        instance: bytes | None,
        wait: bool,
        send_pages: int,
        receive_pages: int,
        packets: int,
        byte_count: int,
    ) -> None:
        pages = self._ring_pages(machine, send_pages, receive_pages)
        self._open_or_wait(msgid, machine, wait, OpenRequest(interface, instance, pages, (packets, byte_count)))

    def channel_open_direct(
        self,
        msgid: int,
        machine: int,
        interface: bytes,
        instance: bytes | None,
        wait: bool,
        send_pages: int,
        receive_pages: int,
    ) -> None:
        pages = self._ring_pages(machine, send_pages, receive_pages)
        self._open_or_wait(msgid, machine, wait, OpenRequest(interface, instance, pages, None))

    def _ring_pages(self, machine: int, send_pages: int, receive_pages: int) -> tuple[int, int]:
        limits, sizes = self.session.limits, self.session.machine_requests.find(machine).profile.limits
        pages = send_pages or sizes.outgoing_ring_pages, receive_pages or sizes.incoming_ring_pages
        if max(pages) > limits.largest_ring_pages:
            text = f"a ring has at most {limits.largest_ring_pages} data pages, not {max(pages)}"
            raise Refused(NtStatus.INVALID_PARAMETER, text)
        return pages

    def _open_or_wait(self, msgid: int, machine: int, wait: bool, wanted: OpenRequest) -> None:
        found = self._machine_for_more(machine)
        found.bus.connect()
        matching = [offer for offer in found.offers if wanted.matches(offer)]
        free = next((offer for offer in matching if offer.channel is None), None)
        if free is not None:
            self.open(free, wanted, msgid)
            return
        if matching:
            refuse_if_open(matching[0])
        if not wait:
            text = f"nobody offers {wanted} on machine {found.name}; start its host first"
            raise Refused(NtStatus.NO_SUCH_DEVICE, text)
        if len(found.waiting) >= self.session.limits.waiting_opens_per_machine:
            text = f"{len(found.waiting)} guests already wait for offers on {found.name}"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        waiter = PendingOpen(self, found, msgid, wanted)
        self.session.pending[msgid] = waiter
        found.waiting.append(waiter)

    def open(self, offer: Offer, wanted: OpenRequest, msgid: int) -> None:
        """Open an offer for this session's client, and answer its request. Raises Refused, which answers it too."""
        if len(self._channels) >= self.session.limits.channels_per_session:
            text = f"this session already has {len(self._channels)} channels open"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text)
        offer.machine.quotas.check_memory(self.session, sum(wanted.pages) + 2)
        channel = Channel(offer, self.session, wanted.pages, wanted.grant)
        if offer.machine.bus.open(channel):
            self.answer_open(channel, msgid)
        else:
            pending = PendingOpening(self, channel, msgid)
            self.session.pending[msgid] = pending
            channel.when_opened = pending.ended

    def answer_open(self, channel: Channel, msgid: int) -> None:
        """The answer to a request whose channel is open."""
        response = encode_response(msgid, *channel.guest_results())
        if not channel.is_direct(Side.GUEST):
            self.session.put(response)
            return
        bell = channel.take_client_bell(Side.GUEST).detach()
        self.session.put_with_descriptor(response, bell, then_close=True)

    def channel_close(self, msgid: int, channel: int) -> tuple[Any, ...]:
        leaving = self._leaving.pop(channel, None)
        if leaving is not None:
            leaving.channel.let_go(leaving)
            return ()
        side = self._find(channel)
        if side is None:
            return ()
        reason = f"the {side.role.value} closed the channel"
        if side.role is Side.GUEST:
            side.channel.close(NtStatus.CANCELLED, reason, by=side)
        else:
            side.machine.offer_again(side.channel.offer, reason, side)
        return ()

    def channel_window(self, channel: int, packets: int, byte_count: int) -> None:
        side = self._find_hosted(channel)
        if side is not None:
            side.granted(packets, byte_count)

    def channel_damaged(self, channel: int, reason: str) -> None:
        side = self._find(channel)
        if isinstance(side, ChannelSide):
            raise PeerViolation(f"channel {channel} is hosted: the daemon itself sees whether its rings are damaged")
        if side is not None:
            side.channel.found_damaged(side, reason)

    # ---- packets

    def packet_send(self, msgid: int, channel: int, flags: int, buffer: bytes, mdl: bytes) -> tuple[Any, ...] | None:
        side = self._find_for_request(channel)
        cost = side.charge(len(buffer) + len(mdl))
        pending = PendingPacket(side, msgid)
        may_queue, flags = not flags & DO_NOT_QUEUE, flags & ~DO_NOT_QUEUE
        with side.refunding([cost]):
            outcome = side.send(buffer, parse_mdl_chain_untrusted(mdl), flags, pending, may_queue=may_queue)
        return self._sent(side, cost, msgid, flags, outcome, pending)

    def packet_send_external_mdl(
        self, msgid: int, channel: int, flags: int, buffer: bytes, mdl: bytes, offset: int, length: int
    ) -> tuple[Any, ...] | None:
        side = self._find_for_request(channel)
        cost = side.charge(len(buffer) + len(mdl))
        pending = PendingPacket(side, msgid)
        with side.refunding([cost]):
            outcome = side.send_external(buffer, parse_mdl_chain_untrusted(mdl), (offset, length), flags, pending)
        return self._sent(side, cost, msgid, flags, outcome, pending)

    def packet_send_external_pfns(
        self, msgid: int, channel: int, flags: int, buffer: bytes, pfns: bytes | None
    ) -> tuple[Any, ...] | None:
        side = self._find_for_request(channel)
        cost = side.charge(len(buffer) + len(pfns or b""))
        pending = PendingPacket(side, msgid)
        with side.refunding([cost]):
            outcome = side.send_pfns(buffer, None if pfns is None else unpack_pfns(pfns), flags, pending)
        return self._sent(side, cost, msgid, flags, outcome, pending)

    def _sent(
        self, side: ChannelSide, cost: int, msgid: int, flags: int, outcome: SendOutcome, pending: PendingPacket
    ) -> tuple[Any, ...] | None:
        side.sent(outcome.transaction_id, cost)
        if outcome.written and not flags & WAIT_FOR_COMPLETION:
            return int(NtStatus.SUCCESS), b""
        pending.transaction_id = outcome.transaction_id
        self.session.pending[msgid] = pending
        return None

    def packet_send_run(self, msgid: int, channel: int, run: bytes) -> tuple[Any, ...] | None:
        side = self._find_for_request(channel)
        # Each is charged before it is parsed: a run longer than the window ends its session, and costs us nothing.
        images: list[bytes] = []
        costs: list[int] = []
        for image in split_packets_untrusted(run):
            costs.append(side.charge(len(image) - DESCRIPTOR_BYTES))
            images.append(image)
        # A packet the client made wrong is its own doing, and no damage to the ring.
        packets = [parse_packet_untrusted(image) for image in images]
        pending = PendingRun(side, msgid, len(images))
        with side.refunding(costs):
            self._require_plain(side, packets)
            outcome = side.send_many([packet.payload for packet in packets], pending)
        for offset, cost in enumerate(costs):
            side.sent(outcome.first_transaction_id + offset, cost)
        pending.waiting = len(images) - outcome.written
        if not pending.waiting:
            return (len(images),)
        self.session.pending[msgid] = pending
        return None

    @staticmethod
    def _require_plain(side: ChannelSide, packets: list[Packet]) -> None:
        if side.channel.offer.pipe:
            raise Refused(NtStatus.NOT_SUPPORTED, "a run cannot be sent on a pipe channel; send its packets one by one")
        for index, packet in enumerate(packets):
            if packet.kind is not PacketKind.IN_BAND or packet.flags:
                text = f"packet {index} of the run is not a plain in-band packet without completion; send it by itself"
                raise Refused(NtStatus.INVALID_PARAMETER, text)

    def packet_complete(self, channel: int, handle: int, payload: bytes) -> None:
        side = self._find_hosted(channel)
        if side is not None:
            side.complete(handle, payload)

    def packet_fail(self, channel: int, handle: int) -> None:
        side = self._find_hosted(channel)
        if side is not None:
            side.fail(handle)

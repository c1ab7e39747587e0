"""Connections between the machines of a segment: whole and in order, in the time the segment's settings make it take.

A ``SegmentLink`` stands between two endpoints, with an ``_End`` for each, and a lane in each direction for what is on
its way (``segment_lanes``). What one side has to say or send is put on its lane as far as the line takes it and the
other side has room for it, whenever either of them kicks or something arrives; on a segment that delays nothing it
arrives within the same call.

    the endpoint ─▶ _speak, _move ─▶ the lane ─▶ (latency, loss, rate) ─▶ _arrive ─▶ the other endpoint

While the segment is stalled, or cut between the two machines, nothing leaves and nothing arrives: attempts wait for
their time-out, what has to be sent for the stall's, and the rest goes on when the way is free again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emulator.status import NtStatus
from emulator.tdi.connection_requests import PeerReturned
from emulator.tdi.connection_states import State
from emulator.tdi.effects import DeadlineChanged, Effect
from emulator.tdi.segment_lanes import Kind, Lane, Parcel
from emulator.tdi.structures import SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.connection import ConnectionEndpoint
    from emulator.tdi.connection_profile import ConnectionProfile
    from emulator.tdi.connections import Connections
    from emulator.tdi.segment import SegmentPort


class SegmentNetwork:
    """How one machine's attachment to a segment carries connections. ``endpoints`` are that machine's."""

    def __init__(self, port: SegmentPort, endpoints: Connections, profile: ConnectionProfile) -> None:
        self.profile = profile
        self.port = port
        self.endpoints = endpoints

    def dial(self, endpoint: ConnectionEndpoint, remote: SocketAddress, user_data: bytes, now: float) -> list[Effect]:
        """Knock at the machine that has the address; refused at once where there is none, or nobody listens (C9)."""
        address = endpoint.address
        assert address is not None, "only an associated endpoint connects"
        link = SegmentLink(self.port, SocketAddress(self.port.host, address.local.port), remote, user_data)
        endpoint.begin(link.ends[0])
        self.port.segment.links[link] = None
        return link.pump(now)

    def offers_wanted(self, address: AddressObject, wanted: bool) -> list[Effect]:
        """Nothing has to be prepared: an attempt looks who listens."""
        return []


class Verdict(NamedTuple):
    """How one side has ended it."""

    source: int
    status: NtStatus
    user_data: bytes


class _End:
    """The link as one of its two endpoints has it."""

    __slots__ = ("endpoint", "index", "link", "remote")

    def __init__(self, link: SegmentLink, index: int, remote: SocketAddress) -> None:
        self.link = link
        self.index = index
        self.remote = remote
        self.endpoint: ConnectionEndpoint | None = None

    @property
    def is_over(self) -> bool:
        """Whether the other side has given up, as far as this one can know."""
        return self.link.verdict is not None and not self.link.is_cut

    @property
    def cut_since(self) -> float | None:
        """Since when the segment carries nothing between the two, as far as anybody has looked."""
        return self.link.cut_since

    @property
    def unarrived(self) -> bool:
        """Whether something of this side is on its way."""
        return bool(self.link.lanes[self.index])

    def kick(self, now: float) -> list[Effect]:
        """Move what can move."""
        return self.link.pump(now)

    def accept(self, user_data: bytes, now: float) -> list[Effect]:
        """The offer is taken: the other side is connected when it learns of that."""
        # A caller that gave up while the segment was cut, which nobody here knew, has forgotten the link.
        self.link.segment.links[self.link] = None
        self.link.accepted = user_data
        self.link.has_word = True
        return self.link.pump(now)

    def abort(self, status: NtStatus, user_data: bytes, now: float) -> list[Effect]:
        """This side ends it: the other is told as soon as it can be."""
        self.endpoint = None
        self.link.verdict = Verdict(self.index, status, user_data)
        self.link.has_word = True
        self.link.drop_if_over()
        return self.link.pump(now)

    def close(self, now: float) -> list[Effect]:
        """This side is done with it."""
        self.endpoint = None
        self.link.drop_if_over()
        return []


class SegmentLink:
    """One attempt, and the connection it becomes."""

    def __init__(
        self,
        port: SegmentPort,
        source: SocketAddress,
        destination: SocketAddress,
        user_data: bytes,
    ) -> None:
        self.segment = port.segment
        self._machine = port.machine
        self.ends = _End(self, 0, destination), _End(self, 1, source)
        give_up = port.segment.profile.connections.stall_timeout_seconds
        self.lanes = Lane(self.segment.medium, give_up), Lane(self.segment.medium, give_up)
        """What is on its way from either end."""
        self.accepted: bytes | None = None
        """The user data of the acceptance."""
        self.verdict: Verdict | None = None
        """How one side has ended it, until the other knows of it."""
        self.cut_since: float | None = None
        self.wake_at: float | None = None
        """When the segment pumps this."""
        self.served = 0
        """The higher, the later it had the line."""
        self.has_word = True
        """Whether one side may have something to say beside data."""
        self._user_data = user_data
        self._said: set[Kind] = set()
        self._line_opens: float | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the segment carries nothing between the two machines now."""
        there = self.segment.port_at(self.ends[0].remote.host)
        parted = there is not None and self.segment.is_cut(self._machine, there.machine)
        return self.segment.stalled or parted

    def pump(self, now: float) -> list[Effect]:
        """Do whatever is due and possible: say what is to be said, move data, bring what arrives."""
        if self not in self.segment.links:
            return []
        if self.is_cut:
            return self._cut(now)
        self.cut_since = self._line_opens = None
        effects: list[Effect] = []
        moving = True
        while moving:
            moving = False
            steps = _ALL_STEPS if self.has_word or self.lanes[0] or self.lanes[1] else _MOVE
            self.has_word = False
            for step in steps:
                for source in (0, 1):
                    done = step(self, source, now)
                    if done is not None:
                        effects += done
                        moving = True
        self._set_wake()
        return effects

    def _cut(self, now: float) -> list[Effect]:
        """Nothing gets through: what waits has a deadline from now on."""
        if self.cut_since is not None:
            return []
        self.cut_since = now
        return [DeadlineChanged(end.endpoint.owner) for end in self.ends if end.endpoint is not None]

    def _set_wake(self) -> None:
        """Have the segment pump this when there is something to do next."""
        times = [at for at in (self.lanes[0].due, self.lanes[1].due, self._line_opens) if at is not None]
        if not times or self not in self.segment.links:
            return
        at = min(times)
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at
            self.segment.wake(self, at)

    def hurry(self, latest: float) -> None:
        """What is on its way arrives no later than that, as far as it is not cut off."""
        for lane in self.lanes:
            lane.hurry(latest)
        self._set_wake()

    def drop_if_over(self) -> None:
        """Nobody is at either end: forget it."""
        if self.ends[0].endpoint is None and self.ends[1].endpoint is None:
            self.segment.links.pop(self, None)

    # From an endpoint to the lane.

    def _put(self, source: int, parcel: Parcel, now: float) -> list[Effect]:
        """Send something; where nothing delays it, it arrives in this moment."""
        lane = self.lanes[source]
        if self.segment.medium.is_swift and not lane:
            return self._bring(source, parcel, now)
        self.served = self.segment.serial()
        lane.put(parcel, now)
        return []

    def _speak(self, source: int, now: float) -> list[Effect] | None:
        """What this side has to say beside data, each once; None: nothing."""
        verdict = self.verdict
        if verdict is not None:
            return self._say(Parcel(Kind.VERDICT, verdict.user_data), source, now) if source == verdict.source else None
        if source == 0:
            return self._say(Parcel(Kind.KNOCK, self._user_data), source, now)
        return None if self.accepted is None else self._say(Parcel(Kind.ACCEPTANCE, self.accepted), source, now)

    def _say(self, parcel: Parcel, source: int, now: float) -> list[Effect] | None:
        if parcel.kind in self._said:
            return None
        self._said.add(parcel.kind)
        if parcel.kind is Kind.KNOCK and self.segment.port_at(self.ends[0].remote.host) is None:
            return self._nobody_there(now)
        return self._put(source, parcel, now)

    def _move(self, source: int, now: float) -> list[Effect] | None:
        """One piece from one side to the other, expedited before normal, the end behind all; None: nothing."""
        sender, receiver = self.ends[source].endpoint, self.ends[1 - source].endpoint
        if sender is None or receiver is None or self.verdict is not None:
            return None
        outgoing = sender.outgoing
        if not (len(outgoing) or outgoing.end_is_due):
            return None
        opens = self.segment.medium.line_opens(now)
        if opens is not None:
            self._line_opens = opens
            return None
        if outgoing.end_is_due:
            outgoing.end_taken = True
            effects = self._put(source, Parcel(Kind.RELEASE, sender.release_data), now)
            return [*effects, *sender.end_was_taken(now)]
        room = self._room(source, receiver, expedited=True), self._room(source, receiver, expedited=False)
        piece = outgoing.piece(room[0], expedited=True) or outgoing.piece(room[1], expedited=False)
        if piece is None:
            return None
        parcel = Parcel(Kind.DATA, bytes(piece.data), piece.end_of_record, piece.expedited)
        effects = sender.took(len(parcel.data), now, expedited=piece.expedited)
        return [*effects, *self._put(source, parcel, now)]

    def _room(self, source: int, receiver: ConnectionEndpoint, *, expedited: bool) -> int:
        """Bytes the receiver has room for beside what is on its way to it, as far as one packet goes."""
        store = receiver.incoming.expedited if expedited else receiver.incoming.normal
        room = store.room_beside(*self.lanes[source].load(expedited=expedited))
        packet = self.segment.profile.packet_bytes
        return room if packet is None else min(room, packet)

    # From the lane to the other endpoint.

    def _arrive(self, source: int, now: float) -> list[Effect] | None:
        parcel = self.lanes[source].take(now)
        return None if parcel is None else self._bring(source, parcel, now)

    def _bring(self, source: int, parcel: Parcel, now: float) -> list[Effect]:
        """Something is there; it is nothing to an end that has gone."""
        end = self.ends[1 - source]
        endpoint = end.endpoint
        kind = parcel.kind
        if kind is Kind.KNOCK:
            return self._knock(now) if self.verdict is None else []
        if kind is Kind.NOTHING:
            return self._given_up(now)
        if endpoint is None:
            return []
        if kind is Kind.DATA:
            ended, expedited = parcel.end_of_record, parcel.expedited
            return endpoint.arrived(parcel.data, now, end_of_record=ended, expedited=expedited)
        if kind is Kind.ACCEPTANCE:
            return endpoint.established(PeerReturned(end.remote, parcel.data), now)
        return endpoint.finished(parcel.data, now) if kind is Kind.RELEASE else self._told(end, now)

    def _knock(self, now: float) -> list[Effect]:
        """The offer reaches the other machine, if there is one (C8, C9)."""
        destination = self.ends[0].remote
        port = self.segment.port_at(destination.host)
        network = None if port is None else port.connections
        if port is None or not isinstance(network, SegmentNetwork):
            return self._nobody_there(now)
        version = self.segment.network.version
        addresses = port.table.matching(destination.host, version, destination.port, broadcast=False)
        return network.endpoints.offer(addresses, port, self.ends[1], self._user_data, now)

    def _nobody_there(self, now: float) -> list[Effect]:
        caller = self.ends[0].endpoint
        assert caller is not None, "an attempt that was given up does not knock"
        self.verdict = Verdict(1, caller.profile.unknown_host_status, b"")
        self._said.add(Kind.VERDICT)
        return self._told(self.ends[0], now)

    def _told(self, end: _End, now: float) -> list[Effect]:
        """One side learns how the other has ended it."""
        assert self.verdict is not None, "somebody has ended it"
        _, status, user_data = self.verdict
        endpoint, end.endpoint = end.endpoint, None
        self.segment.links.pop(self, None)
        if endpoint is None:
            return []
        if endpoint.state is State.CONNECTING:
            return endpoint.broken(status, f"{end.remote} has refused", user_data, now)
        status = endpoint.profile.aborted_there_status
        return endpoint.broken(status, f"{end.remote} has aborted", user_data, now)

    def _given_up(self, now: float) -> list[Effect]:
        """A packet was lost for too long: both sides take it that the other is gone."""
        self.segment.links.pop(self, None)
        effects: list[Effect] = []
        for end in self.ends:
            endpoint, end.endpoint = end.endpoint, None
            if endpoint is not None:
                profile = endpoint.profile
                trying = endpoint.state is State.CONNECTING
                status = profile.connect_expired_status if trying else profile.stalled_status
                effects += endpoint.broken(status, "nothing got through for too long", b"", now)
        return effects


_MOVE = (SegmentLink._move,)
_ALL_STEPS = (SegmentLink._speak, SegmentLink._move, SegmentLink._arrive)

"""Connections between the machines of a segment: carried whole and in order, whatever becomes of datagrams there.

A ``SegmentLink`` stands between two endpoints, with an ``_End`` for each. What one side has to send moves to the other
as far as there is room, at once, whenever either of them kicks. While the segment is stalled, or cut between the two
machines, nothing moves: attempts wait for their time-out, and the rest goes on when the way is free again. A segment's
latency, loss and rate are for datagrams; a connection does not feel them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.status import NtStatus
from emulator.tdi.connection_requests import PeerReturned
from emulator.tdi.connection_states import State
from emulator.tdi.effects import DeadlineChanged, Effect
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

    def kick(self, now: float) -> list[Effect]:
        """Move what can move."""
        return self.link.pump(now)

    def accept(self, user_data: bytes, now: float) -> list[Effect]:
        """The offer is taken: both sides are connected from the moment the other one can be told."""
        self.link.accepted = user_data
        return self.link.pump(now)

    def abort(self, status: NtStatus, user_data: bytes, now: float) -> list[Effect]:
        """This side ends it: the other is told as soon as it can be."""
        self.endpoint = None
        self.link.verdict = status, user_data
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
        self.accepted: bytes | None = None
        """The user data of the acceptance, until the side that connects knows of it."""
        self.verdict: tuple[NtStatus, bytes] | None = None
        """How one side has ended it, until the other knows of it."""
        self.cut_since: float | None = None
        self._user_data = user_data
        self._offered = False
        self._established = False

    @property
    def is_cut(self) -> bool:
        """Whether the segment carries nothing between the two machines now."""
        there = self.segment.port_at(self.ends[0].remote.host)
        parted = there is not None and self.segment.is_cut(self._machine, there.machine)
        return self.segment.stalled or parted

    def pump(self, now: float) -> list[Effect]:
        """Do whatever is due and possible: knock, tell an end, tell an acceptance, move data."""
        if self.is_cut:
            return self._cut(now)
        self.cut_since = None
        effects: list[Effect] = []
        if self.verdict is not None:
            return self._tell_end(now)
        if not self._offered:
            effects += self._knock(now)
        if self.accepted is not None and not self._established:
            effects += self._establish(now)
        moving = self._established
        while moving:
            moving = False
            for source in (0, 1):
                moved = self._move(source, now)
                if moved is not None:
                    effects += moved
                    moving = True
        return effects

    def _cut(self, now: float) -> list[Effect]:
        """Nothing gets through: what waits has a deadline from now on."""
        if self.cut_since is not None:
            return []
        self.cut_since = now
        return [DeadlineChanged(end.endpoint.owner) for end in self.ends if end.endpoint is not None]

    def drop_if_over(self) -> None:
        """Nobody is at either end: forget it."""
        if self.ends[0].endpoint is None and self.ends[1].endpoint is None:
            self.segment.links.pop(self, None)

    def _tell_end(self, now: float) -> list[Effect]:
        assert self.verdict is not None, "somebody has ended it"
        status, user_data = self.verdict
        effects: list[Effect] = []
        for end in self.ends:
            endpoint, end.endpoint = end.endpoint, None
            if endpoint is None:
                continue
            if endpoint.state is State.CONNECTING:
                effects += endpoint.broken(status, f"{end.remote} has refused", user_data, now)
            else:
                status = endpoint.profile.aborted_there_status
                effects += endpoint.broken(status, f"{end.remote} has aborted", user_data, now)
        self.segment.links.pop(self, None)
        return effects

    def _knock(self, now: float) -> list[Effect]:
        """The offer reaches the other machine, if there is one (C8, C9)."""
        self._offered = True
        destination = self.ends[0].remote
        port = self.segment.port_at(destination.host)
        network = None if port is None else port.connections
        if port is None or not isinstance(network, SegmentNetwork):
            caller = self.ends[0].endpoint
            assert caller is not None, "an attempt that was given up does not knock"
            self.verdict = caller.profile.unknown_host_status, b""
            return self._tell_end(now)
        version = self.segment.network.version
        addresses = port.table.matching(destination.host, version, destination.port, broadcast=False)
        return network.endpoints.offer(addresses, port, self.ends[1], self._user_data, now)

    def _establish(self, now: float) -> list[Effect]:
        self._established = True
        caller = self.ends[0].endpoint
        assert caller is not None, "an attempt that was given up has a verdict"
        return caller.established(PeerReturned(self.ends[0].remote, self.accepted or b""), now)

    def _move(self, source: int, now: float) -> list[Effect] | None:
        """One piece from one side to the other, expedited before normal, the end behind all; None: nothing."""
        sender, receiver = self.ends[source].endpoint, self.ends[1 - source].endpoint
        if sender is None or receiver is None:
            return None
        incoming, outgoing = receiver.incoming, sender.outgoing
        piece = outgoing.piece(incoming.expedited.room, expedited=True) or outgoing.piece(
            incoming.normal.room, expedited=False
        )
        if piece is not None:
            data = bytes(piece.data)
            effects = sender.took(len(data), now, expedited=piece.expedited)
            effects += receiver.arrived(data, now, end_of_record=piece.end_of_record, expedited=piece.expedited)
            return effects
        if outgoing.end_is_due:
            outgoing.end_taken = True
            user_data = sender.release_data
            effects = receiver.finished(user_data, now)
            return [*effects, *sender.end_was_taken(now)]
        return None

"""One connection endpoint: its state, what it sends, what it receives, and the requests that wait on it.

The states and what leads from one to another are the table in ``connection_states``. A medium (a segment, a real TCP
socket) stands behind a ``Link``: the endpoint tells the link that there is something to do, the link takes pieces of
what is queued, brings what arrived, and says how the connection ended. Neither waits for the other.

    requests ─▶ endpoint ─▶ link.kick / accept / abort / close
    link ─▶ established, failed, took, end_was_taken, arrived, finished, broken ─▶ endpoint ─▶ effects

The peer's release is in order with its data: an endpoint sees it when its client has taken everything before (C33).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from emulator.status import NtStatus, Refused
from emulator.tdi.connection_profile import ConnectionMode, ConnectionProfile
from emulator.tdi.connection_receives import Incoming
from emulator.tdi.connection_requests import Accept, Disconnect, PeerReturned, Receive, Send
from emulator.tdi.connection_sends import Outgoing, QueuedData
from emulator.tdi.connection_states import Input, State, following
from emulator.tdi.constants import DisconnectFlags, EventType, FileKind, SendFlags
from emulator.tdi.effects import Effect, Event
from emulator.tdi.structures import SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.connection_events import ConnectionEvents
    from emulator.tdi.irp import Irp


class Link(Protocol):
    """What stands between an endpoint and its peer. Nothing here calls the endpoint that calls it but ``kick``."""

    remote: SocketAddress
    endpoint: ConnectionEndpoint | None

    def kick(self, now: float) -> list[Effect]:
        """There is something to send, an end to send, or room for what arrives."""

    def accept(self, user_data: bytes, now: float) -> list[Effect]:
        """The offer this link brought is taken."""

    def abort(self, status: NtStatus, user_data: bytes, now: float) -> list[Effect]:
        """End it at once: an offer, an attempt or a connection. ``status`` is what an attempt is refused with."""

    def close(self, now: float) -> list[Effect]:
        """Both sides have released and everything is sent."""

    @property
    def is_over(self) -> bool:
        """Whether the other side of an offer has given up."""

    @property
    def cut_since(self) -> float | None:
        """Since when nothing gets through, through no fault of the peer's client; None while something can."""

    @property
    def unarrived(self) -> bool:
        """Whether something of this side is on its way, taken from it and not yet with the peer."""


class ConnectionEndpoint:
    """An open connection endpoint. ``context`` is its client's own, handed back with every event (CR10)."""

    kind = FileKind.CONNECTION

    def __init__(
        self,
        handle: int,
        owner: object,
        network: str,
        context: bytes,
        profile: ConnectionProfile,
        events: ConnectionEvents,
    ) -> None:
        self.handle = handle
        self.owner = owner
        self.network = network
        self.context = context
        self.profile = profile
        self.events = events
        self.address: AddressObject | None = None
        self.state = State.IDLE
        self.closing = False
        self.link: Link | None = None
        self.outgoing = Outgoing()
        self.incoming = Incoming(profile)
        self.opening: Irp | None = None
        self.opening_deadline: float | None = None
        self.releases: list[tuple[Irp, float]] = []
        self.release_data = b""
        self.ended: tuple[NtStatus, str] | None = None
        self.wants_room = False
        self.sent_count = self.received_count = 0

    @property
    def context_number(self) -> int:
        """The context as the number a client's pointer is."""
        return int.from_bytes(self.context, "little")

    @property
    def remote(self) -> SocketAddress | None:
        """The peer, while there is one."""
        return None if self.link is None else self.link.remote

    # Requests.

    def move(self, given: Input) -> None:
        """Take the step the table has for an input; Refused when it has none."""
        if self.ended is not None and self.state is State.ASSOCIATED and given in (Input.SEND, Input.RECEIVE):
            status, why = self.ended
            raise Refused(status, why, rule="C38")
        try:
            self.state = following(self.state, given)
        except Refused as refusal:
            chosen = {
                (Input.SEND, NtStatus.LOCAL_DISCONNECT): self.profile.after_release_status,
                (Input.RECEIVE, NtStatus.REMOTE_DISCONNECT): self.profile.peer_released_status,
            }.get((given, refusal.status))
            if chosen is None:
                raise
            raise Refused(chosen, refusal.message, rule=refusal.rule) from None

    def send(self, irp: Irp, request: Send, now: float) -> list[Effect]:
        """TDI_SEND, checked and queued (C21 to C25)."""
        try:
            self.move(Input.SEND)
            data, whole = self._checked(request)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        ends = whole and not request.flags & SendFlags.PARTIAL
        expedited = bool(request.flags & SendFlags.EXPEDITED)
        effects: list[Effect] = []
        if request.flags & SendFlags.NON_BLOCKING:
            queued = QueuedData(None, data, end_of_record=ends, expedited=expedited)
            effects.append(irp.complete(NtStatus.SUCCESS, len(data)))
        else:
            queued = QueuedData(irp, data, end_of_record=ends, expedited=expedited)
            irp.mark_pending()
        self.outgoing.put(queued, now)
        if request.flags & SendFlags.AND_DISCONNECT and whole:
            self.move(Input.RELEASE)
            self.outgoing.is_released = True
        return effects + self._kick(now)

    def _checked(self, request: Send) -> tuple[bytes, bool]:
        """What of a send is taken, and whether that is all of it; Refused when nothing is."""
        profile, flags = self.profile, request.flags
        bad = profile.bad_send_status
        if flags & SendFlags.EXPEDITED and not profile.supports_expedited:
            raise Refused(bad, f"{self.network} has no expedited data: send it as normal data", rule="C21")
        if flags & SendFlags.AND_DISCONNECT and not profile.supports_send_and_disconnect:
            text = f"{self.network} has no SEND_AND_DISCONNECT: send, then disconnect with RELEASE"
            raise Refused(bad, text, rule="C24")
        if not 0 <= request.length <= profile.max_send_bytes:
            text = f"a send has at most {profile.max_send_bytes} bytes here, not {request.length}: send it in parts"
            raise Refused(bad, text, rule="C25")
        if request.length == 0 and profile.refuses_zero_length:
            raise Refused(bad, f"{self.network} does not send nothing, as its service flags say", rule="C25")
        if len(self.outgoing) >= profile.max_queued_requests:
            text = f"{len(self.outgoing)} sends wait on this connection, which is its limit: wait for completions"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="C21")
        data = request.gather(bad)
        if not flags & SendFlags.NON_BLOCKING:
            return data, True
        room = profile.send_buffer_bytes - self.outgoing.queued_bytes
        self.wants_room = self.wants_room or room < len(data)
        if room <= 0:
            text = f"{self.outgoing.queued_bytes} bytes wait to be sent: try again after the SEND_POSSIBLE event"
            raise Refused(NtStatus.DEVICE_NOT_READY, text, rule="C23")
        return data[:room], room >= len(data)

    def receive(self, irp: Irp, request: Receive, now: float) -> list[Effect]:
        """TDI_RECEIVE: it waits for data, or gets what is there (C26 to C28)."""
        try:
            self.move(Input.RECEIVE)
            if request.length < 0:
                raise Refused(NtStatus.INVALID_PARAMETER, "a receive length is not negative", rule="C26")
            if len(self.incoming.posted) >= self.profile.max_queued_requests:
                text = f"{len(self.incoming.posted)} receives wait on this connection, which is its limit"
                raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="C26")
        except Refused as refusal:
            return [irp.refuse(refusal)]
        irp.mark_pending()
        self.incoming.post(irp, request)
        effects = self.settle(now)
        return effects + self._kick(now)

    def disconnect(self, irp: Irp, request: Disconnect, now: float) -> list[Effect]:
        """TDI_DISCONNECT: gracefully with RELEASE, else at once (C32 to C36)."""
        releases = bool(request.flags & DisconnectFlags.RELEASE)
        before = self.state
        try:
            user_data = self.user_data(request)
            self.move(Input.RELEASE if releases else Input.ABORT)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        if self.state is not State.ASSOCIATED:
            return self._release(irp, request, user_data, now)
        why = "its client disconnected it"
        status = NtStatus.CONNECTION_REFUSED if before is State.OFFERED else self.profile.aborted_here_status
        effects = self._abort_link(status, user_data, now)
        effects += self.end(self.profile.aborted_here_status, why, "C36" if before is State.OFFERED else "C32")
        return [*effects, irp.complete(NtStatus.SUCCESS)]

    def _release(self, irp: Irp, request: Disconnect, user_data: bytes, now: float) -> list[Effect]:
        timeout = self.profile.release_timeout_seconds if request.timeout_seconds is None else request.timeout_seconds
        irp.mark_pending()
        self.releases.append((irp, now + timeout))
        if not self.outgoing.is_released:
            self.outgoing.is_released = True
            self.release_data = user_data
        return self._kick(now)

    def accept(self, irp: Irp, request: Accept, now: float) -> list[Effect]:
        """TDI_ACCEPT: take the offer a LISTEN with TDI_QUERY_ACCEPT brought, or a connect handler got (C17)."""
        try:
            user_data = self.user_data(request)
            self.move(Input.ACCEPT)
        except Refused as refusal:
            return [irp.refuse(refusal)]
        assert self.link is not None, "an offered endpoint has the offer's link"
        self.opening_deadline = None
        irp.returned = PeerReturned(self.link.remote)
        return [irp.complete(NtStatus.SUCCESS), *self.link.accept(user_data, now)]

    def user_data(self, request: Accept | Disconnect) -> bytes:
        """The user data of a request; Refused for more than the provider carries (C10)."""
        data = b"" if request.information is None else request.information.user_data
        if len(data) > self.profile.max_user_data_bytes:
            text = f"{self.network} carries {self.profile.max_user_data_bytes} bytes of user data, not {len(data)}"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="C10")
        return data

    # What the network brings.

    def offered(self, link: Link, now: float) -> None:
        """Somebody wants to connect, and this endpoint is to decide."""
        self.move(Input.OFFER)
        self.begin(link)
        self.opening_deadline = now + self.profile.accept_timeout_seconds

    def begin(self, link: Link) -> None:
        """An attempt begins, ours or a peer's: nothing is left of the connection before."""
        self.link = link
        link.endpoint = self
        self.ended = None
        self.sent_count = self.received_count = 0

    def established(self, returned: PeerReturned, now: float) -> list[Effect]:
        """The peer has accepted (C9, C10)."""
        self.move(Input.ESTABLISHED)
        return self._opened(NtStatus.SUCCESS, returned=returned)

    def failed(self, status: NtStatus, message: str, rule: str | None) -> list[Effect]:
        """There will be no connection."""
        self.move(Input.FAILED)
        self.link = None
        return self._opened(status, message, rule)

    def _opened(
        self, status: NtStatus, message: str = "", rule: str | None = None, returned: PeerReturned | None = None
    ) -> list[Effect]:
        """The CONNECT or LISTEN that waits is over."""
        irp, self.opening = self.opening, None
        self.opening_deadline = None
        if irp is None:
            return []
        irp.returned = returned
        return [irp.complete(status, 0, message, rule)]

    def took(self, byte_count: int, now: float, *, expedited: bool) -> list[Effect]:
        """The medium took so many bytes of the oldest send of that kind."""
        done = self.outgoing.took(byte_count, now, expedited=expedited)
        effects: list[Effect] = []
        if done is not None:
            self.sent_count += 1
            if done.irp is not None:
                effects.append(done.irp.complete(NtStatus.SUCCESS, len(done.data)))
        if self.wants_room and 2 * self.outgoing.queued_bytes <= self.profile.send_buffer_bytes:
            self.wants_room = False
            free = self.profile.send_buffer_bytes - self.outgoing.queued_bytes
            effects += self.events.tell(self, EventType.SEND_POSSIBLE, Event(available=free))
        return effects

    def end_was_taken(self, now: float) -> list[Effect]:
        """The medium has taken our release."""
        self.outgoing.end_taken = True
        return self._finish(now) if self.state is State.CLOSING else []

    def arrived(self, data: bytes, now: float, *, end_of_record: bool = True, expedited: bool = False) -> list[Effect]:
        """The medium brought data, no more than there was room for."""
        store = self.incoming.expedited if expedited else self.incoming.normal
        by_records = expedited or self.profile.mode is ConnectionMode.MESSAGE
        store.put(data, end_of_record=end_of_record and by_records)
        self.received_count += 1
        return self.settle(now)

    def finished(self, user_data: bytes, now: float) -> list[Effect]:
        """The peer has released: nothing comes behind what came."""
        self.incoming.is_finished = True
        self.incoming.finish_data = user_data
        return self.settle(now)

    def broken(self, status: NtStatus, message: str, user_data: bytes, now: float) -> list[Effect]:
        """The peer is gone, or gave up: the connection ends at once (C32)."""
        if self.state in (State.CONNECTING, State.OFFERED):
            return self.failed(status, message, "C9")
        self.move(Input.BROKEN)
        self.ended = status, message
        return self.end(status, message, "C32") + self.disconnected(DisconnectFlags.ABORT, user_data)

    # The receive side.

    def settle(self, now: float) -> list[Effect]:
        """Give what arrived to whoever waits for it; at its very end the peer's release takes effect."""
        effects: list[Effect] = [*self.incoming.serve()]
        if self.incoming.is_drained and self.state in (State.CONNECTED, State.RELEASE_SENT):
            return effects + self._peer_released(now)
        return effects + self.events.indicate(self, now)

    def went_on(self, now: float) -> list[Effect]:
        """A handler has answered: what it left may find a taker, and there may be room."""
        return self.settle(now) + self._kick(now)

    def _peer_released(self, now: float) -> list[Effect]:
        self.move(Input.PEER_RELEASE)
        status, text = self.profile.peer_released_status, "the peer has released the connection, and everything is read"
        posted = list(self.incoming.posted)
        self.incoming.posted.clear()
        effects: list[Effect] = [each.complete(status, text, "C38") for each in posted]
        user_data = self.incoming.finish_data
        effects += self.disconnected(DisconnectFlags.RELEASE, user_data)
        if self.state is State.CLOSING and self.outgoing.end_taken:
            effects += self._finish(now)
        return effects

    # Ending.

    def _finish(self, now: float) -> list[Effect]:
        """Both sides have released and everything is sent: the endpoint is free for the next connection."""
        self.move(Input.DRAINED)
        link, self.link = self.link, None
        user_data = self.incoming.finish_data
        effects: list[Effect] = []
        for irp, _ in self.releases:
            irp.returned = PeerReturned(None, user_data)
            effects.append(irp.complete(NtStatus.SUCCESS))
        self.releases.clear()
        self.ended = self.profile.peer_released_status, "the connection was released by both sides"
        self._reset()
        return effects + (link.close(now) if link is not None else [])

    def end(self, status: NtStatus, message: str, rule: str | None) -> list[Effect]:
        """Complete everything that waits on a connection that is over; the state says so already."""
        self.link = None
        effects = self._opened(status, message, rule)
        for queued in self.outgoing.left():
            if queued.irp is not None:
                effects.append(queued.irp.complete(status, 0, message, rule))
        effects += [posted.complete(status, message, rule) for posted in self.incoming.posted]
        effects += [irp.complete(status, 0, message, rule) for irp, _ in self.releases]
        self.releases.clear()
        self._reset()
        return effects

    def _reset(self) -> None:
        self.outgoing = Outgoing()
        self.incoming = Incoming(self.profile)
        self.release_data = b""
        self.wants_room = False

    def _kick(self, now: float) -> list[Effect]:
        return [] if self.link is None else self.link.kick(now)

    def _abort_link(self, status: NtStatus, user_data: bytes, now: float) -> list[Effect]:
        return [] if self.link is None else self.link.abort(status, user_data, now)

    def disconnected(self, flags: DisconnectFlags, user_data: bytes = b"") -> list[Effect]:
        """Tell the disconnect handler, if there is one: the last event of this connection (C37)."""
        return self.events.tell(self, EventType.DISCONNECT, Event(data=user_data, flags=flags))

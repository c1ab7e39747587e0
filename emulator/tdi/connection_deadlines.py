"""What runs out on a connection endpoint: an attempt, an offer, a release, data on a segment that is cut."""

from __future__ import annotations

from emulator.status import NtStatus
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_states import Input, State
from emulator.tdi.constants import DisconnectFlags
from emulator.tdi.effects import Effect


def deadline_of(endpoint: ConnectionEndpoint) -> float | None:
    """When something of an endpoint runs out."""
    deadlines = [deadline for _, deadline in endpoint.releases]
    if endpoint.opening_deadline is not None:
        deadlines.append(endpoint.opening_deadline)
    cut_since = None if endpoint.link is None else endpoint.link.cut_since
    if cut_since is not None and is_sending(endpoint):
        waits_since = endpoint.outgoing.waits_since
        since = cut_since if waits_since is None else max(waits_since, cut_since)
        deadlines.append(since + endpoint.profile.stall_timeout_seconds)
    return min(deadlines, default=None)


def is_sending(endpoint: ConnectionEndpoint) -> bool:
    """Whether there is something of it that has not reached the peer, and so may run out when nothing gets through."""
    return endpoint.outgoing.waits_since is not None or (endpoint.link is not None and endpoint.link.unarrived)


def expired(endpoint: ConnectionEndpoint, now: float) -> list[Effect]:
    """Its deadline has come: end what ran out (C7, C9, C14, C35)."""
    profile, link = endpoint.profile, endpoint.link
    effects: list[Effect] = []
    if endpoint.opening_deadline is not None and endpoint.opening_deadline <= now:
        refused = endpoint.state is State.OFFERED
        status = NtStatus.CONNECTION_REFUSED if refused else profile.connect_expired_status
        effects += link.abort(status, b"", now) if link is not None else []
        text = "the offer was not accepted in time" if refused else "nobody answered in time"
        endpoint.opening_deadline = None
        return effects + endpoint.failed(status, text, "C14" if refused else "C9")
    late = any(deadline <= now for _, deadline in endpoint.releases)
    status, text, rule = (
        (profile.release_expired_status, "the peer did not release in time, so the connection was aborted", "C35")
        if late
        else (profile.stalled_status, "nothing got through for too long", "C9")
    )
    effects += link.abort(status, b"", now) if link is not None else []
    endpoint.move(Input.ABORT)
    endpoint.ended = status, text
    return effects + endpoint.end(status, text, rule) + endpoint.disconnected(DisconnectFlags.ABORT)

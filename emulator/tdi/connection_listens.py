"""Waiting LISTENs, and the offers each of them takes (C15)."""

from __future__ import annotations

from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_requests import Listen, PeerInformation
from emulator.tdi.structures import SocketAddress, host_facts_untrusted, parse_transport_address_untrusted


class Listening:
    """One waiting LISTEN."""

    __slots__ = ("endpoint", "filter", "request")

    def __init__(self, endpoint: ConnectionEndpoint, request: Listen, wanted: SocketAddress | None) -> None:
        self.endpoint = endpoint
        self.request = request
        self.filter = wanted

    def matches(self, remote: SocketAddress) -> bool:
        """Whether an offer from there passes; a zero host or port stands for any (C15, T19)."""
        wanted = self.filter
        if wanted is None:
            return True
        any_host = host_facts_untrusted(wanted.host).is_wildcard
        return (any_host or wanted.host == remote.host) and wanted.port in (0, remote.port)


def filter_of(information: PeerInformation | None) -> SocketAddress | None:
    """The address only offers from which a LISTEN takes, or None; Refused when it cannot be read (C15)."""
    remote = None if information is None else information.remote_address
    if information is None or remote is None:
        return None
    if isinstance(remote, SocketAddress):
        return SocketAddress(host_facts_untrusted(remote.host).text, remote.port)
    length = information.remote_address_length
    data = bytes(remote if length is None else remote[:length])
    return parse_transport_address_untrusted(data) if any(data) else None

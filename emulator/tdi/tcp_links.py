"""A real TCP connection as an endpoint has it, and as the shell that works its socket does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.status import NtStatus
from emulator.tdi.connection_profile import ConnectionMode, ConnectionProfile
from emulator.tdi.connection_requests import PeerReturned
from emulator.tdi.connection_sends import Piece
from emulator.tdi.effects import Effect, StreamChanged
from emulator.tdi.structures import SocketAddress

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.connection import ConnectionEndpoint
    from emulator.tdi.tcp import TcpDevice

STREAM_BYTES = 256 * 1024
"""Bytes a socket is given, or asked for, at once."""


class TcpNetwork:
    """How the TCP device carries connections."""

    def __init__(self, device: TcpDevice, profile: ConnectionProfile) -> None:
        # What real TCP has no place for, whatever a profile says.
        self.profile = replace(
            profile,
            mode=ConnectionMode.STREAM,
            supports_expedited=False,
            max_user_data_bytes=0,
            refuses_zero_length=True,
        )
        self._device = device

    def dial(self, endpoint: ConnectionEndpoint, remote: SocketAddress, user_data: bytes, now: float) -> list[Effect]:
        """Ask for a socket that connects; user data were refused before, TCP has no place for them."""
        return self._device.dial(endpoint, remote)

    def offers_wanted(self, address: AddressObject, wanted: bool) -> list[Effect]:
        """Offers for an address are wanted from now on, or not any more."""
        return self._device.offers_wanted(address, wanted)


class TcpLink:
    """One socket that is connected, or shall be. ``is_open`` once both sides have agreed."""

    cut_since = None
    unarrived = False

    def __init__(self, key: int, remote: SocketAddress, device: TcpDevice) -> None:
        self.key = key
        self.remote = remote
        self.endpoint: ConnectionEndpoint | None = None
        self.is_open = False
        self.is_over = False
        self._device = device

    # The endpoint's side.

    def kick(self, now: float) -> list[Effect]:
        """The shell has to look what is wanted."""
        return [StreamChanged(self.key)] if self.is_open else []

    def accept(self, user_data: bytes, now: float) -> list[Effect]:
        """The host has accepted already: from now on data pass."""
        self.is_open = True
        return [StreamChanged(self.key)]

    def abort(self, status: NtStatus, user_data: bytes, now: float) -> list[Effect]:
        """Reset it."""
        return self._end(abort=True)

    def close(self, now: float) -> list[Effect]:
        """Both sides have finished."""
        return self._end(abort=False)

    def _end(self, *, abort: bool) -> list[Effect]:
        self.endpoint = None
        self.is_open = False
        self.is_over = True
        return self._device.forget(self, abort=abort)

    # The shell's side.

    def connected(self, now: float) -> list[Effect]:
        """The peer's host has answered."""
        if self.endpoint is None:
            return []
        self.is_open = True
        return [*self.endpoint.established(PeerReturned(self.remote), now), StreamChanged(self.key)]

    def broken(self, status: NtStatus, message: str, now: float) -> list[Effect]:
        """An attempt failed, or the connection was reset."""
        endpoint = self.endpoint
        effects = self._end(abort=True)
        if endpoint is not None:
            effects += endpoint.broken(status, message, b"", now)
        return effects

    def piece(self) -> Piece | None:
        """What to send next; ``took`` says how much of it the socket has taken."""
        if self.endpoint is None or not self.is_open:
            return None
        return self.endpoint.outgoing.piece(STREAM_BYTES, expedited=False)

    def took(self, byte_count: int, now: float) -> list[Effect]:
        """The socket has taken so many bytes of the piece."""
        return [] if self.endpoint is None else self.endpoint.took(byte_count, now, expedited=False)

    @property
    def end_is_due(self) -> bool:
        """Whether everything is sent and our side of the stream is to be shut; ``end_taken`` says that it was."""
        return self.endpoint is not None and self.is_open and self.endpoint.outgoing.end_is_due

    def end_taken(self, now: float) -> list[Effect]:
        """Our side of the stream is shut."""
        return [] if self.endpoint is None else self.endpoint.end_was_taken(now)

    @property
    def room(self) -> int:
        """Bytes to read at most now; 0 leaves the socket alone, and so the peer waits (C29)."""
        if self.endpoint is None or not self.is_open or self.endpoint.incoming.is_finished:
            return 0
        return min(self.endpoint.incoming.normal.room, STREAM_BYTES)

    @property
    def may_reset(self) -> bool:
        """Whether the peer has finished, and all it can do now is to reset while this side goes on."""
        if self.endpoint is None or not self.is_open:
            return False
        return self.endpoint.incoming.is_finished and not self.endpoint.outgoing.end_taken

    def arrived(self, data: bytes, now: float) -> list[Effect]:
        """The socket brought data."""
        return [] if self.endpoint is None else self.endpoint.arrived(data, now)

    def finished(self, now: float) -> list[Effect]:
        """The peer has shut its side."""
        return [] if self.endpoint is None else self.endpoint.finished(b"", now)

"""A filter as this client has it: what it is asked, how it answers, and what it is told. Shared by both faces."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Protocol

from clients.calls import Call, ConnectionLost, RequestFailed
from clients.filtering import Asked, FilterState
from clients.protocol import ClientProtocol
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind, MajorFunction
from emulator.tdi.structures import (
    SocketAddress,
    canonical_untrusted,
    pack_transport_address,
    parse_transport_address_untrusted,
)
from emulator.wire.codec import encode_response
from emulator.wire.schema import FILTER_ATTACH, FILTER_DETACH, FILTER_QUERY

PASS, END, CHANGE = 0, 1, 2


class FilterCompletion(NamedTuple):
    """How a watched request ended. Of a create that succeeded, ``file`` is the new file and ``local`` where it is."""

    status: NtStatus
    information: int
    message: str
    file: int
    local: tuple[str, int] | None


class Writes(Protocol):
    """A connection of either face, as far as an answer needs it."""

    protocol: ClientProtocol

    def flush(self) -> None:
        """Send what there is to send."""


class FilterRequest:
    """One request, open or event on its way. Answer it once: with ``pass_on``, ``change`` or ``end``.

    ``file`` is the same for everything on one open file, 0 for an open; ``kind`` which of the three it is. ``code`` is
    the event type, query type, device-control code or share access. ``event`` is None for a request on its way down.
    A cleanup (``is_cleanup``) is only told: answering it does nothing.
    """

    def __init__(self, connection: Writes, asked: Asked) -> None:
        self._connection = connection
        self._msgid = asked.msgid
        serial, file, kind, major, minor, code, local, remote, length, data, event = asked.args
        self.serial: int = serial
        self.file: int = file
        self.kind = FileKind(kind)
        self.major: int = major
        self.minor: int = minor
        self.code: int = code
        self.local = _address(local)
        self.remote = _address(remote)
        self.remote_bytes: bytes = remote
        self.length: int = length
        self.data: bytes = data
        self.event: int | None = event

    @property
    def is_cleanup(self) -> bool:
        """Whether it says that a file is cleaned up."""
        return self.major == MajorFunction.CLEANUP

    @property
    def is_create(self) -> bool:
        """Whether it is an open."""
        return self.event is None and self.major == MajorFunction.CREATE

    def pass_on(self, *, watch: bool = False) -> None:
        """Let it go on. With ``watch``, ``Filter.completed`` says how it ends."""
        self._answer(PASS, NtStatus.SUCCESS, 0, None, None, watch)

    def end(self, status: NtStatus, information: int = 0, *, watch: bool = False) -> None:
        """It ends here, with this status. An event does not reach its client, whatever the status."""
        self._answer(END, status, information, None, None, watch)

    def change(
        self, *, remote: tuple[str, int] | bytes | None = None, data: bytes | None = None, watch: bool = False
    ) -> None:
        """Let it go on with another destination, or with other data. Its client's count stays what it was."""
        if isinstance(remote, tuple):
            try:
                remote = pack_transport_address(canonical_untrusted(SocketAddress(*remote)))
            except Refused as refusal:
                raise RequestFailed(refusal.status, refusal.message) from None
        self._answer(CHANGE, NtStatus.SUCCESS, 0, remote, None if data is None else bytes(data), watch)

    def _answer(
        self, action: int, status: NtStatus, information: int, remote: bytes | None, data: bytes | None, watch: bool
    ) -> None:
        if self._msgid is None:
            if self.is_cleanup:
                return
            raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, f"request {self.serial} has been answered already")
        msgid, self._msgid = self._msgid, None
        protocol = self._connection.protocol
        if protocol.lost is None:
            protocol.outgoing += encode_response(msgid, action, int(status), information, remote, data, watch)
            self._connection.flush()


def _address(data: bytes) -> tuple[str, int] | None:
    try:
        found = parse_transport_address_untrusted(data) if data else None
    except Refused:
        return None
    return None if found is None else (found.host, found.port)


def attach(protocol: ClientProtocol, machine: int, network: str, *, events: bool) -> Call:
    """Come to stand above a device; builds the FilterState."""

    def build(result: tuple[Any, ...]) -> FilterState:
        state = FilterState(result[0])
        protocol.add_filter(state)
        return state

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None:
            protocol.drop_filter(call.built, NtStatus.CANCELLED, "attaching was given up")
        protocol.call(FILTER_DETACH, result[0])

    call = protocol.call(FILTER_ATTACH, machine, network, events, build=build, undo=undo)
    return call


def detach(protocol: ClientProtocol, state: FilterState) -> Call | None:
    """Leave; None when it is over already."""
    if state.closed is not None:
        return None
    protocol.drop_filter(state, NtStatus.CANCELLED, "the filter was detached here")
    return protocol.call(FILTER_DETACH, state.number)


def query(protocol: ClientProtocol, state: FilterState, file: int, query_type: int, buffer_bytes: int) -> Call:
    """Ask somebody's file for something."""
    return protocol.call(FILTER_QUERY, state.number, file, query_type, buffer_bytes)


def must_wait(protocol: ClientProtocol, state: FilterState, items: deque[Asked] | bool) -> bool:
    """Whether there is nothing yet. Raises ConnectionLost, or RequestFailed once the filter is out."""
    if items:
        return False
    if protocol.lost is not None:
        raise ConnectionLost(str(protocol.lost))
    if state.closed is not None:
        raise RequestFailed(*state.closed)
    return True


def completion(state: FilterState, request: FilterRequest) -> FilterCompletion:
    """How a watched request ended; it is there."""
    status, information, message, file, local = state.ends.pop(request.serial)
    return FilterCompletion(NtStatus(status), information, message, file, _address(local))

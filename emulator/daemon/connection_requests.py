"""What a client may ask about connection endpoints."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator.daemon.filter_passings import Opened, Opening
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.daemon.obligations import PatientIrp
from emulator.daemon.query_requests import submit_query
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi.connection_requests import (
    Accept,
    Associate,
    Connect,
    ConnectionRequest,
    Disassociate,
    Disconnect,
    Listen,
    PeerInformation,
    PeerReturned,
    Receive,
    Send,
    build_connection_request,
    relative_timeout,
)
from emulator.tdi.constants import DisconnectFlags, FileKind, ListenFlags, ReceiveFlags, SendFlags
from emulator.tdi.filter_view import create_view
from emulator.tdi.irp import Irp
from emulator.tdi.structures import SocketAddress
from emulator.wire.codec import encode_response
from emulator.wire.method import CHUNK
from emulator.wire.window import PACKET_OVERHEAD_BYTES, ReceiveWindow

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Complete

Result = Callable[["Complete"], tuple[object, ...]]
"""What a request's answer has behind status, count and message."""


class ConnectionEnd:
    """One session's connection endpoint, and answers with data that wait until its client reads its socket."""

    def __init__(self, machine: Machine, session: Session, send_grant: tuple[int, int]) -> None:
        self.machine = machine
        self.session = session
        self.number = 0
        self.handle = 0
        self.is_open = True
        self.inbound = ReceiveWindow(*send_grant)
        self._held: deque[bytes] = deque()

    def __str__(self) -> str:
        return f"{self.session}, connection {self.number}"

    def answer(self, frame: bytes) -> None:
        """Send an answer, or keep it while the session has much to send: many receives may end at once."""
        if not self.session.is_congested and not self._held:
            self.session.put(frame)
            return
        self._held.append(frame)
        self.session.connection_requests.held(len(frame))
        self.session.mark_ready(self)

    def drain(self) -> bool:
        """Send what was kept, as far as there is room. True when there is more."""
        while self._held and not self.session.is_congested:
            self._put_oldest()
        return bool(self._held)

    def _put_oldest(self) -> None:
        frame = self._held.popleft()
        self.session.connection_requests.held(-len(frame))
        self.session.put(frame)

    def violated(self, violation: PeerViolation) -> None:
        """Nothing that is drained here is a peer's to break."""
        raise violation

    def close(self) -> None:
        """Close it; every request on it is answered first."""
        self.machine.datagrams.close(self.handle)
        while self._held:
            self._put_oldest()
        self.is_open = False

    def deadline_changed(self) -> None:
        """Something of its has a nearer deadline."""
        self.machine.datagrams.look_at_deadlines()


class PendingConnectionRequest(PatientIrp):
    """A request on a connection endpoint under way: the context of its IRP."""

    __slots__ = ("_cost", "_end", "_msgid", "_result", "irp")

    def __init__(self, end: ConnectionEnd, msgid: int, result: Result, cost: int = 0) -> None:
        self._end = end
        self._msgid = msgid
        self._result = result
        self._cost = cost
        self.irp: Irp | None = None

    def finish(self, complete: Complete) -> None:
        """The request is over: answer it, and give the room of a send back."""
        session = self._end.session
        if self._cost:
            self._end.inbound.settle(self._cost)
        if session.settle(self._msgid, self):
            message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
            status = int(complete.status), complete.information, message
            self._end.answer(encode_response(self._msgid, *status, *self._result(complete)))

    def cancel(self) -> None:
        if self.irp is not None:
            self._end.machine.datagrams.cancel(self.irp)


def _nothing(complete: Complete) -> tuple[object, ...]:
    return ()


def _received(complete: Complete) -> tuple[object, ...]:
    data = complete.irp.returned
    return (data if isinstance(data, bytes) else b"",)


def _peer(complete: Complete) -> tuple[object, ...]:
    returned = complete.irp.returned
    if not isinstance(returned, PeerReturned) or returned.remote is None:
        return "", 0
    return returned.remote.host, returned.remote.port


def _user_data(complete: Complete) -> tuple[object, ...]:
    returned = complete.irp.returned
    return (returned.user_data if isinstance(returned, PeerReturned) else b"",)


def _peer_and_data(complete: Complete) -> tuple[object, ...]:
    return *_peer(complete), *_user_data(complete)


class ConnectionRequests:
    """One session's connection endpoints, and the requests that name them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ends: dict[int, ConnectionEnd] = {}
        self._held_bytes = 0

    def held(self, byte_count: int) -> None:
        """So much more is kept for a client that does not read; too much ends its session."""
        self._held_bytes += byte_count
        if self._held_bytes > self._session.limits.held_receive_bytes:
            self._session.end(
                NtStatus.INSUFFICIENT_RESOURCES, "the client does not read its socket, and its receives have all ended"
            )

    def _find(self, number: int) -> ConnectionEnd:
        end = self._ends.get(number)
        if end is None:
            given = number if self._session.address_requests.was_given(number) else 0
            stale_or_unknown("connection", number, given)
            raise Refused(NtStatus.FILE_CLOSED, f"connection {number} has been closed")
        self._session.acting_on = end.machine
        end.machine.require_alive()
        return end

    def find_end(self, number: int) -> ConnectionEnd | None:
        """The open endpoint of that number."""
        return self._ends.get(number)

    def handle_of(self, number: int) -> int:
        """The transport's handle of an endpoint; 0, which none has, for a number that names none of this session's."""
        end = self._ends.get(number)
        return 0 if end is None else end.handle

    def close_all(self, reason: str) -> None:
        """The session ended: close its endpoints, and abort their connections."""
        for end in self._ends.values():
            if end.machine.is_alive:
                with end.machine.contained():
                    end.close()
        self._ends.clear()

    def _submit(
        self, number: int, msgid: int, request: ConnectionRequest, result: Result = _nothing, cost: int = 0
    ) -> None:
        end = self._find(number)
        if cost and not end.inbound.arrive(cost):
            raise PeerViolation(f"connection {number}: data were sent although the window was used up")
        pending = PendingConnectionRequest(end, msgid, result, cost)
        pending.irp = build_connection_request(end.handle, request, pending)
        self._session.pending[msgid] = pending
        end.machine.datagrams.submit(pending.irp)

    # ---- the methods of the wire

    def connection_open(self, msgid: int, machine: int, network: str, context: int) -> tuple[Any, ...] | None:
        found = self._session.machine_requests.find(machine)
        limits, addresses = self._session.limits, self._session.address_requests
        if len(self._ends) >= limits.connections_per_session:
            text = f"this session already has {len(self._ends)} connections open; close one first"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="CR13")
        grant = limits.connection_window_sends, limits.connection_window_bytes
        end = ConnectionEnd(found, self._session, grant)
        filters = found.datagrams.filters

        def opened() -> Opened:
            outcome = found.datagrams.open_connection(network, context.to_bytes(8, "little"), end)
            end.handle, end.number = outcome.handle, addresses.new_number()
            self._ends[end.number] = end
            return (end.number, *grant), end.handle, None

        view = create_view(FileKind.CONNECTION, None, 0)
        return filters.create(self._session, msgid, network, view, Opening(filters, opened))

    def forget(self, number: int) -> bool:
        """An endpoint was closed as a file; False when none has that number."""
        return self._ends.pop(number, None) is not None

    def connection_close(self, msgid: int, connection: int) -> tuple[Any, ...]:
        try:
            end = self._find(connection)
        except Refused:
            return ()
        del self._ends[connection]
        end.close()
        return ()

    def connection_associate(self, msgid: int, connection: int, address: int) -> None:
        target = self._session.address_requests.find(address)
        same = target.machine is self._find(connection).machine
        self._submit(connection, msgid, Associate(target.handle if same else 0))

    def connection_disassociate(self, msgid: int, connection: int) -> None:
        self._submit(connection, msgid, Disassociate())

    def connection_connect(
        self, msgid: int, connection: int, host: str, port: int, timeout: int | None, user_data: bytes
    ) -> None:
        information = PeerInformation(SocketAddress(host, port), user_data=user_data)
        request = Connect(information, relative_timeout(_relative(timeout)))
        self._submit(connection, msgid, request, _peer_and_data)

    def connection_listen(
        self, msgid: int, connection: int, flags: int, host: str, port: int, user_data: bytes
    ) -> None:
        wanted = SocketAddress(host or "0.0.0.0", port) if host or port else None
        asked = ListenFlags(flags & int(ListenFlags.QUERY_ACCEPT))
        request = Listen(asked, PeerInformation(wanted, user_data=user_data))
        self._submit(connection, msgid, request, _peer_and_data)

    def connection_accept(self, msgid: int, connection: int, user_data: bytes) -> None:
        self._submit(connection, msgid, Accept(PeerInformation(user_data=user_data)), _peer)

    def connection_disconnect(
        self, msgid: int, connection: int, flags: int, timeout: int | None, user_data: bytes
    ) -> None:
        asked = DisconnectFlags(flags & 0x7)
        seconds = relative_timeout(_relative(timeout))
        self._submit(connection, msgid, Disconnect(asked, seconds, PeerInformation(user_data=user_data)), _user_data)

    def connection_send(self, msgid: int, connection: int, flags: int, data: bytes) -> None:
        cost = len(data) + PACKET_OVERHEAD_BYTES
        self._submit(connection, msgid, Send(data, SendFlags(flags & 0x3E0)), cost=cost)

    def connection_receive(self, msgid: int, connection: int, flags: int, length: int) -> None:
        if length > CHUNK.most:
            text = f"one receive brings at most {CHUNK.most} bytes, not {length}: receive in parts"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="C26")
        self._submit(connection, msgid, Receive(length, ReceiveFlags(flags & 0xE0)), _received)

    def connection_query(self, msgid: int, connection: int, query_type: int, length: int) -> None:
        end = self._find(connection)
        submit_query(self._session, msgid, end.machine, end.handle, query_type, length)


def _relative(timeout: int | None) -> int | None:
    """A time-out of the wire as the LARGE_INTEGER a driver would pass."""
    return None if timeout is None else -timeout

"""What a client may ask about address objects, and the datagrams that wait for it."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from emulator.daemon.filter_passings import Opened, Opening
from emulator.daemon.handler_requests import event_arguments
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.daemon.query_requests import submit_network_query, submit_query
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi.constants import EventType, FileKind, ReceiveFlags, ShareAccess
from emulator.tdi.filter_view import create_view
from emulator.tdi.irp import Irp, build_send_datagram
from emulator.tdi.structures import SocketAddress, pack_transport_address
from emulator.wire.codec import encode_notification, encode_response
from emulator.wire.runs import pack_datagrams
from emulator.wire.schema import ADDRESS_DATAGRAMS, ADDRESS_TOLD
from emulator.wire.window import PACKET_OVERHEAD_BYTES, ReceiveWindow, SendWindow

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Ask, Complete, Effect, Tell

# One turn of one address: what a frame can hold, and enough to amortise a system call.
TURN_DATAGRAMS = 256
TURN_BYTES = 512 * 1024
LARGEST_DATAGRAM = 65_535

Waiting = tuple[bytes, int, bytes]


class AddressEnd:
    """One session's open address object: its windows, and the datagrams its client has granted no room for yet."""

    def __init__(self, machine: Machine, session: Session, grant: tuple[int, int], send_grant: tuple[int, int]) -> None:
        self.machine = machine
        self.session = session
        self.is_open = True
        self.handle = 0
        self.number = 0
        self.inbound = ReceiveWindow(*send_grant)
        self.outbound = SendWindow(*grant)
        self.dropped = 0
        self._grant = grant
        # The client has its number for certain: it has used it. What comes by itself may overtake the answer with it.
        self.is_known = False
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0

    def deliver(self, source: SocketAddress, flags: ReceiveFlags, data: bytes) -> None:
        """A datagram for it, which filters may see first."""
        filters = self.machine.datagrams.filters
        if filters.sees_events:
            event, remote = int(EventType.RECEIVE_DATAGRAM), pack_transport_address(source)
            if filters.take_event(self.handle, event, remote, data, partial(self._deliver, source, flags), self._drop):
                return
        self._deliver(source, flags, data)

    def _drop(self) -> None:
        self.dropped += 1

    def _deliver(self, source: SocketAddress, flags: ReceiveFlags, data: bytes) -> None:
        """With no room left the newest is dropped, and counted."""
        cost = len(data) + PACKET_OVERHEAD_BYTES
        if not self.is_open or self._waiting_bytes + cost > self.session.limits.datagram_backlog_bytes:
            self.dropped += 1
            return
        self._waiting_bytes += cost
        self._waiting.append((pack_transport_address(source), int(flags), data))
        self.session.mark_ready(self)

    def ask(self, ask: Ask) -> list[Effect]:
        """A handler of its client is to be called; filters may see that first."""
        filters, handlers = self.machine.datagrams.filters, self.machine.datagrams.handlers
        if not filters.sees_events:
            return self.session.questions.ask_handler(self, ask)

        def up(passed: bytes) -> None:
            event = ask.event
            if passed != event.data:
                event = event._replace(data=passed, available=len(passed))
            handlers.call(self, ask._replace(event=event))

        event = ask.event
        remote = b"" if event.remote is None else pack_transport_address(event.remote)
        refuse = partial(handlers.refuse, ask.token)
        if filters.take_event(self.handle, int(ask.handler.event), remote, bytes(event.data), up, refuse):
            return []
        return self.session.questions.ask_handler(self, ask)

    def tell(self, tell: Tell) -> None:
        """A handler of its client is to be called, and nothing comes back."""
        if self.is_open and not (tell.lossy and self.session.is_congested):
            self.session.put(encode_notification(ADDRESS_TOLD, self.number, *event_arguments(tell)))

    def deadline_changed(self) -> None:
        """Something of its has a nearer deadline: an endpoint that was opened as bytes."""
        self.machine.datagrams.look_at_deadlines()

    def __str__(self) -> str:
        return f"{self.session}, address {self.number}"

    def _send(self, taken: list[Waiting]) -> None:
        session = self.session
        if not (self.is_known and session.stream.lossy_bytes):
            session.put(encode_notification(ADDRESS_DATAGRAMS, self.number, pack_datagrams(taken), self.dropped))
            return
        for datagram in taken:
            frame = encode_notification(ADDRESS_DATAGRAMS, self.number, pack_datagrams([datagram]), self.dropped)
            cost = len(datagram[2]) + PACKET_OVERHEAD_BYTES
            if not session.stream.put_lossy(frame, partial(self._lost, cost)):
                session.put(frame)

    def _lost(self, cost: int) -> None:
        """A datagram got lost on its way to the client, who cannot give its room back."""
        if self.is_open:
            self.dropped += 1
            self.granted(1, cost)

    def granted(self, packets: int, byte_count: int) -> None:
        """The client granted more deliveries."""
        self.outbound.grant(packets, byte_count)
        if self.session.stream.lossy_bytes:
            # One that was taken for lost and was only late has its room given back twice.
            self.outbound.packets = min(self.outbound.packets, self._grant[0])
            self.outbound.bytes = min(self.outbound.bytes, self._grant[1])
        self.session.mark_ready(self)

    def drain(self) -> bool:
        """One bounded turn: send what waits and has been granted. True when another turn is due now."""
        taken: list[Waiting] = []
        taken_bytes = 0
        while self._waiting and self.outbound.is_open and len(taken) < TURN_DATAGRAMS and taken_bytes < TURN_BYTES:
            datagram = self._waiting.popleft()
            self._waiting_bytes -= len(datagram[2]) + PACKET_OVERHEAD_BYTES
            self.outbound.spend(len(datagram[2]) + PACKET_OVERHEAD_BYTES)
            taken_bytes += len(datagram[2]) + PACKET_OVERHEAD_BYTES
            taken.append(datagram)
        if taken:
            self._send(taken)
        return bool(self._waiting) and self.outbound.is_open

    def violated(self, violation: PeerViolation) -> None:
        """Nothing an address drains is a peer's to break."""
        raise violation

    def close(self) -> None:
        """Clean it up and close it."""
        if self.is_open:
            self.machine.datagrams.close(self.handle)
            self.is_open = False


class PendingDatagram:
    """A TDI_SEND_DATAGRAM under way: the context of its IRP."""

    __slots__ = ("_cost", "_end", "_msgid", "irp")

    def __init__(self, end: AddressEnd, msgid: int, cost: int) -> None:
        self._end = end
        self._msgid = msgid
        self._cost = cost
        self.irp: Irp | None = None

    def finish(self, complete: Complete) -> None:
        """The request is over: answer it, and give its room back."""
        session = self._end.session
        self._end.inbound.settle(self._cost)
        session.pending.pop(self._msgid, None)
        message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
        session.put(encode_response(self._msgid, int(complete.status), complete.information, message))

    def cancel(self) -> None:
        if self.irp is not None:
            self._end.machine.datagrams.cancel(self.irp)


class AddressRequests:
    """One session's address objects, and the requests that name them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._addresses: dict[int, AddressEnd] = {}
        self._given = 0

    def _find(self, number: int) -> AddressEnd | None:
        end = self._addresses.get(number)
        if end is None:
            stale_or_unknown("address", number, self._given)
            return None
        self._session.acting_on = end.machine
        end.machine.require_alive()
        return end

    def find(self, number: int) -> AddressEnd:
        end = self._find(number)
        if end is None:
            raise Refused(NtStatus.ADDRESS_CLOSED, f"address {number} has been closed")
        return end

    def close_all(self, reason: str) -> None:
        """The session ended: close its address objects."""
        for end in self._addresses.values():
            if end.machine.is_alive:
                with end.machine.contained():
                    end.close()
        self._addresses.clear()

    def address_open(
        self, msgid: int, machine: int, network: str, host: str, port: int, share: bool, packets: int, byte_count: int
    ) -> tuple[Any, ...] | None:
        end = self.new_end(self._session.machine_requests.find(machine), (packets, byte_count))
        access = ShareAccess.READ | ShareAccess.WRITE if share else ShareAccess.EXCLUSIVE
        wanted, filters = SocketAddress(host, port), end.machine.datagrams.filters

        def opened() -> Opened:
            outcome = end.machine.datagrams.open(network, wanted, access, end)
            local = outcome.local or wanted
            result = self.add(end, outcome.handle), local.host, local.port, *self.send_grant
            return result, outcome.handle, local

        view = create_view(FileKind.ADDRESS, wanted, access)
        return filters.create(self._session, msgid, network, view, Opening(filters, opened))

    @property
    def send_grant(self) -> tuple[int, int]:
        """Datagrams, and bytes of them, that a client may have on the way on one address."""
        packets = self._session.limits.datagram_window_packets
        return packets, packets * (LARGEST_DATAGRAM + PACKET_OVERHEAD_BYTES)

    def new_end(self, machine: Machine, grant: tuple[int, int]) -> AddressEnd:
        """What will own an address object of a machine; Refused when this session has as many as it may have."""
        if len(self._addresses) >= self._session.limits.addresses_per_session:
            text = f"this session already has {len(self._addresses)} addresses open; close one first"
            raise Refused(NtStatus.TOO_MANY_ADDRESSES, text)
        return AddressEnd(machine, self._session, grant, self.send_grant)

    def new_number(self) -> int:
        """A number for a file. Addresses and other files count together, so that a number says which file."""
        self._given += 1
        return self._given

    def add(self, end: AddressEnd, handle: int) -> int:
        """An address object was opened for an end; its number."""
        end.handle, end.number = handle, self.new_number()
        self._addresses[end.number] = end
        return end.number

    def find_end(self, number: int) -> AddressEnd | None:
        """The open address object of that number."""
        return self._addresses.get(number)

    def forget(self, number: int) -> None:
        """An address object was closed as a file."""
        self._addresses.pop(number, None)

    def was_given(self, number: int) -> bool:
        """Whether a file ever had this number."""
        return 1 <= number <= self._given

    def address_close(self, msgid: int, address: int) -> tuple[Any, ...]:
        end = self._find(address)
        if end is not None:
            del self._addresses[address]
            end.close()
        return ()

    def address_window(self, address: int, packets: int, byte_count: int) -> None:
        end = self._addresses.get(address)
        if end is None:
            stale_or_unknown("address", address, self._given)
        else:
            end.is_known = True
            end.granted(packets, byte_count)

    def address_send_datagram(self, msgid: int, address: int, host: str, port: int, data: bytes) -> None:
        end = self.find(address)
        end.is_known = True
        cost = len(data) + PACKET_OVERHEAD_BYTES
        if not end.inbound.arrive(cost):
            raise PeerViolation(f"address {address}: a datagram was sent although the window was used up")
        pending = PendingDatagram(end, msgid, cost)
        self._session.pending[msgid] = pending
        irp = build_send_datagram(end.handle, SocketAddress(host, port), data, len(data), pending)
        pending.irp = irp
        end.machine.datagrams.submit(irp)

    def address_query(self, msgid: int, address: int, query_type: int, length: int) -> None:
        end = self.find(address)
        submit_query(self._session, msgid, end.machine, end.handle, query_type, length)

    def network_query(self, msgid: int, machine: int, network: str, query_type: int, length: int) -> None:
        found = self._session.machine_requests.find(machine)
        submit_network_query(self._session, msgid, found, network, query_type, length)

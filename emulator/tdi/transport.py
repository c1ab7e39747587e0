"""One machine's TDI transport: its devices, its open files, and the way in for every request.

Calls do no input or output and never wait. They return what to do, in order (see ``effects``). What is not a request
with a completion of its own (open, query, cleanup, close) answers at once: an open and a query with an outcome, the
others by raising ``Refused``.

    open_address ─▶ PENDING + BindSocket ─▶ socket_bound | socket_failed ─▶ final outcome
    submit ─▶ Complete, or Transmit ─▶ next_transmit / transmitted … ─▶ Complete
    submit (a receive, a handler) ─▶ see receive_side
    cleanup ─▶ Complete … CleanupComplete ─▶ close ─▶ CloseSocket

Handles are numbers that are never reused within a machine. A client must only be let at its own: ``owner_of`` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi import dispatch
from emulator.tdi.address import AddressObject, ControlChannel, OpenFile
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_events import ConnectionEvents
from emulator.tdi.connection_files import ConnectionFiles
from emulator.tdi.constants import FileKind, MajorFunction, MinorFunction, ShareAccess
from emulator.tdi.create import CreateRequest, OpenAddress, OpenControl, parse_create_untrusted
from emulator.tdi.device import Device
from emulator.tdi.effects import CleanupComplete, Effect
from emulator.tdi.irp import Irp, IrpState
from emulator.tdi.profile import Profile
from emulator.tdi.query import QueryResult, answer
from emulator.tdi.queues import QueuedSend
from emulator.tdi.segment import SegmentPort
from emulator.tdi.segment_links import SegmentNetwork
from emulator.tdi.send_side import SendSide
from emulator.tdi.structures import Bytes, SocketAddress, canonical_untrusted, parse_transport_address_untrusted
from emulator.tdi.tcp import TCP_DEVICE_NAME, TCP_NETWORK, TcpDevice
from emulator.tdi.udp import LOOPBACK_ADDRESSES, LOOPBACK_NETWORKS, UDP_DEVICE_NAME, UDP_NETWORK, UdpDevice

_WINDOWS_NAMES = {UDP_DEVICE_NAME: UDP_NETWORK, TCP_DEVICE_NAME: TCP_NETWORK}


class OpenOutcome(NamedTuple):
    """What became of an open.

    PENDING: perform ``effects``, which bring the final outcome; ``handle`` is already the one it will have. SUCCESS:
    ``handle`` is open and, for an address, ``local`` what it is bound to. Anything else: refused, ``handle`` 0,
    ``message`` and ``rule`` say why.
    """

    status: NtStatus
    handle: int
    effects: tuple[Effect, ...] = ()
    local: SocketAddress | None = None
    message: str = ""
    rule: str | None = None


def refused_open(refusal: Refused) -> OpenOutcome:
    """The outcome that says what a refusal says."""
    return OpenOutcome(refusal.status, 0, message=refusal.message, rule=refusal.rule)


class Transport(SendSide):
    """All TDI devices of one machine.

    ``udp`` and ``tcp`` (also under their Windows names) and the segments it is attached to, by name.

    ``local_addresses`` are the host addresses it may bind, ``reachable_networks`` those its datagrams may go to; both
    are the loopback unless said otherwise. ``start_filetime`` is what the UDP device reports as its start.
    """

    def __init__(
        self,
        machine: str,
        profile: Profile,
        segments: Mapping[str, SegmentPort],
        local_addresses: Sequence[str] = LOOPBACK_ADDRESSES,
        reachable_networks: Sequence[str] = LOOPBACK_NETWORKS,
        start_filetime: int = 0,
    ) -> None:
        super().__init__(machine, profile)
        self._profile = profile
        self._udp = UdpDevice(machine, profile.udp, local_addresses, reachable_networks, start_filetime)
        self._add_device(UDP_NETWORK, self._udp)
        for name, port in segments.items():
            if name in (UDP_NETWORK, UDP_DEVICE_NAME, TCP_NETWORK, TCP_DEVICE_NAME):
                raise Misuse(f"a segment cannot be called {name}: that is a device of real sockets")
            self._add_device(name, port)
        self.connections = ConnectionFiles(
            self._files, self._devices, ConnectionEvents(machine, self.calls, self.loans)
        )
        self.tcp = TcpDevice(
            machine,
            profile.udp,
            profile.tcp,
            self.connections.endpoints,
            local_addresses,
            reachable_networks,
            start_filetime,
        )
        self._add_device(TCP_NETWORK, self.tcp)
        for port in segments.values():
            port.connections = SegmentNetwork(port, self.connections.endpoints, port.segment.profile.connections)
        self._last_handle = 0

    # Opening.

    def open_address(
        self, network: str, local: SocketAddress | Bytes, share: ShareAccess, owner: object
    ) -> OpenOutcome:
        """Open an address object on a network. ``local`` is an address or the bytes of a TRANSPORT_ADDRESS."""
        try:
            device, handle = self._new_file(network)
            wanted = local if isinstance(local, SocketAddress) else parse_transport_address_untrusted(local)
            address, effects = device.open(handle, owner, canonical_untrusted(wanted), share)
        except Refused as refusal:
            return refused_open(refusal)
        return OpenOutcome(NtStatus.PENDING, handle, effects) if effects else self._opened(address)

    def socket_bound(self, key: int, actual: SocketAddress) -> OpenOutcome:
        """The answer to a BindSocket.

        It is bound, to ``actual``. Returns the final outcome of the open that asked for it.
        """
        return self._opened(self._udp.socket_bound(key, actual))

    def socket_failed(self, key: int, status: NtStatus, message: str) -> OpenOutcome:
        """The answer to a BindSocket: it could not be bound.

        Returns the final outcome of the open that asked for it.
        """
        return refused_open(self._udp.socket_failed(key, status, message))

    def stream_bound(self, key: int, actual: SocketAddress) -> OpenOutcome:
        """The answer to a BindStream: it is bound, to ``actual``. Returns the final outcome of the open."""
        return self._opened(self.tcp.stream_bound(key, actual))

    def stream_failed(self, key: int, status: NtStatus, message: str) -> OpenOutcome:
        """The answer to a BindStream: it could not be bound. Returns the final outcome of the open."""
        return refused_open(self.tcp.stream_failed(key, status, message))

    def open_control(self, network: str, owner: object) -> OpenOutcome:
        """Open a control channel, for queries about the provider."""
        try:
            device, handle = self._new_file(network)
        except Refused as refusal:
            return refused_open(refusal)
        self._files[handle] = ControlChannel(handle, owner, device.network)
        return OpenOutcome(NtStatus.SUCCESS, handle)

    def create(
        self,
        network: str,
        attributes: Bytes | None,
        share: ShareAccess,
        owner: object,
        *,
        pointer_bytes: int = 8,
    ) -> OpenOutcome:
        """Open what an extended-attribute list asks for. Windows: IRP_MJ_CREATE."""
        try:
            request = self.what_to_create(network, attributes, pointer_bytes)
        except Refused as refusal:
            return refused_open(refusal)
        if isinstance(request, OpenAddress):
            return self.open_address(network, request.local, share, owner)
        if isinstance(request, OpenControl):
            return self.open_control(network, owner)
        return self.open_connection(network, request.context, owner)

    def what_to_create(self, network: str, attributes: Bytes | None, pointer_bytes: int) -> CreateRequest:
        """What an attribute list asks for; raises Refused."""
        unknown = self._device(network).profile.unknown_attribute_status
        return parse_create_untrusted(attributes, pointer_bytes=pointer_bytes, unknown_status=unknown)

    def open_connection(self, network: str, context: bytes, owner: object) -> OpenOutcome:
        """Open a connection endpoint; ``context`` comes back with its events (CR10)."""
        try:
            device, handle = self._new_file(network)
            self.connections.open(handle, device, context, owner)
        except Refused as refusal:
            return refused_open(refusal)
        return OpenOutcome(NtStatus.SUCCESS, handle)

    def _opened(self, address: AddressObject) -> OpenOutcome:
        self._files[address.handle] = address
        return OpenOutcome(NtStatus.SUCCESS, address.handle, local=address.local)

    def open_files(self, kind: FileKind) -> int:
        """How many files of a kind are open."""
        return sum(1 for file in self._files.values() if file.kind is kind)

    def _new_file(self, network: str) -> tuple[Device, int]:
        """The device a new file is for, and its handle."""
        device = self._device(network)
        if len(self._files) >= self._profile.max_open_files:
            text = f"this machine has {self._profile.max_open_files} open files, which is its limit: close some first"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="CR13")
        self._last_handle += 1
        return device, self._last_handle

    def _device(self, network: str) -> Device:
        device = self._devices.get(_WINDOWS_NAMES.get(network, network))
        if device is None:
            known = ", ".join(sorted(self._devices))
            raise Refused(
                NtStatus.OBJECT_NAME_NOT_FOUND, f"machine {self.machine} has no network {network!r}; it has {known}"
            )
        return device

    def network_of(self, name: str) -> str:
        """The one name of a network that may be called by its Windows name; Refused for one the machine has not."""
        return self._device(name).network

    @staticmethod
    def local_of(file: OpenFile) -> SocketAddress | None:
        """What a file is bound to; None for a file that is no address object."""
        return file.local if isinstance(file, AddressObject) else None

    def owner_of(self, handle: int) -> object:
        """Whoever opened a handle; Refused for one that is not open."""
        return self.file(handle).owner

    # Requests.

    def submit(self, irp: Irp, now: float) -> list[Effect]:
        """Submit any request, as objects or as a client's bytes. Without a Complete for it it is pending (P2)."""
        return dispatch.submit(self, irp, now)

    def send_datagram(self, irp: Irp, now: float) -> list[Effect]:
        """Submit a TDI_SEND_DATAGRAM and nothing else (S1, S36)."""
        known = irp.major == MajorFunction.INTERNAL_DEVICE_CONTROL and irp.minor == MinorFunction.SEND_DATAGRAM
        if irp.state is IrpState.NEW and not irp.cancelled and not known:
            text = f"major 0x{irp.major:02X} minor 0x{irp.minor:02X} is not a datagram send: that is 0x0F, 0x09"
            return [irp.refuse(Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="S1"))]
        return dispatch.submit(self, irp, now)

    def cancel(self, irp: Irp, now: float = 0.0) -> list[Effect]:
        """The client wants a request back. Windows: IoCancelIrp. Only requests of connections need to know ``now``.

        Waiting: it completes with CANCELLED. Not submitted yet: it will, when it is. Over: nothing happens.
        """
        irp.cancelled = True
        if irp.state is not IrpState.PENDING:
            return []
        effects = [effect for device in self._devices.values() for effect in device.cancel(irp)]
        file = self._files.get(irp.handle)
        if isinstance(file, AddressObject):
            effects += self._devices[file.network].indications.cancel(file, irp)
        return effects + self.connections.cancel(irp, now)

    def query(self, handle: int, query_type: int, buffer_bytes: int | None) -> QueryResult:
        """Answer a TDI_QUERY_INFORMATION into a buffer of that many bytes (None: no buffer).

        It completes at once (Q1).
        """
        try:
            file = self.file(handle)
        except Refused as refusal:
            return QueryResult(refusal.status, 0, b"", refusal.message)
        return answer(self._devices[file.network], file, query_type, buffer_bytes)

    # The real sockets.

    def know_broadcasts(self, hosts: Iterable[str]) -> None:
        """These are broadcast addresses of the host's interfaces."""
        self._udp.know_broadcasts(hosts)

    def broadcasts_unheard(self, handle: int) -> tuple[int, tuple[str, ...]]:
        """For a file opened without a BindSocket: the key of a socket, and the broadcast addresses it shall hear."""
        file = self.file(handle)
        if not isinstance(file, AddressObject) or not file.path_key:
            return 0, ()
        return file.path_key, self._udp.broadcasts_unheard(file)

    def next_transmit(self, key: int) -> QueuedSend | None:
        """What to try next on a socket: its ``data``, ``destination`` and ``token``. None when nothing waits."""
        return self._udp.next_transmit(key)

    def transmitted(self, key: int, token: int, status: NtStatus, message: str = "") -> list[Effect]:
        """What became of it: SUCCESS, or the status the host's error stands for.

        A socket without room answers nothing.
        """
        return self._udp.transmitted(key, token, status, message)

    def datagram_arrived(
        self, key: int, source: SocketAddress, destination: str | None, data: bytes, now: float
    ) -> list[Effect]:
        """A socket received ``data``; ``destination`` is the host it was sent to, None (the bound one) if unknown."""
        return self._udp.arrived(key, source, destination, data, now)

    def path_error_event(self, key: int, status: NtStatus, peer: SocketAddress | None) -> list[Effect]:
        """``error_event`` for every address object that sends through the real socket ``key`` (R49)."""
        return [
            effect for address in self._udp.users_of(key) for effect in self.error_event(address.handle, status, peer)
        ]

    # Time.

    def next_deadline(self) -> float | None:
        """When ``expire`` must be called, unless something else happens before; None while nothing waits."""
        deadlines = [device.queues.next_deadline() for device in self._devices.values()]
        deadlines += self.calls.next_deadline(), self.connections.endpoints.next_deadline()
        return min((at for at in deadlines if at is not None), default=None)

    def expire(self, now: float) -> list[Effect]:
        """End what took too long: sends (S31 to S33), calls of handlers that do not answer, and connections' waits."""
        effects = [effect for device in self._devices.values() for effect in device.expire(now)]
        return effects + self.calls.expire(now) + self.connections.endpoints.expire(now)

    # Ending.

    def cleanup(self, handle: int, now: float) -> list[Effect]:
        """The last use of a handle is over: its requests end, it gets nothing more. Windows: IRP_MJ_CLEANUP.

        Refused with INVALID_HANDLE for one that is not open, or cleaned up already. Close it after its CleanupComplete.
        """
        file = self.file(handle)
        if file.closing:
            raise Refused(NtStatus.INVALID_HANDLE, f"handle {handle} has been cleaned up already", rule="CL1")
        return self._cleanup(file, now, at_once=False)

    def _cleanup(self, file: OpenFile, now: float, *, at_once: bool) -> list[Effect]:
        if isinstance(file, ConnectionEndpoint):
            return self.connections.cleanup(file, now)
        if isinstance(file, AddressObject):
            listeners = self.connections.address_cleanup(file)
            return [*listeners, *self._devices[file.network].cleanup(file, now, at_once=at_once)]
        file.closing = True
        return [CleanupComplete(file.handle)]

    def close(self, handle: int) -> list[Effect]:
        """Free a handle that was cleaned up. Windows.

        IRP_MJ_CLOSE. Misuse when its CleanupComplete has not been given.
        """
        file = self.file(handle)
        if not file.closing or (isinstance(file, AddressObject) and file.queue):
            raise Misuse(f"handle {handle} is closed before its cleanup is complete")
        del self._files[handle]
        if isinstance(file, ConnectionEndpoint):
            return self.connections.close(file)
        return self._devices[file.network].release(file) if isinstance(file, AddressObject) else []

    def close_owner(self, owner: object, now: float) -> list[Effect]:
        """Clean up and close everything an owner has left, and forget what it never returned.

        Its waiting sends are cancelled, whatever the profile says.
        """
        effects = self._close_files([file for file in self._files.values() if file.owner == owner], now)
        self.loans.forget(owner)
        return effects

    def shutdown(self, now: float) -> list[Effect]:
        """Clean up and close everything: the machine ends. Its segments can be detached after this."""
        return self._close_files(list(self._files.values()), now)

    def _close_files(self, files: list[OpenFile], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for file in files:
            if not file.closing or (isinstance(file, AddressObject) and file.queue):
                effects += self._cleanup(file, now, at_once=True)
            effects += self.close(file.handle)
        return effects

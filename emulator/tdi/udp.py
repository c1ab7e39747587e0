"""The UDP device: address objects over real sockets, which somebody else opens, reads and writes.

Behind each local address and port stands one real socket, however many address objects are open there: sockets that
share a port would not share its datagrams, and address objects do (R2). An open that needs a new socket asks for it and
is pending until the answer comes; the answer must come before any other call.

What a machine may reach is part of what it is made with, the loopback by default. Everything else is refused with a
status. A wildcard open is bound to all of the machine's own addresses of its family, unless the wildcard itself is
among them; it still reports the wildcard. An address that another socket of the machine has at that moment stays there,
and its datagrams reach the wildcard's object all the same (R1). Each host address is kept as long as somebody is open
on it or on the wildcard, whoever asked for it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.constants import ShareAccess
from emulator.tdi.device import Device
from emulator.tdi.effects import BindSocket, CloseSocket, Effect, ReleaseHosts, Transmit
from emulator.tdi.profile import ProviderProfile
from emulator.tdi.queues import QueuedSend, SendPath
from emulator.tdi.structures import HostFacts, SocketAddress, canonical_untrusted, host_facts_untrusted, parsed_networks

UDP_NETWORK = "udp"
UDP_DEVICE_NAME = "\\Device\\Udp"

LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")
LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
LIMITED_BROADCAST, LOOPBACK_BROADCAST = "255.255.255.255", "127.255.255.255"
BROADCAST_HOSTS = frozenset({LIMITED_BROADCAST, LOOPBACK_BROADCAST})
"""The broadcast addresses known without asking an interface."""


class _Socket:
    """One real socket, on one host or several: where it is bound, and who is open on each of its hosts."""

    __slots__ = ("bound", "path", "users")

    def __init__(self, key: int, bound: SocketAddress, also: tuple[str, ...]) -> None:
        self.bound = bound
        self.path = SendPath(key)
        self.users: dict[str, list[AddressObject]] = {host: [] for host in (bound.host, *also)}


class UdpDevice(Device):
    """``\\Device\\Udp`` of one machine."""

    def __init__(
        self,
        machine: str,
        profile: ProviderProfile,
        local_addresses: Sequence[str] = LOOPBACK_ADDRESSES,
        reachable_networks: Sequence[str] = LOOPBACK_NETWORKS,
        start_filetime: int = 0,
    ) -> None:
        super().__init__(machine, UDP_NETWORK, profile, start_filetime)
        self._locals = tuple(host_facts_untrusted(host) for host in local_addresses)
        self._networks = parsed_networks(tuple(reachable_networks))
        self._reaches = lru_cache(maxsize=1_024)(self._compute_reaches)
        self._sockets: dict[int, _Socket] = {}
        self._by_bound: dict[SocketAddress, int] = {}
        self._pending: tuple[_Socket, AddressObject] | None = None
        self._last_key = 0
        self._broadcasts = BROADCAST_HOSTS

    def know_broadcasts(self, hosts: Iterable[str]) -> None:
        """These are broadcast addresses too."""
        self._broadcasts |= frozenset(hosts)

    def _compute_reaches(self, host: str) -> bool:
        address = ip_address(host)
        return any(address in network for network in self._networks)

    # Opening and closing.

    def open(
        self, handle: int, owner: object, local: SocketAddress, share: ShareAccess
    ) -> tuple[AddressObject, tuple[Effect, ...]]:
        """With a BindSocket for the first object on a socket, at once for any further one."""
        if self._pending is not None:
            raise Misuse("the last BindSocket has not been answered with socket_bound or socket_failed yet")
        wanted = host_facts_untrusted(local.host)
        hosts = self._hosts_to_bind(wanted)
        _, broadcast = self.check_open(local, share, allowed=bool(hosts))
        address = AddressObject(handle, owner, self.network, local, shared=share.is_shared, is_broadcast=broadcast)
        free = [host for host in hosts if SocketAddress(host, local.port) not in self._by_bound]
        if not free:
            self._join(self._sockets[self._by_bound[SocketAddress(hosts[0], local.port)]], address, hosts)
            return address, ()
        self._last_key += 1
        bound, also = SocketAddress(free[0], local.port), tuple(free[1:])
        self._pending = _Socket(self._last_key, bound, also), address
        return address, (BindSocket(self._last_key, bound, also, self._broadcasts_to_hear(wanted, hosts)),)

    def _hosts_to_bind(self, wanted: HostFacts) -> tuple[str, ...]:
        """The real addresses for a wanted one; none when this machine may not have it."""
        if any(own.text == wanted.text for own in self._locals):
            return (wanted.text,)
        if not wanted.is_wildcard:
            return ()
        return tuple(own.text for own in self._locals if own.version == wanted.version)

    def _broadcasts_to_hear(self, wanted: HostFacts, hosts: tuple[str, ...]) -> tuple[str, ...]:
        """A socket on one address hears no broadcasts, as a wildcard should; so they are bound besides."""
        if not wanted.is_wildcard or wanted.version != 4 or wanted.text in hosts:
            return ()
        others = {LIMITED_BROADCAST} if LOOPBACK_ADDRESSES[0] in hosts else BROADCAST_HOSTS
        return tuple(sorted(self._broadcasts - others))

    def broadcasts_unheard(self, address: AddressObject) -> tuple[str, ...]:
        """What a wildcard should hear and may not, as it was opened on sockets of single addresses."""
        wanted = host_facts_untrusted(address.local.host)
        return self._broadcasts_to_hear(wanted, self._hosts_to_bind(wanted))

    def _join(self, socket: _Socket, address: AddressObject, hosts: Iterable[str]) -> None:
        """It sends through this socket, and hears on all these hosts, whichever sockets have them."""
        for host in hosts:
            key = self._by_bound[SocketAddress(host, address.local.port)]
            self._sockets[key].users[host].append(address)
        address.path_key = socket.path.key
        self.table.add(address)

    def _answered(self, key: int) -> tuple[_Socket, AddressObject]:
        pending = self._pending
        if pending is None or pending[0].path.key != key:
            raise Misuse(f"no BindSocket with key {key} is waiting for an answer")
        self._pending = None
        return pending

    def socket_bound(self, key: int, actual: SocketAddress) -> AddressObject:
        """The socket exists, and with it the address object; ``actual`` has the port it really got (CR7)."""
        actual = canonical_untrusted(actual)
        socket, address = self._answered(key)
        socket.bound = actual
        address.local = SocketAddress(address.local.host, actual.port)
        self._sockets[key] = socket
        for host in socket.users:
            self._by_bound[SocketAddress(host, actual.port)] = key
        self._join(socket, address, self._hosts_to_bind(host_facts_untrusted(address.local.host)))
        return address

    def socket_failed(self, key: int, status: NtStatus, message: str) -> Refused:
        """There will be no socket; the open is refused with the status the host's error stands for."""
        _, address = self._answered(key)
        return Refused(status, f"{address.local} could not be bound: {message}", rule="CR8")

    def release(self, address: AddressObject) -> list[Effect]:
        """Each host goes with the last address object that is open on it, and a socket with the last of its hosts."""
        self.table.remove(address)
        hosts = self._hosts_to_bind(host_facts_untrusted(address.local.host))
        keys = dict.fromkeys(self._by_bound[SocketAddress(host, address.local.port)] for host in hosts)
        return [effect for key in keys for effect in self._leave(self._sockets[key], address)]

    def _leave(self, socket: _Socket, address: AddressObject) -> list[Effect]:
        key, gone = socket.path.key, []
        for host, users in list(socket.users.items()):
            if address in users:
                users.remove(address)
                if not users:
                    gone.append(host)
                    del socket.users[host], self._by_bound[SocketAddress(host, socket.bound.port)]
        if not socket.users:
            del self._sockets[key]
            return [CloseSocket(key)]
        if socket.bound.host in gone:
            socket.bound = SocketAddress(next(iter(socket.users)), socket.bound.port)
        return [ReleaseHosts(key, tuple(gone))] if gone else []

    def users_of(self, key: int) -> list[AddressObject]:
        """The address objects that may send through a socket."""
        socket = self._sockets.get(key)
        users = [] if socket is None else [user for users in socket.users.values() for user in users]
        return list(dict.fromkeys(users))

    # Sending and receiving.

    def _path(self, address: AddressObject) -> SendPath:
        return self._sockets[address.path_key].path

    def _kick(self, path: SendPath, now: float) -> list[Effect]:
        return [Transmit(path.key)]

    def check_route(self, address: AddressObject, facts: HostFacts) -> None:
        if not self._reaches(facts.text):
            allowed = ", ".join(str(network) for network in self._networks) or "none"
            text = f"{facts.text} is not in a network this machine may reach ({allowed})"
            raise Refused(self.profile.unreachable_status, text, rule="S22")

    def next_transmit(self, key: int) -> QueuedSend | None:
        """What shall be sent next on a socket.

        Asking twice gives the same, until it is answered, cancelled or expired.
        """
        socket = self._sockets.get(key)
        return None if socket is None else self.queues.head(socket.path)

    def transmitted(self, key: int, token: int, status: NtStatus, message: str) -> list[Effect]:
        """The send that ``next_transmit`` gave was tried, with this outcome."""
        socket = self._sockets.get(key)
        if socket is None:
            raise Misuse(f"there is no socket {key}")
        return self.sent(socket.path, token, status, message)[1]

    def arrived(
        self, key: int, source: SocketAddress, destination: str | None, data: bytes, now: float
    ) -> list[Effect]:
        """A socket received a datagram; ``destination`` is the address it was sent to, where the host tells."""
        socket = self._sockets.get(key)
        if socket is None:
            return []
        facts = host_facts_untrusted(socket.bound.host if destination is None else destination)
        return self.deliveries(source, facts, socket.bound.port, data, now)

    # What queries report.

    def is_broadcast(self, host: str) -> bool:
        """The limited broadcast, the loopback's, and those of interfaces that are known."""
        return host in self._broadcasts

    def own_interface(self, host: str, version: int) -> str | None:
        """One of the addresses this machine may bind; the wildcard is the first of the family."""
        facts = host_facts_untrusted(host)
        for own in self._locals:
            if own.version == version and (facts.is_wildcard or facts.text == own.text):
                return own.text
        return None

    def network_address(self) -> SocketAddress:
        """The first of the addresses this machine may bind."""
        return SocketAddress(self._locals[0].text if self._locals else "0.0.0.0", 0)

    def broadcast_address(self) -> SocketAddress:
        """IPv4's limited broadcast."""
        return SocketAddress("255.255.255.255", 0)

    def data_link_address(self) -> bytes:
        """The loopback has none: zeros."""
        return bytes(6)

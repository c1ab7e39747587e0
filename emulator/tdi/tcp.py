"""The TCP device: address objects over bound stream sockets, connections over connected ones, which others work.

Behind each local address and port stands one bound socket, the *holder*, however many address objects are open there;
one on the wildcard is open on the holders of all the machine's own addresses, beside others of theirs. A holder keeps
the port as long as one of them is open, listens from the first time somebody wants offers, and accepts only while
somebody does: until then the host's own queue holds those who connect. A connection has a socket of its own, and so has
an attempt.

The shell is told by effects that there is something to do for a socket, and asks what:

    ConnectStream ─▶ connected | failed
    AcceptStreams ─▶ while wants_accept: offered
    StreamChanged ─▶ piece / took, end_is_due / end_taken ; while room: arrived, finished ; broken
    CloseStream

What a machine may bind and reach is the same as for datagrams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.constants import ShareAccess
from emulator.tdi.device import Device
from emulator.tdi.effects import AcceptStreams, BindStream, CloseStream, ConnectStream, Effect
from emulator.tdi.irp import SendDatagram
from emulator.tdi.profile import ProviderProfile
from emulator.tdi.queues import SendPath
from emulator.tdi.structures import HostFacts, SocketAddress, canonical_untrusted, host_facts_untrusted, parsed_networks
from emulator.tdi.tcp_links import TcpLink, TcpNetwork

if TYPE_CHECKING:
    from emulator.tdi.connection import ConnectionEndpoint
    from emulator.tdi.connection_profile import ConnectionProfile
    from emulator.tdi.connections import Connections

TCP_NETWORK = "tcp"
TCP_DEVICE_NAME = "\\Device\\Tcp"


class _Holder:
    """One bound socket: who is open on it, and whether it listens."""

    __slots__ = ("bound", "key", "listens", "users")

    def __init__(self, key: int, bound: SocketAddress) -> None:
        self.key = key
        self.bound = bound
        self.users: list[AddressObject] = []
        self.listens = False


class TcpDevice(Device):
    """``\\Device\\Tcp`` of one machine, and how it carries connections. ``endpoints`` are that machine's."""

    carries_datagrams = False

    def __init__(
        self,
        machine: str,
        provider: ProviderProfile,
        profile: ConnectionProfile,
        endpoints: Connections,
        local_addresses: Sequence[str],
        reachable_networks: Sequence[str],
        start_filetime: int,
    ) -> None:
        super().__init__(machine, TCP_NETWORK, provider, start_filetime)
        self.connections = TcpNetwork(self, profile)
        self.endpoints = endpoints
        self._locals = tuple(host_facts_untrusted(host) for host in local_addresses)
        self._networks = parsed_networks(tuple(reachable_networks))
        self._reaches = lru_cache(maxsize=1_024)(self._compute_reaches)
        self._holders: dict[int, _Holder] = {}
        self._by_bound: dict[SocketAddress, _Holder] = {}
        self._by_address: dict[AddressObject, tuple[_Holder, ...]] = {}
        self._links: dict[int, TcpLink] = {}
        # An open that waits for its BindStream: the object, the holders to be, and those of it that stand already.
        self._pending: tuple[AddressObject, list[_Holder], list[_Holder]] | None = None
        self._last_key = 0

    def _compute_reaches(self, host: str) -> bool:
        address = ip_address(host)
        return any(address in network for network in self._networks)

    def _new_key(self) -> int:
        self._last_key += 1
        return self._last_key

    # Address objects.

    def open(
        self, handle: int, owner: object, local: SocketAddress, share: ShareAccess
    ) -> tuple[AddressObject, tuple[Effect, ...]]:
        """With a BindStream for the first object on a socket, at once for any further one."""
        if self._pending is not None:
            raise Misuse("the last BindStream has not been answered with stream_bound or stream_failed yet")
        hosts = self._hosts_to_bind(local.host)
        self.check_open(local, share, allowed=bool(hosts))
        address = AddressObject(handle, owner, self.network, local, shared=share.is_shared)
        standing = [self._by_bound.get(SocketAddress(host, local.port)) for host in hosts]
        made = [
            _Holder(self._new_key(), SocketAddress(host, local.port))
            for host, holder in zip(hosts, standing, strict=True)
            if holder is None
        ]
        found = [holder for holder in standing if holder is not None]
        if not made:
            self._join(found, address)
            return address, ()
        self._pending = address, made, found
        also = tuple((holder.key, holder.bound.host) for holder in made[1:])
        return address, (BindStream(made[0].key, made[0].bound, also),)

    def _hosts_to_bind(self, wanted: str) -> tuple[str, ...]:
        """The real addresses for a wanted one: all of its family for a wildcard; none when this machine may not."""
        facts = host_facts_untrusted(wanted)
        if any(own.text == facts.text for own in self._locals):
            return (facts.text,)
        if not facts.is_wildcard:
            return ()
        return tuple(own.text for own in self._locals if own.version == facts.version)

    def _join(self, holders: list[_Holder], address: AddressObject) -> None:
        for holder in holders:
            holder.users.append(address)
        self._by_address[address] = tuple(holders)
        self.table.add(address)

    def _answered(self, key: int) -> tuple[AddressObject, list[_Holder], list[_Holder]]:
        pending, self._pending = self._pending, None
        if pending is None or pending[1][0].key != key:
            raise Misuse(f"no BindStream with key {key} is waiting for an answer")
        return pending

    def stream_bound(self, key: int, actual: SocketAddress) -> AddressObject:
        """The answer to a BindStream: the port is ours, and with it the address object is open (CR7)."""
        address, made, found = self._answered(key)
        made[0].bound = canonical_untrusted(actual)
        address.local = SocketAddress(address.local.host, actual.port)
        for holder in made:
            holder.bound = SocketAddress(holder.bound.host, actual.port)
            self._holders[holder.key] = self._by_bound[holder.bound] = holder
        self._join(made + found, address)
        return address

    def stream_failed(self, key: int, status: NtStatus, message: str) -> Refused:
        """The answer to a BindStream: it could not be bound."""
        address, _, _ = self._answered(key)
        return Refused(status, f"{address.local} could not be bound: {message}", rule="CR8")

    def release(self, address: AddressObject) -> list[Effect]:
        """A holder goes with its last address object; connections have sockets of their own (CL8)."""
        self.table.remove(address)
        effects: list[Effect] = []
        for holder in self._by_address.pop(address):
            holder.users.remove(address)
            if not holder.users:
                del self._holders[holder.key], self._by_bound[holder.bound]
                effects.append(CloseStream(holder.key, abort=False))
        return effects

    # Offers.

    def offers_wanted(self, address: AddressObject, wanted: bool) -> list[Effect]:
        """Somebody listens on an address, or nobody any more; the shell asks ``wants_accept``."""
        effects: list[Effect] = []
        for holder in self._by_address.get(address, ()):
            if wanted or holder.listens:
                holder.listens = True
                effects.append(AcceptStreams(holder.key))
        return effects

    def wants_accept(self, key: int) -> bool:
        """Whether the next one who connects to a holder's port is to be accepted now."""
        holder = self._holders.get(key)
        return holder is not None and any(self.endpoints.wants_offers(user) for user in holder.users)

    def offered(self, key: int, remote: SocketAddress, now: float) -> tuple[int, list[Effect]]:
        """Somebody has connected to a holder: the key of that socket, and what to do about it.

        Who is open on that very address is asked before who is on the wildcard, whoever came first.
        """
        holder = self._holders[key]
        link = TcpLink(self._new_key(), canonical_untrusted(remote), self)
        self._links[link.key] = link
        users = sorted(holder.users, key=lambda user: user.is_wildcard)
        return link.key, self.endpoints.offer(users, self, link, b"", now)

    def listen_failed(self, key: int, status: NtStatus, message: str) -> list[Effect]:
        """The host does not let the holder listen: whoever listens there is told."""
        holder = self._holders.get(key)
        if holder is None:
            return []
        holder.listens = False
        text = f"{holder.bound} cannot be listened on: {message}"
        return [effect for user in holder.users for effect in self.endpoints.listens_failed(user, status, text)]

    # Connections.

    def dial(self, endpoint: ConnectionEndpoint, remote: SocketAddress) -> list[Effect]:
        """An attempt from the address an endpoint is associated with."""
        address = endpoint.address
        assert address is not None, "only an associated endpoint connects"
        link = TcpLink(self._new_key(), remote, self)
        self._links[link.key] = link
        endpoint.begin(link)
        return [ConnectStream(link.key, tuple(holder.key for holder in self._by_address[address]), remote)]

    def link(self, key: int) -> TcpLink | None:
        """The connection or attempt of a socket; None when it is over."""
        return self._links.get(key)

    def forget(self, link: TcpLink, *, abort: bool) -> list[Effect]:
        """A link is over on this side: its socket is closed."""
        if self._links.pop(link.key, None) is None:
            return []
        return [CloseStream(link.key, abort=abort)]

    # What a device has for datagrams, and this one has not.

    def destination_of(self, address: AddressObject, parameters: SendDatagram) -> SocketAddress:
        """There is none: TCP carries no datagrams."""
        text = "\\Device\\Tcp carries no datagrams: connect an endpoint, or use an address on udp"
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, text, rule="S1")

    def is_crowded(self, address: AddressObject) -> bool:
        """No burst leaves here: each send is refused on its own."""
        return True

    def join(self, address: AddressObject, group: str, interface: str) -> list[Effect]:
        """There are no groups: a connection has one peer."""
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, "a connection has one peer: groups are for udp", rule="O7")

    def leave(self, address: AddressObject, group: str, interface: str) -> list[Effect]:
        """There are no groups."""
        raise Refused(NtStatus.INVALID_DEVICE_REQUEST, "a connection has one peer: groups are for udp", rule="O8")

    def _path(self, address: AddressObject) -> SendPath:
        raise Misuse("no datagram is ever queued on the TCP device")

    def _kick(self, path: SendPath, now: float) -> list[Effect]:
        raise Misuse("no datagram is ever queued on the TCP device")

    def check_route(self, address: AddressObject, facts: HostFacts) -> None:
        """Refuse what is not in a network this machine may reach."""
        if not self._reaches(facts.text):
            allowed = ", ".join(str(network) for network in self._networks) or "none"
            text = f"{facts.text} is not in a network this machine may reach ({allowed})"
            raise Refused(self.profile.unreachable_status, text, rule="S22")

    # What queries report.

    def is_broadcast(self, host: str) -> bool:
        """TCP has none; the limited broadcast is refused as a destination all the same."""
        return host == "255.255.255.255"

    def own_interface(self, host: str, version: int) -> str | None:
        """One of the addresses this machine may bind; the wildcard is itself where allowed, else the first."""
        facts = host_facts_untrusted(host)
        for own in self._locals:
            if facts.text == own.text:
                return own.text
        if not facts.is_wildcard:
            return None
        return next((own.text for own in self._locals if own.version == version), None)

    def network_address(self) -> SocketAddress:
        """The first of the addresses this machine may bind."""
        return SocketAddress(self._locals[0].text if self._locals else "0.0.0.0", 0)

    def broadcast_address(self) -> SocketAddress:
        """There is none."""
        return SocketAddress("0.0.0.0", 0)

    def data_link_address(self) -> bytes:
        """The loopback has none: zeros."""
        return bytes(6)

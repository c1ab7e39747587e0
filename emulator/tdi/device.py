"""What every datagram device does alike: check a send, queue it, end it once; open and close address objects.

The checks of a send come in one fixed order, so that a request wrong in several ways always gets the same answer:
cancelled before it came, the file, the connection information, user data, the destination's form, whether it may go
there, the length, the buffer, room in the queue. The first two are the transport's, which knows the files; the rest are
here.

Devices differ in where a datagram goes: the UDP device hands it to a real socket, a segment to the other machines on
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject, AddressTable
from emulator.tdi.constants import ReceiveFlags, ShareAccess
from emulator.tdi.destination import check_cast, pick_destination_untrusted
from emulator.tdi.effects import CleanupComplete, Deliver, Effect, JoinGroup, LeaveGroup
from emulator.tdi.groups import Groups, Membership, SendOptions, multicast_group_untrusted
from emulator.tdi.handlers import HandlerCalls
from emulator.tdi.indications import Indications
from emulator.tdi.irp import Irp, SendDatagram
from emulator.tdi.loans import Loans
from emulator.tdi.profile import MAXIMUM_LENGTH, CleanupStyle, ProviderProfile
from emulator.tdi.queues import QueuedSend, SendPath, SendQueues
from emulator.tdi.receives import Arrived
from emulator.tdi.structures import HostFacts, SocketAddress, Statistics, host_facts_untrusted

if TYPE_CHECKING:
    from emulator.tdi.connections import ConnectionNetwork

# How a datagram arrived, without and with ENTIRE_MESSAGE: made once, since joining flags costs more than a delivery.
_UNICAST = ReceiveFlags.NONE, ReceiveFlags.ENTIRE_MESSAGE
_BROADCAST = ReceiveFlags.BROADCAST, ReceiveFlags.BROADCAST | ReceiveFlags.ENTIRE_MESSAGE
_MULTICAST = ReceiveFlags.MULTICAST, ReceiveFlags.MULTICAST | ReceiveFlags.ENTIRE_MESSAGE


class Device(ABC):
    """One network of one machine: its open addresses, their waiting sends, its statistics. Windows: DEVICE_OBJECT."""

    carries_datagrams = True

    def __init__(self, machine: str, network: str, profile: ProviderProfile, start_filetime: int) -> None:
        self.machine = machine
        self.network = network
        self.profile = profile
        self.start_filetime = start_filetime
        self.table = AddressTable()
        self.queues = SendQueues(profile)
        self.statistics = Statistics()
        self.connections: ConnectionNetwork | None = None
        """How it carries connections; None on a device for datagrams only (CR11)."""
        self.groups = Groups()

    def use(self, calls: HandlerCalls, loans: Loans) -> None:
        """Become a device of the transport whose handler calls and loans these are."""
        self.calls = calls
        self.loans = loans
        self.indications = Indications(self.machine, self.profile, calls, loans)

    # What a kind of device brings itself.

    @abstractmethod
    def open(
        self, handle: int, owner: object, local: SocketAddress, share: ShareAccess
    ) -> tuple[AddressObject, tuple[Effect, ...]]:
        """Open an address object on a canonical address; Refused when it may not be.

        With effects, the object exists only once they have been performed and answered.
        """

    @abstractmethod
    def release(self, address: AddressObject) -> list[Effect]:
        """Forget an address object that was cleaned up."""

    @abstractmethod
    def is_broadcast(self, host: str) -> bool:
        """Whether a canonical host is one of the network's broadcast addresses."""

    @abstractmethod
    def network_address(self) -> SocketAddress:
        """The machine's own address here, with port 0."""

    @abstractmethod
    def broadcast_address(self) -> SocketAddress:
        """Where to send what everyone shall get, with port 0."""

    @abstractmethod
    def data_link_address(self) -> bytes:
        """Six bytes of hardware address."""

    @abstractmethod
    def own_interface(self, host: str, version: int) -> str | None:
        """The machine's own address for an interface named by one, or by the wildcard; None where it has none such."""

    @abstractmethod
    def check_route(self, address: AddressObject, facts: HostFacts) -> None:
        """Refuse a destination there is no way to, or none this machine may use (S22)."""

    @abstractmethod
    def _path(self, address: AddressObject) -> SendPath:
        """What this address object sends through."""

    @abstractmethod
    def _kick(self, path: SendPath, now: float) -> list[Effect]:
        """Something was queued on this path: send it, or ask for it to be sent."""

    # Opening.

    def check_open(self, local: SocketAddress, share: ShareAccess, *, allowed: bool) -> tuple[HostFacts, bool]:
        """The rules every device has for an open: facts about the host, and whether it is a broadcast address."""
        facts = host_facts_untrusted(local.host)
        broadcast = self.is_broadcast(facts.text)
        if broadcast and not share.is_shared:
            raise Refused(
                self.profile.exclusive_broadcast_status,
                f"{facts.text} is a broadcast address and never opened exclusively: ask for sharing",
                rule="CR9",
            )
        if not allowed:
            raise Refused(
                NtStatus.INVALID_ADDRESS,
                f"{facts.text} is not an address of this machine on {self.network}: "
                f"open {self.network_address().host}, another address it was given, or the wildcard",
                rule="CR6",
            )
        if local.port:
            self.table.check_share(local, facts.version, share.is_shared)
        return facts, broadcast

    # Sending.

    def send(self, address: AddressObject, irp: Irp, now: float) -> list[Effect]:
        """Check a send and queue it (S4 to S30). A refused one completes at once and disturbs nothing queued (S27)."""
        parameters = irp.parameters
        if not isinstance(parameters, SendDatagram):
            raise Misuse(f"a datagram send has SendDatagram for parameters, not {type(parameters).__name__}")
        try:
            destination = self.destination_of(address, parameters)
            data = self._payload(parameters)
            self.queues.check_room(address, len(data))
        except Refused as refusal:
            return [irp.refuse(refusal)]
        path = self._path(address)
        irp.mark_pending()
        self.queues.put(address, path, irp, data, destination, now)
        return self._kick(path, now)

    def is_crowded(self, address: AddressObject) -> bool:
        """Whether a send would have to wait behind others."""
        return self.queues.head(self._path(address)) is not None

    def count_sent(self, datagrams: int, byte_count: int) -> None:
        """So much has left (S44)."""
        self.statistics.sent += datagrams
        self.statistics.sent_bytes += byte_count

    def destination_of(self, address: AddressObject, parameters: SendDatagram) -> SocketAddress:
        """Where a send goes (S4, S5, S13 to S22); Refused when it may not."""
        profile = self.profile
        information = parameters.information
        if information is None:
            raise Refused(
                profile.null_information_status, "a send needs connection information: the pointer is null", rule="S4"
            )
        if information.user_data_length:
            text = f"a datagram carries no separate user data: its length must be 0, not {information.user_data_length}"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="S5")
        destination = pick_destination_untrusted(information, address.version, profile)
        facts = host_facts_untrusted(destination.host)
        broadcast = self.is_broadcast(facts.text)
        check_cast(facts, broadcast, profile)
        if broadcast and not address.options.broadcast:
            text = f"{facts.text} is a broadcast, and {address.local} has broadcasts switched off: allow them first"
            raise Refused(profile.unsupported_cast_status, text, rule="S20")
        if address.is_broadcast:
            text = f"{address.local} is a broadcast address, which only receives: send from another address object"
            raise Refused(profile.broadcast_source_status, text, rule="S21")
        self.check_route(address, facts)
        return destination

    def _payload(self, parameters: SendDatagram) -> bytes:
        profile = self.profile
        length = parameters.length
        if not 0 <= length <= MAXIMUM_LENGTH:
            raise Refused(NtStatus.INVALID_PARAMETER, f"a send length is 0..{MAXIMUM_LENGTH}, not {length}", rule="S8")
        if length > profile.max_datagram_bytes:
            limit = profile.max_datagram_bytes
            text = (
                f"{length} bytes do not fit in one datagram: {self.network} takes {limit} at most and never fragments"
            )
            raise Refused(profile.too_long_status, text, rule="S8")
        if length == 0 and profile.refuses_zero_length:
            text = f"{self.network} does not send datagrams without data, as its service flags say"
            raise Refused(profile.zero_length_status, text, rule="S10")
        return parameters.gather(length, profile.short_buffer_status)

    def sent(self, path: SendPath, token: int, status: NtStatus, message: str = "") -> tuple[QueuedSend, list[Effect]]:
        """The head of a path was handed to the medium, or could not be: its request ends with ``status``."""
        send = self.queues.take_head(path, token)
        if not status.is_error:
            self.count_sent(1, len(send.data))
        return send, self._ended(send, status, message)

    def _ended(self, send: QueuedSend, status: NtStatus, message: str = "", rule: str | None = None) -> list[Effect]:
        """Complete a send that is out of its queue.

        With the last one of a cleaned-up object its cleanup is over (CL2).
        """
        information = 0 if status.is_error else len(send.data)
        effects: list[Effect] = [send.irp.complete(status, information, message, rule)]
        if send.address.closing and not send.address.queue:
            effects.append(CleanupComplete(send.address.handle))
        return effects

    # Ending.

    def cancel(self, irp: Irp) -> list[Effect]:
        """End a waiting send with CANCELLED (S38); nothing for one that has left (S39)."""
        send = self.queues.find(irp)
        if send is None:
            return []
        self.queues.remove(send)
        return self._ended(send, NtStatus.CANCELLED, "cancelled before it was sent", "S38")

    def expire(self, now: float) -> list[Effect]:
        """End every send whose time is over (S31, S33)."""
        effects: list[Effect] = []
        for send in self.queues.overdue(now):
            self.queues.remove(send)
            text = f"not sent within {self.profile.send_timeout_seconds:g} s: its path had no room"
            effects += self._ended(send, self.profile.expired_status, text, "S33")
        return effects

    def cleanup(self, address: AddressObject, now: float, *, at_once: bool = False) -> list[Effect]:
        """The last handle of an object is gone: its requests end, it gets no more datagrams (CL2, CL3, S40).

        The list ends with CleanupComplete, unless the profile drains; then that comes with the last waiting send's
        completion, a send time-out from now at the latest. ``at_once`` cancels whatever the profile says.
        """
        address.closing = True
        effects = self.indications.cleanup(address) + self._left(address, self.groups.leave_all(address))
        waiting: list[QueuedSend] = list(address.queue.values())
        if not waiting:
            return [*effects, CleanupComplete(address.handle)]
        if self.profile.cleanup is CleanupStyle.DRAIN and not at_once:
            return effects + self._kick(self._path(address), now)
        for send in waiting:
            self.queues.remove(send)
            effects += self._ended(
                send, NtStatus.CANCELLED, "its address object was cleaned up before it was sent", "S40"
            )
        return effects

    # Groups and options.

    def join(self, address: AddressObject, group: str, interface: str) -> list[Effect]:
        """Make an object a member of a multicast group (O7): its socket joins, if it has not yet. Raises Refused."""
        membership = self._membership(address, group, interface)
        first = self.groups.join(address, membership, self.profile)
        return [JoinGroup(address.path_key, *membership)] if first and address.path_key else []

    def leave(self, address: AddressObject, group: str, interface: str) -> list[Effect]:
        """End one join of a group (O8). Raises Refused."""
        membership = self._membership(address, group, interface)
        return self._left(address, [membership] if self.groups.leave(address, membership) else [])

    def _membership(self, address: AddressObject, group: str, interface: str) -> Membership:
        facts = multicast_group_untrusted(group, address.version)
        return Membership(facts.text, self._interface(address, interface, "O7"))

    def _interface(self, address: AddressObject, interface: str, rule: str) -> str:
        own = self.own_interface(interface, address.version)
        if own is None:
            text = f"{interface} is no interface of this machine on {self.network}: name one of its own addresses there"
            raise Refused(NtStatus.INVALID_ADDRESS, text, rule=rule)
        return own

    def _left(self, address: AddressObject, last: list[Membership]) -> list[Effect]:
        return [LeaveGroup(address.path_key, *membership) for membership in last if address.path_key]

    def set_options(self, address: AddressObject, options: SendOptions) -> None:
        """From now on its datagrams leave so. Refused, with nothing changed, for an interface it has not."""
        if options.multicast_interface is not None:
            own = self._interface(address, options.multicast_interface, "O7")
            options = replace(options, multicast_interface=own)
        address.options = options

    # Receiving.

    def deliveries(self, source: SocketAddress, facts: HostFacts, port: int, data: bytes, now: float) -> list[Effect]:
        """One arrived datagram, for every address object it matches (R1, R2).

        Counted and gone when there is none (R5).
        """
        broadcast = self.is_broadcast(facts.text)
        if facts.is_multicast:
            takers = self.table.members(facts.text, port)
        else:
            takers = self.table.matching(facts.text, facts.version, port, broadcast=broadcast)
        if not takers:
            self.statistics.dropped += 1
            return []
        self.statistics.received += 1
        self.statistics.received_bytes += len(data)
        how, whole = _MULTICAST if facts.is_multicast else _BROADCAST if broadcast else _UNICAST
        effects: list[Effect] = []
        arrived: Arrived | None = None
        for taker in takers:
            # Most have neither receives nor handlers: for them nothing needs to be asked.
            if taker.intake is None:
                effects.append(Deliver(self.machine, taker.handle, taker.owner, source, data, whole))
            else:
                arrived = arrived or Arrived(source, data, how)
                effects += self.indications.deliver(taker, arrived, now)
        return effects

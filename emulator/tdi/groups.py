"""Multicast groups and the options of a send: what an address object has besides its address.

A membership belongs to one address object (O9), for a group on one interface, and ends with the object's cleanup (O8).
An interface is named by the machine's own address on it; the wildcard stands for the first the device has.

Several address objects can stand on one real socket, which is a member as long as one of them is. So the first join and
the last leave are effects, ``JoinGroup`` and ``LeaveGroup``; a device without real sockets has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from emulator.status import NtStatus, Refused
from emulator.tdi.structures import HostFacts, host_facts_untrusted

if TYPE_CHECKING:
    from emulator.tdi.address import AddressObject
    from emulator.tdi.profile import ProviderProfile

GREATEST_TTL = 255


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How an address object's datagrams leave. Windows: the address options of the names given here."""

    ttl: int | None = None
    """Hops of a unicast or broadcast, 1 to 255; None leaves it to the host. Windows: AO_OPTION_TTL."""
    multicast_ttl: int = 1
    """Hops of a multicast, 0 to 255; with 0 it stays in the machine. Windows: AO_OPTION_MCASTTTL."""
    multicast_interface: str | None = None
    """The machine's own address on the interface multicasts leave by; None is the first. Windows: AO_OPTION_MCASTIF."""
    multicast_loop: bool = True
    """Whether the machine itself gets its multicasts (S25). Windows: AO_OPTION_MCASTLOOP.

    What leaves by a real loopback interface comes back in any case: that is what the interface does.
    """
    broadcast: bool = True
    """Whether a broadcast may be sent (S20). Windows: AO_OPTION_BROADCAST."""
    type_of_service: int = 0
    """The IPv4 byte of that name, 0 to 255. Windows: AO_OPTION_TOS."""

    def __post_init__(self) -> None:
        if self.ttl is not None and not 1 <= self.ttl <= GREATEST_TTL:
            raise Refused(NtStatus.INVALID_PARAMETER, f"a TTL is 1 to {GREATEST_TTL}, not {self.ttl}")
        if not 0 <= self.multicast_ttl <= GREATEST_TTL:
            raise Refused(
                NtStatus.INVALID_PARAMETER, f"a multicast TTL is 0 to {GREATEST_TTL}, not {self.multicast_ttl}"
            )
        if not 0 <= self.type_of_service <= 0xFF:
            raise Refused(NtStatus.INVALID_PARAMETER, f"a type of service is 0 to 255, not {self.type_of_service}")


DEFAULT_OPTIONS = SendOptions()


class Membership(NamedTuple):
    """A group, and the machine's own address on the interface it is joined on."""

    group: str
    interface: str


def multicast_group_untrusted(text: str, version: int) -> HostFacts:
    """Facts about a group of the address object's family; INVALID_ADDRESS when it is none (O7)."""
    facts = host_facts_untrusted(text)
    if not facts.is_multicast or facts.version != version:
        what = "224.0.0.0 to 239.255.255.255" if version == 4 else "ff00::/8"
        raise Refused(
            NtStatus.INVALID_ADDRESS, f"{facts.text} is no IPv{version} multicast group: those are {what}", rule="O7"
        )
    return facts


class Groups:
    """Who is a member of what, on one device of one machine."""

    def __init__(self) -> None:
        self._on_path: dict[tuple[int, Membership], int] = {}

    def join(self, address: AddressObject, membership: Membership, profile: ProviderProfile) -> bool:
        """Add a membership; True for the first one of its path. Joining twice is a choice (O7)."""
        joined = address.groups.get(membership, 0)
        if joined and not profile.counts_joins:
            text = f"{address.local} is a member of {membership.group} on {membership.interface} already"
            raise Refused(NtStatus.ADDRESS_ALREADY_EXISTS, text, rule="O7")
        if not joined and len(address.groups) >= profile.max_groups:
            text = f"{address.local} is in {profile.max_groups} groups, which is its limit: leave one first"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="O7")
        if not address.groups:
            address.groups = {}
        address.groups[membership] = joined + 1
        return not joined and self._count(address.path_key, membership)

    def _count(self, path_key: int, membership: Membership) -> bool:
        key = path_key, membership
        self._on_path[key] = self._on_path.get(key, 0) + 1
        return self._on_path[key] == 1

    def leave(self, address: AddressObject, membership: Membership) -> bool:
        """Take one join back (O8); True when it was the last one of its path."""
        joined = address.groups.get(membership, 0)
        if not joined:
            text = f"{address.local} is no member of {membership.group} on {membership.interface}"
            raise Refused(NtStatus.INVALID_ADDRESS, text, rule="O8")
        if joined > 1:
            address.groups[membership] = joined - 1
            return False
        del address.groups[membership]
        return self._uncount(address.path_key, membership)

    def _uncount(self, path_key: int, membership: Membership) -> bool:
        key = path_key, membership
        self._on_path[key] -= 1
        if self._on_path[key]:
            return False
        del self._on_path[key]
        return True

    def leave_all(self, address: AddressObject) -> list[Membership]:
        """The object's cleanup (O8): the memberships whose path has no further member."""
        last = [each for each in address.groups if self._uncount(address.path_key, each)]
        if address.groups:
            address.groups = {}
        return last

"""Where a send may go: from what the client gave to one socket address, or a refusal that says why not.

An address list may hold several entries; the first usable one is taken (S15). Usable means: of the address object's own
family, long enough, a single host or group rather than a wildcard, and with a port. Whether the provider lets it go
there is the second question, asked of the first usable entry alone.
"""

from __future__ import annotations

from emulator.status import Refused
from emulator.tdi.constants import AddressType
from emulator.tdi.irp import ConnectionInformation
from emulator.tdi.profile import ProviderProfile
from emulator.tdi.structures import (
    AddressEntry,
    Bytes,
    HostFacts,
    SocketAddress,
    canonical_untrusted,
    decode_entry,
    host_facts_untrusted,
    walk_transport_address_untrusted,
)


def pick_destination_untrusted(
    information: ConnectionInformation, version: int, profile: ProviderProfile
) -> SocketAddress:
    """The destination of a send from an address object of IP ``version``; Refused for S13 to S19 and S21a."""
    remote = information.remote_address
    if remote is None:
        raise Refused(
            profile.bad_destination_status, "a datagram needs a destination: the remote address is missing", rule="S13"
        )
    if isinstance(remote, SocketAddress):
        try:
            address = canonical_untrusted(remote)
        except Refused as bad:
            raise Refused(profile.bad_destination_status, bad.message, rule="S18") from bad
        refusal = _unusable(address, version, profile)
        if refusal is not None:
            raise refusal
        return address
    return _first_usable(_cut(remote, information.remote_address_length, profile), version, profile)


def _cut(remote: Bytes, length: int | None, profile: ProviderProfile) -> Bytes:
    """The bytes that RemoteAddressLength covers; it can never cover more than there are."""
    if length is None:
        return remote
    if not 0 <= length <= len(remote):
        raise Refused(
            profile.bad_destination_status,
            f"the remote address length is {length}, but {len(remote)} bytes are there",
            rule="S13",
        )
    return remote[:length]


def _first_usable(data: Bytes, version: int, profile: ProviderProfile) -> SocketAddress:
    first_refusal: Refused | None = None
    try:
        for entry in walk_transport_address_untrusted(data):
            address = decode_entry(entry)
            refusal = _undecodable(entry, profile) if address is None else _unusable(address, version, profile)
            if address is not None and refusal is None:
                return address
            if (
                profile.strict_destination
                and entry.address_type not in (AddressType.IP, AddressType.IP6)
                and refusal is not None
            ):
                raise refusal
            first_refusal = first_refusal or refusal
    except Refused as bad:
        if bad.rule in ("S13", "S14"):
            raise Refused(profile.bad_destination_status, bad.message, rule=bad.rule) from bad
        raise
    assert first_refusal is not None, "a list has one entry at least, and it was not usable"
    raise first_refusal


def _undecodable(entry: AddressEntry, profile: ProviderProfile) -> Refused:
    if entry.address_type in (AddressType.IP, AddressType.IP6):
        needed = 14 if entry.address_type == AddressType.IP else 26
        text = f"an address entry of type {entry.address_type} has {needed} bytes at least, not {len(entry.data)}"
        return Refused(profile.bad_destination_status, text, rule="S17")
    text = f"address type {entry.address_type} is not for this device: IPv4 is type 2, IPv6 is type 23"
    return Refused(profile.wrong_family_status, text, rule="S16" if profile.strict_destination else "S19")


def _unusable(address: SocketAddress, version: int, profile: ProviderProfile) -> Refused | None:
    """Why an address cannot be sent to, whatever the provider allows; None when it can."""
    facts = host_facts_untrusted(address.host)
    if facts.version != version:
        text = f"{address} is IPv{facts.version}, but the address object is IPv{version}: open one of that family"
        return Refused(profile.wrong_family_status, text, rule="S19")
    if facts.is_mapped:
        text = f"{address} is an IPv4 address in IPv6 form: send from an IPv4 address object to the plain address"
        return Refused(profile.wrong_family_status, text, rule="S19")
    if facts.is_wildcard or address.port == 0:
        what = "a wildcard address" if facts.is_wildcard else "port 0"
        return Refused(profile.bad_destination_status, f"{what} is no destination: name a host and a port", rule="S18")
    return None


def check_cast(facts: HostFacts, is_broadcast: bool, profile: ProviderProfile) -> None:
    """Refuse a broadcast or multicast destination of a provider that has none (S20)."""
    if is_broadcast and not profile.supports_broadcast:
        raise Refused(
            profile.unsupported_cast_status,
            f"{facts.text} is a broadcast, which this provider does not offer",
            rule="S20",
        )
    if facts.is_multicast and not profile.supports_multicast:
        raise Refused(
            profile.unsupported_cast_status,
            f"{facts.text} is a multicast, which this provider does not offer",
            rule="S20",
        )

"""Who may do what: every method's role in one table, and the lists of those who may have it, machine by machine.

A role is asked for where a client first names a machine; what it has got from there (a channel, an address) is its own.
Root and the daemon's own user may do everything. Somebody without any role on a machine gets the answer that somebody
gets who asks for a machine that does not exist.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from emulator.config import AccessConfig, Config
from emulator.wire.schema import METHODS, Method

SO_PEERGROUPS = 59  # Linux has it since 4.13; Python has no name for it
# As many as Python lets the kernel say at once. Who is in more counts as in the first one only.
MOST_GROUPS = 256


class Role(Enum):
    """What a client may be on a machine; ADMIN is of the whole daemon."""

    GUEST = "guest"
    HOST = "host"
    DATAGRAM = "datagram"
    ADMIN = "admin"


MACHINE_ROLES = (Role.GUEST, Role.HOST, Role.DATAGRAM)

# The longest beginning of a method's name decides. None: whoever has any role on the machine.
_ROLES: dict[str, Role | None] = {
    "daemon.log_level": Role.ADMIN,
    "machine.": None,
    "machine.create": Role.ADMIN,
    "machine.remove": Role.ADMIN,
    "memory.": None,
    "channel.offer": Role.HOST,
    "channel.open": Role.GUEST,
    # A driver channel is of either side; its own requests say which.
    "driver.allocate": None,
    "bus.": Role.GUEST,
    "address.open": Role.DATAGRAM,
    "network.": Role.DATAGRAM,
    "file.": Role.DATAGRAM,
    "connection.open": Role.DATAGRAM,
    "segment.": Role.ADMIN,
    "keys.": Role.ADMIN,
    # A filter sees what every other client of the machine asks its devices for.
    "filter.attach": Role.ADMIN,
}


def role_of(method: Method) -> Role | None:
    """The role a method asks for, of the machine it names or of the daemon; None when it asks for no particular one."""
    begins = [begin for begin in _ROLES if method.name.startswith(begin)]
    return _ROLES[max(begins, key=len)] if begins else None


def is_decided(method: Method) -> bool:
    """Whether the table says something about a method."""
    return any(method.name.startswith(begin) for begin in _ROLES)


REQUIRED: dict[Method, Role] = {method: role for method in METHODS if (role := role_of(method)) is not None}
"""Every method that asks for a role."""


@dataclass(frozen=True)
class Identity:
    """Who a client is: a user of this host with groups, or a key with what it was granted."""

    user: int | None = None
    groups: frozenset[int] = frozenset()
    key: str | None = None
    grants: Mapping[str, frozenset[Role]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"key {self.key!r}" if self.key is not None else f"user {self.user}"

    @property
    def is_trusted(self) -> bool:
        """Whether it is root or the daemon's own user."""
        return self.key is None and self.user in (0, os.geteuid())


def identity_of_peer(sock: socket.socket) -> tuple[Identity, int]:
    """Who is at the other end of a Unix socket, as the kernel noted when it connected, and its process number."""
    process, user, group = struct.unpack("iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS * 4)
    except OSError:
        packed = b""
    groups = struct.unpack(f"{len(packed) // 4}I", packed)
    return Identity(user, frozenset((group, *groups))), process


class UnknownName(ValueError):
    """A list names a user or group this host does not have."""


class _List:
    """Those named by one list: users, groups ("@name"), keys ("key:name"), or every user of this host ("*")."""

    def __init__(self, entries: Iterable[str | int]) -> None:
        self._everybody = False
        self._users: set[int] = set()
        self._groups: set[int] = set()
        self._keys: set[str] = set()
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str | int) -> None:
        text = str(entry)
        try:
            if text == "*":
                self._everybody = True
            elif text.startswith("key:"):
                self._keys.add(text.removeprefix("key:"))
            elif text.startswith("@"):
                name = text[1:]
                self._groups.add(int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid)
            else:
                self._users.add(int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid)
        except KeyError:
            kind = "group" if text.startswith("@") else "user"
            raise UnknownName(f"this host has no {kind} {text.removeprefix('@')!r}") from None

    def __contains__(self, identity: Identity) -> bool:
        if identity.key is not None:
            return identity.key in self._keys
        return self._everybody or identity.user in self._users or not self._groups.isdisjoint(identity.groups)


class Access:
    """The lists of one configuration."""

    def __init__(self, config: Config) -> None:
        """Raises UnknownName, which says where."""
        self._admins = _named("access.admin", config.access.admin)
        self._machines: dict[str, dict[Role, _List]] = {}
        # A thousand machines have few different settings between them.
        known: dict[AccessConfig, dict[Role, _List]] = {}
        for name, settings in config.machines.items():
            if settings.access not in known:
                known[settings.access] = _machine_lists(f"machines.{name}", settings.access)
            self._machines[name] = known[settings.access]

    def add_machine(self, name: str, settings: AccessConfig) -> None:
        """A machine has come into being. Raises UnknownName."""
        self._machines[name] = _machine_lists(f"machines.{name}", settings)

    def remove_machine(self, name: str) -> None:
        """A machine is gone."""
        self._machines.pop(name, None)

    def allows(self, identity: Identity, role: Role, machine: str | None = None) -> bool:
        """Whether somebody may have a role: of a machine, or ADMIN of the daemon."""
        if identity.is_trusted:
            return True
        if role is Role.ADMIN:
            return identity in self._admins
        if machine is None:
            return False
        lists = self._machines.get(machine)
        return role in identity.grants.get(machine, ()) or (lists is not None and identity in lists[role])

    def shows(self, identity: Identity, machine: str) -> bool:
        """Whether somebody may know of a machine: with any role on it, or as one who looks after the daemon."""
        return self.allows(identity, Role.ADMIN) or any(self.allows(identity, role, machine) for role in MACHINE_ROLES)


def _machine_lists(place: str, settings: AccessConfig) -> dict[Role, _List]:
    return {role: _named(f"{place}.access.{role.value}", getattr(settings, role.value)) for role in MACHINE_ROLES}


def _named(place: str, entries: Iterable[str | int]) -> _List:
    try:
        return _List(entries)
    except UnknownName as error:
        raise UnknownName(f"{place}: {error}") from None

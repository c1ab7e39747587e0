"""The keys directory of a daemon: its authority, its own key, and the register of clients with what each may do.

::

    DIRECTORY/           0700
      ca.pem  ca.key     the authority; the key signs for new clients, and the running daemon does not need it
      daemon.pem  .key   what the daemon shows its clients
      clients.json       the register: name, fingerprint, until when, roles by machine, and whether it was revoked
      clients/NAME/      what NAME's program needs: take it there, and remove it here

Changes are made under a lock and replace the register whole, so that a daemon reads the old one or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificate

from emulator.remote.certificates import (
    CLIENT_DAYS,
    Certified,
    Key,
    fingerprint,
    issue_client,
    issue_daemon,
    make_authority,
    utc_now,
)
from emulator.remote.credentials import write_credentials

ROLE_NAMES = ("guest", "host", "datagram")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
FORMAT = 1


class KeysUnusable(Exception):
    """The keys directory cannot be used, or a change to it is refused; the text says why and what to do."""


@dataclass(frozen=True)
class ClientKey:
    """One client in the register; times in ISO 8601, UTC."""

    name: str
    fingerprint: str
    created: str
    expires: str
    grants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    revoked: str | None = None


class Keyring:
    """An existing keys directory."""

    def __init__(self, directory: Path) -> None:
        """Raises KeysUnusable where there is none, or others may look into it."""
        self.directory = directory
        if not (directory / "ca.pem").exists():
            raise KeysUnusable(f"{directory} has no keys; make them with: vmbusctl keys --directory {directory} init")
        for path in (directory, *directory.glob("*.key"), directory / "clients.json"):
            _check_mode(path)

    @classmethod
    def init(cls, directory: Path) -> Keyring:
        """Make an authority and the daemon's key. Raises KeysUnusable where there are some already."""
        if (directory / "ca.pem").exists():
            raise KeysUnusable(f"{directory} has keys already; name another directory, or remove it to begin anew")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_mode(directory)
        authority = make_authority()
        daemon = issue_daemon(authority)
        write_private(directory / "ca.key", authority.key_pem())
        write_private(directory / "daemon.key", daemon.key_pem())
        write_private(directory / "daemon.pem", daemon.certificate_pem(), 0o644)
        write_private(directory / "clients.json", _document({}))
        # Last, since it is what shows that the directory is complete.
        write_private(directory / "ca.pem", authority.certificate_pem(), 0o644)
        return cls(directory)

    # ---- reading

    def authority_certificate(self) -> Certificate:
        """What the daemon judges its clients' certificates by."""
        return load_pem_x509_certificate(self._read("ca.pem"))

    def daemon(self) -> Certified:
        """The daemon's own certificate and key."""
        return Certified(load_pem_x509_certificate(self._read("daemon.pem")), self._key("daemon.key"))

    def clients(self) -> dict[str, ClientKey]:
        """The register."""
        try:
            document = json.loads(self._read("clients.json"))
            if document["format"] != FORMAT:
                raise KeysUnusable(f"{self.directory}/clients.json is of another version of this program")
            found = {}
            for entry in document["clients"]:
                grants = {str(machine): tuple(roles) for machine, roles in entry["grants"].items()}
                found[entry["name"]] = ClientKey(**{**entry, "grants": grants})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeysUnusable(f"{self.directory}/clients.json is damaged: {error!r}") from None
        return found

    def find(self, name: str) -> ClientKey:
        """One client of the register. Raises KeysUnusable."""
        clients = self.clients()
        if name not in clients:
            known = ", ".join(sorted(clients)) or "none"
            raise KeysUnusable(f"there is no key {name!r}; there are: {known}")
        return clients[name]

    def _read(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except OSError as error:
            raise KeysUnusable(f"{self.directory / name} cannot be read: {error.strerror}") from None

    def _key(self, name: str) -> Key:
        key = load_pem_private_key(self._read(name), None)
        if not isinstance(key, Key):
            raise KeysUnusable(f"{self.directory / name} holds no key of the kind this program makes")
        return key

    # ---- changing

    def add(self, name: str, grants: Mapping[str, tuple[str, ...]], days: float = CLIENT_DAYS) -> Path:
        """Make a key for a client; the directory its program needs. A revoked or expired one is replaced."""
        if not _NAME.fullmatch(name):
            raise KeysUnusable(f"{name!r} is no name for a key; letters, digits, '.', '_' and '-' make one")
        _check_grants(grants)
        with self._changing() as clients:
            known = clients.get(name)
            if known is not None and known.revoked is None and known.expires > utc_now().isoformat():
                raise KeysUnusable(f"there is a key {name!r} already; revoke it first, or choose another name")
            authority = Certified(self.authority_certificate(), self._key("ca.key"))
            client = issue_client(authority, name, days)
            where = self.directory / "clients" / name
            write_credentials(where, authority.certificate_pem(), client)
            clients[name] = ClientKey(
                name,
                fingerprint(client.certificate),
                utc_now().isoformat(timespec="seconds"),
                client.certificate.not_valid_after_utc.isoformat(),
                dict(grants),
            )
        return where

    def grant(self, name: str, machine: str, roles: tuple[str, ...]) -> ClientKey:
        """Say which roles a client has on a machine; none takes away what it had. What it may do from now on."""
        _check_grants({machine: roles})
        with self._changing() as clients:
            known = self.find(name)
            grants = {each: held for each, held in known.grants.items() if each != machine}
            if roles:
                grants[machine] = roles
            clients[name] = replace(known, grants=grants)
            return clients[name]

    def revoke(self, name: str) -> ClientKey:
        """Never let this client in again."""
        with self._changing() as clients:
            known = self.find(name)
            if known.revoked is None:
                clients[name] = replace(known, revoked=utc_now().isoformat(timespec="seconds"))
            return clients[name]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, ClientKey]]:
        lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            clients = self.clients()
            yield clients
            write_private(self.directory / "clients.json", _document(clients))
        finally:
            os.close(lock)


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a file in the place of another, whole or not at all, and never readable to others meanwhile."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _document(clients: Mapping[str, ClientKey]) -> bytes:
    entries = [asdict(clients[name]) for name in sorted(clients)]
    return (json.dumps({"format": FORMAT, "clients": entries}, indent=1) + "\n").encode()


def _check_grants(grants: Mapping[str, tuple[str, ...]]) -> None:
    for machine, roles in grants.items():
        if not _NAME.fullmatch(machine):
            raise KeysUnusable(f"{machine!r} is no name of a machine; grants are written like vm1=guest,datagram")
        for role in roles:
            if role not in ROLE_NAMES:
                raise KeysUnusable(f"there is no role {role!r} on a machine; roles are: {', '.join(ROLE_NAMES)}")


def _check_mode(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise KeysUnusable(f"{path} cannot be used: {error.strerror}") from None
    if stat.S_IMODE(found.st_mode) & 0o077:
        text = f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}); close it with: chmod go= {path}"
        raise KeysUnusable(text)

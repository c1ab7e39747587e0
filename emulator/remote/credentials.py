"""A client's credentials: a directory with its key, its certificate, and the authority of the daemon it belongs to."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from emulator.remote.certificates import Certified, Key


class CredentialsUnusable(Exception):
    """They cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Credentials:
    """What a client shows, and what it judges the daemon by."""

    authority_pem: bytes
    own: Certified


def write_credentials(directory: Path, authority_pem: bytes, own: Certified) -> None:
    """Make such a directory, or put a new key into one."""
    for each in (directory.parent, directory):
        each.mkdir(mode=0o700, exist_ok=True)
    for name, content, mode in (
        ("ca.pem", authority_pem, 0o644),
        ("client.pem", own.certificate_pem(), 0o644),
        ("client.key", own.key_pem(), 0o600),
    ):
        (directory / name).unlink(missing_ok=True)
        descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def read_credentials(directory: Path) -> Credentials:
    """Raises CredentialsUnusable."""
    try:
        authority_pem = (directory / "ca.pem").read_bytes()
        certificate = load_pem_x509_certificate((directory / "client.pem").read_bytes())
        key_path = directory / "client.key"
        mode = stat.S_IMODE(key_path.stat().st_mode)
        key = load_pem_private_key(key_path.read_bytes(), None)
    except OSError as error:
        text = f"{error.filename} cannot be read: {error.strerror}; credentials are made with: vmbusctl keys add NAME"
        raise CredentialsUnusable(text) from None
    except (ValueError, TypeError) as error:
        raise CredentialsUnusable(f"{directory} holds no credentials this program can read: {error}") from None
    if mode & 0o077:
        raise CredentialsUnusable(
            f"{key_path} is open to others (mode {mode:04o}); close it with: chmod go= {key_path}"
        )
    if not isinstance(key, Key):
        raise CredentialsUnusable(f"{key_path} holds no key of the kind this program makes")
    return Credentials(authority_pem, Certified(certificate, key))

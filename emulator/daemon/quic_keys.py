"""Who a client over UDP is, by the certificate it has shown to hold the key of."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from emulator.daemon.roles import Identity, Role

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from emulator.remote.keyring import ClientKey, Keyring


class NotAdmitted(Exception):
    """A client is not let in; the text says why. ``alert`` is the TLS alert that means it."""

    def __init__(self, alert: int, text: str) -> None:
        super().__init__(text)
        self.alert = alert


class KeysUnreadable(Exception):
    """The register could not be read anew, and what was read before holds; the text says why."""


BAD_CERTIFICATE, REVOKED, EXPIRED, UNKNOWN_CA, CERTIFICATE_REQUIRED = 42, 44, 45, 48, 116


class Admission:
    """The register as it was read last."""

    def __init__(self, keyring: Keyring) -> None:
        """Raises KeysUnusable, or KeysUnreadable."""
        self._keyring = keyring
        self._authority = keyring.authority_certificate()
        self._clients: dict[str, ClientKey] = {}
        self.reload()

    def reload(self) -> None:
        """Read the register anew. Raises KeysUnreadable, and goes on with what it had."""
        from emulator.remote.keyring import KeysUnusable

        try:
            self._clients = {each.fingerprint: each for each in self._keyring.clients().values()}
        except KeysUnusable as error:
            raise KeysUnreadable(str(error)) from None

    @property
    def admitted(self) -> int:
        """How many keys are let in, as far as the register goes."""
        return sum(each.revoked is None for each in self._clients.values())

    def admit(self, certificate: Certificate | None) -> tuple[Identity, str, datetime.datetime]:
        """Who it is, by which fingerprint, and until when. Raises NotAdmitted."""
        from emulator.remote.certificates import CertificateRefused, check_client, fingerprint, utc_now

        if certificate is None:
            raise NotAdmitted(CERTIFICATE_REQUIRED, "a certificate is needed; connect with credentials=DIRECTORY")
        now = utc_now()
        try:
            check_client(certificate, self._authority, now)
        except CertificateRefused as error:
            alert = EXPIRED if now > certificate.not_valid_after_utc else BAD_CERTIFICATE
            raise NotAdmitted(alert, str(error)) from None
        shown = fingerprint(certificate)
        return self.identity(shown), shown, certificate.not_valid_after_utc

    def identity(self, shown: str) -> Identity:
        """Who has a certificate now, by its fingerprint, and what it may do. Raises NotAdmitted."""
        known = self._clients.get(shown)
        if known is None:
            raise NotAdmitted(UNKNOWN_CA, "this certificate is not in the daemon's register; it may have been replaced")
        if known.revoked is not None:
            raise NotAdmitted(REVOKED, f"the key {known.name!r} was revoked")
        grants = {machine: frozenset(Role(role) for role in roles) for machine, roles in known.grants.items()}
        return Identity(key=known.name, grants=grants)

"""A small private authority: who may call himself the daemon, and who a client with a name.

Everything is ECDSA on P-256. The daemon's certificate is told from a client's by its name and its purpose, so that no
client can pass for the daemon. What a client may do stands in no certificate but in the daemon's register.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from emulator.remote.engine import DAEMON_NAME

Key = ec.EllipticCurvePrivateKey
# Clocks of two hosts differ.
LEEWAY = datetime.timedelta(minutes=5)
AUTHORITY_DAYS = 3650
DAEMON_DAYS = 3650
CLIENT_DAYS = 365


class CertificateRefused(Exception):
    """A client's certificate is not good; the text says why."""


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Key

    def certificate_pem(self) -> bytes:
        """The certificate as a file has it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key as a file has it, not encrypted: the file's mode is what keeps it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, in hexadecimal: what both sides compare."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def utc_now() -> datetime.datetime:
    """The time of day, which certificates go by."""
    return datetime.datetime.now(datetime.UTC)


def make_authority() -> Certified:
    """A new authority, which signs for one daemon and its clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{DAEMON_NAME} authority")])
    builder = _builder(name, name, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Certified(builder.sign(key, hashes.SHA256()), key)


def issue_daemon(authority: Certified) -> Certified:
    """The daemon's own certificate."""
    names = x509.SubjectAlternativeName([x509.DNSName(DAEMON_NAME)])
    return _issue(authority, DAEMON_NAME, DAEMON_DAYS, ExtendedKeyUsageOID.SERVER_AUTH, names)


def issue_client(authority: Certified, name: str, days: float = CLIENT_DAYS) -> Certified:
    """A certificate for a client of that name, good for so many days (negative: one that has expired)."""
    return _issue(authority, name, days, ExtendedKeyUsageOID.CLIENT_AUTH, None)


def check_client(certificate: x509.Certificate, authority: x509.Certificate, now: datetime.datetime) -> None:
    """Raise CertificateRefused unless the authority signed it for a client and it is good now."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateRefused("the certificate is not of this daemon's authority") from None
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        raise CertificateRefused("the certificate is not one for a client") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise CertificateRefused("the certificate is not one for a client")
    if now < certificate.not_valid_before_utc:
        raise CertificateRefused("the certificate is not valid yet; compare the clocks of both hosts")
    if now > certificate.not_valid_after_utc:
        raise CertificateRefused("the certificate has expired; have a new one made with: vmbusctl keys add")


def _issue(
    authority: Certified, name: str, days: float, purpose: ObjectIdentifier, names: x509.SubjectAlternativeName | None
) -> Certified:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, authority.certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return Certified(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, days: float) -> x509.CertificateBuilder:
    now = utc_now()
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - LEEWAY)
        .not_valid_after(until)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

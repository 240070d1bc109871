"""Which OPC UA server is spoken to, and as whom: certificates of both sides. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from schemas.errors import SourceLostError


def check_server(certificate: x509.Certificate, host: str, trusted: Path, now: datetime) -> None:
    """Let a server pass whose certificate is known, or vouched for by an authority and of the right name.

    Args:
        certificate: The server's.
        host: Name or address under which it was reached.
        trusted: PEM file of servers' own certificates, and of authorities.
        now: Time by which certificates are valid.

    Raises:
        SourceLostError: It is neither, or not valid now; or the file cannot be read.
    """
    shown = f"the server's certificate ({_named(certificate)})"
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise SourceLostError(f"{shown} is not valid now, but from {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    known = _certificates(trusted)
    if certificate in known:
        return
    if not any(_vouches(authority, certificate, now) for authority in known):
        raise SourceLostError(
            f"{shown} is not in {trusted}, nor issued by an authority in it: if it is the right one's, add "
            "it there (EDGE_SOURCE_CA)"
        )
    if host.lower() not in _names(certificate):
        raise SourceLostError(
            f"{shown} is of another server: it names {', '.join(sorted(_names(certificate))) or 'no host'}, "
            f"and not {host}"
        )


def application_uri(path: Path) -> str:
    """The application that a certificate of one's own names, as servers compare it.

    Raises:
        SourceLostError: The file cannot be read, or names none.
    """
    certificate = _certificates(path)[0]
    uris = _alternatives(certificate, x509.UniformResourceIdentifier)
    if not uris:
        raise SourceLostError(
            f"{path}: the certificate names no application, which OPC UA servers ask for: make one with "
            "subjectAltName = URI:urn:…"
        )
    return uris[0]


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise SourceLostError(f"the certificates of the source cannot be read: {path}: {exc}") from exc


def _vouches(authority: x509.Certificate, certificate: x509.Certificate, now: datetime) -> bool:
    if not authority.not_valid_before_utc <= now <= authority.not_valid_after_utc:
        return False
    try:
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        certificate.verify_directly_issued_by(authority)
    except (x509.ExtensionNotFound, InvalidSignature, TypeError, ValueError):
        return False
    return True


def _names(certificate: x509.Certificate) -> set[str]:
    """Hosts that a certificate is of."""
    hosts = [name.lower() for name in _alternatives(certificate, x509.DNSName)]
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set(hosts)
    return {*hosts, *(str(ip) for ip in found.get_values_for_type(x509.IPAddress))}


def _alternatives(
    certificate: x509.Certificate, kind: type[x509.DNSName | x509.UniformResourceIdentifier]
) -> Sequence[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return found.get_values_for_type(kind)


def _named(certificate: x509.Certificate) -> str:
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return f"{certificate.subject.rfc4514_string()}, SHA-256 {fingerprint[:16]}…"

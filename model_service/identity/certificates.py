"""X.509: makes the fields of our certificates, and reads those of certificates and signing requests."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from model_service.holder import Holder
from schemas.errors import AccessError
from schemas.updates import Role

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of authority and server certificates: a device whose clock was reset to 1970 must still connect."""
_RENEW_LINE = b"edgeloop.v1.renew"


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate in the PEM.

    Raises:
        AccessError: It holds none.
    """
    with _parsing("a certificate"):
        return x509.load_pem_x509_certificate(pem)


@lru_cache(maxsize=16384)
def read_holder(pem: bytes) -> Holder:
    """Who the certificate is for; who signed it is not checked.

    Raises:
        AccessError: It does not have the fields of our certificates.
    """
    certificate = read_certificate(pem)
    with _parsing("a certificate"):
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        return Holder(
            name=common_name(certificate.subject),
            roles=frozenset(role for role in Role if role.value in {str(u.value) for u in units}),
            serial=f"{certificate.serial_number:x}",
            not_after=certificate.not_valid_after_utc.timestamp(),
            key=public_der(certificate.public_key()),
        )


def read_request(csr_pem: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """The key for which a certificate signing request asks a certificate.

    Args:
        csr_pem: The request.
        name: Expected common name.

    Raises:
        AccessError: It is no request, is not signed by its own key, has another name or no P-256 key.
    """
    with _parsing("a certificate signing request"):
        request = x509.load_pem_x509_csr(csr_pem)
        if not request.is_signature_valid:
            raise AccessError(f"the request for {name} is not signed by the key that it carries")
        if (requested := common_name(request.subject)) != name:
            raise AccessError(f"the request asks for {requested!r}, not for {name}")
        return p256(request.public_key(), f"the request for {name}")


def read_public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A P-256 public key in PEM.

    Raises:
        AccessError: It is not one.
    """
    with _parsing("a public key"):
        return p256(serialization.load_pem_public_key(pem.encode()), "the signing key")


def p256(key: object, of: str) -> ec.EllipticCurvePublicKey:
    """The key, if it is a P-256 key.

    Raises:
        AccessError: It is not.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AccessError(f"{of} does not carry a P-256 key")
    return key


def common_name(subject: x509.Name) -> str:
    """The subject's only common name.

    Raises:
        AccessError: It has none, or several.
    """
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise AccessError(f"a subject must have one common name, not {len(names)}")
    return str(names[0].value)


def public_der(key: object) -> bytes:
    """SubjectPublicKeyInfo of a P-256 key in DER: equal for equal keys.

    Raises:
        AccessError: It is not a P-256 key.
    """
    return p256(key, "the certificate").public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def renewal_text(at_ms: int, csr_pem: bytes) -> bytes:
    """The bytes that the proof of possession of a renewal signs (schemas/proto/delivery.proto)."""
    return b"\n".join([_RENEW_LINE, str(at_ms).encode(), csr_pem])


def check_renewal_proof(certificate: x509.Certificate, at_ms: int, csr_pem: bytes, proof: bytes) -> None:
    """Check that the holder of the certificate's key has asked for this renewal.

    Raises:
        AccessError: Somebody else has.
    """
    key = p256(certificate.public_key(), "the certificate")
    try:
        key.verify(proof, renewal_text(at_ms, csr_pem), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise AccessError("the proof is not signed by the certificate's key") from exc


def check_signing_proof(key: ec.EllipticCurvePublicKey, text: bytes, proof: bytes, csr_pem: bytes) -> None:
    """Check that whoever enrols a telemetry key holds it.

    Args:
        key: The telemetry key.
        text: What the proof signs (``schemas.possession``).
        proof: Empty: the CSR, which has been checked, must be signed by that key.
        csr_pem: The request for a certificate.

    Raises:
        AccessError: There is no proof, or it is wrong.
    """
    if not proof:
        with _parsing("a certificate signing request"):
            same = public_der(x509.load_pem_x509_csr(csr_pem).public_key()) == public_der(key)
        if same:
            return  # as devices of 0.2.0 enrol: they have one key, and the CSR shows that they hold it
        raise AccessError(
            "signing_proof is missing: the signing key is not that of the request, so it must sign"
        )
    try:
        key.verify(proof, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise AccessError(
            "signing_proof is not signed by the signing key over this request and token"
        ) from exc


def subject(name: str, roles: Iterable[Role] = ()) -> x509.Name:
    """Subject of a holder: its name, and a unit for each role."""
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, r.value) for r in roles]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), *units])


def alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """DNS names and addresses of a server."""
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def client_extensions() -> tuple[x509.ExtensionType, ...]:
    """Extensions of a client's certificate."""
    return (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),)


def server_extensions(names: Sequence[str]) -> tuple[x509.ExtensionType, ...]:
    """Extensions of a server's certificate."""
    return (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), alternative_names(names))


def leaf_usage() -> x509.KeyUsage:
    """Key usage of a client or server: to sign handshakes, nothing else."""
    return _usage(signs=True, certifies=False)


def authority_usage() -> x509.KeyUsage:
    """Key usage of the authority: to sign certificates, nothing else."""
    return _usage(signs=False, certifies=True)


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    """Turns the cryptography package's errors about bytes from strangers into ``AccessError``."""
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise AccessError(f"not {what} that we accept: {exc}") from exc


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

"""The certificate authority of one deployment, and the key and certificate files of server and people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from feature_store.process_lock import exclusive
from model_service.identity import certificates as certs
from model_service.identity.key_files import load_key, load_or_create_key
from model_service.settings import ModelSettings
from schemas.durable import DISK
from schemas.errors import AccessError, OperatorError
from schemas.updates import Role

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
"""Life of the server's and people's certificates; ``init_pki`` renews them in their last third."""
PEOPLE: dict[str, tuple[Role, ...]] = {
    "operator": (Role.OPERATOR, Role.APPROVER),
    "viewer": (Role.VIEWER,),
}
"""Certificates under ``pki/people`` with their roles. One machine has one operator, who also approves: two
certificates in one folder would be a separation of duties in name only."""
_SKEW = timedelta(minutes=1)
"""How far the clocks of our machines may differ."""


@dataclass(frozen=True)
class Authority:
    """Signs certificates. Whoever has its key can impersonate any device, so only the engine loads it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def load(cls, settings: ModelSettings) -> Authority:
        """The deployment's authority.

        Raises:
            OperatorError: Its key or certificate is missing.
        """
        path = ca_path(settings)
        if not path.exists():
            raise OperatorError(f"there is no certificate authority in {path.parent}")
        return cls(load_key(_ca_key(settings)), certs.read_certificate(path.read_bytes()))

    def certify_client(
        self, name: str, roles: Iterable[Role], key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
    ) -> x509.Certificate:
        """A certificate for a device or a person."""
        own = certs.client_extensions()
        return self._certify(certs.subject(name, roles), key, own, (now - _SKEW, now + life))

    def certify_server(
        self, names: Sequence[str], key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.Certificate:
        """A certificate for the serving process."""
        own = certs.server_extensions(names)
        return self._certify(certs.subject(names[0][:64]), key, own, (certs.EPOCH, now + LEAF_LIFE))

    def _certify(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        own: Sequence[x509.ExtensionType],
        span: tuple[datetime, datetime],
    ) -> x509.Certificate:
        builder = _builder(subject, self.certificate.subject, key, span)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(certs.leaf_usage(), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        for extension in own:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def ca_path(settings: ModelSettings) -> Path:
    """Certificate of the authority, which devices and people trust."""
    return settings.pki / "ca.pem"


def server_paths(settings: ModelSettings) -> tuple[Path, Path]:
    """Key and certificate of the serving process."""
    return settings.pki / "server.key", settings.pki / "server.pem"


def people_folder(settings: ModelSettings) -> Path:
    """Folder of the keys and certificates of people."""
    return settings.pki / "people"


def person_paths(settings: ModelSettings, role: str) -> tuple[Path, Path]:
    """Key and certificate of a person who has the role.

    Raises:
        AccessError: No person has the role.
    """
    folder = people_folder(settings)
    for name, roles in PEOPLE.items():
        if role in {r.value for r in roles}:
            return folder / f"{name}.key", folder / f"{name}.pem"
    raise AccessError(f"no certificate under {folder} has the role {role}")


def init_pki(settings: ModelSettings, now: datetime | None = None) -> None:
    """Make what is missing and renew what expires soon: authority, server's and people's certificates.

    It may be repeated, and killed at any moment: each key is written before its certificate, and a
    certificate that does not fit its key, its names or its authority is made again. If the authority's key
    was moved away, nothing changes.

    Args:
        settings: Folder of the files, and the server's names.
        now: UTC; None: the clock's time.

    Raises:
        OperatorError: The file of a key is damaged.
    """
    at = datetime.now(UTC) if now is None else now
    with exclusive(settings.root / "pki.lock"):
        if ca_path(settings).exists() and not _ca_key(settings).exists():
            return
        authority = _authority(settings, at)
        key_path, path = server_paths(settings)
        key = load_or_create_key(key_path).public_key()
        if _due(path, authority, key, at, settings.names):
            _write(path, authority.certify_server(settings.names, key, at))
        for name, roles in PEOPLE.items():
            _certify_person(settings, authority, name, roles, at)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _authority(settings: ModelSettings, now: datetime) -> Authority:
    key = load_or_create_key(_ca_key(settings))
    path = ca_path(settings)
    if not path.exists():
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = certs.subject(f"edgeloop CA {identifier.digest.hex()[:8]}")
        builder = _builder(name, name, key.public_key(), (certs.EPOCH, now + CA_LIFE))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(certs.authority_usage(), critical=True)
        _write(path, builder.sign(key, hashes.SHA256()))
    return Authority(key, certs.read_certificate(path.read_bytes()))


def _certify_person(
    settings: ModelSettings, authority: Authority, name: str, roles: tuple[Role, ...], now: datetime
) -> None:
    folder = people_folder(settings)
    key = load_or_create_key(folder / f"{name}.key").public_key()
    path = folder / f"{name}.pem"
    if _due(path, authority, key, now):
        _write(path, authority.certify_client(name, roles, key, now, LEAF_LIFE))


def _due(
    path: Path,
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    names: Sequence[str] | None = None,
) -> bool:
    """Whether a certificate has to be made: it is missing, expires soon, or does not fit its key or names."""
    if not path.exists():
        return True
    try:
        found = certs.read_certificate(path.read_bytes())
        of_key = certs.public_der(found.public_key()) == certs.public_der(key)
    except AccessError:
        return True
    if not of_key or not issued_by(found, authority.certificate):
        return True
    if names is not None and _names(found) != certs.alternative_names(names):
        return True
    return found.not_valid_after_utc - now < LEAF_LIFE / 3


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, span: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    DISK.write(path, certificate.public_bytes(serialization.Encoding.PEM))


def _ca_key(settings: ModelSettings) -> Path:
    return settings.pki / "ca.key"

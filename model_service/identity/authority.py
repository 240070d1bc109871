"""The certificate authority of one deployment, and the key and certificate files of server and people."""

from __future__ import annotations

import logging
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
from model_service.identity.key_files import load_key, load_or_create_key, load_or_replace_key
from model_service.settings import ModelSettings
from schemas.durable import DISK
from schemas.errors import AccessError, DamagedFileError
from schemas.updates import Role

log = logging.getLogger(__name__)

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
"""Life of the server's and people's certificates; ``init_pki`` renews them in their last third."""
PEOPLE: dict[str, tuple[Role, ...]] = {
    "operator": (Role.OPERATOR, Role.APPROVER),
    "viewer": (Role.VIEWER,),
}
"""Certificates under ``pki/people`` with their roles. One machine has one operator, who also approves: two
certificates in one folder would be a separation of duties in name only."""
_NO_KEY = (
    "no certificate can be made or renewed until both are restored (docs/runbook.md#damaged-model-service); "
    "devices keep what they run"
)
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
            DamagedFileError: Its key or certificate is missing, damaged, or of another moment.
        """
        certificate = certs.read_certificate(read_ca(settings))
        try:
            key = load_key(_ca_key(settings))
        except DamagedFileError as exc:
            raise DamagedFileError(f"{exc}: {_NO_KEY}") from exc
        if certs.public_der(certificate.public_key()) != certs.public_der(key.public_key()):
            raise DamagedFileError(
                f"the private key {_ca_key(settings)} is not that of {ca_path(settings)}, so one of them is "
                f"of another moment: {_NO_KEY}"
            )
        return cls(key, certificate)

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


def read_ca(settings: ModelSettings) -> bytes:
    """Certificate of the authority, PEM, checked.

    Raises:
        DamagedFileError: It is missing or damaged.
    """
    path = ca_path(settings)
    data = DISK.read(path)
    if data is None or _whole_ca(data) is None:
        problem = "is missing" if data is None else "is damaged"
        raise DamagedFileError(
            f"the authority's certificate {path} {problem}: nobody can join, and the model service does not "
            "start; `edgeloop down`, then `edgeloop up` makes it again from its key"
        )
    return data


def read_pair(key_path: Path, path: Path) -> tuple[bytes, bytes]:
    """Key and certificate of the server or of a person, PEM, checked: they belong together.

    Raises:
        DamagedFileError: One is damaged, or of another moment.
        OSError: One cannot be read.
    """
    pair = key_path.read_bytes(), path.read_bytes()
    try:
        whole = load_key(key_path).public_key() == certs.read_certificate(pair[1]).public_key()
    except AccessError:
        whole = False
    if not whole:
        raise DamagedFileError(
            f"{path} is damaged, or is not the certificate of {key_path.name}: nobody can call with it; the "
            "engine makes it again within seconds where the authority's key is there, else restore it"
        )
    return pair


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
    certificate that does not fit its key, its names or its authority is made again. A damaged key of the
    server or of a person is put aside and replaced. If the authority's key was moved away, nothing changes.

    Args:
        settings: Folder of the files, and the server's names.
        now: UTC; None: the clock's time.

    Raises:
        DamagedFileError: The authority's key is damaged, or lost together with its certificate.
    """
    at = datetime.now(UTC) if now is None else now
    with exclusive(settings.root / "pki.lock"):
        data = DISK.read(ca_path(settings))
        if data is not None and _whole_ca(data) is not None and not _ca_key(settings).exists():
            return
        authority = _authority(settings, at, data)
        key_path, path = server_paths(settings)
        key = load_or_replace_key(key_path).public_key()
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


def _authority(settings: ModelSettings, now: datetime, data: bytes | None) -> Authority:
    path = ca_path(settings)
    if data is not None and _whole_ca(data) is not None:
        return Authority.load(settings)
    issued = _server_certificate(settings)
    if data is not None or issued is not None or settings.address_file.exists():
        _require_key(settings, issued)
        log.warning("%s was missing or damaged: made again from its key, devices go on trusting it", path)
    key = load_or_create_key(_ca_key(settings))
    if data is None or _whole_ca(data) is None:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = certs.subject(f"edgeloop CA {identifier.digest.hex()[:8]}")
        builder = _builder(name, name, key.public_key(), (certs.EPOCH, now + CA_LIFE))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(certs.authority_usage(), critical=True)
        _write(path, builder.sign(key, hashes.SHA256()))
    return Authority(key, certs.read_certificate(read_ca(settings)))


def _require_key(settings: ModelSettings, issued: x509.Certificate | None) -> None:
    """Return if the authority's key is there, and signed the server's certificate: its own can be made again.

    Raises:
        DamagedFileError: Nobody has the key that devices trust.
    """
    try:
        public = load_key(_ca_key(settings)).public_key()
        if issued is not None:
            public.verify(issued.signature, issued.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except DamagedFileError as exc:
        raise DamagedFileError(f"{exc}, and its certificate is not whole either: {_NO_KEY}") from exc
    except InvalidSignature as exc:
        raise DamagedFileError(
            f"the private key {_ca_key(settings)} did not sign the server's certificate, and its own is not "
            f"whole: {_NO_KEY}"
        ) from exc


def _server_certificate(settings: ModelSettings) -> x509.Certificate | None:
    """The server's certificate; None where there is none that can be read."""
    data = DISK.read(server_paths(settings)[1])
    try:
        return None if data is None else certs.read_certificate(data)
    except AccessError:
        return None


def _whole_ca(data: bytes) -> x509.Certificate | None:
    """The authority's certificate; None where the bytes are no certificate that signed itself."""
    try:
        found = certs.read_certificate(data)
    except AccessError:
        return None
    return found if issued_by(found, found) else None


def _certify_person(
    settings: ModelSettings, authority: Authority, name: str, roles: tuple[Role, ...], now: datetime
) -> None:
    folder = people_folder(settings)
    key = load_or_replace_key(folder / f"{name}.key").public_key()
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

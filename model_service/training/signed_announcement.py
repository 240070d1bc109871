"""An announced change as a person signed it, with the key of their certificate; made, and opened again.

Trainer and gate open it each by itself, so whoever can write into the registry cannot announce anything.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_service.training.announced_change import AnnouncedChange
from schemas.errors import AccessError
from schemas.offending_keys import describe
from schemas.updates import Role

_LINE = b"edgeloop.v1.announced-change\n"
_ECDSA = ec.ECDSA(hashes.SHA256())
MOST_BYTES = 8192


class ChangeDocument(BaseModel):
    """What is signed: the announcement without its author, who is known by the certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    change_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    profile: str = Field(min_length=1, max_length=64)
    site: str = Field("", max_length=64)
    group: str = Field("", max_length=64)
    moves: tuple[str, ...] = Field(min_length=1, max_length=64)
    may_move: tuple[str, ...] = Field((), max_length=64)
    start: AwareDatetime
    end: AwareDatetime
    reason: str = Field(min_length=1, max_length=1000)

    def by(self, person: str) -> AnnouncedChange:
        """The announcement of this person."""
        return AnnouncedChange(
            self.change_id,
            self.profile,
            self.site,
            self.group,
            self.moves,
            self.may_move,
            self.start.astimezone(UTC),
            self.end.astimezone(UTC),
            person,
            self.reason,
        )


class SignedAnnouncement(NamedTuple):
    """An announcement as it is sent and stored.

    Attributes:
        document: JSON of a ``ChangeDocument``.
        signature: ECDSA over a line that says what it is, and the document.
        certificate: Of the person, PEM.
    """

    document: bytes
    signature: bytes
    certificate: bytes

    @property
    def serial(self) -> str:
        """Serial of the certificate, hex.

        Raises:
            AccessError: It is none.
        """
        return f"{_certificate(self.certificate).serial_number:x}"

    def opened(self, ca_pem: bytes) -> AnnouncedChange:
        """The announcement, if an approver of this authority signed it.

        Args:
            ca_pem: Certificate of the authority.

        Raises:
            AccessError: It is altered, of nobody that the authority knows, or of a person without the role.
        """
        certificate = _certificate(self.certificate)
        try:
            certificate.verify_directly_issued_by(_certificate(ca_pem))
            key = certificate.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise AccessError("an announcement is signed with a key of a kind that we do not use")
            key.verify(self.signature, _LINE + self.document, _ECDSA)
        except (InvalidSignature, ValueError, TypeError) as exc:
            raise AccessError("an announcement is not signed by a person of this authority") from exc
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        if Role.APPROVER.value not in {str(u.value) for u in units}:
            raise AccessError("an announcement is signed by a person who is no approver")
        try:
            document = ChangeDocument.model_validate_json(self.document)
        except ValidationError as exc:
            raise AccessError(f"an announcement cannot be read: {describe(exc)}") from exc
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return document.by(str(names[0].value) if names else "")


def sign_announcement(document: ChangeDocument, key_pem: bytes, certificate_pem: bytes) -> SignedAnnouncement:
    """The announcement, signed by the holder of a certificate.

    Raises:
        AccessError: The key is none of ours.
    """
    text = json.dumps(document.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as exc:
        raise AccessError(f"a person's key cannot be read: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AccessError("a person's key is of a kind that we do not use")
    return SignedAnnouncement(text, key.sign(_LINE + text, _ECDSA), certificate_pem)


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError) as exc:
        raise AccessError(f"not a certificate: {exc}") from exc

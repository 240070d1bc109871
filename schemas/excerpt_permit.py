"""A permit: an approver lets one span of one device's raw samples leave, once.

It is signed by the approver's own key, whose certificate travels with it: the device checks both against the
authority that it has known since it joined. Neither the service that hands it out nor a broker can make one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from schemas.errors import PermitError
from schemas.excerpt_policy import ExcerptPolicy
from schemas.excerpt_words import PermitRefusal
from schemas.section import Name
from schemas.updates import Role

MAX_PERMIT_BYTES = 16 * 1024
"""Longest signed permit, certificate included."""
FORMAT = 1
_DOMAIN = b"edgeloop.v1.excerpt-permit\n"
_ECDSA = ec.ECDSA(hashes.SHA256())
PermitId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_FORGED = PermitRefusal.NOT_SIGNED


class ExcerptPermit(BaseModel):
    """What is permitted.

    Attributes:
        permit_id: 16 random hex digits: each permit counts once.
        device_id: The only device that it is for.
        profile: Profile that the device must run.
        start: First instant of the span, UTC.
        end: Last instant.
        channels: Channels that may leave.
        purpose: What for: one of the profile's purposes.
        max_seconds: Longest span; a longer one is refused.
        issued_at: When it was signed, by the approver's clock.
        expires_at: From here on it is void.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    permit_id: PermitId
    device_id: Annotated[str, Field(min_length=1, max_length=64)]
    profile: Name
    start: AwareDatetime
    end: AwareDatetime
    channels: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)]
    purpose: Name
    max_seconds: PositiveFloat
    issued_at: AwareDatetime
    expires_at: AwareDatetime

    @property
    def seconds(self) -> float:
        """Length of the span."""
        return (self.end - self.start).total_seconds()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start >= self.end or self.issued_at >= self.expires_at:
            raise ValueError("its span or its life is empty")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("it names a channel twice")
        return self

    def canonical_form(self) -> bytes:
        """The bytes that are signed: JSON with sorted keys, times in UTC to the microsecond."""
        raw = self.model_dump() | {n: _text(getattr(self, n)) for n in _TIMES}
        return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


_TIMES = ("start", "end", "issued_at", "expires_at")


@dataclass(frozen=True)
class SignedPermit:
    """A permit as it travels.

    Attributes:
        certificate_pem: Of the approver who signed.
        signature: ECDSA-SHA256 (DER) over the line ``edgeloop.v1.excerpt-permit`` and the canonical form.
    """

    permit: ExcerptPermit
    certificate_pem: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """As JSON."""
        raw = {
            "format": FORMAT,
            "permit": self.permit.canonical_form().decode(),
            "certificate": self.certificate_pem.decode(),
            "signature": self.signature.hex(),
        }
        return json.dumps(raw, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from JSON; nothing is verified.

        Raises:
            PermitError: It is no such permit, or not in its canonical form.
        """
        if len(data) > MAX_PERMIT_BYTES:
            raise PermitError(f"a permit of {len(data)} bytes", PermitRefusal.MALFORMED)
        try:
            raw: dict[str, Any] = json.loads(data)
            if raw.get("format") != FORMAT:
                raise PermitError(f"a permit of format {raw.get('format')!r:.20}", PermitRefusal.MALFORMED)
            permit = ExcerptPermit.model_validate_json(raw["permit"])
            if permit.canonical_form().decode() != raw["permit"]:
                raise PermitError("a permit that is not in its canonical form", PermitRefusal.MALFORMED)
            return cls(permit, raw["certificate"].encode(), bytes.fromhex(raw["signature"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise PermitError(f"not a permit: {_short(exc)}", PermitRefusal.MALFORMED) from exc


def new_permit_id() -> str:
    """An id that no permit ever had."""
    return secrets.token_hex(8)


def sign_permit(
    permit: ExcerptPermit, key: ec.EllipticCurvePrivateKey, certificate_pem: bytes
) -> SignedPermit:
    """The permit with an approver's signature."""
    return SignedPermit(permit, certificate_pem, key.sign(_DOMAIN + permit.canonical_form(), _ECDSA))


def approver_of(signed: SignedPermit, authorities: Sequence[x509.Certificate], now: datetime) -> str:
    """Name of the approver who signed it.

    Args:
        signed: The permit.
        authorities: Certificates of the authorities that may vouch for people.
        now: The present by a clock that can be trusted, UTC.

    Raises:
        PermitError: No certificate of these authorities, of an approver, and valid now, signed it.
    """
    try:
        certificate = x509.load_pem_x509_certificate(signed.certificate_pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PermitError("the approver's certificate cannot be read", _FORGED) from exc
    if not any(_issued(certificate, authority) for authority in authorities):
        raise PermitError("another authority signed the approver's certificate", _FORGED)
    name, roles = _subject(certificate)
    if Role.APPROVER.value not in roles:
        held = ", ".join(sorted(roles)) or "no role"
        raise PermitError(f"{name[:64]} ({held[:64]}) is no approver", PermitRefusal.NOT_AN_APPROVER)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise PermitError(f"the certificate of {name[:64]} is not valid now", PermitRefusal.NOT_AN_APPROVER)
    key = certificate.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise PermitError("the approver's key is no P-256 key", _FORGED)
        key.verify(signed.signature, _DOMAIN + signed.permit.canonical_form(), _ECDSA)
    except InvalidSignature as exc:
        raise PermitError(f"the signature is not {name[:64]}'s over this permit", _FORGED) from exc
    return name


def check_limits(permit: ExcerptPermit, policy: ExcerptPolicy | None, profile: str) -> None:
    """Return if a permit lies within what the profile allows, and within its own bounds.

    Raises:
        PermitError: It does not; the message says which limit.
    """
    limit = PermitRefusal.BEYOND_LIMITS
    if policy is None or permit.profile != profile:
        raise PermitError(f"profile {profile} allows no excerpts by a permit for {permit.profile}", limit)
    if extra := sorted(set(permit.channels) - set(policy.channels)):
        raise PermitError(f"channels {', '.join(extra)} are not among excerpts.channels", limit)
    if permit.purpose not in policy.purposes:
        allowed = ", ".join(policy.purposes)
        raise PermitError(f"purpose {permit.purpose} is not among excerpts.purposes: {allowed}", limit)
    longest = min(permit.max_seconds, policy.max_seconds)
    if permit.seconds > longest:
        raise PermitError(f"a span of {permit.seconds:g} s; at most {longest:g} s may leave", limit)
    if permit.expires_at - permit.issued_at > timedelta(seconds=policy.valid_s):
        raise PermitError(f"it is valid for longer than excerpts.valid_s, {policy.valid_s:g} s", limit)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return certificate.public_bytes(_DER) != authority.public_bytes(_DER)


_DER = serialization.Encoding.DER


def _subject(certificate: x509.Certificate) -> tuple[str, set[str]]:
    """Name and roles of a person's certificate.

    Raises:
        PermitError: It is no client's.
    """
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    except (x509.ExtensionNotFound, ValueError) as exc:
        raise PermitError("the approver's certificate is no person's", _FORGED) from exc
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage or len(names) != 1:
        raise PermitError("the approver's certificate is no person's", _FORGED)
    return str(names[0].value), {str(u.value) for u in units}


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _short(error: Exception) -> str:
    return f"{error.error_count()} wrong fields" if isinstance(error, ValidationError) else str(error)[:200]

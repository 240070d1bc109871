"""Real permits for tests: an authority of its own, people with roles, and a profile that has excerpts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_service.identity.authority import Authority, init_pki
from model_service.settings import ModelSettings
from schemas.excerpt_permit import ExcerptPermit, SignedPermit, new_permit_id, sign_permit
from schemas.excerpt_policy import ExcerptPolicy
from schemas.profile import Profile
from schemas.profile_file import load_profile
from schemas.updates import Role
from tests.simulators.messages import MACHINE

POLICY = ExcerptPolicy(
    channels=("vibration",),
    max_seconds=20,
    max_seconds_per_day=30,
    purposes=("review", "complaint"),
    held_s=60,
    valid_s=3600,
)


def with_excerpts(profile: Profile = MACHINE, policy: ExcerptPolicy = POLICY) -> Profile:
    """A profile whose policy's channels may be asked for."""
    channels = tuple(
        c.model_copy(update={"leaves_device": "on_request"}) if c.name in policy.channels else c
        for c in profile.channels
    )
    raw = profile.model_copy(update={"channels": channels, "excerpts": policy})
    return Profile.model_validate_json(raw.model_dump_json())


class People:
    """An authority, and certificates that it gives."""

    def __init__(self, folder: Path, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings(root=folder / "model", lake_root=folder / "lake")
        init_pki(self.settings)
        self.authority = Authority.load(self.settings)

    @property
    def ca_pem(self) -> str:
        return self.authority.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def authorities(self) -> list[x509.Certificate]:
        return [self.authority.certificate]

    def person(self, *roles: Role, name: str = "anna", life: timedelta = timedelta(days=2), at=None):
        """Key and certificate of somebody."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.authority.certify_client(
            name, list(roles), key.public_key(), at or datetime.now(UTC), life
        )
        return key, made.public_bytes(serialization.Encoding.PEM)

    def permit(self, signer=None, **given) -> SignedPermit:
        """A permit that is right unless the test says otherwise; an approver signs it unless one is named."""
        return sign_permit(permit(**given), *(signer or self.person(Role.APPROVER)))


def permit(**given) -> ExcerptPermit:
    """For 10 s that began 30 s ago."""
    now = datetime.now(UTC)
    start = given.pop("start", now - timedelta(seconds=30))
    fields = {
        "permit_id": new_permit_id(),
        "device_id": "m-1",
        "profile": "machine",
        "start": start,
        "end": start + timedelta(seconds=given.pop("seconds", 10)),
        "channels": ("vibration",),
        "purpose": "review",
        "max_seconds": 20,
        "issued_at": now,
        "expires_at": now + timedelta(minutes=10),
    }
    return ExcerptPermit(**{**fields, **given})


def profile_file(text: str, folder: Path, name: str = "profile.toml") -> Profile:
    """A profile from its text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_profile(path)

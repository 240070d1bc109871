"""Makes a permit for an excerpt: what a person asks for, as the permit that their own key signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from feature_store.current_profiles import current_profiles
from feature_store.device_registry import DeviceRegistry
from feature_store.lake import Lake
from model_service import ModelSettings, authority
from schemas.errors import AccessError, PermitError, ProfileError
from schemas.excerpt_permit import ExcerptPermit, SignedPermit, check_limits, new_permit_id, sign_permit
from schemas.offending_keys import describe
from schemas.profile import Profile

APPROVER = "approver"


@dataclass(frozen=True)
class ExcerptWish:
    """What a person asks for.

    Attributes:
        start: First instant; without a time zone it is UTC.
        seconds: Length of the span.
        channels: Empty: all that the profile lets be asked for.
        valid_s: Seconds until the permit expires; None: as long as the profile lets it.
    """

    device_id: str
    purpose: str
    start: datetime
    seconds: float
    channels: Sequence[str] = ()
    valid_s: float | None = None


def profile_of_device(lake: Lake, device_id: str) -> Profile:
    """The profile that a device is told to run.

    Raises:
        ProfileError: The device is unknown, or its profile lets no excerpts leave.
    """
    record = DeviceRegistry(lake).history().newest.get(device_id)
    profile = None if record is None else current_profiles(lake).get(record.profile)
    if profile is None:
        raise ProfileError(f"no device {device_id!r} is registered: `edgeloop fleet devices` lists them")
    if profile.excerpts is None:
        raise ProfileError(
            f"profile {profile.name} lets no excerpts leave: its section [excerpts] says which may "
            "(docs/excerpts.md)"
        )
    return profile


def permit_of(wish: ExcerptWish, profile: Profile, now: datetime) -> ExcerptPermit:
    """The permit, within the limits of the profile.

    Raises:
        PermitError: It lies beyond them; the message says which.
    """
    policy = profile.excerpts
    if policy is None:
        raise PermitError(f"profile {profile.name} lets no excerpts leave")
    start = wish.start if wish.start.tzinfo else wish.start.replace(tzinfo=UTC)
    valid_s = policy.valid_s if wish.valid_s is None else wish.valid_s
    try:
        permit = ExcerptPermit(
            permit_id=new_permit_id(),
            device_id=wish.device_id,
            profile=profile.name,
            start=start.astimezone(UTC),
            end=(start + timedelta(seconds=wish.seconds)).astimezone(UTC),
            channels=tuple(wish.channels) or policy.channels,
            purpose=wish.purpose,
            max_seconds=policy.max_seconds,
            issued_at=now,
            expires_at=now + timedelta(seconds=valid_s),
        )
    except ValidationError as exc:
        raise PermitError(f"no such permit can be: {describe(exc)}") from exc
    check_limits(permit, policy, profile.name)
    return permit


def signed_by_approver(permit: ExcerptPermit, settings: ModelSettings) -> SignedPermit:
    """The permit, signed with the key of the approver of this machine, which stays where it is.

    Raises:
        AccessError: There is no approver's key here.
    """
    paths = authority.person_paths(settings, APPROVER)
    try:
        key_pem, certificate_pem = authority.read_pair(*paths)
    except OSError as exc:
        raise AccessError(f"the key of a person with role {APPROVER} cannot be read: {exc}") from exc
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AccessError("the approver's key is no P-256 key")
    return sign_permit(permit, key, certificate_pem)

"""Whether a permit that an approver brings may be stored: so that a person learns at once what is wrong.

The device checks all of it again, and believes nothing of what was found here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from model_service.identity import certificates as certs
from model_service.service.lake_lookup import LakeLookup
from schemas.errors import AccessError, PermitError
from schemas.excerpt_permit import SignedPermit, approver_of, check_limits
from schemas.excerpt_words import PermitRefusal


def checked_permit(
    data: bytes, ca_path: Path, caller_key: bytes, lake: LakeLookup, now: float
) -> tuple[SignedPermit, str]:
    """The permit, and who signed it.

    Args:
        data: As it came.
        ca_path: Certificate of the authority.
        caller_key: Public key of the caller's certificate, DER: nobody brings another's permit.
        lake: Knows the profiles.
        now: UTC seconds.

    Raises:
        PermitError: It is not signed by an approver, or lies beyond the limits of its profile.
        AccessError: Somebody else than the caller has signed it.
    """
    signed = SignedPermit.from_bytes(data)
    authority = certs.read_certificate(ca_path.read_bytes())
    approver = approver_of(signed, [authority], datetime.fromtimestamp(now, UTC))
    if certs.public_der(certs.read_certificate(signed.certificate_pem).public_key()) != caller_key:
        raise AccessError(f"{approver} has signed this permit: who signs it must bring it")
    profile = lake.current_profile(signed.permit.profile)
    if profile is None:
        raise PermitError(f"profile {signed.permit.profile} is unknown here", PermitRefusal.BEYOND_LIMITS)
    check_limits(signed.permit, profile.excerpts, profile.name)
    return signed, approver

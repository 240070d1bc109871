"""Words for what becomes of a permit: why a device refuses it, and how it ended."""

from __future__ import annotations

from enum import StrEnum


class PermitRefusal(StrEnum):
    """Why a permit is not followed."""

    MALFORMED = "malformed"
    NOT_SIGNED = "not_signed"
    """No certificate of the device's authority signed it as it is."""
    NOT_AN_APPROVER = "not_an_approver"
    OTHER_DEVICE = "other_device"
    EXPIRED = "expired"
    REPLAYED = "replayed"
    """It was followed or refused before."""
    BEYOND_LIMITS = "beyond_limits"
    """The profile in force, or the permit's own bound, does not allow it."""
    DAY_SPENT = "day_spent"
    """More seconds would leave within 24 hours than the profile allows."""
    NO_CONSENT = "no_consent"
    NOT_HELD = "not_held"
    """The device does not hold the whole span, or no longer."""
    NOT_GRANTED = "not_granted"
    """The service did not grant it when the device claimed it: it was revoked, or claimed before."""
    NO_ROOM = "no_room"
    """The spool has no room for it."""


class PermitState(StrEnum):
    """State of a permit in the registry."""

    OPEN = "open"
    FETCHED = "fetched"
    CLAIMED = "claimed"
    """The device takes it: from here on it cannot be revoked."""
    TAKEN = "taken"
    """The samples are sealed on the device, to be sent."""
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    """Consent was withdrawn before all of it had left."""
    LOST = "lost"
    """The device's process ended between claim and sealing: nothing left, and the permit is spent."""
    REVOKED = "revoked"
    EXPIRED = "expired"


OUTCOMES = frozenset({PermitState.TAKEN, PermitState.REFUSED, PermitState.WITHDRAWN, PermitState.LOST})
"""What a device reports."""
LIVE = frozenset({PermitState.OPEN, PermitState.FETCHED})
"""States in which it may be handed out, and revoked."""

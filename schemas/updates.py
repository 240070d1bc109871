"""Names of the steps, ends and refusals of a model update, and of the roles that certificates carry."""

from __future__ import annotations

from enum import StrEnum

TOOK_PARTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Parts of the hop between which reports count windows by how long their score took; the last bin is late."""
SCORE_BINS = 10
"""Equal parts of [0, 1] in which reports count windows by score."""


class UpdateState(StrEnum):
    """State of a device's model update; persisted before the device acts on it (architecture 4.13)."""

    IDLE = "idle"
    FETCHING = "fetching"
    VERIFIED = "verified"
    STAGED = "staged"
    TRIAL = "trial"
    COMMITTED = "committed"
    WATCH = "watch"
    RESTORING = "restoring"
    RESTORED = "restored"
    INCONSISTENT = "inconsistent"
    DEFERRED = "deferred"


class UpdateResult(StrEnum):
    """How an attempt ended: without a change, restored, or not restored."""

    COMMITTED = "committed"
    """The new set runs and its watch is over."""
    NO_CHANGE_REFUSED = "no_change_refused"
    """Refused before anything changed: a check failed."""
    NO_CHANGE_FAILED = "no_change_failed"
    """Fetching or staging failed; the device will try again."""
    NO_CHANGE_DEFERRED = "no_change_deferred"
    """No input, memory or time now; the old set runs. This is no failure."""
    RESTORED = "restored"
    """Trial or watch failed; the set from before runs again."""
    NOT_RESTORED = "not_restored"
    """It could not be restored: the factory set or nothing runs. A person must act."""


TRIAL_SAYS = "trial "
"""How the detail of a commit begins that says what the trial found on superposed faults."""
NOT_TRIED = "not tried: "
"""How it goes on where faults could not be tried; the reason follows."""


class ProfileOutcome(StrEnum):
    """What became of the version of its profile that a device's channel wants."""

    ACCEPTED = "accepted"
    """It is verified and on the disk; the next window boundary takes it over."""
    APPLIED = "applied"
    """A boot under it has begun."""
    REFUSED = "refused"
    """A check failed; the device goes on as before."""
    FAILED = "failed"
    """It verified, but the device could not begin a boot under it, and goes on as before."""


class Attack(StrEnum):
    """The attack that a refused update resembles. An indicator, not a proof."""

    TAMPERED_ARTIFACT = "tampered_artifact"
    TAMPERED_METADATA = "tampered_metadata"
    METADATA_ROLLBACK = "metadata_rollback"
    FREEZE = "freeze"
    MIX_AND_MATCH = "mix_and_match"
    UNSIGNED_INSTRUCTION = "unsigned_instruction"
    REPLAYED_CHANNEL = "replayed_channel"
    WRONG_HARDWARE = "wrong_hardware"
    BELOW_FLOOR = "below_floor"
    REVOKED_CONTENT = "revoked_content"
    ENDLESS_DATA = "endless_data"
    SLOW_RETRIEVAL = "slow_retrieval"
    UNSAFE_CONTENT = "unsafe_content"
    """External data, custom operators, too much after decompression, strange archive members."""


class Role(StrEnum):
    """What the holder of a certificate may do: the organizational unit in it."""

    DEVICE = "device"
    VIEWER = "viewer"
    LABELLER = "labeller"
    OPERATOR = "operator"
    APPROVER = "approver"
    SERVICE = "service"

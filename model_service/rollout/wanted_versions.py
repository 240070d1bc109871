"""Makes a group's document on profiles from the rollout of one of them and the document before it. Pure."""

from __future__ import annotations

from datetime import datetime
from math import nextafter
from typing import NamedTuple

from model_service.rollout.rollout_record import COMPLETED, RolloutRecord
from model_service.rollout.transitions import Propose
from schemas.cohorts import NOBODY
from schemas.profile_channel import ProfileChannel, WantedVersion

ALL_BUT_SETTLED = nextafter(1.0, 0.0)
"""Share of the last phase: everybody gets the target, and may still go back. A renewal settles it."""


class Life(NamedTuple):
    """Number and validity of a channel document."""

    seq: int
    issued: datetime
    expires: datetime


def profile_document(
    record: RolloutRecord, wanted: Propose, known: ProfileChannel | None, life: Life
) -> ProfileChannel:
    """The document that a rollout of a profile proposes; what it says of other profiles stays as it is.

    Args:
        record: The rollout.
        wanted: Phase, return to the baseline, or renewal.
        known: The group's newest document; None: it is the first.
        life: Number and validity.
    """
    profiles = {} if known is None else dict(known.profiles)
    if wanted.purpose != "renewal" or record.state in COMPLETED:
        profiles[record.family] = _version(record, wanted)
    return ProfileChannel(
        group=record.group,
        seq=life.seq,
        rollout_id=record.rollout_id,
        profiles=profiles,
        issued=life.issued,
        expires=life.expires,
    )


def _version(record: RolloutRecord, wanted: Propose) -> WantedVersion:
    if record.statement is None:
        raise ValueError(f"{record.rollout_id} is of no version of a profile")
    if wanted.purpose == "renewal":
        return WantedVersion(target=record.statement)
    # A device goes to a lower number only as a document's baseline: so a return names the target, for nobody.
    cohort = NOBODY if wanted.purpose == "rollback" else wanted.cohort
    if cohort.share >= 1:
        cohort = cohort.model_copy(update={"share": ALL_BUT_SETTLED})
    return WantedVersion(target=record.statement, baseline=record.followed, cohort=cohort)

"""What a step of a rollout comes to: a new record, and what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model_service.rollout.observed import Observed, Purpose
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import Release, Ring
from schemas.cohorts import SaltedShare


@dataclass(frozen=True)
class Propose:
    """Send out a channel document. Its seq is given when it is stored."""

    ring: Ring
    purpose: Purpose
    phase: int
    target: Mapping[str, Release]
    cohort: SaltedShare
    holdout: SaltedShare
    reason: Literal["normal", "rollback", "security"]
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Withdraw:
    """Take back the documents that are not published yet."""


@dataclass(frozen=True)
class Note:
    """Tell what happened, once per ``key``."""

    step: str
    key: str
    detail: Mapping[str, object]


Action = Propose | Withdraw | Note


@dataclass(frozen=True)
class Transition:
    """What comes of a look.

    Attributes:
        due: When to look again though nothing new was seen, UTC seconds; None: no need.
    """

    record: RolloutRecord
    actions: tuple[Action, ...] = ()
    due: float | None = None


def moved(record: RolloutRecord, **changes: Any) -> RolloutRecord:
    """The record with changes, validated."""
    return RolloutRecord.model_validate({**record.model_dump(), **changes})


def version_of(releases: Mapping[str, Release], family: str) -> str:
    """Version that a set names for a family; empty: none."""
    found = releases.get(family)
    return found.version if found is not None else ""


def refusal(record: RolloutRecord, seen: Observed, purpose: Purpose = "phase") -> str | None:
    """The guard's refusal of the newest document that nobody has looked at."""
    fitting = [s for s in seen.sent if s.purpose == purpose and s.state != "withdrawn"]
    newest = max(fitting, key=lambda s: s.seq, default=None)
    if newest is None or newest.state != "refused" or newest.seq <= record.handled_refusal:
        return None
    return f"seq {newest.seq} was refused: {newest.detail}"


def supersede(record: RolloutRecord, by: str) -> Transition:
    """Make way. Its documents stay in force until the successor's take their place."""
    ended = moved(record, state="superseded", pause=None, ended_because=f"superseded by {by}")
    return Transition(ended, (Withdraw(), Note("rollout_superseded", "superseded", {"by": by})))

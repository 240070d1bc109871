"""The result of one step of a rollout: a new record, and actions to carry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model_service.rollout.observed import Observed, Purpose
from model_service.rollout.rollout_record import DocumentRing, RolloutRecord
from schemas.channel_documents import Release
from schemas.cohorts import SaltedShare


@dataclass(frozen=True)
class Propose:
    """Propose a channel document. It gets its seq when it is stored."""

    ring: DocumentRing
    purpose: Purpose
    phase: int
    target: Mapping[str, Release]
    cohort: SaltedShare
    holdout: SaltedShare
    reason: Literal["normal", "rollback", "security"]
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Withdraw:
    """Withdraw the documents that are not published yet."""


@dataclass(frozen=True)
class Note:
    """Record what happened, once per ``key``."""

    step: str
    key: str
    detail: Mapping[str, object]


Action = Propose | Withdraw | Note


@dataclass(frozen=True)
class Transition:
    """A new record, and the actions that belong to it.

    Attributes:
        due: When to advance again even if nothing new is observed, UTC seconds; None: no need.
    """

    record: RolloutRecord
    actions: tuple[Action, ...] = ()
    due: float | None = None


def with_changes(record: RolloutRecord, **changes: Any) -> RolloutRecord:
    """The record with changes, validated."""
    return RolloutRecord.model_validate({**record.model_dump(), **changes})


def version_of(releases: Mapping[str, Release], family: str) -> str:
    """Version that a set has for a family; empty: none."""
    found = releases.get(family)
    return found.version if found is not None else ""


def refusal(record: RolloutRecord, observed: Observed, purpose: Purpose = "phase") -> str | None:
    """The guard's refusal of the newest document; None: none, or a person resumed the rollout after it."""
    fitting = [s for s in observed.sent if s.purpose == purpose and s.state != "withdrawn"]
    newest = max(fitting, key=lambda s: s.seq, default=None)
    if newest is None or newest.state != "refused" or newest.seq <= record.handled_refusal:
        return None
    return f"seq {newest.seq} was refused: {newest.detail}"


def supersede(record: RolloutRecord, by: str) -> Transition:
    """End the rollout for another one. Its documents stay in force until the successor's replace them."""
    ended = with_changes(record, state="superseded", pause=None, ended_because=f"superseded by {by}")
    return Transition(ended, (Withdraw(), Note("rollout_superseded", "superseded", {"by": by})))

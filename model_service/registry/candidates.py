"""Candidates in the registry: models that a training run made, and the state of each.

The only module that reads and writes rows of ``candidates``. In the caller's transaction.

    trained → gating → signed → published
                 └─→ refused ←─────┘
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, select, true, update
from sqlalchemy import insert as insert_into

from model_service.registry import registry_tables
from schemas.channel_documents import CONFIG_KIND
from schemas.config_manifest import ConfigManifest
from schemas.manifest import Manifest
from schemas.model_version import ModelVersion

_c = registry_tables.candidates.c
AnyManifest = Manifest | ConfigManifest
"""Of a model, or of a configuration."""


class CandidateState(StrEnum):
    """State of a candidate; the value is in its row."""

    TRAINED = "trained"
    """Proposed with the trainer's key, and not judged yet."""
    GATING = "gating"
    """The gate is judging it; after a crash the gate judges it again."""
    REFUSED = "refused"
    """A gate refused it, or the demo withdrew it."""
    SIGNED = "signed"
    """Its proposal carries both signatures, and is not published yet."""
    PUBLISHED = "published"
    """Channel documents may name it."""


S = CandidateState
FOLLOWS: dict[CandidateState, frozenset[CandidateState]] = {
    S.TRAINED: frozenset({S.GATING}),
    S.GATING: frozenset({S.GATING, S.REFUSED, S.SIGNED}),
    S.REFUSED: frozenset(),
    S.SIGNED: frozenset({S.PUBLISHED}),
    S.PUBLISHED: frozenset({S.REFUSED}),
}
"""States that may follow a state. Only the demo refuses a published model: its deliberate mistake."""
UNJUDGED = (S.TRAINED, S.GATING)
"""States of a candidate without a final verdict."""
UNPUBLISHED = (S.TRAINED, S.GATING, S.SIGNED)
"""States of a candidate that is neither published nor refused."""
_ROLLED_BACK = ("aborting", "rolled_back", "rolled_back_partial")
"""States of a rollout whose group returns, or has returned, to its baseline."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of ``candidates`` without its manifest, which is long: ``manifest_of`` reads that.

    Attributes:
        major: Number within the family; grows with every candidate.
        kind: anomaly, classifier or config.
        run_id: Training run that made it; empty: none did.
        champion: Version that it was trained to replace.
        sha256: Of the artifact.
        length: Of the artifact, bytes.
        detail: Why it is in its state; empty: there is no special reason.
        created_at, updated_at: UTC seconds.
    """

    version: str
    family: str
    major: int
    kind: str
    run_id: str
    champion: str
    sha256: str
    length: int
    state: CandidateState
    detail: str
    created_at: float
    updated_at: float

    @property
    def is_config(self) -> bool:
        """Whether it is a configuration, not a model."""
        return self.kind == CONFIG_KIND

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """The candidate of a row."""
        return cls(**{**{f.name: row[f.name] for f in fields(cls)}, "state": S(row["state"])})

    def row(self) -> dict[str, Any]:
        """Its row: columns by name."""
        return {**asdict(self), "state": self.state.value}


def candidate_of(
    manifest: AnyManifest, *, run_id: str, champion: str, sha256: str, length: int, now: float
) -> Candidate:
    """The candidate of a bundle, in its first state.

    Args:
        manifest: Of the bundle.
        run_id: Training run that made it.
        champion: Version that it was trained to replace.
        sha256: Of the artifact.
        length: Of the artifact, bytes.
        now: UTC seconds.
    """
    return Candidate(
        version=manifest.version,
        family=manifest.family,
        major=ModelVersion.parse(manifest.version).major,
        kind=manifest.kind,
        run_id=run_id,
        champion=champion,
        sha256=sha256,
        length=length,
        state=S.TRAINED,
        detail="",
        created_at=now,
        updated_at=now,
    )


def insert(connection: Connection, candidate: Candidate, manifest: AnyManifest) -> None:
    """Store a new candidate."""
    values = {**candidate.row(), "manifest": manifest.model_dump(mode="json")}
    connection.execute(insert_into(registry_tables.candidates).values(**values))


def advance(
    connection: Connection,
    candidate: Candidate,
    state: CandidateState,
    now: float,
    detail: str = "",
) -> bool:
    """Change a candidate's state, unless another process changed it since it was read.

    Args:
        connection: A transaction.
        candidate: As it was read.
        state: The new one.
        now: UTC seconds.
        detail: The reason.

    Returns:
        False: another process changed it; nothing was written.

    Raises:
        ValueError: ``state`` may not follow.
    """
    if state not in FOLLOWS[candidate.state]:
        raise ValueError(f"candidate {candidate.version}: {state} does not follow {candidate.state}")
    same = (_c.version == candidate.version) & (_c.state == candidate.state)
    values = {"state": state.value, "detail": detail, "updated_at": now}
    return connection.execute(update(registry_tables.candidates).where(same).values(**values)).rowcount == 1


def get(connection: Connection, version: str) -> Candidate | None:
    """The candidate of a version; None: there is none."""
    return next(iter(_read(connection, _c.version == version)), None)


def every_candidate(connection: Connection, family: str = "") -> list[Candidate]:
    """All candidates, oldest first; ``family`` empty: of all families."""
    return _read(connection, _c.family == family if family else true())


def in_states(connection: Connection, states: Collection[CandidateState]) -> list[Candidate]:
    """Candidates in these states, oldest first."""
    return _read(connection, _c.state.in_(states))


def refused_among(connection: Connection, versions: Collection[str]) -> list[Candidate]:
    """Those of the versions that a gate refused, oldest first."""
    return _read(connection, _c.version.in_(versions) & (_c.state == S.REFUSED)) if versions else []


def newest(connection: Connection, family: str, limit: int) -> list[Candidate]:
    """The newest candidates, newest first; ``family`` empty: of all families."""
    query = _columns().where(_c.family == family if family else true())
    rows = connection.execute(query.order_by(_c.created_at.desc()).limit(limit)).mappings()
    return [Candidate.of(row) for row in rows]


def count_in(state: CandidateState) -> Select[Any]:
    """Query for the number of candidates in a state, for use in a larger query."""
    return select(func.count()).where(_c.state == state)


def manifest_of(connection: Connection, version: str) -> Mapping[str, Any]:
    """JSON of a candidate's manifest; empty: there is no such candidate."""
    found = connection.execute(select(_c.manifest).where(_c.version == version)).scalar_one_or_none()
    return found or {}


def next_major(connection: Connection, family: str) -> int:
    """Major of the family's next version; the factory's is 0."""
    query = select(func.max(_c.major)).where(_c.family == family)
    return int(connection.execute(query).scalar() or 0) + 1


def champion_version(connection: Connection, family: str) -> str | None:
    """Version of the newest published candidate that was not rolled back; None: the factory's is in force.

    Rolled back means: by the newest rollout of it in some group, and kept by the newest in no group.
    """
    rollouts = registry_tables.rollouts.c
    ended = select(rollouts.grp, rollouts.version, rollouts.state).where(rollouts.family == family)
    last: dict[tuple[str, str], str] = {}
    # In order of time, so that the newest rollout of a version in a group is the one that is kept.
    for group, version, state in connection.execute(ended.order_by(rollouts.created_at)):
        last[version, group] = state
    back = {version for (version, _), state in last.items() if state in _ROLLED_BACK}
    held = {version for (version, _), state in last.items() if state not in _ROLLED_BACK}
    query = select(_c.version).where(_c.family == family, _c.state == S.PUBLISHED)
    versions = connection.execute(query.order_by(_c.major.desc())).scalars()
    return next((v for v in versions if v in held or v not in back), None)


def _read(connection: Connection, condition: ColumnElement[bool]) -> list[Candidate]:
    query = _columns().where(condition).order_by(_c.created_at, _c.version)
    return [Candidate.of(row) for row in connection.execute(query).mappings()]


def _columns() -> Select[Any]:
    return select(*(c for c in _c if c.name != "manifest"))

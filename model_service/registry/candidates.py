"""Candidates in the registry: models that a training run made, and how far each has come.

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
from schemas.manifest import Manifest
from schemas.model_version import ModelVersion

_c = registry_tables.candidates.c


class CandidateState(StrEnum):
    """How far a candidate has come; as its row says."""

    TRAINED = "trained"
    """Proposed with the trainer's key; no gate has looked at it."""
    GATING = "gating"
    """Taken by the gate; still so after a crash, and then taken again."""
    REFUSED = "refused"
    """A gate refused it, or it was taken back."""
    SIGNED = "signed"
    """Carries both signatures; not visible yet."""
    PUBLISHED = "published"
    """Devices may be told to run it."""


S = CandidateState
FOLLOWS: dict[CandidateState, frozenset[CandidateState]] = {
    S.TRAINED: frozenset({S.GATING}),
    S.GATING: frozenset({S.GATING, S.REFUSED, S.SIGNED}),
    S.REFUSED: frozenset(),
    S.SIGNED: frozenset({S.PUBLISHED}),
    S.PUBLISHED: frozenset({S.REFUSED}),
}
"""What may follow a state. Only the demo refuses a published model: it takes its own mistake back."""
UNJUDGED = (S.TRAINED, S.GATING)
"""States of a candidate that no verdict was given on."""
ON_ITS_WAY = (S.TRAINED, S.GATING, S.SIGNED)
"""States of a candidate that is not published yet and was not refused."""
_TAKEN_BACK = ("aborting", "rolled_back", "rolled_back_partial")
"""States of a rollout after which the fleet does not run its model."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of ``candidates`` without its manifest, which is long: ``manifest_of`` reads that.

    Attributes:
        major: Number within the family; grows with every candidate.
        kind: anomaly or classifier.
        run_id: Training run that made it; empty: none did.
        champion: Version that it was trained to replace.
        sha256: Of the artifact.
        length: Of the artifact, bytes.
        detail: Why it is in its state; empty: nothing to say.
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

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From its row."""
        return cls(**{**{f.name: row[f.name] for f in fields(cls)}, "state": S(row["state"])})

    def row(self) -> dict[str, Any]:
        """Columns by name."""
        return {**asdict(self), "state": self.state.value}


def candidate_of(
    manifest: Manifest, *, run_id: str, champion: str, sha256: str, length: int, now: float
) -> Candidate:
    """The candidate that a bundle becomes when it is handed over.

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


def insert(connection: Connection, candidate: Candidate, manifest: Manifest) -> None:
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
    """Move a candidate on, unless somebody else moved it since it was read.

    Args:
        connection: A transaction.
        candidate: As it was read.
        state: Where to.
        now: UTC seconds.
        detail: Why.

    Returns:
        False: it has moved on already; nothing was changed.

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
    """Query for the number of candidates in a state, to be asked among others."""
    return select(func.count()).where(_c.state == state)


def manifest_of(connection: Connection, version: str) -> Mapping[str, Any]:
    """JSON of a candidate's manifest; empty: nobody knows the version."""
    found = connection.execute(select(_c.manifest).where(_c.version == version)).scalar_one_or_none()
    return found or {}


def next_major(connection: Connection, family: str) -> int:
    """Major of the family's next version; the factory's is 0."""
    query = select(func.max(_c.major)).where(_c.family == family)
    return int(connection.execute(query).scalar() or 0) + 1


def champion_version(connection: Connection, family: str) -> str | None:
    """Version of the newest candidate that went out and was not taken back; None: the factory's holds.

    Taken back means: by some group's newest rollout of it, and held by none.
    """
    rollouts = registry_tables.rollouts.c
    ended = select(rollouts.grp, rollouts.version, rollouts.state).where(rollouts.family == family)
    last: dict[tuple[str, str], str] = {}
    for group, version, state in connection.execute(ended.order_by(rollouts.created_at)):
        last[version, group] = state
    back = {version for (version, _), state in last.items() if state in _TAKEN_BACK}
    held = {version for (version, _), state in last.items() if state not in _TAKEN_BACK}
    query = select(_c.version).where(_c.family == family, _c.state == S.PUBLISHED)
    versions = connection.execute(query.order_by(_c.major.desc())).scalars()
    return next((v for v in versions if v in held or v not in back), None)


def _read(connection: Connection, condition: ColumnElement[bool]) -> list[Candidate]:
    query = _columns().where(condition).order_by(_c.created_at, _c.version)
    return [Candidate.of(row) for row in connection.execute(query).mappings()]


def _columns() -> Select[Any]:
    return select(*(c for c in _c if c.name != "manifest"))

"""Training runs in the registry: what each is about, how far it is, and what the trainer has seen.

A run's state says what is to be done next; all it takes to do that again after a crash stands in its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, RowMapping, func, insert, select, true, update

from model_service.registry.tables import candidates, rollouts, runs, trainer_marks

REQUESTED, EXAMINING, COLLECTING, BUILDING = "requested", "examining", "collecting", "building"
WAITING, TRAINED, DECLINED, DISMISSED, FAILED = "waiting", "trained", "declined", "dismissed", "failed"
OPEN = (REQUESTED, EXAMINING, COLLECTING, BUILDING)
"""States in which the trainer has something to do."""
DRIFT, SCHEDULE, AGE, LABELS, PERSON = "drift", "schedule", "age", "labels", "person"
_TAKEN_BACK = ("aborting", "rolled_back", "rolled_back_partial")
"""States of a rollout after which the fleet does not run its model."""
NEED = "need"
"""Key of a run's cause: effective rows that it must have, as it follows one whose candidate was refused."""
TRAINER = "trainer"
"""Who asks where no person does."""


@dataclass(frozen=True)
class Run:
    """One row of ``runs``.

    Attributes:
        reason: drift, schedule, age, labels or person.
        kind: anomaly, classifier, or empty: what the data allow.
        verdicts: Drift events behind it.
        cause: What the drift was found to be, and the question of the training set; None: not examined yet.
        onset: Start of the new regime; None: no drift is behind it.
        cut, pin: The cut it trains on, once it has enough rows.
        version: The candidate that came of it.
    """

    run_id: str
    family: str
    profile: str
    state: str
    reason: str
    kind: str
    verdicts: tuple[str, ...]
    cause: dict[str, Any] | None
    onset: datetime | None
    cut: int | None
    pin: str | None
    seed: int
    version: str | None
    detail: str
    requested_by: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From its row."""
        values = {f.name: row[f.name] for f in fields(cls)}
        times = {
            name: None if values[name] is None else datetime.fromtimestamp(values[name], UTC)
            for name in ("onset", "created_at", "updated_at")
        }
        return cls(**{**values, **times, "verdicts": tuple(values["verdicts"])})

    @property
    def by_person(self) -> bool:
        """Whether a person asked for it, or decided what the evidence could not."""
        return self.requested_by != TRAINER

    @property
    def follows(self) -> bool:
        """Whether it is another try on a change whose candidate was refused."""
        return NEED in (self.cause or {})


def open_runs(connection: Connection) -> list[Run]:
    """Runs with something to do, oldest first."""
    return _read(connection, runs.c.state.in_(OPEN))


def runs_of(connection: Connection, family: str) -> list[Run]:
    """All runs of a family, oldest first."""
    return _read(connection, runs.c.family == family)


def every_run(connection: Connection) -> list[Run]:
    """All runs, oldest first."""
    return _read(connection, true())


def _read(connection: Connection, condition: Any) -> list[Run]:
    query = select(runs).where(condition).order_by(runs.c.created_at, runs.c.run_id)
    return [Run.of(row) for row in connection.execute(query).mappings()]


def refused_runs(connection: Connection, since: datetime) -> list[tuple[Run, float]]:
    """Runs after a drift whose candidate the gates refused since then, and the rows that it had."""
    query = (
        select(runs, candidates.c.manifest)
        .join(candidates, candidates.c.version == runs.c.version)
        .where(
            candidates.c.state == "refused", runs.c.reason == DRIFT, runs.c.updated_at >= since.timestamp()
        )
        .order_by(runs.c.created_at)
    )
    rows = connection.execute(query).mappings()
    return [(Run.of(row), float(row["manifest"]["lineage"]["effective_rows"])) for row in rows]


def new_run(  # noqa: PLR0913  (columns of one row)
    connection: Connection,
    *,
    family: str,
    profile: str,
    reason: str,
    now: datetime,
    onset: datetime | None = None,
    verdicts: Sequence[str] = (),
    kind: str = "",
    cause: dict[str, Any] | None = None,
) -> str:
    """A run that the trainer starts by itself; returns its id. Runs of a family are numbered."""
    count = select(func.count()).select_from(runs).where(runs.c.family == family)
    number = int(connection.execute(count).scalar_one()) + 1
    run_id = f"{family}-run-{number}"
    connection.execute(
        insert(runs).values(
            run_id=run_id,
            family=family,
            profile=profile,
            state=EXAMINING if reason == DRIFT else COLLECTING,
            reason=reason,
            kind=kind,
            verdicts=list(verdicts),
            cause=cause,
            onset=None if onset is None else onset.timestamp(),
            seed=number,
            detail="",
            requested_by=TRAINER,
            created_at=now.timestamp(),
            updated_at=now.timestamp(),
        )
    )
    return run_id


def move(connection: Connection, run: Run, now: datetime, **changes: Any) -> bool:
    """Change a run, unless somebody changed its state since it was read.

    Returns:
        False: it has moved on already; nothing was changed.
    """
    for name in ("onset",):
        if isinstance(changes.get(name), datetime):
            changes[name] = changes[name].timestamp()
    same = (runs.c.run_id == run.run_id) & (runs.c.state == run.state)
    statement = update(runs).where(same).values(**changes, updated_at=now.timestamp())
    return connection.execute(statement).rowcount == 1


def next_major(connection: Connection, family: str) -> int:
    """First number of the family's next version; the factory's is 0."""
    query = select(func.max(candidates.c.major)).where(candidates.c.family == family)
    return int(connection.execute(query).scalar() or 0) + 1


def champion_version(connection: Connection, family: str) -> str | None:
    """Version of the newest candidate that went out and was not taken back; None: the factory's holds.

    Taken back means: by some group's newest rollout of it, and held by none.
    """
    ended = select(rollouts.c.grp, rollouts.c.version, rollouts.c.state).where(rollouts.c.family == family)
    newest: dict[tuple[str, str], str] = {}
    for group, version, state in connection.execute(ended.order_by(rollouts.c.created_at)):
        newest[version, group] = state
    back = {version for (version, _), state in newest.items() if state in _TAKEN_BACK}
    held = {version for (version, _), state in newest.items() if state not in _TAKEN_BACK}
    published = (candidates.c.family == family) & (candidates.c.state == "published")
    query = select(candidates.c.version).where(published).order_by(candidates.c.major.desc())
    versions = connection.execute(query).scalars()
    return next((v for v in versions if v in held or v not in back), None)


def mark(connection: Connection, name: str) -> Any:
    """What the trainer noted under a name; None: nothing."""
    return connection.execute(select(trainer_marks.c.value).where(trainer_marks.c.name == name)).scalar()


def set_mark(connection: Connection, name: str, value: Any) -> None:
    """Note something under a name."""
    own = update(trainer_marks).where(trainer_marks.c.name == name).values(value=value)
    if connection.execute(own).rowcount == 0:
        connection.execute(insert(trainer_marks).values(name=name, value=value))

"""Training runs in the registry, and marks of what the trainer has read. In the caller's transaction.

The only module that reads and writes rows of ``runs``. A run's state determines its next step; everything
that the step needs, also after a crash, is in the row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, true, update
from sqlalchemy import insert as insert_into

from model_service.registry import candidates, registry_tables
from model_service.registry.registry_tables import trainer_marks
from model_service.training.run_states import OPEN, UNFINISHED, RunState
from model_service.training.training_run import TRAINER, RunReason, TrainingRun
from schemas.errors import RegistryError

log = logging.getLogger(__name__)

_c = registry_tables.runs.c


def open_runs(connection: Connection) -> list[TrainingRun]:
    """Runs that the trainer can work on, oldest first."""
    return in_states(connection, OPEN)


def unfinished(connection: Connection) -> list[TrainingRun]:
    """Runs that are not over, those that wait for a person too, oldest first."""
    return in_states(connection, UNFINISHED)


def in_states(connection: Connection, states: Collection[RunState]) -> list[TrainingRun]:
    """Runs in these states, oldest first."""
    return _read(connection, _c.state.in_(states))


def runs_of(connection: Connection, family: str) -> list[TrainingRun]:
    """All runs of a family, oldest first."""
    return _read(connection, _c.family == family)


def every_run(connection: Connection) -> list[TrainingRun]:
    """All runs, oldest first."""
    return _read(connection, true())


def newest(connection: Connection, family: str, limit: int) -> list[TrainingRun]:
    """The newest runs, newest first; ``family`` empty: of all families."""
    query = select(registry_tables.runs).where(_c.family == family if family else true())
    return _readable(connection.execute(query.order_by(_c.created_at.desc()).limit(limit)).mappings())


def get(connection: Connection, run_id: str) -> TrainingRun | None:
    """The run of an id; None: there is none.

    Raises:
        RegistryError: Its row cannot be read. Lists of runs leave such a run out.
    """
    row = connection.execute(select(registry_tables.runs).where(_c.run_id == run_id)).mappings().first()
    return None if row is None else TrainingRun.of(row)


def by_id(connection: Connection, run_ids: Collection[str]) -> dict[str, TrainingRun]:
    """Runs of these ids, as far as there are any."""
    return {run.run_id: run for run in _read(connection, _c.run_id.in_(run_ids))} if run_ids else {}


def refused_runs(connection: Connection, since: datetime) -> list[tuple[TrainingRun, float]]:
    """Runs after a drift, changed since then, whose candidate was refused; and its effective rows."""
    made = (_c.reason == RunReason.DRIFT) & _c.version.is_not(None) & (_c.updated_at >= since.timestamp())
    by_version = {run.version: run for run in _read(connection, made)}
    refused = candidates.refused_among(connection, [v for v in by_version if v is not None])
    rows = {c.version: candidates.manifest_of(connection, c.version)["lineage"] for c in refused}
    return [
        (run, float(rows[version]["effective_rows"]))
        for version, run in by_version.items()
        if version in rows
    ]


def insert(connection: Connection, run: TrainingRun) -> None:
    """Store a new run."""
    connection.execute(insert_into(registry_tables.runs).values(**run.row()))


def new_run(  # noqa: PLR0913  (the fields that a new run starts with)
    connection: Connection,
    *,
    family: str,
    profile: str,
    reason: RunReason,
    now: datetime,
    onset: datetime | None = None,
    verdicts: tuple[str, ...] = (),
    need: float | None = None,
) -> TrainingRun:
    """Store a run that the trainer starts by itself. Runs of a family are numbered from 1."""
    count = select(func.count()).select_from(registry_tables.runs).where(_c.family == family)
    number = int(connection.execute(count).scalar_one()) + 1
    run = TrainingRun(
        run_id=f"{family}-run-{number}",
        family=family,
        profile=profile,
        state=RunState.EXAMINING if reason is RunReason.DRIFT else RunState.COLLECTING,
        reason=reason,
        requested_by=TRAINER,
        created_at=now,
        updated_at=now,
        verdicts=verdicts,
        need=need,
        onset=onset,
        seed=number,
    )
    insert(connection, run)
    return run


def save(connection: Connection, before: TrainingRun, after: TrainingRun, now: datetime) -> bool:
    """Store what a step changed, unless the run's state was changed since it was read.

    Args:
        connection: A transaction.
        before: The run as it was read.
        after: The run as it is to be; only columns that differ are written.
        now: Becomes ``updated_at``.

    Returns:
        False: somebody else changed its state; nothing was written.
    """
    old, new = before.row(), after.row()
    changed = {name: value for name, value in new.items() if value != old[name]}
    same = (_c.run_id == before.run_id) & (_c.state == before.state)
    statement = update(registry_tables.runs).where(same).values({**changed, "updated_at": now.timestamp()})
    return connection.execute(statement).rowcount == 1


def read_mark(connection: Connection, name: str) -> Any:
    """Value that the trainer stored under a name; None: it stored none."""
    return connection.execute(select(trainer_marks.c.value).where(trainer_marks.c.name == name)).scalar()


def write_mark(connection: Connection, name: str, value: Any) -> None:
    """Store a JSON value under a name."""
    own = update(trainer_marks).where(trainer_marks.c.name == name).values(value=value)
    if connection.execute(own).rowcount == 0:
        connection.execute(insert_into(trainer_marks).values(name=name, value=value))


def _read(connection: Connection, condition: ColumnElement[bool]) -> list[TrainingRun]:
    query = select(registry_tables.runs).where(condition).order_by(_c.created_at, _c.run_id)
    return _readable(connection.execute(query).mappings())


def _readable(rows: Iterable[Mapping[Any, Any]]) -> list[TrainingRun]:
    """The runs of rows. One that cannot be read holds up no other: it is left out, and logged."""
    found = []
    for row in rows:
        try:
            found.append(TrainingRun.of(row))
        except RegistryError as exc:
            _report(str(exc))
    return found


@lru_cache(maxsize=256)
def _report(message: str) -> None:
    """Log a message once in a process: the trainer reads its runs every second."""
    log.warning("%s; it is left out: correct or delete its row in the registry's table runs", message)

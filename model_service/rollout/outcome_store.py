"""Stores what rollouts brought, in the caller's transaction, and tells which are to be measured."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, delete, insert, select

from model_service.registry.database import note
from model_service.registry.registry_tables import release_outcomes, rollouts
from model_service.rollout.rollout_record import ENDED, RolloutRecord

Json = dict[str, Any]


class StoredOutcome(NamedTuple):
    """One measurement of what a rollout brought.

    Attributes:
        revision: Number of the measurement, from 0.
        outcome: Loop times and gain; ``readable`` is false where the lake could not be read.
        measured_at: UTC seconds.
        next_at: When to measure again, UTC seconds; None: never.
    """

    rollout_id: str
    revision: int
    outcome: Json
    measured_at: float
    next_at: float | None


def store_outcome(connection: Connection, measured: StoredOutcome) -> None:
    """Keep a measurement in place of the one before, with a lifecycle event for the lake."""
    own = release_outcomes.c.rollout_id == measured.rollout_id
    connection.execute(delete(release_outcomes).where(own))
    connection.execute(insert(release_outcomes).values(**measured._asdict()))
    # A measurement that found no lake is repeated under the same number: its event must not be the one kept.
    if measured.outcome["readable"]:
        key = f"rollout/{measured.rollout_id}/measured/{measured.revision}"
        detail = {"revision": measured.revision, "outcome": json.dumps(measured.outcome)}
        note(connection, key, measured.rollout_id, "release_measured", detail, measured.measured_at)


def outcome_of(connection: Connection, rollout_id: str) -> Json | None:
    """What a rollout brought, as it was measured last; None: it was not yet."""
    if not sa.inspect(connection).has_table(release_outcomes.name):
        return None  # an earlier release wrote the registry, and no process of this one has opened it
    query = select(release_outcomes.c.outcome).where(release_outcomes.c.rollout_id == rollout_id)
    found: Json | None = connection.execute(query).scalar()
    return found


def due_outcomes(connection: Connection, now: float) -> list[tuple[RolloutRecord, int]]:
    """Rollouts of models that have ended and are to be measured, and the number of the measurement."""
    known = release_outcomes.c
    query = (
        select(rollouts.c.record, known.revision, known.outcome)
        .join(release_outcomes, known.rollout_id == rollouts.c.rollout_id, isouter=True)
        .where(rollouts.c.state.in_(ENDED), known.rollout_id.is_(None) | (known.next_at <= now))
    )
    found = []
    for row in connection.execute(query):
        record = RolloutRecord.model_validate(row.record)
        again = row.outcome is not None and not row.outcome["readable"]
        revision = 0 if row.revision is None else row.revision + (not again)
        if record.kind == "model":
            found.append((record, revision))
    return found

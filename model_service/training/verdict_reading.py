"""New drift verdicts, and counts of labels, out of a cut of the lake."""

# ruff: noqa: S608  # names and texts are quoted by the door; the rest are constants and numbers

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from feature_store import duck
from feature_store.labels import instant, labels_as_of
from model_service.training.trigger import VerdictSummary

_COLUMNS = "event_id, cohort, profile, kind, onset, detected"


class NewVerdicts(NamedTuple):
    """Verdicts that the trainer had not read yet.

    Attributes:
        marks: By task of the drift job, the newest commit read, these included.
    """

    by_profile: Mapping[str, list[VerdictSummary]]
    marks: dict[str, int]


def new_verdicts(connection: duck.Connection, marks: Mapping[str, int], since: datetime) -> NewVerdicts:
    """The verdicts of commits after the marks.

    A cut holds whole commits of a task, in order, so one number a task is enough to know what was read.

    Args:
        connection: To a cut of the lake.
        marks: By task, the newest commit read.
        since: Verdicts that were detected earlier are too old to act on.
    """
    rows = duck.query(
        connection,
        f"SELECT {_COLUMNS} FROM drift WHERE detected >= {instant(since)} ORDER BY detected, event_id",
    ).to_pylist()
    new_marks = dict(marks)
    by_profile: dict[str, list[VerdictSummary]] = defaultdict(list)
    for row in rows:
        task, number = _task_and_commit(row["event_id"])
        if number > marks.get(task, -1):
            new_marks[task] = max(new_marks.get(task, -1), number)
            by_profile[row["profile"]].append(_verdict(row))
    return NewVerdicts(by_profile, new_marks)


def verdicts_of(connection: duck.Connection, event_ids: Iterable[str]) -> list[VerdictSummary]:
    """The verdicts with these ids, as far as the cut holds them."""
    ids = ", ".join(duck.text(i) for i in event_ids)
    if not ids:
        return []
    query = f"SELECT {_COLUMNS} FROM drift WHERE event_id IN ({ids}) ORDER BY detected, event_id"
    return [_verdict(row) for row in duck.query(connection, query).to_pylist()]


def count_labels(connection: duck.Connection, profile: str, known_at: datetime) -> int:
    """Number of labels of a profile's devices that were in force at an instant."""
    query = f"""
        SELECT count(DISTINCT label_id) AS n FROM ({labels_as_of(known_at)})
        SEMI JOIN (SELECT device_id FROM devices WHERE profile = {duck.text(profile)}) USING (device_id)"""
    return int(duck.query(connection, query).column("n")[0].as_py())


def _task_and_commit(event_id: str) -> tuple[str, int]:
    """Task and commit number in an event id, which is ``<task>/<n>/<index>``."""
    task, _, rest = event_id.partition("/")
    number = rest.partition("/")[0]
    return task, int(number) if number.isdigit() else 0


def _verdict(row: Mapping[str, Any]) -> VerdictSummary:
    return VerdictSummary(row["event_id"], row["cohort"], row["kind"], row["onset"], row["detected"])

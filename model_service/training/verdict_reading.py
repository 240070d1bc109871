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
    """Verdicts that the trainer has not seen.

    Attributes:
        marks: By task of the drift watch, the newest commit that has been seen, these included.
    """

    by_profile: Mapping[str, list[VerdictSummary]]
    marks: dict[str, int]


def new_verdicts(con: duck.Connection, marks: Mapping[str, int], since: datetime) -> NewVerdicts:
    """Verdicts of commits after the marks.

    A cut holds whole commits of a task, in order, so one number per task says what was seen.

    Args:
        con: From ``connect``.
        marks: By task, the newest commit seen.
        since: Verdicts detected earlier are history, not news.
    """
    rows = duck.query(
        con, f"SELECT {_COLUMNS} FROM drift WHERE detected >= {instant(since)} ORDER BY detected, event_id"
    ).to_pylist()
    seen = dict(marks)
    found: dict[str, list[VerdictSummary]] = defaultdict(list)
    for row in rows:
        task, number = _origin(row["event_id"])
        if number > marks.get(task, -1):
            seen[task] = max(seen.get(task, -1), number)
            found[row["profile"]].append(_verdict(row))
    return NewVerdicts(found, seen)


def verdicts_of(con: duck.Connection, event_ids: Iterable[str]) -> list[VerdictSummary]:
    """The verdicts of these ids that the cut holds."""
    ids = ", ".join(duck.text(i) for i in event_ids)
    if not ids:
        return []
    query = f"SELECT {_COLUMNS} FROM drift WHERE event_id IN ({ids}) ORDER BY detected, event_id"
    return [_verdict(row) for row in duck.query(con, query).to_pylist()]


def count_labels(con: duck.Connection, profile: str, known_at: datetime) -> int:
    """Labels in force at an instant of a profile's devices."""
    query = f"""
        SELECT count(DISTINCT label_id) AS n FROM ({labels_as_of(known_at)})
        SEMI JOIN (SELECT device_id FROM devices WHERE profile = {duck.text(profile)}) USING (device_id)"""
    return int(duck.query(con, query).column("n")[0].as_py())


def _origin(event_id: str) -> tuple[str, int]:
    """Task and commit of ``<task>/<n>/<index>``."""
    task, _, rest = event_id.partition("/")
    number = rest.partition("/")[0]
    return task, int(number) if number.isdigit() else 0


def _verdict(row: Mapping[str, Any]) -> VerdictSummary:
    return VerdictSummary(row["event_id"], row["cohort"], row["kind"], row["onset"], row["detected"])

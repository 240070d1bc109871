"""A cut as a value: marks, tables and files; and the rules for what it holds and which cuts are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from feature_store.data_file import COMPACTED, origin
from feature_store.delta import Snapshot
from schemas.errors import DamagedLakeError
from schemas.excerpt_table import holds_excerpts
from schemas.self_digest import checked, with_digest
from schemas.view_specs import sql_type

NEWEST_KEPT = 64
"""Newest cuts that stay readable whatever their age."""
_THINNED = ((timedelta(hours=1), timedelta(minutes=1)), (timedelta(days=2), timedelta(hours=1)))
"""(age, span): up to the age, one cut in each span stays, so that a query as of an instant finds one."""


@dataclass(frozen=True)
class TableCut:
    """One table in a cut.

    Attributes:
        version: Version of the Delta log the files were read at.
        columns: SQL type by column, in order; a file has the first n of them, n being in its name.
        files: Paths relative to the table's folder, sorted.
        sizes: Bytes of each file, in the same order; empty in cuts of release 0.2.0.
        rows: Rows of each file, in the same order; None: not known. Empty in cuts of release 0.2.0.
    """

    version: int
    columns: Mapping[str, str]
    files: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    rows: tuple[int | None, ...] = ()

    def sized(self) -> list[tuple[str, int | None, int | None]]:
        """Path, bytes and rows of each file, as far as they are known."""
        unknown = (None,) * len(self.files)
        return list(zip(self.files, self.sizes or unknown, self.rows or unknown, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "version": self.version,
            "columns": dict(self.columns),
            "files": self.files,
            "sizes": self.sizes,
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TableCut:
        """Back from JSON values."""
        facts = (tuple(raw.get(name, ())) for name in ("sizes", "rows"))
        return cls(raw["version"], raw["columns"], tuple(raw["files"]), *facts)


class JobReach(NamedTuple):
    """Up to which commit of a task the tables of a user job speak.

    Attributes:
        n: Number of the commit.
        clock: Its ``now``, ISO 8601 UTC: rows that had landed by then are taken into account.
    """

    n: int
    clock: str


Reached = Mapping[str, Mapping[str, JobReach]]
"""Reach by job and task."""


@dataclass(frozen=True)
class Cut:
    """A consistent state of all tables.

    Attributes:
        id: Dense number.
        created: UTC; never before that of an earlier cut.
        marks: Per task, the newest commit that every table holds.
        jobs: Per user job and task, up to which commit of the task the job's tables speak.
    """

    id: int
    created: datetime
    marks: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, TableCut] = field(default_factory=dict)
    jobs: Reached = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As JSON, with its digest."""
        raw = {
            "id": self.id,
            "created": self.created.isoformat(),
            "marks": dict(self.marks),
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }
        raw["jobs"] = {
            job: {task: r._asdict() for task, r in tasks.items()} for job, tasks in self.jobs.items()
        }
        return with_digest(orjson.dumps(raw))

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "a cut") -> Cut:
        """Back from JSON.

        Raises:
            DamagedLakeError: It is torn or altered; the message begins with ``what``.
        """
        raw = checked(data, what)
        try:
            tables = {name: TableCut.from_json(t) for name, t in raw["tables"].items()}
            jobs = {
                job: {task: JobReach(r["n"], r["clock"]) for task, r in tasks.items()}
                for job, tasks in raw.get("jobs", {}).items()
            }
            return cls(raw["id"], datetime.fromisoformat(raw["created"]), raw["marks"], tables, jobs)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DamagedLakeError(f"{what} is damaged: it is no cut ({exc!r})") from exc


def without_excerpts(cut: Cut) -> Cut:
    """The cut without tables of raw samples: only their readers see these, and no cut or pin keeps them."""
    return replace(cut, tables={n: t for n, t in cut.tables.items() if not holds_excerpts(n)})


def paths(root: Path, cut: Cut) -> Iterable[Path]:
    """All data files of the cut."""
    return (root / table / file for table, t in cut.tables.items() for file in t.files)


def finished(file: str, marks: Mapping[str, int]) -> bool:
    """Whether all tables hold the commit that wrote the file."""
    found = origin(file)
    return found is None or found.task == COMPACTED or found.n <= marks.get(found.task, -1)


def dispensable(cuts: Iterable[tuple[int, datetime]], now: datetime) -> list[int]:
    """Ids of cuts that may be dropped: not among the newest, and not the first of a span that keeps one."""
    ordered = sorted(cuts)
    gone = []
    covered: set[tuple[timedelta, int]] = set()
    for cut_id, created in ordered[:-NEWEST_KEPT]:
        spans = {
            (span, int(created.timestamp() // span.total_seconds()))
            for age, span in _THINNED
            if now - created <= age
        }
        if spans <= covered:
            gone.append(cut_id)
        covered |= spans
    return gone


def merge(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    """Marks that hold what both hold: per task the later commit."""
    return {task: max(ours.get(task, -1), theirs.get(task, -1)) for task in sorted({*ours, *theirs})}


def merge_jobs(ours: Reached, theirs: Reached) -> dict[str, dict[str, JobReach]]:
    """Reach of every job that either names: per task the later one."""
    merged = {job: dict(tasks) for job, tasks in ours.items()}
    for job, tasks in theirs.items():
        for task, reach in tasks.items():
            known = merged.setdefault(job, {})
            known[task] = max(known.get(task, reach), reach)
    return merged


def cut_table(snapshot: Snapshot, marks: Mapping[str, int]) -> TableCut:
    """The part of a table that belongs to a cut with these marks."""
    files = sorted(f for f in snapshot.sizes if finished(f, marks))
    return TableCut(
        snapshot.version,
        {f.name: sql_type(f.type) for f in snapshot.columns},
        tuple(files),
        tuple(snapshot.sizes[f] for f in files),
        tuple(snapshot.rows.get(f) for f in files),
    )

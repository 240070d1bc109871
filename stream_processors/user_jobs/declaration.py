"""What a user's job declares, found by entry point and checked before anything of it runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import orjson

from feature_store.commit_feed import BUILT_IN_JOBS, names_table
from feature_store.job_status import JOBS_FOLDER
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import OperatorError
from schemas.excerpt_table import EXCERPT_PREFIX, holds_excerpts
from schemas.tables import AGGREGATES, DRIFT, FIXED_TABLES, PROVENANCE, TableSpec, telemetry_table_name
from schemas.topics import EXCERPT, TASK_TOPICS
from schemas.view_specs import BOOKS_STATEMENTS, DERIVED_VIEWS
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.job import Job
from stream_processors.job_context import JobContext

log = logging.getLogger(__name__)

EARLIEST = "earliest"
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_TOPICS = frozenset(t.base for t in TASK_TOPICS if t is not EXCERPT)
_READABLE = (*(w for w in Ingest.writes if not holds_excerpts(w)), AGGREGATES.name, DRIFT.name)
"""Tables that the built-in jobs write in the task's commits."""
_TAKEN = frozenset(
    {*(t.name for t in FIXED_TABLES), *(v.name for v in DERIVED_VIEWS), BOOKS_STATEMENTS, "telemetry"}
)


@dataclass(frozen=True)
class UserJob:
    """A user's job and what it declares.

    Attributes:
        topics: Topics whose raw messages it reads.
        tables: Tables whose rows it reads, ``prefix*`` among them.
        writes: Tables that it may land rows in.
        specs: Tables that are made for it.
        earliest: True: where it has never run, it begins with the earliest input that there is.
    """

    job: Job
    name: str
    version: int
    topics: tuple[str, ...]
    tables: tuple[str, ...]
    writes: tuple[str, ...]
    specs: tuple[TableSpec, ...]
    earliest: bool

    def reads_table(self, table: str) -> bool:
        """Whether its input holds rows of the table: a built-in job's that it names."""
        built_in = any(names_table(written, table) for written in _READABLE)
        return built_in and any(names_table(entry, table) for entry in self.tables)

    def may_write(self, table: str) -> bool:
        """Whether it may land rows in the table."""
        return any(names_table(entry, table) for entry in self.writes)


def declared(job: Any) -> UserJob:
    """What the job declares.

    Args:
        job: An instance of the class that its entry point names.

    Raises:
        OperatorError: A declaration that cannot work; the message says which, and what would.
    """
    name = str(job.name)
    if not _JOB_NAME.fullmatch(name):
        raise OperatorError(f"job name {name!r}: letters, digits, _ and - only, 64 at most")
    if name in BUILT_IN_JOBS:
        raise OperatorError(f"job name {name!r} is that of a built-in job: give it another")
    specs = tuple(getattr(job, "tables", ()))
    for spec in specs:
        _check_table(name, spec)
    own = tuple(spec.name for spec in specs)
    writes = tuple(dict.fromkeys((*getattr(job, "writes", ()), *own)))
    reads = tuple(job.reads)
    _check_reads(name, reads, own)
    return UserJob(
        job=job,
        name=name,
        version=int(job.version),
        topics=tuple(r for r in reads if r in _TOPICS),
        tables=tuple(r for r in reads if r not in _TOPICS),
        writes=writes,
        specs=specs,
        earliest=getattr(job, "begins", "next") == EARLIEST,
    )


def load_job(point: EntryPoint, context: JobContext) -> UserJob:
    """Import the class, build it and read what it declares. Runs the user's code.

    Raises:
        Exception: Whatever that code raises.
    """
    return declared(point.load()(context))


def make_tables(lake: Lake, job: UserJob) -> None:
    """Make the tables that the job declares, and keep other jobs from taking their names.

    Raises:
        OperatorError: A name is another job's, a column has another type, or a table is missing.
    """
    for spec in job.specs:
        owner = _owner(lake.root, spec.name, job.name)
        if owner != job.name:
            raise OperatorError(
                f"table {spec.name} belongs to job '{owner}': give yours another name, or remove "
                f"{JOBS_FOLDER}/_tables/{spec.name}.json from the lake's folder if that job is gone for good"
            )
        lake.ensure_table(spec)
    present = lake.tables()
    missing = [w for w in job.writes if not w.endswith("*") and w not in present]
    if missing:
        raise OperatorError(f"no table {missing[0]!r}: declare it in `tables` of job '{job.name}'")


def _check_table(job: str, spec: TableSpec) -> None:
    if not isinstance(spec, TableSpec):
        raise OperatorError(f"`tables` of job '{job}' must hold TableSpec values, not {type(spec).__name__}")
    if not _TABLE_NAME.fullmatch(spec.name):
        raise OperatorError(f"table name {spec.name!r}: a letter, then letters, digits, _ and -, 64 at most")
    if spec.name in _TAKEN or spec.name.startswith((telemetry_table_name(""), EXCERPT_PREFIX)):
        raise OperatorError(f"table name {spec.name!r} is taken by edgeloop: give yours another name")
    held = {f.name: f.type for f in spec.schema}
    lacking = [f.name for f in PROVENANCE if held.get(f.name) != f.type]
    if lacking:
        raise OperatorError(
            f"table {spec.name} lacks the column {lacking[0]}: its columns must end with *PROVENANCE"
        )


def _check_reads(job: str, reads: Sequence[str], own: Sequence[str]) -> None:
    for entry in reads:
        readable = any(names_table(w, entry) or names_table(entry, w) for w in _READABLE)
        if not readable and entry not in _TOPICS:
            known = ", ".join(sorted({*_READABLE, *_TOPICS}))
            what = "its own table" if entry in own else "neither a topic nor a table of the built-in jobs"
            raise OperatorError(f"job '{job}' reads {entry!r}, {what}; it may read: {known}")


def _owner(root: Path, table: str, job: str) -> str:
    """Job that the table belongs to: this one, if nobody has claimed it before."""
    path = root / JOBS_FOLDER / "_tables" / f"{table}.json"
    DISK.put_if_absent(path, orjson.dumps({"job": job}))
    try:
        return str(orjson.loads(path.read_bytes())["job"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise OperatorError(f"{path}: cannot be read as the owner of table {table}; remove the file") from exc

"""The lake: Delta tables in one folder, written in steps after each of which the process may die.

Stage, decide, apply. ``stage`` writes files that no commit names; the commit log decides; ``apply`` commits
exactly those files, once, no matter how often and by which process it is called.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from feature_store import data_file, log_digests, parquet
from feature_store.data_file import COMPACTED, Origin
from feature_store.delta import DeltaLog, Snapshot
from feature_store.delta_base import REMEDY
from feature_store.delta_entry import LogFile
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, LakeConflictError, OperatorError
from schemas.excerpt_table import holds_excerpts
from schemas.folder_access import close_new_folder
from schemas.tables import FIXED_TABLES, PARTITION_COLUMN, TableSpec

log = logging.getLogger(__name__)

_TASK = re.compile(r"[A-Za-z0-9_-]+")
_ATTEMPTS = 50


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file of one commit; everything needed to commit it after a crash.

    Attributes:
        path: Relative to the table's folder.
        size: Bytes.
        rows: Rows in it.
        day: Partition, ``YYYY-MM-DD``.
        stats: Delta statistics, JSON.
    """

    path: str
    size: int
    rows: int
    day: str
    stats: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for a commit record."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> StagedFile:
        """Back from a commit record."""
        return cls(**raw)


@dataclass(frozen=True)
class TableCommit:
    """The files of commit n of a task in one table."""

    task: str
    n: int
    files: tuple[StagedFile, ...]


class Lake:
    """Tables of one lake. May be used from several threads; several processes may hold one each.

    Attributes:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._logs: dict[str, DeltaLog] = {}
        self._lock = Lock()
        self._folders: set[Path] = set()

    @classmethod
    def open(cls, root: Path) -> Lake:
        """The lake in this folder, created where absent."""
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    def ensure_fixed_tables(self) -> None:
        """Create the tables that every lake has; a damaged one is logged, and left to repair."""
        for spec in FIXED_TABLES:
            try:
                self.ensure_table(spec)
            except DamagedLakeError as exc:
                log.warning("%s", exc)

    def ensure_table(self, spec: TableSpec) -> None:
        """Create the table, or add the columns it lacks, and let columns be null that now may.

        Columns never go and never change type.

        Raises:
            OperatorError: A column exists with another type.
            LakeConflictError: Another process keeps changing the columns.
        """
        with self._lock:
            log = self._logs.get(spec.name)
            if holds_excerpts(spec.name) and not (folder := self.root / spec.name).exists():
                folder.mkdir(parents=True)
                close_new_folder(folder)
            if log is None:
                pruning = [f.name for f in spec.schema if f.name in parquet.PRUNING]
                log = self._logs[spec.name] = DeltaLog.create(
                    self.root / spec.name, _documented(spec.schema), spec.doc, pruning
                )
        for _ in range(_ATTEMPTS):
            held = log.snapshot().columns
            new, optional = _new_columns(spec, held), _optional_columns(spec, held)
            if not new and not optional:
                return
            try:
                if new:
                    log.add_columns(new)
                for column in optional:
                    log.make_nullable(column)
            except LakeConflictError:
                continue
        raise LakeConflictError(f"another process keeps changing the columns of table {spec.name}")

    def tables(self) -> list[str]:
        """Names of the tables, sorted."""
        return sorted(
            p.name
            for p in self.root.iterdir()
            # False, and no error, where this user may not look into a folder of excerpts.
            if p.name[0] not in "_." and os.path.isdir(p / "_delta_log")  # noqa: PTH112
        )

    def stage(self, table: str, rows: pa.Table, task: str, n: int) -> list[StagedFile]:
        """Step 1: write the rows to new files that no commit names yet; they are on disk when this returns.

        Args:
            table: Name of an existing table.
            rows: Any columns of the table, in any order; nullable ones may be missing.
            task: Name of the task that commits.
            n: Number of the commit that will name the files.

        Raises:
            ValueError: Rows that do not fit the table.
        """
        if not _TASK.fullmatch(task) or task == COMPACTED:
            raise ValueError(f"task name {task!r}: letters, digits, '_' and '-' only")
        fitting = self._fit(table, rows)
        name = Origin(task, n, len(fitting.schema))
        return [
            self.write(table, part, day.isoformat(), name)
            for day, part in parquet.by_day(fitting, "known_at")
        ]

    def check(self, table: str, rows: pa.Table) -> None:
        """Return if ``stage`` could write the rows; writes nothing.

        Raises:
            ValueError: Rows that do not fit the table or that Parquet cannot hold.
        """
        fitting = self._fit(table, rows)
        for _day, part in parquet.by_day(fitting, "known_at"):
            parquet.check(part, parquet.LANDING)

    def write(
        self, table: str, rows: pa.Table, day: str, name: Origin, codec: parquet.Codec = parquet.LANDING
    ) -> StagedFile:
        """Write one data file durably; the rows have the table's columns and one day."""
        folder = self._day_folder(table, day)
        content, stats = parquet.encode(rows, codec)
        path = folder / data_file.file_name(name, content)
        parquet.write(path, content)
        DISK.sync_folder(folder)
        relative = f"{folder.name}/{path.name}"
        return StagedFile(relative, content.size, rows.num_rows, day, stats)

    def apply(self, table: str, commits: Sequence[TableCommit]) -> int:
        """Step 3: commit the files of those commits that the table does not hold yet.

        One log entry for all of them, with one application transaction per task. A task's commits are
        given in order, and n is decided: nothing else may ever be committed as n.

        Returns:
            Version of the table that holds them.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        log = self._log(table)
        for _ in range(_ATTEMPTS):
            log.catch_up()
            missing = [c for c in commits if c.files and _is_new(log.transaction(c.task), c.n)]
            if not missing:
                return log.version()
            files = [LogFile(f.path, f.size, f.day, f.stats) for c in missing for f in c.files]
            newest: dict[str, int] = {}
            for commit in missing:
                newest[commit.task] = max(commit.n, newest.get(commit.task, -1))
            if log.commit(files, [], newest):
                return log.version()
        raise LakeConflictError(f"table {table}: other writers were first {_ATTEMPTS} times in a row")

    def applied(self, table: str, task: str) -> int | None:
        """Newest commit of the task that the table holds; None: none."""
        log = self._log(table)
        log.catch_up()
        return log.transaction(task)

    def forget(self, table: str) -> None:
        """Open the table's log anew at its next use."""
        with self._lock:
            self._logs.pop(table, None)

    def snapshot(self, table: str) -> Snapshot:
        """The table as of now, unfinished commits included: queries read cuts instead."""
        return self._log(table).snapshot()

    def log(self, table: str) -> DeltaLog:
        """The table's log, for maintenance."""
        return self._log(table)

    def _fit(self, table: str, rows: pa.Table) -> pa.Table:
        log = self._log(table)
        try:
            return parquet.conform(rows, log.columns())
        except ValueError:  # another process may have changed the columns since
            return parquet.conform(rows, log.snapshot().columns)

    def _day_folder(self, table: str, day: str) -> Path:
        folder = self.root / table / f"{PARTITION_COLUMN}={day}"
        if folder not in self._folders:
            DISK.make_folder(folder)
            self._folders.add(folder)
        return folder

    def _log(self, table: str) -> DeltaLog:
        with self._lock:
            if table not in self._logs:
                if not (self.root / table / "_delta_log").is_dir():
                    if log_digests.is_known(self.root / table):
                        raise DamagedLakeError(f"table {table} has lost its Delta log; {REMEDY}")
                    raise ValueError(f"no table '{table}'; ensure_table creates one")
                self._logs[table] = DeltaLog(self.root / table)
            return self._logs[table]


def _is_new(applied: int | None, n: int) -> bool:
    return applied is None or n > applied


def _documented(columns: pa.Schema) -> pa.Schema:
    """The columns with their documentation under the key that Delta readers show."""
    return pa.schema(
        [f.with_metadata({"comment": (f.metadata or {}).get(b"doc", b"").decode()}) for f in columns]
    )


def _new_columns(spec: TableSpec, columns: pa.Schema) -> list[pa.Field]:
    for field in spec.schema:
        held = columns.field(field.name).type if field.name in columns.names else field.type
        if held != field.type:
            raise OperatorError(
                f"table {spec.name}: column {field.name} is {held}, now wanted as {field.type}; "
                "columns never change type: give it another name"
            )
    return [f.with_nullable(True) for f in _documented(spec.schema) if f.name not in columns.names]


def _optional_columns(spec: TableSpec, columns: pa.Schema) -> list[str]:
    """Columns that the table wants a value in, and that an earlier release made so."""
    there = (f.name for f in spec.schema if f.nullable and f.name in columns.names)
    return [name for name in there if not columns.field(name).nullable]

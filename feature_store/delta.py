"""The door to deltalake: one table's log, read cheaply and committed to safely.

A handle is kept for the table's life, because opening one reads a checkpoint. Between commits only new log
entries are read, and by this module instead of the engine: so a cut of all tables costs microseconds
(measured: 2 ms a table through the engine's refresh, 0.02 ms here).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from feature_store import log_digests
from feature_store.delta_base import REMEDY, hinted_checkpoint, read_entry, sound_base
from feature_store.delta_entry import DIGEST, LogFile, TableState, actions_digest
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, LakeConflictError
from schemas.tables import PARTITION_COLUMN

log = logging.getLogger(__name__)

_ATTEMPTS = 20
CHECKPOINT_EVERY = 50
"""Log entries between two checkpoints of a table's log."""
_DAY = pa.field(PARTITION_COLUMN, pa.date32(), nullable=False)
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",  # ``forget`` cleans up, and stops at pinned cuts
}
_STATS_COLUMNS = "delta.dataSkippingStatsColumns"
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Snapshot:
    """A table as of one version of its log.

    Attributes:
        columns: Without the partition column; columns that were added later come last.
        sizes: Bytes by path of each active file.
        rows: Rows by path, where the log states them.
    """

    version: int
    columns: pa.Schema
    sizes: Mapping[str, int]
    rows: Mapping[str, int] = field(default_factory=dict)


class DeltaLog:
    """One table's log. May be used from several threads.

    Args:
        folder: The table's folder; the table exists.

    Raises:
        DamagedLakeError: No table there, or its log is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "_delta_log"
        self._lock = RLock()
        self._synced = -1
        self._reopen()

    @classmethod
    def create(
        cls, folder: Path, columns: pa.Schema, doc: str, stats_columns: Iterable[str] = ()
    ) -> DeltaLog:
        """The table in this folder, created where absent.

        Args:
            folder: The table's folder.
            columns: Without the partition column.
            doc: The table's description.
            stats_columns: Columns whose bounds the log will hold.

        Raises:
            DamagedLakeError: The table existed before, and its log is gone.
        """
        if not DeltaTable.is_deltatable(str(folder)):
            if log_digests.is_known(folder) or any(folder.glob(f"{PARTITION_COLUMN}=*")):
                raise DamagedLakeError(f"table {folder.name} has lost its Delta log; {REMEDY}")
            folder.mkdir(parents=True, exist_ok=True)
            schema = Schema.from_arrow(pa.schema([*columns, _DAY]))
            with _translated(folder):
                DeltaTable.create(
                    str(folder),
                    schema,
                    mode="ignore",
                    partition_by=[PARTITION_COLUMN],
                    description=doc,
                    configuration={**_CONFIGURATION, _STATS_COLUMNS: ",".join(stats_columns)},
                )
            DISK.sync_folder(folder.parent)
            DISK.sync_folder(folder)
            log_digests.note(folder / "_delta_log" / f"{0:020d}.json")
        return cls(folder)

    def snapshot(self) -> Snapshot:
        """The table as of now."""
        with self._lock:
            state = self._advance()
            return Snapshot(state.version, state.columns, dict(state.sizes), dict(state.rows))

    def columns(self) -> pa.Schema:
        """The columns as of the last read of the log."""
        return self._state.columns

    def version(self) -> int:
        """Newest version of the table's log."""
        with self._lock:
            return self._advance().version

    def transaction(self, app: str) -> int | None:
        """Newest version that the application committed, as of the last read of the log."""
        with self._lock:
            known = self._state.transactions
            if app not in known:
                found = self._table.transaction_version(app)
                if found is not None:
                    # The engine's handle may be older than our state, never newer: newer entries add to it.
                    known[app] = found
            return known.get(app)

    def catch_up(self) -> None:
        """Bring state and engine handle to the newest version; the state is never older than the handle."""
        with self._lock:
            state = self._advance()
            if self._table.version() < state.version:
                with _translated(self.folder):
                    self._table.update_incremental()
            while self._state.version < self._table.version():
                self._advance()

    def commit(
        self,
        adds: Sequence[LogFile],
        removes: Sequence[LogFile],
        transactions: Mapping[str, int],
        info: Mapping[str, Any] | None = None,
    ) -> bool:
        """Commit files and application versions in one log entry, durably.

        Nothing is committed where the log holds one of ``transactions`` at that version or a later one, or
        lacks one of ``removes``. Check and commit are one step: the engine refuses the entry if anybody
        committed for the same application after the version of its handle.

        Args:
            adds: New files, already on the disk.
            removes: Active files that the new ones replace: the rows stay the same.
            transactions: Application to its new version.
            info: Further keys of ``commitInfo``.

        Returns:
            False: another writer was first; catch up and check again.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                self.catch_up()
                if any(_reached(self.transaction(app), n) for app, n in transactions.items()):
                    return False
                if any(f.path not in self._state.sizes for f in removes):
                    return False
                try:
                    self._write(adds, removes, transactions, info or {})
                except CommitFailedError as exc:
                    log.debug("another writer was first on table %s: %s", self.folder.name, exc)
                    continue
                except DeltaError as exc:
                    raise LakeConflictError(f"table {self.folder.name}: {exc}") from exc
                return self._is_in_log(transactions)
        return False

    def _write(
        self,
        adds: Sequence[LogFile],
        removes: Sequence[LogFile],
        transactions: Mapping[str, int],
        info: Mapping[str, Any],
    ) -> None:
        # Its version is known before, for nothing is retried here: so the digest can cover it.
        version = self._table.version() + 1
        digest = actions_digest(version, adds, [f.path for f in removes], transactions)
        now_ms = int(time.time() * 1000)
        actions = [_add(f, now_ms, data_change=not removes) for f in adds]
        self._table.create_write_transaction(
            [*actions, *(_remove(f, now_ms) for f in removes)],
            "append",
            self._table.schema(),
            [PARTITION_COLUMN],
            commit_properties=CommitProperties(
                custom_metadata={DIGEST: digest, **info},
                max_commit_retries=0,
                app_transactions=[Transaction(a, n) for a, n in transactions.items()],
            ),
            post_commithook_properties=_NO_HOOKS,
        )

    def add_columns(self, columns: Sequence[pa.Field]) -> None:
        """Append nullable columns to the table.

        Raises:
            LakeConflictError: Another writer changed the table at the same time.
        """
        self._alter(lambda table: table.alter.add_columns(Schema.from_arrow(pa.schema(columns)).fields))

    def make_nullable(self, column: str) -> None:
        """Let a column be null from now on.

        Raises:
            LakeConflictError: Another writer changed the table at the same time.
        """
        self._alter(
            lambda table: table.alter.drop_column_not_null(column), lambda c: c.field(column).nullable
        )

    def _alter(
        self, change: Callable[[DeltaTable], object], done: Callable[[pa.Schema], bool] = lambda _: False
    ) -> None:
        with self._lock, _translated(self.folder):
            self._reopen()
            if done(self._state.columns):
                return  # another process was first
            change(self._table)
            log_digests.note(self._entry_path(self._table.version()))
            self._reopen()
            self._sync()

    def forget(self, oldest: int, before: datetime) -> int:
        """Delete log files that are needed neither to open the table at ``oldest`` nor later.

        Args:
            oldest: Oldest version that must still open.
            before: Younger files stay.

        Returns:
            How many were deleted.
        """
        with self._lock:
            names = [p.name for p in self._log.iterdir()]
            gone = [self._log / n for n in superfluous(names, oldest)]
            old = [p for p in gone if p.stat().st_mtime < before.timestamp()]
            for path in old:
                path.unlink()
                log_digests.forget(path)
        return len(old)

    def _is_in_log(self, transactions: Mapping[str, int]) -> bool:
        """Whether the log that readers use holds what was just committed.

        It does not if this process was suspended so long that the entries after its handle were deleted:
        then the commit filled a hole in the past.
        """
        before = self._state.version
        state = self._advance()
        if any(state.transactions.get(app, -1) < n for app, n in transactions.items()):
            self._reopen()
            return False
        self._sync()
        if state.version // CHECKPOINT_EVERY > before // CHECKPOINT_EVERY:
            self.checkpoint()
        return True

    def checkpoint(self) -> Path:
        """Write a checkpoint of the table as of now; returns its file."""
        with self._lock, _translated(self.folder):
            self.catch_up()
            self._table.create_checkpoint()
        path = self._log / f"{self._table.version():020d}.checkpoint.parquet"
        DISK.sync_file(path)
        log_digests.note(path)
        DISK.sync_file(self._log / "_last_checkpoint")
        DISK.sync_folder(self._log)
        return path

    def _advance(self) -> TableState:
        """Read the log entries after the state's version."""
        state = self._state
        try:
            while (entry := read_entry(self._entry_path(state.version + 1))) is not None:
                state.apply(entry)
        except DamagedLakeError:
            if (hinted_checkpoint(self._log) or -1) <= state.version:
                raise  # else a later checkpoint was made that does without the damaged entry
        if state.reshaped or (hinted_checkpoint(self._log) or -1) > state.version:
            self._reopen()
        return self._state

    def _entry_path(self, version: int) -> Path:
        return self._log / f"{version:020d}.json"

    def _reopen(self) -> None:
        sound_base(self.folder)
        with _translated(self.folder):
            self._table = DeltaTable(str(self.folder))
            # ``pa.table`` would load pandas, to ask whether this is one of its frames.
            adds = pa.RecordBatchReader.from_stream(self._table.get_add_actions()).read_all()
        columns = pa.schema(pa.schema(self._table.schema().to_arrow()))
        kept = [f for f in columns if f.name != PARTITION_COLUMN]
        paths = adds["path"].to_pylist()
        sizes = zip(paths, adds["size_bytes"].to_pylist(), strict=True)
        rows = zip(paths, adds["num_records"].to_pylist(), strict=True)
        known = {path: number for path, number in rows if number is not None}
        self._state = TableState(self._table.version(), pa.schema(kept), dict(sizes), known)

    def _sync(self) -> None:
        """Put every log entry up to ours on the disk: after a torn entry ours cannot be read."""
        newest = self._state.version
        for version in range(max(self._synced + 1, newest - CHECKPOINT_EVERY), newest + 1):
            if self._entry_path(version).exists():
                DISK.sync_file(self._entry_path(version))
        DISK.sync_folder(self._log)
        self._synced = newest


def superfluous(names: Iterable[str], oldest: int) -> list[str]:
    """Log files below the newest checkpoint that still opens the table at ``oldest``."""
    numbered = [(int(n[:20]), n) for n in names if n[:20].isdigit()]
    base = max((v for v, n in numbered if ".checkpoint" in n and v <= oldest), default=0)
    return sorted(n for v, n in numbered if v < base)


def _reached(version: int | None, n: int) -> bool:
    return version is not None and version >= n


def _add(file: LogFile, now_ms: int, *, data_change: bool) -> AddAction:
    return AddAction(file.path, file.size, {PARTITION_COLUMN: file.day}, now_ms, data_change, file.stats)


def _remove(file: LogFile, now_ms: int) -> RemoveAction:
    return RemoveAction(file.path, False, now_ms, file.size, {PARTITION_COLUMN: file.day})


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except TableNotFoundError as exc:
        raise DamagedLakeError(f"{folder}: no Delta table; {REMEDY}") from exc
    except CommitFailedError as exc:
        raise LakeConflictError(f"{folder.name}: {exc}") from exc
    except DeltaError as exc:
        reason = str(exc).splitlines()[0]
        raise DamagedLakeError(f"{folder}: the Delta log cannot be read: {reason}; {REMEDY}") from exc

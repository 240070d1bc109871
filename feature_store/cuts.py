"""Cuts: recorded states of the whole lake in which every table agrees on every commit.

A worker applies a commit table by table, so between two tables the lake is inconsistent. A cut names, per
task, the newest commit that *all* tables hold, and per table the files without those of later commits.
No lock is needed: marks only grow, a mark is recorded after its commit is in all tables, and files of later
commits are recognised by their names. Compaction keeps to files that the newest cut names, so a compacted
file never holds an unfinished commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from feature_store.delta import Snapshot
from feature_store.durable import exclusive, put_if_absent, replace
from feature_store.lake import COMPACTED, Lake, origin
from schemas.errors import LakeConflictError, QueryError

NEWEST_KEPT = 64
"""Newest cuts that stay readable whatever their age."""
_THINNED = ((timedelta(hours=1), timedelta(minutes=1)), (timedelta(days=2), timedelta(hours=1)))
"""Up to this age, one cut in this span stays: what a query as of an instant can be answered from."""
_ATTEMPTS = 100

CutRef = int | str | datetime | None
"""A cut by id, by pin or id as text, or by instant (text in ISO 8601 too); None: the newest."""


@dataclass(frozen=True)
class TableCut:
    """One table in a cut.

    Attributes:
        version: Version of the Delta log the files were read at.
        columns: SQL type by column, in order; a file has the first so many as its name says.
        files: Paths relative to the table's folder, sorted.
    """

    version: int
    columns: Mapping[str, str]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A consistent state of all tables.

    Attributes:
        id: Dense number.
        created: UTC; never before that of an earlier cut.
        marks: Per task, the newest commit that every table holds.
    """

    id: int
    created: datetime
    marks: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, TableCut] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As JSON."""
        tables = {
            name: {"version": t.version, "columns": dict(t.columns), "files": list(t.files)}
            for name, t in self.tables.items()
        }
        created = self.created.isoformat()
        return orjson.dumps({"id": self.id, "created": created, "marks": dict(self.marks), "tables": tables})

    @classmethod
    def from_bytes(cls, data: bytes) -> Cut:
        """Back from JSON."""
        raw: dict[str, Any] = orjson.loads(data)
        tables = {
            name: TableCut(t["version"], t["columns"], tuple(t["files"])) for name, t in raw["tables"].items()
        }
        return cls(raw["id"], datetime.fromisoformat(raw["created"]), raw["marks"], tables)


def utc_now() -> datetime:
    """The clock cuts are stamped by."""
    return datetime.now(UTC)


class Cuts:
    """The cuts of one lake.

    Args:
        lake: Its tables.
        clock: UTC now.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime] = utc_now) -> None:
        self._lake = lake
        self._clock = clock
        self._folder = lake.root / "_cuts"
        self._pins = lake.root / "_pins"
        self._cache: Cut | None = None

    def record(self, marks: Mapping[str, int]) -> Cut:
        """Record a cut that holds these commits; call it once they are in all tables.

        Args:
            marks: Per task, the newest commit that the caller has applied everywhere.

        Returns:
            The new cut, or the newest one where nothing has changed since.

        Raises:
            LakeConflictError: Other recorders kept winning.
        """
        for _ in range(_ATTEMPTS):
            before = self.latest() or Cut(0, datetime.min.replace(tzinfo=UTC))
            merged = _merge(before.marks, marks)
            # Only now look at the tables: whatever those marks promise is in them.
            tables = {name: _cut_table(self._lake.snapshot(name), merged) for name in self._lake.tables()}
            if merged == before.marks and tables == before.tables:
                return before
            cut = Cut(before.id + 1, max(self._clock(), before.created), merged, tables)
            if self._put(cut):
                self._cache = cut
                return cut
        raise LakeConflictError(f"other recorders won {_ATTEMPTS} cuts in a row")

    def latest(self) -> Cut | None:
        """The newest cut; None: nothing was ever recorded."""
        newest = max(self.ids(), default=None)
        if newest is None:
            return None
        if self._cache is None or self._cache.id != newest:
            self._cache = self.read(newest)
        return self._cache

    def ids(self) -> list[int]:
        """Ids of the cuts on record, ascending."""
        try:
            names = [p.name for p in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdigit())

    def read(self, cut_id: int) -> Cut:
        """The cut of this id.

        Raises:
            QueryError: It was never recorded or is no longer kept.
        """
        cut = self._try(cut_id)
        if cut is None:
            raise QueryError(f"no cut {cut_id}; {self._known()}")
        return cut

    def resolve(self, ref: CutRef) -> Cut:
        """The cut that a user means.

        Raises:
            QueryError: There is none; the message says which there are.
        """
        if ref is None:
            return self.latest() or Cut(0, datetime.min.replace(tzinfo=UTC))
        if isinstance(ref, datetime):
            return self.as_of(ref)
        if isinstance(ref, int):
            return self.read(ref)
        if (pinned := self.pins().get(ref)) is not None:
            return pinned
        if ref.isdigit():
            return self.read(int(ref))
        try:
            return self.as_of(datetime.fromisoformat(ref))
        except ValueError as exc:
            raise QueryError(f"no cut or pin '{ref}' and no instant either; {self._known()}") from exc

    def as_of(self, instant: datetime) -> Cut:
        """The newest cut on record that was created at or before the instant; naive means UTC.

        Raises:
            QueryError: All are younger.
        """
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        pinned = [cut for cut in self.pins().values() if cut.created <= aware]
        best = max(pinned, key=lambda cut: cut.id, default=None)
        for cut_id in reversed(self.ids()):
            if best is not None and best.id >= cut_id:
                break
            if (cut := self._try(cut_id)) is not None and cut.created <= aware:
                return cut
        if best is not None:
            return best
        raise QueryError(f"no cut was created at or before {aware.isoformat()}; {self._known()}")

    def pin(self, name: str, ref: CutRef = None) -> Cut:
        """Keep a cut and its files until ``unpin``; training pins what it reads.

        Raises:
            QueryError: No such cut, a name that could be an id, or its files are gone already.
        """
        if not name or name.isdigit() or "/" in name or name[0] == ".":
            raise QueryError(f"'{name}' cannot name a pin")
        with self.housekeeping():
            cut = self.resolve(ref)
            gone = next((p for p in paths(self._lake.root, cut) if not p.exists()), None)
            if gone is not None:
                raise QueryError(f"cut {cut.id} cannot be pinned: {gone.name} is gone")
            replace(self._pins / f"{name}.json", cut.to_bytes())
        return cut

    def unpin(self, name: str) -> None:
        """Forget a pin.

        Raises:
            QueryError: No such pin.
        """
        try:
            (self._pins / f"{name}.json").unlink()
        except FileNotFoundError as exc:
            raise QueryError(f"no pin '{name}'; there are: {', '.join(self.pins()) or 'none'}") from exc

    def pins(self) -> dict[str, Cut]:
        """Pinned cuts by name."""
        return {p.stem: Cut.from_bytes(p.read_bytes()) for p in sorted(self._pins.glob("*.json"))}

    def kept(self) -> list[Cut]:
        """All cuts that somebody may still read: those on record and those pinned."""
        return [*self._on_record(), *self.pins().values()]

    def thin(self, now: datetime) -> int:
        """Drop cuts that no rule keeps; pinned ones stay, in their pins.

        Returns:
            How many went.
        """
        ages = [(i, self.read(i).created) for i in self.ids()]
        gone = dispensable(ages, now)
        for cut_id in gone:
            self._path(cut_id).unlink(missing_ok=True)
        return len(gone)

    def housekeeping(self) -> Any:
        """Lock among those who pin and those who delete."""
        return exclusive(self._lake.root / "_housekeeping.lock")

    def _on_record(self) -> list[Cut]:
        return [cut for i in self.ids() if (cut := self._try(i)) is not None]

    def _try(self, cut_id: int) -> Cut | None:
        """The cut; None where it was thinned out since the look at the folder."""
        try:
            return Cut.from_bytes(self._path(cut_id).read_bytes())
        except FileNotFoundError:
            return None

    def _put(self, cut: Cut) -> bool:
        if not put_if_absent(self._path(cut.id), cut.to_bytes()):
            return False
        if sum(i > cut.id for i in self.ids()) >= NEWEST_KEPT:
            # We slept; the number was free only because it was thinned out. Nobody needs this one.
            self._path(cut.id).unlink(missing_ok=True)
            return False
        return True

    def _known(self) -> str:
        ids = self.ids()
        span = f"cuts {ids[0]} to {ids[-1]} are on record" if ids else "no cut is on record"
        return f"{span}, pins: {', '.join(self.pins()) or 'none'}"

    def _path(self, cut_id: int) -> Path:
        return self._folder / f"{cut_id:012d}.json"


def paths(root: Path, cut: Cut) -> Iterable[Path]:
    """All data files of the cut."""
    return (root / table / file for table, t in cut.tables.items() for file in t.files)


def finished(file: str, marks: Mapping[str, int]) -> bool:
    """Whether all tables hold the commit that wrote the file."""
    found = origin(file)
    return found is None or found.task == COMPACTED or found.n <= marks.get(found.task, -1)


def dispensable(cuts: Iterable[tuple[int, datetime]], now: datetime) -> list[int]:
    """Ids of cuts that may go: not among the newest, nor the first of a span that keeps one."""
    ordered = sorted(cuts)
    gone = []
    seen: set[tuple[timedelta, int]] = set()
    for cut_id, created in ordered[:-NEWEST_KEPT]:
        slots = {
            (span, int(created.timestamp() // span.total_seconds()))
            for age, span in _THINNED
            if now - created <= age
        }
        if slots <= seen:
            gone.append(cut_id)
        seen |= slots
    return gone


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that our tables use."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    return _SQL_TYPES[str(kind)]


_SQL_TYPES = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date32[day]": "DATE",
}


def _merge(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {task: max(ours.get(task, -1), theirs.get(task, -1)) for task in sorted({*ours, *theirs})}


def _cut_table(snapshot: Snapshot, marks: Mapping[str, int]) -> TableCut:
    files = sorted(f for f in snapshot.sizes if finished(f, marks))
    return TableCut(snapshot.version, {f.name: sql_type(f.type) for f in snapshot.columns}, tuple(files))

"""Cuts: recorded states of the whole lake in which every table agrees on every commit.

A worker applies a commit table by table, so between two tables the lake is inconsistent. A cut names, per
task, the newest commit that *all* tables hold, and per table the files without those of later commits.
No lock is needed: marks only grow, a mark is recorded after its commit is in all tables, and files of later
commits are recognised by their names. Compaction keeps to files that the newest cut names, so a compacted
file never holds an unfinished commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from feature_store.cut import NEWEST_KEPT, Cut, Reached, cut_table, dispensable, merge, merge_jobs, paths
from feature_store.lake import Lake
from feature_store.process_lock import exclusive
from schemas.durable import DISK
from schemas.errors import LakeConflictError, QueryError
from schemas.instants import utc_now

__all__ = ["Cut", "CutRef", "CutStore"]

_ATTEMPTS = 100

CutRef = int | str | datetime | None
"""A cut by id, by pin or id as text, or by instant (text in ISO 8601 too); None: the newest."""


class CutStore:
    """The cuts of one lake.

    Args:
        lake: Its tables are cut.
        clock: UTC now.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime] = utc_now) -> None:
        self._lake = lake
        self._clock = clock
        self._folder = lake.root / "_cuts"
        self._pins = lake.root / "_pins"
        self._cache: Cut | None = None

    def record(self, marks: Mapping[str, int], jobs: Reached | None = None) -> Cut:
        """Record a cut that holds these commits; call it once they are in all tables.

        Args:
            marks: Per task, the newest commit that the caller has applied everywhere.
            jobs: What those commits of user jobs have taken into account.

        Returns:
            The new cut, or the newest one where nothing has changed since.

        Raises:
            LakeConflictError: Other processes recorded a cut first at every attempt.
        """
        for _ in range(_ATTEMPTS):
            before = self.latest() or Cut(0, datetime.min.replace(tzinfo=UTC))
            merged = merge(before.marks, marks)
            reached = merge_jobs(before.jobs, jobs or {})
            # The tables are read after the marks: so they hold every commit up to those marks.
            tables = {name: cut_table(self._lake.snapshot(name), merged) for name in self._lake.tables()}
            if (merged, tables, reached) == (before.marks, before.tables, before.jobs):
                return before
            cut = Cut(before.id + 1, max(self._clock(), before.created), merged, tables, reached)
            if self._put(cut):
                self._cache = cut
                return cut
        raise LakeConflictError(f"other processes recorded a cut first {_ATTEMPTS} times in a row")

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
            QueryError: There is none; the message lists which there are.
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
        """Keep a cut and its files until ``unpin``; a training run pins the cut that it reads.

        Raises:
            QueryError: No such cut, a name that could be an id, or its files are gone already.
        """
        if not name or name.isdigit() or "/" in name or name[0] == ".":
            raise QueryError(f"'{name}' cannot name a pin: no digits alone, no '/', no '.' at the start")
        with self.housekeeping():
            cut = self.resolve(ref)
            gone = next((p for p in paths(self._lake.root, cut) if not p.exists()), None)
            if gone is not None:
                raise QueryError(f"cut {cut.id} cannot be pinned: {gone.name} is gone")
            DISK.write(self._pins / f"{name}.json", cut.to_bytes())
        return cut

    def unpin(self, name: str) -> None:
        """Remove a pin.

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
        """All cuts that may still be read: those on record and those pinned."""
        return [*self._on_record(), *self.pins().values()]

    def thin(self, now: datetime) -> int:
        """Drop cuts that no rule keeps; a pinned cut stays, in its pin.

        Returns:
            How many were dropped.
        """
        ages = [(i, self.read(i).created) for i in self.ids()]
        gone = dispensable(ages, now)
        for cut_id in gone:
            self._path(cut_id).unlink(missing_ok=True)
        return len(gone)

    def housekeeping(self) -> AbstractContextManager[None]:
        """Lock between processes that pin and processes that delete."""
        return exclusive(self._lake.root / "_housekeeping.lock")

    def _on_record(self) -> list[Cut]:
        return [cut for i in self.ids() if (cut := self._try(i)) is not None]

    def _try(self, cut_id: int) -> Cut | None:
        """The cut; None where it was thinned out after the folder was read."""
        try:
            return Cut.from_bytes(self._path(cut_id).read_bytes())
        except FileNotFoundError:
            return None

    def _put(self, cut: Cut) -> bool:
        if not DISK.put_if_absent(self._path(cut.id), cut.to_bytes()):
            return False
        if sum(i > cut.id for i in self.ids()) >= NEWEST_KEPT:
            # This process was suspended, and its number was free only because it was thinned out meanwhile.
            self._path(cut.id).unlink(missing_ok=True)
            return False
        return True

    def _known(self) -> str:
        ids = self.ids()
        span = f"cuts {ids[0]} to {ids[-1]} are on record" if ids else "no cut is on record"
        return f"{span}, pins: {', '.join(self.pins()) or 'none'}"

    def _path(self, cut_id: int) -> Path:
        return self._folder / f"{cut_id:012d}.json"

"""Cuts: recorded states of the whole lake in which every table agrees on every commit.

A worker applies a commit table by table, so between two tables the lake is inconsistent. A cut names, per
task, the newest commit that *all* tables hold, and per table the files without those of later commits.
No lock is needed: marks only grow, a mark is recorded after its commit is in all tables, and files of later
commits are recognised by their names. Compaction keeps to files that the newest cut names, so a compacted
file never holds an unfinished commit.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import orjson

from feature_store.commit_log import CommitLog, ever_concluded
from feature_store.copies import copy_of, read_sound, remove_both, stating_path, with_copies
from feature_store.cut import (
    NEWEST_KEPT,
    Cut,
    Reached,
    TableCut,
    cut_table,
    dispensable,
    merge,
    merge_jobs,
    paths,
    without_excerpts,
)
from feature_store.decided_files import landed_marks
from feature_store.lake import Lake
from feature_store.process_lock import exclusive
from feature_store.set_aside import set_aside
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, LakeConflictError, QueryError
from schemas.instants import utc_now

__all__ = ["Cut", "CutRef", "CutStore"]

log = logging.getLogger(__name__)

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
        self._warned: set[str] = set()

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
            tables = self._tables(merged, before)
            if (merged, tables, reached) == (before.marks, before.tables, before.jobs):
                return before
            cut = Cut(before.id + 1, max(self._clock(), before.created), merged, tables, reached)
            if self._put(cut):
                self._cache = cut
                return cut
        raise LakeConflictError(f"other processes recorded a cut first {_ATTEMPTS} times in a row")

    def latest(self) -> Cut | None:
        """The newest cut; None: nothing was ever recorded.

        Where the newest one is damaged or all are gone, a new one is recorded from the tables.
        """
        ids = self.ids()
        if self._cache is not None and ids and self._cache.id >= ids[-1]:
            return self._cache
        if not ids and not ever_concluded(self._lake.root):
            return None
        newest = self._newest_sound(ids)
        sound = newest is not None and newest.id == ids[-1]
        self._cache = newest if sound else self._from_tables(newest, ids)
        return self._cache

    def recover(self) -> Cut | None:
        """The newest cut, after recording one that shows what older or missing cuts leave out."""
        landed = landed_marks(self._lake, CommitLog(self._lake.root))
        return self.record(landed) if landed else self.latest()

    def damaged(self) -> dict[int, str]:
        """Cuts on record that cannot be read, by id, with what is wrong."""
        found = {}
        for cut_id in self.ids():
            try:
                self._try(cut_id)
            except DamagedLakeError as exc:
                found[cut_id] = str(exc)
        return found

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
            if (cut := self._try_sound(cut_id)) is not None and cut.created <= aware:
                return cut
        if best is not None:
            return best
        raise QueryError(f"no cut was created at or before {aware.isoformat()}; {self._known()}")

    def keeps(self, cut: Cut) -> bool:
        """Whether the cut is on record or pinned, so that its files stay."""
        return cut.id in (0, *self.ids()) or any(pinned.id == cut.id for pinned in self.pins().values())

    def pin(self, name: str, ref: CutRef = None) -> Cut:
        """Keep a cut and its files until ``unpin``; a training run pins the cut that it reads.

        Raises:
            QueryError: No such cut, a name that could be an id, or its files are gone already.
        """
        if not name or name.isdigit() or "/" in name or name[0] == ".":
            raise QueryError(f"'{name}' cannot name a pin: no digits alone, no '/', no '.' at the start")
        with self.housekeeping():
            cut = self.resolve(ref)
            gone = next((p for p in paths(self._lake.root, without_excerpts(cut)) if not p.exists()), None)
            if gone is not None:
                raise QueryError(f"cut {cut.id} cannot be pinned: {gone.name} is gone")
            path = self._pins / f"{name}.json"
            content = stating_path(self._lake.root, path, cut.to_bytes())
            DISK.write(copy_of(self._lake.root, path), content)
            DISK.write(path, content)
        return cut

    def unpin(self, name: str) -> None:
        """Remove a pin.

        Raises:
            QueryError: No such pin.
        """
        try:
            remove_both(self._lake.root, self._pins / f"{name}.json")
        except FileNotFoundError as exc:
            raise QueryError(f"no pin '{name}'; there are: {', '.join(self.pins()) or 'none'}") from exc

    def pins(self) -> dict[str, Cut]:
        """Pinned cuts by name, without damaged ones."""
        return {name: cut for name, cut in self._all_pins().items() if isinstance(cut, Cut)}

    def damaged_pins(self) -> dict[str, str]:
        """Pins that cannot be read, nor their copies: name and what is wrong."""
        return {name: found for name, found in self._all_pins().items() if isinstance(found, str)}

    def pin_files(self) -> list[Path]:
        """The file of each pin."""
        return with_copies(self._lake.root, self._pins, "*.json")

    def kept(self) -> list[Cut]:
        """All cuts that may still be read: those on record and those pinned."""
        return [*self._on_record(), *self.pins().values()]

    def thin(self, now: datetime) -> int:
        """Drop cuts that no rule keeps; a pinned cut stays, in its pin.

        Returns:
            How many were dropped.
        """
        for cut_id in self.damaged():
            with contextlib.suppress(FileNotFoundError):
                set_aside(self._lake.root, self.path(cut_id))
        ages = [(cut.id, cut.created) for cut in self._on_record()]
        gone = dispensable(ages, now)
        for cut_id in gone:
            self.path(cut_id).unlink(missing_ok=True)
        return len(gone)

    def housekeeping(self) -> AbstractContextManager[None]:
        """Lock between processes that pin and processes that delete."""
        return exclusive(self._lake.root / "_housekeeping.lock")

    def _on_record(self) -> list[Cut]:
        return [cut for i in self.ids() if (cut := self._try_sound(i)) is not None]

    def _try(self, cut_id: int) -> Cut | None:
        """The cut; None where it was thinned out after the folder was read."""
        name = f"_cuts/{self.path(cut_id).name}"
        try:
            cut = Cut.from_bytes(self.path(cut_id).read_bytes(), name)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise DamagedLakeError(f"{name} cannot be read: {exc.strerror or exc}") from exc
        if cut.id != cut_id:
            raise DamagedLakeError(f"{name} is damaged: it holds cut {cut.id}")
        return cut

    def _try_sound(self, cut_id: int) -> Cut | None:
        try:
            return self._try(cut_id)
        except DamagedLakeError:
            return None

    def _newest_sound(self, ids: Sequence[int]) -> Cut | None:
        return next((cut for i in reversed(ids) if (cut := self._try_sound(i)) is not None), None)

    def _all_pins(self) -> dict[str, Cut | str]:
        found: dict[str, Cut | str] = {}
        for path in self.pin_files():
            try:
                raw = read_sound(self._lake.root, path)
                found[path.stem] = Cut.from_bytes(orjson.dumps(raw), f"_pins/{path.name}")
            except DamagedLakeError as exc:
                found[path.stem] = str(exc)
        return found

    def _from_tables(self, sound: Cut | None, ids: Sequence[int]) -> Cut:
        """A new cut in place of a damaged or missing newest one: nothing that was visible is lost from it."""
        before = sound or Cut(0, datetime.min.replace(tzinfo=UTC))
        landed = landed_marks(self._lake, CommitLog(self._lake.root))
        marks = merge(before.marks, landed)
        pinned = [cut.id for cut in self.pins().values()]
        number = max([*ids, *pinned, before.id]) + 1
        cut = Cut(number, max(self._clock(), before.created), marks, self._tables(marks, before))
        gone = f"_cuts/{self.path(ids[-1]).name} is damaged" if ids else "_cuts is empty"
        try:
            if not self._put(cut):
                return self.latest() or cut  # another process was first
            log.error("%s; cut %d was recorded from the tables in its place", gone, cut.id)
        except OSError as exc:
            log.warning(
                "%s; a cut made from the tables cannot be recorded (%s), and is used as it is", gone, exc
            )
        return cut

    def _tables(self, marks: Mapping[str, int], before: Cut) -> dict[str, TableCut]:
        """Each table as of now; one whose log is damaged or older than the last cut stays as it was."""
        tables = dict(before.tables)
        for name in self._lake.tables():
            try:
                snapshot = self._lake.snapshot(name)
            except DamagedLakeError as exc:
                self._warn(f"table {name} stays in new cuts as it was in cut {before.id}: {exc}")
                continue
            now, then = cut_table(snapshot, marks), before.tables.get(name)
            if then is not None and _lacks(now, then):
                self._warn(f"table {name} is older than cut {before.id}, which stays in force for it")
            else:
                tables[name] = now
        return tables

    def _put(self, cut: Cut) -> bool:
        if not DISK.put_if_absent(self.path(cut.id), cut.to_bytes()):
            return False
        if sum(i > cut.id for i in self.ids()) >= NEWEST_KEPT:
            # This process was suspended, and its number was free only because it was thinned out meanwhile.
            self.path(cut.id).unlink(missing_ok=True)
            return False
        return True

    def _warn(self, text: str) -> None:
        """Log it once: it would come with every commit."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def _known(self) -> str:
        ids = self.ids()
        span = f"cuts {ids[0]} to {ids[-1]} are on record" if ids else "no cut is on record"
        return f"{span}, pins: {', '.join(self.pins()) or 'none'}"

    def path(self, cut_id: int) -> Path:
        """File of a cut on record."""
        return self._folder / f"{cut_id:012d}.json"


def _lacks(now: TableCut, then: TableCut) -> bool:
    """Whether a table is of an earlier moment than a cut of it: files go only in a later version."""
    return now.version <= then.version and not set(then.files) <= set(now.files)

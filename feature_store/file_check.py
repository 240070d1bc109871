"""Checks every data file that a cut, a pin or a table's log names: all of it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from feature_store.cut import without_excerpts
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamagedFile, DamageList
from feature_store.data_file import content_problem
from feature_store.file_repair import put_away
from feature_store.lake import Lake
from feature_store.lake_finding import LakeFinding, Progress, Restore
from schemas.errors import DamagedLakeError

_SHOWN_EVERY = 256 * 1024**2


@dataclass(frozen=True)
class _NamedFile:
    table: str
    path: str
    size: int | None
    rows: int | None

    @property
    def name(self) -> str:
        return f"{self.table}/{self.path}"


def check_files(
    lake: Lake, cuts: CutStore, progress: Progress, restore: Restore | None
) -> Iterator[LakeFinding]:
    """Findings about data files; each damaged one goes on the damage list, so that queries name it.

    Args:
        lake: Its data files are read.
        cuts: Of the same lake.
        progress: Is given how much is read.
        restore: Restores a file; None: nothing is to be repaired.
    """
    repair = restore is not None
    listed = DamageList(lake.root)
    known = {(d.table, d.path): d for d in listed.all()}
    files = _named(lake, cuts)
    total, read, shown = sum(f.size or 0 for f in files.values()), 0, 0
    for name, file in sorted(files.items()):
        problem = content_problem(lake.root / name, file.size)
        read += file.size or 0
        if read - shown >= _SHOWN_EVERY:
            shown = read
            progress(f"{read / 1e9:.1f} of {total / 1e9:.1f} GB of data files read")
        if problem is not None and name in _named(lake, cuts):
            yield _damaged(lake, cuts, file, problem, known.get((file.table, file.path)), restore)
        elif problem is None and (file.table, file.path) in known:
            yield _whole_again(listed, file, repair=repair)
    if repair:
        for table, path in known:
            if f"{table}/{path}" not in files:
                listed.remove(table, path)  # nothing names it any more


def _damaged(
    lake: Lake,
    cuts: CutStore,
    file: _NamedFile,
    problem: str,
    known: DamagedFile | None,
    restore: Restore | None,
) -> LakeFinding:
    rows = known.rows if file.rows is None and known else file.rows
    DamageList(lake.root).add(file.table, file.path, rows, problem)
    if restore is not None:
        how = restore(file.table, file.path)
        if how is not None:
            cuts.record({})
            return LakeFinding(file.name, problem, how, healed=True)
        put_away(lake.root, file.table, file.path)
    lost = "an unknown number of rows is" if rows is None else f"{rows} rows are"
    then = "put it back from a backup, then `--repair`" if restore else "`--repair` restores it if it can"
    return LakeFinding(file.name, problem, f"{lost} in no query; {then}", rows=rows)


def _whole_again(listed: DamageList, file: _NamedFile, *, repair: bool) -> LakeFinding:
    if repair:
        listed.remove(file.table, file.path)
    outcome = "its rows are shown again" if repair else "`--repair` shows its rows again"
    return LakeFinding(file.name, "was damaged, and is whole again", outcome, healed=repair)


def _named(lake: Lake, cuts: CutStore) -> dict[str, _NamedFile]:
    """Every file that may be read, by ``<table>/<path>``."""
    found = {
        f"{table}/{path}": _NamedFile(table, path, size, rows)
        for cut in cuts.kept()
        for table, files in without_excerpts(cut).tables.items()
        for path, size, rows in files.sized()
    }
    for table in lake.tables():
        try:
            snapshot = lake.snapshot(table)
        except DamagedLakeError:
            continue
        for path, size in snapshot.sizes.items():
            found[f"{table}/{path}"] = _NamedFile(table, path, size, snapshot.rows.get(path))
    return found

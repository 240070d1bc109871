"""`edgeloop lake check`: reads every file of a lake, says what is wrong with which, and heals what it can.

Nothing is deleted: what is damaged is set aside. It may run beside workers: what looks wrong because they are
at work is looked at again before it counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from feature_store.catalog import CATALOG, catalog_problem, refresh_catalog
from feature_store.commit_check import check_commits
from feature_store.commit_log import CommitLog
from feature_store.copies import file_problem, read_sound
from feature_store.cut_store import CutStore
from feature_store.decided_files import landed_marks, read_files
from feature_store.file_check import check_files
from feature_store.file_repair import restore
from feature_store.lake import Lake
from feature_store.lake_finding import LakeFinding, Progress, Restore
from feature_store.lake_registry import ProfileRegistry
from feature_store.process_lock import exclusive
from feature_store.set_aside import set_aside
from feature_store.start_up import known_tables
from feature_store.table_rebuild import BrokenTable, broken_tables, mend_tables
from feature_store.version_store import FOLDER as VERSIONS
from feature_store.version_store import VersionStore
from schemas.errors import DamagedLakeError


def check_lake(
    root: Path, progress: Progress, *, repair: bool = False, reland: Restore | None = None
) -> Iterator[LakeFinding]:
    """Everything that is wrong with the lake in this folder, one finding at a time.

    Args:
        root: The lake's folder.
        progress: Is given what is being read.
        repair: Heal what can be healed; healed findings are reported too.
        reland: Restores a data file from the log; None: the log cannot be read.
    """
    lake = Lake.open(root)
    cuts = CutStore(lake)
    lock = exclusive(root / "_check.lock") if repair else contextlib.nullcontext()
    with lock:
        progress("profiles and pins")
        yield from _copied(lake, cuts, repair=repair)
        yield from _pointers(lake, repair=repair)
        progress("cuts")
        yield from _cuts(lake, cuts, repair=repair)
        progress("tables")
        yield from _tables(lake, cuts, repair=repair)
        progress("commit log")
        yield from check_commits(lake, cuts, repair=repair)
        yield from _hidden(lake, cuts, repair=repair)
        progress("data files")
        yield from check_files(lake, cuts, progress, _restorer(lake, reland) if repair else None)
        yield from _catalog(lake, repair=repair)


def _restorer(lake: Lake, reland: Restore | None) -> Restore:
    def restored(table: str, path: str) -> str | None:
        return restore(lake, table, path) or (reland(table, path) if reland else None)

    return restored


def _copied(lake: Lake, cuts: CutStore, *, repair: bool) -> Iterator[LakeFinding]:
    """Profiles, their versions, and pins: each has a copy that takes the place of a damaged one."""
    for path in (*ProfileRegistry(lake).files(), *VersionStore(lake.root).files(), *cuts.pin_files()):
        name = str(path.relative_to(lake.root))
        problem = file_problem(lake.root, path)
        if problem is None:
            continue
        try:
            # Reading puts the copy in its place, with or without a repair: whoever reads next does so too.
            read_sound(lake.root, path)
            yield LakeFinding(name, problem, "restored from its copy", healed=True)
        except DamagedLakeError:
            yield LakeFinding(name, problem, _without_copy(path))
    for name, problem in ProfileRegistry(lake).damaged().items():
        if file_problem(lake.root, lake.root / name) is None:
            yield LakeFinding(name, problem, _without_copy(lake.root / name))


def _without_copy(path: Path) -> str:
    if path.parent.name == "_pins":
        return f"vacuum deletes nothing until it is restored, or given up: `edgeloop lake unpin {path.stem}`"
    if VERSIONS in path.parts:
        return (
            "rows that name this version wait, and are then refused, bytes kept; push it again or restore it"
        )
    return "what devices of this profile send is refused, bytes kept; register the profile again"


def _pointers(lake: Lake, *, repair: bool) -> Iterator[LakeFinding]:
    registry = ProfileRegistry(lake)
    for path in registry.wrong_pointers():
        if repair:
            registry.point_again()
        outcome = (
            "made anew from the profiles" if repair else "harmless: profiles are asked; `--repair` writes it"
        )
        yield LakeFinding(str(path.relative_to(lake.root)), "names another profile, or none", outcome, repair)


def _cuts(lake: Lake, cuts: CutStore, *, repair: bool) -> Iterator[LakeFinding]:
    damaged = cuts.damaged()
    newest = cuts.latest()
    for cut_id, problem in damaged.items():
        path = cuts.path(cut_id)
        if repair:
            set_aside(lake.root, path)
        instead = f"cut {newest.id} shows everything that is applied" if newest else "no cut is left"
        outcome = f"set aside; {instead}" if repair else f"{instead}; `--repair` sets it aside"
        yield LakeFinding(str(path.relative_to(lake.root)), problem, outcome, healed=repair)


def _tables(lake: Lake, cuts: CutStore, *, repair: bool) -> Iterator[LakeFinding]:
    found: Iterable[BrokenTable] = (
        mend_tables(lake, cuts, known_tables(lake), accept_loss=True)
        if repair
        else broken_tables(lake, cuts.latest())
    )
    for broken in found:
        rows = sum(n or 0 for _, n in broken.missing)
        if broken.healed and broken.missing:
            outcome = f"made anew from the newest cut; {rows} rows in {len(broken.missing)} files are lost"
        elif broken.healed:
            outcome = "made anew from the newest cut and the commit records"
        elif broken.missing:
            outcome = (
                f"tasks that write to it are stopped; {rows} rows are gone: restore its files, or `--repair`"
            )
        elif repair:
            outcome = "tasks that write to it are stopped: no cut names it, so restore it from a backup"
        else:
            outcome = "tasks that write to it are stopped; `--repair` makes its log anew"
        healed = broken.healed and not broken.missing
        yield LakeFinding(f"{broken.table}/_delta_log", broken.problem, outcome, healed, rows or None)


def _hidden(lake: Lake, cuts: CutStore, *, repair: bool) -> Iterator[LakeFinding]:
    """Commits that every table holds, that are marked applied, and that the newest cut does not show."""
    log = CommitLog(lake.root)
    landed = landed_marks(lake, log)
    concluded = {task: mark for task, mark in landed.items() if (log.applied(task) or -1) >= mark}
    newest = cuts.latest()
    shown = newest.marks if newest else {}
    hidden = [t for t, mark in concluded.items() if _names_files(log, t, shown.get(t, -1), mark)]
    if hidden:
        if repair:
            cuts.recover()
        outcome = (
            "a new cut shows them" if repair else "their rows are in no query; `--repair` records a new cut"
        )
        problem = (
            f"the newest cut is of an earlier moment than the tables: it lacks commits of {', '.join(hidden)}"
        )
        yield LakeFinding("_cuts", problem, outcome, healed=repair)


def _names_files(log: CommitLog, task: str, after: int, last: int) -> bool:
    """Whether a commit behind ``after`` names a file; one that only says how far it has read needs no cut."""
    named = (read_files(log, task, n) for n in range(after + 1, last + 1))
    return any(files is None or any(files.values()) for files in named)


def _catalog(lake: Lake, *, repair: bool) -> Iterator[LakeFinding]:
    problem = catalog_problem(lake.root)
    if problem is not None:
        if repair:
            refresh_catalog(lake)
        yield LakeFinding(CATALOG, problem, "made anew" if repair else "workers make it anew", healed=repair)

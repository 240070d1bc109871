"""Checks the commit log: marks, snapshots and records of each task, and whether tables are of its moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from feature_store.commit_log import APPLIED, RECORD, SNAPSHOT, CommitLog
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.data_file import content_problem
from feature_store.decided_files import files_of
from feature_store.lake import Lake, TableCommit
from feature_store.lake_finding import LakeFinding
from feature_store.lake_moments import MissingCommits, TaskHistory, compare
from feature_store.set_aside import set_aside
from feature_store.task_history import task_history
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked


def check_commits(lake: Lake, cuts: CutStore, *, repair: bool) -> Iterator[LakeFinding]:
    """Findings about the commit log; damaged files that nothing needs are set aside by a repair."""
    log = CommitLog(lake.root)
    for task in log.tasks():
        yield from _marks(lake.root, log, task, repair=repair)
        try:
            history = task_history(log, task)
        except DamagedLakeError as exc:
            yield LakeFinding(f"_commits/{task}", str(exc), f"{task} is stopped until the file is restored")
            yield from _unreadable(lake.root, log, task, needed_from=0, repair=False)
            continue
        yield from _unreadable(lake.root, log, task, needed_from=history.base + 1, repair=repair)
        yield from _moments(lake, cuts, history, repair=repair)
    yield from _without_log(lake, cuts, set(log.tasks()))


def _marks(root: Path, log: CommitLog, task: str, *, repair: bool) -> Iterator[LakeFinding]:
    mark = root / "_commits" / task / APPLIED
    if mark.exists() and log.applied(task) is None:
        name = str(mark.relative_to(root))
        if repair:
            set_aside(root, mark)
        outcome = (
            "set aside; the next commit writes it" if repair else "harmless: tables tell what is applied"
        )
        yield LakeFinding(name, "the mark is damaged", outcome, healed=repair)


def _unreadable(
    root: Path, log: CommitLog, task: str, needed_from: int, *, repair: bool
) -> Iterator[LakeFinding]:
    """Snapshots and records that cannot be read; those before ``needed_from`` are needed by nothing."""
    found = [(log.path(task, n, SNAPSHOT), n, True) for n in log.snapshots(task)]
    found += [(log.path(task, n, RECORD), n, n < needed_from) for n in log.numbers(task)]
    for path, n, spare in found:
        name = str(path.relative_to(root))
        problem = _problem(path, name, n)
        if problem is None:
            continue
        if not spare:
            yield LakeFinding(name, problem, f"{task} is stopped; restore the file from a backup")
        elif repair:
            set_aside(root, path)
            yield LakeFinding(name, problem, "set aside: nothing needs it", healed=True)
        else:
            yield LakeFinding(name, problem, "nothing needs it; `--repair` sets it aside")


def _problem(path: Path, name: str, n: int) -> str | None:
    try:
        data = path.read_bytes()
        if path.suffix == RECORD:
            files_of(data, name)
        stated = checked(data, name).get("n", n)
    except FileNotFoundError:
        return None  # pruned meanwhile
    except DamagedLakeError as exc:
        return str(exc)
    except OSError as exc:
        return f"{name} cannot be read: {exc.strerror or exc}"
    return None if stated == n else f"{name} holds number {stated}"


def _moments(lake: Lake, cuts: CutStore, history: TaskHistory, *, repair: bool) -> Iterator[LakeFinding]:
    cut = cuts.latest()
    try:
        moments = compare(lake, history, cut.marks.get(history.task) if cut else None, lake.tables())
    except DamagedLakeError:
        return  # the table's own finding says it
    refusal = moments.refusal()
    if refusal is None or CommitLog(lake.root).newest(history.task) != history.decided:
        return  # else the worker went on while we looked
    if moments.ahead:
        outcome = "restore `_commits` and the tables from one moment; nothing else brings its memory back"
        yield LakeFinding(f"_commits/{history.task}", refusal, outcome)
        return
    for missing in moments.behind:
        rows = sum(f.rows for f, _ in missing.gone)
        if repair:
            _accept(lake, history, missing)
        lost = "an unknown number of rows is" if missing.pruned else f"{rows} rows are"
        outcome = (
            f"{history.task} goes on; {lost} lost, and named in every query of {missing.table}"
            if repair
            else f"{history.task} is stopped; restore the table's files, or `--repair` goes on without them"
        )
        yield LakeFinding(missing.table, refusal, outcome, rows=None if missing.pruned else rows)
    if repair:
        cuts.recover()


def _accept(lake: Lake, history: TaskHistory, missing: MissingCommits) -> None:
    """Apply what a table lacks, with files that are gone: they are named as damaged from now on."""
    listed = DamageList(lake.root)
    for n in missing.numbers:
        files = (history.files_of(n) or {}).get(missing.table, ())
        for file in files:
            problem = content_problem(lake.root / missing.table / file.path, file.size)
            if problem is not None:
                listed.add(missing.table, file.path, file.rows, problem)
        lake.apply(missing.table, [TableCommit(history.task, n, files)])
    newest = history.named[missing.table]
    if (lake.applied(missing.table, history.task) or -1) < newest:
        lake.log(missing.table).commit([], [], {history.task: newest})


def _without_log(lake: Lake, cuts: CutStore, known: set[str]) -> Iterator[LakeFinding]:
    """Tasks that the newest cut knows and of which the commit log has nothing."""
    cut = cuts.latest()
    for task, mark in sorted((cut.marks if cut else {}).items()):
        if task not in known:
            yield LakeFinding(
                f"_commits/{task}",
                f"the commit log of {task} is missing; the newest cut holds its commit {mark}",
                f"{task} is stopped: restore `_commits` and the tables from one moment",
            )

"""Whether the parts of a lake come from one moment: what a task has decided, and what each table holds of it.

Two things are refused. A table holds commits that the commit log does not know: the log is older, and going
on would decide their numbers again, under which tables skip files. Or a table lacks commits that the log has
decided, and their files are gone: the table is older, and going on would leave their rows out.
A table that lacks commits whose files are all there is what a crash leaves: they are applied again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from feature_store.data_file import content_problem
from feature_store.decided_files import Files
from feature_store.lake import Lake, StagedFile
from schemas.errors import DamagedLakeError

RUNBOOK = "docs/runbook.md#a-lake-of-two-moments"


@dataclass(frozen=True)
class TaskHistory:
    """What the commit log knows of one task.

    Attributes:
        decided: Newest decided commit; -1: none.
        named: Per table, the newest commit that names files of it, as far as known.
        files_of: Files by table of a commit; None: its record is pruned.
        base: Number of the snapshot that the history begins with; -1: none. Older records may be pruned.
        base_named: ``named`` as of that snapshot.
    """

    task: str
    decided: int
    named: Mapping[str, int]
    files_of: Callable[[int], Files | None]
    base: int = -1
    base_named: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MissingCommits:
    """Commits that a table lacks.

    Attributes:
        numbers: Ascending.
        gone: Their files that are not as they were written, each with what is wrong.
        pruned: Some of their records are gone, so that nobody can say which files they had.
    """

    table: str
    held: int
    numbers: tuple[int, ...]
    gone: tuple[tuple[StagedFile, str], ...] = ()
    pruned: bool = False


@dataclass(frozen=True)
class TaskMoments:
    """A task's commits beside what the tables and the newest cut hold of them.

    Attributes:
        ahead: Per table or ``cuts``, a commit that it holds and that the log does not know.
        behind: Tables that lack decided commits.
        held: Newest commit of the task that each table holds; tables without any are left out.
    """

    task: str
    decided: int
    ahead: Mapping[str, int] = field(default_factory=dict)
    behind: tuple[MissingCommits, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def redo(self) -> list[int]:
        """Commits that have to be applied again, ascending."""
        return sorted({n for missing in self.behind for n in missing.numbers})

    def refusal(self) -> str | None:
        """Why the task must not go on, in one line; None: it may, once ``redo`` is applied."""
        if self.ahead:
            return self._ahead()
        lost = [m for m in self.behind if m.gone or m.pruned]
        return self._behind(lost) if lost else None

    def _ahead(self) -> str:
        held = ", ".join(f"{name} has {n}" for name, n in sorted(self.ahead.items()))
        return (
            f"{self.task}: `_commits` is of an earlier moment than the rest of the lake: its newest commit "
            f"is {self.decided}, but {held}. Going on would lose the rows of each number that is decided "
            "again, so the task is stopped. Restore `_commits` and the tables from one moment "
            f"({RUNBOOK})"
        )

    def _behind(self, lost: list[MissingCommits]) -> str:
        parts = []
        for missing in lost:
            rows, files = sum(f.rows for f, _ in missing.gone), len(missing.gone)
            what = "an unknown number of rows" if missing.pruned else f"{rows} rows in {files} files, first "
            first = "" if missing.pruned else f"{missing.gone[0][0].path}: {missing.gone[0][1]}"
            parts.append(f"{missing.table} ends at {missing.held} and lacks {what}{first}")
        return (
            f"{self.task}: commit {self.decided} is decided, but {'; '.join(parts)}. The table is of an "
            "earlier moment than `_commits`. Going on would leave these rows out in silence, so the task is "
            "stopped. Put the files back, or go on without them by `edgeloop lake check --repair` "
            f"({RUNBOOK})"
        )


def compare(lake: Lake, history: TaskHistory, cut_mark: int | None, tables: Iterable[str]) -> TaskMoments:
    """A task's commits beside what tables hold of them; files of commits that a table lacks are read.

    Args:
        lake: Holds the tables.
        history: Of the task.
        cut_mark: The task's mark in the newest cut; None: it has none.
        tables: Which to ask beside those that the history names.

    Raises:
        DamagedLakeError: The Delta log of a table that the task writes to cannot be read.
    """
    held = {t: _held(lake, t, history) for t in sorted({*tables, *history.named})}
    ahead = {t: n for t, n in held.items() if n > history.decided}
    if cut_mark is not None and cut_mark > history.decided:
        ahead["the newest cut"] = cut_mark
    behind = [_missing(lake, t, n, history) for t, n in held.items() if n < history.named.get(t, -1)]
    known = {t: n for t, n in held.items() if n >= 0}
    return TaskMoments(history.task, history.decided, ahead, tuple(behind), known)


def _held(lake: Lake, table: str, history: TaskHistory) -> int:
    try:
        held = lake.applied(table, history.task)
    except ValueError:  # no such table
        return -1
    except DamagedLakeError:
        if table in history.named:
            raise
        return -1  # not this task's concern
    return -1 if held is None else held


def _missing(lake: Lake, table: str, held: int, history: TaskHistory) -> MissingCommits:
    numbers, gone, pruned = [], [], False
    all_before = held >= history.base_named.get(table, -1)
    for n in range((max(held, history.base) if all_before else held) + 1, history.named[table] + 1):
        named = history.files_of(n)
        if named is None:
            pruned = True
        elif files := named.get(table):
            numbers.append(n)
            for file in files:
                problem = content_problem(lake.root / table / file.path, file.size)
                if problem is not None:
                    gone.append((file, problem))
    return MissingCommits(table, held, tuple(numbers), tuple(gone), pruned)

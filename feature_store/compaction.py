"""Merges the lake's small files into few large ones whose rows are ordered by device and time.

Files are merged into ever larger ones, each about ``fan_in`` times as large as its inputs. So a row is
rewritten a few times in its life, however small the commits are, and a day has few files. A compaction only
rewrites: the rows of every cut stay the same. It is seen whole or not at all, and of two that planned on the
same state one wins.

Step 1 *Plan*: on the files of the newest cut, and on the number of the last compaction.
Step 2 *Write*: the new file, synced. A crash here or before step 3 leaves a file that no one names.
Step 3 *Commit*: one entry of the table's log names the new file, removes the old ones and holds the next
    number. Somebody else's commit makes it try again; another compaction since step 1 makes it give up.
Step 4 *Show*: a new cut. A crash before it changes nothing: the older files stay, and the next cut shows it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.data_file import COMPACTED, Origin, content_problem, is_sorted, origin
from feature_store.delta import Snapshot
from feature_store.delta_entry import COMPACTOR, INPUTS, LogFile
from feature_store.lake import Lake
from feature_store.sorted_file import SORT_BYTES, write_sorted
from schemas.errors import DamagedLakeError
from schemas.tables import PARTITION_COLUMN

log = logging.getLogger(__name__)


def _nothing() -> None:
    """No progress to report."""


@dataclass(frozen=True)
class CompactionPolicy:
    """When and how to compact.

    Attributes:
        target_bytes: Most input merged into one file.
        fan_in: A sorted file is rewritten once it makes up no more than one part in so many of the result.
        least_files: Fewer unsorted files of a table are left alone.
        sort_bytes: Rows that are sorted at a time.
    """

    target_bytes: int = 64 * 1024**2
    fan_in: int = 4
    least_files: int = 8
    sort_bytes: int = SORT_BYTES

    def is_final(self, size: int) -> bool:
        """Whether a sorted file is so large that it stays as it is."""
        return size * self.fan_in > self.target_bytes


@dataclass(frozen=True)
class MergePlan:
    """Files of one day to merge into one, in sequence."""

    day: str
    files: Sequence[str]


def compact(
    lake: Lake,
    cuts: CutStore,
    policy: CompactionPolicy | None = None,
    progress: Callable[[], None] = _nothing,
) -> int:
    """Merge small files of every table, and show the result in a new cut.

    Args:
        lake: Its tables are compacted.
        cuts: Of the same lake.
        policy: When and how.
        progress: Called now and then.

    Returns:
        How many files were replaced.
    """
    chosen = policy or CompactionPolicy()
    replaced = 0
    for table in lake.tables():
        try:
            replaced += compact_table(lake, cuts, table, chosen, progress)
        except (DamagedLakeError, FileNotFoundError) as exc:  # the other tables do without it
            log.warning("table %s is not compacted: %s", table, exc)
    if replaced:
        cuts.record({})
    return replaced


def compact_table(
    lake: Lake,
    cuts: CutStore,
    table: str,
    policy: CompactionPolicy,
    progress: Callable[[], None] = _nothing,
) -> int:
    """Merge small files of one table.

    It merges only files that the newest cut names: so no merged file ever holds rows of a commit that another
    table still lacks.

    Returns:
        How many files were replaced; fewer than planned where another compactor was first.

    Raises:
        DamagedLakeError: The table's log, or a file that was sound a moment before.
        FileNotFoundError: This process slept for hours, and vacuum has deleted what it wrote.
    """
    cut = cuts.latest()
    if cut is None or table not in cut.tables:
        return 0
    known = cut.tables[table].sized()
    if not plan({path: size or 0 for path, size, _ in known}, policy):
        return 0
    table_log = lake.log(table)
    table_log.catch_up()
    number = table_log.transaction(COMPACTOR) or 0
    snapshot = table_log.snapshot()
    damaged = DamageList(lake.root).of_table(table)
    whole = [f for f in cut.tables[table].files if f in snapshot.sizes and f not in damaged]
    sizes = {f: snapshot.sizes[f] for f in whole}
    replaced = 0
    for merge in plan(sizes, policy):
        sound = _sound(lake, table, merge.files, snapshot)
        if not sound or (len(sound) == 1 and is_sorted(sound[0])):
            continue
        name = Origin(COMPACTED, cut.id, len(snapshot.columns))
        day = f"{PARTITION_COLUMN}={merge.day}"
        written = write_sorted(lake.root / table, sound, snapshot.columns, day, progress, policy.sort_bytes)
        path = f"{day}/{written.named(name).name}"
        number += 1
        new = LogFile(path, written.size, merge.day, written.stats)
        old = [LogFile(f, sizes[f], merge.day) for f in sound]
        (lake.root / table / path).stat()
        if not table_log.commit([new], old, {COMPACTOR: number}, {INPUTS: {path: sound}}):
            log.info("table %s: another compaction was first", table)
            break
        replaced += len(sound)
    return replaced


def plan(sizes: Mapping[str, int], policy: CompactionPolicy) -> list[MergePlan]:
    """Which files to merge, each group into one.

    Unsorted files of a day are merged once a table has enough of them, and with them the sorted files of that
    day that are small beside them. What a former release compacted is sorted too, one large file at a time.

    Args:
        sizes: Bytes by path.
        policy: When and how.
    """
    days: dict[str, list[str]] = defaultdict(list)
    for file in sizes:
        if (day := _day(file)) and not (is_sorted(file) and policy.is_final(sizes[file])):
            days[day].append(file)
    large = [f for files in days.values() for f in files if _is_large(f, sizes[f], policy)]
    small = {day: [f for f in files if f not in set(large)] for day, files in days.items()}
    merges = [MergePlan(_day(file), [file]) for file in sorted(large)[-1:]]
    if sum(not is_sorted(f) for files in small.values() for f in files) < policy.least_files:
        return merges
    for day, files in sorted(small.items()):
        unsorted = sorted((f for f in files if not is_sorted(f)), key=_by_commit)
        groups = _pack(unsorted, sizes, policy.target_bytes)
        if groups:
            groups[-1] = [*_worth_merging(files, groups[-1], sizes, policy), *groups[-1]]
        merges += [MergePlan(day, group) for group in groups]
    return merges


def _is_large(file: str, size: int, policy: CompactionPolicy) -> bool:
    """Whether an unsorted file is worth a merge of its own."""
    return not is_sorted(file) and policy.is_final(size)


def _worth_merging(
    files: Iterable[str], group: Sequence[str], sizes: Mapping[str, int], policy: CompactionPolicy
) -> list[str]:
    """The smallest sorted files, as many of them as leave the largest small beside the rest; oldest first."""
    total, chosen = sum(sizes[f] for f in group), 0
    found = sorted(filter(is_sorted, files), key=sizes.__getitem__)
    for number, file in enumerate(found, 1):
        if total + sizes[file] > policy.target_bytes:
            break
        if sizes[file] * (policy.fan_in - 1) <= total:
            chosen = number
        total += sizes[file]
    return sorted(found[:chosen], key=_by_commit)


def _pack(files: Iterable[str], sizes: Mapping[str, int], target_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = []
    filled = 0
    for file in files:
        if not groups or filled + sizes[file] > target_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += sizes[file]
    return groups


def _by_commit(file: str) -> tuple[int, str]:
    """Order in which files came, as far as their names tell: so that one merged file covers a short time."""
    found = origin(file)
    return (found.n if found else -1), file


def _day(file: str) -> str:
    key, _, value = file.split("/", 1)[0].partition("=")
    return value if key == PARTITION_COLUMN and "/" in file else ""


def _sound(lake: Lake, table: str, files: Iterable[str], snapshot: Snapshot) -> list[str]:
    """Those of the files that are as they were written; the others go on the damage list."""
    found = []
    for file in files:
        problem = content_problem(lake.root / table / file, snapshot.sizes[file])
        if problem is None:
            found.append(file)
        elif file in lake.snapshot(table).sizes:  # else this process slept, and vacuum was right to delete it
            damaged = DamageList(lake.root).add(table, file, snapshot.rows.get(file), problem)
            log.warning("%s (docs/runbook.md#damaged-data-files)", damaged.line())
    return found

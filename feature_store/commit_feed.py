"""What the commits of a task landed, in order, for user jobs that read it later than the task does.

Three places hold it, and each lasts longer than the one before:

1. *Commit records*: the newest 32 to 64 of a task; then the commit log prunes them.
2. *Chunks*, ``<lake>/_jobs/_feed/<task>/<first>-<last>.json``: files and offsets of pruned records. The
   worker writes one only where a job has not read its commits yet, and removes it once all have, or after
   ``job_retention``. What a job has not read is kept from vacuum as long as a record or chunk names it.
3. *The tables themselves*, where rows of a partition are found by offset (``stream_processors/user_jobs``).

A chunk also says where the task stood before it (``FeedStart``): that is where the third place ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from feature_store.commit_log import CommitLog
from feature_store.job_status import JOBS_FOLDER, JobStatus, JobStatusFiles
from feature_store.lake import StagedFile
from schemas import topics
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, LakeConflictError, OperatorError
from schemas.self_digest import checked, with_digest
from schemas.tables import ALERTS, BOOKS, DEVICE_STATES, LABELS, SUMMARIES, telemetry_table_name

log = logging.getLogger(__name__)

BUILT_IN_JOBS = frozenset({"ingest", "aggregate", "drift"})
"""Jobs that commit together within the task."""
_ATTEMPTS = 20
_TOPIC_OF = {
    SUMMARIES.name: topics.SUMMARY.base,
    BOOKS.name: topics.BOOKS.base,
    ALERTS.name: topics.ALERT.base,
    LABELS.name: topics.LABEL.base,
    DEVICE_STATES.name: topics.DEVICE_STATE.base,
}


@dataclass(frozen=True)
class FeedEntry:
    """One commit of a task.

    Attributes:
        clock: Its ``now``, ISO 8601 UTC.
        offsets: First and next offset by topic.
        files: Data files by table.
        inside: State changes of user jobs that ran inside this commit, by job: only release 0.2.0 did that.
    """

    n: int
    clock: str
    offsets: Mapping[str, tuple[int, int]]
    files: Mapping[str, tuple[StagedFile, ...]]
    inside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_record(cls, data: bytes) -> FeedEntry:
        """From a commit record.

        Raises:
            OperatorError: It is damaged.
        """
        try:
            raw = orjson.loads(data)
            names = {key.removeprefix("job.") for key in raw["code"] if key.startswith("job.")}
            inside = {name: _of_job(raw["state"], name) for name in sorted(names - BUILT_IN_JOBS)}
            return cls.from_json({**raw, "inside": inside})
        except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
            raise OperatorError(
                f"unreadable commit record: {exc!r}; restore `_commits` from a backup"
            ) from exc

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FeedEntry:
        """From an entry of a chunk."""
        files = {table: tuple(map(StagedFile.from_json, found)) for table, found in raw["files"].items()}
        offsets = {topic: (start, end) for topic, (start, end) in raw["offsets"].items()}
        return cls(raw["n"], raw["clock"], offsets, files, raw.get("inside", {}))

    def to_json(self) -> dict[str, Any]:
        """As an entry of a chunk: without statistics, which only the table's log needs."""
        files = {t: [replace(f, stats="").to_json() for f in found] for t, found in self.files.items()}
        inside = {"inside": dict(self.inside)} if self.inside else {}
        return {"n": self.n, "clock": self.clock, "offsets": dict(self.offsets), "files": files, **inside}

    def rows_by_topic(self) -> Counter[str]:
        """Rows landed, by the topic that they came from."""
        counts: Counter[str] = Counter()
        for table, found in self.files.items():
            if (topic := topic_of(table)) is not None:
                counts[topic] += sum(f.rows for f in found)
        return counts


class FeedStart(NamedTuple):
    """Where a task stood after commit ``n``, before the first entry that is still known.

    Attributes:
        offsets: Next offset by topic.
        landed: Rows landed so far, by topic.
    """

    n: int
    offsets: Mapping[str, int]
    landed: Mapping[str, int]


class _Span(NamedTuple):
    first: int
    last: int
    path: Path


class CommitFeed:
    """The commits of one task.

    Args:
        root: The lake's folder.
        task: Such as ``task-03``.
    """

    def __init__(self, root: Path, task: str) -> None:
        self._commits = CommitLog(root)
        self._task = task
        self._folder = root / JOBS_FOLDER / "_feed" / task
        self._cached: dict[Path, list[FeedEntry]] = {}

    def entries(self, start: int, last: int) -> Iterator[FeedEntry]:
        """Commits ``start`` to ``last`` in order, up to the first that is not known (any more)."""
        for n in range(start, last + 1):
            entry = self._record(n) or self._chunked(n)  # a chunk is written before its records are pruned
            if entry is None:
                return
            yield entry

    def start(self) -> FeedStart:
        """Where the commits begin that are known without a hole up to the newest.

        Raises:
            LakeConflictError: The records were pruned at every attempt.
        """
        for _ in range(_ATTEMPTS):
            first = min(self._commits.numbers(self._task), default=0)
            start = self._before(first)
            for span in reversed(self._spans()):
                if span.first < first <= span.last + 1 and (found := _load_start(span.path)) is not None:
                    first, start = span.first, found
            if start is not None:
                return start
        raise LakeConflictError(f"{self._task}: its records were pruned while they were read")

    def keep_for(self, statuses: Collection[JobStatus], now: datetime) -> None:
        """Write a chunk of the records that the next snapshot prunes, and remove chunks nobody needs."""
        lowest = min((s.position for s in statuses), default=None)
        upto = max(self._commits.snapshots(self._task), default=None)
        if lowest is not None and upto is not None and lowest < upto:
            self._write(upto)
        retention_s = max((s.retention_s for s in statuses), default=0.0)
        for span in self._spans():
            read = lowest is None or span.last <= lowest
            if read or now.timestamp() - span.path.stat().st_mtime > retention_s:
                span.path.unlink(missing_ok=True)

    def _write(self, upto: int) -> None:
        numbers = [n for n in self._commits.numbers(self._task) if n <= upto]
        before = self._before(numbers[0]) if numbers else None
        if before is None:
            return
        entries = list(self.entries(numbers[0], upto))
        payload = {
            "n": before.n,
            "offsets": dict(before.offsets),
            "landed": dict(before.landed),
            "commits": [entry.to_json() for entry in entries],
        }
        path = self._folder / f"{numbers[0]:012d}-{entries[-1].n:012d}.json"
        DISK.write(path, with_digest(orjson.dumps(payload)))

    def _before(self, first: int) -> FeedStart | None:
        """The task's newest readable snapshot, less what the commits from ``first`` on added to it.

        Returns:
            None: a worker pruned some of these commits meanwhile, or every snapshot is damaged.
        """
        snapshots = self._commits.snapshots(self._task)
        if first == 0 or not snapshots:
            return FeedStart(first - 1, {}, {})
        raw = next(filter(None, map(self._readable, snapshots)), None)
        if raw is None:
            return None
        added = list(self.entries(first, raw["n"]))
        if len(added) != raw["n"] - first + 1:
            return None
        offsets = dict(raw["offsets"])
        landed = landed_rows(raw["counters"])
        for entry in reversed(added):
            offsets |= {topic: start for topic, (start, _end) in entry.offsets.items()}
            landed.subtract(entry.rows_by_topic())
        return FeedStart(first - 1, offsets, dict(landed))

    def _readable(self, n: int) -> dict[str, Any] | None:
        """Snapshot n; None: it is damaged, or pruned. The worker writes a damaged one again."""
        try:
            return checked(self._commits.read_snapshot(self._task, n), f"snapshot {self._task}/{n}")
        except FileNotFoundError:
            return None
        except DamagedLakeError as exc:
            log.warning("%s; jobs count from an older one", exc)
            return None

    def _record(self, n: int) -> FeedEntry | None:
        try:
            return FeedEntry.from_record(self._commits.read(self._task, n))
        except FileNotFoundError:
            return None

    def _chunked(self, n: int) -> FeedEntry | None:
        for span in self._spans():
            if span.first <= n <= span.last:
                found = {e.n: e for e in self._load(span.path)}
                if n in found:
                    return found[n]
        return None

    def _load(self, path: Path) -> list[FeedEntry]:
        if path not in self._cached:
            raw = _read_chunk(path)
            self._cached = {path: [FeedEntry.from_json(e) for e in raw["commits"]] if raw else []}
        return self._cached[path]

    def _spans(self) -> list[_Span]:
        found = []
        for path in sorted(self._folder.glob("[0-9]*-*.json")):
            first, _, last = path.stem.partition("-")
            found.append(_Span(int(first), int(last), path))
        return found


def topic_of(table: str) -> str | None:
    """Topic whose offsets the rows of a table carry; None: they carry the numbers of commits."""
    if table.startswith(telemetry_table_name("")):
        return topics.TELEMETRY.base
    return _TOPIC_OF.get(table)


def landed_rows(counters: Mapping[str, int]) -> Counter[str]:
    """Rows that a task's ingest has landed, by topic."""
    names = {topic: f"ingest/{topic}/landed_rows" for topic in (topics.TELEMETRY.base, *_TOPIC_OF.values())}
    return Counter({topic: counters.get(name, 0) for topic, name in names.items()})


def names_table(pattern: str, table: str) -> bool:
    """Whether an entry of a job's ``reads`` or ``writes`` names this table: exactly, or by a ``prefix*``."""
    return table.startswith(pattern[:-1]) if pattern.endswith("*") else table == pattern


def unread_files(root: Path, now: datetime) -> set[Path]:
    """Data files that a user job has not read yet, no older than its ``job_retention``.

    Raises:
        OperatorError: A commit record is damaged.
    """
    found: set[Path] = set()
    for status in JobStatusFiles(root).all():
        feed = CommitFeed(root, status.task)
        oldest = (now - timedelta(seconds=status.retention_s)).isoformat()
        first = max(status.position, feed.start().n) + 1
        last = CommitLog(root).latest(status.task)
        for entry in feed.entries(first, -1 if last is None else last):
            if entry.clock >= oldest:
                found |= {root / t / f.path for t, f in _read_by(status, entry.files)}
    return found


def _read_by(
    status: JobStatus, files: Mapping[str, Iterable[StagedFile]]
) -> Iterator[tuple[str, StagedFile]]:
    for table, found in files.items():
        if not status.reads or any(names_table(pattern, table) for pattern in status.reads):
            yield from ((table, file) for file in found)


def _read_chunk(path: Path) -> dict[str, Any] | None:
    """A chunk; None: it was removed meanwhile or is damaged, so the tables are read instead."""
    try:
        raw = checked(path.read_bytes(), str(path))
        return raw if {"n", "offsets", "landed", "commits"} <= raw.keys() else None
    except FileNotFoundError:
        return None
    except DamagedLakeError as exc:
        log.warning("%s; jobs read the tables instead", exc)
        return None


def _load_start(path: Path) -> FeedStart | None:
    raw = _read_chunk(path)
    return FeedStart(raw["n"], raw["offsets"], raw["landed"]) if raw else None


def _of_job(state: Mapping[str, Any], job: str) -> dict[str, Any]:
    prefix = f"{job}/"
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}

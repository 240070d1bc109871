"""Runs the jobs of one commit in order: each gets what the jobs before it landed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from feature_store.commit_feed import names_table
from schemas.text_dictionaries import without_dictionaries
from stream_processors.engine.records import TaskState
from stream_processors.job import Batch, Derived, Job, Output, RawMessage


@dataclass(frozen=True)
class CommitOutput:
    """Output of all jobs in one commit; state keys carry their job's prefix."""

    rows: Mapping[str, pa.Table]
    state: Mapping[str, Any]
    messages: tuple[Derived, ...]
    counters: Mapping[str, int]

    def __bool__(self) -> bool:
        return bool(self.rows or self.state or self.messages or self.counters)


def in_order(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Jobs such that each follows those that write what it reads; ties by name.

    Raises:
        ValueError: Two jobs read each other's tables, or one name is taken twice.
    """
    names = [j.name for j in jobs]
    if len(set(names)) != len(names):
        raise ValueError(f"job names must be unique: {sorted(names)}")
    left, ordered = sorted(jobs, key=lambda j: j.name), list[Job]()
    while left:
        ready = [j for j in left if not any(_feeds(other, j) for other in left if other is not j)]
        if not ready:
            raise ValueError(f"jobs read each other's tables: {', '.join(j.name for j in left)}")
        ordered += ready
        left = [j for j in left if j not in ready]
    return tuple(ordered)


def _feeds(producer: Job, consumer: Job) -> bool:
    return any(
        names_table(w, r) or names_table(r, w) or w == r for w in producer.writes for r in consumer.reads
    )


class JobObserver(Protocol):
    """Sees each job of a run before and after it ran."""

    def before(self, job: Job) -> None:
        """The job is about to run."""

    def after(self, job: Job, output: Output) -> None:
        """The job has returned; what this raises counts as raised by the job."""


def run_jobs(
    jobs: Sequence[Job],
    messages: Sequence[RawMessage],
    state: TaskState,
    now: datetime,
    observer: JobObserver | None = None,
    landed: Mapping[str, pa.Table] | None = None,
) -> CommitOutput:
    """Run every job over one batch.

    Args:
        jobs: In order (``in_order``).
        messages: New messages of the task, in log order within a topic; may be empty (a tick).
        state: The task's state after its last commit.
        now: The commit's clock, UTC.
        observer: Told of each job, if any.
        landed: Rows of earlier commits that the jobs get as if they landed in this one.
    """
    rows: dict[str, list[pa.Table]] = {}
    given = {table: [part] for table, part in (landed or {}).items()}
    changes: dict[str, Any] = {}
    derived: list[Derived] = []
    counters: Counter[str] = Counter()
    for job in jobs:
        if observer is not None:
            observer.before(job)
        output = job.process(_batch_for(job, messages, given | rows, state), state.keys_of(job.name), now)
        _check_writes(job, output)
        if observer is not None:
            observer.after(job, output)
        for table, part in output.rows.items():
            if part.num_rows:
                rows.setdefault(table, []).append(part)
        changes |= {f"{job.name}/{key}": value for key, value in output.state.items()}
        derived += output.messages
        counters.update({f"{job.name}/{name}": n for name, n in output.counters.items() if n})
    tables = {table: pa.concat_tables(parts) for table, parts in rows.items()}
    return CommitOutput(tables, changes, tuple(derived), dict(counters))


def _batch_for(
    job: Job, messages: Sequence[RawMessage], rows: Mapping[str, list[pa.Table]], state: TaskState
) -> Batch:
    topics = {m.topic for m in messages}
    if topics.isdisjoint(job.reads):
        own: Sequence[RawMessage] = ()
    else:
        own = messages if topics.issubset(job.reads) else [m for m in messages if m.topic in job.reads]
    wanted = {
        t: without_dictionaries(pa.concat_tables(p))
        for t, p in rows.items()
        if any(names_table(r, t) for r in job.reads)
    }
    return Batch(
        task=state.task,
        n=state.n + 1,
        messages=tuple(own),
        rows=wanted,
    )


def _check_writes(job: Job, output: Output) -> None:
    undeclared = [t for t in output.rows if not any(names_table(w, t) for w in job.writes)]
    if undeclared:
        raise ValueError(f"job {job.name} landed rows in {undeclared}, which its `writes` does not name")

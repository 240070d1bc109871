"""What a user job gets in one call: whole commits of its task, bounded, as rows and messages. Pure.

A *position* is a mapping from stream to what comes next in it: a topic to its next offset, the task's name to
its next commit. ``derived(task)`` stands beside them only while rows are read from the tables, where rows
that a job derived are found by the number of their commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from feature_store.commit_feed import FeedEntry
from stream_processors.job import RawMessage
from stream_processors.user_jobs.job_start import seen

Position = Mapping[str, int]


class InputLimits(NamedTuple):
    """Bounds of one call; one commit is never split.

    Attributes:
        rows: Rows, and raw messages.
        n_bytes: Size of the data files.
    """

    rows: int
    n_bytes: int


@dataclass(frozen=True)
class JobInput:
    """Input of one call.

    Attributes:
        reached: What comes next once this input is taken: the streams that move.
        rows: By table.
        messages: Raw messages, in log order within a topic.
        counters: Rows by topic, and what is gone.
        state: State changes of commits that had run the job themselves; then there is nothing to compute.
        more: More was there than fits.
    """

    reached: Position
    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    messages: tuple[RawMessage, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, object] | None = None
    more: bool = False

    @property
    def has_content(self) -> bool:
        """Whether there is anything for the job to see; commits may have nothing that it reads."""
        return bool(self.rows or self.messages)


def derived(task: str) -> str:
    """Stream of the rows that carry commit numbers as offsets."""
    return f"{task}/derived"


def group(
    entries: Iterable[FeedEntry], topics: Container[str], reads: Callable[[str], bool], limits: InputLimits
) -> list[FeedEntry]:
    """The first entries that fit into one call, at least one.

    Args:
        entries: In order.
        topics: Topics that the job reads raw.
        reads: Whether it reads a table.
        limits: Of one call.
    """
    taken: list[FeedEntry] = []
    rows = n_bytes = 0
    for entry in entries:
        files = [f for t, found in entry.files.items() if reads(t) for f in found]
        rows += sum(f.rows for f in files) + sum(b - a for t, (a, b) in entry.offsets.items() if t in topics)
        n_bytes += sum(f.size for f in files)
        if taken and (rows > limits.rows or n_bytes > limits.n_bytes):
            break
        taken.append(entry)
    return taken


def reached_after(task: str, entries: Sequence[FeedEntry]) -> dict[str, int]:
    """Position after these commits: the streams that they move."""
    moved = {topic: end for entry in entries for topic, (_start, end) in entry.offsets.items()}
    return {**moved, task: entries[-1].n + 1}


def counted(entries: Iterable[FeedEntry]) -> Counter[str]:
    """Rows of these commits by topic, as counters."""
    total: Counter[str] = Counter()
    for entry in entries:
        total.update({seen(topic): rows for topic, rows in entry.rows_by_topic().items()})
    return total


class OffsetRows(NamedTuple):
    """How many rows of a stream one offset has, refused messages among them, and when they became known."""

    offset: int
    rows: int
    known_at: datetime
    landed: int = 0


@dataclass(frozen=True)
class StreamRows:
    """What the tables hold of one stream beyond a position, by offset.

    Attributes:
        end: Offset before which the reading ends.
        found: By offset, ascending.
        complete: False: more offsets follow than were asked for.
    """

    end: int
    found: Sequence[OffsetRows]
    complete: bool


def advance(streams: Mapping[str, StreamRows], limit: int) -> dict[str, int]:
    """How far each stream goes in one call: about ``limit`` rows, oldest first, whole offsets.

    Streams go on in step: what became known first is read first, as far as offsets of one stream allow.

    Args:
        streams: What there is of each.
        limit: Rows; at least one offset is taken.
    """
    steps: list[tuple[datetime, str, OffsetRows]] = []
    horizon: datetime | None = None
    for name, stream in streams.items():
        latest: datetime | None = None
        for row in stream.found:
            latest = row.known_at if latest is None else max(latest, row.known_at)
            steps.append((latest, name, row))
        if not stream.complete and latest is not None:
            horizon = latest if horizon is None else min(horizon, latest)
    reached: dict[str, int] = {}
    taken = 0
    for at, name, row in sorted(steps, key=lambda s: (s[0], s[1], s[2].offset)):
        if taken >= limit or (horizon is not None and at > horizon):
            return reached
        taken += row.rows
        reached[name] = row.offset + 1
    complete = {name: stream.end for name, stream in streams.items() if stream.complete}
    return {**reached, **complete}

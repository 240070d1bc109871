"""What a stream job is: a pure class from (batch, state, now) to rows, state and messages.

It reads no clock, opens no file and keeps nothing between calls: what it must remember is in its state. So
the same class runs on the stream, on rows of the past from the tables, and in a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa

from schemas import topics
from schemas.instants import to_us
from schemas.row_schemas import END_YEAR, FIRST_YEAR

_FIRST_US, _LAST_US = (to_us(datetime(year, 1, 1, tzinfo=UTC)) for year in (FIRST_YEAR, END_YEAR - 1))

State = Mapping[str, Any]
"""Keys to JSON values. A job sees its own keys only."""


class RawMessage(NamedTuple):
    """One message as the log holds it.

    Attributes:
        topic: Topic without namespace.
        timestamp_ms: Append time, ms since 1970 UTC. On topics with the producer's time it can be anything.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: list[tuple[str, bytes]]
    value: bytes

    @property
    def appended_us(self) -> int:
        """Append time in microseconds since 1970 UTC, within the years that every calendar here holds."""
        return min(max(self.timestamp_ms * 1000, _FIRST_US), _LAST_US)


@dataclass(frozen=True)
class Batch:
    """What a job gets in one call.

    Attributes:
        task: Task it runs in, such as ``task-03``, or ``job-<name>-03`` for a user's job; part of
            deterministic ids.
        n: Number of the commit that this call belongs to, within that task.
        messages: Raw messages of the topics the job reads, in log order within a topic.
        rows: Rows by table, for the tables the job reads: those that earlier jobs of this commit landed, or
            for a user's job those of one or more commits of the task that it follows.
    """

    task: str
    n: int
    messages: tuple[RawMessage, ...] = ()
    rows: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """A message to publish after the commit; its id is (task, n, index), so a repeat is recognisable.

    Attributes:
        topic: Topic without namespace.
        value: JSON bytes; empty where ``copy_of`` names the log entry whose bytes are copied.
        copy_of: (topic, partition, offset) of an original to copy; for dead letters.
    """

    topic: str
    key: str
    value: bytes = b""
    headers: tuple[tuple[str, bytes], ...] = ()
    copy_of: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Output:
    """What a job returns from one call.

    Attributes:
        rows: Rows to land, by table, in the schemas of those tables; texts may be held as dictionaries.
        state: Changed keys only; None removes a key.
        messages: Messages to publish once the commit has been applied.
        counters: Increments, by name, that commit with the rows.
    """

    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Derived, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)


class Job(Protocol):
    """A stream job. Built once per process with a ``JobContext``.

    A job that counts messages, on a batch of one:

    >>> from datetime import UTC, datetime
    >>> from stream_processors import Batch, Output, RawMessage, State
    >>> class CountMessages:
    ...     name, version, state_version = "count", 1, 1
    ...     reads, writes = ("telemetry.v1",), ()
    ...
    ...     def process(self, batch: Batch, state: State, now: datetime) -> Output:
    ...         return Output(state={"total": state.get("total", 0) + len(batch.messages)})
    >>> now = datetime(2026, 7, 1, tzinfo=UTC)
    >>> message = RawMessage("telemetry.v1", 3, 0, 1_782_864_000_000, b"m-1", [], b"")
    >>> batch = Batch("task-03", n=7, messages=(message,))
    >>> CountMessages().process(batch, {"total": 41}, now).state
    {'total': 42}

    Attributes:
        name: Name in `edgeloop job list`, also the prefix of its state keys.
        version: Grows with each change of behaviour; recorded in every commit.
        state_version: Grows with each change of the state's shape.
        reads: Topics (``telemetry.v1``) or tables (``summaries``, ``telemetry_*``) it wants.
        writes: Tables it lands rows in; ``telemetry_*`` stands for all telemetry tables.

    A user's job may have two more: ``tables``, the ``TableSpec`` of each table that is its own and to be made
    (then ``writes`` can be left out), and ``begins = "earliest"``, to begin with the oldest rows there are.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    state_version: ClassVar[int]
    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[tuple[str, ...]]

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        """Turn one batch into rows, state changes and messages.

        Args:
            batch: Messages and rows of this commit.
            state: The job's keys as of the previous commit; not to be mutated.
            now: The commit's clock, UTC: recorded, and the same whenever this commit is computed.

        Raises:
            RejectedError: Never for input: bad input becomes quarantine rows and dead letters.
        """
        ...


WITHHELD = "withheld"
"""Header of a letter whose original is not copied, and why."""
KEY_SHOWN = 256
"""Characters of a refused message's key that its records repeat: anybody may send a key of a megabyte."""


def dead_letter(message: RawMessage, error: str, reason: str) -> Derived:
    """Copy of a message for the dead-letter topic, with where it came from and why.

    An excerpt's bytes are never copied: raw samples stay where only their readers look.
    """
    withheld = message.topic == topics.EXCERPT.base
    return Derived(
        topic=topics.DEAD_LETTER.base,
        key=(message.key or b"")[: 4 * KEY_SHOWN].decode("utf-8", "replace")[:KEY_SHOWN],
        headers=(
            ("source_topic", message.topic.encode()),
            ("source_partition", b"%d" % message.partition),
            ("source_offset", b"%d" % message.offset),
            ("error", error.encode()),
            ("reason", reason[:1000].encode()),
            *(((WITHHELD, b"raw samples are not copied"),) if withheld else ()),
        ),
        copy_of=None if withheld else (message.topic, message.partition, message.offset),
    )

"""Restores a damaged data file from the messages that it came from, where the log still has them.

The jobs run again over the same messages, with the state before that commit and with the commit's own clock.
The digest in the file's name says whether the result is the same: other bytes are never written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from feature_store.commit_log import CommitLog
from feature_store.data_file import origin
from feature_store.file_repair import put_back
from feature_store.lake import Lake
from schemas.errors import DamagedLakeError, PipelineError
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import CommitRecord, TaskState
from stream_processors.engine.task_loading import read_record, read_snapshot
from stream_processors.job import Job, RawMessage

log = logging.getLogger(__name__)

ReadMessages = Callable[[str, int, int, int], list[RawMessage]]
"""Messages of (topic, partition) from one offset to before another."""
_TASK = "task-"


class Relander:
    """Lands files again.

    Args:
        lake: Holds the tables.
        jobs: In order, as the workers run them.
        read: Reads the log.
    """

    def __init__(self, lake: Lake, jobs: Sequence[Job], read: ReadMessages) -> None:
        self._lake, self._jobs, self._read = lake, jobs, read
        self._commits = CommitLog(lake.root)

    def restore(self, table: str, path: str) -> str | None:
        """Restore a file; returns how, in words, or None if it cannot be restored."""
        named = origin(path)
        if named is None or not named.task.startswith(_TASK):
            return None
        try:
            record = read_record(self._commits, named.task, named.n)
            state = self._state_before(named.task, named.n)
            if record is None or state is None:
                return None
            for messages in self._orders(record):
                now = datetime.fromisoformat(record.clock)
                rows = run_jobs(self._jobs, messages, state, now).rows.get(table)
                if rows is not None and put_back(self._lake, table, path, rows):
                    return "landed again from the log, byte for byte"
        except (PipelineError, ValueError) as exc:
            log.warning("%s/%s cannot be landed again: %s", table, path, exc)
        return None

    def _state_before(self, task: str, n: int) -> TaskState | None:
        """State after commit n - 1; None: what it is made of is pruned."""
        base = next((b for i in self._commits.snapshots(task) if i < n and (b := self._base(task, i))), None)
        state = base or TaskState(task)
        for number in range(state.n + 1, n):
            record = read_record(self._commits, task, number)
            if record is None:
                return None
            state = state.after(record)
        return state

    def _base(self, task: str, n: int) -> TaskState | None:
        try:
            return read_snapshot(self._commits, task, n)
        except DamagedLakeError:
            return None

    def _orders(self, record: CommitRecord) -> Iterator[list[RawMessage]]:
        """The commit's messages: in which order those of different topics came is not on record."""
        partition = int(record.task.removeprefix(_TASK))
        spans = [self._read(topic, partition, start, end) for topic, (start, end) in record.offsets.items()]
        by_topic = [message for span in spans for message in span]
        yield by_topic
        yield sorted(by_topic, key=lambda message: message.timestamp_ms)


def reading(kafka: KafkaLog) -> ReadMessages:
    """Reads whole spans of the log, however long."""

    def read(topic: str, partition: int, start: int, end: int) -> list[RawMessage]:
        found: list[RawMessage] = []
        while start < end:
            some, start = kafka.read(topic, partition, start, end)
            found += some
        return found

    return read

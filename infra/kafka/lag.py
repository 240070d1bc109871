"""How far the workers are behind the log, from the lake's own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from feature_store.commit_log import CommitLog
from infra.kafka.kafka_admin import KafkaAdmin, OffsetSpan
from schemas.errors import OperatorError
from schemas.topics import TASK_TOPICS
from stream_processors.engine.checkpoint import task_name
from stream_processors.engine.records import CommitRecord, TaskState

_ATTEMPTS = 5


class Lag(NamedTuple):
    """One task on one topic.

    Attributes:
        task: Such as ``task-03``.
        topic: Without namespace.
        next: Offset that the task reads next.
        end: Offset that the next message will get.
        commit: Newest commit of the task; -1: none.
    """

    task: str
    topic: str
    next: int
    end: int
    commit: int

    @property
    def lag(self) -> int:
        """Messages that are in the log but not in the lake."""
        return max(0, self.end - self.next)


def lags(lake_root: Path, admin: KafkaAdmin, namespace: str) -> list[Lag]:
    """Lag of every task on every topic, by task and topic."""
    log = CommitLog(lake_root)
    # As many tasks as the broker has partitions, not as we made: workers serve those that were added, too.
    counts = admin.topics()
    tasks = max((counts.get(t.named(namespace), 0) for t in TASK_TOPICS), default=0)
    states = [task_state(log, task_name(p)) for p in range(tasks)]
    # Read the ends after the states: whatever a state covers was in the log before, so no lag is negative.
    spans = admin.spans([t.named(namespace) for t in TASK_TOPICS])
    return [lag for p, state in enumerate(states) for lag in _of_task(p, state, spans, namespace)]


def _of_task(
    partition: int, state: TaskState, spans: Mapping[tuple[str, int], OffsetSpan], namespace: str
) -> list[Lag]:
    found = []
    for topic in TASK_TOPICS:
        span = spans.get((topic.named(namespace), partition))
        if span is not None:
            position = max(span.low, state.offsets.get(topic.base, 0))
            found.append(Lag(state.task, topic.base, position, span.end, state.n))
    return found


def task_state(log: CommitLog, task: str) -> TaskState:
    """The task's state after its newest decided commit.

    Raises:
        OperatorError: The commit log is damaged.
    """
    for _ in range(_ATTEMPTS):
        snapshot = log.latest_snapshot(task)
        state = TaskState(task) if snapshot is None else TaskState.from_bytes(snapshot)
        try:
            for payload in log.records_from(task, state.n + 1):
                state = state.after(CommitRecord.from_bytes(payload))
        except (FileNotFoundError, ValueError):
            continue  # a worker took a snapshot and pruned meanwhile: start again
        return state
    raise OperatorError(f"the commit log of {task} has a hole: restore `_commits` from a backup")

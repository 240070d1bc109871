"""How far the workers are behind the log, from the lake's own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from feature_store.commit_log import CommitLog
from infra.kafka.kafka_admin import KafkaAdmin, OffsetSpan
from schemas.errors import DamagedLakeError
from schemas.topics import TASK_TOPICS
from stream_processors.engine.records import TaskState
from stream_processors.engine.task_loading import load_task, task_name


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


def lags(lake_root: Path, admin: KafkaAdmin, namespace: str, damaged: list[str] | None = None) -> list[Lag]:
    """Lag of every task on every topic, by task and topic.

    Args:
        lake_root: Folder of the lake.
        admin: Of the broker.
        namespace: Prefix of the topics.
        damaged: Gets a line for each task whose commit log is damaged, and these tasks are left out.

    Raises:
        DamagedLakeError: The commit log of a task is damaged, and ``damaged`` is None.
    """
    log = CommitLog(lake_root)
    # As many tasks as the broker has partitions, not as we made: workers serve those that were added, too.
    counts = admin.topics()
    tasks = max((counts.get(t.named(namespace), 0) for t in TASK_TOPICS), default=0)
    states = {p: task_state(log, task_name(p), damaged) for p in range(tasks)}
    # Read the ends after the states: whatever a state covers was in the log before, so no lag is negative.
    spans = admin.spans([t.named(namespace) for t in TASK_TOPICS])
    return [lag for p, state in states.items() if state for lag in _of_task(p, state, spans, namespace)]


def task_state(log: CommitLog, task: str, damaged: list[str] | None = None) -> TaskState | None:
    """State of a task after its newest commit; None: it is damaged, and ``damaged`` has got a line of it."""
    try:
        return load_task(log, task).state
    except DamagedLakeError as exc:
        if damaged is None:
            raise
        damaged.append(str(exc))
        return None


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

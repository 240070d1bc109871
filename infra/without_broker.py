"""What the lake alone says of the log, while no broker is up: refusals, and how far tasks have read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from feature_store import connect
from feature_store.commit_log import CommitLog
from infra.kafka.lag import task_state
from schemas.topics import TASK_TOPICS

_TASK = "task-"
_REFUSED = """
    SELECT _topic, _place, _last, min(known_at), any_value(error), any_value(reason), any_value(producer),
           greatest(max(n), 1)::BIGINT, max(n_bytes)::BIGINT, any_value(verified), any_value(digest)
    FROM (SELECT *, topic AS _topic, (_partition, _offset) AS _place, coalesce(n_messages, 1) AS n,
                 coalesce(last_offset, _offset) AS _last
          FROM quarantine WHERE $1 IS NULL OR error = $1)
    GROUP BY _topic, _place, _last, error ORDER BY 4, 1, 2
"""


class Position(NamedTuple):
    """How far one task has read one topic; ``next`` is the offset that it reads next."""

    task: str
    topic: str
    next: int
    commit: int


def refused_messages(lake_root: Path, error: str | None = None) -> list[dict[str, Any]]:
    """Refused messages as the table ``quarantine`` of the newest cut has them, in order of time.

    The keys are those of a dead letter. ``None``: only the log knows it, such as the message's bytes. The
    ``id`` is the place of the original, for that of the letter is in the log.
    """
    if not lake_root.is_dir():
        return []
    with connect(lake_root, comments=False) as connection:
        rows = connection.execute(_REFUSED, [error]).fetchall()
    return [_letter(row) for row in rows]


def _letter(row: tuple[Any, ...]) -> dict[str, Any]:
    topic, (partition, first), last, at, error, reason, producer, messages, n_bytes, signed, digest = row
    source = f"{topic}[{partition}]@{first}" + ("" if last == first else f"..{last}")
    return {
        "id": source,
        "refused": at.isoformat(),
        "source": source,
        "error": error,
        "reason": reason,
        "key": producer,
        "bytes": None,
        "lost": None,
        "kept": None,
        "messages": messages,
        "message_bytes": n_bytes,
        "signed": signed,
        "digest": digest,
        "verified": True,  # a worker wrote the row
        "offsets": [[first, last]],
        "headers": None,
        "value": None,
    }


def positions(lake_root: Path, damaged: list[str] | None = None) -> list[Position]:
    """How far every task has read every topic, by task and topic.

    Args:
        lake_root: Folder of the lake; it need not exist.
        damaged: Gets a line for each task whose commit log is damaged, and these tasks are left out.

    Raises:
        DamagedLakeError: The commit log of a task is damaged, and ``damaged`` is None.
    """
    log = CommitLog(lake_root)
    states = [task_state(log, task, damaged) for task in log.tasks() if task.startswith(_TASK)]
    return [
        Position(state.task, topic.base, state.offsets[topic.base], state.n)
        for state in states
        if state is not None
        for topic in TASK_TOPICS
        if topic.base in state.offsets
    ]

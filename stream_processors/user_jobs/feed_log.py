"""The commit log of a worker's tasks, which keeps for user jobs what a snapshot would prune."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from feature_store.commit_feed import CommitFeed
from feature_store.commit_log import CommitLog
from feature_store.job_status import JobStatusFiles
from schemas.errors import PipelineError

log = logging.getLogger(__name__)


class FeedLog(CommitLog):
    """A commit log whose records outlive their pruning, as chunks, while a user job has not read them.

    Args:
        root: The lake's folder.
        clock: UTC now.
    """

    def __init__(self, root: Path, clock: Callable[[], datetime]) -> None:
        super().__init__(root)
        self._lake_root, self._clock = root, clock

    def write_snapshot(self, task: str, n: int, payload: bytes) -> None:
        """Keep what jobs have yet to read, then store the snapshot and prune."""
        try:
            statuses = JobStatusFiles(self._lake_root).of_task(task)
            CommitFeed(self._lake_root, task).keep_for(statuses, self._clock())
        except (OSError, PipelineError) as exc:  # trouble of jobs must not stop the task
            log.warning("jobs that are behind will read %s from the tables: %s", task, exc)
        super().write_snapshot(task, n, payload)

"""What the Faust door asks of the checkpoint side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from stream_processors.job import RawMessage


class TaskHandler(Protocol):
    """The checkpoint side. Every method runs in one thread, never two at a time."""

    def open(self, task: int) -> dict[str, int]:
        """Recover a task and return its next offset by topic; a topic left out starts at the log's start.

        Called after each assignment, again after ``TaskLostError`` without ``close`` in between, and now and
        then for a task that is stopped.

        Raises:
            DamagedLakeError: The task must rest until a file of the lake is healed.
        """

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit one batch of each task, offsets ascending within a topic; an empty batch is a tick.

        Raises:
            TaskLostError: A task was lost. The door opens every task of the call again, takes the offsets
                that ``open`` returns, and hands over again what lies at or after them.
            TasksStoppedError: These tasks must rest; the batches of the others are committed.
        """

    def close(self, task: int) -> None:
        """Forget a task: it was revoked, or the worker stops."""

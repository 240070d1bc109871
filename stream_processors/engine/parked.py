"""Tasks that are left alone for a while because their landing job fails, and tried again ever more rarely.

Their messages are not kept meanwhile: a resumed task reads them again from its checkpoint on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stream_processors.engine.task_buffers import TaskBuffer
from stream_processors.job import RawMessage

FIRST_S, LONGEST_S = 5.0, 300.0
"""First wait, and the longest; each is twice the one before."""


class ParkedTasks:
    """Which tasks wait, with where their messages went on; times are monotonic, seconds."""

    def __init__(self) -> None:
        self._next_offsets: dict[int, dict[str, int]] = {}
        self._due: dict[int, float] = {}
        self._wait_s: dict[int, float] = {}

    def park(self, task: int, buffer: TaskBuffer, in_flight: Sequence[RawMessage], now: float) -> float:
        """Leave a task alone; returns for how long, seconds.

        Args:
            task: Its number.
            buffer: Its buffer, which is given up.
            in_flight: Messages of the call that failed.
            now: Monotonic time, seconds.
        """
        wait_s = min(self._wait_s.get(task, FIRST_S / 2) * 2, LONGEST_S)
        self._wait_s[task], self._due[task] = wait_s, now + wait_s
        began = {m.topic: m.offset for m in reversed([*in_flight, *buffer.messages])}
        self._next_offsets[task] = {**buffer.next_offsets, **began}
        return wait_s

    @property
    def tasks(self) -> frozenset[int]:
        """Tasks that wait."""
        return frozenset(self._due)

    def due(self, now: float) -> list[int]:
        """Tasks to try again."""
        return sorted(task for task, at in self._due.items() if at <= now)

    def resume(self, task: int, offsets: Mapping[str, int]) -> TaskBuffer:
        """An empty buffer that goes on at the checkpoint's offsets; the task no longer waits.

        Args:
            task: One that is parked.
            offsets: Next offset by topic, from the checkpoint; topics that it does not know begin where the
                task's buffer began.
        """
        del self._due[task]
        return TaskBuffer({**self._next_offsets.pop(task), **offsets})

    def went_well(self, tasks: Iterable[int]) -> None:
        """Forget how often these tasks failed, but for those that were parked just now."""
        for task in tasks:
            if task not in self._due:
                self._wait_s.pop(task, None)

    def clear(self) -> None:
        """Forget all: the tasks were revoked, and their next owner opens them anew."""
        self._next_offsets.clear()
        self._due.clear()
        self._wait_s.clear()

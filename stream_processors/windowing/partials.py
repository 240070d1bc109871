"""Partials of a cohort's windows from several tasks: each taken once, merged in one order.

Messages of one task arrive in the order of (commit, index); after a crash some of them may come again. So the
newest position per task is enough to recognise a repeat. Partials are kept by task and merged in order of the
tasks' names: the result does not depend on how tasks interleave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.errors import DecodeError
from schemas.events import Aggregate, parse_event
from schemas.instants import to_us
from schemas.topics import DEVICE_PARTITIONS
from stream_processors.windowing.moments import LARGEST_COUNT, LARGEST_VALUE, Moments, merge
from stream_processors.windowing.watermark import SourceProgress
from stream_processors.windowing.windows import CohortScope, TumblingWindow

_LONGEST_WINDOW_S = 366 * 86400


class MessagePosition(NamedTuple):
    """Position of a message among the messages that its task has published."""

    commit: int
    message: int


class TaskShare(NamedTuple):
    """What one task has contributed to a feature of a window."""

    moments: Moments
    devices: int

    def __or__(self, other: TaskShare) -> TaskShare:
        """Both together. A device whose period came in two parts is counted twice, which is rare."""
        return TaskShare(self.moments | other.moments, self.devices + other.devices)

    def to_state(self) -> list[Any]:
        """As JSON."""
        return [*self.moments, self.devices]

    @classmethod
    def from_state(cls, raw: list[Any]) -> TaskShare:
        """From JSON."""
        return cls(Moments(*raw[:-1]), raw[-1])


class Partial(NamedTuple):
    """A checked message of ``aggregate.v1``.

    Attributes:
        position: Of the message, in the order of its task.
        complete_us: The task's watermark: by this message it has sent everything of the cohort before that.
    """

    task: str
    position: MessagePosition
    scope: CohortScope
    window: TumblingWindow
    model: str
    feature: str
    share: TaskShare
    complete_us: int
    late: bool

    @property
    def ahead(self) -> bool:
        """Whether its window ends after its own task's watermark: a device's clock is ahead."""
        return self.late and self.window.end_us > self.complete_us


_SOURCES = frozenset(f"task-{p:02d}" for p in range(DEVICE_PARTITIONS))
"""Tasks that make partials."""


def read_partial(value: bytes) -> Partial:
    """Partial from a message's bytes.

    Raises:
        DecodeError: No aggregate, an id that names no commit, or moments and times that cannot be.
    """
    event = parse_event(Aggregate, value)
    task, position = _read_id(event.event_id)
    moments = Moments(event.n, event.mean, event.m2, event.min, event.max)
    if not (0 < event.devices <= event.n <= LARGEST_COUNT and event.m2 >= 0):
        raise DecodeError(f"not an Aggregate: n {event.n}, devices {event.devices}, m2 {event.m2}")
    if not (-LARGEST_VALUE <= event.min <= event.max <= LARGEST_VALUE and event.m2 <= LARGEST_VALUE**2):
        raise DecodeError(f"not an Aggregate: min {event.min}, max {event.max}")
    if not (abs(event.mean) <= LARGEST_VALUE and 1e-6 <= event.window_s <= _LONGEST_WINDOW_S):
        raise DecodeError(f"not an Aggregate: mean {event.mean}, window_s {event.window_s}")
    window = TumblingWindow(to_us(event.window_start), round(event.window_s * 1e6))
    scope, share = CohortScope(event.profile, event.cohort), TaskShare(moments, event.devices)
    complete_us = to_us(event.watermark)
    return Partial(
        task, position, scope, window, event.model_version, event.feature, share, complete_us, event.late
    )


def _read_id(event_id: str) -> tuple[str, MessagePosition]:
    task, *numbers = event_id.rsplit("/", 2)
    if (
        task not in _SOURCES
        or len(numbers) != 2
        or not all(n.isascii() and n.isdigit() and len(n) < 16 for n in numbers)
    ):
        raise DecodeError(f"event_id '{event_id[:100]}' is not task/commit/index")
    return task, MessagePosition(int(numbers[0]), int(numbers[1]))


@dataclass
class PendingWindow:
    """A window that is not judged yet: shares by (model version, feature) and task."""

    shares: dict[tuple[str, str], dict[str, TaskShare]] = field(default_factory=dict)

    def add(self, partial: Partial) -> None:
        """Take a partial, once."""
        tasks = self.shares.setdefault((partial.model, partial.feature), {})
        known = tasks.get(partial.task)
        tasks[partial.task] = partial.share if known is None else known | partial.share

    def tasks(self) -> set[str]:
        """Tasks that have sent anything of the window."""
        return {task for tasks in self.shares.values() for task in tasks}

    def merged(self) -> dict[tuple[str, str], TaskShare]:
        """Moments and devices of the window by (model version, feature), in order."""
        whole = {}
        for key, tasks in sorted(self.shares.items()):
            shares = [share for _task, share in sorted(tasks.items())]
            whole[key] = TaskShare(merge(s.moments for s in shares), sum(s.devices for s in shares))
        return whole

    def to_state(self) -> list[Any]:
        """As JSON."""
        return [
            [model, feature, {task: s.to_state() for task, s in tasks.items()}]
            for (model, feature), tasks in self.shares.items()
        ]

    @classmethod
    def from_state(cls, raw: list[Any]) -> PendingWindow:
        """From JSON."""
        return cls({(m, f): {t: TaskShare.from_state(s) for t, s in tasks.items()} for m, f, tasks in raw})


@dataclass
class CohortProgress:
    """How far a cohort has been judged, and how far each of its tasks is complete.

    Attributes:
        since_us: Append time of the cohort's first message: the first verdict waits from then on for tasks
            that have sent nothing yet.
        judged_us: Windows that end by then are judged; None: none yet.
    """

    since_us: int
    judged_us: int | None = None
    tasks: dict[str, SourceProgress] = field(default_factory=dict)

    def to_state(self) -> dict[str, Any]:
        """As JSON."""
        tasks = {task: list(source) for task, source in self.tasks.items()}
        return {"since": self.since_us, "judged": self.judged_us, "tasks": tasks}

    @classmethod
    def from_state(cls, raw: Mapping[str, Any]) -> CohortProgress:
        """From JSON."""
        return cls(raw["since"], raw["judged"], {t: SourceProgress(*s) for t, s in raw["tasks"].items()})

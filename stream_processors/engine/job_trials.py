"""Job trials: the jobs run on some messages and a state, and nothing is committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa

from stream_processors.engine.bisecting import Passed
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.poison import JobFailure, blames_input
from stream_processors.engine.records import TaskState
from stream_processors.job import Job, Output, RawMessage

JobFactory = Callable[[], Sequence[Job]]
"""Builds the jobs anew; it must be importable by name, with arguments that can be pickled."""

LEAST_MEMORY_MB = 256
_MEBIBYTE = 1024**2
_CGROUP = Path("/sys/fs/cgroup")


class TrialLimits(NamedTuple):
    """What one trial in a child may take.

    Attributes:
        memory_mb: Memory beside what the jobs need to be loaded, MiB.
        timeout_s: Wall time.
    """

    memory_mb: int = 1024
    timeout_s: float = 60.0

    def after_deaths(self, deaths: int) -> TrialLimits:
        """Tighter limits, where processes went on dying although the trial had passed."""
        halved = min(self.memory_mb, _available_mb() // 2) >> max(0, deaths - 2)
        return self._replace(memory_mb=max(halved, LEAST_MEMORY_MB))


class TrialPlan(NamedTuple):
    """What a child needs to know once.

    Attributes:
        names: Jobs that run.
        modules: What the jobs are defined in.
    """

    factory: JobFactory
    names: frozenset[str]
    modules: frozenset[str]
    now: datetime
    limits: TrialLimits

    @classmethod
    def of(cls, factory: JobFactory, jobs: Sequence[Job], now: datetime, limits: TrialLimits) -> TrialPlan:
        """A plan to run these jobs, as the factory builds them."""
        modules = frozenset(type(job).__module__ for job in jobs) - {"__main__"}
        return cls(factory, frozenset(job.name for job in jobs), modules, now, limits)


def _available_mb() -> int:
    """Memory that this process group may still take, MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) // 1024
    with suppress(OSError, ValueError):  # no limit is the word "max"
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, (limit - used) // _MEBIBYTE)
    return max(available, 0)


CheckRows = Callable[[str, pa.Table], None]
"""Raises if rows cannot be written to the table of that name."""


LandedFor = Callable[[Sequence[RawMessage]], Mapping[str, pa.Table]]
"""Rows of earlier commits, by table, that a job gets with these messages when it catches up."""


def accept_rows(_table: str, _rows: pa.Table) -> None:
    """No check."""


def no_rows(_messages: Sequence[RawMessage]) -> Mapping[str, pa.Table]:
    """No rows of earlier commits."""
    return {}


class TrialRun:
    """Runs jobs on trial.

    Args:
        jobs: In order.
        now: The commit's clock.
        check_rows: Whether rows could be written.
        progress: Called before each trial: a watchdog must not take many of them for a hang.
        landed: Rows that go with messages.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        now: datetime,
        check_rows: CheckRows = accept_rows,
        progress: Callable[[], None] = lambda: None,
        landed: LandedFor = no_rows,
    ) -> None:
        self._jobs, self._now, self._landed = jobs, now, landed
        self._check_rows, self._progress = check_rows, progress
        self.running = ""

    def __call__(self, messages: Sequence[RawMessage], state: TaskState) -> JobFailure | Passed:
        """How it went.

        Raises:
            Exception: An error of the surroundings (``poison.blames_input``).
        """
        self._progress()
        try:
            output = run_jobs(self._jobs, messages, state, self._now, self, self._landed(messages))
        except Exception as exc:
            if not blames_input(exc):
                raise
            return JobFailure.of(self.running, exc)
        return Passed(dict(output.state))

    def before(self, job: Job) -> None:
        """Note which job is at work."""
        self.running = job.name

    def after(self, job: Job, output: Output) -> None:
        """Check what only shows when a commit is written."""
        check_output(output, self._check_rows)


def check_output(output: Output, check_rows: CheckRows) -> None:
    """Return if the output can be committed.

    Raises:
        TypeError: State or counters are no JSON; so do ValueError and others for rows and keys.
    """
    orjson.dumps(dict(output.state))
    orjson.dumps({name: int(n) for name, n in output.counters.items()})
    for message in output.messages:
        orjson.dumps([message.topic, message.key, [k for k, _ in message.headers]])
        bytes(message.value)
    for table, rows in output.rows.items():
        if rows.num_rows:
            check_rows(table, rows)

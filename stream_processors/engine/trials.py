"""Trials in this process: the jobs run on some messages and a state, and nothing is committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import orjson
import pyarrow as pa

from stream_processors.engine.bisecting import Passed
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.poison import JobFailure, blames_input
from stream_processors.engine.records import TaskState
from stream_processors.job import Job, Output, RawMessage

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

"""Trials in a child process with limits: for input over which whole processes died.

The child loads the jobs by itself, takes messages and state over a pipe, and says before each job which one
begins. So the parent knows which job was at work when the child ended, took too long, or ran out of memory.
``python -m stream_processors.engine.bounded_child FD`` is the child.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import pyarrow as pa

from schemas.errors import RetryableError
from stream_processors.engine.bisecting import Passed
from stream_processors.engine.poison import JobFailure
from stream_processors.engine.records import TaskState
from stream_processors.engine.trials import LandedFor, TrialRun, no_rows
from stream_processors.job import Job, RawMessage

JobFactory = Callable[[], Sequence[Job]]
"""Builds the jobs anew; it must be importable by name, with arguments that can be pickled."""

LEAST_MEMORY_MB = 256
_MEBIBYTE = 1024**2
_START_S = 60.0
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_CGROUP = Path("/sys/fs/cgroup")


class TrialLimits(NamedTuple):
    """What one trial may take.

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
    """

    factory: JobFactory
    names: frozenset[str]
    now: datetime
    limits: TrialLimits


class ChildTrials:
    """Trials in a child, started when the first one asks for it and again when it has ended. Close it."""

    def __init__(
        self, plan: TrialPlan, progress: Callable[[], None] = lambda: None, landed: LandedFor = no_rows
    ) -> None:
        self._plan, self._progress, self._landed = plan, progress, landed
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(self, messages: Sequence[RawMessage], state: TaskState) -> JobFailure | Passed:
        """How it went. Before one message is blamed for an end, it is tried twice: anybody may kill."""
        result = self._try(messages, state)
        if isinstance(result, JobFailure) and result.how == "ended" and len(messages) <= 1:
            result = self._try(messages, state)
        return result

    def _try(self, messages: Sequence[RawMessage], state: TaskState) -> JobFailure | Passed:
        self._progress()
        pipe, child = self._ready()
        job = ""
        try:
            pipe.send((list(messages), state, dict(self._landed(messages))))
            until = time.monotonic() + self._plan.limits.timeout_s
            while pipe.poll(max(0.0, until - time.monotonic())):
                answer = orjson.loads(pipe.recv_bytes())
                if "job" in answer:
                    job = answer["job"]
                elif "failure" in answer:
                    return JobFailure(*answer["failure"])
                else:
                    return Passed(answer["passed"])
        except (EOFError, OSError):
            code = child.wait()
            self._end()
            word = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return JobFailure(job, word, "the process ended while the job ran", "ended")
        self._end()
        return JobFailure(job, "Timeout", f"it ran for {self._plan.limits.timeout_s:.0f} s", "hung")

    def _ready(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        if self._pipe is None or self._child is None:
            self._pipe, theirs = Pipe()
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)  # noqa: S603  (our own module)
            theirs.close()
            try:
                self._pipe.send(self._plan)
                ready = self._pipe.poll(_START_S) and self._pipe.recv_bytes() == b"ready"
            except (EOFError, OSError):
                ready = False
            if not ready:
                self._end()
                raise RetryableError("a child for trials did not start; its own message is in this log")
            self._progress()
        return self._pipe, self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._child = self._pipe = None


def _available_mb() -> int:
    """Memory that this process group may still take, MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) // 1024
    with suppress(OSError, ValueError):  # no limit is the word "max"
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, (limit - used) // _MEBIBYTE)
    return max(available, 0)


class _Teller(TrialRun):
    """A trial that says over the pipe which job begins."""

    def __init__(self, jobs: Sequence[Job], now: datetime, pipe: Connection) -> None:
        super().__init__(jobs, now, landed=lambda _: self.given)
        self._pipe = pipe
        self.given: Mapping[str, pa.Table] = {}

    def before(self, job: Job) -> None:
        """Say so."""
        super().before(job)
        self._pipe.send_bytes(orjson.dumps({"job": job.name}))


def _limit(limits: TrialLimits) -> None:
    """Bound the memory that this process may take from now on, and be the first to go when it is short."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most = int(fields["VmData"].split()[0]) * 1024 + limits.memory_mb * _MEBIBYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def serve(pipe: Connection) -> None:
    """Answer trials until the parent closes the pipe."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    plan: TrialPlan = pipe.recv()
    jobs = [j for j in plan.factory() if j.name in plan.names]
    trial = _Teller(jobs, plan.now, pipe)
    _limit(plan.limits)
    pipe.send_bytes(b"ready")
    while True:
        try:
            messages, state, trial.given = pipe.recv()
        except EOFError:
            return
        pipe.send_bytes(orjson.dumps(_answer(trial, messages, state)))


def _answer(trial: TrialRun, messages: Sequence[RawMessage], state: TaskState) -> dict[str, Any]:
    try:
        result = trial(messages, state)
    except MemoryError as exc:
        return {"failure": list(JobFailure.of(trial.running, exc))}
    return {"failure": list(result)} if isinstance(result, JobFailure) else {"passed": result.changes}


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

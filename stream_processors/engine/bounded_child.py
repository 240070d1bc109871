"""Trials in a child process with limits: for input over which whole processes died.

The child names each job before it begins. So it is known which job was at work when the child ended, took too
long, or ran out of memory.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import ClassVar, Self

import orjson

from schemas.errors import RetryableError
from stream_processors.engine import trial_child
from stream_processors.engine.bisecting import Passed
from stream_processors.engine.job_trials import LandedFor, TrialPlan, no_rows
from stream_processors.engine.poison import JobFailure
from stream_processors.engine.records import TaskState
from stream_processors.job import RawMessage

_START_S = 90.0
_TICK_S = 0.5
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ChildTrials:
    """Trials in a child, started when the first one asks for it. Close it.

    Attributes:
        WAYS: Into how many parts to split what fails: an end costs more than a trial that passes.
    """

    WAYS: ClassVar[int] = 16

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
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        if self._pipe is not None:
            self._pipe.close()

    def __call__(self, messages: Sequence[RawMessage], state: TaskState) -> JobFailure | Passed:
        """How it went. Before one message is blamed for an end, it is tried twice: anybody may kill.

        Raises:
            RetryableError: The child does not work, or an error of the surroundings.
        """
        result = self._try(messages, state)
        if isinstance(result, JobFailure) and result.how == "ended" and len(messages) <= 1:
            result = self._try(messages, state)
        return result

    def _try(self, messages: Sequence[RawMessage], state: TaskState) -> JobFailure | Passed:
        self._progress()
        job, hung = "", False
        try:
            pipe = self._started()
            pipe.send_bytes(pickle.dumps((list(messages), state, dict(self._landed(messages)))))
            patience = _Patience(self._plan.limits.timeout_s)
            while True:
                if not hung and not patience.sees(pipe):
                    hung = True
                    pipe.send_bytes(trial_child.KILL)
                answer = orjson.loads(pipe.recv_bytes())
                if "job" not in answer:
                    break
                job = answer["job"]
        except (EOFError, OSError) as exc:
            raise RetryableError(f"the child for trials ended: {exc}; this log has its own words") from exc
        if "trouble" in answer:
            raise RetryableError(f"a trial met an error that is no message's fault: {answer['trouble']}")
        if "passed" in answer:
            return Passed(answer["passed"])
        if "failure" in answer:
            return JobFailure(*answer["failure"])
        if answer["ended"] == trial_child.FAILED_TO_BEGIN and not job:
            raise RetryableError("the child for trials cannot build the jobs; this log has its own words")
        if hung:
            return JobFailure(job, "Timeout", f"it ran for {self._plan.limits.timeout_s:.0f} s", "hung")
        return JobFailure(job, _word(answer["ended"]), "the process ended while the job ran", "ended")

    def _started(self) -> Connection:
        """The pipe to the child, which is started where it is not."""
        if self._pipe is None:
            self._pipe, its = Pipe()
            command = [sys.executable, "-m", trial_child.__name__, str(its.fileno())]
            self._child = subprocess.Popen(  # noqa: S603  (a module of ours)
                command, pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL, env={**os.environ, **_ONE_THREAD}
            )
            its.close()
            self._pipe.send(self._plan)
            if not _Patience(_START_S).sees(self._pipe):
                raise TimeoutError(f"not ready after {_START_S:.0f} s")
            self._pipe.recv_bytes()
            self._progress()
        return self._pipe


class _Patience:
    """Waits so long in all; in ticks of its own, so that a process that was paused itself goes on waiting."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def sees(self, pipe: Connection) -> bool:
        """Whether the pipe has something before the patience ends."""
        while not pipe.poll(min(_TICK_S, self._left)):
            self._left -= _TICK_S
            if self._left <= 0:
                return False
        return True


def _word(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

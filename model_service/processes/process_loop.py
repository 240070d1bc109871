"""The loop of all processes: runs jobs in turn; a job that fails backs off, and the others go on."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.errors import DamagedFileError, DamagedLakeError, PipelineError, RejectedError, RetryableError

log = logging.getLogger(__name__)

UNFORESEEN_S, LONGEST_S = 5.0, 60.0
"""Rest after the first unforeseen error of a job; each further one doubles it, up to the second number."""
_REJECTED_S, _DAMAGED_S = 1.0, 15.0
_REMEMBERED = 16
"""How many different errors of a job are logged once each, until it works again."""


def rest_after(error: Exception, in_a_row: int) -> float | None:
    """Seconds that a job rests after an error; None: the error ends the process.

    Args:
        error: What the job raised.
        in_a_row: Failures of the job since it last worked, including this one.
    """
    match error:
        case RetryableError():
            return error.retry_after_s
        case RejectedError():
            return _REJECTED_S
        case (
            DamagedLakeError() | DamagedFileError()
        ):  # what needs the file rests; the other jobs of the process go on
            return _DAMAGED_S
        case PipelineError():  # a person must decide (OperatorError), or another process has taken over
            return None
    doublings = min(in_a_row - 1, 16)  # 2**16 is far above the bound, and cannot overflow after days
    return min(UNFORESEEN_S * 2.0**doublings, LONGEST_S)


@dataclass(frozen=True)
class ProcessJob:
    """A task that a process repeats.

    Attributes:
        name: Name for the log.
        work: Does what there is to do. If it returns True, there may be more, and the next turn begins at
            once; after any other value the loop pauses. It may be a coroutine function if the loop runs in an
            event loop.
        pause_s: Least time from one start to the next, in addition to the loop's own pause.
    """

    name: str
    work: Callable[[], object]
    pause_s: float = 0.0


class ProcessLoop:
    """Runs every job in turn until ``stop`` is set.

    >>> from schemas.errors import RetryableError
    >>> def ask_the_lake():
    ...     raise RetryableError("the lake is busy")
    >>> jobs = [ProcessJob("ask", ask_the_lake), ProcessJob("greet", lambda: print("hello"))]
    >>> loop = ProcessLoop(jobs, pause_s=0.25)
    >>> loop.turn()
    hello
    False
    >>> loop.failures
    {'ask': 1, 'greet': 0}

    Args:
        jobs: In the order of their turns.
        pause_s: Time from the end of one turn to the next, unless a job has more to do.
        monotonic: Seconds; clock of pauses and rests.

    Attributes:
        failures: By job, how often it failed since the loop was made.
    """

    def __init__(
        self, jobs: Sequence[ProcessJob], pause_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause_s, self._monotonic = pause_s, monotonic
        self._states = [_State(job) for job in jobs]

    @property
    def failures(self) -> dict[str, int]:
        """By job, how often it failed since the loop was made."""
        return {state.job.name: state.failures for state in self._states}

    def run(self, stop: threading.Event) -> None:
        """Take turns until ``stop`` is set; the current job is completed, a rest is cut short.

        Raises:
            OperatorError: A job needs a person.
        """
        while not stop.is_set():
            stop.wait(0.0 if self.turn() else self._pause_s)

    async def run_async(self, stop: threading.Event) -> None:
        """The same within an event loop. It checks ``stop`` once a pause, so the pause must be short.

        Raises:
            OperatorError: A job needs a person.
        """
        while not stop.is_set():  # noqa: ASYNC110  (a signal handler sets it, outside the event loop)
            await asyncio.sleep(0.0 if await self.turn_async() else self._pause_s)

    def turn(self) -> bool:
        """One turn of every job that is due; returns whether one may have more to do at once.

        Raises:
            OperatorError: A job needs a person.
        """
        more = False
        for state in self._due():
            with self._attempt(state):
                more |= state.job.work() is True
        return more

    async def turn_async(self) -> bool:
        """The same for jobs that may be coroutine functions."""
        more = False
        for state in self._due():
            with self._attempt(state):
                answer = state.job.work()
                more |= (await answer if inspect.isawaitable(answer) else answer) is True
        return more

    def _due(self) -> Iterator[_State]:
        return (state for state in self._states if self._monotonic() >= state.due)

    @contextmanager
    def _attempt(self, state: _State) -> Iterator[None]:
        """Wraps one attempt: sets when the job is due again, whether it succeeds or fails."""
        state.due = self._monotonic() + state.job.pause_s
        try:
            yield
        except Exception as exc:
            rest_s = rest_after(exc, state.in_a_row + 1)
            if rest_s is None:
                raise
            state.failed(exc, rest_s)
            state.due = self._monotonic() + max(state.job.pause_s, rest_s)
        else:
            state.worked()


class _State:
    """State of one job in the loop."""

    def __init__(self, job: ProcessJob) -> None:
        self.job = job
        self.due = float("-inf")
        self.failures = self.in_a_row = 0
        self._logged: deque[tuple[type[Exception], str]] = deque(maxlen=_REMEMBERED)

    def worked(self) -> None:
        if self.in_a_row:
            log.info("%s: works again, after %d failed attempts", self.job.name, self.in_a_row)
        self.in_a_row = 0
        self._logged.clear()

    def failed(self, error: Exception, rest_s: float) -> None:
        """Count the error, and log it unless the job failed with the same one since it last worked."""
        self.failures += 1
        self.in_a_row += 1
        if (entry := (type(error), str(error))) in self._logged:
            return
        self._logged.append(entry)
        if isinstance(error, PipelineError):
            log.warning("%s: %s: %s", self.job.name, type(error).__name__, error)
        else:
            log.error("%s: unexpected error; retrying in %.0f s", self.job.name, rest_s, exc_info=error)

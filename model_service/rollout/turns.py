"""Takes turns among the jobs of one process; one that cannot work now does not hold up the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from schemas.errors import PipelineError, RejectedError, RetryableError

log = logging.getLogger(__name__)

STUMBLE_S = 5.0
"""Rest of a job that failed in a way that nobody foresaw."""
Job = tuple[Callable[[], object], float]
"""What to do, and seconds between two turns."""


class Turns:
    """Jobs in order.

    Args:
        jobs: Each with its pause.
        monotonic: Clock of the pauses.
    """

    def __init__(self, jobs: Sequence[Job], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._jobs = jobs
        self._monotonic = monotonic
        self._due = [float("-inf")] * len(jobs)
        self._said: dict[int, str] = {}

    def take(self) -> None:
        """One turn of every job that is due.

        Raises:
            OperatorError: A job needs a person.
        """
        for number, (job, pause_s) in enumerate(self._jobs):
            if self._monotonic() < self._due[number]:
                continue
            self._due[number] = self._monotonic() + pause_s
            try:
                job()
            except RetryableError as exc:
                self._due[number] = self._monotonic() + max(pause_s, exc.retry_after_s)
                self._say(number, exc)
            except RejectedError as exc:
                self._due[number] = self._monotonic() + max(pause_s, 1.0)
                self._say(number, exc)
            except PipelineError:
                raise
            except Exception as exc:
                self._due[number] = self._monotonic() + max(pause_s, STUMBLE_S)
                if self._said.get(number) != str(exc):
                    log.exception("a job stumbled; the others go on")
                self._said[number] = str(exc)
            else:
                self._said.pop(number, None)

    def _say(self, number: int, error: Exception) -> None:
        """Each trouble once, not at every turn."""
        if self._said.get(number) != str(error):
            self._said[number] = str(error)
            log.warning("%s: %s", type(error).__name__, error)

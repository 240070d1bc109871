"""Decides what to do about a spool that fails: when to open it again, and when to set it aside. Pure.

* The disk does not take it (full, read-only, broken): try again, ever more rarely. If that lasts although the
  folder takes other files, the file itself is the cause: set it aside.
* It is damaged: open it once more and check all of it; if it still is, or is again within a minute although
  something was written in between, set it aside.
* It is another process's or other devices': a person must act. Try again, and leave it where it is.
* Anything else is a fault that nobody foresaw, in the file or in what was to be written: try again, then
  without the rows that wait, then with a new file.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum

from schemas.errors import SpoolDamagedError, SpoolInUseError, SpoolOwnerError, SpoolUnavailableError

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PATIENCE_S = 60.0
"""How long the disk may refuse one file before that file is suspected."""
ASIDE_AT_MOST, ASIDE_WITHIN_S = 3, 3600.0
"""A spool is set aside so often at most within this time: what needs more is no damage to a file."""


class SpoolStep(StrEnum):
    """What to do next."""

    OPEN = "open"
    CHECK = "check"
    """Open it, and check all of it."""
    SET_ASIDE = "set aside"
    SET_ASIDE_IF_DISK_WORKS = "set aside if the disk takes another file"
    OPEN_WITHOUT_ROWS = "open without the rows that wait"


class SpoolRecovery:
    """Counts the failures since the spool last worked.

    Attributes:
        since_s: Steady clock at the first of them; None while the spool works.
        due_s: Steady clock from which the next step is due.
        failures: Number of them.
    """

    def __init__(self) -> None:
        self.since_s: float | None = None
        self.due_s = 0.0
        self.failures = 0
        self._damaged = self._odd = 0
        self._damaged_s = -math.inf
        self._step = SpoolStep.OPEN
        self._aside_s: deque[float] = deque(maxlen=ASIDE_AT_MOST)

    def worked(self) -> None:
        """Forget the failures: a transaction was committed."""
        self.since_s = None
        self.failures = self._damaged = self._odd = 0
        self._step = SpoolStep.OPEN

    def failed(self, error: Exception, now_s: float) -> None:
        """Count a failure and decide on the next step."""
        self.since_s = now_s if self.since_s is None else self.since_s
        self.failures += 1
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(self.failures - 1, 10), LONGEST_WAIT_S)
        if isinstance(error, SpoolDamagedError):
            again = self._damaged > 0 or now_s - self._damaged_s < PATIENCE_S
            self._step = SpoolStep.SET_ASIDE if again else SpoolStep.CHECK
            self._damaged, self._damaged_s = self._damaged + 1, now_s
            wait_s = 0.0
        elif isinstance(error, SpoolInUseError | SpoolOwnerError):
            self._step, wait_s = SpoolStep.OPEN, LONGEST_WAIT_S
        elif isinstance(error, SpoolUnavailableError):
            lasts = now_s - self.since_s >= PATIENCE_S
            self._step = SpoolStep.SET_ASIDE_IF_DISK_WORKS if lasts else SpoolStep.OPEN
        else:
            self._odd += 1
            steps = (SpoolStep.OPEN, SpoolStep.OPEN, SpoolStep.OPEN_WITHOUT_ROWS, SpoolStep.SET_ASIDE)
            self._step = steps[min(self._odd, len(steps)) - 1]
        if self._step is SpoolStep.SET_ASIDE and self._too_often(now_s):
            self._step, wait_s = SpoolStep.OPEN, LONGEST_WAIT_S
        self.due_s = now_s + wait_s

    def set_aside(self, now_s: float) -> None:
        """Take note that the file was set aside: the next one is new."""
        self._aside_s.append(now_s)
        self._damaged = self._odd = 0
        self._damaged_s = -math.inf
        self._step, self.due_s = SpoolStep.OPEN, now_s

    def step(self, now_s: float) -> SpoolStep | None:
        """What to do now; None: wait."""
        return self._step if now_s >= self.due_s else None

    def _too_often(self, now_s: float) -> bool:
        return len(self._aside_s) == ASIDE_AT_MOST and now_s - self._aside_s[0] < ASIDE_WITHIN_S

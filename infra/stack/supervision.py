"""Decides when a process that ended is started again, and when it is given up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.process.child import ChildProcess
from infra.stack.stack_file import ProcessEntry

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
MAX_QUICK_ENDS = 6
QUICK_S = 20.0
"""An end within this many seconds of the start counts as quick; a longer life clears the count."""


@dataclass
class RestartRule:
    """Back-off of one process: pauses double, and after too many quick ends it stays down."""

    quick_ends: int = 0
    restarts: int = 0

    def ended(self, lived_s: float) -> float | None:
        """Seconds until the next start; None: no further start, a person must find the reason.

        Args:
            lived_s: Time between start and end, seconds.
        """
        self.quick_ends = self.quick_ends + 1 if lived_s < QUICK_S else 1
        if self.quick_ends > MAX_QUICK_ENDS:
            return None
        self.restarts += 1
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.quick_ends - 1)))


@dataclass
class Supervised:
    """One process that is kept running.

    Args:
        name: What status calls it.
        spawn: Starts it and returns once it runs.
        child: The running process.
        started: Clock reading of the last start, seconds.
    """

    name: str
    spawn: Callable[[], ChildProcess]
    child: ChildProcess
    started: float
    rule: RestartRule = field(default_factory=RestartRule)
    due: float | None = None
    failed: str | None = None

    def check(self, now: float) -> bool:
        """Check once; True if anything changed that status shows.

        Args:
            now: Monotonic seconds.

        Raises:
            StackError: The process could not be started again; a later check tries once more.
        """
        if self.failed is not None:
            return False
        if self.due is not None:
            return self._restart_if_due(now)
        code = self.child.exit_code
        if code is None:
            return False
        self._note_end(code, now)
        return True

    def _note_end(self, code: int, now: float) -> None:
        self.child.stop()  # it has ended: this frees its pipe
        pause_s = self.rule.ended(now - self.started)
        if pause_s is None:
            last = next((line for line in reversed(self.child.log_tail()) if line.strip()), "")
            self.failed = f"ended {MAX_QUICK_ENDS + 1} times in a row, exit code {code}: {last[:200]}"
            log.error("%s: %s", self.name, self.failed)
        else:
            self.due = now + pause_s
            log.warning("%s ended with exit code %s, next start in %.1f s", self.name, code, pause_s)

    def _restart_if_due(self, now: float) -> bool:
        if self.due is None or now < self.due:
            return False
        self.due = now + LONGEST_PAUSE_S  # should the start fail
        self.child = self.spawn()
        self.started, self.due = now, None
        return True

    def entry(self) -> ProcessEntry:
        """Its entry in ``stack.json``."""
        return ProcessEntry(
            name=self.name,
            pid=self.child.pid,
            created=self.child.created,
            log=self.child.log_path,
            restarts=self.rule.restarts,
            failed=self.failed,
        )

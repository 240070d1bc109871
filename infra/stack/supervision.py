"""Decides when a process that ended is started again, and when it is given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from infra.process.child import ChildProcess
from infra.stack.stack_file import ProcessEntry
from schemas.errors import PipelineError
from schemas.instants import utc_now

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
MAX_QUICK_ENDS = 6
QUICK_S = 20.0
"""An end within this many seconds of the start counts as quick; a longer life clears the count."""
STEADY_S = 120.0
"""Life after which earlier ends are no trouble any more."""
_LINE_CHARS = 200
_SAYS_NOTHING = ("For further information visit", "^", "~")
"""How lines begin that follow the one that says what went wrong."""


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


def telling_line(lines: Sequence[str]) -> str:
    """The last line that says what went wrong; empty: there is none."""
    said = (line.strip() for line in reversed(lines))
    return next((line for line in said if line and not line.startswith(_SAYS_NOTHING)), "")


@dataclass
class Supervised:
    """One process that is kept running.

    Args:
        name: What status calls it.
        spawn: Starts it and returns once it runs.
        child: The running process.
        started: Clock reading of the last start, seconds.
        clock: Wall clock, UTC.

    Attributes:
        ends: Ends since it last ran steadily.
        since: When the first of them was noticed.
        last_line: Last line of its log at the newest of them.
        in_trouble: Whether these ends are to be shown: it may end again any moment.
    """

    name: str
    spawn: Callable[[], ChildProcess]
    child: ChildProcess
    started: float
    rule: RestartRule = field(default_factory=RestartRule)
    due: float | None = None
    failed: str | None = None
    clock: Callable[[], datetime] = utc_now
    ends: int = 0
    since: datetime | None = None
    last_line: str = ""
    in_trouble: bool = False

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
            return self._is_judged_anew(now)
        self._note_end(code, now)
        return True

    def _is_judged_anew(self, now: float) -> bool:
        """One end may be the first of many until it has run for a while; several are trouble for longer."""
        lived_s = now - self.started
        if lived_s >= STEADY_S:
            self.ends, self.since = 0, None
        before, self.in_trouble = self.in_trouble, bool(self.ends) and (self.ends > 1 or lived_s < QUICK_S)
        return self.in_trouble != before

    def _note_end(self, code: int, now: float) -> None:
        self.child.stop()  # it has ended: this frees its pipe
        pause_s = self.rule.ended(now - self.started)
        last = telling_line(self.child.log_tail())
        self.last_line = last[:_LINE_CHARS] or f"exit code {code}, and nothing in its log"
        self.ends, self.since, self.in_trouble = self.ends + 1, self.since or self.clock(), True
        if pause_s is None:
            self.failed = f"ended {MAX_QUICK_ENDS + 1} times in a row, exit code {code}: {last[:_LINE_CHARS]}"
            log.error("%s: %s", self.name, self.failed)
        else:
            self.due = now + pause_s
            log.warning("%s ended with exit code %s, next start in %.1f s", self.name, code, pause_s)

    def _restart_if_due(self, now: float) -> bool:
        if self.due is None or now < self.due:
            return False
        self.due = now + LONGEST_PAUSE_S  # should the start fail
        try:
            self.child = self.spawn()
        except PipelineError as exc:
            self.last_line = str(exc)[:_LINE_CHARS]
            raise
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
            ends=self.ends if self.in_trouble else 0,
            since=self.since if self.in_trouble else None,
            last_line=self.last_line if self.in_trouble else "",
        )

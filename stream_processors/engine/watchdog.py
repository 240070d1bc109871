"""Ends a process that no longer makes progress."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading

log = logging.getLogger(__name__)
HARD_LIMITS = 3
EXIT_STALLED = 70  # EX_SOFTWARE: the watchdog ended the process; start it again


class Watchdog(threading.Thread):
    """Ends the process when nothing has progressed for ``limit_s``; the supervisor starts it again.

    Counts its own ticks, not the clock, so that a paused process (SIGSTOP, suspended VM) gets its time
    to rejoin. A call that never gives Python's lock back stops these ticks too: then a timer of C ends the
    process after ``HARD_LIMITS`` times the limit, by the clock.
    """

    def __init__(self, limit_s: float, tick_s: float = 1.0) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.limit_s, self._tick_s = limit_s, tick_s
        self._idle_ticks = 0
        self._stopped = threading.Event()

    def ensure_started(self) -> None:
        """Start unless running."""
        if self.ident is None:
            self._arm()
            self.start()

    def progress(self) -> None:
        """Report progress: the count starts again."""
        self._idle_ticks = 0

    def stop(self) -> None:
        """Stop counting: the process may go on without progress."""
        self._stopped.set()

    def run(self) -> None:
        """Count ticks until stopped, or end the process."""
        while not self._stopped.wait(self._tick_s):
            self._arm()
            self._idle_ticks += 1
            if self._idle_ticks * self._tick_s > self.limit_s:
                log.critical(
                    "no progress for %.0f s; the process ends with exit code %d", self.limit_s, EXIT_STALLED
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_STALLED)
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        """Put off the end by the timer that needs no lock."""
        faulthandler.dump_traceback_later(HARD_LIMITS * self.limit_s, exit=True)

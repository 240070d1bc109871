"""When one device's updater looks at the service and sends reports. Pure: times come in, no clock is read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

_JITTER = random.Random()  # noqa: S311  (spreads looks and retries, guards nothing)

FIRST_S, LONGEST_S = 1.0, 60.0
"""Wait after the first failure, and after many; jitter takes up to half of it off."""
DOUBLINGS = 12
"""After so many a wait is at its longest anyway; the power of an outage of days overflows."""
DENIED_S = 60.0
"""Shortest wait where the service does not know the device or its certificate: a person has to act."""
OFFLINE_S = 0.5
"""Wait in flight mode: nothing is sent, and its end is seen soon."""
SHORTEST_S = 1.0
"""From a look or a failure to a look that hints or retries ask for: a sender may send any number of hints."""
MARGIN_S = 0.05
"""After the time at which a failed set may be tried again: clocks round."""
SHORTEST_PAUSE_S = 0.01
_AT_ONCE = -math.inf


class Backoff:
    """How long to wait after the n-th failure in a row: doubled each time, with jitter.

    Args:
        draw: A number in [0, 1).
    """

    def __init__(self, draw: Callable[[], float] = _JITTER.random) -> None:
        self.failures = 0
        self._draw = draw

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait."""
        wait = min(FIRST_S * 2.0 ** min(self.failures, DOUBLINGS), LONGEST_S)
        self.failures += 1
        return wait * (0.5 + self._draw() / 2)

    def worked(self) -> None:
        """Begin anew."""
        self.failures = 0


class UpdateSchedule:
    """When the next look is due, and when reports may be sent. At first both at once.

    Every ``now_s`` is seconds of one clock that does not go back; its origin does not matter. ``hint`` may be
    called by any thread, everything else by one.

    Args:
        poll_s: Mean seconds between two looks that nobody asks for; each wait is 0.5 to 1.5 times as long.
        draw: A number in [0, 1).
    """

    def __init__(self, poll_s: float, draw: Callable[[], float] = _JITTER.random) -> None:
        self._poll_s = poll_s
        self._draw = draw
        self._visits = Backoff(draw)
        self._refusals = Backoff(draw)
        self._look_s = self._report_s = self._refused_until_s = self._looked_s = _AT_ONCE
        self._hinted = False

    @property
    def failures(self) -> int:
        """Visits in a row that failed."""
        return self._visits.failures

    def look_due(self, now_s: float) -> bool:
        """Whether to look at the service."""
        return now_s >= self._next_look_s

    def report_due(self, now_s: float) -> bool:
        """Whether to visit the service for the sake of reports alone."""
        return now_s >= self._next_report_s

    def reports_taken_again(self, now_s: float) -> bool:
        """Whether a visit may offer reports: always, but for a while after the service refused some."""
        return now_s >= self._refused_until_s

    def pause(self, now_s: float, *, reports: bool) -> float:
        """Seconds until something is due.

        Args:
            now_s: See the class.
            reports: Whether some wait.
        """
        due_s = min(self._next_look_s, self._next_report_s) if reports else self._next_look_s
        return max(due_s - now_s, SHORTEST_PAUSE_S)

    # What happens, and what follows from it --------------------------------------------------------------

    def look_begins(self, now_s: float) -> None:
        """A look begins: it answers all hints so far, and the next one is a poll away."""
        self._hinted = False
        self._looked_s = now_s
        self._look_s = now_s + self._poll_s * (0.5 + self._draw())

    def visit_worked(self) -> None:
        """The service answered."""
        self._visits.worked()
        self._report_s = _AT_ONCE

    def visit_failed(self, now_s: float, *, denied: bool = False) -> None:
        """The service did not answer, or denied access: looks and reports wait."""
        wait_s = self._visits.failed()
        self._postpone(now_s, max(wait_s, DENIED_S) if denied else wait_s)

    def offline(self, now_s: float) -> None:
        """There is no network, by order: no failure, and seen again soon."""
        self._postpone(now_s, OFFLINE_S)

    def hint(self) -> bool:
        """Somebody says that something changed: reason for one more look, soon. From any thread.

        Returns:
            Whether that is news: hints before the next look count once.
        """
        news, self._hinted = not self._hinted, True
        return news

    def look_at_once(self) -> None:
        """An attempt has ended: there may be newer instructions."""
        self._look_s = _AT_ONCE

    def retry(self, now_s: float, wait_s: float) -> None:
        """Something may be tried again in ``wait_s`` seconds: look then at the latest."""
        due_s = max(now_s + max(wait_s, 0.0) + MARGIN_S, self._looked_s + SHORTEST_S)
        self._look_s = min(self._look_s, due_s)

    def report_at_once(self) -> None:
        """There is a new report."""
        self._report_s = _AT_ONCE

    def reports_refused(self, now_s: float, *, denied: bool = False) -> float:
        """The service answers, but takes no reports; returns the seconds until they are offered again."""
        wait_s = max(self._refusals.failed(), DENIED_S if denied else 0.0)
        self._refused_until_s = now_s + wait_s
        return wait_s

    def reports_taken(self) -> None:
        """The service took what waited."""
        self._refusals.worked()

    def _postpone(self, now_s: float, wait_s: float) -> None:
        self._hinted = False
        self._looked_s = now_s
        self._look_s = self._report_s = now_s + wait_s

    @property
    def _next_look_s(self) -> float:
        hint_s = self._looked_s + SHORTEST_S if self._hinted else math.inf
        return min(self._look_s, hint_s)

    @property
    def _next_report_s(self) -> float:
        return max(self._report_s, self._refused_until_s)

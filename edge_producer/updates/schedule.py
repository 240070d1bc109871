"""When one device's updater contacts the service. Pure: times come in, no clock is read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

_JITTER = random.Random()  # noqa: S311  (spreads checks and retries, guards nothing)

FIRST_S, LONGEST_S = 1.0, 60.0
"""Wait after the first failure, and after many; jitter takes up to half of it off."""
DOUBLINGS = 12
"""After so many a wait is at its longest anyway; the power of an outage of days overflows."""
DENIED_S = 60.0
"""Shortest wait where the service does not know the device or its certificate: a person has to act."""
OFFLINE_S = 0.5
"""Wait in flight mode, in which nothing is sent: short, so that its end is noticed soon."""
SHORTEST_S = 1.0
"""Shortest time from a check or a failure to the next check, however many hints and retries ask for one."""
MARGIN_S = 0.05
"""Added to the time from which a failed set may be tried again, because clocks round."""
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

    def reset(self) -> None:
        """Start again with the shortest wait."""
        self.failures = 0


class UpdateSchedule:
    """When the next contact is due: a check for instructions, reports, or both. At first both at once.

    Every ``now_s`` is seconds of one clock that does not go back; its origin does not matter. ``hint`` may be
    called by any thread, everything else by one.

    Args:
        poll_s: Mean seconds between two checks without a hint; each wait is 0.5 to 1.5 times as long.
        draw: A number in [0, 1).
    """

    def __init__(self, poll_s: float, draw: Callable[[], float] = _JITTER.random) -> None:
        self._poll_s = poll_s
        self._draw = draw
        self._contacts = Backoff(draw)
        self._refusals = Backoff(draw)
        self._check_s = self._report_s = self._refused_until_s = self._checked_s = _AT_ONCE
        self._asked_until_s = _AT_ONCE  # by the service: no hint shortens that
        self._hinted = False

    @property
    def failures(self) -> int:
        """Contacts in a row that failed."""
        return self._contacts.failures

    def check_due(self, now_s: float) -> bool:
        """Whether to check for instructions."""
        return now_s >= self._next_check_s

    def report_due(self, now_s: float) -> bool:
        """Whether to contact the service for reports alone, if some wait."""
        return now_s >= self._next_report_s

    def may_send_reports(self, now_s: float) -> bool:
        """Whether a contact may send reports: always, except for a while after the service refused some."""
        return now_s >= self._refused_until_s

    def pause(self, now_s: float, *, reports: bool) -> float:
        """Seconds until something is due.

        Args:
            now_s: Seconds of the clock that the class describes.
            reports: Whether some wait.
        """
        due_s = min(self._next_check_s, self._next_report_s) if reports else self._next_check_s
        return max(due_s - now_s, SHORTEST_PAUSE_S)

    # What happens, and what follows from it --------------------------------------------------------------

    def check_begins(self, now_s: float) -> None:
        """A check begins: it answers all hints so far, and the next one is a poll interval away."""
        self._hinted = False
        self._checked_s = now_s
        self._check_s = now_s + self._poll_s * (0.5 + self._draw())

    def contact_succeeded(self) -> None:
        """The service answered."""
        self._contacts.reset()
        self._report_s = _AT_ONCE

    def contact_failed(self, now_s: float, *, denied: bool = False, at_least_s: float = 0.0) -> None:
        """The service did not answer, denied access, or asked to wait: checks and reports wait."""
        wait_s = max(self._contacts.failed(), at_least_s)
        self._asked_until_s = now_s + at_least_s
        self._postpone(now_s, max(wait_s, DENIED_S) if denied else wait_s)

    def offline(self, now_s: float) -> None:
        """The network is switched off: that is no failure, and is polled again soon."""
        self._postpone(now_s, OFFLINE_S)

    def hint(self) -> bool:
        """Something may have changed: make one more check due soon. From any thread.

        Returns:
            False where an earlier hint has not been answered yet: hints before a check count once.
        """
        is_first, self._hinted = not self._hinted, True
        return is_first

    def check_at_once(self) -> None:
        """An attempt has ended: there may be newer instructions."""
        self._check_s = _AT_ONCE

    def retry(self, now_s: float, wait_s: float) -> None:
        """Something may be tried again in ``wait_s`` seconds: check then at the latest."""
        due_s = max(now_s + max(wait_s, 0.0) + MARGIN_S, self._checked_s + SHORTEST_S)
        self._check_s = min(self._check_s, due_s)

    def report_at_once(self) -> None:
        """There is a new report."""
        self._report_s = _AT_ONCE

    def reports_refused(self, now_s: float, *, denied: bool = False, at_least_s: float = 0.0) -> float:
        """The service answers, but takes no reports; returns the seconds until they are sent again."""
        wait_s = max(self._refusals.failed(), DENIED_S if denied else 0.0, at_least_s)
        self._refused_until_s = now_s + wait_s
        return wait_s

    def reports_accepted(self) -> None:
        """The service took what waited."""
        self._refusals.reset()

    def _postpone(self, now_s: float, wait_s: float) -> None:
        self._hinted = False
        self._checked_s = now_s
        self._check_s = self._report_s = now_s + wait_s

    @property
    def _next_check_s(self) -> float:
        hint_s = self._checked_s + SHORTEST_S if self._hinted else math.inf
        return max(min(self._check_s, hint_s), self._asked_until_s)

    @property
    def _next_report_s(self) -> float:
        return max(self._report_s, self._refused_until_s, self._asked_until_s)

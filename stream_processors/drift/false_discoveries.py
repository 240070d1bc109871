"""How much evidence a verdict needs, so that over the whole fleet few verdicts are false.

Over each period of event time (``period_us``), the expected share of false ones among all verdicts of the
fleet is at most ``RATE``, whatever its features and cohorts have in common. The rule is e-LOND (Xu and Ramdas
2024): a test is told at level RATE x share x (verdicts so far + 1), where the shares of all tests of a period
add up to at most 1. A task needs nothing for this but its own counts of verdicts and of watched series: a
level that rests on fewer verdicts than the fleet has is only stricter. So tasks need not know of each other.

One test is one series since its baseline. After a verdict a new baseline begins a new test, and so does a
series that is longer than what is kept of it. Half of the shares are for the tests that verdicts begin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from schemas.learning_policy import DriftPolicy
from schemas.topics import AGGREGATE

RATE = 0.1
"""Largest expected share of false verdicts among the verdicts of the fleet in a period."""
_PERIOD_S = 91 * 86_400
_PERIOD_WINDOWS = 4096
"""Windows of a period: where they are short, a quarter of a year would demand more than any drift shows."""
_TEST_WINDOWS = 256
"""Windows after which a series that is full goes on as a new test (half of ``series.KEPT``)."""
_KEPT_PERIODS = 4
"""Periods whose verdicts are remembered: cohorts may be that far apart in event time."""


def period_us(policy: DriftPolicy) -> int:
    """Span over which the rate is held, microseconds: 91 days, or 4,096 windows if that is shorter."""
    return round(min(_PERIOD_S, _PERIOD_WINDOWS * policy.window_s) * 1e6)


class FleetTests(NamedTuple):
    """What a task knows of the fleet's tests when it judges a window.

    Attributes:
        series: Series that it watches: two of each feature of each cohort.
        found: Verdicts that it has given in the period.
    """

    series: int
    found: int = 0

    def needed(self, policy: DriftPolicy) -> float:
        """Natural logarithm of the e-value from which a series of this policy gets a verdict."""
        tests = 1 + period_us(policy) / (policy.window_s * 1e6 * _TEST_WINDOWS)
        share = 0.5 / (AGGREGATE.partitions * max(self.series, 1) * tests)
        return -math.log(RATE * share * (self.found + 1))


ALONE = FleetTests(0)
"""Of a task that watches nothing else."""


class VerdictCounts:
    """Verdicts of one task by period, newest periods only.

    Args:
        known: As ``to_state`` gave it; empty: none yet.
    """

    def __init__(self, known: Mapping[str, int]) -> None:
        self._counts = dict(known)

    def at(self, end_us: int, policy: DriftPolicy) -> int:
        """Verdicts in the period of a window that ends then."""
        return self._counts.get(_period(end_us, policy), 0)

    def add(self, end_us: int, policy: DriftPolicy, verdicts: int) -> None:
        """Count the verdicts of a window; of each length of a period the newest are kept."""
        period = _period(end_us, policy)
        self._counts[period] = self._counts.get(period, 0) + verdicts
        length = period.partition(":")[0]
        alike = sorted((p for p in self._counts if p.partition(":")[0] == length), key=_number)
        for old in alike[:-_KEPT_PERIODS]:
            del self._counts[old]

    def to_state(self) -> dict[str, int]:
        """As JSON: verdicts by length (seconds) and number of the period."""
        return dict(self._counts)


def _period(end_us: int, policy: DriftPolicy) -> str:
    length = period_us(policy)
    return f"{length // 1_000_000}:{(end_us - 1) // length}"


def _number(period: str) -> int:
    return int(period.partition(":")[2])

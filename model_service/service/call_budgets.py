"""How often each caller may call: token buckets. Pure but for the clock that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from model_service.service.refusals import OverBudgetError

_SHORTEST_S: Final = 0.1
_SWEEP: Final = 4096
"""Buckets above which those that are full again are forgotten."""


@dataclass(frozen=True)
class CallRate:
    """How often one caller may make a call.

    Attributes:
        burst: Calls in a row.
        per_s: Calls a second, over time.
    """

    burst: int
    per_s: float


@dataclass
class _Bucket:
    """Tokens as of an instant; one is spent by each call."""

    rate: CallRate
    tokens: float
    at: float

    def fill(self, now: float) -> None:
        self.tokens = min(float(self.rate.burst), self.tokens + max(0.0, now - self.at) * self.rate.per_s)
        self.at = now


class CallBudgets:
    """A token bucket for each key (Turner 1986, "leaky bucket as a meter").

    >>> ticks = iter([0.0, 0.0, 0.5, 4.0])
    >>> budgets, rate = CallBudgets(lambda: next(ticks)), CallRate(burst=1, per_s=0.25)
    >>> budgets.spend("m-1", rate)
    >>> budgets.spend("m-1", rate)
    Traceback (most recent call last):
    model_service.service.refusals.OverBudgetError: too many calls: again in 4.0 s
    >>> budgets.spend("m-1", rate)
    Traceback (most recent call last):
    model_service.service.refusals.OverBudgetError: too many calls: again in 3.5 s
    >>> budgets.spend("m-1", rate)

    Args:
        monotonic: Seconds; need not start at 0.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._buckets: dict[Hashable, _Bucket] = {}
        self._sweep_above = _SWEEP

    def __len__(self) -> int:
        """Buckets that are kept."""
        return len(self._buckets)

    def spend(self, key: Hashable, rate: CallRate) -> None:
        """Spend one call.

        Raises:
            OverBudgetError: The caller must wait.
        """
        now = self._monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[key] = _Bucket(rate, float(rate.burst), now)
        bucket.fill(now)
        if bucket.tokens < 1.0:
            wait_s = max((1.0 - bucket.tokens) / rate.per_s, _SHORTEST_S)
            raise OverBudgetError(f"too many calls: again in {wait_s:.1f} s", wait_s)
        bucket.tokens -= 1.0

    def _sweep(self, now: float) -> None:
        """Forget buckets that are full again: a new one would be equal."""
        if len(self._buckets) < self._sweep_above:
            return
        for bucket in self._buckets.values():
            bucket.fill(now)
        self._buckets = {k: b for k, b in self._buckets.items() if b.tokens < b.rate.burst}
        self._sweep_above = max(_SWEEP, 2 * len(self._buckets))

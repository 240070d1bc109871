"""Statistics of paired windows: do alarms gained, alarms lost and recall lie beyond what was predicted? Pure.

Alarms come in runs, so runs are what is counted, and the windows of a run say how long one lasts. Runs of a
model that changes no more than predicted come at most at a known rate; under it the likelihood ratio of any
faster rate is a supermartingale that starts at 1, so that it ever reaches 1/alpha has probability alpha at
most (Ville 1939; Wald 1945 for the sequential test). The guard may therefore look after every report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model_service.rollout.guard_statistics import student_cdf, student_quantile

FACTORS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""How many times faster runs may come than allowed: the evidence is the mean over these."""
DEVICE_SPREAD = 0.5
"""Coefficient of variation of the rate of alarms over devices: assumed, because few alarms do not show it."""
RUN_WINDOWS = 2.0
"""Length of a run before any is seen, in windows; weighs as one run."""


@dataclass(frozen=True)
class RunTotals:
    """Windows of several devices on which something happened, and in how many runs.

    What one device alone shows may be that device: so the tested numbers leave out the one with most runs,
    where there are several.

    Attributes:
        windows: All windows that were compared.
        events: Windows on which it happened.
        base: Windows on which the old model alarms, or is late.
        tested_windows, tested_runs, tested_base: The same without the device that has most runs.
    """

    devices: int = 0
    windows: int = 0
    events: int = 0
    runs: int = 0
    base: int = 0
    tested_windows: int = 0
    tested_runs: int = 0
    tested_base: int = 0

    @classmethod
    def of(cls, devices: Iterable[tuple[int, int, int, int]]) -> RunTotals:
        """From windows, events, runs and base of each device."""
        n = windows = events = runs = base = 0
        largest = (0, -1, 0)
        for w, e, r, b in devices:
            n, windows, events, runs, base = n + 1, windows + w, events + e, runs + r, base + b
            if r > largest[1]:
                largest = (w, r, b)
        if n < 2:
            return cls(n, windows, events, runs, base, windows, runs, base)
        w, r, b = largest
        return cls(n, windows, events, runs, base, windows - w, runs - r, base - b)


def run_length(events: int, runs: int) -> float:
    """Windows of one run, at least 1; few runs are taken together with ``RUN_WINDOWS``."""
    return max(1.0, (events + RUN_WINDOWS) / (runs + 1.0))


def evidence_of_excess(runs: int, allowed: float) -> float:
    """Evidence that runs come faster than allowed: its reciprocal is an always-valid p-value.

    Args:
        runs: Runs that came.
        allowed: Largest mean number that was allowed until now.
    """
    logs = [runs * math.log(m) - (m - 1.0) * allowed for m in FACTORS]
    return sum(math.exp(min(log, 600.0)) for log in logs) / len(FACTORS)


def evidence_of_absence(runs: int, expected: float, excessive: float, devices: int) -> float:
    """Evidence against a rate that would be too much: the likelihood ratio of what is expected (Wald 1945).

    Few devices may alarm less often than most do, and hide that. So their common rate is taken as uncertain:
    a gamma distribution around the fleet's, with the spread of a mean over so many devices.

    Args:
        runs: Runs that came.
        expected: Mean number on such devices if all is as predicted.
        excessive: Mean number if it is too much.
        devices: Number of devices.
    """
    if not 0 < expected < excessive:
        return 0.0
    shape = devices / DEVICE_SPREAD**2
    # Both counts are negative binomial; their ratio, in logarithms.
    spread = math.log((shape + excessive) / (shape + expected))
    log = runs * math.log(expected / excessive) + (shape + runs) * spread
    return math.exp(min(600.0, log))


@dataclass(frozen=True)
class MeanLoss:
    """Mean of one number a device, with the spread over devices known beforehand to some degree.

    Attributes:
        spread: Standard deviation over devices: the prior one and the sample's, each by its degrees of
            freedom (Smyth 2004, the moderated t).
        freedom: Degrees of freedom of both.
    """

    mean: float
    devices: int
    spread: float
    freedom: int

    @classmethod
    def of(cls, values: Sequence[float], prior_spread: float, prior_freedom: int) -> MeanLoss:
        """From one value a device; there is at least one."""
        n = len(values)
        mean = math.fsum(values) / n
        squares = math.fsum((v - mean) ** 2 for v in values)
        freedom = prior_freedom + n - 1
        return cls(mean, n, math.sqrt((prior_freedom * prior_spread**2 + squares) / freedom), freedom)

    def margin(self, alpha: float) -> float:
        """Half of an interval of the mean; one-sided error probability alpha."""
        return student_quantile(1 - alpha, self.freedom) * self.spread / math.sqrt(self.devices)

    def p_above(self, value: float, others: int) -> float:
        """Probability of so large a mean if the true one is ``value``, itself measured on other devices.

        Looks after every device: the one after n devices gets the part 1/(n(n+1)) of the error budget.

        Args:
            value: The mean that is allowed.
            others: Devices that it was measured on; 0: it is exact.
        """
        n = self.devices
        t = (self.mean - value) / (self.spread * math.sqrt(1 / n + (1 / others if others else 0.0)))
        tail = 1 - student_cdf(t, self.freedom) if t >= 0 else student_cdf(-t, self.freedom)
        return min(1.0, tail * n * (n + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, values[i] * (len(values) - rank)))
        adjusted[i] = highest
    return adjusted

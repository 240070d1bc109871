"""The door to river: whether a drift detector is in alarm after a series of standardised values.

A detector's state follows from the values it was given, in order. So no detector is ever stored: a new one is
built and given the stored values, which costs under a microsecond a value and survives an upgrade of river.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from river.drift import ADWIN, PageHinkley

from schemas.learning_policy import DriftPolicy

_LEAST_SLACK = 0.25
"""Slack of Page-Hinkley, baseline standard deviations, however small ``min_effect`` is."""


class Detector(Protocol):
    """The part of a river detector that this project uses."""

    @property
    def drift_detected(self) -> bool:
        """Whether the newest value raised the alarm."""
        ...

    def update(self, x: float) -> object:
        """Take the next value."""
        ...


def build(policy: DriftPolicy) -> Detector:
    """The detector that a drift policy asks for, for values in baseline standard deviations.

    Page-Hinkley is a two-sided CUSUM (Page 1954). Its slack is half the smallest shift of interest, which
    is the optimal choice for that shift; its threshold is ln(1 / delta), so that a run of pure noise crosses
    it with a probability far below ``delta`` (an excursion of height h has probability about
    exp(-2 * slack * h)). ADWIN takes ``delta`` as it is and checks at every value.
    """
    if policy.detector == "adwin":
        detector: Detector = ADWIN(
            delta=policy.delta, clock=1, min_window_length=2, grace_period=policy.warmup_windows
        )
        return detector
    page_hinkley: Detector = PageHinkley(
        min_instances=policy.warmup_windows,
        delta=max(policy.min_effect / 2, _LEAST_SLACK),
        threshold=math.log(1 / policy.delta) if policy.delta < 1 else 1.0,
        mode="both",
    )
    return page_hinkley


def in_alarm(values: Iterable[float], policy: DriftPolicy) -> bool:
    """Whether the last of these values, fed in order to a new detector, raises the alarm."""
    detector = build(policy)
    for value in values:
        detector.update(value)
    return detector.drift_detected

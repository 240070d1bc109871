"""The words for what a drift is: one list for verdicts, causes, tables, messages and commands."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class DriftKind(StrEnum):
    """What a drift is, by the evidence.

    A verdict's kind is a suggestion, made from aggregates of a cohort within a few windows. The kind of a
    training run's cause is found later, from each device's own shift, and decides whether the run goes on.
    """

    UNCLASSIFIED = "unclassified"
    """The evidence suggests nothing, or does not suffice: a person decides."""
    SINGLE_DEVICE_FAULT = "single_device_fault"
    """One device, or very few: a fault of theirs."""
    SENSOR_RECALIBRATION = "sensor_recalibration"
    """One channel moved at once, as by a sensor's gain or offset."""
    COVARIATE = "covariate"
    """Several channels moved at once: a new operating regime."""
    DEGRADATION = "degradation"
    """It goes on moving, or moves as a known fault does: wear, never to be learnt."""


NEW_NORMAL = frozenset({DriftKind.SENSOR_RECALIBRATION, DriftKind.COVARIATE})
"""Kinds of cause that are a reason to retrain."""

OLD_WORDS: Mapping[str, DriftKind] = {
    "concept": DriftKind.UNCLASSIFIED,
    "seasonal": DriftKind.UNCLASSIFIED,
    "unclear": DriftKind.UNCLASSIFIED,
    "single_device": DriftKind.SINGLE_DEVICE_FAULT,
    "recalibration": DriftKind.SENSOR_RECALIBRATION,
    "regime": DriftKind.COVARIATE,
}
"""Words of 0.2.0: two that its messages allowed and nothing ever wrote, and those of its training runs."""


def drift_kind(text: str) -> DriftKind:
    """The kind that a text names, in today's words or those of 0.2.0.

    Raises:
        ValueError: Neither.

    >>> drift_kind("regime")
    <DriftKind.COVARIATE: 'covariate'>
    """
    return OLD_WORDS.get(text) or DriftKind(text)

"""Chooses a detector and its settings for a history, fits it, and sets its threshold. Pure.

Candidates are fitted on the first part of the history and compared on the later one, each at the threshold
that keeps to the same budget of false alarms there: by labelled faults where there are enough, else by
generic faults. What a caller keeps back as test part never comes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.alarm_budget import COUNTABLE, AlarmRule, AlarmThreshold, threshold_for
from model_service.detectors.detector import AnomalyDetector, DetectorKind, Settings
from model_service.detectors.history import FeatureHistory
from model_service.detectors.kinds import KINDS
from model_service.detectors.robust_reference import RobustReference, fit_robust
from model_service.detectors.scaling import WANDER, calibration_of
from model_service.detectors.suspects import suspects
from model_service.models.fault_bank import FaultBank
from model_service.models.mahalanobis import calibrated
from model_service.models.recent_rows import weight_read, weight_set, with_fault
from model_service.models.rounding import rounded_number
from schemas.errors import DatasetError

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST_ROWS = 40
"""Healthy rows that a first model needs: with fewer, nothing that is compared means anything."""
LEAST_LABELLED = 5
"""Rows of labelled faults from which labels decide."""
MARGIN = 0.02
"""A later candidate must detect at least so much more than an earlier one to be preferred."""
LARGEST_DEVIATION = 0.5
"""Of one window that a fault is found in or not. A later candidate must also detect one standard error more,
the rule of Breiman et al. (1984): on a few windows the best of many is the best by chance."""
MANY_DEVICES = 5
"""From so many on a history shows how far features may go; with fewer, detectors that follow come first."""
AS_LONG_AGAIN = 4.0
"""Multiple of the variance gained over half a history that a random walk gains until as long again."""
LABELS, GENERIC_FAULTS = "labels", "generic faults"


@dataclass(frozen=True, slots=True)
class DetectorTrial:
    """How one candidate did on the later part of the history.

    Attributes:
        recall: Share of faults detected at the threshold.
        threshold: That keeps to the budget there.
        failed: Why it could not be tried; empty: it was.
    """

    kind: str
    settings: Settings
    recall: float
    threshold: AlarmThreshold | None
    failed: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorChoice:
    """A fitted detector, and how it was chosen.

    Attributes:
        detector: Fitted on all healthy rows.
        enter: Score from which a window counts as high: the budget's threshold.
        leave: Score below which an action may end.
        threshold: What ``enter`` rests on.
        judged_by: ``LABELS`` or ``GENERIC_FAULTS``.
        suspects: Windows that look like unlabelled faults, and took no part.
        trials: Of all candidates, in the order in which they were tried.
    """

    kind: DetectorKind
    settings: Settings
    detector: AnomalyDetector
    enter: float
    leave: float
    threshold: AlarmThreshold
    judged_by: str
    suspects: int
    trials: tuple[DetectorTrial, ...]


LEAVE_SHARE = 0.75
"""Distance at which an action may end, as a share of the threshold's."""


def choose(
    history: FeatureHistory,
    logged: Flags,
    bank: FaultBank,
    rule: AlarmRule,
    kinds: Sequence[DetectorKind] = KINDS,
    progress: Callable[[str], None] = lambda _: None,
) -> DetectorChoice:
    """The best detector of the kinds, fitted to the whole history.

    Args:
        history: Without the rows that are kept for the test.
        logged: Which features are taken as logarithms, shape (F,).
        bank: Generic faults.
        rule: The budget.
        kinds: What to choose among.
        progress: Told each trial.

    Raises:
        DatasetError: Too few healthy rows, or no kind could be fitted.
    """
    healthy = history.healthy
    if healthy.sum() < LEAST_ROWS:
        raise DatasetError(
            f"{int(healthy.sum())} healthy windows in the part of the history that trains: "
            f"{LEAST_ROWS} are needed"
        )
    suspect = np.zeros(len(healthy), dtype=bool)
    suspect[healthy] = suspects(history.features[healthy], logged)
    history = history.without(suspect)
    if shows_wandering_only(history, rule):
        kinds = [_wide(kind) for kind in kinds]
    if len(np.unique(history.device[history.healthy])) < MANY_DEVICES:
        kinds = sorted(kinds, key=lambda kind: not kind.follows)
    judged_by = LABELS if history.labelled.sum() >= LEAST_LABELLED else GENERIC_FAULTS
    trials = []
    for kind in kinds:
        for settings in kind.settings:
            trials.append(_try(kind, settings, history, logged, bank, rule, judged_by))
            progress(_line(trials[-1]))
    best = best_of(trials, margin_of(int((history.healthy & ~history.early()).sum())))
    kind = next(k for k in kinds if k.name == best.kind)
    detector, threshold = _final(kind, best.settings, history, logged, rule)
    enter, leave = (
        float(calibrated(np.array([share * threshold.distance]), detector.calibration)[0])
        for share in (1.0, LEAVE_SHARE)
    )
    return DetectorChoice(
        kind,
        best.settings,
        detector,
        rounded_number(enter),
        rounded_number(leave),
        threshold,
        judged_by,
        int(suspect.sum()),
        tuple(trials),
    )


def plain_reference(history: FeatureHistory, logged: Flags, rule: AlarmRule) -> tuple[RobustReference, float]:
    """A robust reference of a history, what chosen detectors are compared with, and its own threshold.

    Raises:
        ValueError: No healthy row.
    """
    suspect = np.zeros(len(history.features), dtype=bool)
    suspect[history.healthy] = suspects(history.features[history.healthy], logged)
    history = history.without(suspect)
    settings = {WANDER: AS_LONG_AGAIN} if shows_wandering_only(history, rule) else {}
    detector = fit_robust(history.features[history.healthy], logged, settings)
    distances = history.by_device(detector.distance(history.features), history.healthy)
    return detector, threshold_for(distances, rule).distance


def shows_wandering_only(history: FeatureHistory, rule: AlarmRule) -> bool:
    """Whether a history is of one device and too short to show its budget.

    It has not come back yet to where it has been: what wanders in it, a temperature above all, will be
    elsewhere soon. Longer histories, and those of several devices, show how far features go.
    """
    healthy = history.healthy
    allowed = rule.per_device_day * float(healthy.sum()) / rule.windows_per_day
    return allowed < COUNTABLE and len(np.unique(history.device[healthy])) == 1


def _wide(kind: DetectorKind) -> DetectorKind:
    def fit(features: Array, logged: Flags, settings: Settings) -> AnomalyDetector:
        return kind.fit(features, logged, {**settings, WANDER: AS_LONG_AGAIN})

    return replace(kind, fit=fit)


def margin_of(windows: int) -> float:
    """How much more a later candidate must detect, judged on so many healthy windows."""
    return max(MARGIN, LARGEST_DEVIATION / math.sqrt(max(windows, 1)))


def best_of(trials: Sequence[DetectorTrial], margin: float = MARGIN) -> DetectorTrial:
    """The trial with the highest recall; an earlier one wins where a later is hardly better.

    Args:
        trials: In the order of preference.
        margin: By how much a later one must be better.

    Raises:
        DatasetError: None could be tried.
    """
    best: DetectorTrial | None = None
    for trial in trials:
        if not trial.failed and (best is None or trial.recall > best.recall + margin):
            best = trial
    if best is None:
        raise DatasetError("no detector could be fitted: " + "; ".join(t.failed for t in trials))
    return best


def bank_recall(
    detector: AnomalyDetector, rows: Array, bank: FaultBank, distance: float
) -> dict[str, list[float]]:
    """Share of the rows that lie beyond a distance, with each fault injected: by kind, by severity.

    Args:
        detector: Gives the distance.
        rows: Shape (n, F); (n, 2F) where the detector reads recent levels.
        bank: The faults.
        distance: From which on a window counts as high.
    """
    found, weight = {}, weight_read(detector)
    for kind in bank.kinds:
        faulty = [detector.distance(with_fault(bank, rows, kind, s, weight)) for s in bank.severities(kind)]
        found[kind] = [float((np.nan_to_num(d) >= distance).mean()) for d in faulty]
    return found


def _try(
    kind: DetectorKind,
    settings: Settings,
    history: FeatureHistory,
    logged: Flags,
    bank: FaultBank,
    rule: AlarmRule,
    judged_by: str,
) -> DetectorTrial:
    """Fit on the early healthy rows; threshold and recall on the later ones."""
    healthy, early = history.healthy, history.early()
    rows = history.rows(weight_set(settings), healthy_only=True)
    try:
        detector = kind.fit(rows[healthy & early], logged, settings)
        distance = detector.distance(rows)
        later = healthy & ~early
        threshold = threshold_for(history.by_device(distance, later), rule)
    except (ValueError, ArithmeticError) as exc:
        return DetectorTrial(kind.name, settings, 0.0, None, str(exc) or type(exc).__name__)
    if judged_by == LABELS:
        recall = float((distance[history.labelled] >= threshold.distance).mean())
    else:
        by_kind = bank_recall(detector, rows[later], bank, threshold.distance)
        recall = float(np.mean([np.mean(shares) for shares in by_kind.values()]))
    return DetectorTrial(kind.name, settings, recall, threshold)


def _final(
    kind: DetectorKind, settings: Settings, history: FeatureHistory, logged: Flags, rule: AlarmRule
) -> tuple[AnomalyDetector, AlarmThreshold]:
    """The detector of all healthy rows; its calibration and threshold from rows that it was not fitted on.

    Each block of time is scored by a detector of the other blocks, so that the threshold does not rest on
    distances that fitting made small.
    """
    healthy = history.healthy
    rows = history.rows(weight_set(settings), healthy_only=True)
    crossed = np.full(len(rows), np.nan)
    for block in history.blocks(kind.blocks):
        rest, mine = healthy & ~block, healthy & block
        if mine.any():
            crossed[mine] = kind.fit(rows[rest], logged, settings).distance(rows[mine])
    threshold = threshold_for(history.by_device(crossed, healthy), rule)
    fitted = kind.fit(rows[healthy], logged, settings)
    return fitted.calibrated_by(calibration_of(crossed[healthy])), threshold


def _line(trial: DetectorTrial) -> str:
    named = " ".join(f"{name}={value:g}" for name, value in trial.settings.items())
    said = trial.failed or f"detects {trial.recall:.1%} of the faults"
    return f"{trial.kind} {named}: {said}".replace(" :", ":")

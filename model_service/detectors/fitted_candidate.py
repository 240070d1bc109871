"""Builds a first model's bundle from rows of the lake. Pure and reproducible, so that the gate can repeat it.

The same choice as on a file is made on the training rows. The calibration then puts the budget's distance at
the score from which the profile's mildest rule acts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.labels import is_healthy
from model_service.detectors.choosing import DetectorChoice, choose
from model_service.detectors.detector import AnomalyDetector
from model_service.detectors.first_model import SCRIPT, alarm_rule, stretches
from model_service.detectors.history import FeatureHistory
from model_service.detectors.synthetic_windows import synthetic_windows
from model_service.detectors.user_trainer import detector_kinds
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.fault_bank import FaultBank
from model_service.models.features import logged_features
from model_service.models.rounding import rounded_number
from model_service.models.training_rows import feature_matrix, part_of, sorted_rows
from schemas.manifest import Lineage, TrainingFacts
from schemas.profile import Profile
from schemas.recent_level import WindowTiming

DEFAULT_BUDGET = 1.0
DEFAULT_ENTER = 0.5
LEAST_ENTER = 0.001
"""A score lies between 0 and 1 and reaches neither, so no calibration can put a distance there."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedCandidate:
    """A bundle, and the detector behind it: it scores without the bundle's graph."""

    bundle: BundleFiles
    detector: AnomalyDetector


def build_fitted_candidate(
    profile: Profile, rows: pa.Table, bank: FaultBank, lineage: Lineage, seed: int, major: int
) -> FittedCandidate:
    """The candidate.

    Args:
        profile: Gives channels, features, rules and the budget.
        rows: As ``feature_store.point_in_time.training_rows`` gives them; only part ``train`` is used.
        bank: Generic faults of the profile.
        lineage: Goes into the manifest as it is.
        seed: Of the golden windows.
        major: First number of the version.

    Raises:
        DatasetError: Too few healthy rows, or a user's trainer is not installed or fails.
    """
    history = lake_history(profile, part_of(rows, "train"))
    choice = choose_for(profile, history, bank, seed)
    training = TrainingFacts(
        script=SCRIPT,
        seed=seed,
        devices=len(np.unique(history.device[history.healthy])),
        windows=int(history.healthy.sum()),
    )
    detector = at_the_rules_score(choice, profile)
    bundle = learnt_bundle(
        profile,
        profile.model.family,
        detector,
        stretches(history, detector),
        synthetic_windows(profile, seed),
        training,
        choice.kind.name,
        major,
        lineage,
    )
    return FittedCandidate(bundle, detector)


def choose_for(profile: Profile, history: FeatureHistory, bank: FaultBank, seed: int) -> DetectorChoice:
    """The choice for a profile's history, at its budget.

    Raises:
        DatasetError: Too few healthy rows.
    """
    rule = alarm_rule(profile, budget_of(profile))
    with detector_kinds(profile, seed) as kinds:
        return choose(history, logged_features(profile), bank, rule, kinds)


def budget_of(profile: Profile) -> float:
    """False alarms that a profile allows, a device and day."""
    return profile.training.alarms_per_device_day or DEFAULT_BUDGET


def enter_of(profile: Profile) -> float:
    """Score from which the profile's mildest rule acts."""
    rules = profile.decision.score_rules
    return min(max(rules[0].enter, LEAST_ENTER), 1 - LEAST_ENTER) if rules else DEFAULT_ENTER


def lake_history(profile: Profile, rows: pa.Table) -> FeatureHistory:
    """Rows of the lake as a history, each device's in the order of time."""
    table = ordered_rows(rows)
    labels = table.column("label").to_pylist() if "label" in table.column_names else [None] * table.num_rows
    _, device = np.unique(np.array(table.column("device_id").to_pylist()), return_inverse=True)
    faulty = np.array([label is not None and not is_healthy(label) for label in labels], dtype=bool)
    features = feature_matrix(table, profile.feature_names)
    excluded, end_us = np.zeros(len(faulty), dtype=bool), event_times_us(table)
    timing = WindowTiming.of(profile.sampling)
    return FeatureHistory(features, device.astype(np.int64), faulty, excluded, end_us, timing)


def ordered_rows(rows: pa.Table) -> pa.Table:
    """The rows by device, each device's in the order of time."""
    return sorted_rows(rows).sort_by([("device_id", "ascending"), ("event_time", "ascending")])


def event_times_us(rows: pa.Table) -> NDArray[np.int64]:
    """Event time of each row, microseconds since 1970, shape (n,)."""
    return np.asarray(rows.column("event_time").cast(pa.int64()).to_numpy(), dtype=np.int64)


def at_the_rules_score(choice: DetectorChoice, profile: Profile) -> AnomalyDetector:
    """The chosen detector, its calibration moved so that the budget's distance scores ``enter``."""
    before, enter = choice.detector.calibration, enter_of(profile)
    middle = choice.threshold.distance * ((1 - enter) / enter) ** (1 / before.slope)
    return choice.detector.calibrated_by(before.model_copy(update={"middle": rounded_number(middle)}))

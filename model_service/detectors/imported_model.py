"""An imported model on a history: its bundle, its threshold at the budget, and what it does there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.alarm_budget import AlarmThreshold, threshold_for
from model_service.detectors.first_model import (
    FIRST_MAJOR,
    DeviceWindows,
    JudgedHistory,
    alarm_rule,
    feature_history,
)
from model_service.detectors.generic_bank import generic_bank
from model_service.detectors.import_store import put_import
from model_service.detectors.imported_bundle import ImportedModel, build_imported, check_import
from model_service.detectors.imported_score import ImportedScore
from model_service.detectors.suspects import suspects
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import BankFile
from model_service.models.features import logged_features
from model_service.models.imported_graph import ImportedGraph
from model_service.models.rounding import rounded_number
from schemas.errors import DatasetError
from schemas.profile import Profile

__all__ = ["ImportedFit", "check_import", "fit_import", "put_import"]

LEAVE_SHARE = 0.75
"""Score at which an action may end, as a share of the threshold's."""
HIGHEST = 0.999
"""A threshold lies below 1: no score is higher."""


@dataclass(frozen=True, slots=True, eq=False)
class ImportedFit:
    """An import on a history.

    Attributes:
        bundle: Without lineage: a candidate of the loop gets its own.
        threshold: Score that keeps to the budget on the part of the history that is not the test.
        enter, leave: For the profile's mildest rule.
        bank: Generic faults in the history's windows.
        judged: What it says of every window.
        windows: Healthy raw windows of the test part, for the gates of a graph that reads them.
    """

    bundle: BundleFiles
    threshold: AlarmThreshold
    enter: float
    leave: float
    bank: BankFile
    judged: JudgedHistory
    windows: NDArray[np.float32]


def fit_import(
    profile: Profile, devices: Sequence[DeviceWindows], graph: ImportedGraph, budget: float, seed: int = 0
) -> ImportedFit:
    """The import on a history of the profile's devices.

    Args:
        profile: In the family of its own name.
        devices: The history.
        graph: Checked.
        budget: False alarms a device and day.
        seed: Of the generic faults and golden windows.

    Raises:
        DatasetError: The history is too short.
        BundleError: Its scores leave [0, 1].
    """
    if not devices:
        raise DatasetError("the history has no window: it is shorter than the profile's window")
    history = feature_history(profile, devices)
    early = history.early(1 - profile.training.holdout_share)
    samples = np.concatenate([d.samples for d in devices])
    train = history.healthy & early
    if not train.any() or not (history.healthy & ~early).any():
        raise DatasetError("the history has no healthy window to fit to, or none to test on")
    # What looks like a fault that nobody labelled must not lift the threshold over all faults to come.
    train[train] = ~suspects(history.features[train], logged_features(profile))
    end_us = np.concatenate([d.end_us for d in devices])
    score = ImportedScore(graph, profile).of_windows(samples, end_us)
    rule = alarm_rule(profile, budget)
    threshold = threshold_for(history.by_device(score, train), rule)
    enter = min(threshold.distance, (float(np.nanmax(score[train])) + 1) / 2, HIGHEST)
    alarm = np.zeros(len(score), dtype=bool)
    for number in range(len(devices)):
        mine = history.device == number
        alarm[mine] = rule.starts(np.nan_to_num(score[mine]) >= enter)
    windows = samples[history.healthy & ~early].astype(np.float32)
    given = ImportedModel(graph, windows)
    return ImportedFit(
        build_imported(profile, history.part(early), given, None, seed, FIRST_MAJOR),
        threshold,
        rounded_number(enter),
        rounded_number(LEAVE_SHARE * enter),
        generic_bank(profile, samples[train].astype(np.float64), seed),
        JudgedHistory(
            tuple(d.device for d in devices),
            history.device,
            end_us,
            score,
            alarm,
            ~early,
            history.faulty,
            history.excluded,
            history.features,
        ),
        windows,
    )

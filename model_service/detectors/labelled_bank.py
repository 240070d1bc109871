"""A profile's bank of known faults, from labelled spans of its history: what each did to the features.

A labelled window has no twin without the fault. Its partner is the median of the healthy windows shortly
before the span: what the machine did just then, but for the fault. Wear that begins before its span is thus
measured too small, never too large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.first_model import DeviceWindows, feature_history
from model_service.models.fault_bank import LABELLED, BankFile
from model_service.models.features import logged_features
from model_service.models.mahalanobis import SMALLEST
from model_service.models.rounding import rounded
from schemas.errors import DatasetError
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

MEMBERS = 48
"""Most windows of one label that a bank keeps."""
BEFORE = 30
"""Healthy windows before a span that are its partner."""
SEVERITY = "1.0"
"""A label has no size: all of them have this one."""


def labelled_bank(
    profile: Profile, devices: Sequence[DeviceWindows], labels: Mapping[str, Sequence[Flags]]
) -> BankFile:
    """The bank, one kind a label.

    Args:
        profile: Gives channels and features.
        devices: The history; ``faulty`` marks windows of any label.
        labels: By label, for each device which windows it marks.

    Raises:
        DatasetError: No labelled window has healthy ones before it.
    """
    history, logged = feature_history(profile, devices), logged_features(profile)
    # A fault that came at night moved no clock.
    measured = np.array([bool(s.sources) for s in profile.feature_specs()])
    x = np.where(logged, np.log(np.maximum(history.features, SMALLEST)), history.features)
    effects = {}
    for label, marks in sorted(labels.items()):
        found = _effects(x, np.concatenate(marks), history.healthy, history.device)
        if len(found):
            found = np.where(measured, found, 0.0)
            at = np.linspace(0, len(found) - 1, min(MEMBERS, len(found))).astype(int)
            effects[label] = {SEVERITY: tuple(tuple(row) for row in rounded(found[at], digits=4).tolist())}
    if not effects:
        raise DatasetError("no labelled window is complete and has healthy windows before it")
    return BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=tuple(logged.tolist()),
        seed=0,
        effects=effects,
        origin=LABELLED,
    )


def _effects(x: Array, marked: Flags, healthy: Flags, device: NDArray[np.int64]) -> Array:
    """Difference of each complete marked row of (n, F) from the healthy rows before its span."""
    found = []
    for at in np.flatnonzero(marked & np.isfinite(x).all(axis=1)):
        before = np.flatnonzero(healthy[:at] & (device[:at] == device[at]))[-BEFORE:]
        if len(before):
            found.append(x[at] - np.median(x[before], axis=0))
    return np.array(found).reshape(-1, x.shape[1])

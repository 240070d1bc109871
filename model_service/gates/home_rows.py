"""Where a holdout's rows would lie had the devices not moved: around the champion's healthy reference. Pure.

Devices that moved and those that did not are moved back each by the shift of their own group. The mean shift
of all of them would leave a part of it in the ones and put it, with the opposite sign, into the others: a
cohort of which some moved would then lie nowhere near the reference, and the champion would seem to detect
what in truth was put there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.healthy_reference import HealthyReference
from model_service.gates.holdout import Holdout, HoldoutRows
from model_service.models.adapt import AdaptableModel
from model_service.models.fault_bank import FaultBank
from model_service.models.mahalanobis import logarithms
from model_service.training.movement import SMALLEST

Array = NDArray[np.float64]
Reference = AdaptableModel | HealthyReference
"""What says where a model's healthy windows lie."""

MOVED = 0.5
"""Share of the mean shift from which a device counts as one that moved."""
APART = 3.0
"""Two groups lie apart from so many of the standard deviations within them on. A single group of normal
spread, cut anywhere near its middle, has 2.7."""


class GroupShift(NamedTuple):
    """A group of devices.

    Attributes:
        rows: Which rows are theirs, shape (n,).
        shift: From the reference, in its standard deviations, shape (F,).
    """

    rows: NDArray[np.bool_]
    shift: Array


def positions(rows: HoldoutRows, reference: Reference) -> Array:
    """Rows in standard deviations from the reference's centre, shape (n, F)."""
    return np.asarray((logarithms(rows.features, reference.logged) - reference.mean) / reference.std)


def values(reference: Reference, z: Array) -> Array:
    """Features of rows (n, F) given as standard deviations from the reference's centre."""
    x = z * reference.std + reference.mean
    return np.asarray(np.where(reference.logged, np.exp(np.where(reference.logged, x, 0.0)), x))


def group_shifts(rows: HoldoutRows, z: Array) -> list[GroupShift]:
    """One group, or, where these lie apart, the devices that moved and then the rest; devices count alike.

    A mean shift too small to matter is one of chance, along which chance alone would tell devices apart.

    Args:
        rows: Of a holdout; at least one.
        z: Their positions, shape (n, F).
    """
    names, device = np.unique(rows.device, return_inverse=True)
    mass = np.bincount(device, rows.weights)
    means = np.stack([np.bincount(device, rows.weights * column) / mass for column in z.T], axis=1)
    mean = means.mean(axis=0)
    everyone = GroupShift(np.ones(len(z), dtype=bool), mean)
    if len(names) < 2 or np.abs(mean).max() < SMALLEST:
        return [everyone]
    along = means @ mean / float(mean @ mean)
    moved = along >= MOVED
    if moved.all() or not _apart(along, moved):
        return [everyone]
    return [GroupShift(g[device], means[g].mean(axis=0)) for g in (moved, ~moved)]


def _apart(along: Array, moved: NDArray[np.bool_]) -> bool:
    groups = along[moved], along[~moved]
    if not all(len(g) for g in groups):
        return False
    within = np.concatenate([g - g.mean() for g in groups])
    gap = float(groups[0].mean() - groups[1].mean())
    return gap > APART * float(np.sqrt((within**2).mean()))


def faults_at_home(
    holdout: Holdout, bank: FaultBank | None, reference: Reference | None
) -> dict[str, list[HoldoutRows]]:
    """Faults as a model met them in its own regime: the bank's in rows moved back, and labelled ones.

    Args:
        holdout: Gives the rows.
        bank: Faults to inject; None: only labelled ones are known.
        reference: Of the model; None: no row is moved.
    """
    faults = holdout.faults(bank)
    if bank is None or reference is None:
        return faults
    return faults | holdout.faults(bank, at_home(holdout.healthy, reference))


def at_home(rows: HoldoutRows, reference: Reference) -> HoldoutRows:
    """The rows, each moved back by the shift of its device's group."""
    z = positions(rows, reference)
    for group in group_shifts(rows, z):
        z[group.rows] -= group.shift
    return rows.with_features(values(reference, z))

"""Adapts the champion's anomaly model to a new regime, from a few dozen rows.

This is not a new fit: forty rows do not determine a correlation matrix of ten features, and many rows of one
device are worth little more than one row. So the champion is the prior. Features of channels that moved take
mean and spread from the new rows; all others stay near the champion's. A spread that grew because only some
devices moved is independent of everything else, so it weakens the feature's correlations and keeps its
covariances. Where one cause moved all of these features, as a sensor's gain does, they grew together: whoever
lies far out in one lies as far out in the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_service.models.graph import GraphWriter
from model_service.models.mahalanobis import calibrated, logarithms
from model_service.models.recent_rows import weight_read
from model_service.models.rounding import rounded, rounded_number
from schemas.manifest import Calibration

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]

PRIOR_DEVICES = 100.0
"""Number of devices that the champion's mean counts for, of a feature that did not move."""
PRIOR_SPREAD_DEVICES = 10.0
"""Number of devices that the champion's spread counts for, of a feature that moved."""
PRIOR_SCORE_DEVICES = 100.0
"""Number of devices that the champion's calibration counts for: the mean score of twenty machines varies by
a tenth."""
LARGEST_RESCALING = 1.25
"""Bound on the change of calibration: faults that hide among the rows must not make the model insensitive."""


@dataclass(frozen=True, slots=True, eq=False)
class RegimeRows:
    """Healthy rows of the new regime, in an order that follows from their identity.

    Attributes:
        features: Shape (n, F), finite.
        weights: How many rows each one stands for, shape (n,), positive.
        device: Number of each row's device, shape (n,), in [0, devices).
        devices: Number of devices.
    """

    features: Array
    weights: Array
    device: Labels
    devices: int

    def balanced(self) -> Array:
        """Weights that add up to 1 and to the same for each device, shape (n,).

        Devices sense equally many windows, and differ from each other more than windows of one device do. So
        how many rows of a device were sampled must not decide how much it counts.
        """
        mass = np.bincount(self.device, self.weights, minlength=self.devices)
        return np.asarray(self.weights / mass[self.device] / self.devices)


class AdaptableModel(Protocol):
    """An anomaly model that can move to another regime; attributes of shape (F,).

    One in which spreads can grow together has ``moved_by_one_cause`` as well: as ``moved_to``, but all spread
    that grew has one cause, which moves its features together.
    """

    @property
    def logged(self) -> Flags:
        """Which features are taken as logarithms."""
        ...

    @property
    def mean(self) -> Array:
        """Centre of each feature, logarithms taken."""
        ...

    @property
    def std(self) -> Array:
        """Spread of the same."""
        ...

    @property
    def calibration(self) -> Calibration:
        """From distance to score."""
        ...

    def distance(self, features: Array) -> Array:
        """Distance of each row of (n, F); NaN where a feature is missing."""
        ...

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        ...

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but the calibration, as a manifest holds it."""
        ...

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds the model to a graph: (B, F) features to (B,) score."""
        ...

    def moved_to(self, mean: Array, std: Array) -> Self:
        """The model in a regime of this centre and spread; spread that grew is independent of all else."""
        ...

    def calibrated_by(self, calibration: Calibration) -> Self:
        """The same model with another map from distance to score."""
        ...


Adaptable = TypeVar("Adaptable", bound=AdaptableModel)


def adapt(
    champion: Adaptable, rows: RegimeRows, moved: Flags, healthy_score: float, *, one_cause: bool = False
) -> Adaptable:
    """The champion's model, moved to the regime of the rows.

    Args:
        champion: The prior.
        rows: Of two devices at least.
        moved: Features that may have moved by any amount, shape (F,).
        healthy_score: Mean score of healthy windows, which the new model is to keep.
        one_cause: What moved, one cause moved; heeded by models in which spreads can grow together.

    Raises:
        ValueError: Rows of fewer than two devices.
    """
    if rows.devices < 2:
        raise ValueError("rows of one device do not show how devices differ")
    x, weights = logarithms(rows.features, champion.logged), rows.balanced()
    observed = weights @ x
    keep = PRIOR_DEVICES / (PRIOR_DEVICES + rows.devices)
    mean = rounded(np.where(moved, observed, keep * champion.mean + (1 - keep) * observed))
    std = rounded(np.where(moved, _spread(x, weights, rows.devices, champion.std), champion.std))
    move: Callable[[Array, Array], Adaptable] = champion.moved_to
    if one_cause:
        move = getattr(champion, "moved_by_one_cause", move)
    uncalibrated = move(mean, std)
    if weight_read(champion):  # rows of a sample have no recent levels: they score as no device's windows do
        return uncalibrated
    return uncalibrated.calibrated_by(_recalibrated(uncalibrated, rows, weights, healthy_score))


def _spread(x: Array, weights: Array, devices: int, prior: Array) -> Array:
    """Standard deviation over devices and windows, pulled towards the champion's."""
    observed = weights @ (x - weights @ x) ** 2 * devices / (devices - 1)
    return np.asarray(
        np.sqrt((PRIOR_SPREAD_DEVICES * prior**2 + devices * observed) / (PRIOR_SPREAD_DEVICES + devices))
    )


def _recalibrated(
    model: AdaptableModel, rows: RegimeRows, weights: Array, healthy_score: float
) -> Calibration:
    """The calibration under which the rows score as healthy ones did, weighted by the number of devices."""
    distance, before = model.distance(rows.features), model.calibration
    # Bisection over the logarithm of the factor: the mean score falls as the middle of the calibration grows.
    low, high = -np.log(LARGEST_RESCALING), np.log(LARGEST_RESCALING)
    for _ in range(40):
        ratio = (low + high) / 2
        trial = before.model_copy(update={"middle": before.middle * float(np.exp(ratio))})
        too_high = float(weights @ calibrated(distance, trial)) > healthy_score
        low, high = (ratio, high) if too_high else (low, ratio)
    trust = rows.devices / (rows.devices + PRIOR_SCORE_DEVICES)
    factor = float(np.exp(trust * (low + high) / 2))
    scaled = {
        name: rounded_number(value * factor)
        for name, value in (("middle", before.middle), ("healthy_p999", before.healthy_p999))
        if value is not None
    }
    return before.model_copy(update=scaled)

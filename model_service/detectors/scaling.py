"""Features as standard deviations from their healthy centre: what detectors have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.models.graph import GraphWriter
from model_service.models.mahalanobis import HEALTHY_SCORE, SLOPE, SMALLEST, logarithms
from model_service.models.rounding import rounded, rounded_number
from schemas.errors import BundleError
from schemas.manifest import Calibration, Manifest

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

HEALTHY_SHARE = 0.999
"""Share of healthy windows whose score is at most ``HEALTHY_SCORE``."""
LEAST_SPREAD = 1e-3
"""Smallest spread of a feature, as a share of its size: one that was constant in the history must not divide
by zero, and must not alarm at the last bit either."""

LEAST_WANDER = 16
"""Rows from which wandering can be told from noise."""
WANDER = "wander"
"""Setting of every built-in detector: see ``Scaling.moments``."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Centre and spread of each feature, logarithms taken.

    Attributes:
        logged: Which features are taken as logarithms, shape (F,).
        centre: Shape (F,).
        spread: Shape (F,), positive.
    """

    logged: Flags
    centre: Array
    spread: Array

    def z(self, features: Array) -> Array:
        """Features of (n, F) in spreads from the centre."""
        return np.asarray((logarithms(features, self.logged) - self.centre) / self.spread)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """As a manifest holds them."""
        parts = {"logged": self.logged.astype(float), "mean": self.centre, "std": self.spread}
        return {name: tuple(values.tolist()) for name, values in parts.items()}

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds ``z`` to a graph."""
        logs = writer.op("Log", writer.op("Max", features, writer.floats(SMALLEST)))
        x = writer.op("Where", writer.constant(self.logged), logs, features)
        centred = writer.op("Sub", x, writer.constant(self.centre.astype(np.float32)))
        return writer.op("Div", centred, writer.constant(self.spread.astype(np.float32)))

    @classmethod
    def moments(cls, features: Array, logged: Flags, wander: float = 0.0) -> Scaling:
        """By mean and standard deviation.

        Args:
            features: Rows in the order of time, shape (n, F).
            logged: Which features are taken as logarithms, shape (F,).
            wander: How often the variance that a feature gained by wandering is added to its spread.
        """
        x = logarithms(features, logged)
        return cls._of(logged, x.mean(axis=0), _wider(x.std(axis=0), x, wander))

    @classmethod
    def robust(cls, features: Array, logged: Flags, wander: float = 0.0) -> Scaling:
        """By median and the larger of two robust spreads, which a few odd windows do not move.

        Args:
            features: Rows in the order of time, shape (n, F).
            logged: Which features are taken as logarithms, shape (F,).
            wander: As for ``moments``.
        """
        x = logarithms(features, logged)
        centre = np.median(x, axis=0)
        off = np.abs(x - centre)
        spread = np.maximum(1.4826 * np.median(off, axis=0), 1.2533 * off.mean(axis=0))
        return cls._of(logged, centre, _wider(spread, x, wander))

    @classmethod
    def of(cls, manifest: Manifest) -> Scaling:
        """Those that a manifest holds.

        Raises:
            BundleError: It holds none, or they do not fit its features.
        """
        logged, centre, spread = (vector(manifest, k) for k in ("logged", "mean", "std"))
        if not (len(logged) == len(centre) == len(spread) == len(manifest.features)):
            raise BundleError(f"model {manifest.version}: parameters of other features")
        return cls(logged > 0, centre, spread)

    @classmethod
    def _of(cls, logged: Flags, centre: Array, spread: Array) -> Scaling:
        # A feature that is taken as logarithm has size 1: its spread is a ratio.
        size = np.where(logged, 1.0, np.maximum(np.abs(centre), SMALLEST))
        return cls(logged, rounded(centre), rounded(np.maximum(spread, LEAST_SPREAD * size)))


class OnScaling:
    """What an ``AdaptableModel`` says of where it was fitted, from its scaling."""

    __slots__ = ()
    scaling: Scaling

    @property
    def logged(self) -> Flags:
        """See ``AdaptableModel.logged``."""
        return self.scaling.logged

    @property
    def mean(self) -> Array:
        """See ``AdaptableModel.mean``."""
        return self.scaling.centre

    @property
    def std(self) -> Array:
        """See ``AdaptableModel.std``."""
        return self.scaling.spread


def wandered(x: Array) -> Array:
    """Variance that each column of (n, F) gained by wandering over half its rows, 0 where it did not; (F,).

    Rows half the history apart differ more than neighbours do, and by more than chance lets them: twice.
    """
    n = len(x)
    if n < LEAST_WANDER:
        return np.zeros(x.shape[1])
    half = n // 2
    near, far = ((x[lag:] - x[:-lag]) ** 2 for lag in (1, half))
    return np.asarray(np.maximum(far.mean(axis=0) - 2 * near.mean(axis=0), 0.0) / 2)


def _wider(spread: Array, x: Array, wander: float) -> Array:
    return np.asarray(np.sqrt(spread**2 + wander * wandered(x))) if wander else spread


def vector(manifest: Manifest, name: str) -> Array:
    """A parameter of a manifest.

    Raises:
        BundleError: There is none of this name.
    """
    if name not in manifest.parameters:
        raise BundleError(f"model {manifest.version}: its manifest holds no parameter '{name}'")
    return np.array(manifest.parameters[name], dtype=np.float64)


def calibration_of(distance: Array) -> Calibration:
    """The calibration under which healthy windows of these distances score ``HEALTHY_SCORE`` at most."""
    healthy = max(float(np.nanquantile(distance, HEALTHY_SHARE)), SMALLEST)
    middle = healthy * ((1 - HEALTHY_SCORE) / HEALTHY_SCORE) ** (1 / SLOPE)
    return Calibration(middle=rounded_number(middle), slope=SLOPE, healthy_p999=rounded_number(healthy))

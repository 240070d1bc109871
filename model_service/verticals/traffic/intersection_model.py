"""The intersections' model: how far a window lies from healthy ones, and the next hour's flow and queue.

Entry point of ``edgeloop.detectors``. The score is the shrunk Mahalanobis distance of the window. The
forecasts read the hours that the device has measured before, and nothing of the window; the loop moves the
score to a new regime and leaves the forecasts: their level follows each intersection by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.models.features import logged_features
from model_service.models.graph import GraphWriter
from model_service.models.mahalanobis import Mahalanobis, fit
from model_service.verticals.traffic.hour_forecast import DAY, LAGS, HourForecast
from schemas.errors import BundleError, DatasetError
from schemas.history_spec import HISTORY, HOURS, golden_history
from schemas.manifest import Calibration, Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

NAME = "intersection"
OUTPUTS = {"flow_next_hour": "flow", "queue_next_hour": "queue"}
"""Outputs, and the sum that each forecasts."""
SECONDS_AN_HOUR = 3600.0
QUEUED = "_queued_mean"
"""Ending of features that are one more than the vehicles that wait."""


@dataclass(frozen=True, slots=True)
class OutputForecast:
    """One output.

    Attributes:
        name: Of the output.
        forecast: In the sum's unit, without ``offset``.
        offset: What the sum counts beside the quantity: one for each queue.
        one: The quantity, in the sum's unit, where the output is 1.
    """

    name: str
    forecast: HourForecast
    offset: float
    one: float


@dataclass(frozen=True, slots=True)
class IntersectionModel:
    """Fitted parameters, rounded.

    Attributes:
        anomaly: Gives the score.
        sums: Features by the name of their sum.
        forecasts: In the order of the profile's outputs.
    """

    anomaly: Mahalanobis
    sums: dict[str, tuple[str, ...]]
    forecasts: tuple[OutputForecast, ...]

    @property
    def logged(self) -> Flags:
        """Which features are taken as logarithms, shape (F,)."""
        return self.anomaly.logged

    @property
    def mean(self) -> Array:
        """Centre of each feature, logarithms taken, shape (F,)."""
        return self.anomaly.mean

    @property
    def std(self) -> Array:
        """Spread of the same, shape (F,)."""
        return self.anomaly.std

    @property
    def calibration(self) -> Calibration:
        """From distance to score."""
        return self.anomaly.calibration

    @property
    def history_sums(self) -> dict[str, tuple[str, ...]]:
        """See ``ReadsHistory``."""
        return self.sums

    def distance(self, features: Array) -> Array:
        """Distance of each row of (n, F); NaN where a feature is missing."""
        return self.anomaly.distance(features)

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        return self.anomaly.score(features)

    def further(self, features: Array) -> Array:
        """The forecasts, with the history that gates compute with, for rows (n, F): shape (n, O)."""
        return np.repeat(self.of_history(golden_history(len(self.sums))), len(features), axis=0)

    def of_history(self, history: NDArray[np.floating]) -> Array:
        """The outputs, shape (1, O), for an input ``history``; NaN: none."""
        given = history.astype(np.float64)
        hours = dict(zip(sorted(self.sums), given[1:].reshape(-1, HOURS), strict=True))
        made = [
            f.forecast.predict(hours[OUTPUTS[f.name]][np.newaxis] - f.offset, given[:1]) / f.one
            for f in self.forecasts
        ]
        return np.clip(np.stack(made, axis=1), 0.0, 1.0)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but calibration and sums, as a manifest holds it."""
        found = self.anomaly.parameters()
        for f in self.forecasts:
            found[f"{f.name}_usual"] = tuple(f.forecast.usual.tolist())
            found[f"{f.name}_weights"] = tuple(f.forecast.weights.ravel().tolist())
            found[f"{f.name}_scale"] = (f.offset, f.one)
        return found

    def moved_to(self, mean: Array, std: Array) -> IntersectionModel:
        """The model whose score is of a regime of this centre and spread."""
        return replace(self, anomaly=self.anomaly.moved_to(mean, std))

    def calibrated_by(self, calibration: Calibration) -> IntersectionModel:
        """The same model with another map from distance to score."""
        return replace(self, anomaly=self.anomaly.calibrated_by(calibration))

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds the score to a graph: (B, F) features to (B,)."""
        return self.anomaly.write(writer, features)

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        """Adds score and forecasts to a graph that takes the input ``history``, each (B,)."""
        score = self.write(writer, features)
        at = writer.op("Slice", HISTORY, writer.ints(0), writer.ints(1))
        made = []
        for f in self.forecasts:
            begin = 1 + sorted(self.sums).index(OUTPUTS[f.name]) * HOURS
            hours = writer.op("Slice", HISTORY, writer.ints(begin), writer.ints(begin + HOURS))
            hours = writer.op("Sub", hours, writer.floats(f.offset))
            raw = writer.op("Div", f.forecast.write(writer, hours, at), writer.floats(f.one))
            low, high = writer.floats(0.0), writer.floats(1.0)
            share = writer.op("Where", writer.op("IsNaN", raw), raw, writer.op("Clip", raw, low, high))
            made.append(writer.op("Expand", share, writer.op("Shape", score)))
        return (score, *made)

    @classmethod
    def of(cls, manifest: Manifest) -> IntersectionModel:
        """The model whose parameters a manifest holds.

        Raises:
            BundleError: It holds none.
        """
        try:
            forecasts = tuple(_forecast_of(name, manifest.parameters) for name in manifest.outputs)
        except (KeyError, ValueError) as exc:
            raise BundleError(
                f"model {manifest.version}: its manifest holds no forecasts of an intersection ({exc})"
            ) from exc
        return cls(Mahalanobis.of(manifest), dict(manifest.history), forecasts)


def _forecast_of(name: str, parameters: dict[str, tuple[float, ...]]) -> OutputForecast:
    usual = np.array(parameters[f"{name}_usual"]).reshape(HOURS)
    weights = np.array(parameters[f"{name}_weights"]).reshape(DAY, len(LAGS))
    offset, one = parameters[f"{name}_scale"]
    return OutputForecast(name, HourForecast(usual, weights), offset, one)


def fit_intersection(
    profile: Profile, healthy: Array, forecasts: Mapping[str, HourForecast]
) -> IntersectionModel:
    """The model of a profile.

    Args:
        profile: Names sums, outputs, and what the outputs stand for.
        healthy: Features of healthy windows, shape (n, F), finite: what the score is fitted to.
        forecasts: By sum, without what it counts beside the quantity: of flow in vehicles a second.
    """
    sums, made = profile.model.history_sums, []
    for name in profile.model.outputs:
        of, one = OUTPUTS[name], profile.model.scales[name].one
        per_unit = SECONDS_AN_HOUR if of == "flow" else 1.0  # flow is shown as vehicles an hour
        made.append(OutputForecast(name, forecasts[of], offset_of(sums[of]), one / per_unit))
    return IntersectionModel(fit(healthy, logged_features(profile).tolist()), sums, tuple(made))


def offset_of(features: Sequence[str]) -> float:
    """What a sum of these features counts beside vehicles."""
    return float(sum(name.endswith(QUEUED) for name in features))


def _fit(features: Array, logged: Flags, settings: Settings) -> IntersectionModel:
    del features, logged, settings
    raise DatasetError("the intersections' model is fitted by its factory, and moved by the loop")


KIND = DetectorKind(
    NAME, "how far a window lies from healthy ones, and the next hour", ({},), _fit, IntersectionModel.of
)

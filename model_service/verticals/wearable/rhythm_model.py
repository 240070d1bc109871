"""The wearables' model: an alarming rhythm, an asystole, a lost electrode, a signal that says nothing.

The score is of rhythm: how far rate, regularity, a sudden rise or a pause lie from healthy wearers' windows,
in spreads. Height and spread of the ECG count as well, but alone they never reach an alarm (``LEVEL_SCORE``):
electrodes of another batch are a drift, and no arrhythmia. What a noisy, moving or lost electrode shows is
scaled down to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.models.graph import GraphWriter, nan_where_missing, write_output
from model_service.models.mahalanobis import (
    SLOPE,
    SMALLEST,
    calibrated,
    logarithms,
    write_calibration,
)
from model_service.models.rounding import rounded, rounded_number
from model_service.verticals.wearable.signal_ops import (
    ArrayOps,
    GraphOps,
    SignalOps,
    T,
    above,
    add,
    at_least,
    at_most,
    below,
    times,
)
from schemas.errors import BundleError, DatasetError
from schemas.manifest import Calibration, Manifest

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

NAME = "wearable_rhythm"
OUTPUTS = ("asystole", "lost_electrode", "quality")
LEVEL = ("ecg_std", "ecg_peak")
"""Features that electrodes change, and rhythm does not."""
LEVEL_SCORE = 0.45
"""Most that height and spread of the ECG alone make of the score."""
HEALTHY_SHARE = 0.999
ENTER, ENTER_SPREADS, MARGIN = 0.6, 4.0, 1.1
"""Score of a rhythm so many spreads away, or, if that is farther, this multiple of what one healthy window
in a thousand reaches."""
LEAST_SPREAD = {
    "ecg_heart_rate": 0.155,
    "ecg_rr_irregularity": 0.035,
    "ecg_last_two_intervals": 0.08,
    "ecg_motion_signal_quality": 0.1,
    "ecg_saturated_share": 0.05,
    "ppg_pulse_quality": 0.1,
}
"""Real wearers differ more than ours: four of these are 1.86 times the usual rate, an irregularity of 0.18
(docs/verticals/wearable.md says by what it was chosen), and intervals that fall to 0.7 at once."""
CLEAR = 0.9
"""Signal quality of windows that show what a healthy rhythm is."""
FAST, FAST_WIDTH = 100.0, 5.0
"""Beats a minute from which a sudden rise counts."""
REST_G, REST_WIDTH = 0.025, 0.003
"""Motion of the window, standard deviation, up to which a sudden rise counts: the first second of a movement
looks like fast beats, before the signal's quality shows it."""
PAUSE_INTERVALS, PAUSE_S = 2.3, 1.6
"""A pause is an asystole from so many of the wearer's intervals, and so many seconds, on."""
OFF_MV, OFF_SHARE, DEAD_MV = 0.5, 0.5, 0.0025
"""Amplitude of the mains, share at the rail, and activity of a line that is dead."""
PULSE_S, PULSE_AHEAD_S = 1.3, 1.2
"""The wrist has had a pulse so lately, and so much later than the last beat: the electrode is lost."""


@dataclass(frozen=True, slots=True)
class RhythmModel:
    """Fitted parameters, rounded.

    Attributes:
        names: Of the features, in column order.
        logged: Which are compared by logarithm, shape (F,).
        mean: Of healthy windows, logarithms taken, shape (F,).
        std: Of the same, shape (F,).
        calibration: From distance to score.
    """

    names: tuple[str, ...]
    logged: Flags
    mean: Array
    std: Array
    calibration: Calibration

    def distance(self, features: Array) -> Array:
        """How far rhythm, or height and spread, lie from healthy ones, for (n, F), shape (n,)."""
        rhythm, level = self._distances(ArrayOps(), self._z_of(features), features)
        return self._known(features, np.maximum(rhythm, level)[:, 0])

    def of_rhythm(self, features: Array) -> Array:
        """How far the rhythm alone lies from healthy ones, for (n, F), shape (n,)."""
        return self._known(features, self._distances(ArrayOps(), self._z_of(features), features)[0][:, 0])

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        rhythm, level = self._distances(ArrayOps(), self._z_of(features), features)
        by_rhythm, by_level = (calibrated(d[:, 0], self.calibration) for d in (rhythm, level))
        return self._known(features, np.maximum(by_rhythm, np.minimum(by_level, LEVEL_SCORE)))

    def further(self, features: Array) -> Array:
        """Outputs ``OUTPUTS`` of each row of (n, F), shape (n, 3); NaN where a feature is missing."""
        found = np.hstack(self._outputs(ArrayOps(), features))
        known = np.isfinite(features).sum(axis=1, keepdims=True) == features.shape[1]
        return np.asarray(np.where(known, found, np.nan))

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but the calibration, as a manifest holds it."""
        parts = {"logged": self.logged.astype(float), "mean": self.mean, "std": self.std}
        return {name: tuple(values.tolist()) for name, values in parts.items()}

    def moved_to(self, mean: Array, std: Array) -> RhythmModel:
        """The model of wearers whose ECG has this height and spread: what a healthy rhythm is stays.

        A change of rhythm that most wearers have in common may be taken for a new normal elsewhere; this
        model cannot learn it.
        """
        level = np.array([name in LEVEL for name in self.names])
        return replace(self, mean=np.where(level, mean, self.mean), std=np.where(level, std, self.std))

    def calibrated_by(self, calibration: Calibration) -> RhythmModel:
        """The same model with another map from distance to score."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds the score to a graph: (B, F) features to (B,)."""
        return self.write_all(writer, features)[0]

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        """Adds score and outputs ``OUTPUTS`` to a graph, each (B,)."""
        ops, flat = GraphOps(writer), writer.ints(-1)
        logs = writer.op("Log", writer.op("Max", features, writer.floats(SMALLEST)))
        x = writer.op("Where", writer.constant(self.logged), logs, features)
        off = writer.op("Sub", x, writer.constant(self.mean.astype(np.float32)))
        z = writer.op("Div", off, writer.constant(self.std.astype(np.float32)))
        rhythm, level = self._distances(ops, z, features)
        by_level = at_most(ops, write_calibration(writer, level, self.calibration), LEVEL_SCORE)
        score = writer.op("Max", write_calibration(writer, rhythm, self.calibration), by_level)
        further = (writer.op("Reshape", f, flat) for f in self._outputs(ops, features))
        known = nan_where_missing(writer, features, writer.op("Reshape", score, flat))
        return (known, *(write_output(writer, found, features) for found in further))

    @classmethod
    def of(cls, manifest: Manifest) -> RhythmModel:
        """The model whose parameters a manifest holds.

        Raises:
            BundleError: It holds none, or they do not fit its features.
        """
        try:
            logged, mean, std = (np.array(manifest.parameters[k]) for k in ("logged", "mean", "std"))
        except KeyError as exc:
            raise BundleError(f"model {manifest.version}: it holds no parameter {exc}") from exc
        if not len(logged) == len(mean) == len(std) == len(manifest.features):
            raise BundleError(f"model {manifest.version}: its parameters do not fit its features")
        return cls(tuple(manifest.features), logged > 0, mean, std, manifest.calibration)

    def _z_of(self, features: Array) -> Array:
        return np.asarray((logarithms(features, self.logged) - self.mean) / self.std)

    @staticmethod
    def _known(features: Array, values: Array) -> Array:
        return np.asarray(np.where(np.isfinite(features).all(axis=1), values, np.nan))

    def _column(self, ops: SignalOps[T], rows: T, name: str) -> T:
        at = self.names.index(name)
        return ops.part(rows, at, at + 1)

    def _distances(self, ops: SignalOps[T], z: T, features: T) -> tuple[T, T]:
        """Of rhythm, and of height and spread, (B, 1) each, scaled by what the signal is worth."""
        zero = ops.number(0.0)

        def off(name: str) -> T:
            return self._column(ops, z, name)

        fast = above(ops, self._column(ops, features, "ecg_last_rate"), FAST, FAST_WIDTH)
        rest = below(ops, self._column(ops, features, "motion_std"), REST_G, REST_WIDTH)
        sudden = times(ops, ops.two("Sub", zero, off("ecg_last_two_intervals")), fast, rest)
        found = ops.two("Max", ops.one("Abs", off("ecg_heart_rate")), sudden)
        for name in ("ecg_rr_irregularity", "ecg_pause_ratio"):
            found = ops.two("Max", found, off(name))
        squares = (ops.two("Mul", off(name), off(name)) for name in LEVEL)
        level = ops.one("Sqrt", ops.two("Mul", add(ops, *squares), ops.number(0.5)))
        worth = ops.two("Mul", self._usable(ops, features), self._held(ops, features))
        return ops.two("Mul", found, worth), ops.two("Mul", level, worth)

    def _usable(self, ops: SignalOps[T], features: T) -> T:
        """Signal quality; a fault of the bank put over a row may leave [0, 1]."""
        quality = self._column(ops, features, "ecg_motion_signal_quality")
        return at_most(ops, at_least(ops, quality, 0.0), 1.0)

    def _held(self, ops: SignalOps[T], features: T) -> T:
        """1: the electrode is on; 0: it is lost."""
        return ops.two("Sub", ops.number(1.0), self._lost(ops, features))

    def _lost(self, ops: SignalOps[T], features: T) -> T:
        """At the rail, full of mains, dead, or without beats while the wrist has a pulse."""
        rail = above(ops, self._column(ops, features, "ecg_saturated_share"), OFF_SHARE, 0.06)
        mains = above(ops, self._column(ops, features, "ecg_mains_amplitude"), OFF_MV, 0.06)
        activity = ops.one("Log", at_least(ops, self._column(ops, features, "ecg_line_activity"), 1e-4))
        dead = below(ops, activity, float(np.log(DEAD_MV)), 0.15)
        pulse = self._column(ops, features, "ppg_pulse_age")
        ahead = ops.two("Sub", self._column(ops, features, "ecg_beat_age"), pulse)
        beside = times(
            ops,
            self._usable(ops, features),
            above(ops, ahead, PULSE_AHEAD_S, 0.06),
            below(ops, pulse, PULSE_S, 0.05),
            self._column(ops, features, "ppg_pulse_quality"),
        )
        found = ops.two("Max", ops.two("Max", rail, mains), ops.two("Max", dead, beside))
        return at_most(ops, at_least(ops, found, 0.0), 1.0)

    def _outputs(self, ops: SignalOps[T], features: T) -> tuple[T, T, T]:
        """``OUTPUTS``, (B, 1) each."""
        usable = self._usable(ops, features)
        age, ratio = (self._column(ops, features, n) for n in ("ecg_beat_age", "ecg_pause_ratio"))
        pause = ops.two(
            "Min",
            ops.two("Div", ratio, ops.number(PAUSE_INTERVALS)),
            ops.two("Div", age, ops.number(PAUSE_S)),
        )
        # 0.62 at the pause itself: rules act from 0.6 on.
        asystole = times(ops, above(ops, pause, 0.95, 0.1), usable, self._held(ops, features))
        return asystole, self._lost(ops, features), ops.two("Sub", ops.number(1.0), usable)


def fit_rhythm(features: Array, names: Sequence[str], logged: Flags) -> RhythmModel:
    """The model of healthy windows.

    Args:
        features: Shape (n, F), finite; centre and spread are those of windows with a clear signal.
        names: Of the features.
        logged: Which are compared by logarithm, shape (F,).
    """
    clear = features[:, list(names).index("ecg_motion_signal_quality")] > CLEAR
    x = logarithms(features, logged)[clear]
    least = np.array([LEAST_SPREAD.get(name, 1e-3) for name in names])
    mean, std = rounded(x.mean(axis=0)), rounded(np.maximum(x.std(axis=0), least))
    raw = RhythmModel(tuple(names), logged, mean, std, Calibration(middle=1.0, slope=SLOPE))
    healthy = float(np.quantile(raw.of_rhythm(features), HEALTHY_SHARE))
    enter = max(ENTER_SPREADS, MARGIN * healthy)
    middle = enter * ((1 - ENTER) / ENTER) ** (1 / SLOPE)
    return raw.calibrated_by(
        Calibration(middle=rounded_number(middle), slope=SLOPE, healthy_p999=rounded_number(healthy))
    )


def _fit(features: Array, logged: Flags, settings: Settings) -> RhythmModel:
    del features, logged, settings
    raise DatasetError("the wearables' model is fitted to its own features: by its factory, or by the loop")


KIND = DetectorKind(NAME, "how far a rhythm lies from healthy ones", ({},), _fit, RhythmModel.of)

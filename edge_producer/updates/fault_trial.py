"""Superposes faults on a device's own healthy windows, and compares what two models detect there.

Golden vectors only repeat what a model's maker sent. Whether a model still detects faults on this machine
shows on this machine's windows. Faults are effects on features (``schemas.fault_effects``), so they are put
between the part of a graph that computes features and the part that scores them.

A model's recall is the lower of two: on the features as they are, and on the same features moved so that
their level is the one that the model takes for usual. Where a machine's regime has shifted, the older model
alarms nearly everywhere, whatever the fault: that is no detection that a recalibrated model could lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_producer.bundle import Bundle
from edge_producer.inference import OnnxSession, feature_columns
from edge_producer.window import Floats, Samples
from schemas.alarm_bounds import AlarmBounds
from schemas.calendar_features import CALENDAR, Calendar
from schemas.fault_effects import FaultEffects
from schemas.history_spec import HISTORY, unknown_history
from schemas.manifest import ANY_FEATURESET
from schemas.output_names import PRIMARY
from schemas.profile import Profile
from schemas.recent_level import RECENT
from schemas.score_part import score_part
from schemas.updates import NOT_TRIED

MAX_LOSS = 0.3
"""Largest loss of recall against the model in force with which a new model is committed."""
LEAST_WINDOWS = 8
"""Healthy windows below which nothing is compared."""
NO_EFFECTS = "no fault effects"
"""Why nothing is compared where a bundle brings none: one of 0.2.0, or a model that reads raw windows."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FaultTrial:
    """What the two models detect.

    Attributes:
        windows: Healthy windows that the faults were superposed on.
        old, new: Recall: mean over kinds of faults of the share of windows that raise an alarm, by any output
            that a rule reads.
        old_here, new_here: The same on the features as they are alone.
        worst: Kind of fault on which the new model loses most.
        worst_loss: How much it loses there.
        faulty: Windows times faults.
        old_detected, new_detected, both_detected: Those of them that each model, and both, detect.
        not_tried: Why nothing was compared; empty: it was.
    """

    windows: int = 0
    old: float = 0.0
    new: float = 0.0
    old_here: float = 0.0
    new_here: float = 0.0
    worst: str = ""
    worst_loss: float = 0.0
    faulty: int = 0
    old_detected: int = 0
    new_detected: int = 0
    both_detected: int = 0
    not_tried: str = ""

    def judge(self) -> tuple[Literal["pass", "fail"], str]:
        """Whether the new model may be committed, and the reason where it may not."""
        if self.not_tried or self.old - self.new <= MAX_LOSS:
            return "pass", ""
        return "fail", (
            f"{self.says}: a loss of {self.old - self.new:.0%}, {MAX_LOSS:.0%} are allowed "
            f"(most of all on {self.worst}: {self.worst_loss:.0%})"
        )

    @property
    def says(self) -> str:
        """The outcome for a person."""
        if self.not_tried:
            return f"{NOT_TRIED}{self.not_tried}"
        return (
            f"with faults on {self.windows} own windows the new model detects {self.new:.0%}, "
            f"the one before {self.old:.0%}"
        )


class TrialModel:
    """A model as a trial runs it: features of windows, and scores of features that were changed.

    Args:
        bundle: The model.
        profile: Gives channels and features.
        reference: ``center`` and ``spread`` of the device, for a generic model; None for any other.

    Attributes:
        usual: Level of each feature that the model takes for usual, shape (F,); NaN where it names none.

    Raises:
        BundleError: The graph does not load, or its score depends on more than its features.
    """

    def __init__(
        self, bundle: Bundle, profile: Profile, reference: Mapping[str, Sequence[float]] | None
    ) -> None:
        manifest, names = bundle.manifest, profile.feature_names
        self._generic = manifest.featureset == ANY_FEATURESET
        self._extra: dict[str, NDArray[Any]] = {}
        self._calendar = Calendar.of(profile.features)
        baselines = [manifest.baselines.get(name) for name in names]
        self.usual: Doubles = np.array([np.nan if b is None else b.mean for b in baselines])
        if self._generic and reference is not None:
            given = {name: np.array(reference[name], dtype=np.float32) for name in ("center", "spread")}
            self._extra = {"columns": feature_columns(profile), **given}
            self.usual[: len(given["center"])] = given["center"]
        if manifest.history:  # outputs that read it are none here, and are not compared
            self._extra[HISTORY] = unknown_history(len(manifest.history))
        # No machine's level is at another time of day: the calendar stays as it is.
        self.usual[len(names) - self._calendar.width :] = np.nan
        self._width = len(names) - (self._calendar.width if self._generic else 0)
        gives = (PRIMARY, *manifest.output_columns)
        read = AlarmBounds.of(profile.decision).by_column
        self._columns = tuple(column for column in gives if column == PRIMARY or column in read)
        self._reads_recent = bool(manifest.recent)
        also = (*self._extra, *([RECENT] if self._reads_recent else []))
        part = score_part(bundle.model, self._width, manifest.version, also, self._columns)
        self._whole = OnnxSession(bundle)
        self._part = OnnxSession(replace(bundle, model=part))

    def features(self, windows: Samples, ends_us: NDArray[np.int64] | None = None) -> Doubles:
        """Features of windows (n, W, C) that ended at these times (n,), shape (n, F).

        Raises:
            ValueError: The profile has a calendar, and there are no times.
        """
        if ends_us is None and self._calendar.width:
            raise ValueError("the profile has calendar features: windows are tried with their event times")
        calendar = self._calendar.rows(range(len(windows)) if ends_us is None else ends_us).astype(np.float32)
        rows, reads = [], bool(self._calendar.width) and not self._generic
        for number, window in enumerate(windows):
            taken = {CALENDAR: calendar[number, np.newaxis]} if reads else {}
            features, _ = self._whole.run(
                window[np.newaxis].astype(np.float32), {**self._extra, **self._recent(1), **taken}
            )
            rows.append(features[0])
        found = np.array(rows, dtype=np.float64)
        return np.hstack([found, calendar]) if self._generic else found

    def at_usual(self, features: Doubles, logged: NDArray[np.bool_]) -> Doubles:
        """Rows (n, F) moved so that their level is the usual one, by a factor where ``logged``."""
        level = np.median(features, axis=0) if self._generic else features.mean(axis=0)
        known = np.isfinite(self.usual) & np.isfinite(level)
        scaled = known & logged & (level > 0) & (self.usual > 0)
        factor = np.divide(self.usual, level, out=np.ones_like(level), where=scaled)
        return np.asarray(features * factor + np.where(known & ~logged, self.usual - level, 0.0))

    def detects(self, rows: Floats, alarms: AlarmBounds, before: Floats | None = None) -> NDArray[np.bool_]:
        """Which rows (..., F) raise an alarm by any output; one that a row lacks raises none.

        Args:
            rows: Features.
            alarms: From where outputs raise an alarm.
            before: Recent levels of each row, of a shape that goes with ``rows``; None: not known.
        """
        given = rows[..., : self._width].reshape(-1, self._width)
        recent = self._recent(len(given))
        if recent and before is not None:
            known = np.broadcast_to(before, rows.shape)[..., : self._width]
            recent = {RECENT: known.reshape(-1, self._width).astype(np.float32)}
        scores = self._part.score_rows(given, {**self._extra, **recent}, self._columns)
        enter = [alarms.by_column.get(column, np.inf) for column in self._columns]
        return np.asarray((np.nan_to_num(scores, nan=-1.0) >= enter).any(axis=1)).reshape(rows.shape[:-1])

    def _recent(self, count: int) -> dict[str, NDArray[np.float32]]:
        """Recent levels of so many windows, none of them known; empty: the model reads none."""
        nothing = np.full((count, self._width), np.nan, dtype=np.float32)
        return {RECENT: nothing} if self._reads_recent else {}


def compare_on_faults(
    old: TrialModel,
    new: TrialModel,
    windows: Samples,
    effects: FaultEffects,
    alarms: AlarmBounds,
    ends_us: NDArray[np.int64] | None = None,
) -> FaultTrial:
    """What two models detect of faults that are superposed on the same windows.

    Args:
        old: The model in force.
        new: The one on trial.
        windows: Healthy ones of the device, shape (n, W, C).
        effects: The faults.
        alarms: From where outputs of either model raise an alarm.
        ends_us: Event times of the windows, microseconds since 1970, shape (n,); None: the profile has no
            calendar.

    Raises:
        BundleError: A graph does not take these windows or rows.
    """
    old_here, old_least = _detected(old, windows, ends_us, effects, alarms)
    new_here, new_least = _detected(new, windows, ends_us, effects, alarms)
    before, after = (_recalls(found, effects) for found in (old_least, new_least))
    worst = max(before, key=lambda kind: before[kind] - after[kind])
    return FaultTrial(
        windows=len(windows),
        old=_mean(before),
        new=_mean(after),
        old_here=_mean(_recalls(old_here, effects)),
        new_here=_mean(_recalls(new_here, effects)),
        worst=worst,
        worst_loss=before[worst] - after[worst],
        faulty=old_least.size,
        old_detected=int(old_least.sum()),
        new_detected=int(new_least.sum()),
        both_detected=int((old_least & new_least).sum()),
    )


def _detected(
    model: TrialModel,
    windows: Samples,
    ends_us: NDArray[np.int64] | None,
    effects: FaultEffects,
    alarms: AlarmBounds,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which windows with which effects a model detects, shape (effects, n): as they are, and at the least.

    A model that reads recent levels is shown the fault as it begins: those of the window without it.
    """
    features = model.features(windows, ends_us)
    rows = features, model.at_usual(features, effects.logged)
    here, at_usual = (model.detects(effects.inject(given), alarms, given) for given in rows)
    return here, min((here, at_usual), key=lambda found: _mean(_recalls(found, effects)))


def _recalls(found: NDArray[np.bool_], effects: FaultEffects) -> dict[str, float]:
    """Share detected, by kind of fault."""
    shares, kinds = found.mean(axis=1), np.array(effects.kinds)
    return {kind: float(shares[kinds == kind].mean()) for kind in dict.fromkeys(effects.kinds)}


def _mean(recalls: Mapping[str, float]) -> float:
    return sum(recalls.values()) / len(recalls)

"""Days of wearers by their beats alone: what the shipped model alarms where every beat is found.

A day of ECG takes an hour to judge, one of beats seconds. Noise and motion are left out here, so these are
false alarms by rhythm, and delays that the rhythm alone costs. Beside the shipped rule on a sudden rise, two
short intervals in a row, the clinical definition of a run is tried: three beats in a row, so three intervals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.wearable.ectopic_hearts import fibrillating, racing, sinus
from benchmarks.judge.wearable.judged_device import HOP_S, PROFILE, DeviceRun
from benchmarks.judge.wearable.own_wearers import PIECE_S
from edge_producer.bundle import load_bundle
from infra.verticals.wearable.wearable_factory import wearer
from model_service.verticals.wearable.beat_detector import (
    EDGE,
    MOST_BEATS,
    RATE_HZ,
    SECONDS,
    WINDOW,
    BeatIntervals,
    intervals,
)
from model_service.verticals.wearable.rhythm_kinds import MOST_PAUSE
from model_service.verticals.wearable.rhythm_model import RhythmModel
from model_service.verticals.wearable.signal_ops import ArrayOps

SEED = 20261130
WEARERS, HOURS = 48, 6.0
HEARTS, HEART_HOURS = 4, 3.0
ONSETS, ONSET_S, AFTER_S = 40, 60.0, 60.0
CLEAR = {
    "ecg_motion_signal_quality": 1.0,
    "ecg_saturated_share": 0.0,
    "ecg_mains_amplitude": 0.01,
    "ecg_line_activity": 0.2,
    "motion_std": 0.01,
    "ppg_pulse_age": SECONDS,
    "ppg_pulse_quality": 0.0,
}
"""Features of a clear ECG of a wearer at rest whose PPG is off."""

Array = NDArray[np.float64]


class BeatModel:
    """The shipped model on beats.

    Args:
        three: A sudden rise takes three short intervals, not two.
    """

    def __init__(self, *, three: bool = False) -> None:
        self._model, self._three = RhythmModel.of(load_bundle(PROFILE).manifest), three

    def run(self, at_s: Array, first_s: float, end_s: float) -> DeviceRun:
        """The run of a heart that beats at ``at_s``, from the window that ends at ``first_s`` on."""
        ends = np.arange(first_s, end_s, HOP_S)
        parts = [self._features(at_s, ends[k : k + 4096]) for k in range(0, len(ends), 4096)]
        features = np.concatenate(parts)
        scores = np.column_stack([self._model.score(features), self._model.further(features)])
        return DeviceRun(ends, features, scores)

    def _features(self, at_s: Array, ends: Array) -> Array:
        found = _places(at_s, ends)
        own = intervals(ArrayOps(), found)
        last_two, last_rate = own.last_two, own.last_rate
        if self._three:
            before = intervals(ArrayOps(), np.hstack([found[:, 1:], np.full((len(found), 1), -1.0)]))
            last_two = np.maximum(last_two, before.last_two)
            last_rate = np.minimum(last_rate, before.last_rate)
        usual = np.where(self._model.logged, np.exp(self._model.mean), self._model.mean)
        features = np.tile(usual, (len(ends), 1))
        for name, values in {**CLEAR, **_rhythm(own, last_two, last_rate)}.items():
            features[:, self._model.names.index(name)] = np.ravel(np.asarray(values))
        return features


def _places(at_s: Array, ends: Array) -> Array:
    """Beats of the windows that end so, as the detector places them; (n, ``MOST_BEATS``)."""
    newest = np.searchsorted(at_s, ends)[:, None] - 1 - np.arange(MOST_BEATS)[None]
    place = np.round((at_s[np.maximum(newest, 0)] - (ends[:, None] - SECONDS)) * RATE_HZ)
    seen = (newest >= 0) & (place >= EDGE) & (place < WINDOW - EDGE)
    return np.asarray(-np.sort(-np.where(seen, place, -1.0), axis=1))


def _rhythm(own: BeatIntervals[Array], last_two: Array, last_rate: Array) -> dict[str, Array]:
    return {
        "ecg_heart_rate": own.rate,
        "ecg_rr_irregularity": own.irregularity,
        "ecg_last_two_intervals": np.minimum(last_two, 4.0),
        "ecg_last_rate": last_rate,
        "ecg_beat_age": np.minimum(own.age, SECONDS),
        "ecg_pause_ratio": np.minimum(own.age / own.median, MOST_PAUSE),
    }


def beat_part(known: Mapping[str, Any]) -> dict[str, Any]:
    """False alarms of healthy and of ectopic hearts, and delays after onsets, by either rule.

    Args:
        known: What earlier runs of the same code have measured; empty: nothing.

    Returns:
        That and what this run has measured; ``left`` says how many of our own wearers are left.
    """
    until = time.monotonic() + PIECE_S
    found = {name: known[name] for name in ("own", "hearts", "onsets")} if known else _of_others()
    own, shipped = dict(found["own"]), {"two": BeatModel()}
    while own["wearers"] < WEARERS and time.monotonic() < until:
        name = f"beats-{own['wearers']}"
        at = np.sort(wearer(name, seed=SEED).wearer.beats(0.0, HOURS * 3600).at_s)
        more = _false_alarms(shipped, [at])
        own = {"wearers": own["wearers"] + 1, **{k: own[k] + more[k] for k in ("days", "two")}}
    return {**found, "own": own, "left": WEARERS - own["wearers"]}


def _of_others() -> dict[str, Any]:
    """Hearts that are not our generator's."""
    models = {"two": BeatModel(), "three": BeatModel(three=True)}
    hearts: dict[str, list[Array]] = {}
    for share in (0.003, 0.01, 0.03):
        hearts[f"{share:.1%} premature"] = _sinus(premature=share, couplets=0.0)
    hearts["1.0% premature, a tenth in couplets"] = _sinus(premature=0.01, couplets=0.1)
    hearts["breath moves intervals by 8%"] = _sinus(premature=0.0, breath=0.08)
    hearts["breath moves intervals by 12%"] = _sinus(premature=0.0, breath=0.12)
    return {
        "own": {"wearers": 0, "days": 0.0, "two": 0},
        "hearts": {name: _false_alarms(models, found) for name, found in hearts.items()},
        "onsets": {name: _delays(models, name) for name in ("fast", "fibrillation")},
    }


def _sinus(**given: float) -> list[Array]:
    rng = np.random.default_rng([SEED, *(round(1000 * v) for v in given.values())])
    return [sinus(rng, HEART_HOURS * 3600, **given) for _ in range(HEARTS)]


def _false_alarms(models: dict[str, BeatModel], hearts: Sequence[Array]) -> dict[str, Any]:
    found: dict[str, Any] = {"days": sum(float(at[-1]) - 40.0 for at in hearts) / 86400}
    for name, model in models.items():
        runs = (model.run(at, 40.0, float(at[-1]) - 1.0) for at in hearts)
        found[name] = sum(a != "check_electrode" for run in runs for _, a in run.alarms())
    return found


def _delays(models: dict[str, BeatModel], rhythm: str) -> dict[str, Any]:
    """Delays after onsets: beats, or None where none was alarmed within ``AFTER_S``; and seconds."""
    found: dict[str, Any] = {name: [] for name in models}
    for number in range(ONSETS):
        rng = np.random.default_rng([SEED, 1 + (rhythm == "fast"), number])
        before = sinus(rng, ONSET_S, premature=0.0)
        make = racing if rhythm == "fast" else fibrillating
        after = float(before[-1]) + np.cumsum(make(rng, AFTER_S))
        at = np.concatenate([before, after])
        for name, model in models.items():
            alarms = [t for t, a in model.run(at, 40.0, float(at[-1]) - 1.0).alarms() if t >= after[0]]
            beats = float(np.interp(alarms[0], after, np.arange(len(after)))) if alarms else None
            found[name].append([beats, alarms[0] - float(after[0]) if alarms else None])
    return found

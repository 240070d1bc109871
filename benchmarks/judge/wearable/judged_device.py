"""A recording as a wearable senses it: windows of the profile, the shipped graph, the profile's rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_producer.bundle import load_bundle
from edge_producer.decider import Decider
from edge_producer.inference import OnnxSession
from schemas.profile_file import find_profile

PROFILE = find_profile("wearable")
RATE_HZ = PROFILE.sampling.rate_hz
HOP_S = PROFILE.sampling.hop_s
BATCH = 50
START = datetime(2026, 1, 5, tzinfo=UTC)
SETTLED_S = 0.28
"""Age from which a beat is no longer replaced by a higher one that comes within the refractory time."""
SAME_S = 0.1

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceRun:
    """What the graph said of each window.

    Attributes:
        end_s: End of each window, seconds from the recording's begin, shape (n,).
        features: Shape (n, F).
        scores: ``score`` and the further outputs, shape (n, 1 + O).
    """

    end_s: Array
    features: Array
    scores: Array

    def feature(self, name: str) -> Array:
        """One feature's column."""
        return self.features[:, PROFILE.feature_names.index(name)]

    def output(self, name: str) -> Array:
        """One output's column."""
        return self.scores[:, ("score", *PROFILE.model.outputs).index(name)]

    def beats_s(self) -> Array:
        """Times of beats, each read once, when nothing can replace it any more."""
        age = self.feature("ecg_beat_age")
        settled = (age >= SETTLED_S) & (age < SETTLED_S + HOP_S + 1e-6) & np.isfinite(age)
        found = self.end_s[settled] - age[settled]
        return found[np.diff(found, prepend=-1.0) > SAME_S]

    def alarms(self) -> list[tuple[float, str]]:
        """Alerts of the profile's rules: when, and which action."""
        decider, found = Decider(PROFILE.decision), []
        for end, row in zip(self.end_s.tolist(), self.scores.tolist(), strict=True):
            score, *rest = (None if v != v else v for v in row)  # noqa: PLR0124  (NaN)
            further = dict(zip(PROFILE.model.outputs, rest, strict=True))
            decision = decider.decide(START + timedelta(seconds=end), score, further=further)
            if decision.alert:
                found.append((end, decision.action))
        return found


class JudgedDevice:
    """The shipped model on recordings; what a recording lacks is a PPG that is off, and a wearer at rest."""

    def __init__(self) -> None:
        self._session = OnnxSession(load_bundle(PROFILE))

    def run(self, ecg: Array, ppg: Array | None = None, motion: Array | None = None) -> DeviceRun:
        """The run of samples at the profile's rate, each of shape (n,)."""
        samples = np.zeros((len(ecg), 3), dtype=np.float32)
        samples[:, 0] = ecg
        samples[:, 1] = 0.0 if ppg is None else ppg
        samples[:, 2] = 1.0 if motion is None else motion
        size, hop = PROFILE.sampling.window_samples, PROFILE.sampling.hop_samples
        every = np.moveaxis(sliding_window_view(samples, size, axis=0)[::hop], 2, 1)
        parts = list(self._parts(every))
        features = np.concatenate([f for f, _ in parts])
        scores = np.concatenate([s for _, s in parts])
        end_s = (np.arange(len(every)) * hop + size) / RATE_HZ
        return DeviceRun(end_s, features.astype(np.float64), scores.astype(np.float64))

    def _parts(self, windows: NDArray[np.float32]) -> Iterator[tuple[Array, Array]]:
        for at in range(0, len(windows), BATCH):
            features, *scores = self._session.run_all(np.ascontiguousarray(windows[at : at + BATCH]), {})
            yield features, np.stack(scores, axis=1)

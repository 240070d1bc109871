"""Feature kinds of ECG, PPG and motion: what rhythm and measurement show in a window.

Each is computed by the same code on arrays and as operators of a graph (``signal_ops``). Kinds of one window
share its beats.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_kind import FeatureKind
from model_service.models.graph import GraphWriter
from model_service.verticals.wearable import signal_state
from model_service.verticals.wearable.beat_detector import (
    SECONDS,
    WINDOW,
    BeatIntervals,
    BeatTrace,
    beats,
    intervals,
)
from model_service.verticals.wearable.signal_ops import ArrayOps, GraphOps, SignalOps, T, at_most

Array = NDArray[np.float64]

BATCH = 64
MOST_PAUSE = 12.0


class WindowRhythm(NamedTuple):
    """Beats of a batch of windows and their intervals, by name of tensors or as arrays."""

    trace: BeatTrace[str]
    between: BeatIntervals[str]


_WRITTEN: WeakKeyDictionary[GraphWriter, dict[str, WindowRhythm]] = WeakKeyDictionary()


class WearableKind(FeatureKind):
    """A kind of windows of ``WINDOW`` samples.

    Attributes:
        unit_text: Its unit.
        bins: Its inner bin edges.
    """

    unit_text: ClassVar[str] = "1"
    bins: ClassVar[tuple[float, ...]] = ()

    def unit(self, units: Sequence[str]) -> str:
        """See ``FeatureKind``."""
        del units
        return self.unit_text

    def edges(self, ranges: Sequence[tuple[float, float]]) -> Sequence[float]:
        """See ``FeatureKind``."""
        del ranges
        return self.bins

    def compute(self, windows: Array) -> Array:
        """See ``FeatureKind``."""
        if windows.shape[1] != WINDOW:
            raise ValueError(f"it is for windows of {WINDOW} samples, 8 s at 250 Hz; not {windows.shape[1]}")
        parts = [windows[at : at + BATCH] for at in range(0, len(windows), BATCH)]
        found = np.concatenate([self._values(ArrayOps(), part) for part in parts] or [np.empty(0)])
        seen = np.isfinite(windows).sum(axis=1)
        return np.asarray(np.where(seen.min(axis=1) > 0, found, np.nan))

    @abstractmethod
    def _values(self, ops: ArrayOps, windows: Array) -> Array:
        """The number of each window, shape (n,)."""

    def _checked(self, writer: GraphWriter, window: str, found: str) -> str:
        """(B,) of (B, 1): NaN where a channel has no sample."""
        ops = GraphOps(writer)
        there = writer.op("ReduceSum", ops.finite(window), writer.ints(1), keepdims=0)
        least = writer.op("ReduceMin", there, axes=[1], keepdims=1)
        value = ops.where(least, found, ops.number(float("nan")))
        return writer.op("Reshape", value, writer.ints(-1))


def _channel(writer: GraphWriter, window: str, at: int) -> str:
    return writer.op("Gather", window, writer.integer(at), axis=2)


def _rhythm_in(writer: GraphWriter, window: str) -> WindowRhythm:
    """Beats of the first channel of a window, written once a graph and tensor."""
    known = _WRITTEN.setdefault(writer, {})
    if window not in known:
        ops = GraphOps(writer)
        trace = beats(ops, _channel(writer, window, 0))
        known[window] = WindowRhythm(trace, intervals(ops, trace.places))
    return known[window]


class _Kept:
    """Beats of the windows that were asked for last: every kind asks for the same ones."""

    @staticmethod
    @lru_cache(maxsize=4)
    def of(digest: bytes, data: bytes, rows: int) -> tuple[BeatTrace[Array], BeatIntervals[Array]]:
        """The beats of (``rows``, ``WINDOW``) samples."""
        del digest
        ops = ArrayOps()
        trace = beats(ops, np.frombuffer(data).reshape(rows, WINDOW))
        return trace, intervals(ops, trace.places)


def _rhythm_of(ecg: Array) -> tuple[BeatTrace[Array], BeatIntervals[Array]]:
    data = np.ascontiguousarray(ecg, dtype=np.float64).tobytes()
    return _Kept.of(hashlib.blake2b(data).digest(), data, len(ecg))


class RhythmKind(WearableKind):
    """Of the intervals between beats of an ECG."""

    def _values(self, ops: ArrayOps, windows: Array) -> Array:
        return self.of(ops, _rhythm_of(windows[:, :, 0])[1])[:, 0]

    def write(self, writer: GraphWriter, window: str) -> str:
        """See ``FeatureKind``."""
        found = self.of(GraphOps(writer), _rhythm_in(writer, window).between)
        return self._checked(writer, window, found)

    @abstractmethod
    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """The number, (B, 1)."""


class HeartRate(RhythmKind):
    """``heart_rate``."""

    meaning = "median heart rate of the window"
    unit_text = "1/min"
    logged = True
    bins = (30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 120.0, 140.0, 160.0, 200.0)

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        del ops
        return between.rate


class RrIrregularity(RhythmKind):
    """``rr_irregularity``."""

    meaning = (
        "median change from one interval between beats to the next, no premature beat's, over the median"
    )
    bins = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        del ops
        return between.irregularity


class LastTwoIntervals(RhythmKind):
    """``last_two_intervals``."""

    meaning = "longer of the last two intervals between beats, over the median of those before"
    bins = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0)

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        return at_most(ops, between.last_two, 4.0)


class LastRate(RhythmKind):
    """``last_rate``."""

    meaning = "rate of the longer of the last two intervals between beats"
    unit_text = "1/min"
    bins = HeartRate.bins

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        del ops
        return between.last_rate


class BeatAge(RhythmKind):
    """``beat_age``."""

    meaning = "time since the last beat"
    unit_text = "s"
    bins = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0)

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        return at_most(ops, between.age, SECONDS)


class PauseRatio(RhythmKind):
    """``pause_ratio``."""

    meaning = "time since the last beat, over the median interval"
    bins = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 5.0, 8.0)

    def of(self, ops: SignalOps[T], between: BeatIntervals[T]) -> T:
        """See ``RhythmKind``."""
        return at_most(ops, ops.two("Div", between.age, between.median), MOST_PAUSE)


class SignalQuality(WearableKind):
    """``signal_quality``, of an ECG and the motion beside it."""

    meaning = "how far beats stand above noise, given the wearer's motion: 1 clear, 0 not to be seen"
    least_channels = most_channels = 2
    bins = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def _values(self, ops: ArrayOps, windows: Array) -> Array:
        return signal_state.quality(ops, _rhythm_of(windows[:, :, 0])[0], windows[:, :, 1])[:, 0]

    def write(self, writer: GraphWriter, window: str) -> str:
        """See ``FeatureKind``."""
        trace = _rhythm_in(writer, window).trace
        found = signal_state.quality(GraphOps(writer), trace, _channel(writer, window, 1))
        return self._checked(writer, window, found)


class SampleKind(WearableKind):
    """Of one channel's samples."""

    def _values(self, ops: ArrayOps, windows: Array) -> Array:
        return np.asarray(self.of(ops)(windows[:, :, 0])[:, 0])

    def write(self, writer: GraphWriter, window: str) -> str:
        """See ``FeatureKind``."""
        found = self.of(GraphOps(writer))(_channel(writer, window, 0))
        return self._checked(writer, window, found)

    @abstractmethod
    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """From samples (B, ``WINDOW``) to the number (B, 1)."""


class SaturatedShare(SampleKind):
    """``saturated_share``."""

    meaning = "share of the last second's samples at an end of the front end's range"
    bins = (0.01, 0.1, 0.3, 0.5, 0.9)

    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """See ``SampleKind``."""
        return lambda samples: signal_state.saturated_share(ops, samples)


class MainsAmplitude(SampleKind):
    """``mains_amplitude``."""

    meaning = "amplitude of the mains, 50 or 60 Hz, in the last second"
    unit_text = "mV"
    scales = True
    bins = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """See ``SampleKind``."""
        return lambda samples: signal_state.mains_amplitude(ops, samples)


class LineActivity(SampleKind):
    """``line_activity``."""

    meaning = "standard deviation of the last second"
    unit_text = "mV"
    scales = True
    bins = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """See ``SampleKind``."""
        return lambda samples: signal_state.line_activity(ops, samples)


class PulseAge(SampleKind):
    """``pulse_age``."""

    meaning = "time since the last pulse wave"
    unit_text = "s"
    bins = BeatAge.bins

    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """See ``SampleKind``."""
        return lambda samples: signal_state.pulse_age(ops, samples)


class PulseQuality(SampleKind):
    """``pulse_quality``."""

    meaning = "how much of the last three seconds is pulse wave: 1 all, 0 none"
    bins = SignalQuality.bins

    def of(self, ops: SignalOps[T]) -> Callable[[T], T]:
        """See ``SampleKind``."""
        return lambda samples: signal_state.pulse_quality(ops, samples)

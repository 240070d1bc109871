"""Heartbeats in a window of an ECG: matched filter, energy, local maxima, a threshold of the window's own.

After Pan and Tompkins (1985): band-pass, squaring, integration over a tenth of a second, an adaptive
threshold. Instead of their running estimates, which need state, the threshold comes from the window itself:
the energy of its beats (the third largest of four parts' maxima: one artefact does not set it, and three
seconds without a beat do not lower it) and of what lies between them (a low quantile).

Everything here is for windows of ``WINDOW`` samples at ``RATE_HZ``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from model_service.verticals.wearable.signal_ops import (
    SignalOps,
    T,
    add,
    at_least,
    ranked,
    share_at,
    times,
)

Array = NDArray[np.float64]

RATE_HZ = 250.0
WINDOW = 2000
SECONDS = WINDOW / RATE_HZ
MOST_BEATS = 33
FILTER_S = 0.016
"""Width of the filter, the second derivative of a bell curve: it answers most to 14 Hz."""
INTEGRATION = 25
"""Samples of a tenth of a second."""
REFRACTORY = 50
"""Samples on both sides in which there is no second beat: 0.2 s."""
PARTS = 4
RELATIVE = 0.2
"""Energy of a beat, as a share of the window's usual beat."""
OVER_NOISE = 8.0
"""Likewise as a multiple of the energy between beats."""
QUIET_SHARE = 0.3
"""Quantile of the energy that lies between beats, up to 200 beats a minute."""
FLOOR_MV = 0.03
"""Smallest beat, as the filter's answer in mV."""
EDGE = 20
"""Samples at both ends in which a maximum may be the flank of a beat that is not seen whole."""
PREMATURE = 0.101
"""Share of the usual interval by which a premature beat comes early at least, and by which the interval after
it is longer. No multiple of 1/1000 that samples may hit: arrays and graph must agree."""
FEWEST_CHANGES = 2.5
"""Changes of interval, not of premature beats, from which on there is an irregularity: three."""
NEAR = 13
"""Samples around a missing one that stand for it."""


def _bell(width_s: float) -> Array:
    reach = round(4 * width_s * RATE_HZ)
    t = np.arange(-reach, reach + 1) / (width_s * RATE_HZ)
    kernel = (1 - t**2) * np.exp(-(t**2) / 2)
    kernel -= kernel.mean()
    # So that a sine of the frequency that it answers most to keeps its height.
    phase = 2 * np.pi * np.arange(-reach, reach + 1) / RATE_HZ * (2**0.5 / (2 * np.pi * width_s))
    return np.asarray(kernel / (kernel @ np.cos(phase)))


FILTER = _bell(FILTER_S)
MEAN = np.full(INTEGRATION, 1.0 / INTEGRATION)


@dataclass(frozen=True, slots=True)
class BeatTrace(Generic[T]):
    """What the detector found in a batch of windows.

    Attributes:
        signal: Samples, what is missing filled in, the mean taken out; (B, ``WINDOW``), mV.
        energy: Of the filter's answer, over a tenth of a second; (B, ``WINDOW``), mV².
        usual: Energy of the window's usual beat; (B, 1).
        threshold: From it on a maximum is a beat; (B, 1).
        places: Of the beats, samples from the window's begin, the newest first, -1: no more; (B, 33).
    """

    signal: T
    energy: T
    usual: T
    threshold: T
    places: T


def filled(ops: SignalOps[T], samples: T) -> T:
    """Samples (B, ``WINDOW``) with missing ones replaced by their neighbours' mean, less the mean."""
    valid = ops.finite(samples)
    there = ops.where(valid, samples, ops.number(0.0))
    near = np.ones(NEAR)
    neighbours, count = ops.convolved(there, near), ops.convolved(valid, near)
    mean = ops.two("Div", ops.total(there), at_least(ops, ops.total(valid), 1.0))
    some = ops.two("Greater", count, ops.number(0.5))
    local = ops.where(some, ops.two("Div", neighbours, at_least(ops, count, 1.0)), mean)
    return ops.two("Sub", ops.where(valid, samples, local), mean)


def quantile(ops: SignalOps[T], values: T, count: int, share: float) -> T:
    """A quantile of each row of (B, ``count``); (B, 1)."""
    at = share_at(count, share)
    return ops.part(ops.descending(values, at + 1), at, at + 1)


def beats(ops: SignalOps[T], ecg: T) -> BeatTrace[T]:
    """The beats of windows of an ECG (B, ``WINDOW``) in mV."""
    signal = filled(ops, ecg)
    answer = ops.convolved(signal, FILTER)
    energy = ops.convolved(ops.two("Mul", answer, answer), MEAN)
    of_parts = ops.descending(ops.largest_of_parts(energy, PARTS), PARTS)
    usual = ops.part(of_parts, 2, 3)
    quiet = quantile(ops, ops.part(energy, 0, WINDOW, 8), WINDOW // 8, QUIET_SHARE)
    threshold = at_least(
        ops,
        ops.two(
            "Max",
            ops.two("Mul", usual, ops.number(RELATIVE)),
            ops.two("Mul", quiet, ops.number(OVER_NOISE)),
        ),
        FLOOR_MV**2,
    )
    inside = np.zeros((1, WINDOW))
    inside[:, EDGE : WINDOW - EDGE] = 1.0
    found = times(
        ops,
        ops.two("GreaterOrEqual", energy, ops.largest_near(energy, REFRACTORY)),
        ops.two("Greater", energy, threshold),
        ops.number(inside),
    )
    numbered = ops.where(found, ops.number(np.arange(float(WINDOW)).reshape(1, -1)), ops.number(-1.0))
    return BeatTrace(signal, energy, usual, threshold, ops.descending(numbered, MOST_BEATS))


@dataclass(frozen=True, slots=True)
class BeatIntervals(Generic[T]):
    """Intervals between the beats of a batch of windows, each (B, 1), seconds unless stated.

    Attributes:
        rate: Median rate, 1/min; with fewer than two beats their number in a minute.
        median: Median interval; 1 s where there is none.
        irregularity: Median change from one interval to the next, over the median interval, of intervals
            that no premature beat explains; 0 with less than three such changes.
        last_two: Longer of the last two intervals over the median of those before; 1 with less than three of
            those.
        last_rate: Rate of the longer of the last two intervals, 1/min; ``rate`` with less than two.
        age: Since the last beat; the window's length where there is none.
    """

    rate: T
    median: T
    irregularity: T
    last_two: T
    last_rate: T
    age: T


def intervals(ops: SignalOps[T], places: T) -> BeatIntervals[T]:
    """What the beats' places (B, 33) say."""
    n = MOST_BEATS
    later, earlier = ops.part(places, 0, n - 1), ops.part(places, 1, n)
    length = ops.two("Div", ops.two("Sub", later, earlier), ops.number(RATE_HZ))
    valid = ops.two("GreaterOrEqual", earlier, ops.number(0.0))
    one, count = ops.number(1.0), ops.total(valid)
    some = ops.two("Greater", count, ops.number(0.5))
    median = ops.where(some, ranked(ops, length, valid, n - 1), one)
    there = ops.two("GreaterOrEqual", places, ops.number(0.0))
    by_number = ops.two("Mul", ops.total(there), ops.number(60.0 / SECONDS))
    rate = ops.where(some, ops.two("Div", ops.number(60.0), median), by_number)
    newest = ops.part(places, 0, 1)
    age = ops.two("Div", ops.two("Sub", ops.number(WINDOW - 1.0), newest), ops.number(RATE_HZ))
    # The last two against those before.
    before = ranked(ops, ops.part(length, 2, n - 1), ops.part(valid, 2, n - 1), n - 3)
    last = ops.two("Max", ops.part(length, 0, 1), ops.part(length, 1, 2))
    known = ops.two("Greater", count, ops.number(4.5))
    last_two = ops.where(known, ops.two("Div", last, at_least(ops, before, 0.1)), one)
    two_known = ops.two("Greater", count, ops.number(1.5))
    last_rate = ops.where(two_known, ops.two("Div", ops.number(60.0), at_least(ops, last, 0.1)), rate)
    return BeatIntervals(rate, median, _irregularity(ops, length, valid, median), last_two, last_rate, age)


def _irregularity(ops: SignalOps[T], length: T, valid: T, median: T) -> T:
    """See ``BeatIntervals``.

    A premature beat ends an interval that is short, and begins one that is longer than that: both say nothing
    of the rhythm beneath, however often such beats come, so no change from, to or between them counts.
    Whether a short interval that has just ended belongs to a premature beat is not known yet: it is left out.
    """
    n = MOST_BEATS - 1
    step = ops.two("Mul", median, ops.number(PREMATURE))
    later = ops.two("Add", ops.product(length, _LATER), ops.number(_NONE_LATER))
    early = times(
        ops,
        valid,
        ops.two("Greater", ops.two("Sub", median, step), length),
        ops.two("Greater", later, ops.two("Add", length, step)),
    )
    change = ops.one("Abs", ops.two("Sub", ops.part(length, 0, n - 1), ops.part(length, 1, n)))
    of_early = ops.product(early, _OF_CHANGE)
    known = ops.two("Mul", ops.part(valid, 1, n), ops.two("Greater", ops.number(0.5), of_early))
    enough = ops.two("Greater", ops.total(known), ops.number(FEWEST_CHANGES))
    usual = ops.two("Div", ranked(ops, add(ops, change, ops.number(1e-9)), known, n - 1), median)
    return ops.where(enough, usual, ops.number(0.0))


def _places(offsets: tuple[int, ...], width: int) -> Array:
    """(intervals, ``width``): column k is 1 at the intervals k + offset."""
    n = MOST_BEATS - 1
    columns = [np.isin(np.arange(n), [k + o for o in offsets]) for k in range(width)]
    return np.asarray(np.stack(columns, axis=1), dtype=np.float64)


_LATER = _places((-1,), MOST_BEATS - 1)
"""From intervals, the newest first, to the one after each."""
_NONE_LATER = np.where(np.arange(MOST_BEATS - 1) == 0, 2 * SECONDS, 0.0).reshape(1, -1)
_OF_CHANGE = _places((0, 1, 2), MOST_BEATS - 2)
"""From the premature beats that end intervals to the changes between two intervals that they touch."""

"""What a window says of the measurement itself: noise, motion, an electrode that is off, the pulse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.verticals.wearable.beat_detector import (
    QUIET_SHARE,
    RATE_HZ,
    WINDOW,
    BeatTrace,
    filled,
    quantile,
)
from model_service.verticals.wearable.signal_ops import (
    SignalOps,
    T,
    above,
    add,
    at_least,
    below,
    times,
)

Array = NDArray[np.float64]

TAIL = 750
"""Samples of the last three seconds, in which a pulse wave counts."""
PARTS = 4
SECOND = 251
"""Samples of a second, odd."""
LAST = 250
"""Samples of the last second, in which an electrode that is off shows."""
SMALL_BEAT_MV = 0.1
"""The filter's answer to a small beat: noise that hides it is too much, whether there are beats or not."""
CLEAR = 3.5
"""Answer to a beat over that to noise, at which quality is a half while the wearer rests."""
MOTION_COSTS = 4.0
"""By how much more of its logarithm is needed for each g of motion."""
MOST_MOTION_G = 0.5
RAIL_MV = 4.95
"""The front end stops at 5 mV."""
PULSE_SLOW, PULSE_FAST = 251, 41
"""Samples of the two means whose difference is the pulse wave."""
PULSE_APART = 62
"""Samples between two pulses, at least."""
LEAST_PULSE = 0.02


def motion_level(ops: SignalOps[T], motion: T) -> T:
    """Largest standard deviation within a second of (B, ``WINDOW``), g; (B, 1)."""
    signal, mean = filled(ops, motion), np.full(SECOND, 1 / SECOND)
    off = ops.two("Sub", signal, ops.convolved(signal, mean))
    square = ops.convolved(ops.two("Mul", off, off), mean)
    return ops.one("Sqrt", at_least(ops, ops.largest_of_parts(square, 1), 0.0))


def quality(ops: SignalOps[T], trace: BeatTrace[T], motion: T) -> T:
    """How far the ECG can be trusted: 1: a usual beat stands far above the noise; 0: it cannot be seen.

    Noise is the energy between beats in the worst two seconds: intervals are read from the whole window. The
    wearer's motion asks for more distance.
    """
    size = WINDOW // PARTS
    noise = ops.number(1e-8)
    for first in range(0, WINDOW, size):
        part = ops.part(trace.energy, first, first + size, 4)
        noise = ops.two("Max", noise, quantile(ops, part, size // 4, QUIET_SHARE))
    beat = ops.one("Sqrt", at_least(ops, trace.usual, SMALL_BEAT_MV**2))
    level = motion_level(ops, motion)
    needed = add(ops, ops.number(float(np.log(CLEAR))), ops.two("Mul", level, ops.number(MOTION_COSTS)))
    distance = ops.two("Sub", ops.one("Log", ops.two("Div", beat, ops.one("Sqrt", noise))), needed)
    return times(ops, above(ops, distance, 0.0, 0.2), below(ops, level, MOST_MOTION_G, 0.04))


def line_activity(ops: SignalOps[T], ecg: T) -> T:
    """Standard deviation of the last second, mV; (B, 1)."""
    return _spread(ops, ops.part(filled(ops, ecg), WINDOW - LAST, WINDOW), LAST)


def saturated_share(ops: SignalOps[T], ecg: T) -> T:
    """Share of the last second's samples at an end of the range; (B, 1)."""
    last = ops.part(ecg, WINDOW - LAST, WINDOW)
    there = ops.where(ops.finite(last), last, ops.number(0.0))
    high = ops.two("GreaterOrEqual", ops.one("Abs", there), ops.number(RAIL_MV))
    return ops.two("Div", ops.total(high), ops.number(float(LAST)))


def mains_amplitude(ops: SignalOps[T], ecg: T) -> T:
    """Amplitude of the mains, 50 or 60 Hz, in the last second, mV; (B, 1)."""
    last = ops.part(filled(ops, ecg), WINDOW - LAST, WINDOW)
    t = np.arange(LAST) / RATE_HZ
    waves = [f(2 * np.pi * hz * t) for hz in (50, 60) for f in (np.sin, np.cos)]
    found = ops.product(last, np.stack(waves, axis=1) * 2 / LAST)
    square = ops.two("Mul", found, found)
    power = ops.two("Max", ops.total(ops.part(square, 0, 2)), ops.total(ops.part(square, 2, 4)))
    return ops.one("Sqrt", power)


def pulse_age(ops: SignalOps[T], ppg: T) -> T:
    """Seconds since the last pulse, the window's length where there is none; (B, 1)."""
    wave = _pulse_wave(ops, ppg)
    of_parts = ops.descending(ops.largest_of_parts(wave, 4), 4)
    threshold = at_least(ops, ops.two("Mul", ops.part(of_parts, 2, 3), ops.number(0.4)), LEAST_PULSE)
    inside = np.zeros((1, WINDOW))
    inside[:, PULSE_APART // 2 : WINDOW - PULSE_APART // 2] = 1.0
    found = times(
        ops,
        ops.two("GreaterOrEqual", wave, ops.largest_near(wave, PULSE_APART)),
        ops.two("Greater", wave, threshold),
        ops.number(inside),
    )
    places = ops.where(found, ops.number(np.arange(float(WINDOW)).reshape(1, -1)), ops.number(-1.0))
    newest = ops.descending(places, 1)
    return ops.two("Div", ops.two("Sub", ops.number(WINDOW - 1.0), newest), ops.number(RATE_HZ))


def pulse_quality(ops: SignalOps[T], ppg: T) -> T:
    """How much of the last three seconds' PPG is pulse wave, 0 to 1; 0 where it is flat; (B, 1)."""
    signal = filled(ops, ppg)
    wave = _spread(ops, ops.part(_pulse_wave(ops, ppg), WINDOW - TAIL, WINDOW), TAIL)
    smooth = ops.convolved(signal, np.full(15, 1 / 15))
    rough = _spread(ops, ops.part(ops.two("Sub", signal, smooth), WINDOW - TAIL, WINDOW), TAIL)
    ratio = ops.two("Div", wave, at_least(ops, rough, 1e-4))
    return times(ops, above(ops, ratio, 3.0, 0.5), ops.two("Greater", wave, ops.number(LEAST_PULSE / 2)))


def _pulse_wave(ops: SignalOps[T], ppg: T) -> T:
    """About 0.5 to 5 Hz of a PPG."""
    signal = filled(ops, ppg)
    fast = ops.convolved(signal, np.full(PULSE_FAST, 1 / PULSE_FAST))
    return ops.two("Sub", fast, ops.convolved(signal, np.full(PULSE_SLOW, 1 / PULSE_SLOW)))


def _spread(ops: SignalOps[T], samples: T, count: int) -> T:
    """Standard deviation of each row of (B, ``count``); (B, 1)."""
    mean = ops.two("Div", ops.total(samples), ops.number(float(count)))
    off = ops.two("Sub", samples, mean)
    return ops.one("Sqrt", ops.two("Div", ops.total(ops.two("Mul", off, off)), ops.number(float(count))))

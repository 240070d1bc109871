"""A rotating machine as closed-form signals: shaft harmonics, bearing, temperature, motor current.

Every block of samples depends on seed, device and block number alone: not on history, clock or other devices.
So a restart continues exactly where it would have been, and a fleet may be spread over processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import device_number

Array = NDArray[np.float64]

CHANNELS = ("vibration", "temperature", "current")
HARMONICS = np.arange(1, 6)
SLIP = 0.02
"""Share of the shaft speed that is lost at full load."""
DEFECT_ORDER = 3.05
"""Bearing impulses per shaft turn (outer race)."""
RESONANCE_HZ, RESONANCE_DECAY = 185.0, 350.0
WARMING_S = 60.0
RESOLUTION = 1e-4
"""Samples are multiples of this, so that no result depends on the last bit of a processor's sine."""


@dataclass(frozen=True, slots=True)
class Constants:
    """The constants of one machine; drawn once per seed and device."""

    shaft_hz: float
    amplitudes: Array
    phases: Array
    noise: float
    load: float
    load_swing: float
    load_period_s: float
    load_phase: float
    ambient_c: float
    heating_c: float
    idle_a: float
    load_a: float
    ripple_a: float


def constants(seed: int, device_id: str) -> Constants:
    """The machine behind a device id."""
    rng = np.random.default_rng([seed, device_number(device_id)])
    spread = np.exp(rng.normal(0.0, 0.12, 5))
    return Constants(
        shaft_hz=24.6 + rng.normal(0.0, 0.2),
        amplitudes=np.array([1.2, 0.55, 0.35, 0.2, 0.12]) * spread,
        phases=rng.uniform(0.0, 2 * np.pi, 5),
        noise=0.45 * float(np.exp(rng.normal(0.0, 0.08))),
        load=rng.uniform(0.5, 0.7),
        load_swing=rng.uniform(0.04, 0.12),
        load_period_s=rng.uniform(60.0, 300.0),
        load_phase=rng.uniform(0.0, 2 * np.pi),
        ambient_c=24.0 + rng.normal(0.0, 1.5),
        heating_c=30.0 + rng.normal(0.0, 1.5),
        idle_a=4.0 + rng.normal(0.0, 0.2),
        load_a=12.0 + rng.normal(0.0, 0.5),
        ripple_a=0.25 * float(np.exp(rng.normal(0.0, 0.08))),
    )


class RotatingMachine:
    """One device's sensors.

    Args:
        seed: Seed of the scenario.
        device_id: Determines the machine's constants.
        rate_hz: Samples per second.
        injections: Those that hit this device.
        first_s: Time of sample 0, seconds after the scenario's start.
    """

    channels = CHANNELS

    def __init__(
        self,
        seed: int,
        device_id: str,
        rate_hz: float,
        injections: Sequence[Injection] = (),
        first_s: float = 0.0,
    ) -> None:
        self._key = [seed, device_number(device_id)]
        self._c = constants(seed, device_id)
        self._rate_hz = rate_hz
        self._injections = tuple(injections)
        self._first_s = first_s

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``.

        Returns:
            Shape (size, 3), columns in the order of ``channels``; NaN where samples dropped out.
        """
        t = self._first_s + (np.arange(size) + number * size) / self._rate_hz
        rng = np.random.default_rng([*self._key, number, 0])
        load, phase = self._load(t), self._phase(t)
        samples = np.empty((size, 3))
        samples[:, 0] = self._vibration(t, load, phase, rng) + self._impulses(t, phase, number)
        samples[:, 1] = self._temperature(t) + rng.normal(0.0, 0.05, size)
        samples[:, 2] = self._current(load, phase) + rng.normal(0.0, self._c.ripple_a, size)
        self._recalibrate(t, samples)
        np.round(samples / RESOLUTION, out=samples)
        samples *= RESOLUTION
        self._drop(t, samples, number)
        return samples.astype(np.float32)

    def _of(self, kind: str) -> list[Injection]:
        return [i for i in self._injections if i.kind == kind]

    def _load(self, t: Array) -> Array:
        """Load as a share of the nominal load."""
        c = self._c
        load = c.load + c.load_swing * np.sin(2 * np.pi * t / c.load_period_s + c.load_phase)
        for item in self._of("new_regime"):
            load = load + 0.25 * item.severity * _active(t, item)
        return load

    def _phase(self, t: Array) -> Array:
        """Shaft angle, radians: the integral of the speed."""
        c = self._c
        angle = 2 * np.pi * t / c.load_period_s + c.load_phase
        swing = -c.load_swing * c.load_period_s / (2 * np.pi) * np.cos(angle)
        turns = c.shaft_hz * (t - SLIP * (c.load * t + swing))
        for item in self._of("new_regime"):
            turns = turns + 0.12 * item.severity * c.shaft_hz * _elapsed(t, item)
        return np.asarray(2 * np.pi * turns)

    def _vibration(self, t: Array, load: Array, phase: Array, rng: np.random.Generator) -> Array:
        c = self._c
        waves = c.amplitudes * np.sin(np.multiply.outer(phase, HARMONICS) + c.phases)
        gain = 1.0 + 0.3 * (load - 0.6)
        imbalance = np.zeros_like(t)
        for item in self._of("imbalance"):
            imbalance += 5.0 * _growth(t, item)
        first = c.amplitudes[0] * imbalance * np.sin(phase + c.phases[0])
        noise = rng.normal(0.0, c.noise, t.size)
        return np.asarray(gain * (waves.sum(axis=1) + first + noise))

    def _impulses(self, t: Array, phase: Array, number: int) -> Array:
        """A decaying resonance, excited ``DEFECT_ORDER`` times a turn with random force."""
        wear = sum((_growth(t, i) for i in self._of("bearing_wear")), np.zeros_like(t))
        if not wear.any():
            return wear
        strikes = DEFECT_ORDER * phase / (2 * np.pi)
        count = np.floor(strikes)
        speed_hz = DEFECT_ORDER * self._c.shaft_hz
        since = (strikes - count) / speed_hz
        rng = np.random.default_rng([*self._key, number, 1])
        force = rng.exponential(1.0, int(count[-1] - count[0]) + 1)[(count - count[0]).astype(int)]
        ring = np.exp(-RESONANCE_DECAY * since) * np.cos(2 * np.pi * RESONANCE_HZ * since)
        return np.asarray(7.0 * wear * force * ring)

    def _temperature(self, t: Array) -> Array:
        """Housing temperature, degC: the iron damps the load cycle by half."""
        c = self._c
        angle = 2 * np.pi * t / c.load_period_s + c.load_phase
        heat = c.load + 0.5 * c.load_swing * np.sin(angle - 0.8)
        for item in self._of("new_regime"):
            heat = heat + 0.25 * item.severity * _warmth(t, item, 0.0)
        friction = np.zeros_like(t)
        for item in self._of("bearing_wear"):
            friction += 15.0 * item.severity * _warmth(t, item, 20.0)
        return np.asarray(c.ambient_c + c.heating_c * heat + friction)

    def _current(self, load: Array, phase: Array) -> Array:
        return np.asarray(self._c.idle_a + self._c.load_a * load + 0.15 * np.sin(2 * phase))

    def _recalibrate(self, t: Array, samples: Array) -> None:
        for item in self._of("recalibration"):
            column = CHANNELS.index(item.channel)
            hit = _active(t, item) > 0
            samples[hit, column] = item.gain * samples[hit, column] + item.offset

    def _drop(self, t: Array, samples: Array, number: int) -> None:
        for index, item in enumerate(self._of("dropout")):
            rng = np.random.default_rng([*self._key, number, 2 + index])
            runs = rng.random(-(-t.size // 8)).repeat(8)[: t.size] < item.severity
            hit = runs & (_active(t, item) > 0)
            columns = [CHANNELS.index(item.channel)] if item.channel else [0, 1, 2]
            for column in columns:
                samples[hit, column] = np.nan


def _active(t: Array, item: Injection) -> Array:
    return ((t >= item.start_s) & (t < item.end_s)).astype(np.float64)


def _elapsed(t: Array, item: Injection) -> Array:
    """Seconds since the start of the injection: 0 before it, constant after its end."""
    return np.asarray(np.clip(t - item.start_s, 0.0, item.end_s - item.start_s))


def _warmth(t: Array, item: Injection, delay_s: float) -> Array:
    """Share of the final heat: iron takes minutes to warm, and to cool again after the end."""
    warming = 1 - np.exp(-np.maximum(_elapsed(t, item) - delay_s, 0.0) / WARMING_S)
    return np.asarray(warming * np.exp(-np.maximum(t - item.end_s, 0.0) / WARMING_S))


def _growth(t: Array, item: Injection) -> Array:
    """Severity growing from a third to the whole; 0 outside the span."""
    ramp = max(item.ramp_s, 1e-9)
    return _active(t, item) * item.severity * (1 - 2 / 3 * np.exp(-_elapsed(t, item) / ramp))

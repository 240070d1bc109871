"""The generator ``wearer``: ECG, PPG and motion of one simulated wearer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.sensor_generator import GeneratorRequest, device_number
from edge_producer.verticals.wearable.wearer import Array, Wearer, ecg_of, pulse_of

CHANNELS = ("ecg", "ppg", "motion")
RESOLUTION = 1e-3
"""Samples are multiples of this, so that no result depends on the last bit of a processor's sine."""
CHUNK = 1000
"""Samples that are made at a time, and kept."""
KEPT = 4
RAIL_MV = 5.0
MAINS_HZ = 50.0
STEP_HZ = 1.9
ARTEFACTS = 14
"""Sines that an artefact of motion is made of."""
DEAD, HUMMING = 0.4, 0.7
"""Severities of ``lost_electrode``: below the first a dead line, below the second mains, else the rail."""


class WearableSensors:
    """Sensors of one wearer.

    Injections: ``tachycardia``, ``irregular_rhythm``, ``asystole``; ``lost_electrode`` (severity 1: at the
        rail, 0.6: the mains, 0.3: dead); ``motion``: the wearer moves, severity 1 by half a g;
    ``recalibration``: a channel reads ``gain * x + offset``; ``dropout``: samples go missing.
    """

    channels: ClassVar[tuple[str, ...]] = CHANNELS
    kinds: ClassVar[Mapping[str, bool]] = {
        "tachycardia": True,
        "irregular_rhythm": True,
        "asystole": True,
        "lost_electrode": True,
        "motion": False,
        "recalibration": False,
        "dropout": False,
    }

    def __init__(self, request: GeneratorRequest) -> None:
        self._request = request
        self._key = [request.seed, device_number(request.device_id)]
        self._wearer = Wearer(self._key, request.injections)
        rng = np.random.default_rng([*self._key, 3])
        self._artefact = rng.uniform((0.6, 0.0, 0.3), (14.0, 6.28, 1.0), (ARTEFACTS, 3))
        self._chunks: dict[int, Array] = {}

    @classmethod
    def of(cls, request: GeneratorRequest) -> WearableSensors:
        """The sensors of one wearer."""
        return cls(request)

    @property
    def wearer(self) -> Wearer:
        """Who is simulated: the truth about the beats."""
        return self._wearer

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``.

        Returns:
            Shape (size, 3): ECG in mV, PPG, acceleration in g; NaN where samples dropped out.
        """
        first = number * size
        numbers = range(first // CHUNK, (first + size - 1) // CHUNK + 1)
        samples = np.concatenate([self._chunk(n) for n in numbers])
        skip = first - numbers[0] * CHUNK
        return samples[skip : skip + size].astype(np.float32)

    def _chunk(self, number: int) -> Array:
        if number not in self._chunks:
            while len(self._chunks) >= KEPT:
                self._chunks.pop(next(iter(self._chunks)))
            self._chunks[number] = self._made(number)
        return self._chunks[number]

    def _made(self, number: int) -> Array:
        """Samples of a chunk, shape (CHUNK, 3)."""
        rate = self._request.rate_hz
        t = self._request.first_s + (np.arange(CHUNK) + number * CHUNK) / rate
        rng = np.random.default_rng([*self._key, 1, number + 1])
        level = self._wearer.motion_g(t)
        beats = self._wearer.beats(float(t[0]) - 1.3, float(t[-1]) + 0.8)
        samples = np.empty((CHUNK, len(CHANNELS)))
        c = self._wearer.constants
        artefact = level * self._stray(t)
        samples[:, 0] = c.gain * ecg_of(beats, t, c) + c.coupling_mv * artefact
        samples[:, 0] += c.breath_mv * np.sin(2 * np.pi * c.swings[0, 0] * t)
        samples[:, 0] += c.mains_mv * np.sin(2 * np.pi * MAINS_HZ * t) + rng.normal(0.0, c.noise_mv, CHUNK)
        samples[:, 1] = pulse_of(beats, t, c) + 1.5 * artefact + rng.normal(0.0, 0.01, CHUNK)
        swing = np.sin(2 * np.pi * STEP_HZ * t) + 0.4 * np.sin(4 * np.pi * STEP_HZ * t + 1.0)
        samples[:, 2] = 1.0 + level * (1.2 * swing + rng.normal(0.0, 0.3, CHUNK))
        samples[:, 2] += rng.normal(0.0, 0.006, CHUNK)
        self._recalibrate(t, samples)
        self._lose(t, samples, rng)
        np.clip(samples[:, 0], -RAIL_MV, RAIL_MV, out=samples[:, 0])
        np.round(samples / RESOLUTION, out=samples)
        samples *= RESOLUTION
        self._drop(t, samples, number)
        return samples

    def _stray(self, t: Array) -> Array:
        """What a moving electrode adds, 1 in size: sines of 0.6 to 14 Hz, and a jerk at each step."""
        hz, phase, height = self._artefact.T
        waves = np.sin(2 * np.pi * np.multiply.outer(t, hz) + phase) @ height
        step = np.exp(-0.5 * (((t * STEP_HZ) % 1.0 - 0.5) / 0.03) ** 2)
        return np.asarray(0.4 * waves + 0.6 * step)

    def _recalibrate(self, t: Array, samples: Array) -> None:
        for item in self._wearer.of("recalibration"):
            hit, column = (t >= item.start_s) & (t < item.end_s), CHANNELS.index(item.channel)
            samples[hit, column] = item.gain * samples[hit, column] + item.offset

    def _lose(self, t: Array, samples: Array, rng: np.random.Generator) -> None:
        for item in self._wearer.of("lost_electrode"):
            hit = (t >= item.start_s) & (t < item.end_s)
            if item.severity < DEAD:
                line = np.zeros_like(t)
            elif item.severity < HUMMING:
                line = 1.2 * np.sin(2 * np.pi * MAINS_HZ * t) + rng.normal(0.0, 0.05, t.size)
            else:
                line = np.full_like(t, 2 * RAIL_MV)
            samples[hit, 0] = line[hit]

    def _drop(self, t: Array, samples: Array, number: int) -> None:
        for index, item in enumerate(self._wearer.of("dropout")):
            rng = np.random.default_rng([*self._key, number + 1, 100 + index])
            hit = (rng.random(t.size) < item.severity) & (t >= item.start_s) & (t < item.end_s)
            columns = [CHANNELS.index(item.channel)] if item.channel else range(len(CHANNELS))
            for column in columns:
                samples[hit, column] = np.nan

"""``intersection``: loop detectors of one intersection, from the queue model.

Time is cut into quarters of an hour; each is simulated for itself, from empty streets some minutes before
it begins. So a sample depends on seed, device and its time alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest, device_number
from schemas.verticals.traffic.queue_network import QueueNetwork
from schemas.verticals.traffic.standard_junction import NAMES, single_site

Array = NDArray[np.float64]

CHANNELS = tuple(f"{what}_{name}" for what in ("flow", "occupancy", "queue") for name in NAMES)
CHUNK_S, WARM_UP_S = 900, 300
KEPT = 4
PASSING_S = 0.35
"""Seconds that a moving vehicle stands on its loop."""
WEEKDAY_PEAKS = ((7.75, 1.1, 1.0), (17.0, 1.6, 1.15))
WEEKEND_PEAKS = ((13.5, 3.2, 0.7),)
"""Hour, width in hours, and height of each peak, beside ``NIGHT``."""
NIGHT = 0.12
SHIFT_H = 2.0
"""Hours by which ``demand_shift`` of severity 1 moves the peaks; it also moves traffic between the
streets."""
TIME_ZONE = ZoneInfo("UTC")


class IntersectionSensors:
    """Detectors of one intersection.

    Injections: ``incident``: a share (``severity``) of the phase of ``channel`` is blocked behind its
        detectors;
    ``detector_failure``: the detectors of ``channel`` stay at one value; ``demand_shift``: another
    pattern of demand;
    ``dropout``: samples go missing.
    """

    channels: ClassVar[tuple[str, ...]] = CHANNELS
    kinds: ClassVar[Mapping[str, bool]] = {
        "incident": True,
        "detector_failure": True,
        "demand_shift": False,
        "dropout": False,
    }

    def __init__(self, request: GeneratorRequest) -> None:
        self._request = request
        self._key = [request.seed, device_number(request.device_id)]
        rng = np.random.default_rng(self._key)
        self._peak = np.array([0.30, 0.06, 0.24, 0.05]) * np.exp(rng.normal(0.0, 0.15, len(NAMES)))
        self._site = single_site(request.device_id)
        self._chunks: dict[int, Array] = {}

    @classmethod
    def of(cls, request: GeneratorRequest) -> IntersectionSensors:
        """The detectors of one intersection."""
        return cls(request)

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``.

        Returns:
            Shape (size, 12): vehicles a second, share of the time a loop is occupied, vehicles waiting or
            approaching; NaN where samples dropped out.
        """
        t = self._request.first_s + (np.arange(size) + number * size) / self._request.rate_hz
        seconds = np.floor(t).astype(np.int64)
        chunks = seconds // CHUNK_S
        samples = np.empty((size, len(CHANNELS)))
        for chunk in np.unique(chunks):
            mine = chunks == chunk
            samples[mine] = self._chunk(int(chunk))[seconds[mine] - chunk * CHUNK_S]
        self._fail(t, samples)
        self._drop(t, samples, number)
        return samples.astype(np.float32)

    def demand(self, at_s: float) -> Array:
        """Vehicles a second of each phase, at a time in seconds after the scenario's start."""
        at = self._request.start + timedelta(seconds=at_s)
        shift = sum(i.severity for i in self._of("demand_shift") if i.start_s <= at_s < i.end_s)
        level = daily_level(at.astimezone(TIME_ZONE) - timedelta(hours=SHIFT_H * shift))
        day = np.random.default_rng([*self._key, at.toordinal()]).normal(0.0, 0.06)
        turned = np.array([1 - 0.25 * shift, 1.0, 1 + 0.35 * shift, 1.0])
        return np.asarray(self._peak * np.maximum(turned, 0.1) * level * math.exp(day))

    def _of(self, kind: str) -> list[Injection]:
        return [i for i in self._request.injections if i.kind == kind]

    def _chunk(self, number: int) -> Array:
        if number not in self._chunks:
            while len(self._chunks) >= KEPT:
                self._chunks.pop(next(iter(self._chunks)))
            self._chunks[number] = self._simulated(number)
        return self._chunks[number]

    def _simulated(self, number: int) -> Array:
        """Seconds of a chunk, shape (CHUNK_S, 12)."""
        begin = number * CHUNK_S - WARM_UP_S
        names = [arm.name for arm in self._site.arms]
        levels = [self.demand(begin + k) for k in range(0, CHUNK_S + WARM_UP_S, 60)]
        rates = [dict(zip(names, (float(v) for v in level), strict=True)) for level in levels]
        seed = int(np.random.default_rng([*self._key, number + 1, 7]).integers(2**31))
        network = QueueNetwork(self._site, lambda second: rates[second // 60], seed, now_s=float(begin))
        found = np.empty((CHUNK_S, len(CHANNELS)))
        for second in range(CHUNK_S + WARM_UP_S):
            network.capacity = self._capacity(begin + second)
            network.step(None)
            if second >= WARM_UP_S:
                counts = network.vehicles()[self._request.device_id]
                found[second - WARM_UP_S] = [*network.departed, *self._occupied(network), *counts]
        return found

    def _capacity(self, at_s: float) -> Array:
        capacity = np.ones(len(NAMES))
        for item in self._of("incident"):
            if item.start_s <= at_s < item.end_s:
                capacity[CHANNELS.index(item.channel or CHANNELS[0]) % len(NAMES)] = max(
                    1 - item.severity, 0.0
                )
        return capacity

    @staticmethod
    def _occupied(network: QueueNetwork) -> Array:
        """Share of the second in which a loop is occupied: a vehicle stands there, or vehicles pass."""
        passing = np.minimum(network.departed * PASSING_S, 1.0)
        return np.where((network.departed == 0) & (network.queue > 0), 1.0, passing)

    def _fail(self, t: Array, samples: Array) -> None:
        for item in self._of("detector_failure"):
            hit = (t >= item.start_s) & (t < item.end_s)
            phase = CHANNELS.index(item.channel or CHANNELS[0]) % len(NAMES)
            for place, value in enumerate((0.0, 1.0, 0.0)):  # the loop reads occupied, and counts nothing
                samples[hit, place * len(NAMES) + phase] = value

    def _drop(self, t: Array, samples: Array, number: int) -> None:
        for index, item in enumerate(self._of("dropout")):
            rng = np.random.default_rng([*self._key, number + 1, 100 + index])
            hit = (rng.random(t.size) < item.severity) & (t >= item.start_s) & (t < item.end_s)
            columns = [CHANNELS.index(item.channel)] if item.channel else range(len(CHANNELS))
            for column in columns:
                samples[hit, column] = np.nan


def daily_level(local: datetime) -> float:
    """Demand as a share of the peak's, by local time and day type."""
    peaks = WEEKEND_PEAKS if local.weekday() >= 5 else WEEKDAY_PEAKS
    hour = local.hour + local.minute / 60
    heights = (high * math.exp(-0.5 * ((hour - at) / wide) ** 2) for at, wide, high in peaks)
    return NIGHT + (1 - NIGHT) * max(*heights, 0.45 if 9 <= hour < 20 else 0.0)

"""``intersection``: loop detectors of one intersection, from the queue model.

Time is cut into quarters of an hour; each is simulated for itself, from empty streets some minutes before
it begins. So a sample depends on seed, device and its time alone. A sample is a second of the street: a
profile of ten samples a second plays the streets ten times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest, device_number
from schemas.verticals.traffic.queue_network import QueueNetwork
from schemas.verticals.traffic.standard_junction import APPROACHES, NAMES, approach_site, detected

Array = NDArray[np.float64]

PHASE_CHANNELS = tuple(f"{what}_{name}" for what in ("flow", "occupancy", "queue", "green") for name in NAMES)
PARTS = tuple(part for name in APPROACHES for part in detected(name))
CHANNELS = PHASE_CHANNELS + tuple(f"{what}_{part}" for what in ("flow", "queue") for part in PARTS)
"""By phase, the lights among them; then by approach, of the phases whose approaches have detectors."""
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

    Injections: ``incident``: a share (``severity``) of the phase or approach of ``channel`` is blocked at
        its stop line;
    ``detector_failure``: the detectors of the phase of ``channel`` stay at one value; ``demand_shift``:
    another pattern of demand; ``steady_demand``: the same share (``severity``) of the peak's whatever the
    clock says; ``pulse_mode``: loops report vehicles that pass, and none that stand;
    ``undercount``: a share (``severity``) of the vehicles that pass is not counted; ``recalibration``: one
    channel reads gain * x + offset;
    ``dropout``: samples go missing.
    """

    channels: ClassVar[tuple[str, ...]] = CHANNELS
    kinds: ClassVar[Mapping[str, bool]] = {
        "incident": True,
        "detector_failure": True,
        "demand_shift": False,
        "steady_demand": False,
        "pulse_mode": False,
        "undercount": False,
        "recalibration": False,
        "dropout": False,
    }

    def __init__(self, request: GeneratorRequest) -> None:
        self._request = request
        self._key = [request.seed, device_number(request.device_id)]
        rng = np.random.default_rng(self._key)
        self._peak = np.array([0.30, 0.06, 0.24, 0.05]) * np.exp(rng.normal(0.0, 0.15, len(NAMES)))
        self._site = approach_site(request.device_id, rng.uniform(0.42, 0.58, len(APPROACHES)).tolist())
        self._of_phase = [
            [k for k, arm in enumerate(self._site.arms) if arm.phase == p] for p in range(len(NAMES))
        ]
        self._places = {arm.name.rpartition("/")[2]: k for k, arm in enumerate(self._site.arms)}
        self._quarters: dict[int, PlayedQuarter] = {}

    @classmethod
    def of(cls, request: GeneratorRequest) -> IntersectionSensors:
        """The detectors of one intersection."""
        return cls(request)

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``.

        Returns:
            Shape (size, 24): vehicles a second, share of the time a loop is occupied, vehicles waiting or
            approaching, 1 while it is green, each by phase; then vehicles a second and vehicles waiting by
            approach. NaN where samples dropped out.
        """
        t = self._request.first_s + (np.arange(size) + number * size) / self._request.rate_hz
        seconds = np.floor(np.round(t * self._request.rate_hz, 6)).astype(np.int64)
        chunks = seconds // CHUNK_S
        samples = np.empty((size, len(CHANNELS)))
        for chunk in np.unique(chunks):
            mine = chunks == chunk
            wanted = seconds[mine] - chunk * CHUNK_S
            samples[mine] = self._quarter(int(chunk)).until(int(wanted.max()) + 1)[wanted]
        self._pulse(t, samples)
        self._miscount(t, samples, number)
        self._recalibrate(t, samples)
        self._fail(t, samples)
        self._drop(t, samples, number)
        return samples.astype(np.float32)

    def demand(self, at_s: float) -> Array:
        """Vehicles a second of each phase, at a time in seconds after the scenario's start."""
        at = self._request.start + timedelta(seconds=at_s)
        shift = sum(i.severity for i in self._of("demand_shift") if i.start_s <= at_s < i.end_s)
        level = daily_level(at.astimezone(TIME_ZONE) - timedelta(hours=SHIFT_H * shift))
        # The streets are filled before the start: a demand that holds from the start holds then too.
        held = [i for i in self._of("steady_demand") if i.start_s <= max(at_s, 0.0) < i.end_s]
        level = held[-1].severity if held else level
        day = np.random.default_rng([*self._key, at.toordinal()]).normal(0.0, 0.06)
        turned = np.array([1 - 0.25 * shift, 1.0, 1 + 0.35 * shift, 1.0])
        return np.asarray(self._peak * np.maximum(turned, 0.1) * level * math.exp(day))

    def _of(self, kind: str) -> list[Injection]:
        return [i for i in self._request.injections if i.kind == kind]

    def _quarter(self, number: int) -> PlayedQuarter:
        if number not in self._quarters:
            while len(self._quarters) >= KEPT:
                self._quarters.pop(next(iter(self._quarters)))
            self._quarters[number] = self._begun(number)
        return self._quarters[number]

    def _begun(self, number: int) -> PlayedQuarter:
        begin = number * CHUNK_S - WARM_UP_S
        rate_hz = self._request.rate_hz
        levels = [self.demand((begin + k) / rate_hz) for k in range(0, CHUNK_S + WARM_UP_S, 60)]
        rates = [{a.name: float(level[a.phase]) * a.share for a in self._site.arms} for level in levels]
        seed = int(np.random.default_rng([*self._key, number + 1, 7]).integers(2**31))
        network = QueueNetwork(self._site, lambda second: rates[second // 60], seed, now_s=float(begin))

        def stepped(second: int) -> list[float]:
            network.capacity = self._capacity((begin + second) / rate_hz)
            network.step(None)
            return self._second(network) if second >= WARM_UP_S else []

        return PlayedQuarter(stepped)

    def _second(self, network: QueueNetwork) -> list[float]:
        """Channels of the second that the network has just made."""
        counts, head = network.vehicles()[self._request.device_id], network.heads[self._request.device_id]
        flows = [float(network.departed[arms].sum()) for arms in self._of_phase]
        standing = [int(network.queue[arms].sum()) for arms in self._of_phase]
        occupied = [
            1.0 if not flow and queue else min(flow * PASSING_S, 1.0)
            for flow, queue in zip(flows, standing, strict=True)
        ]
        greens = [float(head.green_s > 0 and head.view.phase == k) for k in range(len(NAMES))]
        parts = [self._places[part] for part in PARTS]
        by_part = [float(network.departed[k]) for k in parts]
        of_parts = [each for name, each in zip(NAMES, counts, strict=True) if name in APPROACHES]
        waiting = [count for each in of_parts for count in each]
        return [*flows, *occupied, *map(sum, counts), *greens, *by_part, *waiting]

    def _capacity(self, at_s: float) -> Array:
        capacity = np.ones(len(self._site.arms))
        for item in self._of("incident"):
            if item.start_s <= at_s < item.end_s:
                capacity[self._hit(item)] = max(1 - item.severity, 0.0)
        return capacity

    def _hit(self, item: Injection) -> list[int]:
        """Arms of an incident: the one approach, or those of the phase."""
        part = (item.channel or CHANNELS[0]).partition("_")[2]
        return [self._places[part]] if part in self._places else self._of_phase[NAMES.index(part)]

    def _pulse(self, t: Array, samples: Array) -> None:
        """Loops in pulse mode report no vehicle that stands."""
        for item in self._of("pulse_mode"):
            hit = (t >= item.start_s) & (t < item.end_s)
            columns = slice(len(NAMES), 2 * len(NAMES))
            samples[hit, columns] = np.where(samples[hit, columns] >= 1, 0.0, samples[hit, columns])

    def _miscount(self, t: Array, samples: Array, number: int) -> None:
        """Stop lines miss vehicles, as where two that follow closely count as one."""
        for index, item in enumerate(self._of("undercount")):
            rng = np.random.default_rng([*self._key, number + 1, 200 + index])
            hit = (t >= item.start_s) & (t < item.end_s)
            for name in NAMES:
                parts = [CHANNELS.index(f"flow_{part}") for part in detected(name)]
                passed = samples[:, parts].astype(np.int64)
                told = rng.binomial(passed, max(1 - item.severity, 0.0))
                for place, column in enumerate(parts):
                    samples[hit, column] = told[hit, place]
                samples[hit, CHANNELS.index(f"flow_{name}")] = told[hit].sum(axis=1)

    def _recalibrate(self, t: Array, samples: Array) -> None:
        for item in self._of("recalibration"):
            hit, column = (t >= item.start_s) & (t < item.end_s), CHANNELS.index(item.channel)
            samples[hit, column] = item.gain * samples[hit, column] + item.offset

    def _fail(self, t: Array, samples: Array) -> None:
        for item in self._of("detector_failure"):
            hit = (t >= item.start_s) & (t < item.end_s)
            name = (item.channel or CHANNELS[0]).partition("_")[2]
            dead = {f"occupancy_{name}": 1.0}  # the loop reads occupied, and counts nothing
            dead |= {f"{what}_{part}": 0.0 for what in ("flow", "queue") for part in {name, *detected(name)}}
            for channel, value in dead.items():
                samples[hit, CHANNELS.index(channel)] = value

    def _drop(self, t: Array, samples: Array, number: int) -> None:
        for index, item in enumerate(self._of("dropout")):
            rng = np.random.default_rng([*self._key, number + 1, 100 + index])
            hit = (rng.random(t.size) < item.severity) & (t >= item.start_s) & (t < item.end_s)
            columns = [CHANNELS.index(item.channel)] if item.channel else range(len(CHANNELS))
            for column in columns:
                samples[hit, column] = np.nan


class PlayedQuarter:
    """A quarter of an hour, simulated as far as it was asked for.

    All of it at once would hold up a process that plays many intersections: their quarters begin together.

    Args:
        stepped: Makes the next second, told its number from the warm-up's first on; gives its channels.
    """

    def __init__(self, stepped: Callable[[int], list[float]]) -> None:
        self._stepped = stepped
        self._samples = np.empty((CHUNK_S, len(CHANNELS)))
        self._known = 0
        for second in range(WARM_UP_S):
            stepped(second)

    def until(self, count: int) -> Array:
        """The first seconds, shape (count, 24)."""
        for second in range(self._known, count):
            self._samples[second] = self._stepped(WARM_UP_S + second)
        self._known = max(self._known, count)
        return self._samples[:count]


def daily_level(local: datetime) -> float:
    """Demand as a share of the peak's, by local time and day type."""
    peaks = WEEKEND_PEAKS if local.weekday() >= 5 else WEEKDAY_PEAKS
    hour = local.hour + local.minute / 60
    heights = (high * math.exp(-0.5 * ((hour - at) / wide) ** 2) for at, wide, high in peaks)
    return NIGHT + (1 - NIGHT) * max(*heights, 0.45 if 9 <= hour < 20 else 0.0)

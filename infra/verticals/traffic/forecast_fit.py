"""The forecasts of the intersections' factory model, fitted to weeks of simulated demand.

Weeks of the queue model would take hours. Flows are drawn from the generator's demand; how many vehicles wait
at a flow is learnt from the quarters of an hour that the score is fitted to as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import IntersectionSensors
from model_service.verticals.traffic.hour_forecast import HourForecast, fit_forecast
from model_service.verticals.traffic.intersection_model import offset_of
from schemas.history_spec import HOURS, STEPS
from schemas.profile import Profile

Array = NDArray[np.float64]

DEVICES, WEEKS = 12, 4
QUARTER_S = 900
START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday."""


@dataclass(frozen=True)
class QueueResponse:
    """How many vehicles wait at a flow, both of the whole intersection.

    Attributes:
        curve: Of log(1 + vehicles) by vehicles a second, highest power first.
        most: Largest flow that was seen.
        between, within: How far intersections, and quarters of one, lie from the curve.
    """

    curve: Array
    most: float
    between: float
    within: float

    @classmethod
    def of(cls, flows: Sequence[Array], queues: Sequence[Array]) -> QueueResponse:
        """From means of quarters of an hour, by intersection."""
        curve = _six_digits(np.polyfit(np.concatenate(flows), np.log1p(np.concatenate(queues)), 2))
        left = [np.log1p(q) - np.polyval(curve, f) for f, q in zip(flows, queues, strict=True)]
        own = np.array([each.mean() for each in left])
        within = np.concatenate([each - each.mean() for each in left])
        numbers = _six_digits(np.array([np.concatenate(flows).max(), own.std(), within.std()])).tolist()
        return cls(curve, *numbers)

    def drawn(self, flows: Array, rng: np.random.Generator) -> Array:
        """Vehicles that wait at one intersection with these flows, shape (n,)."""
        own = rng.normal(0.0, self.between)
        usual = np.polyval(self.curve, np.minimum(flows, self.most))
        return np.maximum(np.expm1(usual + own + rng.normal(0.0, self.within, len(flows))), 0.0)


def fitted_forecasts(
    profile: Profile, healthy: Sequence[Sequence[Array]], seed: int
) -> dict[str, HourForecast]:
    """The forecast of each sum of the profile's history.

    Args:
        profile: Names the sums ``flow`` and ``queue``.
        healthy: By intersection, features of quarters of an hour, each (m, F).
        seed: Of demand and draws.
    """
    means = [quarter_sums(profile, runs) for runs in healthy]
    response = QueueResponse.of([m["flow"] for m in means], [m["queue"] for m in means])
    flow, queue = [], []
    for number in range(DEVICES):
        rng = np.random.default_rng([seed, number, 2])
        passed = flows_of_weeks(f"weeks-{number}", seed, rng)
        flow.append((_hours(passed), 0))
        queue.append((_hours(response.drawn(passed, rng)), 0))
    return {"flow": fit_forecast(flow), "queue": fit_forecast(queue)}


def quarter_sums(profile: Profile, runs: Sequence[Array]) -> Mapping[str, Array]:
    """Means of the profile's sums over each run, without what they count beside vehicles, by name."""
    names = profile.feature_names
    return {
        name: np.array([run[:, [names.index(f) for f in of]].sum(axis=1).mean() for run in runs])
        - offset_of(of)
        for name, of in profile.model.history_sums.items()
    }


def flows_of_weeks(device_id: str, seed: int, rng: np.random.Generator) -> Array:
    """Vehicles a second of one intersection by quarter of an hour, from a Monday on."""
    sensors = IntersectionSensors.of(GeneratorRequest(seed, device_id, 1.0, (), 0.0, START))
    middles = (np.arange(WEEKS * HOURS * STEPS) + 0.5) * QUARTER_S
    demand = np.array([float(sensors.demand(at).sum()) for at in middles.tolist()])
    return np.asarray(rng.poisson(demand * QUARTER_S) / QUARTER_S)


def _hours(quarters: Array) -> Array:
    return np.asarray(quarters.reshape(-1, STEPS).mean(axis=1))


def _six_digits(values: Array) -> Array:
    """Significant ones: the last bits differ from processor to processor."""
    return np.array([float(f"{value:.6g}") for value in values])

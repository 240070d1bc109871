"""Summaries of intersections as the lake has them, and the survey of a street."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from schemas.tables import SUMMARIES
from schemas.verticals.traffic.road_site import Arm, Feeder, RoadSite
from schemas.verticals.traffic.standard_junction import NAMES, standard_junction
from tests.feature_store.fleets import fill

TRAVEL_S = 15.0
BUSY = (0.42, 0.04, 0.16, 0.03)
"""Vehicles a second of each phase: the street's own direction is the first."""


def street(devices: Sequence[str]) -> RoadSite:
    """Intersections in a row: what leaves the first phase of one goes on to the next."""
    arms = []
    for number, device in enumerate(devices):
        for phase, own in enumerate(standard_junction().phases):
            joined = number and phase == 0
            feeders = (Feeder(f"{devices[number - 1]}/0", 0.9, TRAVEL_S),) if joined else ()
            arms.append(Arm(f"{device}/{phase}", device, phase, own.saturation, 1.0, feeders))
    return RoadSite({device: standard_junction() for device in devices}, tuple(arms))


def summaries(
    days: Sequence[datetime], hours: Mapping[int, Sequence[float]], devices: Sequence[str], queue: float = 2.0
) -> pa.Table:
    """One summary an hour: flows of each phase, and queues.

    Args:
        days: Midnights, UTC.
        hours: Flows by hour of the day.
        devices: Ids.
        queue: Mean of each phase's.
    """
    found = []
    for device in devices:
        for day in days:
            for hour, flows in hours.items():
                at = day + timedelta(hours=hour)
                found += [(device, f"flow_{n}_mean", at, flow) for n, flow in zip(NAMES, flows, strict=True)]
                found += [(device, f"queue_{n}_queued_mean", at, queue + 1.0) for n in NAMES]
    ids, features, starts, means = zip(*found, strict=True)
    n = len(found)
    columns = {"device_id": ids, "feature": features, "period_start": starts, "mean": means}
    fixed = {"n": [1800] * n, "part": [0] * n, "period_s": [3600.0] * n, "n_missing": [0] * n}
    return fill(SUMMARIES.schema, profile=["machine"] * n, **columns, **fixed)

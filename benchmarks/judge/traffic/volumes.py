"""Hourly volumes of I-94: the forecast of devices, fitted to 2016 and judged after, beside two plain ones."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_service.verticals.traffic.hour_forecast import HourForecast, fit_forecast, lagged
from schemas.history_spec import HOURS

Array = NDArray[np.float64]
FILE = "Metro_Interstate_Traffic_Volume.csv"
FIT_FROM, JUDGE_FROM = datetime(2016, 1, 1), datetime(2017, 1, 1)  # noqa: DTZ001  (local hours, as recorded)
BLOCK_H, DRAWS, SEED = HOURS, 2000, 20260101


@dataclass(frozen=True)
class Volumes:
    """Consecutive hours.

    Attributes:
        begin: Local hour of the first.
        flows: Vehicles an hour; NaN: the recording has no such hour.
        repeated: Rows of the file whose hour it has already; the first counts.
    """

    begin: datetime
    flows: Array
    repeated: int

    @property
    def first(self) -> int:
        """Hour of the week of the first."""
        return self.begin.weekday() * 24 + self.begin.hour

    def between(self, begin: datetime, end: datetime) -> Volumes:
        """The hours from begin to end."""
        first, last = (int((at - self.begin) / timedelta(hours=1)) for at in (begin, end))
        return Volumes(begin, self.flows[first:last], self.repeated)


def read_volumes(path: Path) -> Volumes:
    """The recording, with its gaps."""
    found: dict[datetime, float] = {}
    rows = 0
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.strptime(row["date_time"], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007  (as above)
            rows += 1
            found.setdefault(at, float(row["traffic_volume"]))
    begin, end = datetime(2012, 10, 1), max(found)  # noqa: DTZ001
    hours = [begin + timedelta(hours=k) for k in range(int((end - begin) / timedelta(hours=1)) + 1)]
    return Volumes(begin, np.array([found.get(at, np.nan) for at in hours]), rows - len(found))


@dataclass(frozen=True)
class ForecastErrors:
    """Absolute errors of the same hours, vehicles an hour."""

    ours: Array
    persistence: Array
    last_week: Array

    def ratio(self, other: Array, block: int = BLOCK_H) -> tuple[float, float, float]:
        """Our mean absolute error as a share of another's, with the middle 95 % of a bootstrap of
        blocks of so many errors, by default whole weeks."""
        rng = np.random.default_rng(SEED)
        blocks = [np.arange(k, min(k + block, len(other))) for k in range(0, len(other), block)]
        drawn = []
        for _ in range(DRAWS):
            rows = np.concatenate([blocks[k] for k in rng.integers(0, len(blocks), len(blocks))])
            drawn.append(self.ours[rows].mean() / other[rows].mean())
        low, high = np.quantile(drawn, (0.025, 0.975))
        return float(self.ours.mean() / other.mean()), float(low), float(high)


def fitted(volumes: Volumes) -> HourForecast:
    """The forecast, from 2016 alone."""
    year = volumes.between(FIT_FROM, JUDGE_FROM)
    return fit_forecast([(year.flows, year.first)])


def judged(volumes: Volumes) -> ForecastErrors:
    """Errors from 2017 on, at the hours for which all three forecasts have what they need."""
    end = volumes.begin + timedelta(hours=len(volumes.flows))
    after = volumes.between(JUDGE_FROM, end)
    x, at, y = lagged(after.flows, after.first)
    made = fitted(volumes).predict(x, at)
    usable = ~np.isnan(made) & ~np.isnan(y) & ~np.isnan(x[:, -1])
    y, x, made = y[usable], x[usable], made[usable]
    return ForecastErrors(abs(made - y), abs(x[:, 0] - y), abs(x[:, -1] - y))

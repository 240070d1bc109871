"""The next hour of a quantity that follows days and weeks, as flow or queue: from the hours before.

    level * usual(t + 1) + sum over lags of w[hour, lag] * (y(t - lag) - level * usual(t - lag))

``usual`` is of the hour of the week, shared by all intersections; ``level`` says how busy this one is, by its
own last week; what is left of it, an hour ago and a week ago, counts by weights of the hour of the day,
fitted by ridge regression. Hours that are not known deviate by nothing, so it works from the second hour on.
Public holidays are days as others: a device knows none. The same arithmetic is written into a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from model_service.models.graph import FLOAT, INT64, GraphWriter
from model_service.models.rounding import rounded
from schemas.history_spec import HOURS

Array = NDArray[np.float64]

DAY = 24
LAGS = (0, 1, 2, HOURS - 1)
"""Hours before the newest whose deviations count: the three last, and a week before the predicted one."""
RIDGE = 10.0
PRIOR_H = 2.0
"""Hours of usual traffic that a level of 1 counts for, beside the hours that are known."""


@dataclass(frozen=True)
class HourForecast:
    """A fitted forecast.

    Attributes:
        usual: Shape (168,), by hour of the week, from Monday 0 h on.
        weights: Shape (24, 4), by hour of the day in which the predicted hour begins, and lag.
    """

    usual: Array
    weights: Array

    def predict(self, hours: Array, at: Array) -> Array:
        """The mean over the next hour.

        Args:
            hours: Shape (n, 168), means of the hours before, newest first; NaN: not known.
            at: Shape (n,), hours since Monday 0 h at which the next one begins; may have a fraction.

        Returns:
            Shape (n,), 0 at least; NaN where the newest hour is not known.
        """
        expected, deviations = self.parts(hours, at)
        found = expected + (self.weights[_begun(at) % DAY] * deviations).sum(axis=1)
        return np.asarray(np.where(np.isfinite(hours[:, 0]), np.maximum(found, 0.0), np.nan))

    def parts(self, hours: Array, at: Array) -> tuple[Array, Array]:
        """What is usual for the next hour at this level, shape (n,), and the deviations, shape (n, 4)."""
        every = self._usual_at(at)
        usual, known = every[:, 1:], np.isfinite(hours)
        prior = PRIOR_H * self.usual.mean()
        level = (np.where(known, hours, 0.0).sum(axis=1) + prior) / ((usual * known).sum(axis=1) + prior)
        left = np.where(known, hours - level[:, None] * usual, 0.0)
        return level * every[:, 0], left[:, LAGS]

    def _usual_at(self, at: Array) -> Array:
        """``usual`` at these times and so many hours before, 0 to 168, linear between hours: (n, 169)."""
        begun = _begun(at)[:, None] - np.arange(HOURS + 1)
        share = (at - np.floor(at))[:, None]
        return np.asarray((1 - share) * self.usual[begun % HOURS] + share * self.usual[(begun + 1) % HOURS])

    def write(self, writer: GraphWriter, hours: str, at: str) -> str:
        """Adds the forecast to a graph: hours (168,) and time (1,) to (1,)."""
        usual, zero = writer.constant(self.usual.astype(np.float32)), writer.floats(0.0)
        floor = writer.op("Floor", at)
        share = writer.op("Sub", at, floor)
        begun = writer.op("Cast", floor, to=INT64)
        back = writer.op("Sub", begun, writer.constant(np.arange(HOURS + 1, dtype=np.int64)))
        week = writer.ints(HOURS)
        here = writer.op("Gather", usual, writer.op("Mod", back, week))
        next_one = writer.op("Mod", writer.op("Add", back, writer.ints(1)), week)
        rise = writer.op("Sub", writer.op("Gather", usual, next_one), here)
        every = writer.op("Add", here, writer.op("Mul", share, rise))
        target = _part(writer, every, 0, 1)
        before = _part(writer, every, 1, HOURS + 1)
        known = writer.op("Not", writer.op("IsNaN", hours))
        prior = writer.constant(np.array([PRIOR_H * self.usual.mean()], dtype=np.float32))
        measured = _total(writer, writer.op("Where", known, hours, zero), prior)
        there = _total(writer, writer.op("Mul", before, writer.op("Cast", known, to=FLOAT)), prior)
        level = writer.op("Div", measured, there)
        left = writer.op("Sub", hours, writer.op("Mul", level, before))
        left = writer.op("Gather", writer.op("Where", known, left, zero), writer.ints(*LAGS))
        day = writer.op("Mod", writer.op("Mod", begun, week), writer.ints(DAY))
        weights = writer.op("Gather", writer.constant(self.weights.astype(np.float32)), day)
        change = _total(writer, writer.op("Mul", writer.op("Reshape", weights, writer.ints(-1)), left))
        found = writer.op("Max", writer.op("Add", writer.op("Mul", level, target), change), zero)
        none = writer.floats(float("nan"))
        return writer.op("Where", _part(writer, known, 0, 1), found, none)


def fit_forecast(series: Sequence[tuple[Array, int]]) -> HourForecast:
    """Fit to consecutive hours of one place or of several.

    Args:
        series: Of each place, hourly means of shape (n,), NaN where missing, and the hour of the week of the
            first.

    Raises:
        ValueError: An hour of the week has no value at all, or no series is longer than a week.
    """
    whole = float(np.mean([np.nanmean(values) for values, _ in series]))
    scaled = np.concatenate([values * (whole / np.nanmean(values)) for values, _ in series])
    hour = np.concatenate([(first + np.arange(len(values))) % HOURS for values, first in series])
    there = np.isfinite(scaled)
    lacking = HOURS - len(np.unique(hour[there]))
    if lacking:
        raise ValueError(f"nothing is known of {lacking} hours of the week; give whole weeks")
    usual = rounded(np.array([np.median(scaled[there & (hour == k)]) for k in range(HOURS)]))
    found = HourForecast(usual, np.zeros((DAY, len(LAGS))))
    rows = [lagged(values, first) for values, first in series if len(values) > HOURS]
    if not rows:
        raise ValueError("no series is longer than a week")
    x, at, y = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    usable = np.isfinite(x[:, 0]) & np.isfinite(y)
    x, at, y = x[usable], at[usable], y[usable]
    expected, deviations = found.parts(x, at)
    change = y - expected
    weights, scale = np.zeros((DAY, len(LAGS))), float(np.var(change)) or 1.0
    for day_hour in range(DAY):
        mine = _begun(at) % DAY == day_hour
        a, b = deviations[mine], change[mine]
        weights[day_hour] = np.linalg.solve(a.T @ a + RIDGE * scale * np.eye(len(LAGS)), a.T @ b)
    return HourForecast(usual, rounded(weights))


def lagged(values: Array, first: int) -> tuple[Array, Array, Array]:
    """Rows for ``predict`` from consecutive hours, and the hour that each is to predict.

    Args:
        values: Shape (n,).
        first: Hour of the week of the first.

    Returns:
        Shapes (n - 168, 168), (n - 168,) and (n - 168,).
    """
    x = sliding_window_view(values[:-1], HOURS)[:, ::-1]
    at = (first + np.arange(HOURS, len(values))) % HOURS
    return x, at.astype(np.float64), values[HOURS:]


def _begun(at: Array) -> NDArray[np.int64]:
    return np.floor(at).astype(np.int64)


def _part(writer: GraphWriter, vector: str, begin: int, end: int) -> str:
    return writer.op("Slice", vector, writer.ints(begin), writer.ints(end))


def _total(writer: GraphWriter, vector: str, more: str = "") -> str:
    total = writer.op("ReduceSum", vector, keepdims=1)
    return writer.op("Add", total, more) if more else total

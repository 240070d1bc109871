"""What the calendar explains of a feature: its usual deviation by hour of the day and day type. Pure.

A feature with a daily profile, such as the flow of a street, differs between the hours of a day by far more
than between two days at one hour. How far a device wanders while nothing happens is told at one hour: with
the hours in it, no shift within a day would ever be clear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_service.models.rounding import rounded

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]

HOURS = 24
STRETCHES = 4
"""Stretches of windows an entry of the table, below which no season is fitted."""
RIDGE = 1.0
"""Stretches without a deviation that each entry is given: an hour that few of them show is near the mean."""
_DIGITS = 4


class Season(NamedTuple):
    """The seasons of some features, and what they leave.

    Attributes:
        tables: Usual deviations of each feature, shape (F, E), by day type and hour.
        left: Standard deviation of a stretch's value around its device's and its hour's, shape (F,).
    """

    tables: Array
    left: Array


def table_weights(names: Sequence[str], rows: Array) -> Array | None:
    """Weights of a table's entries at some instants: linear between the middles of hours.

    Args:
        names: Calendar features, as ``schemas.calendar_features`` has them.
        rows: Their values, shape (n, K).

    Returns:
        Shape (n, E): 24 entries, or 48 where the calendar tells the day type, those of weekends last. None:
        the calendar does not tell the hour.
    """
    hours = _hours(names, rows)
    if hours is None:
        return None
    late = _weekend(names, rows)
    day = np.zeros(len(rows), dtype=np.int64) if late is None else late.astype(np.int64)
    first = np.floor(hours - 0.5).astype(np.int64)
    share = hours - 0.5 - first
    weights = np.zeros((len(rows), HOURS * (1 if late is None else 2)))
    every = np.arange(len(rows))
    weights[every, day * HOURS + first % HOURS] = 1.0 - share
    weights[every, day * HOURS + (first + 1) % HOURS] += share
    return weights


def middle_hour(hours: Array) -> float:
    """The hour in the middle of some windows, shape (n,): their mean around the clock, not across noon."""
    return float(np.angle(np.exp(2j * np.pi * hours / HOURS).mean()) / (2 * np.pi) % 1.0 * HOURS)


def fit_season(weights: Array, stretches: Array, device: Labels) -> Season | None:
    """Tables by ridge regression, beside a level of each device.

    Args:
        weights: Of each stretch, shape (m, E).
        stretches: Mean of each feature over each stretch, logarithms where features are compared by them,
            shape (m, F).
        device: Number of each stretch's device, shape (m,).

    Returns:
        None: too few stretches beside those that tell the levels, or an hour of a day type that none shows.
    """
    m, entries = weights.shape
    if m - len(np.unique(device)) < STRETCHES * entries or (weights.sum(axis=0) < 1).any():
        return None
    levels = np.eye(int(device.max()) + 1)[device]
    x = np.hstack([levels, weights])
    ridge = np.repeat([1e-9, RIDGE], [levels.shape[1], entries])
    inverse = np.linalg.inv(x.T @ x + np.diag(ridge))
    found = inverse @ x.T @ stretches
    freedom = m - float(np.trace(x @ inverse @ x.T))
    left = np.sqrt(((stretches - x @ found) ** 2).sum(axis=0) / freedom)
    tables = found[levels.shape[1] :]
    return Season(_rounded_tables((tables - (weights @ tables).mean(axis=0)).T), left)


def expected(tables: Array, weights: Array, windows: Array, logged: Flags) -> Array:
    """Usual deviation of a mean over windows at several times, shape (F,); NaN: a feature has no window.

    Args:
        tables: Shape (F, E).
        weights: Of each time, shape (n, E).
        windows: Number of each feature's at each time, shape (n, F).
        logged: Features whose deviations are logarithms, shape (F,): that of the mean is given.
    """
    each = weights @ tables.T
    with np.errstate(invalid="ignore"):
        share = windows / windows.sum(axis=0)
    scales = np.log((share * np.exp(np.where(logged, each, 0.0))).sum(axis=0))
    return np.asarray(np.where(logged, scales, (share * each).sum(axis=0)))


def tables_of(seasons: Mapping[str, Sequence[float]], names: Sequence[str]) -> Array | None:
    """Tables of some features, shape (F, E), zero where a feature has none; None: no feature has one."""
    entries = max((len(table) for table in seasons.values()), default=0)
    if not entries:
        return None
    return np.array([seasons.get(name) or np.zeros(entries) for name in names], dtype=np.float64)


def _hours(names: Sequence[str], rows: Array) -> Array | None:
    if "hour" in names:
        return np.asarray(rows[:, names.index("hour")])
    if not {"hour_sin", "hour_cos"} <= set(names):
        return None
    turn = np.arctan2(rows[:, names.index("hour_sin")], rows[:, names.index("hour_cos")]) / (2 * np.pi)
    return np.asarray(turn % 1.0 * HOURS)


def _weekend(names: Sequence[str], rows: Array) -> Flags | None:
    if "weekend" in names:
        return np.asarray(rows[:, names.index("weekend")] > 0.5)
    return np.asarray(rows[:, names.index("weekday")] > 4.5) if "weekday" in names else None


def _rounded_tables(tables: Array) -> Array:
    """To a ten-thousandth of each table's largest entry: the rest is noise."""
    largest = np.abs(tables).max(axis=1, keepdims=True)
    step = 10.0 ** (np.floor(np.log10(np.where(largest > 0, largest, 1.0))) - _DIGITS + 1)
    return rounded(np.round(tables / step) * step)

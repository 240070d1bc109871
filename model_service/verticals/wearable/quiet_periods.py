"""What wearers' features are at rest, from summaries of periods that were quiet as a whole. Pure.

A summary cannot tell which of its windows were quiet, so a period counts only where every window of it was:
the least quality and the largest motion of the period keep the bounds, and no score in it reached an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.config_spec import ConfigSpec
from schemas.output_names import PRIMARY
from schemas.profile import Profile
from schemas.verticals.wearable.wearer_prior import quiet_bounds

HOUR_US = 3_600_000_000
KEY = ["device_id", "boot_id", "model_version", "period_start", "part"]
VALUES = ("n", "mean", "m2", "min", "max")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QuietBounds:
    """When a window is quiet.

    Attributes:
        values: By the parameter's name, as a configuration holds them.
        least, most: Bounds by feature.
        below: Score that none of the windows may reach.
    """

    values: Mapping[str, float]
    least: Mapping[str, float]
    most: Mapping[str, float]
    below: float

    @classmethod
    def of(cls, profile: Profile, spec: ConfigSpec) -> QuietBounds:
        """The loosest bounds that the profile allows, and the score at which its mildest rule ends."""
        values: dict[str, float] = {}
        ends: dict[str, dict[str, float]] = {"least": {}, "most": {}}
        known = {p.name: p for p in spec.parameters}
        for name, feature, end in quiet_bounds(known):
            values[name] = known[name].min if end == "least" else known[name].max
            ends[end][feature] = values[name]
        below = min((rule.leave for rule in profile.decision.score_rules), default=1.0)
        return cls(values, ends["least"], ends["most"], below)


@dataclass(frozen=True)
class QuietPeriods:
    """Quiet periods of one feature, in the order of wearers and time.

    Attributes:
        wearers: Device ids, sorted; ``wearer`` is a place in them.
        wearer: Shape (P,), of each period.
        hour: Shape (P,), hours since 1970 in which it begins.
        n, mean, m2, low, high: Shape (P,), windows, moments and extremes of each.
    """

    wearers: tuple[str, ...]
    wearer: NDArray[np.int64]
    hour: NDArray[np.int64]
    n: Floats
    mean: Floats
    m2: Floats
    low: Floats
    high: Floats

    def of(self, chosen: Sequence[str]) -> QuietPeriods:
        """Those of some wearers."""
        kept = np.isin(self.wearer, [self.wearers.index(name) for name in chosen])
        floats = (self.n, self.mean, self.m2, self.low, self.high)
        return QuietPeriods(self.wearers, self.wearer[kept], self.hour[kept], *(f[kept] for f in floats))


def quiet_periods(
    summaries: pa.Table, features: Sequence[str], bounds: QuietBounds
) -> dict[str, QuietPeriods]:
    """Quiet periods of each feature.

    Args:
        summaries: Rows as the lake has them.
        features: To be calibrated.
        bounds: When a window is quiet.
    """
    table = summaries.select([*KEY, "feature", *VALUES])
    # Negative parts are a shadow's: the same windows once more.
    table = table.filter((pc.field("part") >= 0) & (pc.field("n") > 0))
    quiet = _rows(table, PRIMARY, pc.field("max") < bounds.below)
    for name, bound in sorted(bounds.least.items()):
        quiet = quiet.join(_rows(table, name, pc.field("min") >= bound), KEY, join_type="inner")
    for name, bound in sorted(bounds.most.items()):
        quiet = quiet.join(_rows(table, name, pc.field("max") <= bound), KEY, join_type="inner")
    return {name: _periods(table.filter(pc.field("feature") == name).join(quiet, KEY, join_type="inner"))
            for name in features}  # fmt: skip


def sensed_days(summaries: pa.Table, hop_s: float) -> float:
    """Days that all wearers wore their devices for, together."""
    rows = summaries.filter((pc.field("part") >= 0) & (pc.field("feature") == PRIMARY))
    windows = (pc.sum(rows["n"]).as_py() or 0) + (pc.sum(rows["n_missing"]).as_py() or 0)
    return float(windows * hop_s / 86400.0)


def _rows(table: pa.Table, feature: str, kept: Any) -> pa.Table:
    return table.filter((pc.field("feature") == feature) & kept).select(KEY)


def _periods(rows: pa.Table) -> QuietPeriods:
    rows = rows.sort_by([(name, "ascending") for name in KEY])
    ids = rows["device_id"].to_pylist()
    wearers = tuple(sorted(set(ids)))
    place = {name: k for k, name in enumerate(wearers)}
    start_us = rows["period_start"].cast(pa.int64()).to_numpy()
    numbers = [rows[name].cast(pa.float64()).to_numpy() for name in VALUES]
    return QuietPeriods(
        wearers, np.array([place[name] for name in ids], dtype=np.int64), start_us // HOUR_US, *numbers
    )

"""How each device moved since a verdict's onset, from the summaries of everything it saw.

Summaries hold every window, filtered ones included, so nothing here rests on what was sampled. Shifts are in
the champion's units: differences of logarithms for scales, of values for the rest, over the spread of healthy
windows. Reads one cut; the numbers go to ``cause``, which decides.
"""

# ruff: noqa: S608  # names and texts are quoted by the door; the rest are constants and numbers

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store import duck
from feature_store.labels import LABELLER, instant
from feature_store.views import alarms_sql
from model_service.training.cause import CohortShifts, DeviceShift
from schemas.manifest import Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]

LOOKBACK_WINDOWS = 24
"""Drift windows before the onset that say what was usual for a device."""
PARTS = 3
"""Equal parts of the time since the onset: what still grows shows between the first and the last."""
_BEFORE, _ONSET = -1, 0


@dataclass(frozen=True)
class Yardstick:
    """The champion's units.

    Attributes:
        logged: Which features are compared by logarithm, shape (F,).
        spread: Standard deviation of one healthy window, shape (F,).
        wander: Standard deviation of a device's mean over ``windows`` windows, in spreads, shape (F,).
        within: The same of its single windows, shape (F,): where it is hardly larger, all wandering is slow.
        windows: Consecutive windows of those means.
    """

    logged: NDArray[np.bool_]
    spread: Array
    wander: Array
    within: Array
    windows: int

    @classmethod
    def of(cls, champion: Manifest, profile: Profile) -> Yardstick | None:
        """From a manifest; None where it states no baselines (the generic model learns nothing)."""
        known = [champion.baselines.get(name) for name in profile.feature_names]
        stated = [b for b in known if b is not None]
        if len(stated) < len(known) or "std" not in champion.parameters:
            return None
        logged = np.array(champion.parameters["logged"]) > 0.5
        spread = np.array(champion.parameters["std"])
        level = np.where(logged, np.abs([b.mean for b in stated]), 1.0) * spread
        wander = np.array([b.mean_std for b in stated])
        within = np.sqrt([max(b.std**2 - b.device_std**2, b.mean_std**2) for b in stated])
        return cls(logged, spread, wander / level, within / level, stated[0].mean_windows)

    def scaled(self, means: Array) -> Array:
        """Means of windows, shape (…, F), as places on the yardstick."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.logged, np.log(means), means) / self.spread)

    def values(self, places: Array) -> Array:
        """Values at places on the yardstick, shape (F,)."""
        x = places * self.spread
        return np.asarray(np.where(self.logged, np.exp(np.where(self.logged, x, 0.0)), x))

    def spreads(self, values: Array) -> Array:
        """Spread of each feature around a value, in its own unit, shape (F,)."""
        return np.asarray(np.where(self.logged, np.abs(values), 1.0) * self.spread)

    def noise(self, before: int, after: int) -> Array:
        """Standard deviation of a device's shift while nothing happens, from counts of windows."""
        return np.asarray(np.hypot(self._noise_of(before), self._noise_of(after)))

    def _noise_of(self, windows: int) -> Array:
        fewer = max(self.windows / max(windows, 1), 1.0)
        return np.asarray(np.minimum(self.wander * fewer**0.5, self.within))


def read_scene(
    con: duck.Connection,
    profile: Profile,
    yardstick: Yardstick,
    onset: datetime,
    known_at: datetime,
    cohorts: Sequence[str],
) -> CohortShifts:
    """What the cohorts did since the onset, as known at an instant.

    Args:
        con: From ``connect``.
        profile: Whose devices.
        yardstick: The champion's units.
        onset: Start of the first window of what may be a new regime.
        known_at: Nothing that became known later counts.
        cohorts: ``profile/site/group/hardware`` that the verdicts speak of; empty: all of the profile.
    """
    places = _places(con, profile, known_at, cohorts)
    seen = _means(con, profile, onset, known_at)
    alarmed = _alarmed(con, profile, onset, known_at)
    found = [
        _shift(device, cohort, seen[device], yardstick)
        for device, cohort in sorted(places.items())
        if device in seen
    ]
    shifts = tuple(
        replace(d, alarmed_before=before, alarmed_after=after)
        for d in found
        if d is not None
        for before, after in [alarmed.get(d.device_id, (False, False))]
    )
    return CohortShifts(shifts, len(places), profile.feature_names)


def _places(
    con: duck.Connection, profile: Profile, known_at: datetime, cohorts: Sequence[str]
) -> dict[str, str]:
    """Cohort of each active device in question."""
    rows = duck.query(
        con,
        f"""
        SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort FROM (
            SELECT * FROM devices WHERE known_at <= {instant(known_at)} AND hardware <> '{LABELLER}'
            QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
        ) WHERE active AND profile = {duck.text(profile.name)}""",
    ).to_pylist()
    return {r["device_id"]: r["cohort"] for r in rows if not cohorts or r["cohort"] in cohorts}


class _Seen(NamedTuple):
    """A device's means: of the time before, of all since the onset, and of parts of it."""

    means: dict[int, Array]
    windows: dict[int, int]


def _means(con: duck.Connection, profile: Profile, onset: datetime, known_at: datetime) -> dict[str, _Seen]:
    """Per device the mean of each feature before (-1), in the onset's own window (0), and in parts (1 …)."""
    window = timedelta(seconds=profile.drift.window_s)
    first, settled = onset - LOOKBACK_WINDOWS * window, onset + window
    length = max((_newest(con, profile, known_at) - settled) / PARTS, window)
    features = list(profile.feature_names)
    rows = duck.query(
        con,
        f"""
        SELECT device_id, feature, CASE
            WHEN period_start < {instant(onset - window)} THEN {_BEFORE}
            WHEN period_start < {instant(settled)} THEN {_ONSET}
            ELSE 1 + least({PARTS - 1}, (epoch_us(period_start) - {_micros(settled)}) // {_us(length)})
            END AS part,
            sum(n)::BIGINT AS n, sum(n * mean) / sum(n) AS mean
        FROM summaries
        WHERE profile = {duck.text(profile.name)} AND known_at <= {instant(known_at)} AND n > 0
            AND feature IN ({", ".join(map(duck.text, features))})
            AND period_start >= {instant(first)} AND period_start < {instant(known_at)}
            AND (period_start < {instant(onset - window)} OR period_start >= {instant(onset)})
        GROUP BY ALL""",
    )
    found: dict[str, _Seen] = defaultdict(lambda: _Seen({}, {}))
    at = {name: i for i, name in enumerate(features)}
    for row in rows.to_pylist():
        seen = found[row["device_id"]]
        means = seen.means.setdefault(row["part"], np.full(len(features), np.nan))
        means[at[row["feature"]]] = row["mean"]
        seen.windows[row["part"]] = max(seen.windows.get(row["part"], 0), row["n"])
    return found


def _newest(con: duck.Connection, profile: Profile, known_at: datetime) -> datetime:
    """Start of the newest period that anybody summarised, and one drift window more."""
    query = f"""
        SELECT max(period_start) AS newest FROM summaries
        WHERE profile = {duck.text(profile.name)} AND known_at <= {instant(known_at)}
            AND period_start < {instant(known_at)}"""
    newest: datetime | None = duck.query(con, query).column("newest")[0].as_py()
    return known_at if newest is None else newest + timedelta(seconds=profile.drift.window_s)


def _shift(device_id: str, cohort: str, seen: _Seen, yardstick: Yardstick) -> DeviceShift | None:
    """The device's shift; None where it was not seen on both sides of the onset.

    The onset's own window may be half old: it counts only as long as there is nothing later.
    """
    after = sorted(p for p in seen.means if p > _ONSET) or [p for p in seen.means if p == _ONSET]
    if _BEFORE not in seen.means or not after:
        return None
    before = yardstick.scaled(seen.means[_BEFORE])
    counts = np.array([seen.windows[p] for p in after], dtype=np.float64)
    places = np.array([yardstick.scaled(seen.means[p]) for p in after])
    shift = np.average(places - before, axis=0, weights=counts)
    whole = np.isfinite(shift)
    return DeviceShift(
        device_id,
        cohort,
        shift=np.where(whole, shift, 0.0),
        parts=np.where(whole, places - before, 0.0),
        noise=np.where(whole, yardstick.noise(seen.windows[_BEFORE], int(counts.sum())), 1.0),
        place=np.average(places, axis=0, weights=counts),
    )


def _alarmed(
    con: duck.Connection, profile: Profile, onset: datetime, known_at: datetime
) -> dict[str, tuple[bool, bool]]:
    """Per device with alarms: whether one held when the onset came, and whether one began since."""
    known = f"known_at <= {instant(known_at)}"
    rows = duck.query(
        con,
        f"""
        SELECT device_id,
            bool_or(event_time < {instant(onset)} AND coalesce(until > {instant(onset)}, true)) AS before,
            bool_or(event_time >= {instant(onset)}) AS after
        FROM ({alarms_sql({profile.name: profile.decision.idle}, known)})
        WHERE profile = {duck.text(profile.name)} AND NOT fail_safe GROUP BY device_id""",
    ).to_pylist()
    return {r["device_id"]: (bool(r["before"]), bool(r["after"])) for r in rows}


def _micros(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _us(length: timedelta) -> int:
    return round(length.total_seconds() * 1e6)

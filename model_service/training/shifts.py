"""How each device moved since a verdict's onset, from the summaries of all its windows.

Summaries count every window, filtered ones included, so nothing here depends on what was sampled. Shifts are
on the champion's reference scale: differences of logarithms for scales, of values for all other features,
divided by the spread of healthy windows. What the champion's seasons say of the hours before and after the
onset is taken out. This module reads one cut; ``cause`` decides.
"""

# ruff: noqa: S608  # names and texts are quoted by the door; the rest are constants and numbers

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store import duck
from feature_store.labels import LABELLER, instant
from feature_store.views import alarms_sql
from model_service.detectors.healthy_reference import healthy_reference
from model_service.training.movement import CohortShifts, DeviceShift
from model_service.training.season_scale import PartOfDevice, SeasonScale, SeenHours
from schemas.boot_ids import GATEWAY
from schemas.instants import to_us
from schemas.manifest import Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]

LOOKBACK_WINDOWS = 24
"""Drift windows before the onset from which a device's usual means are taken."""
PARTS = 3
"""Equal parts of the time since the onset: a shift that still grows is larger in the last one."""
SLOT_US, WEEK_SLOTS = 1_800_000_000, 336
"""Half an hour, and how many a week has."""
_BEFORE, _ONSET = -1, 0


@dataclass(frozen=True)
class ReferenceScale:
    """The scale that shifts are measured on, from the champion's baselines.

    A position on it is a feature's value, or its logarithm, in spreads of healthy windows.

    Attributes:
        logged: Which features are compared by logarithm, shape (F,).
        spread: Standard deviation of one healthy window, of the logarithm where ``logged``, shape (F,).
        wander: Standard deviation of a device's mean over ``windows`` windows, in spreads, shape (F,).
        within: Standard deviation of a device's single windows, in spreads, shape (F,).
        windows: Number of consecutive windows of those means.
        measured: Which features are measured, shape (F,); those of the calendar move with the clock, and
            never count as a shift.
        season: Usual deviations by hour; None: the champion knows none, and ``wander`` is over all hours.
    """

    logged: NDArray[np.bool_]
    spread: Array
    wander: Array
    within: Array
    windows: int
    measured: NDArray[np.bool_]
    season: SeasonScale | None = None

    @classmethod
    def of(cls, champion: Manifest, profile: Profile) -> ReferenceScale | None:
        """The scale of a manifest; None: nobody has fitted it to healthy windows here."""
        known = [champion.baselines.get(name) for name in profile.feature_names]
        stated = [b for b in known if b is not None]
        found = healthy_reference(champion, profile)
        if len(stated) < len(known) or found is None:
            return None
        logged, spread = found.logged, found.std
        # Baselines are in the features' own units; of a logged feature one spread is a share of its mean.
        level = np.where(logged, np.abs([b.mean for b in stated]), 1.0) * spread
        wander = np.array([b.mean_std for b in stated])
        within = np.sqrt([max(b.std**2 - b.device_std**2, b.mean_std**2) for b in stated])
        measured = np.array([bool(s.sources) for s in profile.feature_specs()])
        season = SeasonScale.of(champion, profile, logged, spread)
        return cls(logged, spread, wander / level, within / level, stated[0].mean_windows, measured, season)

    def scaled(self, means: Array) -> Array:
        """Positions of means of windows, shape (…, F)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.logged, np.log(means), means) / self.spread)

    def values(self, positions: Array) -> Array:
        """Values at positions, shape (F,)."""
        x = positions * self.spread
        return np.asarray(np.where(self.logged, np.exp(np.where(self.logged, x, 0.0)), x))

    def spreads(self, values: Array) -> Array:
        """One spread of each feature at a value, in the feature's own unit, shape (F,)."""
        return np.asarray(np.where(self.logged, np.abs(values), 1.0) * self.spread)

    def noise(self, before: int, after: int) -> Array:
        """Standard deviation of a device's shift while nothing happens, shape (F,), by numbers of windows."""
        return np.asarray(np.hypot(self.noise_of(before), self.noise_of(after)))

    def noise_of(self, windows: int) -> Array:
        """The same of a device's mean over so many windows."""
        # A mean over fewer windows wanders more, at most as single windows do.
        fewer = max(self.windows / max(windows, 1), 1.0)
        return np.asarray(np.minimum(self.wander * fewer**0.5, self.within))


def read_shifts(
    connection: duck.Connection,
    profile: Profile,
    scale: ReferenceScale,
    onset: datetime,
    known_at: datetime,
    cohorts: Sequence[str],
) -> CohortShifts:
    """How the devices of some cohorts moved since the onset, as known at an instant.

    Args:
        connection: To a cut of the lake.
        profile: Of the devices.
        scale: Of the champion.
        onset: Start of the first drift window of what may be a new regime.
        known_at: Nothing that became known later counts.
        cohorts: As ``profile/site/group/hardware``; empty: all of the profile.
    """
    cohort_of = _cohorts(connection, profile, known_at, cohorts)
    times = _Times.of(connection, profile, onset, known_at)
    means = _means(connection, profile, times)
    usual = {} if scale.season is None else scale.season.positions(_hours(connection, profile, times))
    alarmed = _alarmed(connection, profile, onset, known_at)
    found = [
        _shift(device, cohort, means[device], scale, usual)
        for device, cohort in sorted(cohort_of.items())
        if device in means
    ]
    devices = tuple(
        replace(d, alarmed_before=before, alarmed_after=after)
        for d in found
        if d is not None
        for before, after in [alarmed.get(d.device_id, (False, False))]
    )
    log_unit = np.where(scale.logged, scale.spread, np.nan)
    return CohortShifts(devices, len(cohort_of), profile.feature_names, log_unit)


def _cohorts(
    connection: duck.Connection, profile: Profile, known_at: datetime, cohorts: Sequence[str]
) -> dict[str, str]:
    """Cohort of each active device of the given cohorts, by its newest registration."""
    rows = duck.query(
        connection,
        f"""
        SELECT device_id, concat_ws('/', profile, site, "group", hardware) AS cohort FROM (
            SELECT * FROM devices
            WHERE known_at <= {instant(known_at)} AND hardware NOT IN ('{LABELLER}', '{GATEWAY}')
            QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY _offset DESC, _row DESC) = 1
        ) WHERE active AND profile = {duck.text(profile.name)}""",
    ).to_pylist()
    return {r["device_id"]: r["cohort"] for r in rows if not cohorts or r["cohort"] in cohorts}


class _DeviceMeans(NamedTuple):
    """Means of one device's features, by part of the time.

    Attributes:
        means: By part, shape (F,); NaN: no window. Part -1 is before the onset, 0 the onset's own window.
        windows: Number of windows by part.
        at: Mean time of those windows by part, in drift windows from the onset.
    """

    means: dict[int, Array]
    windows: dict[int, int]
    at: dict[int, float]


class _Times(NamedTuple):
    """Parts of the time around an onset, as a query has them.

    Attributes:
        part: Number of a period's part: -1 before the onset, 0 in the onset's own window, 1 and more later.
        chosen: Condition on the periods. The drift window before the onset is left out: the change may have
            begun within it.
        onset_us: Microseconds since 1970.
        window_us: Length of a drift window.
    """

    part: str
    chosen: str
    onset_us: int
    window_us: int

    @classmethod
    def of(cls, connection: duck.Connection, profile: Profile, onset: datetime, known_at: datetime) -> _Times:
        """The time up to the newest summary, that after the onset's own window in ``PARTS`` equal parts."""
        window = timedelta(seconds=profile.drift.window_s)
        first, settled = onset - LOOKBACK_WINDOWS * window, onset + window
        length = max((_newest(connection, profile, known_at) - settled) / PARTS, window)
        length_us, window_us = length // timedelta(microseconds=1), window // timedelta(microseconds=1)
        part = f"""CASE
            WHEN period_start < {instant(onset - window)} THEN {_BEFORE}
            WHEN period_start < {instant(settled)} THEN {_ONSET}
            ELSE 1 + least({PARTS - 1}, (epoch_us(period_start) - {to_us(settled)}) // {length_us})
            END"""
        chosen = f"""profile = {duck.text(profile.name)} AND known_at <= {instant(known_at)} AND n > 0
            AND period_start >= {instant(first)} AND period_start < {instant(known_at)}
            AND (period_start < {instant(onset - window)} OR period_start >= {instant(onset)})"""
        return cls(part, chosen, to_us(onset), window_us)


def _means(connection: duck.Connection, profile: Profile, times: _Times) -> dict[str, _DeviceMeans]:
    """By device, the mean of each feature in each part of the time."""
    features = list(profile.feature_names)
    rows = duck.query(
        connection,
        f"""
        SELECT device_id, feature, {times.part} AS part,
            sum(n)::BIGINT AS n, sum(n * mean) / sum(n) AS mean,
            sum(n * (epoch_us(period_start) - {times.onset_us})) / sum(n) / {times.window_us} AS at
        FROM summaries WHERE {times.chosen} AND feature IN ({", ".join(map(duck.text, features))})
        GROUP BY ALL""",
    )
    found: dict[str, _DeviceMeans] = defaultdict(lambda: _DeviceMeans({}, {}, {}))
    at = {name: i for i, name in enumerate(features)}
    for row in rows.to_pylist():
        device = found[row["device_id"]]
        means = device.means.setdefault(row["part"], np.full(len(features), np.nan))
        means[at[row["feature"]]] = row["mean"]
        device.windows[row["part"]] = max(device.windows.get(row["part"], 0), row["n"])
        device.at[row["part"]] = row["at"]
    return found


def _hours(connection: duck.Connection, profile: Profile, times: _Times) -> dict[PartOfDevice, SeenHours]:
    """Windows of each device and part by half hour of the week, each with a time in it.

    Features with as many windows in a half hour share a row, which names them only if they are not all.
    """
    half = round(profile.summaries.period_s * 5e5)
    measured = [s.name for s in profile.feature_specs() if s.sources]
    rows = duck.query(
        connection,
        f"""
        SELECT device_id, part, slot, n, max(seen_at) AS seen_at,
            CASE WHEN count(*) < {len(measured)} THEN list(feature ORDER BY feature) END AS features
        FROM (
            SELECT device_id, feature, {times.part} AS part,
                epoch_us(period_start) // {SLOT_US} % {WEEK_SLOTS} AS slot,
                max(epoch_us(period_start)) + {half} AS seen_at, sum(n)::BIGINT AS n
            FROM summaries WHERE {times.chosen} AND feature IN ({", ".join(map(duck.text, measured))})
            GROUP BY ALL
        ) GROUP BY device_id, part, slot, n ORDER BY ALL""",
    )
    found: dict[PartOfDevice, SeenHours] = defaultdict(lambda: SeenHours([], [], []))
    every = np.isin(profile.feature_names, measured)
    for row in rows.to_pylist():
        seen, some = found[row["device_id"], row["part"]], row["features"]
        seen.at_us.append(row["seen_at"])
        seen.windows.append(row["n"])
        seen.features.append(every if some is None else np.isin(profile.feature_names, some))
    return found


def _newest(connection: duck.Connection, profile: Profile, known_at: datetime) -> datetime:
    """One drift window after the start of the newest period that any device summarised."""
    query = f"""
        SELECT max(period_start) AS newest FROM summaries
        WHERE profile = {duck.text(profile.name)} AND known_at <= {instant(known_at)}
            AND period_start < {instant(known_at)}"""
    newest: datetime | None = duck.query(connection, query).column("newest")[0].as_py()
    return known_at if newest is None else newest + timedelta(seconds=profile.drift.window_s)


def _shift(
    device_id: str,
    cohort: str,
    device: _DeviceMeans,
    scale: ReferenceScale,
    usual: Mapping[PartOfDevice, Array],
) -> DeviceShift | None:
    """The device's shift; None: it has no windows before or none after the onset.

    The onset's own window may hold the old regime as well: it counts only while there is nothing later.
    """
    after = sorted(p for p in device.means if p > _ONSET) or [p for p in device.means if p == _ONSET]
    if _BEFORE not in device.means or not after:
        return None
    counts = np.array([device.windows[p] for p in after], dtype=np.float64)
    positions = np.array([scale.scaled(device.means[p]) for p in after])
    at_hours = {p: usual.get((device_id, p), 0.0) for p in (_BEFORE, *after)}
    before = scale.scaled(device.means[_BEFORE]) - at_hours[_BEFORE]
    moved = positions - np.array([at_hours[p] + np.zeros(len(before)) for p in after]) - before
    shift = np.average(moved, axis=0, weights=counts)
    whole = np.isfinite(shift) & scale.measured
    return DeviceShift(
        device_id,
        cohort,
        shift=np.where(whole, shift, 0.0),
        parts=np.where(whole, moved, 0.0),
        since=np.array([device.at[p] - device.at[_BEFORE] for p in after]),
        part_noise=np.where(whole, [scale.noise_of(int(n)) for n in counts], 1.0),
        noise=np.where(whole, scale.noise(device.windows[_BEFORE], int(counts.sum())), 1.0),
        position=np.average(positions, axis=0, weights=counts),
    )


def _alarmed(
    connection: duck.Connection, profile: Profile, onset: datetime, known_at: datetime
) -> dict[str, tuple[bool, bool]]:
    """By device with alarms: whether one was in force at the onset, and whether one began after it."""
    known = f"known_at <= {instant(known_at)}"
    rows = duck.query(
        connection,
        f"""
        SELECT device_id,
            bool_or(event_time < {instant(onset)} AND coalesce(until > {instant(onset)}, true)) AS before,
            bool_or(event_time >= {instant(onset)}) AS after
        FROM ({alarms_sql({profile.name: profile.decision.resting}, known)})
        WHERE profile = {duck.text(profile.name)} AND NOT fail_safe GROUP BY device_id""",
    ).to_pylist()
    return {r["device_id"]: (bool(r["before"]), bool(r["after"])) for r in rows}

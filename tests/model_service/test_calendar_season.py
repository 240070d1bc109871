"""Laws of seasons: what the calendar explains is no wandering, and a shift is one against the same hours."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.bundle import load_bundle
from feature_store import connect
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.models.calendar_season import (
    HOURS,
    expected,
    fit_season,
    middle_hour,
    table_weights,
    tables_of,
)
from model_service.training.shifts import ReferenceScale, read_shifts
from schemas.calendar_features import Calendar
from schemas.errors import BundleError
from schemas.manifest import parse_manifest
from schemas.profile_file import find_profile
from schemas.tables import DEVICES, SUMMARIES
from tests.feature_store.fleets import fill, land

TRAFFIC = find_profile("traffic")
CHAMPION = load_bundle(TRAFFIC).manifest
NAMES = ("hour_sin", "hour_cos", "weekend")
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DEVICES_N = 4


def rows(times, names=NAMES):
    return Calendar(names, "UTC").rows([round(t.timestamp() * 1e6) for t in times])


def hours(count, first=MONDAY, step=timedelta(hours=1)):
    return [first + step / 2 + k * step for k in range(count)]


def test_each_hour_has_an_entry_of_its_own_and_between_two_middles_both_count():
    at = hours(7 * 24)
    weights = table_weights(NAMES, rows(at))
    assert weights.shape == (7 * 24, 2 * HOURS)
    np.testing.assert_allclose(weights.argmax(axis=1), [t.hour + HOURS * (t.weekday() >= 5) for t in at])
    np.testing.assert_allclose(weights.max(axis=1), 1.0)
    full = table_weights(("hour",), rows(hours(2, step=timedelta(hours=2)), ("hour",)))
    np.testing.assert_allclose(full[0, [0, 1]], 0.5)
    assert table_weights(("year_sin", "weekend"), rows(at, ("year_sin", "weekend"))) is None


def daily(at):
    """What a feature usually is beside its mean."""
    return np.array(
        [3.0 * np.exp(-(((t.hour + t.minute / 60 - 8) / 2) ** 2)) * (t.weekday() < 5) for t in at]
    )


def test_a_season_takes_out_what_the_hour_explains_and_leaves_the_rest():
    rng = np.random.default_rng(3)
    at = [MONDAY + timedelta(minutes=15 * int(k)) for k in rng.integers(0, 14 * 96, 40 * 12)]
    device = np.repeat(np.arange(40), 12)
    noise = rng.normal(0, 0.2, len(at))
    y = np.column_stack([daily(at) + noise, rng.normal(0, 1.0, len(at))]) + rng.normal(0, 2, 40)[device, None]
    found = fit_season(table_weights(NAMES, rows(at)), y, device)
    assert np.std(daily(at)) > 0.8
    assert found.left[0] == pytest.approx(0.2, rel=0.35)
    assert found.left[1] == pytest.approx(1.0, rel=0.15)
    whole = table_weights(NAMES, rows(hours(5 * 24)))
    assert np.abs(whole @ found.tables[0] - (daily(hours(5 * 24)) - np.mean(daily(at)))).mean() < 0.2
    few = fit_season(table_weights(NAMES, rows(at[:60])), y[:60], device[:60])
    assert few is None


def test_a_season_is_not_fitted_with_stretches_that_only_tell_the_devices_levels():
    at = hours(7 * 24)
    noise = np.random.default_rng(4).normal(0, 1.0, (len(at), 1))
    weights = table_weights(("hour",), rows(at, ("hour",)))
    assert fit_season(weights, noise, np.arange(len(at))) is None
    assert fit_season(weights, noise, np.arange(len(at)) // 2) is None
    assert fit_season(weights, noise, np.arange(len(at)) // 24).left[0] == pytest.approx(1.0, rel=0.2)


def test_the_middle_of_windows_around_midnight_is_midnight():
    around = middle_hour(np.array([23.0, 23.5, 0.0, 0.5, 1.0]))
    assert (around + 12) % 24 == pytest.approx(12.0)
    assert middle_hour(np.array([13.0, 14.0])) == pytest.approx(13.5)


def test_what_is_usual_of_a_mean_over_hours_is_their_mean_and_of_a_logarithm_that_of_the_mean():
    tables = np.log(np.array([[1.0, 3.0], [1.0, 3.0]]))
    found = expected(tables, np.eye(2), np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([False, True]))
    np.testing.assert_allclose(found, [0.75 * np.log(3.0), np.log(2.5)])
    assert tables_of({}, ("a",)) is None
    np.testing.assert_allclose(tables_of({"a": (1.0, 2.0)}, ("b", "a")), [[0, 0], [1, 2]])


def test_a_manifest_has_seasons_only_with_a_calendar_and_of_whole_days():
    machine, traffic = (
        load_bundle(find_profile(n)).manifest.model_dump(mode="json") for n in ("machine", "traffic")
    )
    with pytest.raises(BundleError, match="seasons need a calendar"):
        parse_manifest(json.dumps(machine | {"seasons": {"x": [0.0] * 24}}), "x")
    with pytest.raises(BundleError, match="24 numbers"):
        parse_manifest(json.dumps(traffic | {"seasons": {"x": [0.0] * 25}}), "x")


SHORT = TRAFFIC.model_copy(update={"drift": TRAFFIC.drift.model_copy(update={"window_s": 3600.0})})
ONSET = MONDAY + timedelta(days=1, hours=22)
PERIOD = timedelta(seconds=1800)


def lake_of(root, moved, gone=lambda _name, _at: False):
    """A day before the onset and four hours after it, at the hours' usual values; some features then move."""
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(SHORT)
    at = [ONSET + k * PERIOD for k in range(-48, 9)]
    weights = table_weights(NAMES, rows([t + PERIOD / 2 for t in at]))
    measured = [s.name for s in SHORT.feature_specs() if s.sources]
    logged = dict(zip(SHORT.feature_names, ReferenceScale.of(CHAMPION, SHORT).logged, strict=True))
    found = []
    for name in measured:
        usual = weights @ np.array(CHAMPION.seasons[name])
        mean = CHAMPION.baselines[name].mean
        values = mean * np.exp(usual) if logged[name] else mean + usual
        values = values + np.array([moved.get(name, 0.0) * (t >= ONSET) for t in at])
        found += [
            (f"i-{d}", name, t, float(v))
            for d in range(DEVICES_N)
            for t, v in zip(at, values, strict=True)
            if not gone(name, t)
        ]
    ids, features, starts, means = zip(*found, strict=True)
    n = len(found)
    columns = {"device_id": ids, "feature": features, "period_start": starts, "mean": means, "n": [900] * n}
    columns |= {"profile": ["traffic"] * n, "part": [0] * n, "known_at": [t + 2 * PERIOD for t in starts]}
    names = [f"i-{d}" for d in range(DEVICES_N)]
    fleet = {"device_id": names, "profile": ["traffic"] * DEVICES_N, "active": [True] * DEVICES_N}
    fleet |= {"known_at": [MONDAY] * DEVICES_N, "site": ["s"] * DEVICES_N}
    land(lake, summaries=fill(SUMMARIES.schema, **columns), devices=fill(DEVICES.schema, **fleet))


def clear(root, champion=CHAMPION):
    """Features that moved clearly at any intersection."""
    with closing(connect(root, comments=False)) as connection:
        scale, until = ReferenceScale.of(champion, SHORT), ONSET + timedelta(hours=5)
        found = read_shifts(connection, SHORT, scale, ONSET, until, ())
    assert len(found.devices) == DEVICES_N
    return {n for d in found.devices for n, x in zip(SHORT.feature_names, d.clear, strict=True) if x}


def test_a_night_is_no_shift_beside_a_day_and_a_shift_beside_the_same_hours_is_clear(tmp_path):
    lake_of(tmp_path / "usual", {})
    lake_of(tmp_path / "moved", {"occupancy_ns_mean": -0.5})
    assert clear(tmp_path / "usual") == set()
    assert clear(tmp_path / "moved") == {"occupancy_ns_mean"}
    # What the hours differ by would be taken for a shift without the season.
    assert "flow_ns_mean" in clear(tmp_path / "usual", CHAMPION.model_copy(update={"seasons": {}}))


def test_hours_that_a_feature_misses_are_missing_from_its_own_season_only(tmp_path):
    first, other = "flow_ns_mean", "occupancy_ns_mean"
    lake_of(tmp_path / "dead", {}, lambda name, t: name == first and t >= ONSET)
    lake_of(tmp_path / "nights", {}, lambda name, t: name == other and t < ONSET and t.hour < 6)
    assert clear(tmp_path / "dead") == set()
    assert clear(tmp_path / "nights") == set()

"""Laws of retired starts: from one cut on nothing counts them, older cuts do, and no file goes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from feature_store import connect
from feature_store.cut import paths
from feature_store.cut_store import CutStore
from feature_store.estimates import estimate_mean, exact_mean
from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from feature_store.point_in_time import training_rows
from feature_store.replay_registry import ReplayRecord, ReplayRegistry
from schemas.tables import AGGREGATES, SUMMARIES
from tests.feature_store.fleets import PROFILE, alerts, books, fill, land, machine_lake, telemetry
from tests.feature_store.lakes import SECOND, T0
from tests.feature_store.training_lakes import fleet_lake, put, rows, selection

FEATURE = PROFILE.feature_names[0]
COHORT = f"{PROFILE.name}/hall/default/x86"
NUMBERS = {
    "rows": "SELECT count(*) FROM telemetry",
    "rows of the profile": f"SELECT count(*) FROM telemetry_{PROFILE.name}",
    "summaries": "SELECT sum(n) FROM summaries",
    "books": "SELECT sum(sensed) FROM books",
    "statements": "SELECT count(*) FROM books_statements",
    "alerts": "SELECT count(*) FROM alerts",
    "aggregates": "SELECT n FROM aggregates",
    "mean": "SELECT mean FROM aggregates",
    "spread": "SELECT m2 FROM aggregates",
    "least": 'SELECT "min" FROM aggregates',
    "devices": "SELECT devices FROM aggregates",
    "quality": "SELECT sum(landed) FROM data_quality",
}


def numbers(root, cut=None) -> dict[str, float]:
    with connect(root, cut, comments=False) as con:
        return {name: con.execute(sql).fetchone()[0] for name, sql in NUMBERS.items()}


@pytest.fixture
def lake(lake_root):
    """Two devices; device a has two starts: the second is a replay of the first."""
    lake = machine_lake(lake_root)
    places = [DeviceRecord(d, PROFILE.name, "hall", "default", "x86", f"key-{d}", "pem") for d in "ab"]
    DeviceRegistry(lake).register(places)
    starts = [("a", 1), ("a", 2), ("b", 3)]
    for device, boot in starts:
        one = {"device_id": [device], "boot_id": [boot]}
        several = {"device_id": [device] * 2, "boot_id": [boot] * 2}
        times = [T0 + SECOND, T0 + 2 * SECOND]
        land(
            lake,
            telemetry=telemetry(**several, seq=[0, 1], event_time=times, **{FEATURE: [float(boot)] * 2}),
            books=books(**one, stratum=["sample"], sensed=[2], acked=[2]),
            alerts=alerts(**one, seq=[0], action=["stop"]),
        )
        summary = {"feature": [FEATURE], "period_start": [T0], "n": [2], "mean": [float(boot)]}
        whole = {"min": [boot - 0.5], "max": [boot + 0.5], "m2": [0.5], "model_version": ["v"]}
        rows = fill(SUMMARIES.schema, profile=[PROFILE.name], **one, **summary, **whole, part=[0])
        land(lake, **{SUMMARIES.name: rows})
    window = {"window_start": [T0], "window_s": [300.0], "n": [6], "mean": [2.0], "m2": [5.5]}
    ends = {"min": [0.5], "max": [3.5], "devices": [2], "model_version": ["v"]}
    named = {"cohort": [COHORT], "profile": [PROFILE.name], "feature": [FEATURE]}
    partial = fill(AGGREGATES.schema, **named, **window, **ends)
    land(lake, **{AGGREGATES.name: partial})
    return lake


def test_everything_honours_a_retired_start_from_its_cut_on_and_older_cuts_keep_theirs(lake, lake_root):
    cuts = CutStore(lake)
    before, files = numbers(lake_root), list(paths(lake_root, cuts.latest()))
    pinned = cuts.pin("training").id
    assert (before["rows"], before["summaries"], before["aggregates"], before["alerts"]) == (6, 6, 6, 3)
    ReplayRegistry(lake).retire([("a", 1)], PROFILE.name, "replaced")
    after = numbers(lake_root)
    assert [after[k] for k in ("rows", "rows of the profile", "summaries", "books")] == [4, 4, 4, 4]
    assert [after[k] for k in ("statements", "alerts", "quality")] == [2, 2, 4]
    # Two windows of 2 and two of 3: the mean is 2.5, the squares are 0.5 + 0.5 and 4 times 0.25.
    assert [after[k] for k in ("aggregates", "mean", "spread", "least", "devices")] == [4, 2.5, 2.0, 1.5, 2]
    assert numbers(lake_root, pinned) == before
    assert numbers(lake_root, "training") == before
    assert all(path.exists() for path in files)


def record(boot: int, complete: bool) -> ReplayRecord:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ReplayRecord("again", "digest", "[]", PROFILE.name, "a", boot, 2, at, at, complete)


def test_a_replacing_replay_counts_only_once_it_is_complete_and_what_it_replaces_counts_until_then(
    lake, lake_root
):
    """Whenever it dies, exactly one of the two stands."""
    registry, cuts = ReplayRegistry(lake), CutStore(lake)
    registry.retire([("a", 2)], PROFILE.name, "not complete yet")
    registry.record([record(2, complete=False)])
    begun = numbers(lake_root)
    assert (begun["rows"], begun["mean"], begun["aggregates"]) == (4, 2.0, 4)
    half = cuts.latest().id
    registry.replace([record(2, complete=True)], [("a", 1)], PROFILE.name, "replaced")
    done = numbers(lake_root)
    assert cuts.latest().id == half + 1
    assert (done["rows"], done["mean"], done["aggregates"]) == (4, 2.5, 4)
    assert registry.retired() == {("a", 1)}
    assert [(r.boot_id, r.complete) for r in registry.replays()] == [(2, True)]
    assert numbers(lake_root, half) == begun


def test_training_honours_a_retired_start_and_a_pin_keeps_what_it_was_made_of(lake_root):
    """The second start is a replay of the first: the same seconds, other values."""
    lake = fleet_lake(lake_root, ["a", "b"])
    for device, boot in (("a", 1), ("a", 2), ("b", 3)):
        put(lake, telemetry=rows(device, range(0, 600, 10), boot_id=[boot] * 60))
        put(lake, books=books(device_id=[device], boot_id=[boot], sensed=[60], acked=[60]))
    CutStore(lake).pin("run-1")

    def trained_on(cut: str | None = None) -> list[dict]:
        with connect(lake_root, cut, comments=False) as con:
            return training_rows(con, selection()).rows.to_pylist()

    before = trained_on()
    assert {row["boot_id"] for row in before} == {1, 2, 3}
    ReplayRegistry(lake).retire([("a", 1)], PROFILE.name, "replaced")
    after = trained_on()
    assert {row["boot_id"] for row in after} == {2, 3}
    assert sum(row["boot_id"] == 2 for row in after) == sum(row["boot_id"] == 2 for row in before)
    assert trained_on("run-1") == before


def test_estimates_stand_on_what_counts(lake, lake_root):
    ReplayRegistry(lake).retire([("a", 1)], PROFILE.name, "replaced")
    with connect(lake_root, comments=False) as con:
        assert exact_mean(con, PROFILE.name, FEATURE).mean == 2.5
        assert estimate_mean(con, f"telemetry_{PROFILE.name}", FEATURE).n_sensed == 4


def test_a_window_of_which_nothing_is_left_is_gone(lake, lake_root):
    ReplayRegistry(lake).retire([("a", 1), ("a", 2), ("b", 3)], PROFILE.name, "replaced")
    with connect(lake_root, comments=False) as con:
        assert con.execute("SELECT count(*) FROM aggregates").fetchone() == (0,)


def test_a_start_is_retired_once_and_replays_that_count_are_known(lake):
    registry = ReplayRegistry(lake)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    records = [
        ReplayRecord(f"r{boot}", "digest", "[]", PROFILE.name, "a", boot, 2, at, at, complete)
        for boot, complete in ((1, False), (1, True), (2, True))
    ]
    registry.record(records)
    assert [(r.boot_id, r.complete) for r in registry.replays()] == [(1, True), (2, True)]
    registry.retire([("a", 1)], PROFILE.name, "replaced")
    registry.retire([("a", 1)], PROFILE.name, "replaced again")
    assert registry.retired() == {("a", 1)}
    assert [r.boot_id for r in ReplayRegistry(lake).replays()] == [2]

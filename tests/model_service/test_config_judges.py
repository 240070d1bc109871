"""The built-in judge of configurations: alarms and missing windows against history and held-out units."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from model_service.rollout.config_evidence import ConfigEvidence
from model_service.rollout.config_judges import alarms_and_windows
from schemas.learning_policy import RolloutPolicy
from schemas.manifest import SCORE_EDGES
from tests.edge_producer.config_cloud import PLANNED, SPEC

SWITCH = datetime(2026, 5, 4, 12, tzinfo=UTC)
PERIOD = timedelta(minutes=1)
SCHEMA = pa.schema(
    [("device_id", pa.string()), ("feature", pa.string()), ("part", pa.int64()), ("n", pa.int64()),
     ("n_missing", pa.int64()), ("bin_counts", pa.list_(pa.int64())),
     ("period_start", pa.timestamp("us", "UTC"))]
)  # fmt: skip


def period(device, at, alarms, windows=60, part=0):
    bins = [0] * (len(SCORE_EDGES) + 1)
    bins[0], bins[-1] = windows - alarms, alarms
    return {
        "device_id": device, "feature": "score", "part": part, "n": windows, "n_missing": 0,
        "bin_counts": bins, "period_start": at,
    }  # fmt: skip


def judged(before, after, *, sites=6, held=6, windows=60, days=5, swing=1, near=False, **policy):
    """The finding where devices alarm so often a period before and after; treated ones are t0, t1, …"""
    treated = {f"t{i}": (f"t{i}",) for i in range(sites)}
    others = {f"h{i}": (f"h{i}",) for i in range(held)}
    rows = []
    for device in [*treated, *others]:
        for k in range(30):
            for day in range(1, days + 1):
                at = SWITCH + k * PERIOD - timedelta(days=day)
                rows.append(period(device, at, before(device) + swing * (day % 2)))
            if near:
                for n in range(1, 6):
                    rows.append(period(device, SWITCH + k * PERIOD - n * 30 * PERIOD, before(device) + n % 2))
            if windows:
                rows.append(
                    period(device, SWITCH + k * PERIOD, after(device), windows if device in treated else 60)
                )
    evidence = ConfigEvidence(
        profile=PLANNED, spec=SPEC, settings=RolloutPolicy(**policy), treated=treated, held=others,
        switched_at=SWITCH, now=SWITCH + 30 * PERIOD, summaries=pa.Table.from_pylist(rows, SCHEMA), looks=1,
    )  # fmt: skip
    return alarms_and_windows(evidence)


def test_more_alarms_than_before_at_treated_sites_alone_are_harm():
    found = judged(lambda _: 1, lambda d: 40 if d[0] == "t" else 1)
    assert "alarms" in found.harm
    assert found.units == 6


def test_as_many_alarms_as_before_are_no_harm_and_shown():
    found = judged(lambda _: 1, lambda _: 1)
    assert (found.harm, found.open) == ("", "")


def test_a_rise_that_held_out_sites_share_is_none_of_the_configurations():
    found = judged(lambda _: 1, lambda _: 40)
    assert found.harm == ""
    assert judged(lambda _: 1, lambda _: 40, held=0).harm


def test_days_that_differ_by_themselves_make_a_rise_open_not_harm():
    """One day in two alarms on a third of its windows: another such day shows nothing."""
    found = judged(lambda _: 0, lambda _: 20, held=0, swing=20)
    assert (found.harm, bool(found.open)) == ("", True)
    assert judged(lambda _: 0, lambda _: 20, held=0, swing=1).harm


def test_one_corridor_that_does_badly_is_harm_though_the_mean_hardly_moves():
    found = judged(lambda _: 1, lambda d: 40 if d == "t3" else 1, sites=12)
    assert "more alarms at t3" in found.harm


def test_with_too_few_days_the_spans_just_before_the_switch_count():
    assert judged(lambda _: 1, lambda d: 40 if d[0] == "t" else 1, days=0, near=True).harm
    assert judged(lambda _: 1, lambda _: 1, days=0, near=True).harm == ""


def test_missing_windows_are_harm_where_they_came_before():
    found = judged(lambda _: 1, lambda _: 1, windows=20)
    assert "windows are missing" in found.harm
    assert judged(lambda _: 1, lambda _: 1, windows=59).harm == ""


def test_too_few_sites_or_windows_show_nothing_and_do_no_harm():
    assert judged(lambda _: 1, lambda _: 1, sites=1, held=1).harm == ""
    nothing = judged(lambda _: 1, lambda _: 1, windows=0)
    assert (nothing.harm, bool(nothing.open)) == ("", True)

"""Views on models: who they are, how they scored, which of two scored the same windows higher."""

import math

import numpy as np
import pytest

from feature_store import connect
from schemas.manifest import SCORE_EDGES
from schemas.tables import LIFECYCLE, SUMMARIES
from schemas.view_specs import DERIVED_VIEWS
from tests.feature_store.fleets import PERIOD_S, fill, land, machine_lake, telemetry
from tests.feature_store.lakes import SECOND, T0

OLD, NEW = "machine-0.00000000", "machine-1.11111111"
SHADOW_PART = -1


def ask(root, sql):
    with connect(root, comments=False) as con:
        return con.execute(sql).fetchall()


def summary(device, version, period, scores, part=0, edges=SCORE_EDGES):
    """A device's summary row of the scores of one period."""
    scores = np.array(scores)
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
    return {
        "profile": "machine", "device_id": device, "model_version": version, "feature": "score",
        "period_start": T0 + period * PERIOD_S * SECOND, "period_s": PERIOD_S, "part": part, "boot_id": 1,
        "n": len(scores), "n_missing": 1, "mean": float(scores.mean()), "bin_counts": counts.tolist(),
    }  # fmt: skip


def summaries(*rows):
    return fill(SUMMARIES.schema, **{name: [row[name] for row in rows] for name in rows[0]})


def test_a_version_is_listed_with_where_it_ran_and_what_became_of_it(lake_root):
    lake = machine_lake(lake_root)
    steps = {
        "event_id": ["a", "b", "b", "c"], "subject": [NEW, NEW, NEW, "default-rollout-1"],
        "step": ["trained", "refused", "refused", "started"],
        "event_time": [T0, T0 + SECOND, T0 + SECOND, T0],
    }  # fmt: skip
    rows = telemetry(device_id=["a", "b"], model_version=[OLD] * 2, event_time=[T0, T0 + 60 * SECOND])
    rows_of_summaries = summaries(summary("a", OLD, 1, [0.1, 0.2]), summary("c", OLD, 1, [0.1]))
    land(lake, telemetry=rows, summaries=rows_of_summaries, lifecycle=fill(LIFECYCLE.schema, **steps))
    columns = 'model_version, family, devices, windows, "rows", steps, last_step, last_seen'
    assert ask(lake_root, f"SELECT {columns} FROM model_versions ORDER BY 1") == [
        (OLD, "machine", 3, 5, 2, [], None, T0 + 60 * SECOND),
        (NEW, "machine", 0, 0, 0, ["trained", "refused"], "refused", None),
    ]


def test_performance_counts_every_window_of_every_device_and_part(lake_root):
    lake = machine_lake(lake_root)
    rng = np.random.default_rng(3)
    scores = [rng.random(40), rng.random(7), np.array([0.45, 0.6, 0.9, 0.899])]
    parts = [("a", 0), ("a", 1), ("b", 0)]
    land(
        lake,
        summaries=summaries(*(summary(d, OLD, 2, s, p) for (d, p), s in zip(parts, scores, strict=True))),
    )
    every = np.concatenate(scores)
    [found] = ask(
        lake_root,
        "SELECT devices, windows, missing, mean_score, share_045, share_06, share_09 FROM model_performance",
    )
    assert found[:3] == (2, len(every), 3)
    shares = [(every >= edge).mean() for edge in (0.45, 0.6, 0.9)]
    assert found[3:] == pytest.approx([every.mean(), *shares])


def test_other_bin_edges_give_no_shares(lake_root):
    lake = machine_lake(lake_root)
    land(lake, summaries=summaries(summary("a", OLD, 0, [0.7, 0.95], edges=(0.5,))))
    assert ask(lake_root, "SELECT windows, share_045, share_09 FROM model_performance") == [(2, None, None)]


def test_a_comparison_takes_the_device_as_its_unit(lake_root):
    """Against numpy: mean of the devices' differences, and their standard error."""
    lake = machine_lake(lake_root)
    rng = np.random.default_rng(5)
    rows, expected = [], []
    for device, periods in (("a", 1), ("b", 4), ("c", 2)):
        olds, news = rng.random((periods, 5)), rng.random((periods, 5)) / 2
        for k in range(periods):
            rows += [summary(device, OLD, k, olds[k]), summary(device, NEW, k, news[k], SHADOW_PART)]
        expected.append((news - olds).mean())
    land(lake, summaries=summaries(*rows))
    columns = "devices, windows, mean_difference, standard_error"
    [found] = ask(lake_root, f"SELECT {columns} FROM model_comparisons WHERE model_version = '{NEW}'")
    assert found[:2] == (3, 35)
    assert found[2:] == pytest.approx([np.mean(expected), np.std(expected, ddof=1) / math.sqrt(3)])


def test_windows_before_and_after_a_swap_are_no_pair(lake_root):
    lake = machine_lake(lake_root)
    land(lake, summaries=summaries(summary("a", OLD, 0, [0.1, 0.2]), summary("a", NEW, 0, [0.3, 0.1, 0.2])))
    assert ask(lake_root, "SELECT * FROM model_comparisons") == []


def test_the_views_have_the_documented_columns(lake_root):
    machine_lake(lake_root)
    for view in (v for v in DERIVED_VIEWS if v.name.startswith("model_")):
        shown = ask(lake_root, f"DESCRIBE {view.name}")
        kinds = {name: kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ") for name, kind, *_ in shown}
        assert kinds == {c.name: c.kind for c in view.columns}

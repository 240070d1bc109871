"""The view `model_performance`: alarms, what labels say of them, and two versions on the same windows."""

from datetime import timedelta

import numpy as np
import pytest

from schemas.row_schemas import Reason
from schemas.tables import DEVICES, LABELS
from tests.feature_store.fleets import PERIOD_S, alerts, fill, land, machine_lake, telemetry
from tests.feature_store.lakes import SECOND, T0
from tests.feature_store.test_model_views import NEW, OLD, SHADOW_PART, ask, summaries, summary

DAY = timedelta(days=1)
START = int(Reason.TRANSITION)


def registered(device, site, known_at=T0 - DAY, offset=0):
    return {
        "device_id": device, "profile": "machine", "site": site, "group": "g", "hardware": "hw",
        "known_at": known_at, "_offset": offset,
    }  # fmt: skip


def of(schema, *rows):
    return fill(schema, **{name: [row[name] for row in rows] for name in rows[0]})


def label(device, name, start_s, end_s, *, probability=1.0, label_id=None, supersedes=None, known_s=900):
    return {
        "label_id": label_id or f"{device}-{start_s}", "device_id": device, "label": name,
        "span_start": T0 + start_s * SECOND, "span_end": T0 + end_s * SECOND,
        "label_probability": probability, "supersedes": supersedes, "known_at": T0 + known_s * SECOND,
    }  # fmt: skip


def alarm_rows(*starts, version=OLD, q=1.0):
    """Rows of one transition into an alarm each, of (device, second)."""
    return telemetry(
        device_id=[device for device, _ in starts], boot_id=[1] * len(starts),
        seq=[at for _, at in starts], event_time=[T0 + at * SECOND for _, at in starts],
        decision=["inspect"] * len(starts), reasons=[START] * len(starts),
        inclusion_probability=[q] * len(starts), model_version=[version] * len(starts),
    )  # fmt: skip


def ran(*devices, periods=60, version=OLD):
    """Summaries of devices that were on from T0."""
    return [summary(d, version, k, [0.1] * 4 + [0.7]) for d in devices for k in range(periods)]


def one(root, columns, where="true"):
    [found] = ask(root, f"SELECT {columns} FROM model_performance WHERE {where}")
    return found


def test_alarms_are_counted_by_device_day_cohort_and_site(lake_root):
    lake = machine_lake(lake_root)
    land(
        lake,
        devices=of(DEVICES.schema, registered("a", "north"), registered("b", "south")),
        summaries=summaries(*ran("a", "b")),
        telemetry=alarm_rows(("a", 10), ("a", 60)),
    )
    days = 60 * PERIOD_S / 86400
    columns = "cohort, site, day::VARCHAR, alarms, device_days, alarms_per_device_day, basis, recall"
    north, south = ask(lake_root, f"SELECT {columns} FROM model_performance ORDER BY site")
    assert north[:4] == ("machine/north/g/hw", "north", "2026-01-01", 2)
    assert north[4:6] == pytest.approx((days, 2 / days))
    assert south[1:4] + south[5:] == ("south", "2026-01-01", 0, 0.0, "not estimable", None)


def test_a_device_counts_where_it_stood_at_the_time(lake_root):
    lake = machine_lake(lake_root)
    moved = T0 + 30 * PERIOD_S * SECOND
    places = [registered("a", "north"), registered("a", "south", moved, 1)]
    land(lake, devices=of(DEVICES.schema, *places), summaries=summaries(*ran("a")))
    found = ask(lake_root, "SELECT site, windows FROM model_performance ORDER BY site")
    assert found == [("north", 150), ("south", 150)]
    land(lake, summaries=summaries(summary("x", OLD, 0, [0.1])))
    assert one(lake_root, "cohort, site", "devices = 1 AND windows = 1") == ("", "")


def test_a_row_of_an_alarm_that_was_thinned_stands_for_more(lake_root):
    lake = machine_lake(lake_root)
    alert = alerts(device_id=["a"], boot_id=[1], seq=[40], event_time=[T0 + 40 * SECOND], action=["stop"],
                   model_version=[OLD])  # fmt: skip
    rows = alarm_rows(("a", 10), ("a", 40), q=0.25)
    land(lake, summaries=summaries(*ran("a")), telemetry=rows, alerts=alert)
    alarms, rate = one(lake_root, "alarms, alarms_per_device_day * device_days")
    assert (alarms, rate) == (2, pytest.approx(4 + 1))


def test_precision_recall_and_delay_are_those_of_labelled_spans(lake_root):
    lake = machine_lake(lake_root)
    labels = [
        label("a", "bearing", 5, 30),
        label("b", "bearing", 5, 30, probability=0.25),
        label("a", "healthy", 90, 120, probability=0.5),
    ]  # fmt: skip
    land(
        lake,
        summaries=summaries(*ran("a", "b")),
        telemetry=alarm_rows(("a", 15), ("a", 100), ("b", 200)),
        labels=of(LABELS.schema, *labels),
    )
    columns = "basis, judged_alarms, precision, labelled_faults, recall, delay_s, label_coverage"
    found = one(lake_root, columns)
    assert found[:2] == ("labels", 2)
    assert found[2] == pytest.approx(1 / 3), "the false one stands for two"
    assert found[3:6] == (2, pytest.approx(1 / 5), 10.0)
    assert found[6] == pytest.approx((25 + 25 + 30) / (2 * 60 * PERIOD_S))


def test_a_label_that_comes_late_or_is_replaced_revises_what_was_said(lake_root):
    lake = machine_lake(lake_root)
    land(lake, summaries=summaries(*ran("a")), telemetry=alarm_rows(("a", 15)))
    assert one(lake_root, "basis, precision") == ("not estimable", None)
    land(lake, labels=of(LABELS.schema, label("a", "bearing", 5, 30, label_id="1")))
    assert one(lake_root, "basis, precision, recall") == ("labels", 1.0, 1.0)
    later = label("a", "false_alarm", 5, 30, label_id="2", supersedes="1", known_s=999)
    land(lake, labels=of(LABELS.schema, later))
    assert one(lake_root, "basis, precision, recall") == ("labels", 0.0, None)


def test_a_fault_belongs_to_the_version_in_force_when_it_began_and_an_alarm_that_is_on_finds_it(lake_root):
    lake = machine_lake(lake_root)
    rows = ran("a", periods=20) + [summary("a", NEW, k, [0.1] * 5) for k in range(20, 60)]
    shadow = [summary("a", NEW, k, [0.2] * 5, SHADOW_PART) for k in range(20)]
    land(
        lake,
        summaries=summaries(*rows, *shadow),
        telemetry=alarm_rows(("a", 2)),
        labels=of(LABELS.schema, label("a", "bearing", 40, 70)),
    )
    old, new = (one(lake_root, "recall, delay_s", f"model_version = '{v}'") for v in (OLD, NEW))
    assert (old, new) == ((1.0, 0.0), (None, None))


def test_shadow_and_active_are_compared_on_the_same_windows(lake_root):
    lake = machine_lake(lake_root)
    rng = np.random.default_rng(3)
    active, shadow = rng.random((20, 5)), rng.random((20, 5))
    rows = [summary("a", OLD, k, active[k]) for k in range(20)]
    rows += [summary("a", NEW, k, shadow[k], SHADOW_PART) for k in range(20)]
    land(lake, summaries=summaries(*rows, *ran("b", version=NEW)))
    apart = np.abs((active >= 0.6).sum(axis=1) - (shadow >= 0.6).sum(axis=1)).sum() / 100
    for version, against, sign in ((NEW, OLD, 1), (OLD, NEW, -1)):
        columns = "against, paired_windows, paired_difference, agreement"
        found = one(lake_root, columns, f"model_version = '{version}'")
        assert found[:2] == (against, 100)
        assert found[2:] == pytest.approx((sign * (shadow - active).mean(), 1 - apart))
    assert one(lake_root, "device_days > 0, windows", f"model_version = '{NEW}'") == (True, 100 + 300)

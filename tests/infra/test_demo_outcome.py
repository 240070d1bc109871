"""Scores of a demo: right alarms, right verdicts, and when a row became queryable."""

from datetime import UTC, datetime, timedelta

import numpy as np

from edge_producer.sources.scenario import FaultSpan
from infra.demo.outcome import queryable_latency, score_alarms, score_drift
from infra.demo.plan import SOUTH, make_plan
from infra.line_watch import QueryableFrontier
from schemas.profile_file import find_profile

MACHINE = find_profile("machine_demo")
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def span(device, start, end, *, is_fault=True):
    return FaultSpan(device, "bearing_wear" if is_fault else "recalibration", at(start), at(end), is_fault)


def test_an_alarm_is_right_only_for_a_faulty_device_in_its_time():
    truth = [span("a", 10, 20), span("b", 10, 20), span("c", 10, 20, is_fault=False)]
    score = score_alarms([("a", at(12)), ("a", at(5)), ("c", at(12))], truth)
    assert (score.true, score.false, score.missed) == (1, 2, 1)


def test_drift_delay_counts_from_the_injection_on_the_channel_that_moved():
    verdicts = [("vibration_rms", at(30)), ("temperature_mean", at(52)), ("current_mean", at(5))]
    score = score_drift(verdicts, "temperature", injected=at(45), first_change=at(18))
    assert (score.verdicts, score.false, score.delay_s) == (3, 1, 7.0)


def test_an_offset_is_queryable_from_the_first_cut_beyond_it():
    frontier = QueryableFrontier()
    frontier.note(0, 2, at(10))
    frontier.note(0, 5, at(20))
    assert [frontier.when(0, o) for o in (0, 1, 2, 4, 5)] == [
        at(10).timestamp(), at(10).timestamp(), at(20).timestamp(), at(20).timestamp(), None,
    ]  # fmt: skip
    rows = {
        "sensed": np.array([at(9).timestamp(), at(15).timestamp()]),
        "partition": np.array([0, 0]),
        "offset": np.array([1, 3]),
    }
    assert (queryable_latency(rows, frontier).n, queryable_latency(rows, frontier).p50) == (2, 3.0)


def test_the_same_seed_tells_the_same_story():
    one, two = (make_plan(MACHINE, 20, 90.0, 7, T0) for _ in range(2))
    assert one == two
    assert make_plan(MACHINE, 20, 90.0, 8, T0).scenario != one.scenario


def test_one_device_makes_one_site_that_keeps_its_network():
    assert SOUTH not in make_plan(MACHINE, 1, 90.0, 7, T0).sites

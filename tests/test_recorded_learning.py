"""Laws of the recordings' figures in docs/learning.md: late labels, and intervals of one recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift.false_rates import most_share
from benchmarks.learning.fleet_story import FleetStory, machine_story
from benchmarks.learning.recorded_page import compared_sums, total_cost
from benchmarks.learning.recorded_policies import LabelledLoop, adapted
from benchmarks.learning.recorded_story import DAY_US, RecordedStory
from model_service.detectors.kinds import detector_of
from schemas.tables import LABELS

HOT = 30.0
"""Degrees by which a labelled fault is off."""


@pytest.fixture(scope="module")
def pool() -> FleetStory:
    """Twelve machines whose windows 30 to 50 are faulty, and hot."""
    story = machine_story("nothing", 3, 12, 80)
    features, faulty = story.features.copy(), story.faulty.copy()
    features[:, 30:50, story.profile.feature_names.index("temperature_mean")] += HOT
    faulty[:, 30:50] = True
    return replace(story, features=features, faulty=faulty)


def hourly(story: FleetStory) -> RecordedStory:
    """The story by a clock on which a window takes an hour."""
    ends = (np.arange(story.windows) + 1) * DAY_US // 24
    return RecordedStory(story, ends, DAY_US, True, "mahalanobis")


def test_a_label_is_known_after_its_delay_by_the_recordings_own_clock(pool):
    recorded = hourly(pool)
    assert [recorded.known_before(60, days) for days in (0.0, 1.0, 7.0)] == [60, 36, 0]
    gap = replace(recorded, ends_us=recorded.ends_us + 2 * DAY_US * (np.arange(pool.windows) >= 40))
    assert gap.known_before(41, 1.0) == 40


def test_what_is_not_known_to_be_faulty_in_time_is_learnt(pool):
    """Two labels come in time for the first, and for the second none."""
    recorded, at = hourly(pool), pool.profile.feature_names.index("temperature_mean")
    first = detector_of(pool.first.manifest)
    early, late = (adapted(recorded, first, 80, days).mean[at] for days in (0.0, 7.0))
    healthy = pool.features[:, :30, at].mean()
    assert early == pytest.approx(healthy, abs=1.0)
    assert late > healthy + 0.1 * HOT


@pytest.mark.parametrize(("days", "labels"), [(0.0, 12), (7.0, 0)])
def test_labels_land_in_the_loops_lake_when_they_are_known(pool, days, labels):
    loop = LabelledLoop(hourly(pool), days)
    loop.run()
    [(count, spans)] = (
        loop.lake.read().execute(f"SELECT count(DISTINCT device_id), count(*) FROM {LABELS.name}").fetchall()
    )
    assert count == labels
    assert spans >= labels


def test_the_interval_of_a_recording_pairs_the_blocks():
    rng = np.random.default_rng(5)
    sums = rng.uniform(0.1, 0.3, size=(600, 6)) + np.array([0, 1, 0, 1, 0, 1])
    assert compared_sums(sums, sums)[:3] == (1.0, 1.0, 1.0)
    worse = sums * np.array([1.5, 1, 1.5, 1, 1.5, 1])
    found = compared_sums(worse, sums)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)
    assert total_cost(worse) == pytest.approx(1.5 * total_cost(sums))


def test_the_upper_bound_of_a_share_is_clopper_and_pearsons():
    assert most_share(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59), abs=1e-6)
    assert most_share(3, 3) == 1.0

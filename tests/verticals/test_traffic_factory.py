"""Laws of the draft profile of traffic and of its factory model's recipe."""

from __future__ import annotations

import numpy as np
import pytest

from infra.verticals.traffic.traffic_factory import build, golden_windows, healthy_runs, todays_profile
from schemas.verticals.traffic.standard_junction import NAMES

PROFILE = todays_profile()


def test_the_profile_has_what_the_decision_reads():
    assert {f"queue_{name}_last" for name in NAMES} <= set(PROFILE.feature_names)


def test_healthy_runs_have_every_feature_and_differ_by_device():
    first, second = (np.concatenate(list(healthy_runs(PROFILE, number))) for number in (0, 1))
    assert first.shape[1] == len(PROFILE.feature_names)
    assert not np.isnan(first).any()
    assert not np.array_equal(first, second)


@pytest.mark.long
def test_the_recipe_builds_the_same_bytes_twice():
    first, second = build(PROFILE, 6), build(PROFILE, 6)
    assert first.manifest.version == second.manifest.version
    assert golden_windows(PROFILE).shape == (8, 300, 12)

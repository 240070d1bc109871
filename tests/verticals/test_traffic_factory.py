"""Laws of the profile of traffic, and of its factory model and fault bank as they ship."""

from __future__ import annotations

import numpy as np
import pytest

from edge_producer.bundle import BUNDLES, load_bundle
from infra.verticals.traffic.traffic_factory import (
    FAULTS,
    RUN_WINDOWS,
    build_bundle,
    build_fault_bank,
    golden_windows,
    healthy_runs,
)
from model_service.models.fault_bank import shipped_bank
from model_service.models.mahalanobis import Mahalanobis
from schemas.profile_file import find_profile
from schemas.verticals.traffic.standard_junction import NAMES, detected

PROFILE = find_profile("traffic")


def test_the_profile_has_what_the_decision_reads():
    assert {f"queue_{part}_queued_last" for name in NAMES for part in detected(name)} <= set(
        PROFILE.feature_names
    )


def test_both_profiles_run_the_shipped_model():
    versions = {load_bundle(find_profile(name)).manifest.version for name in ("traffic", "traffic_demo")}
    assert len(versions) == 1


def test_healthy_runs_have_every_feature_and_differ_by_device():
    first, second = (next(healthy_runs(PROFILE, number)) for number in (0, 1))
    assert first.shape == (RUN_WINDOWS, len(PROFILE.feature_names))
    assert not np.isnan(first).any()
    assert not np.array_equal(first, second)


def test_the_model_alarms_known_incidents_and_no_healthy_hour_of_another_intersection():
    model, bank = Mahalanobis.of(load_bundle(PROFILE).manifest), shipped_bank(PROFILE)
    assert bank.kinds == tuple(FAULTS)
    healthy = next(healthy_runs(PROFILE, 1001))
    enter = PROFILE.decision.alarm
    assert (model.score(healthy) < enter).all()
    blocked = model.score(bank.inject(healthy, "incident", 1.0))
    assert (blocked >= enter).mean() > 0.6  # a minute does not always hold a green that tells


@pytest.mark.long
def test_the_recipe_builds_the_same_bytes_twice():
    first, second = build_bundle(2), build_bundle(2)
    assert first.manifest.version == second.manifest.version
    assert golden_windows(PROFILE).shape == (8, 60, len(PROFILE.channel_names))
    assert build_fault_bank(2).to_bytes() == build_fault_bank(2).to_bytes()


def test_what_ships_lies_where_devices_look():
    assert (BUNDLES / PROFILE.model.family / "model.onnx").is_file()

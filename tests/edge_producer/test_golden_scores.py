"""Ranges may change in place only where golden windows of the model in force score the same to the bit."""

import pytest

from edge_producer.bundle import load_bundle
from edge_producer.golden_scores import golden_scores
from schemas.profile_changes import judge
from schemas.profile_file import find_profile

MACHINE = find_profile("machine")


def with_channel(name, **changes):
    channels = [c.model_copy(update=changes) if c.name == name else c for c in MACHINE.channels]
    return MACHINE.model_copy(update={"channels": tuple(channels)})


@pytest.fixture(scope="module")
def scored():
    return golden_scores(load_bundle(MACHINE))


def test_ranges_that_change_no_score_are_compatible(scored):
    for wider in (with_channel("vibration", usual_max=50.0), with_channel("temperature", max=500.0)):
        assert judge(MACHINE, wider, scored=scored).compatible
    assert not judge(MACHINE, with_channel("temperature", max=500.0)).compatible


def test_ranges_that_hide_what_the_model_sees_are_not(scored):
    verdict = judge(MACHINE, with_channel("vibration", min=-0.001, max=0.001), scored=scored)
    assert not verdict.compatible
    assert "golden windows would score differently" in verdict.reasons[0]


def test_a_model_that_fits_any_profile_shows_nothing_about_one():
    robust = MACHINE.model_copy(update={"model": MACHINE.model.model_copy(update={"name": "robust"})})
    assert golden_scores(load_bundle(robust)) is None

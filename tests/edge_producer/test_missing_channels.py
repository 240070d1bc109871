"""Laws of missing channels: a dead sensor blinds no other, a required one gives no score, the row says it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.bundle import BUNDLES, open_bundle
from edge_producer.device import Device, Host
from edge_producer.inference import load_predictor
from edge_producer.metering import Meters
from edge_producer.missing_channels import channel_marks, missing_channels, required_by_model
from edge_producer.model_switch import ActiveModels, ModelSwitch
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.row_schemas import RULES, channel_bit
from tests.edge_producer.spool_rig import FirstSample, SpoolRig, bench_profile

MACHINE = find_profile("machine")


def pumps(channels: int, **of_channel) -> Profile:
    """A drafted profile: channels a, b, …; keywords go to channel a."""
    names = "abcdefghijklmnopqrst"[:channels]
    return Profile.model_validate(
        {
            "name": "pumps",
            "channels": [
                {"name": n, "unit": "bar", "min": -1000, "max": 1000, **(of_channel if n == "a" else {})}
                for n in names
            ],
            "sampling": {"rate_hz": 1.0, "window_samples": 8, "hop_samples": 8},
            "features": {
                "set": "pumps",
                "compute": [{"channel": n, "kinds": ["mean", "std"]} for n in names],
            },
            "model": {"name": "robust", "reference_windows": 64, "warmup_windows": 8},
        }
    )


def steady(rng, channels, dead=()):
    window = rng.normal(5.0, 1.0, (8, channels)).astype(np.float32)
    window[:, list(dead)] = np.nan
    return window


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_one_dead_channel_does_not_blind_robust_to_the_others(channels):
    """Before: no score with two to four channels, 0.99999 with five; nothing was printed."""
    predictor, rng = load_predictor(pumps(channels)), np.random.default_rng(0)
    for _ in range(20):
        _, calm = predictor.score("d", steady(rng, channels, dead=[0]))
    fault = steady(rng, channels, dead=[0])
    fault[:, -1] += 500
    assert calm is not None
    assert calm < 0.5
    assert predictor.score("d", fault)[1] > 0.99


def test_a_channel_that_dies_after_the_warm_up_neither_alarms_nor_blinds():
    predictor, rng = load_predictor(pumps(4)), np.random.default_rng(1)
    for _ in range(20):
        predictor.score("d", steady(rng, 4))
    scores = [predictor.score("d", steady(rng, 4, dead=[2]))[1] for _ in range(20)]
    assert max(scores) < 0.5
    fault = steady(rng, 4, dead=[2])
    fault[:, 0] += 500
    assert predictor.score("d", fault)[1] > 0.99


def test_the_few_samples_of_a_missing_channel_are_in_the_row_and_not_in_the_score():
    predictor, rng = load_predictor(pumps(2)), np.random.default_rng(2)
    for _ in range(20):
        predictor.score("d", steady(rng, 2))
    window = steady(rng, 2)
    window[:6, 0], window[6:, 0] = np.nan, 900.0
    features, score = predictor.score("d", window)
    assert features[0] == 900.0
    assert score < 0.5


@pytest.mark.parametrize("share", [0.125, 0.25])
def test_max_missing_holds_for_each_channel(share):
    window = np.zeros((8, 3), np.float32)
    window[: round(8 * share), 1] = np.inf
    assert missing_channels(window, 0.2).tolist() == [False, share > 0.2, False]


def test_as_many_missing_samples_as_are_allowed_are_allowed():
    window = np.zeros((8, 1), np.float32)
    window[:2] = np.nan
    assert not missing_channels(window, 0.25).any()


def test_a_required_channel_that_is_missing_gives_no_score():
    predictor, rng = load_predictor(pumps(3, required=True)), np.random.default_rng(3)
    for _ in range(20):
        predictor.score("d", steady(rng, 3))
    assert predictor.score("d", steady(rng, 3, dead=[1]))[1] is not None
    assert predictor.score("d", steady(rng, 3, dead=[0]))[1] is None


def test_a_trained_model_requires_all_of_its_channels():
    rng, predictor = np.random.default_rng(4), load_predictor(MACHINE)
    for dead in range(3):
        window = rng.normal(5, 1, (512, 3)).astype(np.float32)
        assert predictor.score("m", window)[1] is not None
        window[:200, dead] = np.nan
        assert predictor.score("m", window)[1] is None


def test_what_a_model_requires_is_what_it_takes_and_does_not_call_optional():
    manifest = open_bundle(BUNDLES / "machine").manifest
    assert required_by_model(manifest, MACHINE).tolist() == [True, True, True]
    can = manifest.model_copy(update={"optional_channels": ("current",)})
    assert required_by_model(can, MACHINE).tolist() == [True, True, False]
    robust = open_bundle(BUNDLES / "robust").manifest
    assert not required_by_model(robust, MACHINE).any()


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_row_says_which_channels_were_missing_and_is_selected_by_none_of_it(missing):
    marks = channel_marks(np.array(missing))
    assert 0 <= marks < 2**31
    assert marks & RULES == 0
    assert marks & 1 == 0
    for number, flag in enumerate(missing[:14]):
        assert bool(marks & channel_bit(number)) == flag
    assert bool(marks & channel_bit(14)) == any(missing[14:])


class Blunt(FirstSample):
    """A model that scores whatever it is given."""

    def score(self, device_id, samples):
        return super().score(device_id, samples)[0], 0.1

    def take_over(self, device_id, predecessor):
        pass


@pytest.mark.parametrize("required", [True, False])
def test_the_device_keeps_to_what_the_profile_requires_whatever_the_model_says(tmp_path, required):
    bench = bench_profile(p=1.0, p_min=1.0)
    channels = (bench.channels[0].model_copy(update={"required": required}),)
    rig = SpoolRig(tmp_path, bench.model_copy(update={"channels": channels}))
    try:
        host = Host(
            lambda o: rig.actions.append((o.device_id, o.action)), Meters(rig.profile), lambda: rig.now
        )
        switch = ModelSwitch(ActiveModels(Blunt(2)))
        rig.devices = {"d-1": Device(rig.identities["d-1"], rig.profile, switch, host)}
        rig.sense([0.1, float("nan"), 0.1])
        rig.flush()
        rows = rig.unsealed()
        assert [bool(r.reasons & channel_bit(0)) for r in rows] == [False, True, False]
        assert [r.score is None for r in rows] == [False, required, False]
        assert ("d-1", "hold") in rig.actions or not required
        counters = rig.spool.counters()
        assert counters.get("windows_unscored", 0) == int(required)
        assert counters.get("windows_degraded", 0) == int(not required)
    finally:
        rig.close()


def test_a_row_without_a_channel_is_sampled_like_any_other(tmp_path):
    """The mark is no rule: π, stratum and budget stay those of a sampled row."""
    bench = bench_profile(p=0.3, threshold=None)
    rig = SpoolRig(tmp_path, bench)
    try:
        host = Host(lambda *_: None, Meters(rig.profile), lambda: rig.now)
        rig.devices = {"d-1": Device(rig.identities["d-1"], rig.profile, Blunt(2), host)}
        rig.sense([float("nan")] * 400)
        rig.flush()
        rows = rig.unsealed()
        assert 70 < len(rows) < 170
        assert all(r.reasons == 1 | channel_bit(0) and r.q == 0.3 for r in rows)
    finally:
        rig.close()

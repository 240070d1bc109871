"""A population's prior: computed from summaries, judged on held-out wearers, signed, rolled out, decided by.

Trainer, gate and judge are the shipped ones; cloud and devices are the rig's.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from model_service.rollout.config_evidence import ConfigEvidence
from model_service.rollout.config_judges import LakeJudges
from model_service.training.config_interface import ConfigInputs
from model_service.verticals.wearable.alarm_judge import wearer_alarms
from model_service.verticals.wearable.population_prior import FEWEST_WEARERS, between
from model_service.verticals.wearable.prior_gate import judge_prior
from model_service.verticals.wearable.prior_trainer import prior_parameters, train_prior
from schemas.config_spec import ConfigSpec, check_parameters
from schemas.profile import Profile
from schemas.verticals.wearable.wearer_prior import prior_of
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings
from tests.feature_store.fleets import alerts, fill, land, machine_lake
from tests.feature_store.lakes import T0
from tests.model_service.test_config_line import SITES, ConfigLine, profile, rolled_out, versions
from tests.verticals.wearers import (
    BOUNDS,
    PRIOR,
    PULSE,
    START,
    parameters,
    pulse_profile,
    wearer_summaries,
)

PROFILE = pulse_profile()
[OWN] = PROFILE.configs


def wearers(number: int, seed: int = 5, centre: float = 64.0, between_sd: float = 8.0):
    """Means and spreads of so many."""
    rng = np.random.default_rng(seed)
    return {
        f"w-{k:03}": (float(rng.normal(centre, between_sd)), float(4.0 * math.exp(rng.normal(0, 0.3))))
        for k in range(number)
    }


def inputs(summaries: pa.Table, **given) -> ConfigInputs:
    fields = {
        "profile": PROFILE, "spec": OWN, "group": "default", "devices": {}, "event_from": START,
        "event_to": START, "earliest": START, "seed": 1, "before": {}, "rows": lambda: pa.table({}),
        "summaries": lambda: summaries,
    }  # fmt: skip
    return ConfigInputs(**{**fields, **given})


@pytest.fixture(scope="module")
def many():
    return wearer_summaries(wearers(40), range(8))


def test_a_prior_is_what_wearers_differ_by_and_vary_by_at_rest(many):
    found = check_parameters(OWN.parameters, train_prior(inputs(many)).parameters)
    own = prior_of(found).features[PULSE]
    means = [mean for mean, _ in wearers(40).values()]
    assert own.mean == pytest.approx(np.mean(means), abs=1.5)  # 140 on the move is not in it
    assert own.between == pytest.approx(np.std(means), rel=0.25)
    assert own.within == pytest.approx(4.0, rel=0.15)
    assert own.within_sd == pytest.approx(0.3, rel=0.4)
    assert (
        100 < own.design <= 600
    )  # of 600 windows in an hour's ten minutes, a quarter of the variance is common
    assert own.low < own.mean - 2 * own.between
    assert found["wearers"] == 40
    assert found["quiet_motion_mean_most"] == 0.5


def test_few_wearers_give_a_wider_prior_and_fewer_than_five_the_profiles_bounds(many):
    def width(number):
        kept = wearer_summaries(wearers(number, seed=9), range(4))
        return prior_of(train_prior(inputs(kept)).parameters).features[PULSE]

    few = FEWEST_WEARERS
    spread = np.std([m for m, _ in wearers(few, seed=9).values()], ddof=1)
    assert width(few).between > 1.3 * spread
    unknown = width(few - 1)
    assert (unknown.between, unknown.low, unknown.high) == (BOUNDS["between"][1], *BOUNDS["low"])
    assert unknown.mean == sum(BOUNDS["mean"]) / 2  # nothing of any of the four


def test_one_hostile_wearer_moves_little(many):
    hostile = wearer_summaries({"w-999": (119.0, 4.0)}, range(8))
    before, after = (
        prior_of(train_prior(inputs(rows)).parameters).features[PULSE]
        for rows in (many, pa.concat_tables([many, hostile]))
    )
    assert abs(after.mean - before.mean) < 0.1 * before.between
    assert after.between < 1.25 * before.between  # without the cut-off: 1.5 times


def test_a_population_that_seems_to_leap_is_followed_by_one_spread_and_the_gate_says_so(many):
    earlier = {**train_prior(inputs(many)).parameters}
    moved = wearer_summaries(wearers(40, centre=95.0), range(4))
    asked = inputs(moved, before=earlier)
    after = train_prior(asked).parameters
    step = after[f"{PULSE}_mean"] - earlier[f"{PULSE}_mean"]
    assert step == pytest.approx(earlier[f"{PULSE}_between"], rel=1e-4)
    assert "moved by as much as one computation may" in judge_prior(asked, after).text


def test_the_gate_passes_bounds_that_hold_held_out_wearers_and_refuses_others(many):
    asked = inputs(many)
    found = judge_prior(asked, train_prior(asked).parameters)
    assert found.passed, found.text
    assert found.value > 0.95
    assert not judge_prior(asked, {**PRIOR, f"{PULSE}_low": 80.0}).passed
    assert not judge_prior(asked, {"alarm_z": 4.0}).passed
    # Bounds of the profile that hold only some of its wearers.
    narrow = tuple(
        replace_bounds(p, 60.0, 66.0) if p.name in (f"{PULSE}_low", f"{PULSE}_high") else p
        for p in OWN.parameters
    )
    tight = inputs(many, spec=OWN.model_copy(update={"parameters": narrow}))
    refused = judge_prior(tight, train_prior(tight).parameters)
    assert not refused.passed
    assert refused.high < 0.9
    assert f"{PULSE}_low" in refused.text


def replace_bounds(parameter, low, high):
    return parameter.model_copy(update={"min": low, "max": high})


def test_without_a_quiet_period_nothing_is_computed_and_that_is_said(many):
    loud = many.set_column(
        many.schema.get_field_index("max"), many.schema.field("max"), pa.array(np.full(len(many), 9.0))
    )
    with pytest.raises(ValueError, match="no wearer has two windows in quiet periods"):
        train_prior(inputs(loud))
    with pytest.raises(ValueError, match="no feature with all of the parameters"):
        train_prior(inputs(many, spec=OWN.model_copy(update={"parameters": parameters()[:1]})))


def test_a_shadows_summaries_count_for_nothing(many):
    place = many.schema.get_field_index("part")
    shadow = many.set_column(place, many.schema.field(place), pa.array(np.full(len(many), -1, np.int32)))
    both = pa.concat_tables([many, shadow])
    assert prior_parameters(inputs(both), both) == prior_parameters(inputs(many), many)


def test_the_variance_between_wearers_is_what_sampling_leaves_over():
    rng = np.random.default_rng(8)
    sampling = rng.uniform(0.5, 6.0, 4000)
    values = rng.normal(10.0, 2.0, 4000) + rng.normal(0, np.sqrt(sampling))
    mean, variance = between(values, sampling)
    assert mean == pytest.approx(10.0, abs=0.15)
    assert variance == pytest.approx(4.0, rel=0.12)
    assert between(np.full(10, 3.0), np.full(10, 1.0)) == (3.0, 0.0)


def test_a_profiles_section_with_two_features_is_a_schema_that_its_own_bounds_satisfy():
    """The section as a wearable's profile has it; fewer than five wearers, so that bounds alone speak."""
    text = (Path(__file__).parent / "wearable_prior.toml").read_text(encoding="utf-8")
    [section] = tomllib.loads(text)["configs"]
    given = ConfigSpec.model_validate(section)
    rows = wearer_summaries(wearers(3), range(2), "heart_rate", "signal_quality", "rr_irregularity")
    found = check_parameters(given.parameters, train_prior(inputs(rows, spec=given)).parameters)
    prior = prior_of(found)
    assert sorted(prior.features) == ["heart_rate", "rr_irregularity"]
    assert (prior.least, prior.most) == ({"signal_quality": 0.8}, {})
    assert found["wearers"] == 3


def evidence(alarms_before: int, alarms_after: int, held_after: int = 0) -> ConfigEvidence:
    """Five treated and five held-out wearers, four days before the switch and one after it."""
    switched, ids = START, [f"w-{k}" for k in range(10)]
    found, rows = [], []
    for k, name in enumerate(ids):
        for hour in range(-96, 24):
            rows.append((name, switched + timedelta(hours=hour)))
        counts = ((-96, alarms_before), (0, alarms_after if k < 5 else held_after))
        found += [
            (name, switched + timedelta(hours=begin + n)) for begin, most in counts for n in range(most)
        ]
    n = len(rows)
    base = wearer_summaries({"w": (60.0, 3.0)}, [0]).schema
    empty = {
        "device_id": [r[0] for r in rows], "period_start": [r[1] for r in rows], "feature": ["score"] * n,
        "n": [3600] * n, "part": [0] * n, "n_missing": [0] * n,
    }  # fmt: skip
    alarms = pa.table({"device_id": [d for d, _ in found], "event_time": [t for _, t in found]})
    return ConfigEvidence(
        profile=PROFILE,
        spec=OWN,
        settings=PROFILE.rollout,
        treated={name: (name,) for name in ids[:5]},
        held={name: (name,) for name in ids[5:]},
        switched_at=switched,
        now=switched + timedelta(days=1),
        summaries=fill(base, **empty),
        looks=1,
        alarms=lambda: alarms,
    )


@pytest.mark.parametrize(
    ("counts", "harm", "is_open"),
    [((2, 8), True, False), ((2, 0), False, False), ((1, 1), False, True), ((2, 8, 8), False, True)],
)
def test_more_alarms_than_before_are_harm_unless_others_have_them_too(counts, harm, is_open):
    found = wearer_alarms(evidence(*counts))
    assert (bool(found.harm), bool(found.open)) == (harm, is_open), found


def test_a_judge_gets_the_alarms_of_its_group_from_the_lake(tmp_path):
    lake, hour = machine_lake(tmp_path), timedelta(hours=1)
    given = {"device_id": ["m-1", "m-2", "m-1"], "event_time": [T0, T0, T0 - 48 * hour], "seq": [1, 2, 3]}
    land(lake, alerts=alerts(action=["stop"] * 3, boot_id=[1, 1, 1], score=[0.9] * 3, **given))
    found = LakeJudges(tmp_path).alarms(["m-1"], T0 - hour).to_pylist()
    assert [(row["device_id"], row["event_time"], row["action"]) for row in found] == [("m-1", T0, "stop")]


def test_too_little_to_compare_is_open():
    short = replace(evidence(1, 1), now=START)
    assert "too little" in wearer_alarms(short).open


WORN = {f"m-{k}": "home" for k in range(1, 7)}
FEATURE, QUALITY, MOTION = "vibration_rms", "temperature_mean", "current_mean"


def worn() -> Profile:
    """The rig's profile with a prior of its own features, and the shipped decision function."""
    made = profile(
        trainer=OWN.trainer,
        gates=OWN.gates,
        judge=OWN.judge,
        unit=OWN.unit,
        parameters=parameters(FEATURE, QUALITY, MOTION),
    )
    decision = {**made.decision.model_dump(), "function": "personal_alarm", "calibrates": True}
    content = made.model_copy(update={"decision": made.decision.model_validate(decision)})
    at_once = {"soak_s": 0.01, "longest_soak_s": 0.01}
    return content.model_copy(update={"rollout": made.rollout.model_copy(update=at_once)})


@pytest.mark.long
def test_a_prior_is_computed_judged_signed_and_taken_over_by_every_wearer(tmp_path, monkeypatch):
    for name, site in WORN.items():
        monkeypatch.setitem(SITES, name, site)
    midday = datetime(T0.year, T0.month, T0.day, tzinfo=UTC) - timedelta(days=1)
    pulses = dict(zip(WORN, wearers(6).values(), strict=True))
    with ConfigLine(tmp_path / "cloud", worn()) as line:
        for name in WORN:
            line.join(tmp_path / "join", name)
        line.sense()
        rows = wearer_summaries(pulses, range(5), FEATURE, QUALITY, MOTION, begin=midday, profile="machine")
        land(line.lake, summaries=rows)
        made = line.made()
        assert made["state"] == "signed", (made["detail"], line.mark())
        with UpdaterRig(edge_settings(tmp_path, tuple(WORN)), worn()) as fleet:
            assert rolled_out(line, fleet, 1).state == "completed"
            assert set(versions(fleet).values()) == {made["version"]}
            fleet.sense()
            for device in fleet.devices.values():
                assert device.parameters["wearers"] == 6
                status = device.function_status
                assert (status["failed"], status["problem"]) == (0, "")
                assert made["version"] in status["parameters"]
            names = {d.calibration for d in fleet.decisions[-6:]}
        assert len(names) == 6
        assert None not in names
        line.registry.close()

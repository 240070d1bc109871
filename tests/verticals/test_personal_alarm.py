"""A wearer's baseline is learnt on the device, within the prior's bounds, and silences nothing.

The decision function is the installed one, in a real device; only the predictor is the rig's.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import count, pairwise

import numpy as np
import pytest

from edge_producer.deciding.decision_function import DecisionAnswer, try_parameters
from edge_producer.deciding.decision_parameters import DecisionParameters, ParameterSet
from edge_producer.device import Device
from edge_producer.device_host import Host
from edge_producer.device_identity import load_or_create
from edge_producer.metering import Meters
from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.verticals.wearable.wearer_calibration import WearerCalibration
from schemas.verticals.wearable.personal_baseline import QuietMoments, population_baseline, shrunk
from schemas.verticals.wearable.wearer_prior import prior_of
from tests.verticals.wearers import PRIOR, PULSE, START, Pulse, pulse_profile, window

PROFILE = pulse_profile()
OWN = prior_of(PRIOR).features[PULSE]


class Wearer:
    """One device with the shipped function, on no spool."""

    def __init__(self, folder, state=None, name="d-1", prior=PRIOR):
        self.orders, self.name, self.k = [], name, 0
        self.parameters = DecisionParameters()
        if prior:
            self.follow(prior)
        boots = count(1)
        self.host = Host(
            self.orders.append, Meters(PROFILE), lambda: 0.0, lambda: next(boots), {name: self.parameters}
        )
        self.identity = load_or_create(folder / "keys", name)
        self.switch = ModelSwitch(ActiveModels(Pulse()))
        self.restart(state)

    def follow(self, prior, version="prior-1"):
        self.parameters.follow(*([ParameterSet(version, prior, START - timedelta(days=9))] if prior else []))

    def restart(self, state):
        self.device = Device(self.identity, PROFILE, self.switch, self.host, state)

    def sense(self, pulse, k=None, **more):
        self.k = self.k + 1 if k is None else k
        return self.device.process(window(pulse, self.k, self.name, **more))

    def learn(self, mean=58.0, n=400, spread=3.0, seed=1):
        """Quiet windows; returns the last decision."""
        found = [self.sense(v) for v in np.random.default_rng(seed).normal(mean, spread, n)]
        return found[-1]

    @property
    def state(self):
        return self.device.take_update().state

    @property
    def own(self):
        return WearerCalibration.from_json(json.loads(self.state)["function"]["state"]["calibration"])

    @property
    def counts(self):
        return Counter(self.device.function_status["counts"])


@pytest.fixture
def wearer(tmp_path):
    return Wearer(tmp_path)


def test_a_deviation_from_the_own_baseline_alarms_where_the_population_would_not(wearer):
    wearer.learn(50.0)
    assert abs(population_baseline(OWN).z(66.0)) < 1  # usual for the population
    actions = [wearer.sense(66.0).action for _ in range(4)]
    assert actions == ["none", "none", "look", "look"]
    assert wearer.sense(50.0).action == "none"
    assert wearer.counts["windows_of_personal_alarm"] == 2


def test_a_wearer_of_whom_nothing_is_known_is_judged_as_the_population(wearer):
    limit = OWN.mean + 4.0 * math.hypot(OWN.within, OWN.between)
    assert [wearer.sense(limit - 1).action for _ in range(4)] == ["none"] * 4
    other = [wearer.sense(limit + 3, k=1000 + k).action for k in range(4)]
    assert other[-1] == "look"


def test_own_windows_count_the_more_the_more_there_are():
    few, many = (shrunk(OWN, QuietMoments(n, 50.0, 9.0 * n))[0] for n in (8, 4000))
    assert OWN.mean > few.mean > many.mean > 50.0
    assert few.error > many.error
    assert abs(many.mean - 50.0) < 0.1
    assert many.spread == pytest.approx(3.0, abs=0.1)


def test_a_baseline_goes_as_far_as_is_known_of_its_wearer_and_never_beyond_the_signed_bounds():
    wide = replace(OWN, low=OWN.mean - 54.0, high=OWN.mean + 54.0, within_low=1.0, within_high=25.0)

    def of(mean, draws, spread=5.0):
        n = draws * wide.design
        return shrunk(wide, QuietMoments(n, mean, n * spread**2))

    far = OWN.mean + 5 * OWN.between
    few, many = of(far, 1), of(far, 190)
    assert few[0].mean < OWN.mean + 3.4 * OWN.between
    assert "mean" in few[1]
    assert many[0].mean == pytest.approx(far, abs=0.2)
    assert many[1] == ()
    means = [of(far, n)[0].mean for n in (1, 3, 10, 30, 100)]
    assert means == sorted(means)
    assert of(OWN.mean + 90.0, 190)[0].mean <= wide.high
    assert of(OWN.mean, 190, spread=60.0)[0].spread <= wide.within_high
    assert of(OWN.mean, 1, spread=60.0)[0].spread < of(OWN.mean, 190, spread=60.0)[0].spread


@pytest.mark.parametrize(("more", "why"), [({"motion": 3.0}, "moved"), ({"quality": 0.2}, "noisy")])
def test_only_quiet_windows_of_good_quality_are_learnt_and_alarm(wearer, more, why):
    wearer.learn(58.0)
    before = wearer.own
    for _ in range(6):
        assert wearer.sense(150.0, **more).action == "none", why
    assert wearer.own == before


def test_a_window_under_a_rule_is_not_learnt_and_the_rule_stands(wearer):
    wearer.learn(58.0)
    before = wearer.own
    assert [wearer.sense(0.0).action for _ in range(3)] == ["asystole"] * 3
    assert [wearer.sense(58.0).action for _ in range(3)] == ["look"] * 3  # its hold: as usual, and not learnt
    assert wearer.own == before


def test_no_function_can_silence_a_rule_that_stands(wearer):
    """Whatever is learnt, and whatever code decides: the room keeps such a rule's action."""
    wearer.learn(58.0, n=3)
    wearer.device._function._function = lambda request: DecisionAnswer("none", state=request.state)
    assert wearer.sense(0.0).action == "asystole"
    assert wearer.device.function_status["overruled"] == 1
    wearer.device._function._function = lambda request: DecisionAnswer("look", state=request.state)
    assert wearer.sense(0.0).action == "asystole"


def test_one_who_is_ill_while_calibrating_gets_a_baseline_within_the_signed_bounds(wearer):
    wearer.learn(89.0, n=800)  # not high enough to be alarmed from the beginning
    wearer.learn(97.0, n=2000)
    own = wearer.own.baselines[PULSE]
    assert wearer.own.own[PULSE].mean > OWN.high
    assert own.mean == OWN.high
    assert wearer.counts[f"{PULSE}_mean_clipped"] > 0
    assert wearer.sense(130.0).action == "none"
    assert [wearer.sense(130.0).action for _ in range(2)][-1] == "look"


def test_a_baseline_learnt_while_ill_heals(wearer):
    wearer.learn(89.0, n=800)
    assert [wearer.sense(60.0).action for _ in range(4)][-1] == "look"
    assert wearer.learn(60.0, n=1500).action == "none"
    assert wearer.own.baselines[PULSE].mean < 75.0


def test_it_survives_a_restart_a_change_of_model_and_a_new_prior(tmp_path, wearer):
    named = wearer.learn(50.0).calibration
    state = wearer.state
    wearer.restart(state)
    assert wearer.sense(50.0).calibration == named
    wearer.switch.models = ActiveModels(Pulse("pulse-2"))
    assert wearer.sense(50.0).calibration == named
    before = wearer.own
    wearer.follow({**PRIOR, f"{PULSE}_low": 55.0}, "prior-2")
    other = wearer.sense(55.0)
    assert other.calibration not in (None, named)
    assert wearer.own.own[PULSE].n > before.own[PULSE].n - 1
    assert wearer.own.baselines[PULSE].mean == 55.0  # within the new bounds
    assert wearer.counts["calibration_rebased"] == 1


def test_without_a_prior_the_rules_decide_and_what_was_learnt_waits(wearer):
    named = wearer.learn(50.0).calibration
    before = wearer.own
    wearer.follow(None)
    taken_back = [wearer.sense(80.0) for _ in range(5)]
    assert {(d.action, d.calibration) for d in taken_back} == {("none", None)}
    assert wearer.own == before
    assert wearer.counts["windows_without_prior"] == 5
    wearer.follow(PRIOR)
    assert wearer.sense(50.0).calibration == named


DAMAGE = {
    "calibration": 7,
    "newest_us": "soon",
    "own": {PULSE: [1.0, 2.0]},
    "own of nobody": {PULSE: [5.0, 60.0, -4.0]},
    "baselines": {PULSE: [60.0, 0.0, 1.0]},
    "huge": {PULSE: [10**400, 1.0, 1.0]},
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_calibration_begins_anew_from_the_prior_and_is_counted(wearer, what):
    fresh = wearer.sense(60.0).calibration
    assert wearer.learn(50.0).calibration != fresh
    state = json.loads(wearer.state)
    kept = state["function"]["state"]
    if what == "calibration":
        kept[what] = DAMAGE[what]
    else:
        kept["calibration"][{"own of nobody": "own", "huge": "own"}.get(what, what)] = DAMAGE[what]
    wearer.restart(json.dumps(state))
    assert wearer.sense(60.0).calibration == fresh
    assert wearer.counts["calibrations_begun_anew"] == 1
    assert wearer.device.function_status["failed"] == 0


def test_a_state_that_is_no_json_is_counted_as_lost(wearer):
    wearer.learn(50.0)
    wearer.restart(wearer.state[:-5])
    assert wearer.device.function_status["states_lost"] == 1
    assert wearer.sense(60.0).action == "none"


def test_a_window_is_learnt_once_whatever_the_clock_does(wearer):
    wearer.learn(58.0, n=100)
    before = wearer.own
    for k in range(1, 90):
        wearer.sense(58.0, k=k)  # replayed
    assert wearer.own.own == before.own
    assert wearer.counts["quiet_windows_repeated"] == 89
    wearer.sense(58.0, k=10 * 86400)  # the clock runs ahead, and is set back
    for k in range(101, 120):
        wearer.sense(58.0, k=k)
    assert wearer.own.own[PULSE].n == before.own[PULSE].n + 20
    assert wearer.counts["clock_set_back"] == 1


def test_the_same_windows_give_the_same_decisions_and_another_device_other_names(tmp_path):
    first, again = (Wearer(tmp_path / n) for n in "ab")
    again.identity = replace(again.identity, secret=first.identity.secret)
    again.restart(None)
    other = Wearer(tmp_path / "c")
    rows = [[w.learn(50.0, n=60)] + [w.sense(70.0) for _ in range(4)] for w in (first, again, other)]
    assert rows[0] == rows[1]
    assert [d.action for d in rows[2]] == [d.action for d in rows[0]]
    assert not {d.calibration for d in rows[0]} & {d.calibration for d in rows[2]}


def test_a_revision_stands_for_a_while_and_says_what_decided(wearer):
    names = []
    for value in np.random.default_rng(2).normal(58.0, 3.0, 1000):
        names.append(wearer.sense(value).calibration)
    changes = sum(a != b for a, b in pairwise(names))
    assert 5 < changes < 40
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)


def test_an_inconsistent_prior_is_refused_without_its_values():
    try_parameters(PROFILE, "d-1", PRIOR)
    for wrong in ({f"{PULSE}_low": 70.0}, {f"{PULSE}_within_low": 7.0}, {"alarm_z": 0.0}):
        with pytest.raises(ValueError, match="refuses them") as refused:
            try_parameters(PROFILE, "d-1", {**PRIOR, **wrong})
        assert not any(
            char.isdigit() for char in str(refused.value).replace("at least 1", "").replace("0", "")
        )
    with pytest.raises(ValueError, match="no prior"):
        try_parameters(PROFILE, "d-1", {"green_s": 5.0})

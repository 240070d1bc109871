"""Laws of fitting to a history: what budgets mean, what decides, and what never does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.decider import Decider
from model_service.detectors.alarm_budget import AlarmRule, threshold_for
from model_service.detectors.choosing import (
    GENERIC_FAULTS,
    LABELS,
    bank_recall,
    choose,
    shows_wandering_only,
)
from model_service.detectors.generic_bank import generic_bank
from model_service.detectors.history import FeatureHistory
from model_service.detectors.kinds import KINDS
from model_service.detectors.scaling import wandered
from model_service.models.fault_bank import GENERIC, parse_bank
from schemas.decision_policy import DecisionPolicy, DecisionRule
from schemas.errors import DatasetError
from schemas.instants import from_us
from tests.model_service.test_detectors import LOGGED, PUMP, rows, windows

HIGH = st.lists(st.booleans(), max_size=60)
RULE = AlarmRule(per_device_day=1.0, hop_s=60.0, refractory_windows=12)


def history(count: int = 300, seed: int = 0, faulty: range = range(0)) -> FeatureHistory:
    features = rows(count, seed)
    marked = np.isin(np.arange(count), list(faulty))
    return FeatureHistory(features, np.zeros(count, dtype=np.int64), marked, np.zeros(count, dtype=bool))


@pytest.fixture(scope="module")
def bank():
    return parse_bank(generic_bank(PUMP, windows(200).astype(float), seed=1).to_bytes())


@given(high=HIGH, after=st.integers(1, 3), refractory=st.integers(0, 8))
def test_alarms_start_where_a_device_says_so(high, after, refractory):
    rule = DecisionRule(action="inspect", enter=0.5, leave=0.5, after_windows=after)
    decider = Decider(DecisionPolicy(rules=(rule,), refractory_windows=refractory))
    said = [
        decider.decide(from_us(at * 60_000_000), 0.9 if is_high else 0.1).alert
        for at, is_high in enumerate(high)
    ]
    ours = AlarmRule(1.0, 60.0, after, refractory).starts(np.array(high, dtype=bool))
    assert ours.tolist() == said


@given(high=HIGH, more=HIGH, after=st.integers(1, 3), refractory=st.integers(0, 8))
def test_more_high_windows_never_cost_less(high, more, after, refractory):
    width = min(len(high), len(more))
    fewer = np.array(high[:width], dtype=bool)
    rule = AlarmRule(1.0, 60.0, after, refractory)
    assert rule.cost(fewer | np.array(more[:width], dtype=bool)) >= rule.cost(fewer)


@given(distance=st.lists(st.floats(0, 9), max_size=40), after=st.integers(1, 3))
def test_an_alarm_begins_at_what_enough_windows_in_a_row_reach(distance, after):
    given_distance, rule = np.array(distance), AlarmRule(1.0, 60.0, after, 0)
    reached = np.nan_to_num(rule.lasting(given_distance), nan=-1.0) >= 5.0
    started = rule.starts(given_distance >= 5.0)
    assert reached[started].all()
    assert bool(reached.any()) == bool(started.any())


def test_a_short_history_under_a_rule_of_several_windows_asks_for_what_lasts():
    distance = np.random.default_rng(2).exponential(size=80)
    found = [threshold_for([distance], AlarmRule(1.0, 5.0, after)) for after in (1, 2, 3)]
    assert [f.alarms for f in found] == [0, 0, 0]
    assert found[0].distance > found[1].distance > found[2].distance


@pytest.mark.parametrize("budget", [0.5, 1.0, 4.0])
def test_a_long_history_is_counted_and_keeps_to_the_budget(budget):
    distance = np.random.default_rng(0).exponential(size=20 * 1440)
    found = threshold_for([distance], AlarmRule(budget, 60.0))
    assert found.counted
    assert found.device_days == 20
    assert 0.8 * budget * 20 <= found.alarms <= budget * 20


def test_a_smaller_budget_has_a_higher_threshold_on_any_length_of_history():
    for length in (80, 20 * 1440):
        distance = np.random.default_rng(1).exponential(size=length)
        found = [threshold_for([distance], AlarmRule(b, 60.0)).distance for b in (0.2, 1.0, 10.0)]
        assert found == sorted(found, reverse=True)


def test_a_short_history_sets_a_threshold_above_all_that_it_shows():
    distance = np.random.default_rng(2).exponential(size=80)
    found = threshold_for([distance], RULE)
    assert not found.counted
    assert distance.max() < found.distance <= 1.15 * distance.max()
    assert found.alarms == 0


def test_the_bank_holds_every_generic_fault_of_every_channel_in_graded_sizes(bank):
    names = {"step", "ramp", "spike", "noise_growth", "stuck", "dropout", "decoupled"}
    names |= {"shared_step", "shared_ramp", "shared_noise_growth"}
    assert set(bank.kinds) == {f"{n}:{c}" for n in names for c in ("pressure", "flow")}
    assert {len(bank.severities(k)) for k in bank.kinds} == {4}
    assert generic_bank(PUMP, windows(200).astype(float), 1).origin == GENERIC


def test_a_pair_differs_by_the_fault_alone(bank):
    """A step moves the mean of its own channel by its size, and nothing else."""
    effect = bank.effect("step:pressure", 4.0)
    assert effect[0] == pytest.approx(2 * bank.effect("step:pressure", 2.0)[0], rel=1e-3)
    np.testing.assert_allclose(effect[[1, 2, 3]], 0.0, atol=1e-3)


def test_a_shared_fault_reaches_the_other_channels_with_half_its_size(bank):
    alone, shared = bank.effect("step:flow", 4.0), bank.effect("shared_step:pressure", 4.0)
    assert abs(shared[2]) == pytest.approx(alone[2] / 2, rel=1e-2)
    np.testing.assert_allclose(shared[0], bank.effect("step:pressure", 4.0)[0], rtol=1e-3)


def test_larger_faults_are_detected_at_least_as_often(bank):
    detector = KINDS[0].fit(rows(200), LOGGED, KINDS[0].settings[0])
    for kind, shares in bank_recall(detector, rows(60, 3), bank, 6.0).items():
        if kind.startswith(("step", "ramp", "noise", "shared")):
            assert shares == sorted(shares), kind


def test_without_labels_generic_faults_decide(bank):
    found = choose(history(), LOGGED, bank, RULE)
    assert found.judged_by == GENERIC_FAULTS
    best = max(t.recall for t in found.trials)
    assert next(
        t for t in found.trials if t.kind == found.kind.name and t.settings == found.settings
    ).recall > (best - 0.02001)
    assert len(found.trials) == sum(len(k.settings) for k in KINDS)


def test_labels_decide_where_there_are_enough(bank):
    features = rows(300)
    features[250:260, 0] += 1.5
    features[250:260, 2] -= 3.0  # a broken relation: only some detectors see it
    marked = np.zeros(300, dtype=bool)
    marked[250:260] = True
    given_rows = FeatureHistory(features, np.zeros(300, dtype=np.int64), marked, np.zeros(300, dtype=bool))
    found = choose(given_rows, LOGGED, bank, RULE)
    assert found.judged_by == LABELS
    assert found.kind.name != "robust_reference"


def test_labelled_and_excluded_rows_train_nothing(bank):
    """With them altered beyond measure, the same detector comes out."""
    base = history(300, faulty=range(10, 13))
    excluded = np.isin(np.arange(300), range(40, 60))
    wild = base.features.copy()
    wild[10:13] *= 50
    wild[40:60] *= 50
    pair = [
        choose(FeatureHistory(f, base.device, base.faulty, excluded), LOGGED, bank, RULE)
        for f in (base.features, wild)
    ]
    assert pair[0].detector.parameters() == pair[1].detector.parameters()
    assert pair[0].enter == pair[1].enter


def test_the_threshold_is_the_score_at_the_budgets_distance(bank):
    found = choose(history(), LOGGED, bank, RULE)
    high = found.detector.distance(rows(400, 9)) >= found.threshold.distance
    np.testing.assert_array_equal(found.detector.score(rows(400, 9)) >= found.enter, high)
    assert 0 < found.leave < found.enter < 1


def test_a_history_of_a_few_windows_is_refused(bank):
    with pytest.raises(DatasetError, match="39 healthy windows"):
        choose(history(39), LOGGED, bank, RULE)


def test_a_fault_that_nobody_labelled_neither_trains_nor_lifts_the_threshold(bank):
    clean = history(300)
    dirty = clean.features.copy()
    dirty[100:104] += 400.0
    found = [
        choose(FeatureHistory(f, clean.device, clean.faulty, clean.excluded), LOGGED, bank, RULE)
        for f in (clean.features, dirty)
    ]
    assert [c.suspects for c in found] == [0, 4]
    assert found[1].threshold.distance == pytest.approx(found[0].threshold.distance, rel=0.1)
    assert (found[1].detector.score(dirty[100:104]) >= found[1].enter).all()


def test_what_is_not_rare_is_a_way_to_work_and_no_fault(bank):
    clean = history(300)
    two_modes = clean.features.copy()
    two_modes[::3] += 400.0
    given_rows = FeatureHistory(two_modes, clean.device, clean.faulty, clean.excluded)
    assert choose(given_rows, LOGGED, bank, RULE).suspects == 0


def wandering(device: np.ndarray | None = None) -> FeatureHistory:
    """A short history in which the flow's level goes slowly up; the rest is noise."""
    features = rows(80)
    features[:, 2] += 8 * np.linspace(0, 1, 80)
    none = np.zeros(80, dtype=bool)
    return FeatureHistory(features, np.zeros(80, np.int64) if device is None else device, none, none)


def test_what_wanders_in_a_short_history_of_one_device_may_wander_on_without_an_alarm(bank):
    found = choose(wandering(), LOGGED, bank, RULE)
    later = rows(80, seed=8)
    later[:, 2] += 8 * np.linspace(1, 1.5, 80)
    assert (found.detector.distance(later) >= found.threshold.distance).mean() < 0.05
    apart = rows(80, seed=8)
    apart[:, 0] += 40
    assert (found.detector.distance(apart) >= found.threshold.distance).all()


def test_noise_and_what_moved_between_devices_are_no_wandering():
    assert (wandered(rows(80)) == 0.0).all()
    assert wandered(wandering().features)[2] > 1.0
    long = AlarmRule(1.0, 3600.0)
    assert shows_wandering_only(wandering(), RULE)
    assert not shows_wandering_only(wandering(), long)
    assert not shows_wandering_only(wandering(np.arange(80) // 40), RULE)

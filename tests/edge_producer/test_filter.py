"""Laws of the filter."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.decider import LocalDecision
from edge_producer.filter import RowFilter, permanent_u
from schemas.row_schemas import RULES, Reason, Stratum
from tests.edge_producer.spool_rig import STEADY, bench_profile, has, row

SECRET = b"s" * 32
NAMES = ("load_last", "load_mean")


def make(secret=SECRET, state=None, **policy):
    return RowFilter(bench_profile(**policy).filter, NAMES, 1.0, secret, state)


def run(subject, scores, values=None, decisions=None):
    """All rows in the order in which they were sensed."""
    released = []
    for seq, score in enumerate(scores):
        value = values[seq] if values else 0.0
        released += subject.offer(row(seq, score, value), decisions[seq] if decisions else STEADY)
    return sorted(released + subject.flush(), key=lambda r: r.seq)


def test_u_is_permanent_and_uniform():
    numbers = np.array([permanent_u(SECRET, 7, seq) for seq in range(4000)])
    assert permanent_u(SECRET, 7, 123) == numbers[123]
    assert numbers.min() >= 0
    assert numbers.max() < 1
    deciles = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert ((deciles - 400) ** 2 / 400).sum() < 33.7  # chi-square, 9 degrees of freedom, 1 in 10,000


def test_u_depends_on_device_boot_and_seq():
    assert len({permanent_u(s, b, q) for s in (b"a" * 32, b"b" * 32) for b in (1, 2) for q in (1, 2)}) == 8


@given(st.lists(st.none() | st.floats(0, 1), max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_row_is_released_once_and_in_an_estimate_iff_u_below_pi(scores):
    released = run(make(), scores)
    assert sorted(r.seq for r in released) == list(range(len(scores)))
    for r in released:
        if has(r.reasons, Reason.CONTEXT):
            assert r.u >= r.sample_p
            continue
        assert r.selected == (r.u < r.pi)
        assert r.pi == (1.0 if r.reasons & RULES else r.sample_p)
        assert r.stratum == (Stratum.RULE if r.reasons & RULES else Stratum.SAMPLE)
        assert has(r.reasons, Reason.SAMPLE) == (r.selected and not r.reasons & RULES)


def test_rows_before_a_trigger_are_context_and_rows_after_it_are_selected():
    released = run(make(p=0.05), [0.1] * 10 + [0.85] + [0.1] * 10)
    reasons = [r.reasons for r in released]
    assert all(has(reasons[k], Reason.CONTEXT) and released[k].selected for k in (7, 8, 9))
    assert not has(reasons[6], Reason.CONTEXT)
    assert has(reasons[10], Reason.THRESHOLD)
    assert [k for k in range(21) if has(reasons[k], Reason.BURST)] == [11, 12]


def test_a_trigger_releases_everything_at_once_and_what_is_not_selected_waits():
    subject = make(p=0.05)
    assert subject.offer(row(0), STEADY) == []
    assert subject.offer(row(1), STEADY) == []
    assert [r.seq for r in subject.offer(row(2, 0.9), STEADY)] == [0, 1, 2]
    assert subject.held == 0


def test_each_rule_sets_its_reason():
    subject = make(uncertain=(0.4, 0.6), deadband={"load_last": 1.0})
    started = LocalDecision("x", started=True, alert=False, fail_safe=False)
    failed = LocalDecision("x", started=False, alert=False, fail_safe=True)
    released = run(
        subject, [0.1, 0.5, None, 0.1, 0.1], [0, 0, 0, 5, 5], [STEADY, STEADY, failed, STEADY, started]
    )
    expected = [Reason.DEADBAND, Reason.UNCERTAIN, Reason.FAIL_SAFE, Reason.DEADBAND, Reason.TRANSITION]
    assert [r.reasons & RULES for r in released] == expected


def test_deadband_compares_with_the_last_sent_row_and_notices_missing_values():
    values = [0.0, 0.9, 1.1, 1.9, math.nan, math.nan, 1.9]
    released = run(make(p=0.05, p_min=0.05, deadband={"load_last": 1.0}), [0.0] * 7, values)
    assert not any(r.u < 0.05 for r in released)
    assert [has(r.reasons, Reason.DEADBAND) for r in released] == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_budget_lowers_p_but_never_below_the_floor():
    subject = make(p=0.3, p_min=0.05, budget_rows_per_hour=360)
    released = run(subject, [0.0] * 3600)
    rates = np.array([r.sample_p for r in released])
    assert rates.min() >= 0.05
    assert rates.max() <= 0.3
    assert rates.sum() == pytest.approx(360, rel=0.02)
    starved = run(make(p=0.3, p_min=0.05, budget_rows_per_hour=1), [0.0] * 100)
    assert {r.sample_p for r in starved} == {0.05}


@pytest.mark.parametrize(("before", "after"), [(0.08, 0.5), (0.5, 0.08)])
def test_the_rate_of_another_policy_holds_from_its_first_row(before, after):
    """A pushed version of the profile takes the state of the boot before it."""
    state = json.loads(json.dumps(make(p=before).export()))
    assert make(state=state, p=after).p == after


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_restart_changes_no_probability(scores, cut):
    policy = {"deadband": {"load_last": 0.2}, "budget_rows_per_hour": 400}
    whole = [(r.seq, r.reasons, r.pi, r.u) for r in run(make(**policy), scores, scores)]
    first, released = make(**policy), []
    for seq, score in enumerate(scores[:cut]):
        released += first.offer(row(seq, score, score), STEADY)
    second = make(state=json.loads(json.dumps(first.export())), **policy)
    for seq, score in list(enumerate(scores))[cut:]:
        released += second.offer(row(seq, score, score), STEADY)
    released = sorted(released + second.flush(), key=lambda r: r.seq)
    assert [(r.seq, r.reasons, r.pi, r.u) for r in released] == whole


def test_weighted_estimates_are_honest_and_naive_ones_are_not():
    """Over many devices, total / q is unbiased and its interval covers; the mean of sent rows is off."""
    rng = np.random.default_rng(5)
    scores = np.clip(rng.beta(1.2, 6, 400) + (rng.random(400) < 0.03) * 0.6, 0, 1)
    truth = scores.mean()
    errors, naive, covered = [], [], 0
    for seed in range(300):
        rows = run(make(seed.to_bytes(32, "big"), p=0.1), scores.tolist())
        sent = [r for r in rows if r.selected and not has(r.reasons, Reason.CONTEXT)]
        y, q = np.array([r.score for r in sent]), np.array([r.pi for r in sent])
        estimate = (y / q).sum() / 400
        spread = math.sqrt(((1 - q) * y**2 / q**2).sum()) / 400
        errors.append(estimate - truth)
        naive.append(y.mean() - truth)
        covered += abs(estimate - truth) <= 1.96 * spread
    standard_error = np.std(errors) / math.sqrt(300)
    assert abs(np.mean(errors)) < 4 * standard_error
    assert covered / 300 > 0.88
    assert np.mean(naive) > 5 * np.std(naive) / math.sqrt(300)
    assert np.mean(naive) > 0.2 * truth


def reasons(subject, scores, values=None):
    return [r.reasons & RULES for r in run(subject, scores, values)]


def test_a_score_at_the_threshold_selects_and_one_at_the_upper_end_of_uncertain_does_not():
    subject = make(threshold=0.8, burst_after=0, pretrigger=0, uncertain=(0.4, 0.6))
    assert reasons(subject, [0.4, 0.6, 0.8]) == [Reason.UNCERTAIN, 0, Reason.THRESHOLD]


def test_a_value_at_the_edge_of_its_band_has_not_left_it():
    subject = make(p=0.0001, p_min=0.0001, deadband={"load_last": 1.0})
    assert reasons(subject, [0.0] * 4, [0.0, 1.0, -1.0, 1.5]) == [Reason.DEADBAND, 0, 0, Reason.DEADBAND]


def test_a_band_on_the_score_compares_scores_and_notices_a_missing_one():
    subject = make(p=0.0001, p_min=0.0001, threshold=None, deadband={"score": 0.2})
    assert reasons(subject, [0.1, 0.2, 0.4, None, None, 0.4]) == [
        Reason.DEADBAND, 0, Reason.DEADBAND, Reason.DEADBAND, 0, Reason.DEADBAND,
    ]  # fmt: skip


def test_a_row_whose_number_equals_the_rate_is_not_sent():
    at = permanent_u(SECRET, 1, 0)
    [same] = run(make(p=at, p_min=at / 2), [0.1])
    [above] = run(make(p=math.nextafter(at, 1), p_min=at / 2), [0.1])
    assert (same.reasons, above.reasons) == (0, Reason.SAMPLE)
    assert (same.selected, above.selected) == (False, True)


def budgeted(scores, hop_s=1.0, hours=1.0, rows=360):
    policy = {"p": 0.9, "p_min": 0.001, "budget_rows_per_hour": rows, "burst_after": 0, "pretrigger": 0}
    subject = RowFilter(bench_profile(**policy).filter, NAMES, hop_s, SECRET)
    released = []
    for seq, score in enumerate(scores):
        each = row(seq, score)
        each.event_us = round(seq * hop_s * hours * 1e6)
        released += subject.offer(each, STEADY)
    return [r.sample_p for r in released]


def test_what_rules_select_leaves_the_budget_to_the_rest_of_the_hour():
    rates = budgeted([0.9] * 1800 + [0.1] * 1800)
    assert rates[0] == pytest.approx(0.1)
    assert rates[1801] == pytest.approx(0.2, rel=0.01)
    assert sum(rates[1800:]) == pytest.approx(360, rel=0.01)


def test_each_hour_has_a_budget_of_its_own():
    rates = budgeted([0.9] * 3599 + [0.1] * 3601)
    assert rates[3599] == pytest.approx(0.9)  # a whole hour's budget was left to its last row
    assert rates[3700] == pytest.approx(0.1, rel=0.01)


def test_slower_windows_are_sampled_at_a_higher_rate():
    assert budgeted([0.1], hop_s=4.0)[0] == pytest.approx(0.4)
    assert sum(budgeted([0.1] * 900, hop_s=4.0)) == pytest.approx(360, rel=0.02)


def test_no_budget_leaves_the_rate_of_the_policy():
    assert {r.sample_p for r in run(make(p=0.3, p_min=0.05), [0.1] * 50)} == {0.3}

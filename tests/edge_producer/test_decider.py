"""Laws of the local decision."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from edge_producer.decider import Decider
from schemas.decision_policy import DecisionPolicy, DecisionRule
from tests.edge_producer.spool_rig import START

POLICY = DecisionPolicy(
    idle="none",
    fail_safe="hold",
    rules=(
        DecisionRule(action="inspect", enter=0.6, leave=0.4, alert=False),
        DecisionRule(action="stop", enter=0.9, leave=0.5, after_windows=2, hold_s=10.0),
    ),
)


def run(decider, scores, start=0):
    return [decider.decide(START + timedelta(seconds=start + k), s) for k, s in enumerate(scores)]


def test_action_stays_between_leave_and_enter():
    actions = [d.action for d in run(Decider(POLICY), [0.5, 0.6, 0.5, 0.41, 0.39, 0.5])]
    assert actions == ["none", "inspect", "inspect", "inspect", "none", "none"]


def test_most_severe_rule_wins_after_its_windows():
    assert [d.action for d in run(Decider(POLICY), [0.95, 0.95])] == ["inspect", "stop"]


def test_action_holds_for_its_time():
    decided = run(Decider(POLICY), [0.95, 0.95, *[0.0] * 12])
    assert [d.action for d in decided].count("stop") == 10
    assert decided[-1].action == "none"


def test_fail_safe_applies_without_a_score_and_alerts_once():
    decided = run(Decider(POLICY), [0.1, None, None, 0.1])
    assert [d.action for d in decided] == ["none", "hold", "hold", "none"]
    assert [d.fail_safe for d in decided] == [False, True, True, False]
    assert [d.alert for d in decided] == [False, True, False, False]


def test_a_held_action_outlasts_a_missing_score_but_only_for_its_hold():
    actions = [d.action for d in run(Decider(POLICY), [0.95, 0.95, *[None] * 12])]
    assert actions[1:11] == ["stop"] * 10
    assert actions[11:] == ["hold"] * 3


def test_alert_only_when_an_alerting_action_starts():
    decided = run(Decider(POLICY), [0.7, 0.95, 0.95, 0.95])
    assert [(d.started, d.alert) for d in decided] == [
        (True, False),
        (False, False),
        (True, True),
        (False, False),
    ]


def test_a_clock_that_steps_back_does_not_hold_for_ever():
    decider = Decider(POLICY)
    run(decider, [0.95, 0.95], start=1_000_000)
    assert [d.action for d in run(decider, [0.0] * 12)][-1] == "none"


@given(st.lists(st.none() | st.floats(0, 1), max_size=40), st.integers(0, 40))
def test_a_restart_changes_no_decision(scores, cut):
    whole = run(Decider(POLICY), scores)
    first = Decider(POLICY)
    before = run(first, scores[:cut])
    after = run(Decider(POLICY, first.export()), scores[cut:], start=min(cut, len(scores)))
    assert before + after == whole


def test_a_rule_lasts_while_the_score_is_not_below_its_leave():
    assert [d.action for d in run(Decider(POLICY), [0.6, 0.4, 0.4, 0.39])] == ["inspect"] * 3 + ["none"]


def test_a_rule_without_a_hold_ends_even_at_the_instant_at_which_it_began():
    decider = Decider(POLICY)
    assert decider.decide(START, 0.7).action == "inspect"
    assert decider.decide(START, 0.1).action == "none"


def test_a_restart_keeps_counted_windows_and_a_hold():
    first = Decider(POLICY)
    run(first, [0.95])
    assert run(Decider(POLICY, first.export()), [0.95], start=1)[0].action == "stop"
    held = Decider(POLICY)
    run(held, [0.95, 0.95])
    actions = [d.action for d in run(Decider(POLICY, held.export()), [0.0] * 12, start=2)]
    assert actions == ["stop"] * 9 + ["none"] * 3


def test_what_is_left_of_a_rule_that_the_profile_no_longer_has_is_forgotten():
    before = Decider(POLICY)
    run(before, [0.95, 0.95])
    fewer = DecisionPolicy(idle="none", fail_safe="hold", rules=POLICY.rules[:1])
    after = Decider(fewer, before.export())
    assert [d.action for d in run(after, [0.95, 0.1], start=2)] == ["inspect", "none"]
    assert set(after.export()["rules"]) == {"inspect"}

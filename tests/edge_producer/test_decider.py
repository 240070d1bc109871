"""Laws of the local decision."""

from datetime import timedelta

import pytest
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


def alerts(scores, policy=POLICY, **of_policy):
    decider = Decider(policy.model_copy(update=of_policy))
    return [d.action for d in run(decider, scores) if d.alert]


TWO = DecisionPolicy(
    rules=(
        DecisionRule(action="inspect", enter=0.6, leave=0.4),
        DecisionRule(action="stop", enter=0.9, leave=0.7),
    ),
    refractory_windows=3,
)


def test_from_stop_down_to_inspect_is_no_alarm():
    decided = run(Decider(TWO), [0.95, 0.65, 0.65])
    assert [(d.action, d.started, d.alert, d.repeated) for d in decided] == [
        ("stop", True, True, False),
        ("inspect", True, False, True),
        ("inspect", False, False, False),
    ]


def test_an_incident_gives_one_alert_for_each_severity_on_its_way_up():
    assert alerts([0.65, 0.95, 0.65, 0.95, 0.1, 0.65, 0.95], TWO) == ["inspect", "stop"]


def test_repeats_within_the_refractory_time_are_one_incident_and_after_it_another():
    flicker = [0.65, 0.1, 0.1, 0.1, 0.65]
    assert alerts(flicker, TWO) == ["inspect"]
    assert alerts([*flicker[:4], 0.1, 0.65], TWO) == ["inspect", "inspect"]
    assert alerts([0.65, 0.1, 0.65], TWO, refractory_windows=0) == ["inspect", "inspect"]


def test_the_action_itself_knows_no_refractory_time():
    assert [d.action for d in run(Decider(TWO), [0.65, 0.1, 0.65])] == ["inspect", "none", "inspect"]


def test_the_lack_of_a_score_is_an_incident_of_its_own():
    assert alerts([0.95, 0.1, None, 0.1, 0.95, None], TWO, fail_safe="hold") == ["stop", "hold"]


def test_the_state_of_0_2_0_knows_no_incidents_and_is_read():
    before = Decider(TWO)
    run(before, [0.65])
    state = {k: v for k, v in before.export().items() if k != "incidents"}
    assert [d.action for d in run(Decider(TWO, state), [0.1, 0.65], start=1)] == ["none", "inspect"]


@pytest.mark.parametrize(
    ("policy", "score", "action"),
    [
        (DecisionPolicy(rules=TWO.rules), 0.1, "inspect"),
        (DecisionPolicy(rules=TWO.rules), None, "inspect"),
        (DecisionPolicy(rules=TWO.rules), 0.95, "stop"),
        (DecisionPolicy(rules=TWO.rules, fail_safe="hold"), None, "hold"),
        (DecisionPolicy(rules=TWO.rules, fail_safe="hold"), 0.1, "inspect"),
        (DecisionPolicy(rules=TWO.rules, out_of_range="look"), 0.1, "look"),
        (DecisionPolicy(), 0.1, "inspect"),
    ],
)
def test_what_is_out_of_range_brings_an_action_unless_a_weightier_one_is_in_force(policy, score, action):
    decided = Decider(policy).decide(START, score, out_of_range=True)
    assert decided.action == action
    assert decided.alert
    assert decided.fail_safe == (action == "hold")

"""Two models on the same windows: what only one of them sees is counted, and the guard reads it right."""

import pytest
from scipy import stats

from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.report_content import shadow_message
from edge_producer.updates.shadow_comparison import ShadowComparison, poisson_tail
from edge_producer.updates.soak_watch import SoakWatch
from edge_producer.updates.update_once import synthetic_windows
from model_service.rollout.observed import LabelledWindows, PairedAlarms
from model_service.rollout.paired_reading import paired_shadow
from schemas.proto.delivery_pb2 import AlarmPairs, Shadow
from tests.quick_machine_profile import quick_machine_profile

MACHINE = quick_machine_profile()
ENTER, HOP_S = MACHINE.decision.rules[0].enter, MACHINE.sampling.hop_s
OLD, NEW = "machine-1.0000000a", "machine-2.0000000b"
ALARM, CALM = ENTER, ENTER - 0.1


def comparison(*scores, took_s=0.0, old_took_s=None):
    """A comparison of pairs (old score, new score)."""
    found = ShadowComparison.start(OLD, NEW, MACHINE)
    for old, new in scores:
        found = found.add(old, new, took_s, old_took_s)
    return found


SCORES = [
    (ALARM, ALARM),
    (CALM, ALARM),
    (CALM, ALARM),
    (CALM, CALM),
    (CALM, ALARM),
    (ALARM, CALM),
    (ALARM, CALM),
]


def test_windows_on_which_one_model_alarms_alone_are_counted_with_their_runs():
    found = comparison(*SCORES)
    assert (found.gained, found.gained_runs) == (3, 2)
    assert (found.lost_alarms, found.lost_runs) == (2, 1)
    assert (found.old_alarms, found.new_alarms) == (3, 4)


def test_a_window_that_one_model_does_not_score_ends_a_run():
    found = comparison((CALM, ALARM), (CALM, None), (CALM, ALARM))
    assert (found.gained, found.gained_runs, found.windows) == (2, 2, 2)


def test_a_run_of_one_model_ends_where_the_other_ones_begins():
    found = comparison((CALM, ALARM), (ALARM, CALM), (CALM, ALARM))
    assert (found.gained_runs, found.lost_runs) == (2, 1)


@pytest.mark.parametrize("in_force", [False, True])
def test_the_guard_reads_old_and_new_the_same_whichever_of_them_decides(in_force):
    found = comparison(*SCORES, took_s=HOP_S * 2, old_took_s=HOP_S / 100)
    found = found.with_faulty(4, old=2, new=3, both=1)
    message = Shadow.FromString(shadow_message(found.summary(in_force=in_force)).SerializeToString())
    read = paired_shadow(message, {NEW})
    assert read.alarms == PairedAlarms(old=3, new=4, gained=3, lost=2, gained_runs=2, lost_runs=1)
    assert read.labelled == LabelledWindows(4, old=2, new=3)
    assert (read.windows, read.late, round(read.gain, 6)) == (7, 7, round(1 / 7, 6))
    assert (read.old_took, read.new_took) == ((7, *[0] * 7), (*[0] * 7, 7))
    assert (sum(read.old_scores), sum(read.new_scores)) == (7, 7)
    assert read.old_scores != read.new_scores


def test_without_faulty_windows_and_without_times_nothing_is_said_of_them():
    read = paired_shadow(shadow_message(comparison(*SCORES).summary(in_force=False)), {NEW})
    assert (read.labelled, sum(read.old_took), sum(read.new_took)) == (None, 0, 7)


def test_a_report_of_0_2_0_says_nothing_of_alarms_that_one_model_raises_alone():
    read = paired_shadow(Shadow(active_version=OLD, shadow_version=NEW, windows=5, shadow_alarms=1), {NEW})
    assert (read.alarms, read.labelled, read.new_took, read.gain) == (None, None, (), 0.2)
    assert paired_shadow(Shadow(active_version=OLD, shadow_version="x-1.0000000c", windows=5), {NEW}) is None
    assert paired_shadow(Shadow(active_version=OLD, shadow_version=NEW), {NEW}) is None


def test_counts_that_no_honest_device_has_are_brought_into_their_bounds():
    wild = Shadow(
        active_version=OLD, shadow_version=NEW, windows=5, shadow_alarms=99, active_alarms=-3,
        alarms=AlarmPairs(shadow_only=99, active_only=-1, shadow_only_runs=70, active_only_runs=9),
    )  # fmt: skip
    read = paired_shadow(wild, {NEW})
    assert read.alarms == PairedAlarms(old=0, new=5, gained=5, lost=0, gained_runs=5, lost_runs=0)
    assert read.gain == 1.0


# After the watch


def soaking(longest_soak_s):
    policy = MACHINE.rollout.model_copy(update={"longest_soak_s": longest_soak_s})
    profile = MACHINE.model_copy(update={"rollout": policy})
    return SoakWatch(comparison(*[(CALM, CALM)] * 10), profile)


def outcome(score=CALM):
    return ScoredWindow(NEW, score, 0.0, CALM, 0.0, alarm=score >= ENTER)


def alternating(gained, lost, windows=600):
    """Windows on which only the new model alarms, then such ones of the old model, a calm one after each."""
    told = [(CALM, ALARM), (CALM, CALM)] * gained + [(ALARM, CALM), (CALM, CALM)] * lost
    return comparison(*told, *[(CALM, CALM)] * (windows - len(told)))


@pytest.mark.parametrize(
    ("gained", "lost", "state"),
    [(12, 0, "pass"), (60, 0, "fail"), (60, 50, "pass"), (0, 200, "pass"), (20, 0, "pass"), (2, 0, "pass")],
)
def test_a_trial_fails_a_model_that_surely_alarms_more_often_than_the_profile_allows(gained, lost, state):
    """Of 600 windows 12 are allowed; alarms that the old model alone raised make up for others."""
    found, reason = alternating(gained, lost).judge(600, early=False)
    assert found == state
    assert ("alarm under machine-2" in reason) == (state == "fail")


def test_one_long_alarm_is_one_event():
    lasting = comparison(*[(CALM, ALARM)] * 60, *[(CALM, CALM)] * 540)
    assert lasting.judge(600, early=False) == ("pass", "")


@pytest.mark.parametrize(("events", "mean"), [(1, 0.3), (3, 3.0), (40, 12.5), (12, 40.0), (0, 1.0)])
def test_the_tail_of_a_count_is_that_of_poisson(events, mean):
    assert poisson_tail(events, mean) == pytest.approx(stats.poisson.sf(events - 1, mean), abs=1e-12)


def test_a_soak_reports_whenever_its_windows_have_grown_and_counts_on_from_the_watch():
    soak, window = soaking(1000 * HOP_S), next(synthetic_windows(MACHINE, "m-1"))
    reported = []
    for _ in range(90):
        soak.observe(window, outcome(ALARM))
        if (summary := soak.due()) is not None:
            reported.append(summary.windows)
    assert reported == [20, 40, 80]
    assert (soak.comparison.gained, soak.comparison.gained_runs, soak.comparison.windows) == (90, 1, 100)


def test_a_soak_ends_when_no_phase_can_soak_longer():
    soak, window = soaking(12 * HOP_S), next(synthetic_windows(MACHINE, "m-1"))
    soak.observe(window, outcome())
    assert (soak.is_over, soak.due()) == (False, None)
    soak.observe(window, outcome())
    last = soak.due()
    assert soak.is_over
    assert last is not None
    assert last.windows == 12, "what is left is reported at the end"
    assert soaking(3.0).is_over, "the watch was as long as any soak"

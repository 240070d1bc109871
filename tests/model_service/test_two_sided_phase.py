"""A phase on paired windows: what aborts it, what lengthens its soak and how far, what a person is asked."""

from dataclasses import replace

import pytest

from model_service.rollout import rollout_states
from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.observed import (
    AlarmRates,
    DeviceReport,
    GroupMember,
    LabelledWindows,
    Observed,
    PairedAlarms,
    PairedShadow,
    SentDocument,
)
from model_service.rollout.phase_judge import judge
from model_service.rollout.predicted_alarms import PredictedAlarms, PredictedMean, PredictedShare
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import CANARY
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from tests.simulators.simulated_rollout import FACTORY, NEW

OUT, DAY = 1000.0, 86400
SETTINGS = RolloutPolicy(soak_s=600.0, longest_soak_s=7 * DAY, min_devices=2)
PREDICTED = PredictedAlarms(
    old=PredictedShare(1e-4, 5e6), new=PredictedShare(1e-4, 5e6), gained=PredictedShare(3e-5, 5e6),
    lost=PredictedShare(3e-5, 5e6), recall=PredictedMean(0.0, 0.05, 20),
)  # fmt: skip
SOAKED = OUT + SETTINGS.soak_s


def record(settings=SETTINGS, **changes) -> RolloutRecord:
    plan = RolloutRecord(
        rollout_id="r", group="g", family="machine", version=NEW.version, created_by="anna", state="running",
        target={"machine": NEW}, baseline={"machine": FACTORY}, settings=settings, canary=EVERYBODY, salt="s",
    )  # fmt: skip
    return plan.model_copy(update=changes)


def report(number, paired, **changes) -> DeviceReport:
    given = {"runtime": "onnxruntime 1", **changes}
    return DeviceReport(number, OUT, "idle", "committed", NEW.version, paired=paired, **given)


def compared(windows=60, gained=0, lost=0, both=0, missed=0, **changes):
    """Reports of a device: its trial with 50 windows of known faults, then its newest comparison."""
    alarms = PairedAlarms(2 * (both + lost), 2 * (both + gained), 2 * gained, 2 * lost, gained, lost)
    tried = PairedShadow(30, 0.0, 0, PairedAlarms(0, 0, 0, 0, 0, 0), LabelledWindows(50, 45, 45 - missed))
    gain = 2 * (gained - lost) / windows
    return [report(1, tried, **changes), report(2, PairedShadow(windows, gain, 0, alarms), **changes)]


def judged(*reports, now=SOAKED, plan=None, members=None, **observed):
    devices = {f"d{i:02d}": r for i, r in enumerate(reports)}
    known = members or {d: GroupMember(d, "site", "sim", True) for d in devices}
    given = {"predicted": PREDICTED, **observed}
    return judge(plan or record(), 0, OUT, Observed(known, devices, **given), now)


def test_a_phase_whose_windows_rule_out_three_times_the_alarms_and_a_deaf_model_passes():
    assert judged(*[compared(2 * DAY, gained=1, both=4)] * 4).decision == ("promote", "", "failures")


def test_an_open_phase_is_lengthened_to_its_bound_and_says_why():
    waits = judged(*[compared()] * 4)
    assert (waits.decision.answer, waits.due) == ("wait", OUT + SETTINGS.soak_limit_s)
    assert waits.decision.reason.startswith("the soak is lengthened: alarms gained")
    assert waits.numbers()["lengthened"] == waits.decision.reason
    before = judged(*[compared()] * 4, now=SOAKED - 1)
    assert (before.decision, before.due) == (("wait", "", "failures"), SOAKED)


def test_at_the_bound_a_person_is_asked_and_nothing_passes_by_itself():
    found = judged(*[compared()] * 4, now=OUT + SETTINGS.soak_limit_s)
    assert (found.decision.answer, found.decision.kind) == ("ask", "not_shown")


def test_a_profile_that_lengthens_no_soak_passes_what_is_open_and_says_so_unless_it_leans_to_harm():
    short = record(SETTINGS.model_copy(update={"longest_soak_s": 3.0}))
    assert not short.settings.lengthens
    found = judged(*[compared()] * 4, plan=short)
    assert (found.decision.answer, "although open" in found.decision.reason) == ("promote", True)
    asked = judged(*[compared(missed=10)] * 2, plan=short, predicted=replace(PREDICTED, recall=None))
    assert (asked.decision.answer, "recall lost" in asked.decision.reason) == ("ask", True)


def test_alarms_beyond_the_prediction_abort_before_the_soak_is_over():
    found = judged(*[compared(DAY, gained=20)] * 4, now=OUT + 1)
    assert found.decision.answer == "abort"
    assert found.decision.reason.startswith("alarms gained")


def test_a_deaf_model_aborts_although_it_raises_no_alarm_too_many():
    found = judged(*[compared(2 * DAY, both=4, missed=16)] * 4, now=OUT + 1)
    assert (found.decision.answer, found.decision.reason[:11]) == ("abort", "recall lost")


def test_what_a_longer_soak_cannot_show_is_asked_at_once():
    vague = replace(PREDICTED, recall=None)
    found = judged(*[compared(missed=8)] * 2, predicted=vague)
    assert found.decision.answer == "ask"
    assert found.decision.reason.startswith("not shown that the new model is no worse: recall lost")


def test_three_times_too_many_alarms_within_a_vague_prediction_are_asked_at_once():
    vague = replace(PREDICTED, gained=PredictedShare(3e-5, 1e5), new=PredictedShare(1e-4, 1e5))
    found = judged(*[compared(DAY, gained=10, both=3)] * 4, predicted=vague)
    assert (found.decision.answer, found.decision.reason[:15]) == ("ask", "too many alarms")


def test_an_approvers_waiver_passes_what_is_open_but_no_harm():
    waived = record(waived=(0,))
    assert judged(*[compared()] * 4, plan=waived).decision.answer == "promote"
    assert judged(*[compared(DAY, gained=20)] * 4, plan=waived).decision.answer == "abort"


def test_the_reason_of_a_lengthened_soak_is_on_record_once():
    members = {f"d{i}": GroupMember(f"d{i}", "site", "sim", True) for i in range(4)}
    sent = [SentDocument(1, CANARY, "phase", 0, "published", OUT)]
    seen = Observed(members, dict.fromkeys(members, compared()), sent=sent, predicted=PREDICTED)
    first = rollout_states.advance(record(), seen, SOAKED)
    assert [a.step for a in first.actions] == ["soak_lengthened"]
    assert first.record.lengthened == (0,)
    again = rollout_states.advance(first.record, seen, SOAKED + 60)
    assert (again.actions, again.due) == ((), OUT + SETTINGS.soak_limit_s)


# Devices of 0.2.0


def old_release():
    return [DeviceReport(1, OUT, "idle", "committed", NEW.version, paired=PairedShadow(20, 0.0, 0))]


def test_devices_that_count_only_alarms_are_judged_by_these_and_the_report_says_what_is_not_compared():
    found = judged(*[old_release()] * 4)
    assert found.decision.answer == "promote"
    answers = {m["measure"]: m["answer"] for m in found.numbers()["paired"]["measures"]}
    assert set(answers.values()) == {"not_compared"}
    assert found.numbers()["paired"]["counts_no_alarms"] == 4


def test_in_a_mixed_group_those_that_count_both_decide():
    found = judged(*[old_release()] * 4, *[compared(DAY, gained=20)] * 4, now=OUT + 1)
    assert found.decision.answer == "abort"
    assert found.numbers()["paired"]["counts_no_alarms"] == 4


# Slices


def sliced(bad, good=8):
    """Two devices of one hardware class that do badly, among others that do well; all at one site."""
    reports = [*[bad] * 2, *[compared(2 * DAY, gained=1, both=4)] * good]
    members = {
        f"d{i:02d}": GroupMember(f"d{i:02d}", "site", "small" if i < 2 else "large", True)
        for i in range(len(reports))
    }
    return judged(*reports, members=members)


def test_a_slice_that_is_worse_aborts_though_the_whole_is_not():
    found = sliced(compared(2 * DAY, gained=1, both=4, missed=24))
    assert found.decision.answer == "abort"
    assert "recall lost at hardware small (2 devices)" in found.decision.reason
    whole = {m.name: m.answer for m in found.paired.measures}
    assert whole["recall lost"] != "harmful"


def test_each_slice_has_its_interval_and_its_corrected_p_value():
    found = sliced(compared(2 * DAY, gained=1, both=4))
    assert found.decision.answer == "promote"
    slices = found.numbers()["paired"]["slices"]
    assert {(s["dimension"], s["slice"]) for s in slices} == {("hardware", "small"), ("hardware", "large")}
    assert all(s["low"] <= s["value"] <= s["high"] and 0 < s["p"] <= 1 for s in slices)


def test_the_regime_of_a_device_is_how_often_the_old_model_alarms():
    calm, alarming = compared(2 * DAY, gained=1, both=4), compared(2 * DAY, both=DAY // 4)
    found = judged(calm, calm, alarming, alarming)
    regimes = {s.value: s.devices for s in found.paired.slices if s.dimension == "regime"}
    assert regimes == {"calm": 2, "alarming": 2}


# Ends of the process


HELD = SaltedShare(salt="h", devices=("h0", "h1", "h2", "h3"))


def with_holdout(reports, held_ends, now=SOAKED):
    """Treated devices beside four that are held out."""
    plan = record(holdout=HELD.model_copy(update={"share": 1e-9}))
    devices = {f"d{i}": r for i, r in enumerate(reports)}
    held = {
        f"h{i}": [DeviceReport(1, OUT, "idle", "", "", unclean_ends=n, runtime="onnxruntime 1")]
        for i, n in enumerate(held_ends)
    }
    members = {d: GroupMember(d, "site", "sim", True) for d in (*devices, *held)}
    return judge(plan, 0, OUT, Observed(members, devices | held, predicted=PREDICTED), now)


def ended(n, **changes):
    return compared(2 * DAY, gained=1, both=4, unclean_ends=n, **changes)


FINE = compared(2 * DAY, gained=1, both=4)


def test_one_end_of_the_process_is_excused_on_each_device_and_a_second_counts():
    assert judged(ended(1), ended(1), FINE, FINE).numbers()["failed"] == 0
    assert judged(ended(1), ended(1), FINE, FINE).numbers()["excused"] == 2
    twice = judged(ended(2), FINE, FINE, FINE)
    assert (twice.numbers()["failed"], twice.numbers()["excused"]) == (1, 0)
    assert "ended 2 times without order" in twice.numbers()["failures"]["d00"]


def test_an_end_by_a_resource_limit_is_never_excused():
    found = judged(ended(1, out_of_memory=1), FINE, FINE, FINE)
    assert found.numbers()["failures"]["d00"] == "its process ended once by a resource limit"


def test_ends_are_excused_only_while_treated_devices_have_no_more_of_them_than_the_holdout():
    killed = [ended(1)] * 4
    alike = with_holdout(killed, [1, 1, 1, 0])
    assert alike.decision.answer == "promote"
    above = with_holdout(killed, [0, 0, 0, 0])
    assert (above.decision.answer, above.numbers()["failed"]) == ("abort", 4)
    assert "of 4 held out on 0" in above.numbers()["failures"]["d0"]


def test_a_device_whose_trials_end_with_its_process_has_failed_only_from_the_second_on():
    once = [DeviceReport(1, OUT, "idle", "", "", unclean_ends=1, runtime="onnxruntime 1")]
    assert judged([*once], FINE, FINE, FINE, now=OUT).count(ProgressKind.FAILED) == 0
    twice = [
        DeviceReport(1, OUT, "idle", "no_change_failed", NEW.version, unclean_ends=2, runtime="onnxruntime 1")
    ]
    assert judged(twice, FINE, FINE, FINE, now=OUT).count(ProgressKind.FAILED) == 1


def test_a_security_rollout_excuses_every_end():
    assert judged(ended(5), FINE, plan=record(security=True)).count(ProgressKind.FAILED) == 0


# Silence beside the holdout


@pytest.mark.parametrize(("held_silent", "answer"), [(0, "abort"), (10, "promote")])
def test_treated_devices_that_fall_silent_abort_unless_those_held_out_do_so_too(held_silent, answer):
    held = tuple(f"h{i}" for i in range(10))
    plan = record(holdout=SaltedShare(salt="h", share=1e-9, devices=held))
    devices = {f"d{i}": FINE for i in range(10)}
    members = {d: GroupMember(d, "site", "sim", True) for d in (*devices, *held)}
    newest = dict.fromkeys(devices, 0.0) | {d: SOAKED * (i >= held_silent) for i, d in enumerate(held)}
    rates = AlarmRates([0.0] * 10, [0.0] * 10, newest)
    plan = plan.model_copy(update={"settings": SETTINGS.model_copy(update={"silent_s": 60.0})})
    found = judge(plan, 0, OUT, Observed(members, devices, predicted=PREDICTED, rates=rates), SOAKED)
    assert found.decision.answer == answer

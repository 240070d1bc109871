"""When a phase is over, and what its reports decide: at each bound, without a simulated rollout around it."""

from dataclasses import replace

import pytest

from model_service.rollout.observed import AlarmRates, DeviceReport, GroupMember, Observed, PairedShadow
from model_service.rollout.phase_judge import judge
from model_service.rollout.rollout_record import RolloutRecord
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from tests.simulators.simulated_rollout import FACTORY, NEW

OUT = 1000.0
SETTINGS = RolloutPolicy(
    canary_share=0.25, phases=(0.5, 1.0), soak_s=5.0, silent_s=30.0, reach_s=60.0, min_devices=2,
    max_failed=0.1,
)  # fmt: skip


def record(settings=SETTINGS, **changes) -> RolloutRecord:
    """A rollout whose canaries are the whole group."""
    plan = RolloutRecord(
        rollout_id="r", group="g", family="machine", version=NEW.version, created_by="anna", state="running",
        target={"machine": NEW}, baseline={"machine": FACTORY}, settings=settings, canary=EVERYBODY, salt="s",
    )  # fmt: skip
    return plan.model_copy(update=changes)


def committed(at=OUT, gain=0.0):
    return [DeviceReport(1, at, "idle", "committed", NEW.version, paired=PairedShadow(20, gain, 0))]


def failed(at=OUT):
    return [DeviceReport(1, at, "restored", "restored", NEW.version)]


def trying(at=OUT):
    return [DeviceReport(1, at, "trial", "", NEW.version)]


def deferred(at=OUT):
    return [DeviceReport(1, at, "deferred", "no_change_deferred", NEW.version)]


UNREACHED: list[DeviceReport] = []


def judged(*reports, now=OUT + 5.0, plan=None, phase=0, **observed):
    """A phase that was published at ``OUT``, with one device for each list of reports."""
    devices = {f"d{i:02d}": r for i, r in enumerate(reports)}
    members = {d: GroupMember(d, "site", "sim", True) for d in devices}
    return judge(plan or record(), phase, OUT, Observed(members, devices, **observed), now)


def test_a_phase_is_over_one_soak_after_its_last_device_settled():
    before, at = (judged(committed(1002.0), committed(1010.0), now=now) for now in (1014.9, 1015.0))
    assert (before.decision.answer, before.due) == ("wait", 1015.0)
    assert (at.decision.answer, at.due) == ("promote", None)
    also_failed = judged(*[committed(1002.0)] * 10, failed(1010.0), now=1014.9)
    assert (also_failed.decision.answer, also_failed.due) == ("wait", 1015.0)


def test_devices_that_settled_before_the_publication_soak_from_it_on():
    assert judged(committed(900.0), committed(900.0), now=OUT).due == OUT + SETTINGS.soak_s


def test_no_soak_where_nothing_of_it_is_asked():
    assert judged(committed(OUT), plan=record(security=True), now=OUT).decision.answer == "promote"
    held = record(holdout=SaltedShare(salt="h", share=0.01))
    assert judged(committed(OUT), plan=held, phase=3, now=OUT).decision.answer == "promote"
    assert judged(committed(OUT), plan=held, phase=2, now=OUT).decision.answer == "wait"


@pytest.mark.parametrize("missing", [UNREACHED, deferred()])
def test_a_device_out_of_reach_is_waited_for_as_long_as_the_policy_says(missing):
    waits = judged(committed(), committed(), missing, now=OUT + 59.9)
    assert (waits.decision.answer, waits.due) == ("wait", OUT + SETTINGS.reach_s)
    assert judged(committed(), committed(), missing, now=OUT + 60.0).decision.answer == "promote"
    late = judged(committed(OUT + 58.0), committed(), missing, now=OUT + 60.0)
    assert (late.decision.answer, late.due) == ("wait", OUT + 63.0)


def test_a_device_that_tries_is_waited_for_until_it_counts_as_silent():
    waits = judged(committed(), trying(1002.0), trying(1008.0), now=1010.0)
    assert (waits.decision.answer, waits.due) == ("wait", 1032.0)
    far = judged(committed(1030.0), trying(1002.0), now=1031.0)
    assert far.due == 1035.0
    silent = judged(*[committed()] * 20, trying(1002.0), now=1032.1)
    assert (silent.decision.answer, silent.numbers()["silent"]) == ("promote", 1)


@pytest.mark.parametrize(
    ("good", "bad", "unreached", "now", "answer"),
    [
        (18, 2, 0, OUT + 5, "promote"),  # at the allowed share
        (17, 3, 0, OUT + 5, "abort"),
        (9, 1, 0, OUT + 5, "promote"),
        (8, 1, 0, OUT + 5, "ask"),  # too high a share, yet one device
        (0, 1, 0, OUT + 5, "abort"),  # the only device there is
        (3, 2, 35, OUT + 60, "abort"),  # over: of those reached
        (3, 2, 35, OUT + 5, "wait"),  # not over: of twenty at least
        (3, 3, 35, OUT + 5, "abort"),
        (0, 2, 8, OUT + 5, "abort"),  # of the ten that there are
        (27, 3, 10, OUT + 5, "wait"),  # of the thirty reached
        (26, 4, 10, OUT + 5, "abort"),
    ],
)
def test_failures_are_a_share_of_those_reached_or_until_the_end_of_twenty(good, bad, unreached, now, answer):
    found = judged(*[committed()] * good, *[failed()] * bad, *[UNREACHED] * unreached, now=now)
    assert found.decision.answer == answer


def test_devices_that_try_count_as_reached():
    assert (
        judged(*[trying()] * 25, *[committed()] * 5, *[failed()] * 3, now=OUT + 5).decision.answer == "wait"
    )
    assert (
        judged(*[trying()] * 21, *[committed()] * 5, *[failed()] * 3, now=OUT + 5).decision.answer == "abort"
    )


def test_the_reason_says_how_many_of_how_many_failed():
    found = judged(*[committed()] * 3, *[failed()] * 2)
    assert found.decision.reason == "2 of 5 devices that took the offer failed; allowed 10%"
    asked = judged(*[committed()] * 3, failed())
    assert asked.decision.reason.startswith("1 of 4 devices")
    assert asked.decision.kind == "failures"


def test_missing_evidence_is_asked_about_only_where_somebody_follows():
    strict = SETTINGS.model_copy(update={"min_devices": 9})
    asked = judged(committed(), committed(), plan=record(strict))
    assert (asked.decision.answer, asked.decision.kind) == ("ask", "not_shown")
    assert judged(committed(), committed(), plan=record(strict), phase=1).decision.answer == "ask"
    assert judged(committed(), committed(), plan=record(strict), phase=2).decision.answer == "promote"
    held = record(strict, holdout=SaltedShare(salt="h", share=0.01))
    assert judged(committed(), committed(), plan=held, phase=2).decision.answer == "ask"


def test_a_group_without_a_canary_is_told_how_to_name_some():
    asked = judged(plan=record(), now=OUT + 61.0)
    assert (asked.decision.answer, asked.decision.kind) == ("ask", "not_shown")
    assert "edgeloop trust policy --canary g=ID,ID" in asked.decision.reason
    assert judged(plan=record(waived=(0,)), now=OUT + 61.0).decision.answer == "promote"


def test_an_approver_waives_what_was_not_shown_and_one_device_that_failed_but_no_harm():
    strict = SETTINGS.model_copy(update={"min_devices": 9})
    assert judged(committed(), committed(), plan=record(strict, waived=(0,))).decision.answer == "promote"
    assert judged(committed(), committed(), plan=record(strict, waived=(1,))).decision.answer == "ask"
    assert judged(committed(), committed(), failed(), plan=record(waived=(0,))).decision.answer == "promote"
    assert judged(*[committed(gain=1.0)] * 40, plan=record(waived=(0,))).decision.answer == "abort"


def test_the_release_of_the_holdout_and_a_security_rollout_are_not_tested_for_quality():
    held = record(holdout=SaltedShare(salt="h", share=0.01))
    worse = [committed(gain=1.0)] * 40
    for found in (judged(*worse, plan=held, phase=3), judged(*worse, plan=record(security=True))):
        assert found.finding.answer == "skipped"
        assert found.decision.answer == "promote"
    assert judged(*worse, plan=held, phase=2).finding.answer == "harmful"


def test_alarms_of_the_treated_above_those_held_out_end_a_phase_at_once():
    rates = AlarmRates([0.9] * 40, [0.01] * 40)
    found = judged(committed(), committed(), rates=rates, now=OUT)
    assert (found.decision.answer, found.decision.kind) == ("abort", "not_shown")
    assert "held out" in found.decision.reason
    even = AlarmRates([0.01] * 40, [0.01] * 40)
    assert judged(committed(), committed(), rates=even).decision.answer == "promote"


def test_crashes_are_a_failure_but_of_a_security_rollout():
    crashed = [replace(committed()[0], crashes=1)]
    assert judged(crashed).numbers()["failed"] == 1
    assert judged(crashed, plan=record(security=True)).numbers()["failed"] == 0


def test_only_treated_devices_count():
    plan = record(canary=SaltedShare(devices=("d00",)))
    assert list(judged(committed(), failed(), failed(), plan=plan).progress) == ["d00"]


def test_the_numbers_count_every_kind_and_name_twenty_failures_at_most():
    found = judged(committed(), trying(), deferred(), UNREACHED, *[failed()] * 23, now=OUT)
    numbers = found.numbers()
    assert {k: numbers[k] for k in ("treated", "committed", "failed", "trying", "deferred", "unreached")} == {
        "treated": 27, "committed": 1, "failed": 23, "trying": 1, "deferred": 1, "unreached": 1,
    }  # fmt: skip
    assert list(numbers["failures"]) == [f"d{i:02d}" for i in range(4, 24)]
    assert set(numbers["failures"].values()) == {"restored"}

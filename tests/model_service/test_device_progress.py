"""How far a device is follows from its reports, in its own order, whatever the network did."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_service.rollout.device_progress import ProgressKind, condensed, device_progress
from model_service.rollout.observed import DeviceReport, DeviceStatus, PairedShadow
from model_service.rollout.observing import read_report
from schemas.proto.delivery_pb2 import Installed, ReportRequest, Shadow
from schemas.updates import UpdateResult, UpdateState
from tests.simulators.simulated_rollout import FACTORY, NEW

NOW = 1000.0


def progress(*reports, status=None, now=NOW, health=True):
    return device_progress(reports, status, NEW, "machine", now, 30.0, health=health)


def report(number, state, result="", *, at=NOW, version=NEW.version, **fields):
    return DeviceReport(number, at, state, result, version, **fields)


@pytest.mark.parametrize(
    ("state", "result", "kind"),
    [
        ("fetching", "", ProgressKind.TRYING),
        ("watch", "", ProgressKind.TRYING),
        ("committed", "committed", ProgressKind.TRYING),
        ("idle", "committed", ProgressKind.COMMITTED),
        ("restoring", "", ProgressKind.FAILED),
        ("restored", "restored", ProgressKind.FAILED),
        ("inconsistent", "not_restored", ProgressKind.FAILED),
        ("idle", "no_change_refused", ProgressKind.FAILED),
        ("deferred", "no_change_deferred", ProgressKind.DEFERRED),
        ("idle", "no_change_failed", ProgressKind.UNREACHED),
        ("idle", "", ProgressKind.UNREACHED),
    ],
)
def test_each_state_and_result_leads_to_its_kind(state, result, kind):
    assert progress(report(1, state, result)).kind is kind


def test_a_device_without_a_report_is_unreached():
    assert progress().kind is ProgressKind.UNREACHED


def test_reports_about_the_return_do_not_count_for_the_new_model():
    back = report(2, "idle", "committed", version=FACTORY.version)
    assert progress(report(1, "trial"), back).kind is ProgressKind.TRYING


def test_a_failure_lasts_through_another_try_and_ends_with_a_commit():
    first = report(1, "restored", "restored")
    assert progress(first, report(2, "trial")).kind is ProgressKind.FAILED
    assert progress(first, report(2, "trial"), report(3, "idle", "committed")).kind is ProgressKind.COMMITTED


def test_refusing_something_else_later_does_not_undo_a_commit():
    refused = report(2, "idle", "no_change_refused", version="", attack="unsigned_instruction")
    assert progress(report(1, "idle", "committed"), refused).kind is ProgressKind.COMMITTED


def test_how_an_earlier_attempt_ended_does_not_count_for_this_rollout():
    from_before = report(1, "restored", "", version="")
    assert progress(from_before).kind is ProgressKind.UNREACHED
    assert progress(from_before, report(2, "trial")).kind is ProgressKind.TRYING


def test_a_refusal_of_the_channel_itself_is_a_failure():
    refused = report(1, "idle", "no_change_refused", version="", attack="metadata_rollback")
    assert progress(refused).kind is ProgressKind.FAILED


def test_silence_is_measured_from_the_last_report_about_anything():
    trying = report(1, "trial", at=NOW - 100)
    assert progress(trying).kind is ProgressKind.SILENT
    alive = DeviceStatus(NOW - 1, 1, "trial", {"machine": FACTORY})
    assert progress(trying, status=alive).kind is ProgressKind.TRYING


def test_a_device_that_runs_it_counts_though_its_report_was_lost():
    idle = DeviceStatus(NOW, 1, "idle", {"machine": NEW})
    assert progress(status=idle).kind is ProgressKind.COMMITTED
    assert progress(report(1, "watch", at=NOW - 5), status=idle).kind is ProgressKind.COMMITTED
    watching = DeviceStatus(NOW, 1, "watch", {"machine": NEW})
    assert progress(report(1, "watch", at=NOW - 5), status=watching).kind is ProgressKind.TRYING


def test_crashes_and_late_windows_make_a_failure_but_of_a_security_rollout():
    crashed = report(1, "idle", "committed", crashes=2)
    slow = report(1, "idle", "committed", paired=PairedShadow(10, 0.0, 5))
    for bad in (crashed, slow):
        assert progress(bad).kind is ProgressKind.FAILED
        assert progress(bad, health=False).kind is ProgressKind.COMMITTED
    assert (
        progress(report(1, "idle", "committed", paired=PairedShadow(10, 0.0, 1))).kind
        is ProgressKind.COMMITTED
    )


@given(st.permutations(range(4)), st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(order, chance: random.Random):
    reports = [
        report(1, "fetching", at=NOW - 4),
        report(2, "trial", at=NOW - 3, paired=PairedShadow(5, 0.0, 0)),
        report(3, "committed", at=NOW - 2, paired=PairedShadow(5, 0.2, 0)),
        report(4, "idle", "committed", at=NOW - 1, paired=PairedShadow(15, 0.1, 0)),
    ]
    mixed = [reports[i] for i in order]
    mixed += [r for r in mixed if chance.random() < 0.5]
    assert progress(*mixed) == progress(*reports)
    assert progress(*mixed).paired == PairedShadow(15, 0.1, 0)


def test_the_gain_is_the_new_models_whichever_of_both_is_active():
    def comparison(active, shadow):
        pair = Shadow(
            active_version=active, shadow_version=shadow, windows=10,
            active_alarms=1, shadow_alarms=4, deadline_misses=2,
        )  # fmt: skip
        request = ReportRequest(attempted=Installed(version=NEW.version), shadow=pair)
        return read_report(request, NOW, frozenset({NEW.version})).paired

    assert comparison(FACTORY.version, NEW.version) == PairedShadow(10, 0.3, 2)
    assert comparison(NEW.version, FACTORY.version) == PairedShadow(10, -0.3, 2)
    assert comparison(FACTORY.version, "machine-9.00000009") is None


def test_silence_begins_after_its_bound():
    def trying_since(seconds):
        return progress(report(1, "trial", at=NOW - seconds)).kind

    assert (trying_since(30.0), trying_since(30.1)) == (ProgressKind.TRYING, ProgressKind.SILENT)


@pytest.mark.parametrize(
    ("windows", "late", "kind"),
    [
        (10, 2, ProgressKind.COMMITTED),
        (10, 3, ProgressKind.FAILED),
        (9, 2, ProgressKind.FAILED),
        (1, 1, ProgressKind.COMMITTED),
        (100, 20, ProgressKind.COMMITTED),
        (100, 21, ProgressKind.FAILED),
    ],
)
def test_more_than_a_fifth_of_late_windows_and_at_least_two_are_harm(windows, late, kind):
    slow = report(1, "idle", "committed", paired=PairedShadow(windows, 0.0, late))
    assert progress(slow).kind is kind


def test_a_model_that_crashes_is_harmful_unless_the_rollout_says_otherwise():
    crashed = report(1, "idle", "committed", crashes=1)
    assert device_progress([crashed], None, NEW, "machine", NOW, 30.0).kind is ProgressKind.FAILED


def test_why_names_the_result_else_the_state_and_what_is_known_of_it():
    def why(*args, **fields):
        return progress(report(1, *args, **fields)).why

    assert why("restoring") == "restoring"
    assert why("restored", "restored") == "restored"
    assert why("restored", "restored", attack="freeze", detail="old") == "restored: freeze, old"
    assert why("restoring", detail="crashed") == "restoring: crashed"


@pytest.mark.parametrize("state", ["fetching", "trial", "watch"])
def test_a_device_that_is_under_way_has_not_committed_whatever_it_runs(state):
    assert progress(status=DeviceStatus(NOW, 1, state, {"machine": NEW})).kind is ProgressKind.UNREACHED


def test_a_failed_device_that_runs_it_again_without_a_report_stays_failed():
    idle = DeviceStatus(NOW, 1, "idle", {"machine": NEW})
    assert progress(report(1, "restored", "restored", at=NOW - 5), status=idle).kind is ProgressKind.FAILED


def test_a_status_from_the_instant_of_the_last_report_shows_nothing_more():
    idle = DeviceStatus(NOW - 5, 1, "idle", {"machine": NEW})
    assert progress(report(1, "watch", at=NOW - 5), status=idle).kind is ProgressKind.TRYING


def test_a_deferred_device_that_runs_it_has_committed():
    idle = DeviceStatus(NOW, 1, "idle", {"machine": NEW})
    assert progress(report(1, "deferred", "no_change_deferred"), status=idle).kind is ProgressKind.COMMITTED


STATES = [s.value for s in UpdateState]
RESULTS = ["", *(r.value for r in UpdateResult)]
SHADOWS = st.none() | st.builds(PairedShadow, st.integers(1, 50), st.floats(-1, 1), st.integers(0, 50))
REPORTS = st.lists(
    st.tuples(
        st.sampled_from(STATES), st.sampled_from(RESULTS),
        st.sampled_from([NEW.version, "", FACTORY.version]), SHADOWS, st.sampled_from([0, 0, 0, 1, 3]),
    ),
    max_size=30,
)  # fmt: skip


def test_the_commit_that_ended_a_failure_is_kept_with_the_failure():
    failed = report(1, "restored", "restored", crashes=1)
    committed, tried = report(2, "idle", "committed"), [report(n, "trial") for n in range(3, 9)]
    kept = condensed([failed, committed, *tried], NEW.version, 1)
    assert failed in kept
    assert progress(*kept, health=False) == progress(failed, committed, *tried, health=False)
    assert progress(*kept, health=False).kind is ProgressKind.TRYING


def numbered(drawn, first=1):
    return [
        report(n, state, result, at=NOW + n, version=version, paired=shadow, crashes=crashes, detail=str(n))
        for n, (state, result, version, shadow, crashes) in enumerate(drawn, first)
    ]


@given(REPORTS, REPORTS, st.integers(1, 5), st.booleans())
def test_condensed_reports_lead_to_the_same_progress_whatever_follows(early, late, newest, health):
    before = numbered(early)
    kept = condensed(before, NEW.version, newest)
    assert len(kept) <= newest + 7
    assert set(kept) <= set(before)
    after = numbered(late, len(before) + 1)
    for follows in range(len(after) + 1):
        more = after[:follows]
        assert progress(*kept, *more, health=health) == progress(*before, *more, health=health)
    again = condensed(condensed(before, NEW.version, newest) + after, NEW.version, newest)
    assert progress(*again) == progress(*before, *after)

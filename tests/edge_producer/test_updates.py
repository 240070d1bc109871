"""Laws of updates: what a channel wants runs, proven, or the old set does, and the service knows which."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import timedelta
from itertools import count, pairwise

import psutil
import pytest

from edge_producer.updates.download import DownloadPace
from edge_producer.updates.resources import UpdaterResources
from schemas.cohorts import SaltedShare
from schemas.errors import OperatorError
from tests.edge_producer.bundles import blind, blind_when_hot, hot, misses_golden, with_external_data
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, one_child, quick_machine
from tests.simulators.update_service import candidate
from tests.waiting import wait_until

PROFILE = quick_machine()


@pytest.fixture
def settings(tmp_path, service):
    service.join(tmp_path / "join", "m-1")
    return edge_settings(tmp_path)


def checked(rig: UpdaterRig) -> None:
    """Drive until the device has checked for instructions once more."""
    rig.agent.checked.clear()
    rig.drive(rig.agent.checked.is_set, what="a check")


def trial_children() -> list[int]:
    """Pids of this process's trial processes."""
    found = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p.pid for p in found if "edge_producer.updates.trial_process" in " ".join(p.cmdline())]


def test_a_device_joins_tries_commits_and_reports(service, settings):
    release = service.sign(candidate(1))
    with UpdaterRig(settings, PROFILE) as rig:
        service.instruct(release)
        rig.settle(release.version)
    assert service.enrolled == ["m-1"]
    assert service.results("m-1") == ["committed", "committed"]
    reports = service.reports["m-1"]
    assert [r.state for r in reports][-4:] == ["fetching", "trial", "committed", "idle"]
    assert [r.report_no for r in reports] == sorted({r.report_no for r in reports})
    tried, watched = reports[-2].shadow, reports[-1].shadow
    assert (tried.active_version, tried.shadow_version) == (service.factory.version, release.version)
    assert tried.windows >= 3
    assert (watched.active_version, watched.shadow_version) == (release.version, service.factory.version)
    assert watched.windows >= 4
    assert tried.mean_difference == pytest.approx(0, abs=1e-6), "it is the same graph"
    assert (reports[-1].channel_seq, reports[-1].rollout_id) == (1, "r-1")
    assert reports[-1].installed[0].sha256 == release.sha256
    assert not trial_children()


def test_after_its_watch_a_device_goes_on_comparing_and_reports_as_its_windows_grow(service, settings):
    release = service.sign(candidate(1))
    with UpdaterRig(settings, quick_machine(longest_soak_s=60.0)) as rig:
        service.instruct(release)
        rig.settle(release.version)
        rig.drive(lambda: service.reports["m-1"][-1].shadow.windows >= 16, what="a soak's reports")
    soaked = [r for r in service.reports["m-1"] if r.shadow.active_version == release.version]
    windows = [r.shadow.windows for r in soaked]
    assert windows == sorted(set(windows))
    assert len(windows) >= 3
    assert all((r.state, r.result, r.rollout_id) == ("idle", "committed", "r-1") for r in soaked)
    last = soaked[-1].shadow
    assert last.HasField("alarms")
    assert sum(last.active_took) == sum(last.shadow_took) == last.windows


def test_a_second_start_runs_what_was_committed_without_a_network(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.settle(release.version)
    service.down = True
    with UpdaterRig(settings, PROFILE) as rig:
        assert rig.version == release.version


def test_a_device_without_a_join_bundle_runs_its_factory_model(tmp_path):
    with UpdaterRig(edge_settings(tmp_path), PROFILE) as rig:
        rig.sense()
        rig.agent.step()
        assert (rig.version.startswith("machine-0."), rig.state) == (True, "idle")


def test_a_device_senses_while_the_service_does_not_answer(service, settings):
    service.down = True
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: rig.agent.last_error)
        rig.sense()
        service.down = False
        rig.agent.wake()
        rig.drive(rig.agent.checked.is_set)


def test_a_rollback_is_a_new_channel_and_needs_no_download(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.settle(release.version)
        fetched = len(service.offsets)
        service.instruct(service.factory, reason="rollback")
        rig.settle(service.factory.version)
        service.instruct(release)
        rig.settle(release.version)
        assert len(service.offsets) == fetched
        assert service.results("m-1")[-2:] == ["committed"] * 2


def test_an_abort_reaches_a_device_in_the_middle_of_its_trial(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(trial_windows=10_000)) as rig:
        rig.drive(lambda: rig.state == "trial")
        service.instruct(service.factory, reason="rollback")
        rig.drive(lambda: service.results("m-1") == ["no_change_deferred"])
        assert (rig.state, rig.version) == ("idle", service.factory.version)
    assert not trial_children()


def test_an_abort_reaches_a_device_under_watch(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(watch_windows=10_000)) as rig:
        rig.drive(lambda: rig.state == "watch")
        service.instruct(service.factory, reason="rollback")
        rig.drive(lambda: rig.version == service.factory.version)


def test_who_is_not_in_the_cohort_changes_nothing_and_reports_which_channel_it_knows(service, settings):
    service.instruct(service.sign(candidate(1)), cohort=SaltedShare(devices=("somebody-else",)))
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: any(r.channel_seq == 1 for r in service.reports["m-1"]))
        assert rig.version == service.factory.version
        assert service.results("m-1") == []


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [(misses_golden, "golden window 0 misses"), (blind, "had no usable score")],
    ids=["golden", "blind"],
)
def test_a_model_that_fails_its_trial_is_restored_told_and_not_tried_again(service, settings, bundle, reason):
    release = service.sign(bundle(1))
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: "restored" in service.results("m-1"))
        assert rig.version == service.factory.version
        assert reason in service.reports["m-1"][-1].detail
        fetched = len(service.offsets)
        checked(rig)
        assert (rig.state, len(service.offsets)) == ("restored", fetched)
        assert service.results("m-1") == ["restored"]
        better = service.sign(candidate(2))
        service.instruct(better)
        rig.settle(better.version)


def test_a_model_that_fails_under_watch_is_taken_back_within_windows_and_offline(service, settings):
    release = service.sign(blind_when_hot(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(watch_windows=1000)) as rig:
        rig.drive(lambda: rig.state == "watch")
        service.down = True
        rig.sources["m-1"] = (hot(w) for w in rig.sources["m-1"])
        begun = len(rig.decisions)
        rig.drive(lambda: rig.state == "restored")
        assert rig.version == service.factory.version
        assert len(rig.decisions) - begun <= 6
        service.down = False
        rig.drive(lambda: "restored" in service.results("m-1"))
    report = service.reports["m-1"][-1]
    assert "the watch failed" in report.detail
    assert (report.shadow.active_version, report.shadow.shadow_version) == (
        release.version,
        service.factory.version,
    )


def test_the_crash_of_a_trial_process_harms_nobody(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(trial_windows=10_000)) as rig:
        rig.drive(lambda: rig.agent.status["shadow"].get("windows", 0) > 1)
        [pid] = trial_children()
        os.kill(pid, signal.SIGKILL)
        rig.drive(lambda: "restored" in service.results("m-1"))
        assert rig.version == service.factory.version
        assert "ended with code -9" in service.reports["m-1"][-1].detail


def test_devices_that_try_the_same_artifact_share_one_process(service, tmp_path):
    names = [f"m-{k}" for k in range(3)]
    for name in names:
        service.join(tmp_path / "join", name)
    service.instruct(service.sign(candidate(1)))
    with UpdaterRig(edge_settings(tmp_path, names), quick_machine(trial_windows=10_000)) as rig:
        agents = rig.updater.agents.values()
        rig.drive(lambda: all(a.status["shadow"].get("windows", 0) > 1 for a in agents))
        assert len(trial_children()) == 1
    assert not trial_children()


def test_too_little_memory_defers_and_is_no_failure(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    available = [10 * 1024**2]
    resources = replace(UpdaterResources.of(PROFILE), available=lambda: available[0])
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        rig.drive(lambda: service.results("m-1") == ["no_change_deferred"])
        assert (rig.state, rig.version) == ("deferred", service.factory.version)
        available[0] = 2**40
        rig.settle(release.version)
        assert service.results("m-1") == ["no_change_deferred", "committed", "committed"]


def test_a_download_goes_on_where_it_stopped_also_after_a_restart(service, settings):
    release = service.sign(candidate(1))
    service.chunk_bytes, service.break_after = 4096, 8192
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: "no_change_failed" in service.results("m-1"))
    service.break_after = None
    with UpdaterRig(settings, PROFILE) as rig:
        rig.settle(release.version)
    assert service.offsets[0] == 0
    assert service.offsets[-1] >= 8192


@pytest.mark.parametrize(
    ("fault", "attack"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tampered_artifact"),
        (lambda data: data + b"more", "endless_data"),
    ],
    ids=["tampered", "endless"],
)
def test_a_changed_artifact_is_refused_reported_once_and_taken_when_it_is_right(
    service, settings, fault, attack
):
    release = service.sign(candidate(1))
    service.artifact_filter = fault
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: len(service.offsets) > 1, what="a second try")
        assert rig.version == service.factory.version
        assert service.attacks("m-1") == [attack]
        assert service.results("m-1") == ["no_change_refused"]
        service.artifact_filter = lambda data: data
        rig.settle(release.version, 60.0)


def test_a_slow_server_is_refused(service, settings):
    release = service.sign(candidate(1))
    service.chunk_bytes, service.chunk_pause_s = 64, 0.05
    service.instruct(release)
    pace = DownloadPace(min_bytes_per_s=100_000.0, window_s=0.2, total_s=5.0)
    with UpdaterRig(settings, PROFILE, resources=replace(UpdaterResources.of(PROFILE), pace=pace)) as rig:
        rig.drive(lambda: service.attacks("m-1") == ["slow_retrieval"])
        assert rig.version == service.factory.version


def test_a_server_that_stops_in_the_middle_is_refused_and_what_came_is_kept(service, settings):
    release = service.sign(candidate(1))
    service.chunk_bytes, service.chunk_pause_s = 8192, 3600.0
    service.instruct(release)
    pace = DownloadPace(window_s=0.5)
    with UpdaterRig(settings, PROFILE, resources=replace(UpdaterResources.of(PROFILE), pace=pace)) as rig:
        rig.drive(lambda: service.attacks("m-1") == ["slow_retrieval"])
        service.chunk_pause_s = 0.0
        rig.settle(release.version)
    assert service.offsets[-1] >= 8192


def test_signed_content_that_is_unsafe_is_refused_for_good(service, settings):
    service.instruct(service.sign(with_external_data(1)))
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: service.attacks("m-1") == ["unsafe_content"])
        fetched = len(service.offsets)
        checked(rig)
        assert (rig.version, len(service.offsets)) == (service.factory.version, fetched)


def test_another_hardware_class_is_refused(service, settings):
    service.instruct(service.sign(candidate(1), hardware=("gpu-box",)))
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: service.attacks("m-1") == ["wrong_hardware"])
        checked(rig)
        assert service.attacks("m-1") == ["wrong_hardware"], "one cause is reported once"


def test_an_unsigned_instruction_is_refused_and_an_honest_one_followed_afterwards(service, settings):
    release = service.sign(candidate(1))

    def forged(metadata, documents):
        return metadata, [(n, d.replace(b'"seq":1', b'"seq":9')) for n, d in documents]

    service.reply_filter = forged
    service.instruct(release)
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: service.attacks("m-1") == ["unsigned_instruction"])
        assert rig.version == service.factory.version
        service.reply_filter = lambda metadata, documents: (metadata, documents)
        rig.settle(release.version)
        assert rig.agent.status["attack"] == ""


def test_a_join_token_is_used_once(service, tmp_path):
    bundle = service.join(tmp_path / "join", "m-1")
    service.tokens.pop(bundle.token)
    with UpdaterRig(edge_settings(tmp_path), PROFILE) as rig:
        rig.drive(lambda: "PERMISSION_DENIED" in rig.agent.last_error)
        assert rig.version == service.factory.version


def test_a_certificate_is_kept_and_renewed_before_it_ends(service, settings):
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
    folder = settings.updates_dir / "m-1"
    assert oct((folder / "certificate.pem").stat().st_mode)[-3:] == "600"
    assert service.tokens == {}
    assert not any(t in (folder / "joined.json").read_text() for t in ("token-m-1-0",))
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
    assert (service.enrolled, service.renewed) == (["m-1"], [])
    (settings.join_dir / "m-1.json").unlink()
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
        folder.joinpath("time.json").unlink()
    assert service.enrolled == ["m-1"]


def test_a_new_join_bundle_lets_a_refused_device_in(service, tmp_path):
    bundle = service.join(tmp_path / "join", "m-1")
    service.tokens.clear()
    with UpdaterRig(edge_settings(tmp_path), PROFILE) as rig:
        rig.drive(lambda: rig.agent.blocked)
    assert service.join(tmp_path / "join", "m-1").token != bundle.token
    with UpdaterRig(edge_settings(tmp_path), PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
    service.join(tmp_path / "join", "m-1")
    with UpdaterRig(edge_settings(tmp_path), PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
    assert service.enrolled == ["m-1", "m-1"], "a newer token is redeemed although there is a certificate"


def test_a_service_that_does_not_take_the_certificate_is_asked_for_a_new_one(service, settings):
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
        service.unknown.add("m-1")
        rig.agent.checked.clear()
        rig.drive(lambda: service.renewed, 60.0)
        service.unknown.clear()
        rig.drive(rig.agent.checked.is_set, 60.0)


def test_a_certificate_near_its_end_is_renewed_with_proof_of_the_key(service, settings):
    service.certificate_life = timedelta(seconds=30)  # a minute of skew: two thirds are over at once
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: service.renewed)
    assert service.enrolled == ["m-1"]


def test_reports_wait_for_the_service_and_keep_their_numbers(service, settings):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(watch_windows=10_000)) as rig:
        rig.drive(lambda: rig.state == "trial")
        service.down = True
        rig.drive(lambda: rig.state == "watch")
        assert rig.agent.status["unreported"]
    service.down = False
    with UpdaterRig(settings, PROFILE) as rig:
        rig.settle(release.version)
    numbers = [r.report_no for r in service.reports["m-1"]]
    assert numbers == sorted(set(numbers))
    assert "trial" in [r.state for r in service.reports["m-1"]]


def test_a_hint_is_followed_at_once_and_a_lost_one_by_the_next_poll(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    with UpdaterRig(edge_settings(tmp_path, update_poll_s=3600.0), PROFILE) as rig:
        rig.drive(rig.agent.checked.is_set)
        wait_until(lambda: service._watchers, what="the device to watch")
        rig.agent.checked.clear()
        service.instruct(service.factory)
        rig.drive(rig.agent.checked.is_set, 2.0)


def test_a_hint_beyond_all_others_keeps_no_later_one_away(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    service.false_hints = iter([2**63 - 1])
    with UpdaterRig(edge_settings(tmp_path, update_poll_s=3600.0), PROFILE) as rig:
        rig.drive(lambda: len(service.checked_at_s) >= 2, what="a check for the false hint")
        service.instruct(service.factory)
        rig.drive(lambda: rig.agent.status["seq"] == 1, 5.0, "the honest hint")


def test_a_flood_of_hints_is_checked_for_once_a_second(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    service.false_hints = count(1)
    with UpdaterRig(edge_settings(tmp_path, update_poll_s=3600.0), PROFILE) as rig:
        rig.drive(lambda: len(service.checked_at_s) >= 4)
    apart = [late - early for early, late in pairwise(service.checked_at_s[1:])]
    assert min(apart) > 0.8, apart


def test_flight_mode_checks_nothing_and_its_end_is_noticed_at_once(service, settings):
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    (settings.state_dir / "offline").touch()
    with UpdaterRig(settings, PROFILE) as rig:
        rig.drive(lambda: "flight mode" in rig.agent.last_error)
        assert service.enrolled == []
        (settings.state_dir / "offline").unlink()
        rig.drive(rig.agent.checked.is_set, 5.0)


def test_old_slots_go_and_two_earlier_sets_stay(service, settings):
    versions = []
    with one_child() as resources, UpdaterRig(settings, PROFILE, resources=resources) as rig:
        for number in range(1, 5):
            release = service.sign(candidate(number))
            service.instruct(release)
            rig.settle(release.version)
            versions.append(release.version)
        pointer = rig.agent.installer.pointer
    assert [s.releases["machine"].version for s in pointer.previous] == versions[-2:-4:-1]
    assert len(list((settings.updates_dir / "m-1" / "slots").iterdir())) == 3


def test_two_processes_cannot_update_the_same_devices(service, settings):
    with (
        UpdaterRig(settings, PROFILE),
        pytest.raises(OperatorError, match="another process updates these devices"),
    ):
        UpdaterRig(settings, PROFILE)

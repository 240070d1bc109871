"""Laws of a change of models: no window is missed, decisions go on, rows and summaries name the right one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import psutil
import pytest

from edge_producer.device import Device, Host
from edge_producer.inference import load_predictor
from edge_producer.metering import Meters
from edge_producer.model_switch import ActiveModels, ModelSwitch
from schemas.errors import BundleError
from schemas.profile import ModelSpec
from schemas.profile_file import find_profile
from schemas.updates import UpdateState
from tests.edge_producer.spool_rig import FirstSample, SpoolRig, summary_rows
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, one_child, quick_machine
from tests.simulators.update_service import UpdateService, candidate

PROFILE = quick_machine()


class Scaled(FirstSample):
    """A model whose score is a multiple of the first sample."""

    def __init__(self, version: str, factor: float = 1.0, edges=(0.5,)):
        super().__init__(2)
        self.version = version
        self.factor = factor
        self.bin_edges = {"score": np.array(edges)}
        self.first_samples: list[float] = []

    def score(self, device_id, samples):
        features, score = super().score(device_id, samples)
        self.first_samples.append(float(samples[0, 0]))
        return features, None if score is None else min(score * self.factor, 1.0)

    def take_over(self, device_id, predecessor):
        pass


class RecordingObserver:
    def __init__(self):
        self.outcomes = []

    def observe(self, _window, outcome):
        self.outcomes.append(outcome)


class SwitchedRig(SpoolRig):
    """A rig whose device has a switch."""

    def open(self):
        super().open()
        self.switch = ModelSwitch(ActiveModels(Scaled("m-1")))
        host = Host(
            lambda o: self.actions.append((o.device_id, o.action)), Meters(self.profile), lambda: self.now
        )
        self.devices = {
            "d-1": Device(self.identities["d-1"], self.profile, self.switch, host, self.spool.state("d-1"))
        }


@pytest.fixture
def rig(tmp_path):
    with_rig = SwitchedRig(tmp_path)
    yield with_rig
    with_rig.close()


def test_rows_are_dense_and_name_the_model_that_scored_them(rig):
    for value, version in ((0.1, "m-1"), (0.2, "m-2"), (0.3, "m-3")):
        rig.switch.models = ActiveModels(Scaled(version))
        rig.sense([value] * 5)
    rig.flush()
    assert rig.books().sensed == 15
    rows = rig.unsealed()
    assert rows
    for r in rows:
        assert round(r.score, 2) == {"m-1": 0.1, "m-2": 0.2, "m-3": 0.3}[r.model_version]


def test_a_decision_in_force_lives_through_a_swap(rig):
    """``stop`` takes two windows in a row: one under each model is enough, and its hold goes on."""
    rig.sense([0.1, 0.95])
    rig.switch.models = ActiveModels(Scaled("m-2"))
    rig.sense([0.95])
    assert rig.actions[-1] == ("d-1", "stop")
    rig.switch.models = ActiveModels(Scaled("m-3"))
    rig.sense([0.1] * 5)
    assert rig.actions[-1] == ("d-1", "stop"), "held for ten seconds, whichever model runs"


def test_summaries_close_at_a_swap_and_add_up(rig):
    rig.sense([0.1] * 3)
    rig.switch.models = ActiveModels(Scaled("m-2", edges=(0.2, 0.4)))
    rig.sense([0.3] * 4)
    rig.switch.models = ActiveModels(Scaled("m-1"))
    rig.sense([0.1] * 2)
    rig.flush()
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())
    rows = [r for r in summary_rows(rig.delivered) if r["feature"] == "score"]
    n = Counter()
    for r in rows:
        n[r["model_version"]] += r["n"]
    assert n == {"m-1": 5, "m-2": 4}
    assert {len(r["bin_counts"]) for r in rows if r["model_version"] == "m-2"} == {3}
    keys = [(r["model_version"], r["period_start"], r["part"]) for r in rows]
    assert len(set(keys)) == len(keys), "a model that comes back within a period has a part of its own"


def test_the_shadow_scores_every_window_after_the_decision_and_has_summaries_of_its_own(rig):
    shadow, observer = Scaled("m-0", factor=0.5, edges=(0.2, 0.3)), RecordingObserver()
    rig.switch.models = ActiveModels(Scaled("m-1"), shadow, observer)
    rig.sense([0.5] * 12)
    rig.flush()
    rig.settle(rig.seal_statements())
    rows = [r for r in summary_rows(rig.delivered) if r["model_version"] == "m-0"]
    assert {r["feature"] for r in rows} == {"score"}
    assert sum(r["n"] for r in rows) == 12
    assert all(r["mean"] == pytest.approx(0.25) and sum(r["bin_counts"]) == r["n"] for r in rows)
    assert all(r["part"] < 0 for r in rows)
    assert {(o.version, o.score, o.shadow_score) for o in observer.outcomes} == {("m-1", 0.5, 0.25)}
    assert rig.books().sensed == 12, "a shadow's windows are in no books"


def test_a_model_that_breaks_gives_no_score_and_the_fail_safe_applies(rig):
    class Broken(Scaled):
        def score(self, device_id, samples):
            raise BundleError("model m-9: out of order")

    rig.sense([0.1])
    rig.switch.models = ActiveModels(Broken("m-9"))
    rig.sense([0.1])
    assert rig.actions[-1] == ("d-1", "hold")
    rig.switch.models = ActiveModels(Scaled("m-1"))
    rig.sense([0.1])
    assert rig.actions[-1] == ("d-1", "none")


def test_a_score_that_rounding_put_outside_is_used_and_counted_and_one_farther_out_is_not(rig):
    class Raw(Scaled):
        def score(self, device_id, samples):
            return super().score(device_id, samples)[0], float(samples[0, 0])

    rig.switch.models = ActiveModels(Raw("m-1"))
    rig.sense([0.1, 1.0000001, 1.0000001])
    assert rig.actions[-1] == ("d-1", "stop")
    rig.sense([1.5] * 12)
    assert rig.actions[-1] == ("d-1", "hold"), "no usable score"
    rig.commit()
    counters = rig.spool.counters()
    assert (counters["scores_clipped"], counters["scores_outside"]) == (2, 12)


def test_a_generic_model_goes_on_with_the_reference_of_the_one_before():
    machine = find_profile("machine")
    profile = machine.model_copy(update={"model": ModelSpec(name="robust", warmup_windows=4)})
    before, after = load_predictor(profile), load_predictor(profile)
    rng = np.random.default_rng(0)
    for _ in range(8):
        before.score("d", rng.normal(5, 1, (512, 3)).astype(np.float32))
    after.take_over("d", before)
    samples = rng.normal(5, 1, (512, 3)).astype(np.float32)
    assert after.score("d", samples)[1] == before.score("d", samples)[1] is not None


def test_a_swap_under_load_misses_no_window_and_the_device_decides_in_every_stage(tmp_path):
    """Windows without a pause, while the real updater fetches, tries, commits and watches in its thread."""
    with UpdateService(tmp_path) as service:
        service.join(tmp_path / "join", "m-1")
        release = service.sign(candidate(1))
        profile = quick_machine(trial_windows=50, watch_windows=50)
        with UpdaterRig(edge_settings(tmp_path), profile) as rig:
            rig.updater.start()
            decided, versions = Counter(), set()
            service.instruct(release)
            while rig.agent.installer.record.result != "committed":
                decided[rig.state] += 1
                rig.sense()
                versions.add(rig.version)
            windows = decided.total()
            assert decided[UpdateState.TRIAL] > 45  # the stage may change between the reading and the window
            assert decided[UpdateState.COMMITTED] + decided[UpdateState.WATCH] > 45
            assert versions == {service.factory.version, release.version}
            assert len(rig.decisions) == windows
            update = rig.devices["m-1"].take_update()
            assert update.next_seq == windows == update.meters["windows"]
            counted = sum(change.sensed for change in update.books.lines.values())
            assert counted + update.held == windows


@pytest.mark.long
@pytest.mark.parametrize("updates", [14, pytest.param(50, marks=pytest.mark.long)])
def test_updates_in_a_row_leave_memory_flat_and_miss_no_window(tmp_path, updates):
    """Twelve models in turn: a device keeps three, so that each is fetched, tried and loaded anew."""
    with UpdateService(tmp_path) as service, one_child() as resources:
        service.join(tmp_path / "join", "m-1")
        releases = [service.sign(candidate(number)) for number in range(1, 13)]
        profile = quick_machine(trial_windows=1, watch_windows=2)
        with UpdaterRig(edge_settings(tmp_path, update_poll_s=5.0), profile, resources=resources) as rig:
            resident, process, windows, decided = [], psutil.Process(), 0, 0
            for number in range(updates):
                release = releases[number % 12]
                service.instruct(release)
                rig.settle(release.version)
                update = rig.devices["m-1"].take_update()  # as the writer does: rows do not pile up here
                windows, decided = windows + update.meters["windows"], decided + len(rig.decisions)
                rig.decisions.clear()
                resident.append(process.memory_info().rss / 2**20)
            assert update.next_seq == windows == decided
            assert service.results("m-1").count("committed") >= 2 * updates  # more while it goes on comparing
            assert set(service.results("m-1")) == {"committed"}
            assert len(service.offsets) == updates
        assert resident[-1] - resident[9] < 25, resident

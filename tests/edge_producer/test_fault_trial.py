"""Laws of the trial with faults: on a device's own windows a deaf model fails, a right one does not."""

from __future__ import annotations

import json
import threading
import time
from functools import partial

import numpy as np
import pytest

from edge_producer.bundle import BUNDLES, Bundle, open_bundle
from edge_producer.golden_vectors import read_golden
from edge_producer.healthy_windows import EVERY, MAX_BYTES, MAX_WINDOWS, HealthyWindows, KeptWindow
from edge_producer.inference import load_predictor
from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.fault_question import FaultQuestion
from edge_producer.updates.fault_trial import MAX_LOSS, NO_EFFECTS, FaultTrial, TrialModel, compare_on_faults
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.updates.trials import TrialChild, TrialFeed
from edge_producer.updates.update_once import synthetic_windows
from edge_producer.window import Window
from model_service.models.factory_models import anomaly_graph
from model_service.models.features import compute
from model_service.models.golden import golden_inputs, golden_outputs, golden_windows, with_effects
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.trial_effects import effects_of
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import BundleError
from schemas.fault_effects import LARGEST_LOG, MAX_EFFECTS, MAX_TEXT, FaultEffects, parse_effects
from schemas.instants import from_us
from schemas.row_schemas import TimeQuality
from tests.edge_producer.trial_models import (
    BANK,
    EFFECTS,
    FACTORY,
    MACHINE,
    MODEL,
    VIBRATION,
    deaf,
    moved,
    own_windows,
    signed_candidate,
    trial_model,
)
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.model_service import regimes
from tests.waiting import wait_until

ALARM, BOUNDS = MACHINE.decision.alarm, AlarmBounds.of(MACHINE.decision)


def compared(new, gain: float = 1.0) -> FaultTrial:
    return compare_on_faults(trial_model(MODEL), trial_model(new), own_windows(gain=gain), EFFECTS, BOUNDS)


def test_the_recall_is_that_of_the_models_own_formula_in_numpy():
    windows = own_windows(8)
    features = compute(windows, MACHINE.feature_specs(), MACHINE.channel_names)
    by_kind = {
        kind: np.mean([
            MODEL.score(np.where(MODEL.logged, features * np.exp(row), features + row)) >= ALARM
            for row, of in zip(EFFECTS.rows, EFFECTS.kinds, strict=True) if of == kind
        ])
        for kind in BANK.kinds
    }  # fmt: skip
    found = compare_on_faults(trial_model(MODEL), trial_model(MODEL), windows, EFFECTS, BOUNDS)
    assert found.old_here == pytest.approx(np.mean(list(by_kind.values())), abs=1e-9)
    assert (found.old, found.old_here) == (found.new, found.new_here)
    assert found.faulty == len(windows) * len(EFFECTS.kinds)
    assert found.old_detected == found.new_detected == found.both_detected


def test_a_deaf_model_fails_and_one_a_little_less_sensitive_does_not():
    lost = compared(deaf(2.0))
    assert lost.old - lost.new > MAX_LOSS
    state, reason = lost.judge()
    assert state == "fail"
    assert f"a loss of {lost.old - lost.new:.0%}" in reason
    assert lost.worst in reason
    assert compared(deaf(1.2)).judge() == ("pass", "")
    assert compared(MODEL).judge() == ("pass", "")


def test_windows_with_faults_are_counted_by_which_model_detects_them():
    found = compared(deaf(2.0))
    assert 0 < found.new_detected < found.old_detected < found.faulty
    assert found.both_detected == found.new_detected, "what the deaf model detects the other one does"


def test_a_recalibrated_model_passes_where_the_older_one_alarms_at_everything():
    """The machine vibrates twice as much: what the older model detects there is the shift, not the fault."""
    shift = np.where(VIBRATION, np.log(2.0), 0.0)
    right = compared(moved(shift), gain=2.0)
    assert right.old_here > 0.99
    assert right.judge() == ("pass", "")
    mild = FaultEffects(EFFECTS.kinds, EFFECTS.logged, EFFECTS.rows * 0.1)
    models = trial_model(MODEL), trial_model(moved(shift))
    faint = compare_on_faults(*models, own_windows(gain=2.0), mild, BOUNDS)
    assert faint.old_here - faint.new_here > MAX_LOSS, (
        "a comparison on the features as they are would fail it"
    )
    assert faint.judge() == ("pass", "")
    deaf_there = moved(shift).calibrated_by(deaf(3.0).calibration)
    assert compared(deaf_there, gain=2.0).judge()[0] == "fail"


def test_a_model_that_has_learnt_faults_as_normal_fails():
    """Trained on machines of which half were worn or out of balance: what it takes for usual is as wide."""
    both = BANK.effect("bearing_wear", 1.0) + BANK.effect("imbalance", 1.0)
    learnt = MODEL.moved_to(MODEL.mean + both / 2, MODEL.std + np.abs(both) / 2)
    assert compared(learnt).judge()[0] == "fail"


def test_a_loss_at_the_bound_is_no_failure_yet():
    at = FaultTrial(windows=8, old=0.75, new=0.75 - MAX_LOSS, worst="x")
    assert at.judge()[0] == "pass"
    assert FaultTrial(windows=8, old=0.75, new=0.44, worst="x").judge()[0] == "fail"


@pytest.mark.long
@pytest.mark.parametrize("where", [regimes.healthy, regimes.warmer()])
def test_candidates_of_the_trainer_pass_on_every_machine_and_deaf_ones_on_none(where):
    """Twelve machines, as they were and after the shift that the candidate was trained on."""
    right = regimes.candidate(regimes.rows(regimes.warmer()))
    hears = Mahalanobis.of(right.manifest)
    middle = 2.0 * hears.calibration.middle
    less = hears.calibrated_by(hears.calibration.model_copy(update={"middle": middle}))
    states = {"pass": set(), "fail": set()}
    old = trial_model(MODEL)
    for device in range(12):
        windows = regimes.windows(where, range(90, 98), device)
        for name, graph in (("right", right.model), ("deaf", anomaly_graph(MACHINE, less))):
            new = TrialModel(Bundle(right.manifest, graph, right.golden), MACHINE, None)
            states[compare_on_faults(old, new, windows, EFFECTS, BOUNDS).judge()[0]].add((name, device))
    assert states == {
        state: {(n, d) for d in range(12)} for state, n in (("pass", "right"), ("fail", "deaf"))
    }


def test_the_generic_model_is_compared_by_what_it_has_learnt_of_the_device():
    windows, predictor = own_windows(60), load_predictor(MACHINE.model_copy(update={"model": ROBUST}))
    scores = [predictor.score("m-1", w)[1] for w in windows]
    known = predictor.reference("m-1")
    reference = {"center": known.center.tolist(), "spread": known.spread.tolist()}
    model = TrialModel(open_bundle(BUNDLES / "robust"), MACHINE, reference)
    again = [predictor.score("m-1", w)[1] for w in windows[-3:]]
    assert scores[-1] is not None
    detected = model.detects(model.features(windows[-3:]), AlarmBounds({"score": min(again)}))
    assert detected.all()
    above = AlarmBounds({"score": max(again) + 1e-4})
    assert not model.detects(model.features(windows[-3:]), above).any()
    found = compare_on_faults(model, trial_model(MODEL), windows[-8:], EFFECTS, BOUNDS)
    assert 0.0 < found.old <= 1.0


ROBUST = MACHINE.model.model_copy(update={"name": "robust"})


# Effects in a bundle -------------------------------------------------------------------------------------


def test_effects_travel_in_golden_vectors_that_are_else_the_same():
    carried = with_effects(FACTORY.golden, EFFECTS)
    read = read_golden(carried, "v")
    assert read.effects.kinds == EFFECTS.kinds
    assert np.array_equal(read.effects.rows, EFFECTS.rows)
    assert np.array_equal(read.effects.logged, EFFECTS.logged)
    before = read_golden(FACTORY.golden, "v")
    assert before.effects is None
    same = partial(np.array_equal, equal_nan=True)
    assert same(read.windows, before.windows)
    assert same(read.expected, before.expected)
    # As release 0.2.0 reads them: by column, and two keys of the metadata.
    assert same(golden_windows(carried), golden_windows(FACTORY.golden))
    assert same(golden_outputs(carried), golden_outputs(FACTORY.golden))
    assert golden_inputs(carried) == golden_inputs(FACTORY.golden)
    assert with_effects(FACTORY.golden, EFFECTS) == carried, "the same bytes each time"


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[]",
        json.dumps({"kinds": [], "logged": [1], "rows": []}),
        json.dumps({"kinds": ["a"], "logged": [1], "rows": [[1.0, 2.0]]}),
        json.dumps({"kinds": ["a"], "logged": [1], "rows": [[LARGEST_LOG + 1]]}),
        '{"kinds": ["a"], "logged": [0], "rows": [[NaN]]}',
        json.dumps({"kinds": ["a"] * (MAX_EFFECTS + 1), "logged": [1], "rows": [[0.1]] * (MAX_EFFECTS + 1)}),
        " " * (MAX_TEXT + 1),
    ],
)
def test_effects_that_are_none_are_refused(wrong):
    with pytest.raises(BundleError, match="fault effects"):
        parse_effects(wrong, "model v")


def test_effects_on_other_features_make_golden_vectors_unreadable():
    narrow = FaultEffects(("a",), np.array([True]), np.array([[0.1]]))
    with pytest.raises(BundleError, match="1 of 10 features"):
        read_golden(with_effects(FACTORY.golden, narrow), "v")


def test_a_bank_of_any_size_gives_a_bounded_number_of_effects_of_all_kinds():
    assert len(EFFECTS.kinds) <= MAX_EFFECTS
    assert set(EFFECTS.kinds) == set(BANK.kinds)
    severities = {str(s): BANK.effects["imbalance"][0.2] for s in range(40)}
    wide = {f"kind-{n:02}": severities for n in range(50)}
    large = effects_of(type(BANK)("p", BANK.features, BANK.logged, "d", wide))
    assert len(large.kinds) == MAX_EFFECTS
    assert len(set(large.kinds)) == len(wide)


# Windows that a device keeps ------------------------------------------------------------------------------


def window_of(samples: np.ndarray, second: int = 0) -> Window:
    return Window("m-1", samples, from_us(second * 1_000_000), 0, TimeQuality.SYNCHRONISED)


def test_a_device_keeps_few_healthy_and_complete_windows():
    kept, one = HealthyWindows(), np.ones((4, 2), dtype=np.float32)
    kept.add(window_of(one * np.nan), healthy=True)
    kept.add(window_of(one), healthy=False)
    assert kept.newest == ()
    for n in range(MAX_WINDOWS + 5 * EVERY):
        kept.add(window_of(one * n, n), healthy=True)
    newest = [kept_one.samples[0, 0] for kept_one in kept.newest]
    assert len(newest) == MAX_WINDOWS
    assert [k.end_us for k in kept.newest] == [1_000_000 * int(n) for n in newest], "each with its own time"
    assert newest[-5:] == [MAX_WINDOWS - 1 + EVERY * k for k in range(1, 6)], (
        "one in eight replaces the oldest"
    )


def test_the_windows_kept_take_bounded_memory_and_are_copies():
    kept, large = HealthyWindows(), np.zeros(MAX_BYTES // 4, dtype=np.uint8).view(np.float32).reshape(-1, 1)
    for _ in range(20):
        kept.add(window_of(large), healthy=True)
    assert sum(w.samples.nbytes for w in kept.newest) <= MAX_BYTES
    assert all(w.samples.base is None for w in kept.newest)
    kept.add(window_of(np.zeros((MAX_BYTES, 1), dtype=np.float32)), healthy=True)
    huge = HealthyWindows()
    huge.add(window_of(np.zeros((MAX_BYTES, 1), dtype=np.float32)), healthy=True)
    assert huge.newest == ()


# A real child, and a real device ----------------------------------------------------------------------------


class Feed:
    """A real child that tries a bundle on the machine's windows."""

    def __init__(self, folder, bundle) -> None:
        bundle.write(folder)
        self.child, self.woken = TrialChild(folder, MACHINE), threading.Event()
        start = ShadowComparison.start("old", "new", MACHINE)
        question = FaultQuestion([KeptWindow(w, 0) for w in own_windows()], BUNDLES / "machine")
        self.feed = TrialFeed("m-1", self.child, start, 0, self.woken.set, time.monotonic, lambda: question)

    def outcome(self):
        wait_until(lambda: self.child.ready or self.child.failure_reason, 60.0, "the child")
        self.feed.observe(next(synthetic_windows(MACHINE, "m-1")), ScoredWindow("old", 0.1, 0.0))
        wait_until(lambda: self.feed.progress(1)[0] != "wait", 60.0, "the outcome")
        return self.feed.progress(1)


@pytest.mark.parametrize(("model", "state"), [(MODEL, "pass"), (deaf(2.0), "fail")])
def test_a_real_child_compares_the_graphs_of_both_models(tmp_path, model, state):
    subject = Feed(tmp_path, signed_candidate(1, model))
    try:
        assert subject.outcome()[0] == state
        assert subject.feed.faults.new_here == pytest.approx(compared(model).new_here)
        known, faults = subject.feed.comparison.summary(in_force=False).labelled, subject.feed.faults
        assert (known.windows, known.active_detected, known.shadow_detected) == (
            faults.faulty,
            faults.old_detected,
            faults.new_detected,
        )
    finally:
        subject.child.end()


@pytest.fixture
def rig(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    with UpdaterRig(edge_settings(tmp_path), quick_machine(trial_windows=9)) as found:
        yield found


def test_a_device_restores_a_deaf_model_refuses_a_strange_one_and_commits_a_good_one(rig, service):
    factory = service.factory.version
    service.instruct(service.sign(signed_candidate(1, deaf(2.5))))
    rig.drive(lambda: service.results("m-1")[-1:] == ["restored"], timeout_s=120.0, what="a restored model")
    assert rig.version == factory
    assert "with faults on" in service.reports["m-1"][-1].detail
    service.instruct(service.sign(signed_candidate(4), hardware=("arm64", "ppc")))
    rig.drive(lambda: service.results("m-1")[-1:] == ["no_change_refused"], timeout_s=120.0, what="a refusal")
    assert service.reports["m-1"][-1].detail.startswith("refused: hardware sim: machine-4.")
    good = service.sign(signed_candidate(2))
    service.instruct(good)
    rig.settle(good.version, 120.0)
    assert service.reports["m-1"][-1].detail.startswith("trial with faults on")
    assert rig.agent.status["trials"] == {"on_faults": 1, "not_on_faults": 0}
    plain = service.sign(signed_candidate(3, effects=False))
    service.instruct(plain)
    rig.settle(plain.version, 120.0)
    assert service.reports["m-1"][-1].detail == f"trial not tried: {NO_EFFECTS}"
    assert rig.agent.status["trials"] == {"on_faults": 1, "not_on_faults": 1}

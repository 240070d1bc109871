"""Gates: the better model passes, and each thing that may be wrong with one has a gate that text so."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_service.gates.evaluate import evaluate, refusal
from model_service.gates.footprint import judge_memory, judge_operators
from model_service.gates.holdout import PairedScores, holdout_of
from model_service.gates.quality import judge_quality
from model_service.gates.recall import (
    judge_false_alarms,
    judge_learnt,
    judge_recall,
    nonnegative_fit,
    without_faults,
)
from model_service.gates.score_gates import judge_masked_channels
from model_service.gates.statistics import MIN_DEVICES
from model_service.models.bundle_files import build_bundle
from model_service.models.golden import Golden, golden_outputs, golden_windows
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.score_check import check_scores
from model_service.models.training_rows import part_of
from schemas.errors import BundleError
from schemas.manifest import Tolerance
from tests.model_service.regimes import (
    BANK,
    CHAMPION,
    HOLDOUT,
    MACHINE,
    OLD,
    candidate,
    features,
    gate_inputs,
    rows,
    table,
    warmer,
    worn,
)

ALL = {
    "operators", "size", "fit", "lineage", "memory", "latency", "score_range", "rebuild", "parity", "golden",
    "quality", "masked_channels", "recall", "false_alarms", "fault_learnt",
    "unexplained_shift",
}  # fmt: skip


def judged(of):
    return {v.gate: v for v in evaluate(of)}


def failed(of):
    return {name for name, v in judged(of).items() if not v.passed}


def changed(bundle, model=None, golden=None, **manifest):
    """The bundle with other parts, build_bundle again: what somebody with the trainer's key could hand in."""
    stated = bundle.manifest.model_copy(update=manifest)
    return build_bundle(stated, model or bundle.model, golden or bundle.golden, 1)


def edited(bundle, edit):
    """The bundle with a graph that ``edit`` was let loose on."""
    model = onnx.load_from_string(bundle.model)
    edit(model)
    return changed(bundle, model=model.SerializeToString())


# -- the whole -----------------------------------------------------------------------------------


def test_a_candidate_for_the_new_regime_passes_every_gate():
    found = judged(gate_inputs(rows(warmer())))
    assert refusal(tuple(found.values())) == ""
    assert set(found) == ALL
    quality = found["quality"]
    assert 0 < quality.low < quality.value < quality.high
    assert quality.detail["champion_healthy_score"] > 1.5 * quality.detail["candidate_healthy_score"]
    assert all(v.text for v in found.values())


def test_a_gain_whose_interval_reaches_the_bound_is_not_shown():
    of = paired()
    verdict = judge_quality(of, 0.0)
    between = (verdict.low + verdict.value) / 2
    assert not judge_quality(of, between).passed
    assert judge_quality(of, verdict.low - 1e-6).passed


def test_a_champion_that_knows_the_normal_is_not_replaced_for_a_little():
    of = paired()
    verdict = judge_quality(of, 0.0)
    share = verdict.low / (1 - verdict.detail["champion"])
    assert judge_quality(of, 0.0, renewal_gain=share - 1e-6).passed
    refused = judge_quality(of, 0.0, renewal_gain=share + 1e-6)
    assert not refused.passed
    assert refused.bound > verdict.low
    assert judge_quality(of, refused.bound + 1e-6).bound > refused.bound  # the higher bound counts

    def failed_as(**what: Any) -> set[str]:
        return failed(gate_inputs(rows(warmer()), gates={"min_renewal_gain": 0.99}, **what))

    assert failed_as(unlearnt=False) == {"quality"}
    assert failed_as(unlearnt=False, asked_by="Ada") == set()
    assert failed_as() == set()


def test_as_good_as_the_champion_is_not_better():
    assert not judge_quality(paired(new=OLD.score), 0.0).passed
    assert failed(gate_inputs(rows(warmer()), gates={"min_gain": 0.05})) == {"quality"}


@pytest.mark.parametrize(
    ("kind", "severity"), [("bearing_wear", 0.2), ("bearing_wear", 0.4), ("imbalance", 0.2)]
)
def test_a_model_that_learnt_a_fault_is_refused_although_it_scores_better(kind, severity):
    """Worn machines as the new normal: better by every number on their own rows."""
    found = judged(gate_inputs(rows(worn(severity, kind)), moved=("vibration",)))
    assert found["quality"].passed
    assert not found["fault_learnt"].passed
    assert found["fault_learnt"].detail["worst"] == kind
    assert kind in refusal(tuple(found.values()))


def test_a_classifier_passes_its_own_parity_and_rebuild():
    faults = [
        table(features(worn(0.3, kind), spans, 10), spans, part_, label="worn", first=20)
        for spans, part_ in ((range(60, 63), "train"), (HOLDOUT, "holdout"))
        for kind in ("bearing_wear", "imbalance")
    ]
    found = judged(gate_inputs(pa.concat_tables([rows(warmer()), *faults]), kind="classifier"))
    assert {n for n in ("parity", "golden", "rebuild", "operators") if found[n].passed} == {
        "parity", "golden", "rebuild", "operators",
    }  # fmt: skip
    assert found["quality"].detail["labelled_rows"] == 40


# -- sameness ------------------------------------------------------------------------------------


def test_a_tampered_weight_breaks_parity_golden_and_rebuild():
    taken = rows(warmer())

    def edit(model):
        [mean] = [i for i in model.graph.initializer if i.dims == [10] and i.data_type == TensorProto.FLOAT][
            :1
        ]
        values = np.frombuffer(mean.raw_data, np.float32).copy()
        values[7] += 0.5
        mean.raw_data = values.tobytes()

    tampered = edited(candidate(taken), edit)
    assert {"parity", "golden", "rebuild"} <= failed(gate_inputs(taken, candidate=tampered))


def test_golden_vectors_that_excuse_the_graph_are_refused():
    taken = rows(warmer())
    good = candidate(taken)
    windows, outputs = golden_windows(good.golden), golden_outputs(good.golden)
    wrong = Golden(windows, outputs[:, :-1], outputs[:, -1] * 0.9).to_arrow()
    assert "golden" in failed(gate_inputs(taken, candidate=changed(good, golden=wrong)))
    fewer = Golden(windows[:2], outputs[:2, :-1], outputs[:2, -1]).to_arrow()
    verdict = judged(gate_inputs(taken, candidate=changed(good, golden=fewer)))["golden"]
    assert "not the family's" in verdict.text
    assert not verdict.passed
    narrow = Golden(windows[:, :, :1], outputs[:, :-1], outputs[:, -1]).to_arrow()
    assert "golden" in failed(gate_inputs(taken, candidate=changed(good, golden=narrow)))
    wide = changed(good, tolerance=Tolerance(absolute=0.5, relative=0.5))
    verdict = judged(gate_inputs(taken, candidate=wide))["golden"]
    assert "widens the tolerance" in verdict.text
    assert not verdict.passed


def test_other_rows_than_the_gate_reads_cannot_have_made_the_candidate():
    taken = rows(warmer())
    assert "rebuild" in failed(gate_inputs(taken, candidate=candidate(rows(warmer(), seed=8))))


def test_a_candidate_of_another_run_cut_or_champion_is_not_even_loaded():
    taken = rows(warmer())
    for name, value in (("run_id", "run-2"), ("cut", 8), ("champion", "machine-1.00000000")):
        of = gate_inputs(taken)
        found = judged(replace(of, expected={**of.expected, name: value}))
        assert not found["lineage"].passed
        assert name in found["lineage"].text
        assert "memory" not in found


def test_a_candidate_for_another_profile_is_not_even_loaded():
    taken = rows(warmer())
    other = changed(candidate(taken), features=tuple(reversed(MACHINE.feature_names)))
    assert failed(gate_inputs(taken, candidate=other)) == {"fit"}


def test_a_graph_whose_scores_leave_their_range_is_refused():
    """On windows that no golden vector and no row of the holdout resembles, too."""

    def raise_score(model, by):
        for node in model.graph.node:
            node.output[:] = ["seen" if name == "score" else name for name in node.output]
            node.input[:] = ["seen" if name == "score" else name for name in node.input]
        model.graph.initializer.append(numpy_helper.from_array(np.array(by, np.float32), "by"))
        model.graph.node.append(helper.make_node("Mul", ["seen", "by"], ["score"]))

    taken = rows(warmer())
    for by, refused in ((1.00001, False), (1.01, True)):
        raised = edited(candidate(taken), lambda model, by=by: raise_score(model, by))
        verdict = judged(gate_inputs(taken, candidate=raised))["score_range"]
        assert verdict.passed != refused, verdict.text
        if refused:
            with pytest.raises(BundleError, match="outside"):
                check_scores(raised)
        else:
            assert check_scores(raised) is raised


def test_a_model_that_calls_a_channel_optional_is_tried_without_it():
    """Honest: it fills the gap by its mean. Dishonest: it has no score, or alarms on what it does not see."""
    taken = rows(warmer())
    good = candidate(taken)
    model, width = Mahalanobis.of(good.manifest), len(MACHINE.feature_names)
    heat = np.array([s.channel == "temperature" for s in MACHINE.feature_specs()])
    usual = model.unstandardised(np.zeros((1, width)))[0]

    def filled(by):
        return lambda f: model.score(np.where(np.isnan(f) & heat, usual + by, f))

    stated = changed(good, optional_channels=("temperature",))
    for score, passes in ((filled(0.0), True), (filled(500.0), False), (model.score, False)):
        verdict = judge_masked_channels(stated, paired(new=score), MACHINE, 0.02)
        assert verdict.passed == passes, verdict.text
    assert judge_masked_channels(good, paired(new=model.score), MACHINE, 0.02).passed
    assert not judged(gate_inputs(taken, candidate=stated))["masked_channels"].passed


# -- footprint -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "gate"),
    [
        ({"max_bytes": 10_000}, "size"),
        ({"max_latency_ms": 1e-6}, "latency"),
        ({"max_latency_ratio": 1e-6}, "latency"),
        ({"max_memory_mb": 0.5}, "memory"),
        ({"opset": 16}, "operators"),
        ({"parity": 1e-12}, "parity"),
        ({"min_gain": 0.5}, "quality"),
        ({"min_recall": 0.999}, "recall"),
    ],
)
def test_each_bound_of_the_profile_refuses(bounds, gate):
    assert gate in failed(gate_inputs(rows(warmer()), gates=bounds))


def test_what_devices_must_not_load_is_not_loaded_here_either():
    good = candidate(rows(warmer()))

    def custom(model):
        model.graph.node[0].domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    def elsewhere(model):
        weights = model.graph.initializer[0]
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="/etc/passwd")

    def hidden(model):
        inner = helper.make_graph([helper.make_node("Own", [], ["x"], domain="com.example")], "g", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))

    for edit, word in ((custom, "com.example"), (elsewhere, "another file"), (hidden, "com.example")):
        verdict = judge_operators(edited(good, edit), MACHINE.gates)
        assert not verdict.passed
        assert word in verdict.text


def test_a_model_that_ends_its_process_ends_only_that():
    good = candidate(rows(warmer()))

    def edit(model):
        model.graph.node[0].op_type = "NoSuchOperator"

    found = judged(gate_inputs(rows(warmer()), candidate=edited(good, edit)))
    assert not found["memory"].passed
    assert "ended with" in found["memory"].text
    assert not {"artifact", "latency", "quality"} & set(found)


def test_a_score_of_another_shape_is_refused_and_not_stumbled_over():
    good = candidate(rows(warmer()))

    def edit(model):
        last = model.graph.node[-1]
        assert list(last.output) == ["score"]
        model.graph.node.append(helper.make_node("Identity", [last.input[0]], ["plain"]))
        last.op_type = "Unsqueeze"
        last.input.append("axis")
        model.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
        del model.graph.output[1].type.tensor_type.shape.dim[:]
        model.graph.output[1].type.tensor_type.ClearField("shape")

    found = judged(gate_inputs(rows(warmer()), candidate=edited(good, edit)))
    assert "shape" in found["artifact"].text


def test_memory_is_that_of_the_model_not_of_the_runtime():
    verdict = judge_memory(CHAMPION, {"window": golden_windows(CHAMPION.golden)[:1]}, MACHINE.gates)
    assert 1 < verdict.value < 60


# -- numbers -------------------------------------------------------------------------------------


def paired(story=None, new=None, devices=20, weights=None, enter=0.6):
    """Candidate and champion on the holdout of a story."""
    found = features(story or warmer(), HOLDOUT)[:devices]
    holdout = table(found, HOLDOUT, "holdout", weights=weights)
    holdout = holdout_of(holdout, MACHINE.feature_names, {})
    score = new or Mahalanobis.of(candidate(rows(story or warmer())).manifest).score
    return PairedScores(score, OLD.score, holdout, BANK, enter)


def test_quality_is_the_class_balanced_weighted_brier_score():
    """Against loops over rows."""
    weights = np.random.default_rng(2).uniform(1, 30, 40)
    of = paired(weights=weights)
    verdict = judge_quality(of, 0.0)
    features_, w = of.holdout.healthy.features, weights
    for name, score in (("candidate", of.candidate), ("champion", of.champion)):
        kinds = []
        for kind in BANK.kinds:
            losses = []
            for severity in BANK.severities(kind):
                missed = score(BANK.inject(features_, kind, severity)) - 1
                losses.append(sum(a * b**2 for a, b in zip(w, missed, strict=True)) / sum(w))
            kinds.append(sum(losses) / len(losses))
        calm = sum(a * b**2 for a, b in zip(w, score(features_), strict=True)) / sum(w)
        assert verdict.detail[name] == pytest.approx(1 - (calm + sum(kinds) / len(kinds)) / 2)
    assert verdict.value == pytest.approx(verdict.detail["candidate"] - verdict.detail["champion"])


def test_the_interval_takes_the_device_as_its_unit():
    """Against the normal interval over devices' own gains: every device has the same weight here."""
    of = paired()
    verdict = judge_quality(of, 0.0)
    gains = []
    for device in range(20):
        mine = of.holdout.healthy.device == device
        faults = of.holdout.faults(BANK)
        halves = []
        for score in (of.candidate, of.champion):
            calm = (score(of.holdout.healthy.features[mine]) ** 2).mean()
            missed = [
                np.mean([((1 - score(r.features[mine])) ** 2).mean() for r in severities])
                for severities in faults.values()
            ]
            halves.append(1 - (calm + np.mean(missed)) / 2)
        gains.append(halves[0] - halves[1])
    reach = 1.96 * np.std(gains, ddof=1) / np.sqrt(20)
    assert verdict.low == pytest.approx(np.mean(gains) - reach, abs=0.15 * reach)
    assert verdict.high == pytest.approx(np.mean(gains) + reach, abs=0.25 * reach)


def test_the_same_evidence_gives_the_same_interval():
    first, second = (judge_quality(paired(), 0.0) for _ in range(2))
    assert (first.low, first.high) == (second.low, second.high)


def test_a_model_without_a_score_is_as_wrong_as_can_be():
    verdict = judge_quality(paired(new=lambda x: np.full(len(x), np.nan)), 0.0)
    assert verdict.detail["candidate"] == pytest.approx(0.0)
    assert not judge_recall(paired(new=lambda x: np.full(len(x), np.nan)), OLD, 0.8, 0.05).passed


def test_a_deaf_model_and_a_shrill_one_are_refused():
    deaf, shrill = (paired(new=lambda x, s=s: np.full(len(x), s)) for s in (0.0, 1.0))
    assert not judge_quality(deaf, 0.0).passed
    assert not judge_recall(deaf, OLD, 0.8, 0.05).passed
    assert not judge_quality(shrill, 0.0).passed
    alarms = judge_false_alarms(shrill, 0.02)
    assert (alarms.passed, alarms.value) == (False, 1.0)


def test_recall_is_the_weighted_share_of_faults_seen():
    w = np.random.default_rng(4).uniform(1, 30, 40)
    of = paired(weights=w)
    seen = [
        [
            np.average(of.candidate(BANK.inject(of.holdout.healthy.features, k, s)) >= 0.6, weights=w)
            for s in BANK.severities(k)
        ]
        for k in BANK.kinds
    ]
    verdict = judge_recall(of, OLD, 0.8, 0.05)
    assert verdict.value == pytest.approx(np.mean(seen))
    assert verdict.low <= verdict.value <= verdict.high


def test_too_few_devices_show_nothing():
    of = paired(devices=MIN_DEVICES - 1)
    verdicts = [
        judge_quality(of, 0.0),
        judge_recall(of, OLD, 0.8, 0.05),
        judge_learnt(of, BANK, OLD, 0.8, 0.05),
    ]
    assert [(v.passed, v.value) for v in verdicts] == [(False, None)] * 3
    assert judge_quality(paired(devices=MIN_DEVICES), 0.0).value is not None


def test_without_any_fault_a_deaf_model_would_win_so_nothing_is_shown():
    of = replace(paired(), bank=None)
    assert "never alarms" in judge_quality(of, 0.0).text


def test_cohorts_are_reported_apart():
    slices = judged(gate_inputs(rows(warmer())))["quality"].detail["slices"]
    assert set(slices) == {"machine/north/g/x86", "machine/south/g/x86"}
    assert sum(s["devices"] for s in slices.values()) == 20
    assert all(s["gain"] > 0 for s in slices.values())


def test_rows_freed_of_a_fault_lie_where_healthy_ones_do_and_a_recalibration_stays():
    cleaned, at_reference, likeness = without_faults(paired(worn(0.3)).holdout, OLD, BANK)
    assert likeness["bearing_wear"] > 10
    assert OLD.score(features(worn(0.3), HOLDOUT).reshape(-1, 10)).mean() > 0.8
    assert OLD.score(cleaned.features).mean() < 0.45
    np.testing.assert_allclose(OLD.standardised(at_reference.features).mean(axis=0), 0, atol=1e-9)
    warm, _, slight = without_faults(paired().holdout, OLD, BANK)
    assert max(slight.values()) < 1.5
    assert warm.features[:, 7].mean() > OLD.mean[7] + 4


def test_shares_of_signatures_are_a_least_squares_fit_without_negatives():
    """Against a search over a grid."""
    rng = np.random.default_rng(6)
    directions = np.abs(rng.normal(size=(2, 5)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for target in (rng.normal(size=5), directions[0] * 3 - directions[1] * 2, directions.T @ [1.0, 2.0]):
        grid = np.linspace(0, 5, 251)
        fits = [
            (np.linalg.norm(target - a * directions[0] - b * directions[1]), a, b) for a in grid for b in grid
        ]
        best = min(fits)
        found = nonnegative_fit(directions, target)
        assert (found >= 0).all()
        assert np.linalg.norm(target - found @ directions) <= best[0] + 1e-9


def test_only_the_holdout_is_evidence():
    taken = rows(warmer())
    held = part_of(taken, "holdout")
    assert held.num_rows == 20 * len(HOLDOUT)
    assert len(holdout_of(held, MACHINE.feature_names, {}).healthy.features) == held.num_rows

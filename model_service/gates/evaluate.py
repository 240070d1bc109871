"""Runs all gates on one candidate, the cheapest and safest first."""

from __future__ import annotations

from model_service.detectors.fitted_candidate import FittedCandidate, build_fitted_candidate, enter_of
from model_service.detectors.healthy_reference import healthy_reference
from model_service.detectors.kinds import detector_of
from model_service.detectors.trained_mark import is_trained
from model_service.gates import first_model_gates, imported_gates, output_gates, user_gates
from model_service.gates.footprint import judge_latency, judge_memory, judge_operators, judge_size
from model_service.gates.gate_inputs import GateInputs
from model_service.gates.holdout import Holdout, PairedScores, Score, holdout_of
from model_service.gates.origin import judge_fit, judge_lineage, judge_rebuild
from model_service.gates.parity import judge_golden, judge_parity
from model_service.gates.quality import judge_quality
from model_service.gates.recall import judge_false_alarms, judge_learnt, judge_recall
from model_service.gates.score_gates import judge_masked_channels, judge_score_range
from model_service.gates.unexplained_shift import Unexplained, judge_unexplained_shift
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.adapt import AdaptableModel
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate, moved_features
from model_service.models.classifier import train_classifier
from model_service.models.fault_bank import GENERIC, FaultBank
from model_service.models.golden import Feed, golden_feeds
from model_service.models.learnt_model import ScoresRows, with_outputs
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import part_of, training_part
from model_service.models.trial_effects import for_devices
from schemas.errors import BundleError, DatasetError
from schemas.manifest import Lineage
from schemas.model_version import ModelVersion

DEFAULT_ENTER = 0.5
"""Score from which a window counts as an alarm, where the profile has no rule."""


def evaluate(inputs: GateInputs) -> tuple[GateVerdict, ...]:
    """Verdicts in order. A model that may not be loaded, or kills a process that runs it, is not run here."""
    gates, manifest = inputs.profile.gates, inputs.candidate.manifest
    static = (
        judge_operators(inputs.candidate, gates),
        judge_size(inputs.candidate, gates),
        judge_fit(manifest, inputs.champion.manifest, inputs.profile),
        judge_lineage(manifest, inputs.expected),
    )
    if not all(v.passed for v in static):
        return static
    feed = _feed(inputs)
    memory = judge_memory(inputs.candidate, feed, gates)
    if not memory.passed:
        return (*static, memory)
    try:
        if inputs.imported is not None:
            loaded = imported_gates.judge_imported(inputs, inputs.imported, feed)
        else:
            loaded = _judge_running(inputs, feed)
    except BundleError as exc:
        return (*static, memory, not_shown("artifact", str(exc)))
    verdicts = (*static, memory, *loaded)
    return (*verdicts, *user_gates.judge_also(inputs, {v.gate for v in verdicts}))


def refusal(verdicts: tuple[GateVerdict, ...]) -> str:
    """Which gates refuse, and why, in one line; empty where all passed."""
    return "; ".join(f"{v.gate}: {v.text}" for v in verdicts if not v.passed)


def _judge_running(inputs: GateInputs, feed: Feed) -> tuple[GateVerdict, ...]:
    """Gates that run the graph in this process."""
    gates, names = inputs.profile.gates, inputs.profile.feature_names
    # A first model replaces the generic one, whose score is no function of a window alone.
    beside = inputs.candidate if inputs.first else inputs.champion
    bundles = inputs.candidate, beside
    candidate, champion = (OrtGraph(b.model, b.manifest.version) for b in bundles)
    latency = judge_latency(candidate, champion, feed, gates)
    stages = [ScoreStage(b.model, len(names), b.manifest.version, b.manifest.output_columns) for b in bundles]
    new, old = (stage.score for stage in stages)
    holdout = holdout_of(part_of(inputs.rows, "holdout"), names, inputs.cohorts)
    kept = judge_score_range(inputs.candidate, new, holdout, inputs.bank)
    rebuild, reference = _rebuild(inputs)
    if reference is None:
        return (latency, kept, rebuild)
    recent = inputs.candidate.manifest.recent
    further = with_outputs(reference, inputs.profile).further if inputs.profile.model.outputs else None
    return (
        latency,
        kept,
        rebuild,
        judge_parity(new, reference.score, holdout, inputs.bank, gates.parity, reads_recent=bool(recent)),
        judge_golden(inputs.candidate, beside, reference.score, inputs.profile, further),
        *(
            ()
            if further is None
            else output_gates.judge_outputs(inputs.profile, stages[0].further, further, holdout, inputs.bank)
        ),
        *(_judge_first(inputs, new, holdout) if inputs.first else _judge_scores(inputs, new, old, holdout)),
    )


def _judge_first(inputs: GateInputs, score: Score, holdout: Holdout) -> tuple[GateVerdict, ...]:
    """Gates on a first model, instead of those that compare with a champion.

    Where a trainer made the champion, too, and faults are known, none of them may have been learnt.
    """
    profile, rows, recent = inputs.profile, inputs.rows, inputs.candidate.manifest.recent
    if inputs.bank is None:
        return (not_shown("generic_recall", "the profile has no fault bank: run `edgeloop model fit`"),)
    loss = profile.gates.max_recall_loss
    verdicts = (
        first_model_gates.judge_budget(score, profile, rows, recent),
        first_model_gates.judge_generic_recall(score, profile, rows, inputs.bank, loss, recent),
    )
    champion = inputs.champion.manifest
    reference = healthy_reference(champion, profile) if is_trained(champion) else None
    if reference is None or inputs.bank.origin == GENERIC:
        return verdicts
    before = ScoreStage(inputs.champion.model, len(profile.feature_names), champion.version)
    paired = PairedScores(score, before.score, holdout, inputs.bank, enter_of(profile))
    return (*verdicts, judge_learnt(paired, inputs.bank, reference, profile.gates.min_recall, loss))


def _judge_scores(inputs: GateInputs, new: Score, old: Score, holdout: Holdout) -> tuple[GateVerdict, ...]:
    """Gates that compare the scores of candidate and champion."""
    gates, rules = inputs.profile.gates, inputs.profile.decision.score_rules
    paired = PairedScores(new, old, holdout, inputs.bank, rules[0].enter if rules else DEFAULT_ENTER)
    # Faults that any sensor can have look like any change: they have no signature to find in a shift, and no
    # detector finds the smallest of them. So they show what is still detected, and not what was learnt.
    known = inputs.bank is not None and inputs.bank.origin != GENERIC
    champion = inputs.champion.manifest
    reference = detector_of(champion) if champion.parameters else None
    renewal_gain = 0.0 if inputs.unlearnt or inputs.asked_by else gates.min_renewal_gain
    bounds = gates.min_recall if known or inputs.bank is None else 0.0, gates.max_recall_loss
    homes = None if known or not inputs.proven else _references(inputs, reference)
    verdicts = [
        judge_quality(paired, gates.min_gain, proven=inputs.proven, renewal_gain=renewal_gain, homes=homes),
        judge_recall(paired, reference, *bounds),
        judge_false_alarms(paired, inputs.profile.rollout.max_alarm_gain),
        judge_masked_channels(
            inputs.candidate, paired, inputs.profile, inputs.profile.rollout.max_alarm_gain
        ),
    ]
    if inputs.bank is not None and known and reference is not None:
        announced = [i for i, s in enumerate(inputs.profile.feature_specs()) if s.channel in inputs.announced]
        verdicts.append(judge_learnt(paired, inputs.bank, reference, *bounds, announced))
    if reference is not None:
        verdicts.append(_judge_step(inputs, reference, inputs.bank if known else None))
    return tuple(verdicts)


def _references(
    inputs: GateInputs, champion: AdaptableModel | None
) -> tuple[AdaptableModel, AdaptableModel] | None:
    """Healthy references of candidate and champion; None: one of them states none of its own.

    A drift alone lifts the scores of faults so small that neither detects them; where it is shown to be
    harmless, that is no merit of the champion.
    """
    new = inputs.candidate.manifest
    return (detector_of(new), champion) if champion is not None and new.kind == "anomaly" else None


def _judge_step(inputs: GateInputs, champion: AdaptableModel, bank: FaultBank | None) -> GateVerdict:
    """The gate on where the healthy reference has gone since the family's first model."""
    old = inputs.champion.manifest
    before = inputs.so_far or Unexplained.none(old.version, old.features, champion)
    if inputs.asked_by:
        return judge_unexplained_shift(before, before, bank, f"{inputs.asked_by} asked for it")
    moved = moved_features(inputs.profile, inputs.moved) if inputs.shown else None
    after = before.after(champion, detector_of(inputs.candidate.manifest), moved)
    why = "the devices show a new normal" if inputs.shown else ""
    return judge_unexplained_shift(before, after, bank, why)


def _rebuild(inputs: GateInputs) -> tuple[GateVerdict, ScoresRows | None]:
    """The candidate built again from the gate's own rows, and a model that does not use its graph."""
    manifest = inputs.candidate.manifest
    if manifest.lineage is None or manifest.training is None:
        return not_shown("rebuild", "the manifest does not record how it was trained"), None
    try:
        seed, major = manifest.training.seed, ModelVersion.parse(manifest.version).major
        if inputs.first:
            made = _first_again(inputs, manifest.lineage, seed, major)
            return judge_rebuild(inputs.candidate, _for_devices(inputs, made.bundle)), made.detector
        rebuilt = _built_again(inputs, manifest.lineage, seed, major)
        verdict = judge_rebuild(inputs.candidate, _for_devices(inputs, rebuilt))
        if manifest.kind == "classifier":
            chosen = training_part(inputs.rows, inputs.profile)
            return verdict, train_classifier(chosen.rows, chosen.labels, seed)
    except DatasetError as exc:
        return not_shown("rebuild", f"cannot be built again: {exc}"), None
    return verdict, detector_of(manifest)


def _for_devices(inputs: GateInputs, made: BundleFiles) -> BundleFiles:
    return for_devices(made, inputs.profile, inputs.effects)


def _built_again(inputs: GateInputs, lineage: Lineage, seed: int, major: int) -> BundleFiles:
    profile, rows, kind = inputs.profile, inputs.rows, inputs.candidate.manifest.kind
    champion, moved, one_cause = inputs.champion, inputs.moved, inputs.one_cause
    return build_candidate(
        profile, rows, champion, moved, lineage, seed, major, kind, detector_of, one_cause=one_cause
    )


def _first_again(inputs: GateInputs, lineage: Lineage, seed: int, major: int) -> FittedCandidate:
    if inputs.chosen_by is None:
        raise DatasetError("its run names no faults that it was chosen by")
    return build_fitted_candidate(inputs.profile, inputs.rows, inputs.chosen_by, lineage, seed, major)


def _feed(inputs: GateInputs) -> Feed:
    """Inputs of a window to measure with."""
    measured = inputs.candidate if inputs.first else inputs.champion
    return golden_feeds(measured.golden, measured.manifest)[0]

"""Runs all gates on one candidate, the cheapest and safest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.fitted_candidate import FittedCandidate, build_fitted_candidate
from model_service.detectors.kinds import detector_of
from model_service.gates import first_model_gates, imported_gates
from model_service.gates.footprint import judge_latency, judge_memory, judge_operators, judge_size
from model_service.gates.gate_inputs import GateInputs
from model_service.gates.holdout import Holdout, PairedScores, Score, holdout_of
from model_service.gates.origin import judge_fit, judge_lineage, judge_rebuild
from model_service.gates.parity import judge_golden, judge_parity
from model_service.gates.quality import judge_quality
from model_service.gates.recall import judge_false_alarms, judge_learnt, judge_recall
from model_service.gates.score_gates import judge_masked_channels, judge_score_range
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.models.classifier import train_classifier
from model_service.models.fault_bank import GENERIC
from model_service.models.golden import golden_windows
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
    window = _window(inputs.candidate if inputs.first else inputs.champion)
    static = (
        judge_operators(inputs.candidate, gates),
        judge_size(inputs.candidate, gates),
        judge_fit(manifest, inputs.champion.manifest, inputs.profile),
        judge_lineage(manifest, inputs.expected),
    )
    if not all(v.passed for v in static):
        return static
    memory = judge_memory(inputs.candidate, window, gates)
    if not memory.passed:
        return (*static, memory)
    try:
        if inputs.imported is not None:
            return (*static, memory, *imported_gates.judge_imported(inputs, inputs.imported, window))
        return (*static, memory, *_judge_running(inputs, window))
    except BundleError as exc:
        return (*static, memory, not_shown("artifact", str(exc)))


def refusal(verdicts: tuple[GateVerdict, ...]) -> str:
    """Which gates refuse, and why, in one line; empty where all passed."""
    return "; ".join(f"{v.gate}: {v.text}" for v in verdicts if not v.passed)


def _judge_running(inputs: GateInputs, window: NDArray[np.float32]) -> tuple[GateVerdict, ...]:
    """Gates that run the graph in this process."""
    gates, names = inputs.profile.gates, inputs.profile.feature_names
    # A first model replaces the generic one, whose score is no function of a window alone.
    beside = inputs.candidate if inputs.first else inputs.champion
    bundles = inputs.candidate, beside
    candidate, champion = (OrtGraph(b.model, b.manifest.version) for b in bundles)
    latency = judge_latency(candidate, champion, window, gates)
    new, old = (ScoreStage(b.model, len(names), b.manifest.version).score for b in bundles)
    holdout = holdout_of(part_of(inputs.rows, "holdout"), names, inputs.cohorts)
    kept = judge_score_range(inputs.candidate, new, holdout, inputs.bank)
    rebuild, reference = _rebuild(inputs)
    if reference is None:
        return (latency, kept, rebuild)
    return (
        latency,
        kept,
        rebuild,
        judge_parity(new, reference, holdout, inputs.bank, gates.parity),
        judge_golden(inputs.candidate, beside, reference, inputs.profile),
        *(_judge_first(inputs, new) if inputs.first else _judge_scores(inputs, new, old, holdout)),
    )


def _judge_first(inputs: GateInputs, score: Score) -> tuple[GateVerdict, ...]:
    """Gates on a first model, instead of those that compare with a champion."""
    profile, rows = inputs.profile, inputs.rows
    if inputs.bank is None:
        return (not_shown("generic_recall", "the profile has no fault bank: run `edgeloop model fit`"),)
    loss = profile.gates.max_recall_loss
    return (
        first_model_gates.judge_budget(score, profile, rows),
        first_model_gates.judge_generic_recall(score, profile, rows, inputs.bank, loss),
    )


def _judge_scores(inputs: GateInputs, new: Score, old: Score, holdout: Holdout) -> tuple[GateVerdict, ...]:
    """Gates that compare the scores of candidate and champion."""
    gates, rules = inputs.profile.gates, inputs.profile.decision.rules
    paired = PairedScores(new, old, holdout, inputs.bank, rules[0].enter if rules else DEFAULT_ENTER)
    # Faults that any sensor can have look like any change: they have no signature to find in a shift, and no
    # detector finds the smallest of them. So they show what is still detected, and not what was learnt.
    known = inputs.bank is not None and inputs.bank.origin != GENERIC
    champion = inputs.champion.manifest
    reference = detector_of(champion) if champion.parameters else None
    bounds = gates.min_recall if known or inputs.bank is None else 0.0, gates.max_recall_loss
    verdicts = [
        judge_quality(paired, gates.min_gain),
        judge_recall(paired, reference, *bounds),
        judge_false_alarms(paired, inputs.profile.rollout.max_alarm_gain),
        judge_masked_channels(
            inputs.candidate, paired, inputs.profile, inputs.profile.rollout.max_alarm_gain
        ),
    ]
    if inputs.bank is not None and known and reference is not None:
        verdicts.append(judge_learnt(paired, inputs.bank, reference, *bounds))
    return tuple(verdicts)


def _rebuild(inputs: GateInputs) -> tuple[GateVerdict, Score | None]:
    """The candidate built again from the gate's own rows, and a scorer that does not use its graph."""
    manifest = inputs.candidate.manifest
    if manifest.lineage is None or manifest.training is None:
        return not_shown("rebuild", "the manifest does not record how it was trained"), None
    try:
        seed, major = manifest.training.seed, ModelVersion.parse(manifest.version).major
        if inputs.first:
            made = _first_again(inputs, manifest.lineage, seed, major)
            return judge_rebuild(inputs.candidate, _for_devices(inputs, made.bundle)), made.detector.score
        rebuilt = _built_again(inputs, manifest.lineage, seed, major)
        verdict = judge_rebuild(inputs.candidate, _for_devices(inputs, rebuilt))
        if manifest.kind == "classifier":
            chosen = training_part(inputs.rows, inputs.profile)
            return verdict, train_classifier(chosen.rows, chosen.labels, seed).score
    except DatasetError as exc:
        return not_shown("rebuild", f"cannot be built again: {exc}"), None
    return verdict, detector_of(manifest).score


def _for_devices(inputs: GateInputs, made: BundleFiles) -> BundleFiles:
    return for_devices(made, inputs.profile, inputs.effects)


def _built_again(inputs: GateInputs, lineage: Lineage, seed: int, major: int) -> BundleFiles:
    profile, rows, kind = inputs.profile, inputs.rows, inputs.candidate.manifest.kind
    champion, moved = inputs.champion, inputs.moved
    return build_candidate(profile, rows, champion, moved, lineage, seed, major, kind, detector_of)


def _first_again(inputs: GateInputs, lineage: Lineage, seed: int, major: int) -> FittedCandidate:
    if inputs.chosen_by is None:
        raise DatasetError("its run names no faults that it was chosen by")
    return build_fitted_candidate(inputs.profile, inputs.rows, inputs.chosen_by, lineage, seed, major)


def _window(champion: BundleFiles) -> NDArray[np.float32]:
    """A window to measure with, shape (1, W, C)."""
    return golden_windows(champion.golden)[:1]

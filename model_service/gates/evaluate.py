"""All gates over one candidate, cheapest and safest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_service.gates.footprint import judge_latency, judge_memory, judge_operators, judge_size
from model_service.gates.holdout import Holdout, PairedScores, Score, evidence_of, part
from model_service.gates.origin import judge_fit, judge_lineage, judge_rebuild
from model_service.gates.parity import judge_golden, judge_parity
from model_service.gates.quality import judge_quality
from model_service.gates.recall import judge_false_alarms, judge_learnt, judge_recall
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.models.classifier import train_classifier
from model_service.models.fault_bank import FaultBank
from model_service.models.golden import golden_windows
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import training_part
from schemas.errors import BundleError, DatasetError
from schemas.model_version import ModelVersion
from schemas.profile import Profile

DEFAULT_ENTER = 0.5
"""Score that counts as an alarm where the profile has no rule."""


@dataclass(frozen=True, slots=True, eq=False)
class GateCase:
    """Everything that the gates look at.

    Attributes:
        profile: Whose model.
        candidate: Its bundle, from the artifact's bytes.
        champion: The bundle that it shall replace.
        rows: Training and holdout rows, read by the gate itself.
        moved: Features and channels that the run found to have moved.
        claimed: Run, cut, pin and champion by the registry.
        cohorts: Cohort by device.
        bank: Faults; None: the profile has no bank.
    """

    profile: Profile
    candidate: BundleFiles
    champion: BundleFiles
    rows: pa.Table
    moved: tuple[str, ...]
    claimed: Mapping[str, object]
    cohorts: Mapping[str, str]
    bank: FaultBank | None


def evaluate(case: GateCase) -> tuple[GateVerdict, ...]:
    """Verdicts in order. What may not be loaded, or ends the process that tries it, is not run here."""
    gates, manifest = case.profile.gates, case.candidate.manifest
    window = _window(case.champion)
    unread = (
        judge_operators(case.candidate, gates),
        judge_size(case.candidate, gates),
        judge_fit(manifest, case.champion.manifest, case.profile),
        judge_lineage(manifest, case.claimed),
    )
    if not all(v.passed for v in unread):
        return unread
    memory = judge_memory(case.candidate, window, gates)
    if not memory.passed:
        return (*unread, memory)
    try:
        return (*unread, memory, *_running(case, window))
    except BundleError as exc:
        return (*unread, memory, not_shown("artifact", str(exc)))


def refusal(verdicts: tuple[GateVerdict, ...]) -> str:
    """Which gates refuse, and why, in one line; empty where all passed."""
    return "; ".join(f"{v.gate}: {v.says}" for v in verdicts if not v.passed)


def _running(case: GateCase, window: NDArray[np.float32]) -> tuple[GateVerdict, ...]:
    """Gates that run the graph in this process."""
    gates, width = case.profile.gates, len(case.profile.feature_names)
    candidate, champion = (OrtGraph(b.model, b.manifest.version) for b in (case.candidate, case.champion))
    latency = judge_latency(candidate, champion, window, gates)
    new, old = (ScoreStage(b.model, width, b.manifest.version).score for b in (case.candidate, case.champion))
    evidence = evidence_of(part(case.rows, "holdout"), case.profile.feature_names, case.cohorts)
    rebuild, reference = _again(case)
    if reference is None:
        return (latency, rebuild)
    same = (
        rebuild,
        judge_parity(new, reference, evidence, case.bank, gates.parity),
        judge_golden(case.candidate, case.champion, reference, case.profile),
    )
    return (latency, *same, *_judged(case, new, old, evidence))


def _judged(case: GateCase, new: Score, old: Score, evidence: Holdout) -> tuple[GateVerdict, ...]:
    """Gates on what the model is worth."""
    gates, rules = case.profile.gates, case.profile.decision.rules
    contest = PairedScores(new, old, evidence, case.bank, rules[0].enter if rules else DEFAULT_ENTER)
    # A champion without a bank to test it with needs no home: `robust` has none.
    reference = Mahalanobis.of(case.champion.manifest) if case.bank is not None else None
    bounds = gates.min_recall, gates.max_recall_loss
    verdicts = [
        judge_quality(contest, gates.min_gain),
        judge_recall(contest, reference, *bounds),
        judge_false_alarms(contest, case.profile.rollout.max_alarm_gain),
    ]
    if case.bank is not None and reference is not None:
        verdicts.append(judge_learnt(contest, case.bank, reference, *bounds))
    return tuple(verdicts)


def _again(case: GateCase) -> tuple[GateVerdict, Score | None]:
    """The candidate built anew from the gate's own rows, and scores that owe nothing to its graph."""
    manifest = case.candidate.manifest
    if manifest.lineage is None or manifest.training is None:
        return not_shown("rebuild", "the manifest does not say how it was trained"), None
    try:
        seed, major = manifest.training.seed, ModelVersion.parse(manifest.version).major
        again = build_candidate(
            case.profile, case.rows, case.champion, case.moved, manifest.lineage, seed, major, manifest.kind
        )
        if manifest.kind == "classifier":
            chosen = training_part(case.rows, case.profile)
            return judge_rebuild(case.candidate, again), train_classifier(
                chosen.rows, chosen.labels, seed
            ).score
    except DatasetError as exc:
        return not_shown("rebuild", f"cannot be built again: {exc}"), None
    return judge_rebuild(case.candidate, again), Mahalanobis.of(manifest).score


def _window(champion: BundleFiles) -> NDArray[np.float32]:
    """A window to measure with, shape (1, W, C)."""
    return golden_windows(champion.golden)[:1]

"""Gates on an imported model: the given file itself is the reference that its bundle is compared with.

A graph that reads features is judged on rows of the lake, as a first model is. One that reads raw windows is
judged on windows of the history's last part, which came with the import: the lake holds none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.choosing import plain_reference
from model_service.detectors.first_model import alarm_rule
from model_service.detectors.fitted_candidate import budget_of, enter_of, lake_history
from model_service.detectors.generic_bank import injected_windows
from model_service.detectors.imported_bundle import ImportedModel, build_imported, graph_scores
from model_service.detectors.imported_score import ImportedScore
from model_service.gates import first_model_gates
from model_service.gates.footprint import judge_latency
from model_service.gates.gate_inputs import GateInputs
from model_service.gates.holdout import holdout_of
from model_service.gates.origin import judge_rebuild
from model_service.gates.output_gates import judge_outputs, outputs_verdicts
from model_service.gates.parity import GOLDEN, PARITY, graph_outputs, judge_parity, largest_difference
from model_service.gates.score_gates import SCORE_RANGE, judge_score_range
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.factory_models import TOLERANCE
from model_service.models.features import logged_features
from model_service.models.golden import Feed, golden_outputs, golden_windows
from model_service.models.runtime import OrtGraph
from model_service.models.score_check import largest_excess, stretched_scores
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import part_of
from model_service.models.trial_effects import for_devices
from schemas.calendar_features import golden_ends
from schemas.errors import DatasetError
from schemas.model_version import ModelVersion
from schemas.score_range import ROUNDING

Array = NDArray[np.float64]
Windows = NDArray[np.floating]
WindowScore = Callable[[Windows], Array]


def judge_imported(inputs: GateInputs, given: ImportedModel, feed: Feed) -> tuple[GateVerdict, ...]:
    """All gates that run the graph."""
    version = inputs.candidate.manifest.version
    graph = OrtGraph(inputs.candidate.model, version)
    score = ImportedScore(given.graph, inputs.profile)
    latency = judge_latency(graph, graph, feed, inputs.profile.gates)
    kept = latency, _judge_rebuild(inputs, given), _judge_golden(inputs, score)
    if score.reads_window:
        return (*kept, *_judge_on_windows(inputs, graph, score, given.windows))
    return (*kept, *_judge_on_rows(inputs, score))


def _judge_rebuild(inputs: GateInputs, given: ImportedModel) -> GateVerdict:
    manifest = inputs.candidate.manifest
    if manifest.lineage is None or manifest.training is None:
        return not_shown("rebuild", "the manifest does not record how it was made")
    major, seed = ModelVersion.parse(manifest.version).major, manifest.training.seed
    try:
        history = lake_history(inputs.profile, part_of(inputs.rows, "train"))
        rebuilt = build_imported(inputs.profile, history, given, manifest.lineage, seed, major)
    except DatasetError as exc:
        return not_shown("rebuild", f"cannot be built again: {exc}")
    return judge_rebuild(inputs.candidate, for_devices(rebuilt, inputs.profile, inputs.effects))


def _judge_golden(inputs: GateInputs, score: ImportedScore) -> GateVerdict:
    """Golden vectors and the whole graph give what numpy and the given file compute."""
    windows = golden_windows(inputs.candidate.golden)
    ends = golden_ends(len(windows))
    wanted = np.column_stack([score.features(windows, ends), score.all_of_windows(windows, ends)])
    got = graph_outputs(inputs.candidate)
    allowed = TOLERANCE.absolute + TOLERANCE.relative * np.abs(wanted)
    stated = golden_outputs(inputs.candidate.golden)
    worst = max(largest_difference(have / allowed, wanted / allowed) for have in (got, stated))
    text = f"{len(windows)} golden windows: {worst:.2g} tolerances from what the given file computes"
    return GateVerdict(GOLDEN, worst <= 1.0, worst, 1.0, detail={"says": text, "windows": len(windows)})


def _judge_on_rows(inputs: GateInputs, score: ImportedScore) -> tuple[GateVerdict, ...]:
    profile, rows, bank = inputs.profile, inputs.rows, inputs.bank
    names, version = profile.feature_names, inputs.candidate.manifest.version
    stage = ScoreStage(inputs.candidate.model, len(names), version, profile.model.output_columns)
    ours = stage.score
    holdout = holdout_of(part_of(rows, "holdout"), names, inputs.cohorts)
    first = judge_score_range(inputs.candidate, ours, holdout, bank)
    parity = judge_parity(ours, score.of_features, holdout, bank, profile.gates.parity)
    outputs = judge_outputs(profile, stage.further, score.further, holdout, bank)
    if bank is None:
        return (first, parity, *outputs, not_shown("generic_recall", "the profile has no fault bank"))
    loss = profile.gates.max_recall_loss
    return (
        first,
        parity,
        *outputs,
        first_model_gates.judge_budget(ours, profile, rows),
        first_model_gates.judge_generic_recall(ours, profile, rows, bank, loss),
    )


def _judge_on_windows(
    inputs: GateInputs, graph: OrtGraph, score: ImportedScore, windows: NDArray[np.float32]
) -> tuple[GateVerdict, ...]:
    def ours(given: Windows) -> Array:
        # The windows' times are not kept; a graph that reads raw windows knows no calendar.
        return graph_scores(graph, inputs.profile, given, golden_ends(len(given)))[:, 0]

    faulty = [w for _, _, w in injected_windows(inputs.profile, windows.astype(np.float64), 0)]
    every = np.concatenate([windows, *(f.astype(np.float32) for f in faulty)])
    ends = golden_ends(len(every))
    whole, given = graph_scores(graph, inputs.profile, every, ends), score.all_of_windows(every, ends)
    scores, off = whole[:, 0], largest_difference(whole[:, 0], given[:, 0])
    bound = inputs.profile.gates.parity
    worst = largest_excess(np.concatenate([stretched_scores(inputs.candidate).astype(np.float64), scores]))
    return (
        GateVerdict(
            SCORE_RANGE,
            worst <= ROUNDING,
            worst,
            ROUNDING,
            detail={"says": f"scores lie at most {worst:.2g} outside [0, 1]; rounding allows {ROUNDING:g}"},
        ),
        GateVerdict(
            PARITY,
            off <= bound,
            off,
            bound,
            detail={"says": f"scores differ by at most {off:.2g} from the given file's; {bound:g} allowed"},
        ),
        *outputs_verdicts(inputs.profile, whole[:, 1:], given[:, 1:]),
        _judge_budget(inputs, ours(windows)),
        _judge_recall(inputs, ours, score, faulty),
    )


def _judge_budget(inputs: GateInputs, scores: Array) -> GateVerdict:
    """As ``first_model_gates.judge_budget``, on windows."""
    rule, enter = alarm_rule(inputs.profile, budget_of(inputs.profile)), enter_of(inputs.profile)
    alarms, days = rule.count([scores], enter), len(scores) / rule.windows_per_day
    return first_model_gates.budget_verdict(
        float(alarms), days, rule.per_device_day, "the history's last part"
    )


def _judge_recall(
    inputs: GateInputs, ours: WindowScore, score: ImportedScore, faulty: list[NDArray[np.float64]]
) -> GateVerdict:
    """As ``first_model_gates.judge_generic_recall``, with faults injected into windows."""
    profile, enter = inputs.profile, enter_of(inputs.profile)
    logged, rule = logged_features(profile), alarm_rule(profile, budget_of(profile))
    plain, limit = plain_reference(lake_history(profile, part_of(inputs.rows, "train")), logged, rule)
    found = float(np.mean([(np.nan_to_num(ours(f)) >= enter).mean() for f in faulty]))
    usual = float(
        np.mean(
            [
                (np.nan_to_num(plain.distance(score.features(f, golden_ends(len(f))))) >= limit).mean()
                for f in faulty
            ]
        )
    )
    return first_model_gates.recall_verdict(
        found, usual, profile.gates.max_recall_loss, {"origin": "generic"}
    )

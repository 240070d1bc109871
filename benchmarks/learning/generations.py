"""Fifty generations of the loop: what a model decides filters what is sent, and that trains the next model.

Each generation scores the windows of a fleet. The filter's rules on scores give each row its inclusion
probability, and what is sent adapts the model. The gates on scores compare it with its champion on newer
rows; what passes is the next champion. All arithmetic is the product's; windows are drawn anew from a pool of
simulated ones, and wear is the frozen bank's effect, growing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.learning.fleet_story import Array, Flags, FleetStory
from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores
from model_service.gates.quality import judge_quality
from model_service.gates.recall import judge_false_alarms, judge_learnt, judge_recall
from model_service.gates.unexplained_shift import Unexplained, judge_unexplained_shift
from model_service.models.adapt import RegimeRows, adapt
from model_service.models.mahalanobis import Mahalanobis, logarithms
from schemas.learning_policy import GatePolicy
from schemas.profile import Profile

GENERATIONS, WINDOWS = 50, 80
POOL_DEVICES, POOL_WINDOWS = 20, 60
RARE = 0.05
"""Share of healthy windows in a rare state of the machine: far out, and no fault."""
RARE_SHIFT = 3.0
"""How far out, in the first model's spreads."""
RARE_FEATURES = ("vibration_rms", "vibration_peak", "vibration_band_high", "current_mean")
"""What a short heavy load moves; bearing wear moves the first three as well."""
WORN_SHARE, LAST_SEVERITY = 0.8, 0.6
"""Share of the machines that wear, and how far they are worn in the last generation."""
WEAR = "bearing_wear"


@dataclass(slots=True)
class GenerationTrace:
    """Figures by generation.

    Attributes:
        recall: Of the frozen bank's faults in healthy windows, by the model in force.
        false_alarms: Share of healthy windows at or above the first rule's ``enter``.
        wear_score: Mean score of healthy windows with clear wear.
        learnt: How far the accepted baseline lies from the first model's along the wear's signature, in
            spreads.
        accepted: Whether the generation's candidate was accepted.
    """

    recall: list[float] = field(default_factory=list)
    false_alarms: list[float] = field(default_factory=list)
    wear_score: list[float] = field(default_factory=list)
    learnt: list[float] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)


def inclusion(scores: Array, profile: Profile) -> Array:
    """Inclusion probability of rows by the filter's rules on scores; the others are sampled at p."""
    policy = profile.filter
    ruled = np.zeros(scores.shape, dtype=bool)
    if policy.threshold is not None:
        ruled |= scores >= policy.threshold
    if policy.uncertain is not None:
        ruled |= (scores >= policy.uncertain[0]) & (scores < policy.uncertain[1])
    return np.where(ruled, 1.0, policy.p)


def generations(
    story: FleetStory,
    *,
    weighted: bool = True,
    gated: bool = True,
    wear: bool = False,
    moved: bool = False,
    bounded: bool = True,
    count: int = GENERATIONS,
) -> GenerationTrace:
    """The trace of a fleet.

    Args:
        story: Its features are the pool of healthy windows.
        weighted: Rows count by the inverse of their inclusion probability; False: alike.
        gated: Candidates must pass the gates on scores; False: each is accepted.
        wear: Most machines wear, more in each generation.
        moved: Every feature may move by any amount, as in a run that a person asks for; else as by the clock,
            with nothing that explains it.
        bounded: What nothing explains is added up and refused beyond its bound, as by the gate.
        count: Number of generations.
    """
    rng = np.random.default_rng(story.seed)
    first = Mahalanobis.of(story.first.manifest)
    model, trace = first, GenerationTrace()
    so_far = Unexplained.none(story.first.manifest.version, story.profile.feature_names, first)
    healthy_score = story.first.manifest.baselines["score"].mean
    probe = story.features.reshape(-1, story.features.shape[2])
    for generation in range(count):
        severity = LAST_SEVERITY * (generation + 1) / count if wear else 0.0
        sensed, newer = (_windows(story, first, rng, severity) for _ in range(2))
        candidate = _trained(sensed, model, healthy_score, story, rng, weighted=weighted, moved=moved)
        step = so_far if moved else so_far.after(model, candidate, None)
        kept = not (gated and bounded) or moved or judge_unexplained_shift(so_far, step, story.bank).passed
        passes = not gated or (
            kept and _passes(candidate, model, _held(newer, model, story, rng), story, asked=moved)
        )
        trace.accepted.append(passes)
        model, so_far = (candidate, step) if passes else (model, so_far)
        _note(trace, story, model, first, probe)
    return trace


def _windows(story: FleetStory, first: Mahalanobis, rng: np.random.Generator, severity: float) -> Array:
    """Windows of each device, shape (devices, n, F): some in a rare state, most machines worn."""
    devices, there, _ = story.features.shape
    at = rng.integers(0, there, size=(devices, WINDOWS))
    rows = np.take_along_axis(story.features, at[:, :, None], axis=1)
    rare = rng.random((devices, WINDOWS)) < RARE
    z = (logarithms(rows.reshape(-1, rows.shape[2]), first.logged) - first.mean) / first.std
    z = z.reshape(rows.shape)
    names = story.profile.feature_names
    for name in RARE_FEATURES:
        z[:, :, names.index(name)] += RARE_SHIFT * rare
    rows = first.unstandardised(z.reshape(-1, rows.shape[2])).reshape(rows.shape)
    return _worn(story, rows, severity, np.arange(devices) < WORN_SHARE * devices)


def _worn(story: FleetStory, rows: Array, severity: float, worn: Flags) -> Array:
    """The rows with the bank's wear, scaled from its clearest severity."""
    if not severity:
        return rows
    clearest = story.bank.severities(WEAR)[-1]
    members = story.bank.effects[WEAR][clearest] * (severity / clearest)
    effect = members[np.arange(rows.shape[1]) % len(members)][None]
    logged = story.bank.logged
    return np.where(worn[:, None, None], np.where(logged, rows * np.exp(effect), rows + effect), rows)


def _sent(
    rows: Array, model: Mahalanobis, profile: Profile, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Rows that the model's decisions let through, their inclusion probabilities and devices.

    Alarmed rows never train, so those at or above the first rule's ``enter`` are left out.
    """
    scores = model.score(rows.reshape(-1, rows.shape[2])).reshape(rows.shape[:2])
    pi = inclusion(scores, profile)
    device, at = np.nonzero((rng.random(pi.shape) < pi) & (scores < profile.decision.rules[0].enter))
    return rows[device, at], pi[device, at], device


def _trained(
    sensed: Array,
    model: Mahalanobis,
    healthy_score: float,
    story: FleetStory,
    rng: np.random.Generator,
    *,
    weighted: bool,
    moved: bool,
) -> Mahalanobis:
    rows, pi, device = _sent(sensed, model, story.profile, rng)
    names, number = np.unique(device, return_inverse=True)
    if len(names) < 2:
        return model
    weights = 1 / pi if weighted else np.ones(len(pi))
    chosen = RegimeRows(rows, weights, number, len(names))
    return adapt(model, chosen, np.full(rows.shape[1], moved), healthy_score)


def _held(newer: Array, model: Mahalanobis, story: FleetStory, rng: np.random.Generator) -> Holdout:
    """The holdout of the gates: what was sent of newer windows."""
    rows, pi, device = _sent(newer, model, story.profile, rng)
    none = HoldoutRows(rows[:0], pi[:0], device[:0])
    return Holdout(HoldoutRows(rows, 1 / pi, device), none, story.devices, {})


def _passes(
    candidate: Mahalanobis, champion: Mahalanobis, holdout: Holdout, story: FleetStory, *, asked: bool
) -> bool:
    """Whether the candidate passes all gates that judge scores."""
    gates: GatePolicy = story.profile.gates
    enter = story.profile.decision.rules[0].enter
    paired = PairedScores(candidate.score, champion.score, holdout, story.bank, enter)
    bounds = gates.min_recall, gates.max_recall_loss
    renewal_gain = 0.0 if asked else gates.min_renewal_gain
    judged: Sequence[Callable[[], bool]] = (
        lambda: judge_quality(paired, gates.min_gain, renewal_gain=renewal_gain).passed,
        lambda: judge_recall(paired, champion, *bounds).passed,
        lambda: judge_false_alarms(paired, story.profile.rollout.max_alarm_gain).passed,
        lambda: judge_learnt(paired, story.bank, champion, *bounds).passed,
    )
    return all(passed() for passed in judged)


def _note(
    trace: GenerationTrace, story: FleetStory, model: Mahalanobis, first: Mahalanobis, probe: Array
) -> None:
    enter, bank = story.profile.decision.rules[0].enter, story.bank
    found = [
        float((model.score(bank.inject(probe, kind, s)) >= enter).mean())
        for kind in bank.kinds
        for s in bank.severities(kind)
    ]
    clear = bank.inject(probe, WEAR, bank.severities(WEAR)[-1])
    trace.recall.append(float(np.mean(found)))
    trace.false_alarms.append(float((model.score(probe) >= enter).mean()))
    trace.wear_score.append(float(model.score(clear).mean()))
    signature = bank.signature(WEAR, first.std)
    trace.learnt.append(float(signature @ ((model.mean - first.mean) / first.std)))

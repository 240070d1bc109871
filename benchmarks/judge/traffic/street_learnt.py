"""The shipped model moved to a street's own healthy hours, as the loop moves it, on runs of other days.

A score decides no phase, so that the windows of a run can be scored anew; alarms are the profile's own rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.traffic.arms import SCENARIOS, TrafficJudge
from benchmarks.judge.traffic.street_judge import AFTERNOON, INCIDENTS, PROFILE, StreetRun, kept_rows
from edge_producer.bundle import load_bundle
from edge_producer.decider import Decider
from model_service.models.adapt import RegimeRows, adapt
from model_service.verticals.traffic.intersection_model import IntersectionModel
from schemas.profile_file import find_profile

Array = NDArray[np.float64]
Key = tuple[str, str, int]
"""Scenario, kind and seed of a run."""
SETTLED_S, APART_S = 300, 60
"""Rows are taken from that second on, so many seconds apart: their windows share no sample."""


def _features(rows: Array) -> Array:
    return rows[:, 2 : 2 + len(find_profile(PROFILE).feature_names)].astype(np.float64)


def street_model(judge: TrafficJudge, runs: Sequence[StreetRun], kind: str) -> IntersectionModel:
    """The shipped model, moved to healthy windows of runs of one network."""
    profile = find_profile(PROFILE)
    manifest = load_bundle(profile).manifest
    parts: dict[str, list[Array]] = {}
    for run in runs:
        if SCENARIOS[run.net][0] == kind:
            for name, rows in kept_rows(judge.net(run.net).folder, run).items():
                taken = (rows[:, 0] >= SETTLED_S) & (rows[:, 0] % APART_S < profile.sampling.hop_samples)
                parts.setdefault(name, []).append(_features(rows[taken]))
    features = [np.concatenate(each) for each in parts.values()]
    device = np.repeat(np.arange(len(features)), [len(each) for each in features])
    every = np.concatenate(features)
    known = np.isfinite(every).all(axis=1)
    given = RegimeRows(every[known], np.ones(int(known.sum())), device[known], len(features))
    moved = np.array([not name.startswith("calendar_") for name in profile.feature_names])
    return adapt(IntersectionModel.of(manifest), given, moved, manifest.baselines["score"].mean)


def rule_alarms(rows: Mapping[str, Array], model: IntersectionModel) -> list[tuple[str, int]]:
    """Signal and second of each alert of the profile's rules on a model's scores."""
    policy, found = find_profile(PROFILE).decision, []
    for name, each in rows.items():
        decider = Decider(policy)
        scores = model.score(_features(each))
        for second, score in zip(each[:, 0].tolist(), scores.tolist(), strict=True):
            given = None if np.isnan(score) else score
            if decider.decide(AFTERNOON + timedelta(seconds=second), given).alert:
                found.append((name, round(second)))
    return sorted(found, key=lambda alarm: alarm[1])


def measure_learnt(judge: TrafficJudge, path: Path, runs: Sequence[StreetRun]) -> None:
    """Alarms of the moved model in all runs but those that it was moved to, into a file."""
    local = [r for r in runs if r.what == "local"]
    first = min((r.seed for r in local), default=0)
    lines = []
    for kind in sorted({SCENARIOS[r.net][0] for r in local}):
        model = street_model(judge, [r for r in local if r.seed == first], kind)
        for run in runs:
            used = run.what == "local" and run.seed == first
            if SCENARIOS[run.net][0] == kind and run.what in ("local", *INCIDENTS) and not used:
                rows = kept_rows(judge.net(run.net).folder, run)
                lines.append([[run.net, run.what, run.seed], rule_alarms(rows, model)])
    path.write_text(json.dumps(lines))


def known_learnt(path: Path) -> dict[Key, list[tuple[str, int]]]:
    """What the file has, by run."""
    lines = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {(net, what, seed): [(n, s) for n, s in alarms] for (net, what, seed), alarms in lines}

"""A picture of one judged run: a rub begins, and what the fitted model says of each machine. As SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judge.machine.rig_fleets import JudgedFleet, judged_fleet
from benchmarks.judge.machine.rig_models import JudgedModel, judged_model
from model_service.models.score_stage import ScoreStage

CELL, SEED = "rub", 2
BEFORE_S, AFTER_S = 60, 120
_LEFT, _WIDTH, _HEIGHT, _GAP = 60, 620, 150, 40


def pictured_run(cache: Path) -> dict[str, Any]:
    """Vibration's middle band and the score around the onset, by machine and second."""
    fleet, model = judged_fleet(CELL, SEED, cache), judged_model("fitted", cache)
    names = model.profile.feature_names
    span = slice(fleet.at - BEFORE_S, fleet.at + AFTER_S)
    rows = fleet.features[:, span]
    scores = scores_of(fleet, "fitted", model)[:, span]
    return {
        "what": f"{CELL}, severity {fleet.severity:g}, {fleet.faulty[:, -1].sum()} of {len(rows)} machines",
        "hit": fleet.faulty[:, -1].tolist(),
        "band_mid": rows[:, :, names.index("vibration_band_mid")].round(4).tolist(),
        "score": scores.round(3).tolist(),
        "enter": model.profile.decision.rules[0].enter,
    }


def scores_of(fleet: JudgedFleet, arm: str, model: JudgedModel) -> np.ndarray:
    """Scores of a fleet by the model of an arm, shape (devices, windows)."""
    if arm == "factory":
        return fleet.factory
    manifest, rows = model.bundle.manifest, fleet.features
    stage = ScoreStage(model.bundle.model, len(manifest.features), manifest.version)
    return np.asarray(stage.score(rows.reshape(-1, rows.shape[2])).reshape(rows.shape[:2]))


def run_picture(run: dict[str, Any]) -> str:
    """The picture of stored numbers."""
    height = 2 * _HEIGHT + 2 * _GAP + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="14">{run["what"]}; grey: machines that it does not hit</text>',
    ]
    panels = (("vibration, 64 to 128 Hz, mm/s", "band_mid", None), ("score", "score", run["enter"]))
    for number, (title, name, line) in enumerate(panels):
        top = 30 + number * (_HEIGHT + _GAP)
        values = np.array(run[name])
        parts += _panel(title, values, run["hit"], top, line)
    return "".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, values: np.ndarray, hit: list[bool], top: int, line: float | None) -> list[str]:
    most = max(float(values.max()), line or 0.0) * 1.05
    step = _WIDTH / (values.shape[1] - 1)

    def y(value: float) -> float:
        return top + _HEIGHT * (1 - value / most)

    onset = _LEFT + BEFORE_S * step
    parts = [
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>',
        f'<line x1="{onset:.1f}" x2="{onset:.1f}" y1="{top}" y2="{top + _HEIGHT}" stroke="#c33"/>',
        f'<text x="{_LEFT}" y="{top + _HEIGHT + 14}">{title}; {BEFORE_S} s before the onset (red), and '
        f"{AFTER_S} s after it</text>",
        f'<text x="{_LEFT - 6}" y="{top + 8}" text-anchor="end">{most:.2g}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">0</text>',
    ]
    for row, faulty in sorted(zip(values, hit, strict=True), key=lambda item: item[1]):
        points = " ".join(f"{_LEFT + k * step:.1f},{y(float(v)):.1f}" for k, v in enumerate(row))
        colour = "#246" if faulty else "#aaa"
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="0.8"/>')
    if line is not None:
        at = y(line)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#3a7"/>')
        parts.append(
            f'<text x="{_LEFT + _WIDTH}" y="{at - 3:.1f}" text-anchor="end">an alarm may begin</text>'
        )
    return parts

"""Has MuJoCo judge reflexes: strikes, free moves, changes of payload; writes its figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure_page import replace_figures
from benchmarks.judge.judge_environment import python_of
from benchmarks.judge.robot.arm_models import JudgedArm, models
from benchmarks.judge.robot.arm_page import BEGIN, PICTURE, figures, run_picture
from benchmarks.judge.robot.arm_process import ArmProcess, ArmRun, arm_process
from benchmarks.judge.robot.lock_step import REACTIONS, move_freely, strike
from benchmarks.judge.robot.reflex_path import ReflexPath, open_actuator
from edge_producer.acting.resident_actuator import ResidentActuator

SPEEDS, PAYLOADS_KG, SEEDS = (0.5, 1.0, 1.5), (0.0, 0.6, 1.2), 2
FREE_SEEDS, FREE_S = 3, 30.0
STRUCK = (0.10, 0.70)
"""When the first move of the program begins, and how long it takes at the usual speed, s."""
CHANGE_EVERY = 2
"""Cycles between two changes of the payload."""
PICTURED = (1.0, 0.6, 0)
RESULTS, PAGE = Path(__file__).with_name("results.json"), "docs/verticals/robot.md"


def judge_robot(root: Path, given: argparse.Namespace) -> None:
    """Everything; a cell that an earlier run has measured by the same model is not measured again.

    Raises:
        JudgeUnavailableError: MuJoCo cannot be had here, or ends; or a profile does not fit the arm.
    """
    cache = root / "build" / "judge" / "robot"
    cache.mkdir(parents=True, exist_ok=True)
    if not given.measured:
        with arm_process(python_of("robot", root)) as arm, open_actuator() as actuator:
            for model in models(arm, cache, given.profile, given.bundle):
                missing = {k: m for k, m in _cells(arm, model, actuator) if not _file(cache, k).is_file()}
                for key, measure in list(missing.items())[: given.most]:
                    sys.stderr.write(f"{key}\n")
                    found = {**measure(), "load": round(os.getloadavg()[0], 1)}
                    _file(cache, key).write_text(json.dumps(found), encoding="utf-8")
    if not given.write:
        return
    stored = _measured(cache)
    RESULTS.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")
    write_page(root)


def write_page(root: Path) -> None:
    """The page's figures and picture, from the stored results alone."""
    stored = read_results()
    replace_figures(root / PAGE, BEGIN, figures(stored))
    if any(result["model"] for result in stored):
        (root / PAGE).with_name(PICTURE).write_text(run_picture(stored), encoding="utf-8")


def read_results() -> list[dict[str, Any]]:
    """What was measured last, as it is kept beside this module; empty: nothing was."""
    if not RESULTS.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def _measured(cache: Path) -> list[dict[str, Any]]:
    """What is in the cache, of each model the version that was measured last."""
    paths = sorted(cache.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    newest = {result["model"]: result["version"] for result in found}
    return [result for result in found if result["version"] == newest[result["model"]]]


def _file(cache: Path, key: str) -> Path:
    return cache / f"{key}.json"


def _cells(
    arm: ArmProcess, model: JudgedArm, actuator: ResidentActuator
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Key and measurement of each cell of a model; what needs none has one key for all of them."""
    path = ReflexPath(model.profile, model.predictor, model.columns, actuator)
    version = model.predictor.version
    for seed in range(max(SEEDS, FREE_SEEDS)):
        for speed, payload_kg, reaction in product(SPEEDS, PAYLOADS_KG, REACTIONS):
            by = "nobody" if REACTIONS[reaction] is None else f"{model.name}-{version}"
            key = f"strike-{by}-{reaction.replace(' ', '-')}-{speed:g}-{payload_kg:g}-{seed}"
            if seed < SEEDS:
                yield key, _strike(arm, model, path, reaction, (speed, payload_kg, seed))
        for changing in (False, True):
            key = f"free-{model.name}-{version}-{'changing' if changing else 'steady'}-{seed}"
            if seed < FREE_SEEDS:
                yield key, _free(arm, model, path, seed, changing=changing)


def _strike(
    arm: ArmProcess, model: JudgedArm, path: ReflexPath, reaction: str, cell: tuple[float, float, int]
) -> Callable[[], dict[str, Any]]:
    speed, payload_kg, seed = cell
    share = np.random.default_rng([seed, 14]).uniform(0.4, 0.65)
    run = ArmRun(seed, speed, payload_kg, (STRUCK[0] + share * (STRUCK[1])) / speed)

    def measure() -> dict[str, Any]:
        trip_s = REACTIONS[reaction]
        done = strike(arm, run, path, model.cut, trip_s)
        found = dict(done.found)
        trace = found.pop("trace")
        return {
            "what": "strike",
            "model": None if trip_s is None else model.name,
            "version": None if trip_s is None else model.predictor.version,
            "reaction": reaction,
            "speed": speed,
            "payload_kg": payload_kg,
            "seed": seed,
            "early": done.early,
            "decisions_ms": [round(1e3 * s, 3) for s in done.latencies],
            **found,
            **({"trace": trace} if cell == PICTURED else {}),
        }

    return measure


def _free(
    arm: ArmProcess, model: JudgedArm, path: ReflexPath, seed: int, *, changing: bool
) -> Callable[[], dict[str, Any]]:
    speed, payload_kg = SPEEDS[seed % len(SPEEDS)], PAYLOADS_KG[(seed + 1) % len(PAYLOADS_KG)]

    def measure() -> dict[str, Any]:
        cycle_s = arm.begin(ArmRun(100 + seed, speed, payload_kg))["cycle_s"]
        times = np.arange(CHANGE_EVERY * cycle_s, FREE_S - cycle_s, CHANGE_EVERY * cycle_s).tolist()
        changes = (
            tuple((at, PAYLOADS_KG[(n + 1 + seed) % 3]) for n, at in enumerate(times)) if changing else ()
        )
        run = ArmRun(100 + seed, speed, payload_kg, None, changes)
        done = move_freely(arm, run, path, model.cut, FREE_S)
        p50, p99 = np.quantile(done.latencies, [0.5, 0.99])
        return {
            "what": "changing" if changing else "steady",
            "model": model.name,
            "version": model.predictor.version,
            "speed": speed,
            "payload_kg": payload_kg,
            "seed": seed,
            "seconds": FREE_S,
            "changes": [at for at, _ in changes],
            "stops": [round(s, 3) for s in done.stops],
            "windows": done.windows,
            "decide_ms": [round(1e3 * float(p50), 4), round(1e3 * float(p99), 4)],
        }

    return measure

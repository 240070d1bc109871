"""What a device and the loop made of one judged fleet, as a line of a journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.machine.rig_fleets import JudgedFleet, judged_fleet
from benchmarks.judge.machine.rig_models import ANNOUNCED, JudgedModel, judged_model
from benchmarks.learning import fleet_outcome
from benchmarks.learning.simulated_loop import SimulatedLoop
from edge_producer.decider import Decider
from model_service.models.score_stage import ScoreStage

Array = NDArray[np.float64]
SETTLED = 5
"""First windows of a life that are not counted."""


class JudgedOutcome(NamedTuple):
    """A fleet under one arm.

    Attributes:
        arm: Of ``rig_models.ARMS``.
        at: Second of the change; -1: none.
        healthy_windows: Of all machines before any change, and of those that no change hits.
        false_alarms: Alarms that began in them.
        hit: Machines that the fault hits.
        already: Those of them that were in alarm as it began: they show nothing.
        delays: Seconds from the onset to the first action in force, one of each machine that had one.
        changed_windows: After a harmless change, of all machines that it hits.
        changed_alarms: Alarms that began in them, with the first model in force all the time.
        verdicts: Of the drift watch.
        runs: Each run's state, cause and detail.
        built: Seconds at which a candidate was made.
        signed: Those of candidates that passed all gates: the fleet is retrained without a person.
        refused: What the gates said of each other one.
    """

    arm: str
    cell: str
    seed: int
    severity: float
    ramp_s: float
    at: int
    healthy_windows: int
    false_alarms: int
    hit: int
    already: int
    delays: list[int]
    changed_windows: int
    changed_alarms: int
    verdicts: int
    runs: list[list[str]]
    built: list[int]
    signed: list[int]
    refused: list[str]

    @property
    def learnt(self) -> bool:
        """Whether a model was signed after the change, without a person."""
        return any(second > self.at for second in self.signed)

    @property
    def tried(self) -> bool:
        """Whether a candidate was made after the change, signed or not."""
        return any(second > self.at for second in self.built)


def judged_outcome(fleet: JudgedFleet, arm: str, model: JudgedModel) -> JudgedOutcome:
    """The fleet's machines with the model, and its loop that begins with it."""
    flat = fleet.features.reshape(-1, fleet.features.shape[2])
    manifest = model.bundle.manifest
    stage = ScoreStage(model.bundle.model, len(manifest.features), manifest.version)
    scores = fleet.factory if arm == "factory" else stage.score(flat).reshape(fleet.faulty.shape)
    story = fleet.story(model.profile, model.bundle, model.bank, announced=arm in ANNOUNCED)
    acting, alarms = _decided(scores, model, story.end)
    history = SimulatedLoop(story).run()
    return JudgedOutcome(
        arm, fleet.cell, fleet.seed, fleet.severity, fleet.ramp_s, fleet.at,
        **_seen(fleet, acting, alarms),
        verdicts=history.verdicts,
        runs=[[str(r.state), r.finding.kind if r.finding else "-", r.detail or ""] for r in history.runs],
        built=history.built, signed=history.signed, refused=history.refused,
    )  # fmt: skip


def _decided(scores: Array, model: JudgedModel, end: Callable[[int], Any]) -> tuple[NDArray[np.bool_], ...]:
    """Windows with an action in force, and those with an alarm, shape (devices, windows)."""
    acting, alarms = np.zeros(scores.shape, dtype=bool), np.zeros(scores.shape, dtype=bool)
    policy = model.profile.decision
    for d, row in enumerate(scores):
        decider = Decider(policy)
        for k, score in enumerate(row):
            decision = decider.decide(end(k), float(score))
            acting[d, k], alarms[d, k] = decision.action != policy.idle, decision.alert
    return acting, alarms


def _seen(fleet: JudgedFleet, acting: NDArray[np.bool_], alarms: NDArray[np.bool_]) -> dict[str, Any]:
    whole = np.zeros(acting.shape, dtype=bool)
    whole[:, SETTLED:] = True
    before = whole.copy()
    if fleet.at >= 0:
        before[:, fleet.at :] = False
    is_fault = bool(fleet.faulty.any())
    untouched = ~fleet.faulty.any(axis=1) if is_fault else np.zeros(len(acting), dtype=bool)
    healthy = before | (whole & untouched[:, None])
    changed = whole & ~before if fleet.at >= 0 and not is_fault else np.zeros_like(whole)
    hit = np.flatnonzero(fleet.faulty.any(axis=1))
    already = [d for d in hit if acting[d, max(fleet.at - 1, 0)]]
    delays = []
    for d in hit:
        since = np.flatnonzero(acting[d, fleet.at :])
        if d not in already and len(since):
            delays.append(int(since[0]) + 1)
    return {
        "healthy_windows": int(healthy.sum()), "false_alarms": int((alarms & healthy).sum()),
        "hit": len(hit), "already": len(already), "delays": delays,
        "changed_windows": int(changed.sum()), "changed_alarms": int((alarms & changed).sum()),
    }  # fmt: skip


def journalled(
    cache: Path,
    wanted: Iterable[tuple[str, str, int]],
    told: Callable[[str], None],
    *,
    known_only: bool = False,
) -> list[JudgedOutcome]:
    """Outcomes of arm, cell and seed; those of the journal are read, the others made and added to it.

    Args:
        cache: Folder of rotors, fleets and journal.
        wanted: What is asked for.
        told: Told each that is made.
        known_only: Leave out what the journal does not hold.
    """
    journal, code, known = cache / "outcomes.jsonl", code_of(), {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        raw = json.loads(line)
        if raw.pop("code") == code:
            known[raw["arm"], raw["cell"], raw["seed"]] = JudgedOutcome(**raw)
    found = []
    for arm, cell, seed in wanted:
        if (arm, cell, seed) not in known:
            if known_only:
                continue
            told(f"{arm}: {cell} #{seed}")
            made = judged_outcome(judged_fleet(cell, seed, cache), arm, judged_model(arm, cache))
            known[arm, cell, seed] = made
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(made._asdict() | {"code": code}) + "\n")
        found.append(known[arm, cell, seed])
    return found


def code_of() -> str:
    """Version of all code that an outcome depends on."""
    digest = hashlib.sha256(fleet_outcome._code().encode())
    for name in ("rig_playback", "rig_recordings", "rig_fleets", "rig_models", "machine_outcome"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]

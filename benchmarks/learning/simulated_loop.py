"""The loop from drift to signed model in simulated time, made of the product's own parts.

The drift watch judges the windows (``CohortJudge``), the trainer's rules start and examine runs, its query
selects the rows, ``build_candidate`` makes the bundle, and all gates evaluate it. Left out is what takes no
decision: broker, disk, registry and keys; and the rollout's own judge, in whose place its time passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from benchmarks.learning.fleet_story import FleetStory
from benchmarks.learning.memory_lake import MemoryLake
from benchmarks.learning.sensed_periods import SensedPeriod, SensingFleet
from model_service.detectors.kinds import detector_of
from model_service.gates.drift_proof import DriftProof, proof_of
from model_service.gates.evaluate import evaluate, refusal
from model_service.gates.gate_inputs import GateInputs
from model_service.gates.verdict import GateVerdict
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.models.mahalanobis import Array
from model_service.models.score_stage import ScoreStage
from model_service.training.announced_change import AnnouncedChange
from model_service.training.datasets import Dataset, dataset_of, newest_row, select_rows
from model_service.training.examine import (
    Examination,
    after_examination,
    examine,
    finding_of,
    has_one_cause,
    has_waited,
    may_build,
    while_collecting,
)
from model_service.training.lineage import lineage_of, stored_selection
from model_service.training.run_states import RunState
from model_service.training.training_run import TRAINER, DriftFinding, RunReason, TrainingPlan, TrainingRun
from model_service.training.trigger import (
    ExtendRun,
    StartRun,
    VerdictSummary,
    next_open,
    on_refusal,
    on_release,
    on_verdicts,
)
from schemas.profile import Profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.windows import CohortScope

Score = Callable[[Array], Array]
_MOST_STEPS = 8


@dataclass(frozen=True, slots=True, eq=False)
class ModelInForce:
    """A model, from the first window that it scores.

    Attributes:
        score: Scores rows of features (n, F).
    """

    first: int
    version: str
    score: Score


@dataclass(slots=True, eq=False)
class LoopHistory:
    """What the loop did in a fleet's life.

    Attributes:
        models: In force one after the other.
        runs: In the order in which they were started, as they ended.
        verdicts: Number of drift verdicts.
        refused: What the gates said of each refused candidate.
        signed: Window at which each candidate that passed was signed.
        built: Windows at which a candidate was made.
    """

    models: list[ModelInForce]
    runs: list[TrainingRun] = field(default_factory=list)
    verdicts: int = 0
    refused: list[str] = field(default_factory=list)
    signed: list[int] = field(default_factory=list)
    built: list[int] = field(default_factory=list)


class SimulatedLoop:
    """One fleet, its drift watch, its trainer and its gates.

    Args:
        story: What happens to the fleet.
        gates: Evaluate a candidate.
    """

    def __init__(
        self, story: FleetStory, gates: Callable[[GateInputs], tuple[GateVerdict, ...]] = evaluate
    ) -> None:
        self._story, self._gates = story, gates
        self._lake = MemoryLake(story.profile)
        self._fleet = SensingFleet(story, self._lake)
        self._watch = CohortJudge(CohortScope(story.profile.name, story.cohort), story.profile, {})
        self._verdicts: dict[str, VerdictSummary] = {}
        self._champion = story.first
        self._installed = _in_force(story.first, 0)
        self._on_the_way: list[ModelInForce] = []
        self._major, self._step, self._period = 1, 0, (0, 0)
        self._refused_rows = 0.0
        self.history = LoopHistory([self._installed])

    def run(self) -> LoopHistory:
        """The fleet's whole life."""
        for first, end in self._fleet.periods():
            while self._on_the_way and self._on_the_way[0].first <= first:
                self._installed = self._on_the_way.pop(0)
            self._step, self._period = self._step + 1, (first, end)
            story = self._story
            block = story.features[:, first:end]
            scores = self._installed.score(block.reshape(-1, block.shape[2])).reshape(block.shape[:2])
            seen = self._fleet.sense(first, end, scores, self._installed.version)
            self._watched(seen)
            self._renew(seen.known_at)
            self._work(seen.known_at)
        return self.history

    def _watched(self, seen: SensedPeriod) -> None:
        """Let the drift watch judge the window, and the trainer's trigger its verdicts."""
        found = []
        for verdict in self._watch.window(seen.window, seen.shares):
            event_id = f"task-00/{self._step}/{len(found)}"
            found.append(
                VerdictSummary(
                    event_id, verdict["cohort"], verdict["kind"], verdict["onset"], verdict["detected"]
                )
            )
        self._verdicts |= {v.event_id: v for v in found}
        self.history.verdicts += len(found)
        for action in on_verdicts(self._story.profile, found, self.history.runs):
            if isinstance(action, StartRun):
                self._start(action, seen.known_at)
            else:
                self._extend(action, seen.known_at)

    def _renew(self, now: datetime) -> None:
        """Another run on a change that was learnt from little, as the scheduler starts it."""
        lineage = self._champion.manifest.lineage
        made = next((r for r in self.history.runs if lineage and r.run_id == lineage.run_id), None)
        if lineage is None or made is None:
            return
        runs = self.history.runs
        start = on_release(self._story.profile, runs, made, lineage.effective_rows, now)
        if start is not None:
            self._start(start, now)

    def _start(self, start: StartRun, now: datetime) -> None:
        number = len(self.history.runs)
        profile = self._story.profile
        run = TrainingRun(
            run_id=f"run-{number}", family=profile.model.family, profile=profile.name,
            state=RunState.EXAMINING, reason=RunReason.DRIFT, requested_by=TRAINER, created_at=now,
            updated_at=now, verdicts=start.verdicts, need=start.need if start.retry_of else None,
            onset=start.onset, seed=number,
        )  # fmt: skip
        self.history.runs.append(run)

    def _extend(self, action: ExtendRun, now: datetime) -> None:
        more = action.run.with_verdicts(action.verdicts)
        after = replace(more.to(RunState.EXAMINING), updated_at=now) if action.reopen else more
        self._save(action.run, after)

    def _save(self, before: TrainingRun, after: TrainingRun) -> None:
        self.history.runs[self.history.runs.index(before)] = after

    def _work(self, now: datetime) -> None:
        """Take the open run as far as it can go in what is known by now."""
        for _ in range(_MOST_STEPS):
            run = next_open(self._story.profile, self.history.runs, now)
            if run is None:
                return
            after = self._examined(run, now) if run.state is RunState.EXAMINING else self._collected(run, now)
            if after is None:
                return
            self._save(run, replace(after, updated_at=now))
            if after.state is RunState.TRAINED:
                self._follow_up(after.run_id, now)

    def _examined(self, run: TrainingRun, now: datetime) -> TrainingRun | None:
        profile = self._story.profile
        found = self._examination(run, now)
        waited = has_waited(run, found, profile, now)
        return after_examination(run, found, profile, waited=waited, untaught="", held="")

    def _examination(self, run: TrainingRun, now: datetime) -> Examination:
        kinds = [self._verdicts[v].kind for v in run.verdicts]
        cohorts = sorted({self._verdicts[v].cohort for v in run.verdicts})
        return examine(
            self._lake.read(),
            self._story.profile,
            self._champion.manifest,
            run.onset or now,
            now,
            cohorts,
            kinds,
            self._announced(cohorts, run.onset or now),
        )

    def _announced(self, cohorts: Sequence[str], onset: datetime) -> AnnouncedChange | None:
        given, window = self._story.announced, timedelta(seconds=self._story.profile.drift.window_s)
        return given if given is not None and given.covers(cohorts, onset, window) else None

    def _collected(self, run: TrainingRun, now: datetime) -> TrainingRun | None:
        """The run once its candidate was made, or ended; None: it waits for rows."""
        profile, connection = self._story.profile, self._lake.read()
        found = self._examination(run, now)
        if (ended := while_collecting(run, found, profile)) is not None:
            return ended
        if not may_build(run, found):
            return self._wait(run, now, "it is less clear than it was")
        finding = finding_of(found)
        selection = select_rows(
            profile,
            run,
            now,
            excluded_devices=finding.faulty,
            regime=found.regime,
            newest=newest_row(connection, profile),
        )
        dataset = dataset_of(connection, run, selection, self._champion.manifest, ())
        if lacks := dataset.lacks(profile, run.need or 0.0):
            return self._wait(run, now, lacks)
        proof = proof_of(found.cause, self._champion.manifest, run.onset or now, self._story.announced)
        return self._built(run, dataset, finding, proof, now)

    def _wait(self, run: TrainingRun, now: datetime, lacks: str) -> TrainingRun | None:
        if now - run.updated_at < timedelta(seconds=self._story.profile.training.max_wait_s):
            return None
        return run.to(RunState.FAILED, detail=lacks)

    def _built(
        self, run: TrainingRun, dataset: Dataset, finding: DriftFinding, proof: DriftProof, now: datetime
    ) -> TrainingRun:
        """Make the candidate, have it judged, and send it on its way if it passes."""
        story, before, moved = self._story, self._champion, finding.moved
        one_cause = has_one_cause(finding, story.profile)
        plan = TrainingPlan(
            selection=stored_selection(dataset.selection), moved=moved, model_kind=dataset.kind,
            one_cause=one_cause,
        )  # fmt: skip
        planned = replace(run, plan=plan, cut=self._step, pin=f"run-{run.run_id}", kind=dataset.kind)
        training_set, version = dataset.training_set, before.manifest.version
        lineage = lineage_of(planned, dataset.selection, training_set, run.verdicts, version)
        made = build_candidate(
            story.profile, training_set.rows, before, moved, lineage, run.seed, self._major, dataset.kind,
            detector_of, one_cause=one_cause,
        )  # fmt: skip
        self.history.built.append(self._period[1])
        expected = {
            "run_id": run.run_id, "cut": planned.cut, "pin": planned.pin,
            "known_at": dataset.selection.known_at, "champion": version,
        }  # fmt: skip
        inputs = GateInputs(
            unhurried(story.profile), made, before, training_set.rows, moved, expected,
            dict.fromkeys(story.devices, story.cohort), story.bank,
            proven=proof.proven, announced=proof.announced, shown=proof.shown,
            unlearnt=proof.unlearnt, one_cause=one_cause,
        )  # fmt: skip
        verdicts = self._gates(inputs)
        why = refusal(verdicts)
        if why:
            self.history.refused.append(why)
        else:
            self._publish(made)
        self._refused_rows = training_set.effective_rows if why else 0.0
        building = planned.to(RunState.BUILDING)
        return building.to(RunState.TRAINED, version=made.manifest.version, detail=why)

    def _publish(self, made: BundleFiles) -> None:
        arrives = self._period[1] + self._story.rollout_windows
        self._champion, self._major = made, self._major + 1
        self.history.signed.append(self._period[1])
        model = _in_force(made, arrives)
        self._on_the_way.append(model)
        self.history.models.append(model)

    def _follow_up(self, run_id: str, now: datetime) -> None:
        """A retry where the gates refused the run's candidate, as the scheduler starts it."""
        if not self._refused_rows:
            return
        runs = self.history.runs
        refused = next(r for r in runs if r.run_id == run_id)
        start = on_refusal(self._story.profile, runs, refused, self._refused_rows)
        if start is not None:
            self._start(start, now)


def unhurried(profile: Profile) -> Profile:
    """The profile with room for the times that a busy machine measures: they say nothing of a model here."""
    gates = profile.gates.model_copy(update={"max_latency_ms": 1e4, "max_latency_ratio": 1e3})
    return profile.model_copy(update={"gates": gates})


def _in_force(bundle: BundleFiles, first: int) -> ModelInForce:
    manifest = bundle.manifest
    stage = ScoreStage(bundle.model, len(manifest.features), manifest.version)
    return ModelInForce(first, manifest.version, stage.score)

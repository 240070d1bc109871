"""Works on training runs step by step; each step can be done again after a crash, with the same bytes.

``requested`` or ``examining`` -> ``collecting`` -> ``building`` -> ``trained``; the ways out are
``declined``, ``waiting`` (for a person) and ``failed``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

from feature_store import connect, duck
from feature_store.append import append, finish
from feature_store.cut import Cut
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.point_in_time import TrainingSet, training_rows
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.registry import candidates
from model_service.registry.bundle_store import bundle_of_version, factory_bundle_of, store_artifact
from model_service.registry.candidates import Candidate, candidate_of, champion_version, next_major
from model_service.registry.database import Registry, note
from model_service.settings import ModelSettings
from model_service.training.datasets import Dataset, all_features, newest_row, question, take
from model_service.training.examine import Examination, examine
from model_service.training.lineage import lineage_of, lineage_rows, question_of, wanted_of
from model_service.training.proposing import Proposer
from model_service.training.run_store import save
from model_service.training.training_run import (
    DriftFinding,
    RunReason,
    RunState,
    TrainingPlan,
    TrainingRun,
)
from model_service.training.verdict_reading import verdicts_of
from schemas.errors import DatasetError, OperatorError, RejectedError
from schemas.manifest import Manifest
from schemas.profile import Profile
from schemas.tables import TRAINING_SETS

log = logging.getLogger(__name__)

DEGRADATION = "degradation"
TASK = "training"
"""Task under which the rows of training sets are committed to the lake."""


class Trainer:
    """Takes runs from state to state.

    Args:
        settings: Folders.
        registry: Where the runs are.
        lake: What they train on.
    """

    def __init__(self, settings: ModelSettings, registry: Registry, lake: Lake) -> None:
        self._settings = settings
        self._registry = registry
        self._lake = lake
        self._cuts = CutStore(lake)
        self._proposer = Proposer(settings)
        self._looked: dict[str, int] = {}
        lake.ensure_table(TRAINING_SETS)
        self._steps: Mapping[RunState, Callable[[TrainingRun, Profile, datetime], bool]] = {
            RunState.REQUESTED: self._accept,
            RunState.EXAMINING: self._examine,
            RunState.COLLECTING: self._collect,
            RunState.BUILDING: self._build,
        }

    def step(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """Do what the run's state asks for.

        Returns:
            False: nothing to do before there is more data.

        Raises:
            RetryableError: Lake or registry do not answer.
        """
        try:
            return self._steps[run.state](run, profile, now)
        except (RejectedError, OperatorError) as exc:
            log.warning("run %s failed: %s", run.run_id, exc)
            self._fail(run, f"{type(exc).__name__}: {exc}", now)
            return True

    def propose_again(self) -> None:
        """Keep the proposals of candidates that are on their way alive."""
        with self._registry.reading() as connection:
            self._proposer.propose_again(connection)

    def _accept(self, run: TrainingRun, _profile: Profile, now: datetime) -> bool:
        """A person asked: the onset comes from the verdicts that the request names, if any."""
        accepted = run.to(RunState.COLLECTING)
        if run.onset is None and run.verdicts:
            with closing(connect(self._lake.root)) as con:
                onsets = [v.onset for v in verdicts_of(con, run.verdicts)]
            if onsets:
                accepted = run.to(RunState.COLLECTING, onset=min(onsets))
        return self._save(run, accepted, now, "run_accepted", {"by": run.requested_by})

    def _examine(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return False
        found = self._look(run, profile, cut)
        cause = found.cause
        waited = now - run.updated_at >= timedelta(seconds=profile.training.max_wait_s)
        if not cause.enough and not waited:
            return False
        state, finding = _verdict_on(found, profile), _finding(found)
        if state is RunState.WAITING and run.finding is not None and run.finding.kind == DEGRADATION:
            # Wear in the last look: that it is less clear in this one is no question for a person.
            state, finding = RunState.DECLINED, run.finding
        log.info("run %s is a %s: %s", run.run_id, cause.kind, cause.text)
        detail = {"cause": cause.kind, "cut": cut.id, **_rounded(cause.evidence), "says": cause.text}
        examined = run.to(state, finding=finding, detail=cause.text)
        return self._save(run, examined, now, f"run_{state}", detail, again=cut.id)

    def _collect(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """Until there are enough rows; then pin what they are read from."""
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return self._give_up(run, profile, now, "no new rows")
        champion, finding, found = self._champion(run.family), run.finding, None
        if run.onset is not None:
            found = self._look(run, profile, cut)
            finding = _finding(found)
            if not found.cause.retrain and found.cause.enough and not run.by_person:
                state = _verdict_on(found, profile)
                detail = {"cause": finding.kind, "cut": cut.id, "says": finding.says}
                ended = run.to(state, finding=finding, detail=finding.says)
                return self._save(run, ended, now, f"run_{state}", detail, again=cut.id)
        with closing(connect(self._lake.root, cut.id)) as con:
            wanted = question(
                profile,
                run,
                cut.created,
                without=finding.faulty if finding else (),
                regime=found.regime if found else None,
                newest=newest_row(con, profile),
            )
            dataset = take(con, run, wanted, champion.manifest.kind)
        if lacks := dataset.lacks(profile, run.need or 0.0):
            return self._give_up(run, profile, now, lacks)
        return self._pin(run, profile, cut, dataset, finding, champion, now)

    def _pin(
        self,
        run: TrainingRun,
        profile: Profile,
        cut: Cut,
        dataset: Dataset,
        finding: DriftFinding | None,
        champion: BundleFiles,
        now: datetime,
    ) -> bool:
        # Step 1: a pin that nobody names yet; a crash leaves the same pin to be set again.
        pin = f"run-{run.run_id}"
        self._cuts.pin(pin, cut.id)
        # Step 2: all that the bytes follow from, in one row.
        asked_freely = all_features(profile) if run.reason is RunReason.PERSON else ()
        plan = TrainingPlan(
            wanted=question_of(dataset.wanted),
            moved=(finding.moved if finding else ()) or asked_freely,
            model_kind=dataset.kind,
            champion=champion.manifest.version,
            verdicts=run.verdicts,
            excluded=dataset.taken.excluded,
            facts=dataset.taken.facts,
        )
        detail = {
            "cut": cut.id, "rows": dataset.taken.rows.num_rows, "kind": dataset.kind,
            "effective_rows": round(dataset.taken.effective_rows, 1),
        }  # fmt: skip
        planned = replace(run, finding=finding, plan=plan, cut=cut.id, pin=pin, kind=dataset.kind)
        return self._save(run, planned.to(RunState.BUILDING), now, "run_building", detail)

    def _build(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """From the pinned cut to a proposed candidate. The same bytes, however often it is begun."""
        if (plan := run.plan) is None:
            raise DatasetError(f"run {run.run_id} does not say what to build from")
        with self._registry.reading() as connection:
            champion = bundle_of_version(connection, self._settings.artifacts, run.family, plan.champion)
            major = next_major(connection, run.family)
        wanted = wanted_of(profile, plan.wanted)
        with closing(connect(self._lake.root, run.pin)) as con:
            taken = training_rows(con, wanted)
        lineage = lineage_of(run, wanted, taken, plan.verdicts, champion.manifest.version)
        bundle = build_candidate(
            profile, taken.rows, champion, plan.moved, lineage, run.seed, major, plan.model_kind
        )
        # Step 3: bytes under their digest; a crash leaves them, and the redo finds them there.
        sha256, length = store_artifact(self._settings.artifacts, bundle)
        # Step 4: which rows trained it, once: a redo sees them in the newest cut.
        self._write_lineage(run, bundle.manifest.version, taken, now)
        # Step 5: signed with the trainer's key; worth nothing before the gate signs, too.
        self._proposer.propose(bundle.manifest, sha256)
        # Step 6: from here on the gate sees it.
        candidate = candidate_of(
            bundle.manifest, run_id=run.run_id, champion=plan.champion, sha256=sha256, length=length,
            now=now.timestamp(),
        )  # fmt: skip
        return self._hand_over(run, candidate, bundle.manifest, now)

    def _hand_over(self, run: TrainingRun, candidate: Candidate, manifest: Manifest, now: datetime) -> bool:
        version, at = candidate.version, now.timestamp()
        detail = {
            "run": run.run_id, "sha256": candidate.sha256, "bytes": candidate.length,
            "champion": candidate.champion,
        }  # fmt: skip
        with self._registry.transaction() as connection:
            saved = save(connection, run, run.to(RunState.TRAINED, version=version), now)
            if saved:
                candidates.insert(connection, candidate, manifest)
                note(connection, f"model/{version}/trained", version, "model_trained", detail, at)
                done = {"version": version}
                note(connection, f"run/{run.run_id}/trained", run.run_id, "run_trained", done, at)
        log.info("run %s made %s", run.run_id, version)
        return saved

    def _write_lineage(self, run: TrainingRun, version: str, taken: TrainingSet, now: datetime) -> None:
        finish(self._lake, self._cuts, TASK)
        with closing(connect(self._lake.root)) as con:
            known = duck.query(
                con,
                f"SELECT count(*) AS n FROM training_sets WHERE run_id = {duck.text(run.run_id)}",  # noqa: S608  (quoted)
            )
        if known.column("n")[0].as_py() == 0:
            append(
                self._lake, self._cuts, TASK,
                lambda n: {TRAINING_SETS.name: lineage_rows(run, version, taken, now, n)},
            )  # fmt: skip

    def _look(self, run: TrainingRun, profile: Profile, cut: Cut) -> Examination:
        champion = self._champion(run.family).manifest
        with closing(connect(self._lake.root, cut.id)) as con:
            said = verdicts_of(con, run.verdicts)
            cohorts, kinds = sorted({v.cohort for v in said}), [v.kind for v in said]
            onset = run.onset or cut.created
            return examine(con, profile, champion, onset, cut.created, cohorts, kinds)

    def _champion(self, family: str) -> BundleFiles:
        """The model in force: the newest that went out, or the factory's."""
        with self._registry.reading() as connection:
            version = champion_version(connection, family)
            if version is not None:
                return bundle_of_version(connection, self._settings.artifacts, family, version)
        return factory_bundle_of(family)

    def _new_cut(self, run: TrainingRun, profile: Profile, now: datetime) -> Cut | None:
        """The newest cut, unless the run was looked at in it already and may still wait for another."""
        cut = self._cuts.latest()
        waited = now - run.updated_at >= timedelta(seconds=profile.training.max_wait_s)
        key = f"{run.run_id}/{run.state}"
        if cut is None or (self._looked.get(key) == cut.id and not waited):
            return None
        self._looked[key] = cut.id
        return cut

    def _give_up(self, run: TrainingRun, profile: Profile, now: datetime, lacks: str) -> bool:
        if now - run.updated_at < timedelta(seconds=profile.training.max_wait_s):
            return False
        text = f"after {profile.training.max_wait_s:.0f} s still too little to train on: {lacks}"
        return self._fail(run, text, now)

    def _fail(self, run: TrainingRun, text: str, now: datetime) -> bool:
        if run.pin is not None and run.pin in self._cuts.pins():
            self._cuts.unpin(run.pin)
        return self._save(run, run.to(RunState.FAILED, detail=text), now, "run_failed", {"says": text})

    def _save(
        self,
        before: TrainingRun,
        after: TrainingRun,
        now: datetime,
        step: str,
        said: Mapping[str, object],
        again: int = 0,
    ) -> bool:
        """Change the run and say so, both or neither."""
        event_id = f"run/{before.run_id}/{step}" + (f"/{again}" if again else "")
        with self._registry.transaction() as connection:
            saved = save(connection, before, after, now)
            if saved:
                note(connection, event_id, before.run_id, step, said, now.timestamp())
        return saved


def _verdict_on(found: Examination, profile: Profile) -> RunState:
    """The state that a run goes to after a look at its cause."""
    if found.cause.kind == "unclear":
        return RunState.WAITING
    if not found.cause.retrain:
        return RunState.DECLINED
    return RunState.COLLECTING if profile.training.auto else RunState.WAITING


def _finding(found: Examination) -> DriftFinding:
    cause = found.cause
    return DriftFinding(
        kind=cause.kind,
        retrain=cause.retrain,
        says=cause.text,
        evidence=cause.evidence,
        moved=cause.moved,
        faulty=cause.faulty,
    )


def _rounded(evidence: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in evidence.items()}

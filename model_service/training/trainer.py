"""Works on training runs step by step; a step can be repeated after a crash and gives the same bytes.

The states and their order are in `training_run`. The durable steps from the pin to the candidate are numbered
in comments.
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
from feature_store.point_in_time import TrainingSet, tables_read, training_rows
from model_service.detectors.bank_store import device_bank, fitted_families
from model_service.models.bundle_files import BundleFiles
from model_service.registry import candidates
from model_service.registry.bundle_store import (
    bundle_of_version,
    learnable_families,
    starting_bundle_of,
    store_artifact,
)
from model_service.registry.candidates import Candidate, candidate_of, champion_version, next_major
from model_service.registry.database import Registry, note
from model_service.settings import ModelSettings
from model_service.training.announcements import announced_for
from model_service.training.building import candidate_bundle, chosen_by, starts_over, waits_for_a_person
from model_service.training.datasets import (
    Dataset,
    all_features,
    dataset_of,
    first_dataset,
    newest_row,
    select_rows,
)
from model_service.training.examine import (
    Examination,
    after_examination,
    examine,
    finding_of,
    has_one_cause,
    has_waited,
    may_build,
    regime_of,
    while_collecting,
)
from model_service.training.lineage import lineage_of, lineage_rows, selection_of, stored_selection
from model_service.training.proposing import Proposer
from model_service.training.run_states import RunState
from model_service.training.run_store import get, in_states, save
from model_service.training.training_run import DriftFinding, RunReason, TrainingPlan, TrainingRun
from model_service.training.trigger import nothing_to_learn
from model_service.training.verdict_reading import verdicts_of
from schemas.errors import DatasetError, OperatorError, RejectedError, RetryableError, TaskLostError
from schemas.manifest import Manifest
from schemas.profile import Profile
from schemas.tables import TRAINING_SETS

log = logging.getLogger(__name__)

LACKS = "waits for rows; it has "
"""How the detail of a run begins that collects rows."""
UNCLEAR = "rows of a change that is less clear than it was"
"""What a run lacks whose drift, looked at again, is no longer surely a new normal."""
TASK = "training"
"""Task under which the rows of training sets are committed to the lake."""


class Trainer:
    """Takes runs from state to state.

    Args:
        settings: Folders of artifacts, repository and keys.
        registry: Holds runs and candidates.
        lake: Holds verdicts, rows and, afterwards, the lineage.
    """

    def __init__(self, settings: ModelSettings, registry: Registry, lake: Lake) -> None:
        self._settings = settings
        self._registry = registry
        self._lake = lake
        self._cuts = CutStore(lake)
        self._proposer = Proposer(settings)
        self._tried_cuts: dict[str, int] = {}
        lake.ensure_table(TRAINING_SETS)
        self._steps: Mapping[RunState, Callable[[TrainingRun, Profile, datetime], bool]] = {
            RunState.REQUESTED: self._accept,
            RunState.EXAMINING: self._examine,
            RunState.COLLECTING: self._collect,
            RunState.BUILDING: self._build,
        }

    def step(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """Do the next step of a run.

        Returns:
            False: there is nothing to do before there is more data.

        Raises:
            RetryableError: Lake or registry cannot be reached.
        """
        try:
            return self._steps[run.state](run, profile, now)
        except (RejectedError, OperatorError) as exc:
            log.warning("run %s failed: %s", run.run_id, exc)
            self._fail(run, f"{type(exc).__name__}: {exc}", now)
        except (RetryableError, TaskLostError, OSError):
            raise
        except Exception as exc:  # a run on which we fail must not end the trainer at each of its starts
            log.exception("run %s failed on an unforeseen error", run.run_id)
            self._fail(run, f"{type(exc).__name__}: {exc}", now)
        return True

    def refuse(self, run: TrainingRun, why: str, now: datetime) -> None:
        """End a run that must not be worked on."""
        log.warning("run %s is refused: %s", run.run_id, why)
        self._fail(run, why, now)

    def release_cancelled(self) -> None:
        """Remove the pins of runs that a person has cancelled: their cuts need not be kept."""
        with self._registry.reading() as connection:
            cancelled = [r for r in in_states(connection, (RunState.CANCELLED,)) if r.pin is not None]
        for run in cancelled:
            if run.pin in self._cuts.pins():
                self._cuts.unpin(run.pin)
            with self._registry.transaction() as connection:
                save(connection, run, replace(run, pin=None), run.updated_at)

    def renew_proposals(self) -> None:
        """Renew stale proposals of candidates that are not published yet."""
        with self._registry.reading() as connection:
            self._proposer.renew_proposals(connection)

    def _accept(self, run: TrainingRun, _profile: Profile, now: datetime) -> bool:
        """Start on a person's request; the onset comes from the verdicts that it names, if any."""
        accepted = run.to(RunState.COLLECTING)
        if run.onset is None and run.verdicts:
            with closing(connect(self._lake.root, comments=False)) as lake_connection:
                onsets = [v.onset for v in verdicts_of(lake_connection, run.verdicts)]
            if onsets:
                accepted = run.to(RunState.COLLECTING, onset=min(onsets))
        return self._save(run, accepted, now, "run_accepted", {"by": run.requested_by})

    def _examine(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return False
        found = self._examination(run, profile, cut)
        learnable = learnable_families() | fitted_families(self._settings.root)
        examined = after_examination(
            run,
            found,
            profile,
            waited=has_waited(run, found, profile, now),
            untaught=nothing_to_learn(run.family, learnable),
            held=waits_for_a_person(self._champion(run.family).manifest),
        )
        if examined is None:
            return False
        kind, says, state = found.cause.kind, examined.detail, examined.state
        log.info("the drift of run %s is of kind %s: %s", run.run_id, kind, says)
        detail = {"cause": kind, "cut": cut.id, **_rounded(found.cause.evidence), "says": says}
        return self._save(run, examined, now, f"run_{state}", detail, again=cut.id)

    def _collect(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """Wait until there are enough rows; then pin the cut that they are read from."""
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return self._wait_for_rows(run, profile, now, "no rows")
        champion, finding, found = self._champion(run.family), run.finding, None
        if run.onset is not None:
            found = self._examination(run, profile, cut)
            finding = finding_of(found)
            if (ended := while_collecting(run, found, profile)) is not None:
                detail = {"cause": finding.kind, "cut": cut.id, "says": finding.text}
                return self._save(run, ended, now, f"run_{ended.state}", detail, again=cut.id)
        if not may_build(run, found):
            return self._wait_for_rows(run, profile, now, UNCLEAR)
        with closing(connect(self._lake.root, cut.id, comments=False)) as lake_connection:
            selection = select_rows(
                profile,
                run,
                cut.created,
                excluded_devices=finding.faulty if finding else (),
                regime=regime_of(run, found),
                newest=newest_row(lake_connection, profile),
            )
            if starts_over(run, champion.manifest, profile):
                dataset = first_dataset(lake_connection, selection, run.onset)
            else:
                fitted = fitted_families(self._settings.root)
                dataset = dataset_of(lake_connection, run, selection, champion.manifest, fitted)
        if lacks := dataset.lacks(profile, run.need or 0.0):
            return self._wait_for_rows(run, profile, now, lacks)
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
        bank, imported = chosen_by(self._settings.root, run, profile) if dataset.first else ("", "")
        # Step 1: pin the cut. After a crash the run is still collecting, and sets the same pin again.
        pin = f"run-{run.run_id}"
        self._cuts.pin(pin, cut.id)
        # Step 2: store everything that the bytes depend on, in the run's row.
        all_if_person = all_features(profile) if run.reason is RunReason.PERSON else ()
        plan = TrainingPlan(
            selection=stored_selection(dataset.selection),
            moved=(finding.moved if finding else ()) or all_if_person,
            model_kind=dataset.kind,
            champion=champion.manifest.version,
            verdicts=run.verdicts,
            excluded=dataset.training_set.excluded,
            facts=dataset.training_set.facts,
            bank=bank,
            imported=imported,
            effects=device_bank(self._settings.root, profile),
            announced=finding.announced if finding else "",
            one_cause=has_one_cause(finding, profile),
        )
        detail = {
            "cut": cut.id,
            "rows": dataset.training_set.rows.num_rows,
            "kind": dataset.kind,
            "effective_rows": round(dataset.training_set.effective_rows, 1),
        }
        planned = replace(run, finding=finding, plan=plan, cut=cut.id, pin=pin, kind=dataset.kind)
        said = "" if run.detail.startswith(LACKS) else run.detail  # it has them now
        if self._save(run, planned.to(RunState.BUILDING, detail=said), now, "run_building", detail):
            return True
        self._cuts.unpin(pin)  # cancelled meanwhile
        return False

    def _build(self, run: TrainingRun, profile: Profile, now: datetime) -> bool:
        """Make a candidate from the pinned cut, and propose it. A repetition gives the same bytes."""
        if (plan := run.plan) is None:
            raise DatasetError(
                f"run {run.run_id} has no plan to build from: start another with `edgeloop model train`"
            )
        with self._registry.reading() as connection:
            champion = bundle_of_version(connection, self._settings.artifacts, run.family, plan.champion)
            major = next_major(connection, run.family)
        selection = selection_of(profile, plan.selection)
        verify = tables_read(profile)
        with closing(connect(self._lake.root, run.pin, verify=verify, comments=False)) as lake_connection:
            training_set = training_rows(lake_connection, selection)
        lineage = lineage_of(run, selection, training_set, plan.verdicts, champion.manifest.version)
        bundle = candidate_bundle(
            self._settings.root, profile, training_set.rows, plan, champion, lineage, run.seed, major
        )
        # Step 3: store the artifact under its digest. After a crash the repetition finds it there.
        sha256, length = store_artifact(self._settings.artifacts, bundle)
        # Step 4: write the lineage, once: a repetition finds it in the newest cut.
        self._write_lineage(run, bundle.manifest.version, training_set, now)
        if self._is_cancelled(run):
            return False
        # Step 5: sign with the trainer's key. Devices accept nothing before the gate has signed, too.
        self._proposer.propose(bundle.manifest, sha256)
        # Step 6: store the candidate and the end of the run, in one transaction. Now the gate finds it.
        candidate = candidate_of(
            bundle.manifest,
            run_id=run.run_id,
            champion=plan.champion,
            sha256=sha256,
            length=length,
            now=now.timestamp(),
        )
        return self._hand_over(run, candidate, bundle.manifest, now)

    def _is_cancelled(self, run: TrainingRun) -> bool:
        with self._registry.reading() as connection:
            now = get(connection, run.run_id)
        return now is None or now.state is not run.state

    def _hand_over(self, run: TrainingRun, candidate: Candidate, manifest: Manifest, now: datetime) -> bool:
        version, at = candidate.version, now.timestamp()
        detail = {
            "run": run.run_id,
            "sha256": candidate.sha256,
            "bytes": candidate.length,
            "champion": candidate.champion,
        }
        with self._registry.transaction() as connection:
            saved = save(connection, run, run.to(RunState.TRAINED, version=version), now)
            if saved:
                candidates.insert(connection, candidate, manifest)
                note(connection, f"model/{version}/trained", version, "model_trained", detail, at)
                done = {"version": version}
                note(connection, f"run/{run.run_id}/trained", run.run_id, "run_trained", done, at)
        log.info("run %s made %s", run.run_id, version)
        return saved

    def _write_lineage(
        self, run: TrainingRun, version: str, training_set: TrainingSet, now: datetime
    ) -> None:
        # A commit that a crash interrupted is finished first, so that the query below finds its rows.
        finish(self._lake, self._cuts, TASK)
        with closing(connect(self._lake.root, comments=False)) as lake_connection:
            known = duck.query(
                lake_connection,
                f"SELECT count(*) AS n FROM training_sets WHERE run_id = {duck.text(run.run_id)}",  # noqa: S608  (quoted)
            )
        if known.column("n")[0].as_py() == 0:
            append(
                self._lake,
                self._cuts,
                TASK,
                lambda n: {TRAINING_SETS.name: lineage_rows(run, version, training_set, now, n)},
            )

    def _examination(self, run: TrainingRun, profile: Profile, cut: Cut) -> Examination:
        champion = self._champion(run.family).manifest
        with closing(connect(self._lake.root, cut.id, comments=False)) as lake_connection:
            verdicts = verdicts_of(lake_connection, run.verdicts)
            cohorts, kinds = sorted({v.cohort for v in verdicts}), [v.kind for v in verdicts]
            onset = run.onset or cut.created
            with self._registry.reading() as connection:
                announced = announced_for(connection, self._settings.pki, profile, cohorts, onset)
            return examine(lake_connection, profile, champion, onset, cut.created, cohorts, kinds, announced)

    def _champion(self, family: str) -> BundleFiles:
        """The model in force: the newest that was published and not taken back, or the factory's."""
        with self._registry.reading() as connection:
            version = champion_version(connection, family)
            if version is not None:
                return bundle_of_version(connection, self._settings.artifacts, family, version)
        return starting_bundle_of(family)

    def _new_cut(self, run: TrainingRun, profile: Profile, now: datetime) -> Cut | None:
        """The newest cut; None: the run was tried in it already, and may still wait for another."""
        cut = self._cuts.latest()
        waited = now - run.updated_at >= timedelta(seconds=profile.training.max_wait_s)
        key = f"{run.run_id}/{run.state}"
        if cut is None or (self._tried_cuts.get(key) == cut.id and not waited):
            return None
        self._tried_cuts[key] = cut.id
        return cut

    def _wait_for_rows(self, run: TrainingRun, profile: Profile, now: datetime, lacks: str) -> bool:
        """Say in the run's row what it lacks; after too long, it fails."""
        if now - run.updated_at < timedelta(seconds=profile.training.max_wait_s):
            told = replace(run, detail=f"{LACKS}{lacks}")
            if run.detail != told.detail and (self._cuts.latest() is None or lacks != "no rows"):
                with self._registry.transaction() as connection:  # the wait counts from the last transition
                    save(connection, run, told, run.updated_at)
            return False
        text = f"after {profile.training.max_wait_s:.0f} s there is still too little to train on: {lacks}"
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
        detail: Mapping[str, object],
        again: int = 0,
    ) -> bool:
        """Store the run and the lifecycle event on it, in one transaction.

        Args:
            before: As the run was read.
            after: As it is to be.
            now: Time of both.
            step: Name of the event.
            detail: Of the event.
            again: Tells events apart that may occur several times in a run; 0: this one occurs once.
        """
        event_id = f"run/{before.run_id}/{step}" + (f"/{again}" if again else "")
        with self._registry.transaction() as connection:
            saved = save(connection, before, after, now)
            if saved:
                note(connection, event_id, before.run_id, step, detail, now.timestamp())
        return saved


def _rounded(evidence: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in evidence.items()}

"""Works on training runs step by step; each step can be done again after a crash, with the same bytes.

``requested`` or ``examining`` -> ``collecting`` -> ``building`` -> ``trained``; the ways out are
``declined``, ``waiting`` (for a person) and ``failed``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert

from feature_store import connect, duck
from feature_store.append import append, finish
from feature_store.cut import Cut
from feature_store.cuts import Cuts
from feature_store.lake import Lake
from feature_store.point_in_time import TrainingSet, training_rows
from model_service.registry.database import Registry, note
from model_service.registry.tables import candidates
from model_service.settings import ModelSettings
from model_service.training.artifacts import bundle_of_version, factory_bundle_of, store_artifact
from model_service.training.bundle import BundleFiles
from model_service.training.candidate import build_candidate
from model_service.training.datasets import Dataset, all_features, newest_row, question, take
from model_service.training.examine import Examination, examine
from model_service.training.lineage import lineage_of, lineage_rows, wanted_of_json, wanted_to_json
from model_service.training.proposing import Proposer
from model_service.training.runs import (
    BUILDING,
    COLLECTING,
    DECLINED,
    EXAMINING,
    FAILED,
    NEED,
    PERSON,
    REQUESTED,
    TRAINED,
    WAITING,
    Run,
    champion_version,
    move,
    next_major,
)
from model_service.training.verdict_reading import verdicts_of
from schemas.errors import OperatorError, RejectedError
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
        self._cuts = Cuts(lake)
        self._proposer = Proposer(settings)
        self._looked: dict[str, int] = {}
        lake.ensure_table(TRAINING_SETS)
        self._steps: Mapping[str, Callable[[Run, Profile, datetime], bool]] = {
            REQUESTED: self._accept,
            EXAMINING: self._examine,
            COLLECTING: self._collect,
            BUILDING: self._build,
        }

    def step(self, run: Run, profile: Profile, now: datetime) -> bool:
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
            self._end(run, FAILED, f"{type(exc).__name__}: {exc}", now)
            return True

    def propose_again(self) -> None:
        """Keep the proposals of candidates that are on their way alive."""
        with self._registry.reading() as connection:
            self._proposer.propose_again(connection)

    def _accept(self, run: Run, _profile: Profile, now: datetime) -> bool:
        """A person asked: the onset comes from the verdicts that the request names, if any."""
        changes: dict[str, Any] = {"state": COLLECTING}
        if run.onset is None and run.verdicts:
            with closing(connect(self._lake.root)) as con:
                onsets = [v.onset for v in verdicts_of(con, run.verdicts)]
            changes |= {"onset": min(onsets)} if onsets else {}
        return self._move(run, now, "run_accepted", {"by": run.requested_by}, **changes)

    def _examine(self, run: Run, profile: Profile, now: datetime) -> bool:
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return False
        found = self._look(run, profile, cut)
        cause = found.cause
        waited = now - run.updated_at >= timedelta(seconds=profile.training.max_wait_s)
        if not cause.enough and not waited:
            return False
        state = _verdict_on(found, profile)
        detail = {"cause": cause.kind, "cut": cut.id, **_rounded(cause.evidence)}
        raw = {**(run.cause or {}), **_cause_json(found)}
        if state == WAITING and (run.cause or {}).get("kind") == DEGRADATION:
            # Wear in the last look: that it is less clear in this one is no question for a person.
            state, raw = DECLINED, dict(run.cause or {})
        log.info("run %s is a %s: %s", run.run_id, cause.kind, cause.text)
        return self._move(
            run, now, f"run_{state}", {**detail, "says": cause.text}, again=cut.id,
            state=state, cause=raw, detail=cause.text,
        )  # fmt: skip

    def _collect(self, run: Run, profile: Profile, now: datetime) -> bool:
        """Until there are enough rows; then pin what they are read from."""
        cut = self._new_cut(run, profile, now)
        if cut is None:
            return self._give_up(run, profile, now, "no new rows")
        champion = self._champion(run.family)
        raw: dict[str, Any] = dict(run.cause or {})
        found = None
        if run.onset is not None:
            found = self._look(run, profile, cut)
            raw |= _cause_json(found)
            if not found.cause.retrain and found.cause.enough and not run.by_person:
                state = _verdict_on(found, profile)
                detail = {"cause": found.cause.kind, "cut": cut.id, "says": found.cause.text}
                return self._move(
                    run, now, f"run_{state}", detail, again=cut.id, state=state, cause=raw,
                    detail=found.cause.text,
                )  # fmt: skip
        with closing(connect(self._lake.root, cut.id)) as con:
            wanted = question(
                profile,
                run,
                cut.created,
                without=raw.get("faulty", ()),
                regime=found.regime if found else None,
                newest=newest_row(con, profile),
            )
            dataset = take(con, run, wanted, champion.manifest.kind)
        if lacks := dataset.lacks(profile, raw.get(NEED, 0.0)):
            return self._give_up(run, profile, now, lacks)
        return self._pin(run, profile, cut, dataset, raw, champion, now)

    def _pin(
        self,
        run: Run,
        profile: Profile,
        cut: Cut,
        dataset: Dataset,
        raw: dict[str, Any],
        champion: BundleFiles,
        now: datetime,
    ) -> bool:
        # Step 1: a pin that nobody names yet; a crash leaves the same pin to be set again.
        pin = f"run-{run.run_id}"
        self._cuts.pin(pin, cut.id)
        # Step 2: all that the bytes follow from, in one row.
        plan = raw | {
            "wanted": wanted_to_json(dataset.wanted),
            "moved": list(raw.get("moved") or (all_features(profile) if run.reason == PERSON else ())),
            "model_kind": dataset.kind,
            "champion": champion.manifest.version,
            "verdicts": list(run.verdicts),
            "excluded": dict(dataset.taken.excluded),
            "facts": dict(dataset.taken.facts),
        }
        detail = {
            "cut": cut.id, "rows": dataset.taken.rows.num_rows, "kind": dataset.kind,
            "effective_rows": round(dataset.taken.effective_rows, 1),
        }  # fmt: skip
        return self._move(
            run, now, "run_building", detail, state=BUILDING, cut=cut.id, pin=pin, cause=plan,
            kind=dataset.kind,
        )  # fmt: skip

    def _build(self, run: Run, profile: Profile, now: datetime) -> bool:
        """From the pinned cut to a proposed candidate. The same bytes, however often it is begun."""
        plan = run.cause or {}
        with self._registry.reading() as connection:
            champion = bundle_of_version(connection, self._settings.artifacts, run.family, plan["champion"])
            major = next_major(connection, run.family)
        wanted = wanted_of_json(profile, plan["wanted"])
        with closing(connect(self._lake.root, run.pin)) as con:
            taken = training_rows(con, wanted)
        lineage = lineage_of(run, wanted, taken, plan["verdicts"], champion.manifest.version)
        bundle = build_candidate(
            profile, taken.rows, champion, plan["moved"], lineage, run.seed, major, plan["model_kind"]
        )
        # Step 3: bytes under their digest; a crash leaves them, and the redo finds them there.
        sha256, length = store_artifact(self._settings.artifacts, bundle)
        # Step 4: which rows trained it, once: a redo sees them in the newest cut.
        self._write_lineage(run, bundle.manifest.version, taken, now)
        # Step 5: signed with the trainer's key; worth nothing before the gate signs, too.
        self._proposer.propose(bundle.manifest, sha256)
        # Step 6: from here on the gate sees it.
        return self._hand_over(run, bundle, sha256, length, now)

    def _hand_over(self, run: Run, bundle: BundleFiles, sha256: str, length: int, now: datetime) -> bool:
        manifest = bundle.manifest
        row = {
            "version": manifest.version,
            "family": run.family,
            "major": int(manifest.version.rpartition("-")[2].partition(".")[0]),
            "kind": manifest.kind,
            "run_id": run.run_id,
            "champion": (run.cause or {})["champion"],
            "sha256": sha256,
            "length": length,
            "manifest": manifest.model_dump(mode="json"),
            "state": "trained",
            "detail": "",
            "created_at": now.timestamp(),
            "updated_at": now.timestamp(),
        }
        detail = {"run": run.run_id, "sha256": sha256, "bytes": length, "champion": row["champion"]}
        with self._registry.transaction() as connection:
            moved = move(connection, run, now, state=TRAINED, version=manifest.version)
            if moved:
                connection.execute(insert(candidates).values(**row))
                at = now.timestamp()
                note(
                    connection,
                    f"model/{manifest.version}/trained",
                    manifest.version,
                    "model_trained",
                    detail,
                    at,
                )
                done = {"version": manifest.version}
                note(connection, f"run/{run.run_id}/trained", run.run_id, "run_trained", done, at)
        log.info("run %s made %s", run.run_id, manifest.version)
        return moved

    def _write_lineage(self, run: Run, version: str, taken: TrainingSet, now: datetime) -> None:
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

    def _look(self, run: Run, profile: Profile, cut: Cut) -> Examination:
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

    def _new_cut(self, run: Run, profile: Profile, now: datetime) -> Cut | None:
        """The newest cut, unless the run was looked at in it already and may still wait for another."""
        cut = self._cuts.latest()
        waited = now - run.updated_at >= timedelta(seconds=profile.training.max_wait_s)
        key = f"{run.run_id}/{run.state}"
        if cut is None or (self._looked.get(key) == cut.id and not waited):
            return None
        self._looked[key] = cut.id
        return cut

    def _give_up(self, run: Run, profile: Profile, now: datetime, lacks: str) -> bool:
        if now - run.updated_at < timedelta(seconds=profile.training.max_wait_s):
            return False
        text = f"after {profile.training.max_wait_s:.0f} s still too little to train on: {lacks}"
        return self._end(run, FAILED, text, now)

    def _end(self, run: Run, state: str, text: str, now: datetime) -> bool:
        if run.pin is not None and run.pin in self._cuts.pins():
            self._cuts.unpin(run.pin)
        return self._move(run, now, f"run_{state}", {"says": text}, state=state, detail=text)

    def _move(
        self, run: Run, now: datetime, step: str, said: Mapping[str, object], again: int = 0, **changes: Any
    ) -> bool:
        """Change the run and say so, both or neither."""
        event_id = f"run/{run.run_id}/{step}" + (f"/{again}" if again else "")
        with self._registry.transaction() as connection:
            moved = move(connection, run, now, **changes)
            if moved:
                note(connection, event_id, run.run_id, step, said, now.timestamp())
        return moved


def _verdict_on(found: Examination, profile: Profile) -> str:
    """The state that a run goes to after a look at its cause."""
    if found.cause.kind == "unclear":
        return WAITING
    if not found.cause.retrain:
        return DECLINED
    return COLLECTING if profile.training.auto else WAITING


def _cause_json(found: Examination) -> dict[str, Any]:
    cause = found.cause
    return {
        "kind": cause.kind,
        "retrain": cause.retrain,
        "says": cause.text,
        "evidence": dict(cause.evidence),
        "moved": list(cause.moved),
        "faulty": list(cause.faulty),
    }


def _rounded(evidence: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in evidence.items()}

"""Schedules training: starts runs on verdicts, refusals, time and labels, and works on all open runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from feature_store import connect
from feature_store.current_profiles import current_profiles
from feature_store.cut import Cut
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import used_profiles
from model_service.detectors.bank_store import fitted_families
from model_service.in_turn import each_in_turn
from model_service.registry.bundle_store import learnable_families
from model_service.registry.candidates import champion_version, manifest_of
from model_service.registry.database import Registry, note
from model_service.registry.rolled_out import is_rolled_out
from model_service.settings import ModelSettings
from model_service.training.run_states import RunState
from model_service.training.run_store import (
    new_run,
    open_runs,
    read_mark,
    refused_runs,
    runs_of,
    save,
    write_mark,
)
from model_service.training.trainer import Trainer
from model_service.training.training_run import RunReason, TrainingRun
from model_service.training.trigger import (
    ClockFacts,
    ExtendRun,
    StartRun,
    next_open,
    nothing_to_learn,
    on_clock,
    on_refusal,
    on_release,
    on_verdicts,
    shared_family,
)
from model_service.training.verdict_reading import NewVerdicts, count_labels, new_verdicts
from schemas.profile import Profile
from schemas.tables import DRIFT, LABELS

log = logging.getLogger(__name__)

_VERDICTS, _SINCE = "verdicts", "since"
PROPOSE_EVERY_S = 2.0
"""Pause between two checks for proposals that another publication has made stale."""
_MOST_STEPS = 8
"""Most steps of a profile's runs in one turn: a run that goes in circles must not hold up the others."""


class TrainingScheduler:
    """Decides when to train, and works on the runs.

    Args:
        settings: Folders of artifacts, repository and keys.
        registry: Holds runs, candidates and marks.
        lake: Holds verdicts, labels and rows.
        clock: Gives the current time, in UTC.
    """

    def __init__(
        self, settings: ModelSettings, registry: Registry, lake: Lake, clock: Callable[[], datetime]
    ) -> None:
        self._registry, self._lake, self._clock = registry, lake, clock
        self._root = settings.root
        self._cuts = CutStore(lake)
        self._trainer = Trainer(settings, registry, lake)
        self._polled_cut = -1
        self._read_files: dict[str, tuple[str, ...]] = {}
        self._labels: dict[str, int] = {}
        self._known: dict[str, Profile] = {}
        self._used: frozenset[str] = frozenset()

    def poll(self) -> None:
        """Check for reasons to train. Costs almost nothing while there is no new cut.

        Raises:
            RetryableError: Lake or registry cannot be reached; the next poll starts where this one did.
        """
        cut = self._cuts.latest()
        if cut is not None and cut.id != self._polled_cut:
            self._known = current_profiles(self._lake)
            self._used = used_profiles(self._lake)
            self._poll_verdicts(cut)
            self._count_labels(cut)
            self._polled_cut = cut.id
        for profile in self._known.values():
            if _has_clock(profile) and profile.model.family in self._learnable():
                self._poll_clock(profile)
        self._poll_refusals()
        for profile in self._known.values():
            self._poll_release(profile)

    def work(self) -> None:
        """Take every open run as far as it can go; an error in one profile does not hold up the others.

        Raises:
            RetryableError: Lake or registry cannot be reached.
        """
        with self._registry.reading() as connection:
            opened = open_runs(connection)
        self._trainer.release_cancelled()
        names = sorted({r.profile for r in opened} & set(self._known))
        each_in_turn([self._known[name] for name in names], self._work)

    def renew_proposals(self) -> None:
        """Renew stale proposals of candidates that are not published yet."""
        self._trainer.renew_proposals()

    def _work(self, profile: Profile) -> None:
        for _ in range(_MOST_STEPS):
            now = self._clock()
            with self._registry.reading() as connection:
                run = next_open(profile, runs_of(connection, profile.model.family), now)
            if run is None or run.profile != profile.name:
                return
            if why := self._never_trained(run):
                self._trainer.refuse(run, why, now)
            elif not self._trainer.step(run, profile, now):
                return

    def _never_trained(self, run: TrainingRun) -> str:
        """Why a run must not be worked on; empty: it may. A drift is examined first, whatever comes of it."""
        idle = "" if run.state is RunState.EXAMINING else nothing_to_learn(run.family, self._learnable())
        return idle or shared_family(self._known, {*self._used, run.profile}, run.family)

    def _learnable(self) -> frozenset[str]:
        return learnable_families() | fitted_families(self._root)

    def _poll_verdicts(self, cut: Cut) -> None:
        """Start or extend runs on new verdicts, and mark these as read in the same transaction."""
        if not self._has_changed(cut, DRIFT.name):
            return
        now = self._clock()
        with self._registry.reading() as connection:
            marks = read_mark(connection, _VERDICTS) or {}
        longest = max((p.training.window_s for p in self._known.values()), default=0.0)
        with closing(connect(self._lake.root, cut.id, comments=False)) as lake_connection:
            found = new_verdicts(lake_connection, marks, now - timedelta(seconds=longest))
        if found.marks != marks:
            with self._registry.transaction() as connection:
                for name, profile in self._known.items():
                    self._apply_verdicts(connection, profile, found, name, now)
                write_mark(connection, _VERDICTS, found.marks)
        self._read_files[DRIFT.name] = _files(cut, DRIFT.name)

    def _apply_verdicts(
        self, connection: Connection, profile: Profile, found: NewVerdicts, name: str, now: datetime
    ) -> None:
        known = runs_of(connection, profile.model.family)
        for action in on_verdicts(profile, found.by_profile.get(name, ()), known):
            if isinstance(action, StartRun):
                self._start(connection, profile, action, now)
            else:
                _extend(connection, action, now)

    def _start(self, connection: Connection, profile: Profile, start: StartRun, now: datetime) -> None:
        run = new_run(
            connection,
            family=profile.model.family,
            profile=profile.name,
            reason=start.reason,
            now=now,
            onset=start.onset,
            verdicts=start.verdicts,
            need=start.need if start.retry_of else None,
        )
        detail = {"reason": start.reason, "verdicts": len(start.verdicts), "onset": start.onset or ""}
        detail |= {"follows": start.retry_of} if start.retry_of else {}
        note(connection, f"run/{run.run_id}/requested", run.run_id, "run_requested", detail, now.timestamp())
        log.info("started run %s for %s, reason: %s", run.run_id, profile.name, start.reason)

    def _poll_refusals(self) -> None:
        """Start retries on changes whose candidate was refused; each then waits for more rows."""
        now = self._clock()
        longest = max((p.training.window_s for p in self._known.values()), default=0.0)
        with self._registry.reading() as connection:
            refused = refused_runs(connection, now - timedelta(seconds=longest))
        for run, rows in refused:
            profile = self._known.get(run.profile)
            if profile is None:
                continue
            with self._registry.transaction() as connection:
                known = runs_of(connection, run.family)
                start = on_refusal(profile, known, run, rows)
                if start is not None:
                    self._start(connection, profile, start, now)

    def _poll_release(self, profile: Profile) -> None:
        """Start another run on a change whose model is in force, where that was made from little."""
        now, family = self._clock(), profile.model.family
        with self._registry.reading() as connection:
            version, known = champion_version(connection, family), runs_of(connection, family)
            rolled_out = version is not None and is_rolled_out(connection, version)
        made = next((r for r in known if rolled_out and r.version == version), None)
        if made is None or version is None or on_release(profile, known, made, 0.0, now) is None:
            return
        with self._registry.transaction() as connection:
            lineage = manifest_of(connection, version).get("lineage") or {}
            rows = float(lineage.get("effective_rows", 0.0))
            start = on_release(profile, runs_of(connection, family), made, rows, now)
            if start is not None:
                self._start(connection, profile, start, now)

    def _count_labels(self, cut: Cut) -> None:
        with_label_count = [p for p in self._known.values() if p.training.label_count is not None]
        if not with_label_count or not self._has_changed(cut, LABELS.name):
            return
        with closing(connect(self._lake.root, cut.id, comments=False)) as lake_connection:
            self._labels = {
                p.name: count_labels(lake_connection, p.name, cut.created) for p in with_label_count
            }
        self._read_files[LABELS.name] = _files(cut, LABELS.name)

    def _poll_clock(self, profile: Profile) -> None:
        now, family = self._clock(), profile.model.family
        with self._registry.transaction() as connection:
            known = runs_of(connection, family)
            since = read_mark(connection, f"{_SINCE}/{family}")
            if since is None:
                since = now.timestamp()
                write_mark(connection, f"{_SINCE}/{family}", since)
            used_mark = f"{RunReason.LABELS}/{profile.name}"
            used = read_mark(connection, used_mark) or 0
            facts = ClockFacts(
                runs=known,
                trained_at=_trained_at(known),
                since=datetime.fromtimestamp(since, UTC),
                new_labels=self._labels.get(profile.name, used) - used,
            )
            start = on_clock(profile, facts, now)
            if start is not None:
                self._start(connection, profile, start, now)
                write_mark(connection, used_mark, self._labels.get(profile.name, used))

    def _has_changed(self, cut: Cut, table: str) -> bool:
        """Whether the table has other files than in the last cut that was read."""
        return self._read_files.get(table, ()) != _files(cut, table)


def _files(cut: Cut, table: str) -> tuple[str, ...]:
    return cut.tables[table].files if table in cut.tables else ()


def _extend(connection: Connection, action: ExtendRun, now: datetime) -> None:
    """Add verdicts to a run on the same change, and have it examined again if ``reopen`` asks for it."""
    more = action.run.with_verdicts(action.verdicts)
    if action.reopen:
        save(connection, action.run, more.to(RunState.EXAMINING), now)
    else:  # more evidence, no change of state: the wait limit still counts from the last transition
        save(connection, action.run, more, action.run.updated_at)


def _trained_at(known: list[TrainingRun]) -> datetime | None:
    return max((r.updated_at for r in known if r.version is not None), default=None)


def _has_clock(profile: Profile) -> bool:
    policy = profile.training
    return any(x is not None for x in (policy.schedule_s, policy.max_age_s, policy.label_count))

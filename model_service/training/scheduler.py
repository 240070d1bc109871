"""Schedules training: turns verdicts, clocks, labels and people's requests into runs, and works on these."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from feature_store import connect
from feature_store.cut import Cut
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.in_turn import each_in_turn
from model_service.registry.database import Registry, note
from model_service.settings import ModelSettings
from model_service.training.run_store import (
    mark,
    new_run,
    open_runs,
    refused_runs,
    runs_of,
    save,
    set_mark,
)
from model_service.training.trainer import Trainer
from model_service.training.training_run import RunReason, RunState, TrainingRun
from model_service.training.trigger import (
    ClockFacts,
    ExtendRun,
    StartRun,
    next_open,
    on_clock,
    on_refusal,
    on_verdicts,
)
from model_service.training.verdict_reading import NewVerdicts, count_labels, new_verdicts
from schemas.profile import Profile
from schemas.tables import DRIFT, LABELS

log = logging.getLogger(__name__)

_VERDICTS, _SINCE = "verdicts", "since"
PROPOSE_EVERY_S = 2.0
"""Pause between two looks at proposals that another publication may have made stale."""
_MOST_STEPS = 8
"""Steps of one run in one turn: a run that goes in circles must not hold up the others."""


class TrainingScheduler:
    """Decides when to train, and works on the runs; remembers what it saw of the lake between two looks.

    Args:
        settings: Folders.
        registry: Runs, candidates, marks.
        lake: Verdicts, labels, rows.
        clock: UTC now.
    """

    def __init__(
        self, settings: ModelSettings, registry: Registry, lake: Lake, clock: Callable[[], datetime]
    ) -> None:
        self._registry, self._lake, self._clock = registry, lake, clock
        self._cuts = CutStore(lake)
        self._profiles = ProfileRegistry(lake)
        self._trainer = Trainer(settings, registry, lake)
        self._seen_cut = -1
        self._seen_files: dict[str, tuple[str, ...]] = {}
        self._labels: dict[str, int] = {}
        self._known: dict[str, Profile] = {}

    def look(self) -> None:
        """Look for reasons to train. Costs almost nothing while no cut is new.

        Raises:
            RetryableError: Lake or registry do not answer; the next look begins where this one did.
        """
        cut = self._cuts.latest()
        if cut is not None and cut.id != self._seen_cut:
            self._known = self._profiles.profiles()
            self._take_verdicts(cut)
            self._count_labels(cut)
            self._seen_cut = cut.id
        for profile in self._known.values():
            if _has_clock(profile):
                self._take_clock(profile)
        self._take_refusals()

    def work(self) -> None:
        """Take every open run as far as it goes; a profile whose run fails holds up no other.

        Raises:
            RetryableError: Lake or registry do not answer.
        """
        with self._registry.reading() as connection:
            waiting = open_runs(connection)
        names = sorted({r.profile for r in waiting} & set(self._known))
        each_in_turn([self._known[name] for name in names], self._work)

    def propose_again(self) -> None:
        """Keep the proposals of candidates that are on their way alive."""
        self._trainer.propose_again()

    def _work(self, profile: Profile) -> None:
        for _ in range(_MOST_STEPS):
            now = self._clock()
            with self._registry.reading() as connection:
                run_ = next_open(profile, runs_of(connection, profile.model.family), now)
            if run_ is None or run_.profile != profile.name or not self._trainer.step(run_, profile, now):
                return

    def _take_verdicts(self, cut: Cut) -> None:
        """New verdicts become runs, and are marked as seen in the same transaction."""
        if not self._has_news(cut, DRIFT.name):
            return
        now = self._clock()
        with self._registry.reading() as connection:
            marks = mark(connection, _VERDICTS) or {}
        longest = max((p.training.window_s for p in self._known.values()), default=0.0)
        with closing(connect(self._lake.root, cut.id)) as con:
            found = new_verdicts(con, marks, now - timedelta(seconds=longest))
        if found.marks != marks:
            with self._registry.transaction() as connection:
                for name, profile in self._known.items():
                    self._act(connection, profile, found, name, now)
                set_mark(connection, _VERDICTS, found.marks)
        self._seen_files[DRIFT.name] = _files(cut, DRIFT.name)

    def _act(
        self, connection: Connection, profile: Profile, found: NewVerdicts, name: str, now: datetime
    ) -> None:
        known = runs_of(connection, profile.model.family)
        for action in on_verdicts(profile, found.by_profile.get(name, ()), known):
            if isinstance(action, StartRun):
                self._start(connection, profile, action, now)
            else:
                _extend(connection, action, now)

    def _start(self, connection: Connection, profile: Profile, start: StartRun, now: datetime) -> None:
        run_id = new_run(
            connection, family=profile.model.family, profile=profile.name, reason=start.reason, now=now,
            onset=start.onset, verdicts=start.verdicts, need=start.need if start.follows else None,
        ).run_id  # fmt: skip
        detail = {"reason": start.reason, "verdicts": len(start.verdicts), "onset": start.onset or ""}
        detail |= {"follows": start.follows} if start.follows else {}
        note(connection, f"run/{run_id}/requested", run_id, "run_requested", detail, now.timestamp())
        log.info("run %s of %s: %s", run_id, profile.name, start.reason)

    def _take_refusals(self) -> None:
        """A change whose candidate was refused gets another run, when its time comes with more rows."""
        now = self._clock()
        longest = max((p.training.window_s for p in self._known.values()), default=0.0)
        with self._registry.reading() as connection:
            refused = refused_runs(connection, now - timedelta(seconds=longest))
        for run_, rows in refused:
            profile = self._known.get(run_.profile)
            if profile is None:
                continue
            with self._registry.transaction() as connection:
                known = runs_of(connection, run_.family)
                start = on_refusal(profile, known, run_, rows)
                if start is not None:
                    self._start(connection, profile, start, now)

    def _count_labels(self, cut: Cut) -> None:
        counting = [p for p in self._known.values() if p.training.label_count is not None]
        if not counting or not self._has_news(cut, LABELS.name):
            return
        with closing(connect(self._lake.root, cut.id)) as con:
            self._labels = {p.name: count_labels(con, p.name, cut.created) for p in counting}
        self._seen_files[LABELS.name] = _files(cut, LABELS.name)

    def _take_clock(self, profile: Profile) -> None:
        now, family = self._clock(), profile.model.family
        with self._registry.transaction() as connection:
            known = runs_of(connection, family)
            since = mark(connection, f"{_SINCE}/{family}")
            if since is None:
                since = now.timestamp()
                set_mark(connection, f"{_SINCE}/{family}", since)
            counted = f"{RunReason.LABELS}/{profile.name}"
            used = mark(connection, counted) or 0
            standing = ClockFacts(
                known, _trained_at(known), datetime.fromtimestamp(since, UTC),
                self._labels.get(profile.name, used) - used,
            )  # fmt: skip
            start = on_clock(profile, standing, now)
            if start is not None:
                self._start(connection, profile, start, now)
                set_mark(connection, counted, self._labels.get(profile.name, used))

    def _has_news(self, cut: Cut, table: str) -> bool:
        """Whether the table has other files than in the last cut that was looked at."""
        return self._seen_files.get(table, ()) != _files(cut, table)


def _files(cut: Cut, table: str) -> tuple[str, ...]:
    return cut.tables[table].files if table in cut.tables else ()


def _extend(connection: Connection, action: ExtendRun, now: datetime) -> None:
    """Add verdicts to a run on the same change; look again where it had come to nothing."""
    more = action.run.with_verdicts(action.verdicts)
    if action.reopen:
        save(connection, action.run, more.to(RunState.EXAMINING), now)
    else:  # more evidence, no step: the wait limit still counts from the last one
        save(connection, action.run, more, action.run.updated_at)


def _trained_at(known: list[TrainingRun]) -> datetime | None:
    return max((r.updated_at for r in known if r.version is not None), default=None)


def _has_clock(profile: Profile) -> bool:
    policy = profile.training
    return any(x is not None for x in (policy.schedule_s, policy.max_age_s, policy.label_count))

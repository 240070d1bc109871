"""What each rollout brought: its loop times and its gain, measured when it has ended, and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from model_service.fleet.known_profiles import KnownProfiles
from model_service.registry.database import Registry
from model_service.rollout.launch import profile_of
from model_service.rollout.loop_times import LoopTimes, loop_times, verdicts_behind
from model_service.rollout.outcome_store import Json, StoredOutcome, due_outcomes, store_outcome
from model_service.rollout.release_gain import ReleaseGain, first_detected, gain_in_lake
from model_service.rollout.rollout_record import RolloutRecord
from model_service.rollout.transitions import version_of
from schemas.errors import QueryError
from schemas.profile import Profile

log = logging.getLogger(__name__)

EVERY_S = 2.0
"""Pause between two looks for rollouts to measure."""
_DAY_S = 86_400.0
_REVISED_S = (_DAY_S, 7 * _DAY_S, 30 * _DAY_S)
"""Ages at which a gain is measured again: labels come late."""
_SETTLED_PERIODS = 2
"""Summary periods after the end until the first gain: by then the lake holds the last windows of the soak."""
_RETRY_S = 60.0


@dataclass
class ReleaseOutcomes:
    """Measures what rollouts brought; a job of the engine's process.

    Args:
        registry: Has the rollouts; gets the outcomes and a lifecycle event for each measurement.
        lake_root: The lake's folder.
        profiles: Profiles of the devices.
        clock: UTC seconds.
    """

    registry: Registry
    lake_root: Path
    profiles: KnownProfiles
    clock: Callable[[], float]

    def step(self) -> int:
        """Measure what is due; returns how many rollouts were."""
        now = self.clock()
        with self.registry.reading() as connection:
            due = [self._prepared(connection, *found) for found in due_outcomes(connection, now)]
        for one in due:
            # Step 1: read the lake, which may take long, outside of any transaction.
            # Step 2: store the outcome and its event in one transaction; a crash before it repeats step 1.
            self._store(one, one.measured(self.lake_root, now), now)
        return len(due)

    def _prepared(self, connection: Connection, record: RolloutRecord, revision: int) -> _Measurement:
        profile = profile_of(connection, record.group, record.family, self.profiles)
        verdicts = verdicts_behind(connection, record.version)
        times = loop_times(connection, record.rollout_id, record.version, None)
        return _Measurement(record, revision, profile, verdicts, times)

    def _store(self, one: _Measurement, outcome: Json, now: float) -> None:
        next_at = one.next_at(now, readable=outcome["readable"])
        stored = StoredOutcome(one.record.rollout_id, one.revision, outcome, now, next_at)
        with self.registry.transaction() as connection:
            store_outcome(connection, stored)


@dataclass(frozen=True)
class _Measurement:
    """One measurement of a rollout.

    Attributes:
        revision: Number of the measurement. The first one, as soon as the rollout has ended, has no gain.
    """

    record: RolloutRecord
    revision: int
    profile: Profile | None
    verdicts: tuple[str, ...]
    times: LoopTimes

    def measured(self, lake_root: Path, now: float) -> Json:
        """The outcome as JSON; without a gain where the lake cannot be read now, or there is none to read."""
        times, gain, readable = self.times, None, True
        try:
            times = times._replace(verdict=first_detected(lake_root, self.verdicts))
            if now >= self._ended(now) + self._settles_s:
                gain = self._gain(lake_root)
        except QueryError as exc:
            log.warning("what %s brought is not measured yet: %s", self.record.rollout_id, exc)
            readable = False
        return {
            "group": self.record.group,
            "version": self.record.version,
            "champion": version_of(self.record.baseline, self.record.family),
            "state": self.record.state,
            "measured_at": now,
            "loop_s": times.loop_s,
            "times": times._asdict(),
            "stages_s": times.stages(),
            "gain": None if gain is None else gain.to_json(),
            "readable": readable,
        }

    def _gain(self, lake_root: Path) -> ReleaseGain | None:
        champion = version_of(self.record.baseline, self.record.family)
        if self.profile is None or not champion or self.times.started is None:
            return None
        return gain_in_lake(lake_root, self.profile, champion, self.record.version, self.times.started)

    def next_at(self, now: float, *, readable: bool) -> float | None:
        """When to measure next, UTC seconds; None: this was the last time."""
        if not readable:
            return now + _RETRY_S
        later = (self._ended(now) + age for age in (self._settles_s, *_REVISED_S))
        return next((at for at in later if at > now), None)

    @property
    def _settles_s(self) -> float:
        return 0.0 if self.profile is None else _SETTLED_PERIODS * self.profile.summaries.period_s

    def _ended(self, now: float) -> float:
        return now if self.times.ended is None else self.times.ended

"""Runs all rollouts: observes, lets the state machine decide, stores the decision and publishes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from model_service.fleet.known_profiles import KnownProfiles
from model_service.registry.database import Registry
from model_service.registry.registry_tables import devices
from model_service.rollout import rollout_states, rollout_store
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.channel_publisher import ChannelPublisher
from model_service.rollout.config_judges import LakeJudges
from model_service.rollout.launch import ENGINE_ACTOR, RolloutLauncher, begin, profile_of, queues
from model_service.rollout.observed import Observed
from model_service.rollout.observing import RolloutReports, marker, observe, with_rates
from model_service.rollout.rollout_commands import RolloutCommands
from model_service.rollout.rollout_record import ACTIVE, CONFIG, PROFILE, RolloutRecord
from model_service.rollout.transitions import Transition, supersede
from schemas.errors import PipelineError, RegistryError

log = logging.getLogger(__name__)

_ROUNDS = 16
"""Steps that one tick may take for one event; the next tick goes on."""
_REST_S = 1.0
"""Pause between observations while a document waits for publication."""
_LONGEST_REST_S = 5.0
"""Longest pause between observations: changes of policy and profiles do not show in the marker."""


@dataclass
class Engine:
    """Runs one observe-and-act cycle at a time; the process may be killed after any step of any of them.

    Args:
        registry: Shared with all other processes.
        channel_publisher: Publishes channel documents.
        launcher: Publishes models and drafts rollouts.
        profiles: Profiles of the devices.
        rates: Alarm rates of treated and held-out devices.
        judges: Judge configurations by what the lake holds.
        lifetime_s: Lifetime of a channel document.
        clock: UTC seconds.
    """

    registry: Registry
    channel_publisher: ChannelPublisher
    launcher: RolloutLauncher
    profiles: KnownProfiles
    rates: LakeRates
    judges: LakeJudges
    lifetime_s: float
    clock: Callable[[], float]
    _last_marker: tuple[Any, ...] = ()
    _due: float = 0.0
    _reports: dict[str, RolloutReports] = field(default_factory=dict)

    def __post_init__(self) -> None:
        highest_seq = self.channel_publisher.highest_seq
        self._commands = RolloutCommands(
            self.registry, self._observe, self.lifetime_s, highest_seq, self._groups
        )

    def _groups(self, connection: Connection) -> set[str]:
        """Groups that have devices, or that the policy names."""
        query = select(devices.c.grp).distinct()
        return {*connection.execute(query).scalars(), *self.launcher.repo.policy().canary}

    def tick(self) -> bool:
        """Observe, and act where something changed or is due; returns whether anything was done."""
        now = self.clock()
        if self._marker() == self._last_marker and now < self._due:
            return False
        done = False
        for _ in range(_ROUNDS):
            before, now = self._marker(), self.clock()
            # Step 1: publish what is stored, so that nothing is decided while a document's fate is unknown.
            moved = self.channel_publisher.step()
            # Step 2: publish new models, and carry out the commands of people.
            moved += self.launcher.step(now) + self._commands.step(now)
            # Step 3: advance the rollout of each group.
            stepped, self._due = self._step_groups(now)
            if not moved and not stepped:
                self._last_marker = before
                break
            done = True
        return done

    def _marker(self) -> tuple[Any, ...]:
        with self.registry.reading() as connection:
            return marker(connection)

    def _step_groups(self, now: float) -> tuple[int, float]:
        """Advance every group by one step; returns how many changed, and when to observe again."""
        with self.registry.reading() as connection:
            groups = {r.group for r in rollout_store.in_states(connection, ("draft", *ACTIVE))}
        outcomes = [self._try_group(group, now) for group in sorted(groups)]
        dues = [due for _, due in outcomes if due is not None]
        due = min([now + _LONGEST_REST_S, *dues])
        return sum(moved for moved, _ in outcomes), max(due, now + _REST_S / 4)

    def _try_group(self, group: str, now: float) -> tuple[bool, float | None]:
        """Advance one group; a failure in it must not stop the others."""
        try:
            return self._step_group(group, now)
        except PipelineError:
            raise
        except Exception:
            log.exception("unexpected error in group %s; retrying, the other groups go on", group)
            return False, now + _LONGEST_REST_S

    def _step_group(self, group: str, now: float) -> tuple[bool, float | None]:
        with self.registry.reading() as connection:
            current = rollout_store.active(connection, group)
            observed = None if current is None else self._observe(connection, current)
        if current is None or observed is None:
            return self._begin_next(group, now), now + _REST_S
        outcome = rollout_states.advance(current, observed, now)
        if outcome.record == current and not outcome.actions:
            return False, now + _REST_S if observed.pending() else outcome.due
        return self._keep(current, outcome, now), outcome.due

    def _keep(self, before: RolloutRecord, outcome: Transition, now: float) -> bool:
        """Store an outcome, unless the rollout changed after it was observed."""
        highest_seq = self.channel_publisher.highest_seq(before.group)
        with self.registry.transaction() as connection:
            if rollout_store.load(connection, before.rollout_id) != before:
                return False
            rollout_store.apply(
                connection, outcome.record, outcome.actions, now, self.lifetime_s, highest_seq
            )
        if outcome.record.state != before.state or outcome.record.phase != before.phase:
            log.info("%s: %s, phase %d", before.rollout_id, outcome.record.state, outcome.record.phase)
        return True

    def _begin_next(self, group: str, now: float) -> bool:
        """Start the group's next draft: of each queue the newest, which supersedes the older ones in it."""
        highest_seq = self.channel_publisher.highest_seq(group)
        superseded = False
        with self.registry.transaction() as connection:
            if rollout_store.active(connection, group) is not None:
                return False
            for *older, newest in queues(rollout_store.in_states(connection, ("draft",), group)):
                for record in older:
                    outcome, superseded = supersede(record, newest.rollout_id), True
                    rollout_store.apply(
                        connection, outcome.record, outcome.actions, now, self.lifetime_s, highest_seq
                    )
                if self._begin(connection, newest, now, highest_seq):
                    return True
        return superseded

    def _begin(self, connection: Connection, draft: RolloutRecord, now: float, highest_seq: int) -> bool:
        policy = self.channel_publisher.repo.policy()
        try:
            outcome = begin(connection, draft, policy, self.profiles)
        except RegistryError as exc:
            log.warning("%s cannot start yet: %s", draft.rollout_id, exc)
            return False
        actor = draft.created_by or ENGINE_ACTOR
        rollout_store.apply(
            connection, outcome.record, outcome.actions, now, self.lifetime_s, highest_seq, actor
        )
        log.info("%s: started with %s", draft.rollout_id, draft.shown_version)
        return True

    def _observe(self, connection: Connection, record: RolloutRecord) -> Observed:
        if record.rollout_id not in self._reports:
            self._reports[record.rollout_id] = RolloutReports.of(record)
        policy = self.channel_publisher.repo.policy()
        read = self._reports[record.rollout_id]
        observed = observe(connection, record, read, policy, self.profiles.family)
        if record.kind == PROFILE:
            return observed
        profile = profile_of(connection, record.group, record.family, self.profiles)
        if record.kind == CONFIG:
            return self.judges.with_finding(record, observed, profile, self.clock())
        return with_rates(connection, record, observed, self.rates, profile)

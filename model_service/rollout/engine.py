"""Runs all rollouts: feeds what is seen to the state machine, stores what it decides, brings it out."""

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
from model_service.rollout.announcer import Announcer
from model_service.rollout.launch import ENGINE_ACTOR, RolloutLauncher, begin, profile_of
from model_service.rollout.observed import Observed
from model_service.rollout.observing import RolloutReports, marker, observe, with_rates
from model_service.rollout.rollout_commands import RolloutCommands
from model_service.rollout.rollout_record import ACTIVE, RolloutRecord
from model_service.rollout.transitions import Transition, supersede
from schemas.errors import PipelineError, RegistryError

log = logging.getLogger(__name__)

_ROUNDS = 16
"""Steps that one tick may take for one event; the next tick goes on."""
_REST_S = 1.0
"""Pause between looks while something is on its way."""
_LONGEST_REST_S = 5.0
"""Look at least so often: the policy and the profiles are in no marker."""


@dataclass
class Engine:
    """One look after the other; every one may be the last.

    Args:
        registry: What all processes meet in.
        announcer: Brings channels out.
        publisher: Brings models out.
        profiles: Of the devices.
        rates: Of treated and held-out devices.
        lifetime_s: Of channel documents.
        clock: UTC seconds.
    """

    registry: Registry
    announcer: Announcer
    publisher: RolloutLauncher
    profiles: KnownProfiles
    rates: LakeRates
    lifetime_s: float
    clock: Callable[[], float]
    _seen: tuple[Any, ...] = ()
    _due: float = 0.0
    _reports: dict[str, RolloutReports] = field(default_factory=dict)

    def __post_init__(self) -> None:
        highest = self.announcer.highest
        self._commands = RolloutCommands(self.registry, self._observe, self.lifetime_s, highest, self._groups)

    def _groups(self, connection: Connection) -> set[str]:
        """Groups that have devices, or that the policy names."""
        query = select(devices.c.grp).distinct()
        return {*connection.execute(query).scalars(), *self.publisher.repo.policy().canary}

    def tick(self) -> bool:
        """Look, and act where something changed or came due; says whether anything was done."""
        now = self.clock()
        if self._marker() == self._seen and now < self._due:
            return False
        done = False
        for _ in range(_ROUNDS):
            before, now = self._marker(), self.clock()
            # Step 1: what was stored comes out first: nothing is decided on a document of unknown fate.
            moved = self.announcer.step()
            # Step 2: new models, and what people ask for.
            moved += self.publisher.step(now) + self._commands.step(now)
            # Step 3: each group's rollouts.
            stepped, self._due = self._step_groups(now)
            if not moved and not stepped:
                self._seen = before
                break
            done = True
        return done

    def _marker(self) -> tuple[Any, ...]:
        with self.registry.reading() as connection:
            return marker(connection)

    def _step_groups(self, now: float) -> tuple[int, float]:
        """One step of every group; how many moved, and when to look again."""
        with self.registry.reading() as connection:
            groups = {r.group for r in rollout_store.in_states(connection, ("draft", *ACTIVE))}
        outcomes = [self._try_group(group, now) for group in sorted(groups)]
        dues = [due for _, due in outcomes if due is not None]
        due = min([now + _LONGEST_REST_S, *dues])
        return sum(moved for moved, _ in outcomes), max(due, now + _REST_S / 4)

    def _try_group(self, group: str, now: float) -> tuple[bool, float | None]:
        """One group's trouble is its own."""
        try:
            return self._step_group(group, now)
        except PipelineError:
            raise
        except Exception:
            log.exception("group %s stumbled; the others go on", group)
            return False, now + _LONGEST_REST_S

    def _step_group(self, group: str, now: float) -> tuple[bool, float | None]:
        with self.registry.reading() as connection:
            current = rollout_store.active(connection, group)
            seen = None if current is None else self._observe(connection, current)
        if current is None or seen is None:
            return self._begin_newest(group, now), now + _REST_S
        outcome = rollout_states.advance(current, seen, now)
        if outcome.record == current and not outcome.actions:
            return False, now + _REST_S if seen.pending() else outcome.due
        return self._keep(current, outcome, now), outcome.due

    def _keep(self, before: RolloutRecord, outcome: Transition, now: float) -> bool:
        """Store an outcome, unless the rollout moved since it was looked at."""
        at_least = self.announcer.highest(before.group)
        with self.registry.transaction() as connection:
            if rollout_store.load(connection, before.rollout_id) != before:
                return False
            rollout_store.apply(connection, outcome.record, outcome.actions, now, self.lifetime_s, at_least)
        if outcome.record.state != before.state or outcome.record.phase != before.phase:
            log.info("%s: %s(%d)", before.rollout_id, outcome.record.state, outcome.record.phase)
        return True

    def _begin_newest(self, group: str, now: float) -> bool:
        """Start the group's newest draft; older ones make way."""
        policy = self.announcer.repo.policy()
        at_least = self.announcer.highest(group)
        with self.registry.transaction() as connection:
            drafts = rollout_store.in_states(connection, ("draft",), group)
            if not drafts or rollout_store.active(connection, group) is not None:
                return False
            *older, newest = drafts
            for record in older:
                outcome = supersede(record, newest.rollout_id)
                rollout_store.apply(
                    connection, outcome.record, outcome.actions, now, self.lifetime_s, at_least
                )
            try:
                outcome = begin(connection, newest, policy, self.profiles)
            except RegistryError as exc:
                log.warning("%s waits: %s", newest.rollout_id, exc)
                return bool(older)
            actor = newest.created_by or ENGINE_ACTOR
            rollout_store.apply(
                connection, outcome.record, outcome.actions, now, self.lifetime_s, at_least, actor
            )
        log.info("%s: started with %s", newest.rollout_id, newest.version)
        return True

    def _observe(self, connection: Connection, record: RolloutRecord) -> Observed:
        if record.rollout_id not in self._reports:
            self._reports[record.rollout_id] = RolloutReports.of(record)
        policy = self.announcer.repo.policy()
        read = self._reports[record.rollout_id]
        seen = observe(connection, record, read, policy, self.profiles.family)
        profile = profile_of(connection, record.group, record.family, self.profiles)
        return with_rates(connection, record, seen, self.rates, profile)

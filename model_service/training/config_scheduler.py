"""Computes configurations when they are due, from a pinned cut, and proposes them: one a family and group.

What is under way stands in a mark of the registry before anything is done about it: after a crash the same
computation is made again, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from feature_store import connect
from feature_store.current_profiles import current_profiles
from feature_store.cut import Cut
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from model_service.in_turn import each_in_turn
from model_service.limited_plug_ins import LimitedPlugIns
from model_service.registry import candidates
from model_service.registry.bundle_store import config_of, store_bytes
from model_service.registry.candidates import UNPUBLISHED, Candidate, CandidateState, candidate_of
from model_service.registry.database import Registry, note
from model_service.settings import ModelSettings
from model_service.training.config_building import (
    ConfigPlan,
    NotYetError,
    computed_bundle,
    config_inputs,
    same_parameters,
)
from model_service.training.proposing import Proposer
from model_service.training.run_store import read_mark, write_mark
from schemas.config_manifest import ConfigBundle
from schemas.config_spec import ConfigSpec
from schemas.errors import OperatorError, RejectedError
from schemas.profile import Profile

log = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Pause between two looks at what is due."""
NOTHING_NEW = "the parameters are those that the group has"


class ConfigDue(NamedTuple):
    """One family of one group."""

    profile: Profile
    spec: ConfigSpec
    group: str

    @property
    def mark(self) -> str:
        """Name of its mark in the registry."""
        return mark_name(self.spec.family, self.group)


def mark_name(family: str, group: str) -> str:
    """Name of the mark that holds what is known of one family of one group."""
    return f"config/{family}/{group}"


def request(connection: Connection, family: str, group: str) -> None:
    """Have a configuration computed at the next turn, due or not.

    Args:
        connection: A transaction.
        family: Of the configuration.
        group: The group.
    """
    mark = read_mark(connection, mark_name(family, group)) or {}
    write_mark(connection, mark_name(family, group), {**mark, "requested": True})


class ConfigScheduler:
    """Decides which configurations are due, and computes them.

    Args:
        settings: Folders of artifacts, repository and keys.
        registry: Holds candidates and marks.
        lake: Holds what is computed from.
        clock: Gives the current time, in UTC.
    """

    def __init__(
        self, settings: ModelSettings, registry: Registry, lake: Lake, clock: Callable[[], datetime]
    ) -> None:
        self._settings, self._registry, self._lake, self._clock = settings, registry, lake, clock
        self._cuts = CutStore(lake)
        self._proposer = Proposer(settings)
        self._groups: tuple[int, dict[str, tuple[str, ...]]] = (-1, {})

    def step(self) -> None:
        """Compute what is due; an error in one family of one group does not hold up the others.

        Raises:
            RetryableError: Lake or registry cannot be reached.
        """
        known = [p for p in current_profiles(self._lake).values() if p.configs]
        if not known or (cut := self._cuts.latest()) is None:
            return
        groups = self._groups_of(cut)
        wanted = [
            ConfigDue(profile, spec, group)
            for profile in known
            for group in groups.get(profile.name, ())
            for spec in profile.configs
        ]
        each_in_turn(wanted, lambda due: self._turn(due, cut))

    def _groups_of(self, cut: Cut) -> dict[str, tuple[str, ...]]:
        """Groups with active devices, by profile, as of a cut."""
        if self._groups[0] != cut.id:
            query = 'SELECT DISTINCT profile, "group" FROM fleet WHERE active ORDER BY ALL'
            with closing(connect(self._lake.root, cut.id, comments=False)) as connection:
                found = connection.execute(query).fetchall()
            by_profile: dict[str, list[str]] = {}
            for profile, group in found:
                by_profile.setdefault(profile, []).append(group)
            self._groups = cut.id, {name: tuple(groups) for name, groups in by_profile.items()}
        return self._groups[1]

    def _turn(self, due: ConfigDue, cut: Cut) -> None:
        asked = self._clock()
        now = asked.replace(microsecond=0)
        with self._registry.reading() as connection:
            mark = read_mark(connection, due.mark) or {}
            made = _of_group(connection, due)
        plan = None if mark.get("plan") is None else plan_of(mark["plan"])
        if plan is None:
            if not _is_due(due.spec, mark, cut, asked) or any(c.state in UNPUBLISHED for c in made):
                return
            plan = self._begin(due, mark, cut, now, made)
        try:
            self._build(due, mark, plan, now, made)
        except NotYetError as exc:
            self._end(due, plan, now, str(exc), "config_waits")
        except (RejectedError, OperatorError) as exc:
            log.warning("%s of group %s: %s", due.spec.family, due.group, exc)
            self._end(due, plan, now, f"{type(exc).__name__}: {exc}", "config_failed")

    def _begin(
        self, due: ConfigDue, mark: Mapping[str, Any], cut: Cut, now: datetime, made: Iterable[Candidate]
    ) -> ConfigPlan:
        family, group = due.spec.family, due.group
        champion = _newest(made, CandidateState.PUBLISHED)
        with self._registry.transaction() as connection:
            major = candidates.next_major(connection, family)
            plan = ConfigPlan(
                family=family,
                group=group,
                pin=f"config-{family}-{group}-{major}",
                cut=cut.id,
                known_at=cut.created,
                computed_at=now,
                champion="" if champion is None else champion.version,
                major=major,
            )
            # Step 1: what is to be computed. After a crash the same plan is carried out.
            write_mark(connection, due.mark, {**mark, "plan": stored_plan(plan), "requested": False})
        return plan

    def _build(
        self, due: ConfigDue, mark: Mapping[str, Any], plan: ConfigPlan, now: datetime, made: list[Candidate]
    ) -> None:
        # Step 2: pin the cut; a repetition sets the same pin.
        if plan.pin not in self._cuts.pins():
            self._cuts.pin(plan.pin, plan.cut)
        before = self._values(made, plan.champion)
        opened = config_inputs(self._lake.root, due.profile, due.spec, plan, before)
        with opened as inputs, LimitedPlugIns() as plug_ins:
            bundle = computed_bundle(inputs, plan, plug_ins)
        newest = next((c for c in reversed(made) if c.state is not CandidateState.REFUSED), None)
        if newest is not None and same_parameters(bundle, self._values(made, newest.version)):
            self._end(due, plan, now, NOTHING_NEW)
            return
        # Step 3: the artifact, under its digest.
        sha256, length = store_bytes(self._settings.artifacts, bundle.packed())
        # Step 4: the trainer's signature. Devices accept nothing before the gate has signed, too.
        self._proposer.propose(bundle.manifest, sha256)
        # Step 5: the candidate and the end of the computation, in one transaction. Now the gate finds it.
        self._hand_over(due, plan, bundle, sha256, length, now)
        self._release_pins(made)

    def _hand_over(
        self, due: ConfigDue, plan: ConfigPlan, bundle: ConfigBundle, sha256: str, length: int, now: datetime
    ) -> None:
        manifest, at = bundle.manifest, now.timestamp()
        candidate = candidate_of(
            manifest, run_id="", champion=plan.champion, sha256=sha256, length=length, now=at
        )
        version = candidate.version
        detail = {"group": due.group, "sha256": sha256, "champion": plan.champion, "cut": plan.cut}
        with self._registry.transaction() as connection:
            candidates.insert(connection, candidate, manifest)
            self._write_end(connection, due, plan, at, f"made {version}")
            note(connection, f"model/{version}/computed", version, "config_computed", detail, at)
        log.info("computed %s for group %s", version, due.group)

    def _end(self, due: ConfigDue, plan: ConfigPlan, now: datetime, said: str, step: str = "") -> None:
        """End a computation that made nothing; ``step`` names the event of it, if there is one."""
        at = now.timestamp()
        with self._registry.transaction() as connection:
            self._write_end(connection, due, plan, at, said)
            if step:
                end = step.removeprefix("config_")
                key = f"config/{due.spec.family}/{due.group}/{plan.major}/{plan.cut}/{end}"
                note(connection, key, due.mark, step, {"why": said}, at)
        if plan.pin in self._cuts.pins():
            self._cuts.unpin(plan.pin)

    @staticmethod
    def _write_end(connection: Connection, due: ConfigDue, plan: ConfigPlan, at: float, said: str) -> None:
        requested = bool((read_mark(connection, due.mark) or {}).get("requested"))
        mark = {"plan": None, "at": at, "cut": plan.cut, "said": said, "requested": requested}
        write_mark(connection, due.mark, mark)

    def _values(self, made: Iterable[Candidate], version: str) -> Mapping[str, Any]:
        found = next((c for c in made if c.version == version), None)
        return {} if found is None else config_of(self._settings.artifacts, found.sha256, version).values

    def _release_pins(self, made: Iterable[Candidate]) -> None:
        """Let go of the cuts of configurations that were judged, but for the newest that is published."""
        kept = _newest(made, CandidateState.PUBLISHED)
        pins = self._cuts.pins()
        with self._registry.reading() as connection:
            names = {
                c.version: candidates.manifest_of(connection, c.version)["lineage"]["pin"]
                for c in made
                if c.state not in UNPUBLISHED and c != kept
            }
        for pin in names.values():
            if pin in pins:
                self._cuts.unpin(pin)


def stored_plan(plan: ConfigPlan) -> dict[str, Any]:
    """A plan as a mark holds it."""
    times = {"known_at": plan.known_at.isoformat(), "computed_at": plan.computed_at.isoformat()}
    return {**plan.__dict__, **times}


def plan_of(stored: Mapping[str, Any]) -> ConfigPlan:
    """The plan in a mark."""
    times = {name: datetime.fromisoformat(stored[name]) for name in ("known_at", "computed_at")}
    return ConfigPlan(**{**stored, **times})


def _of_group(connection: Connection, due: ConfigDue) -> list[Candidate]:
    """Candidates of the family that were computed for the group, oldest first."""
    made = candidates.every_candidate(connection, due.spec.family)
    return [c for c in made if candidates.manifest_of(connection, c.version).get("group") == due.group]


def _newest(made: Iterable[Candidate], state: CandidateState) -> Candidate | None:
    return max((c for c in made if c.state is state), key=lambda c: c.major, default=None)


def _is_due(spec: ConfigSpec, mark: Mapping[str, Any], cut: Cut, now: datetime) -> bool:
    if mark.get("requested"):
        return True
    if "at" not in mark:
        return True
    return now.timestamp() - float(mark["at"]) >= spec.every_s and mark.get("cut") != cut.id

"""From a signed candidate to a running rollout: publication, draft, baseline, and the draw of its cohorts."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, select

from model_service.fleet.known_profiles import KnownProfiles
from model_service.registry import candidates
from model_service.registry.bundle_store import GENERIC_FAMILY, factory_families
from model_service.registry.candidates import Candidate, CandidateState
from model_service.registry.database import Registry, note
from model_service.registry.registry_tables import device_status, devices, rollouts
from model_service.rollout import rollout_states, rollout_store
from model_service.rollout.cohort_draw import draw
from model_service.rollout.config_rollouts import planned_config
from model_service.rollout.device_fit import unfit
from model_service.rollout.observing import members
from model_service.rollout.profile_rollouts import begin_profile
from model_service.rollout.rollout_record import CONFIG, PROFILE, RolloutRecord
from model_service.rollout.transitions import Transition
from model_service.trust import model_targets
from model_service.trust.online import OnlineSigner
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import FleetPolicy, Release, artifact_path
from schemas.config_manifest import no_config
from schemas.errors import RegistryError, RejectedError, RetryableError
from schemas.learning_policy import RolloutPolicy
from schemas.model_version import ModelVersion
from schemas.profile import Profile

log = logging.getLogger(__name__)
ENGINE_ACTOR = "engine"
SETTLED_S = 60.0
"""A group is settled when nobody has joined it for so long, or for the profile's ``soak_s`` where less."""


@dataclass(frozen=True)
class RolloutLauncher:
    """Publishes the models that trainer and gate signed, and drafts the rollouts that profiles ask for."""

    registry: Registry
    repo: TrustRepository
    online: OnlineSigner
    profiles: KnownProfiles

    def step(self, now: float) -> int:
        """Publish all signed candidates; returns how many were."""
        with self.registry.reading() as connection:
            signed = candidates.in_states(connection, (CandidateState.SIGNED,))
        published = sum(self._try(candidate, now) for candidate in sorted(signed, key=lambda c: c.major))
        return published + self._offer_first_models(now)

    def _offer_first_models(self, now: float) -> int:
        """Draft a rollout where devices joined after their family's first model was published.

        A first model is often made before any device is there. A group that had a rollout of the family,
        whatever became of it, gets none by itself.
        """
        with self.registry.reading() as connection:
            found = late_groups(connection, self.profiles, now)
        if found:
            with self.registry.transaction() as connection:
                for group, family, version in late_groups(connection, self.profiles, now):
                    rollout_store.create(connection, draft(group, family, version, ENGINE_ACTOR), now)
        return len(found)

    def _try(self, candidate: Candidate, now: float) -> bool:
        """Publish one candidate; a failure must not hold up the others."""
        try:
            return self._publish(candidate, now)
        except (RetryableError, RejectedError) as exc:
            log.warning("%s is not published yet: %s", candidate.version, exc)
            return False

    def _publish(self, candidate: Candidate, now: float) -> bool:
        version, family = candidate.version, candidate.family
        # Step 1: make it visible. If that was done already, nothing happens.
        model_targets.publish_model(self.repo, family, self.online, artifact_path(family, version))
        # Step 2: record it and draft rollouts, in one transaction. After a crash before it, step 1 repeats.
        with self.registry.transaction() as connection:
            if not candidates.advance(connection, candidate, CandidateState.PUBLISHED, now):
                return False
            detail = {"family": family, "sha256": candidate.sha256[:16]}
            note(connection, f"model/{version}/published", version, "published", detail, now)
            for group in groups_of(connection, candidate, self.profiles):
                drafted = draft(group, family, version, ENGINE_ACTOR, config=candidate.is_config)
                rollout_store.create(connection, drafted, now)
        log.info("published %s", version)
        return True


def draft(
    group: str, family: str, version: str, actor: str, *, security: bool = False, config: bool = False
) -> RolloutRecord:
    """A rollout that has not begun; it gets its id when it is stored."""
    return RolloutRecord(
        rollout_id="",
        group=group,
        family=family,
        version=version,
        created_by=actor,
        security=security,
        kind=CONFIG if config else "model",
    )


def groups_of(connection: Connection, candidate: Candidate, profiles: KnownProfiles) -> list[str]:
    """Groups in which a candidate's rollout begins by itself; a configuration is for one group alone."""
    if not candidate.is_config:
        return automatic_groups(connection, candidate.family, profiles)
    stated = candidates.manifest_of(connection, candidate.version)
    known = profiles.named(str(stated["profile"]))
    return [str(stated["group"])] if known is not None and known.rollout.auto else []


def automatic_groups(connection: Connection, family: str, profiles: KnownProfiles) -> list[str]:
    """Groups that have active devices of a profile with this family and automatic rollouts."""
    rows = connection.execute(select(devices.c.grp, devices.c.profile).where(devices.c.active).distinct())
    groups = {
        group
        for group, name in rows
        if (p := profiles.named(name)) is not None and p.model.name == family and p.rollout.auto
    }
    return sorted(groups)


def late_groups(connection: Connection, profiles: KnownProfiles, now: float) -> list[tuple[str, str, str]]:
    """Group, family and newest published version, where devices still wait for their family's first model.

    Only families that nothing ships for: others have a model from the factory. A group waits until it is
    settled, so that its devices are drawn together.
    """
    joined: dict[tuple[str, str], list[float]] = defaultdict(list)
    columns = devices.c.grp, devices.c.profile, devices.c.enrolled_at
    for group, name, at in connection.execute(select(*columns).where(devices.c.active)):
        known = profiles.named(name)
        if known is not None and known.rollout.auto and known.model.name not in _shipped_families():
            joined[group, known.model.name].append(at + min(known.rollout.soak_s, SETTLED_S))
    settled = {key for key, times in joined.items() if max(times) <= now}
    if not settled:
        return []
    tried = {(r.grp, r.family) for r in connection.execute(select(rollouts.c.grp, rollouts.c.family))}
    newest = {
        family: candidates.champion_version(connection, family)
        for family in {family for _, family in settled - tried}
    }
    return [(g, f, version) for g, f in sorted(settled - tried) if (version := newest[f]) is not None]


@cache
def _shipped_families() -> frozenset[str]:
    return frozenset(factory_families())


def begin(
    connection: Connection, record: RolloutRecord, policy: FleetPolicy, profiles: KnownProfiles
) -> Transition:
    """Fix the plan of a draft and start it.

    Args:
        connection: A transaction.
        record: The draft.
        policy: The signed policy.
        profiles: Profiles of the devices.

    Raises:
        RegistryError: The candidate is not published, or no baseline is known.
    """
    if record.kind == PROFILE:
        return begin_profile(connection, record, profiles)
    if record.kind == CONFIG:
        release = release_of(published(connection, record.version))
        settings = settings_of(connection, record.group, record.family, profiles)
        baseline = baseline_of(connection, record.group, record.family, profiles, config=True)
        return rollout_states.begin(planned_config(connection, record, release, baseline, settings))
    release = release_of(published(connection, record.version))
    baseline = baseline_of(connection, record.group, record.family, profiles)
    among = members(connection, record.group, record.family, policy, profiles.family)
    cannot = unfit(connection, among, record.version)
    settings = settings_of(connection, record.group, record.family, profiles)
    drawn = draw(record.rollout_id, [m for name, m in among.items() if name not in cannot], settings)
    planned = record.model_copy(
        update={
            "target": {**baseline, record.family: release},
            "baseline": baseline,
            "settings": settings,
            "salt": drawn.salt,
            "canary": drawn.canary,
            "holdout": drawn.holdout,
            "imbalance": drawn.imbalance,
        }
    )
    return rollout_states.begin(planned)


def queues(drafts: Sequence[RolloutRecord]) -> list[list[RolloutRecord]]:
    """Drafts of a group by profile or family, in the order in which one of them starts.

    Security first, then versions of profiles, which are soon over, then models, then configurations.
    """
    order = {PROFILE: 0, CONFIG: 2}
    found: dict[tuple[str, str], list[RolloutRecord]] = {}
    for draft in drafts:
        found.setdefault((draft.kind, draft.family), []).append(draft)
    return sorted(found.values(), key=lambda q: (not q[-1].security, order.get(q[-1].kind, 1)))


def published(connection: Connection, version: str) -> Candidate:
    """A candidate that channel documents may name.

    Raises:
        RegistryError: It is unknown or not published.
    """
    found = candidates.get(connection, version)
    if found is None:
        raise RegistryError(f"no model {version}: `edgeloop model list`")
    if found.state is not CandidateState.PUBLISHED:
        raise RegistryError(
            f"model {version} is {found.state}, not published: `edgeloop model gates {version}`"
        )
    return found


def release_of(candidate: Candidate) -> Release:
    """A candidate as channel documents name it."""
    return Release(version=candidate.version, sha256=candidate.sha256)


def baseline_of(
    connection: Connection, group: str, family: str, profiles: KnownProfiles, *, config: bool = False
) -> dict[str, Release]:
    """By family, the target of the group's last completed rollout; the factory set where there was none.

    Args:
        connection: A transaction.
        group: The group.
        family: Of the rollout that is to begin.
        profiles: Profiles of the devices.
        config: It is a family of configurations: before the first one a device has none.

    Raises:
        RegistryError: The family's factory set is not known.
    """
    completed = rollout_store.last_completed(connection, group)
    names = connection.execute(select(devices.c.profile).where(devices.c.grp == group).distinct()).scalars()
    families = {family, *(f for name in names if (f := profiles.family(name)))}
    before = {**({family: no_config(family)} if config else {}), **completed}
    known = {f: before.get(f) or factory_release(connection, group, f) for f in families | set(completed)}
    if known[family] is None:
        raise RegistryError(
            f"the factory set of {family} is not known: start a device of group {group},"
            " the rollout begins once it has reported"
        )
    return {f: release for f, release in sorted(known.items()) if release is not None}


def factory_release(connection: Connection, group: str, family: str) -> Release | None:
    """A family's factory set: what most devices of the group report, else the first candidate's champion."""
    rows = connection.execute(
        select(device_status.c.installed)
        .join(devices, devices.c.device_id == device_status.c.device_id)
        .where(devices.c.grp == group)
    ).scalars()
    reported = Counter(i[family]["version"] for i in rows if family in i and not i[family]["sha256"])
    if reported:
        return Release(version=reported.most_common(1)[0][0])
    made = sorted(candidates.every_candidate(connection, family), key=lambda c: c.major)
    began = (ModelVersion.parse(candidate.champion) for candidate in made)
    factory = (v for v in began if v.is_factory and v.family in {family, GENERIC_FAMILY})
    return next((Release(version=str(v)) for v in factory), None)


def settings_of(connection: Connection, group: str, family: str, profiles: KnownProfiles) -> RolloutPolicy:
    """Rollout policy of the group's devices of a family."""
    profile = profile_of(connection, group, family, profiles)
    return RolloutPolicy() if profile is None else profile.rollout


def profile_of(connection: Connection, group: str, family: str, profiles: KnownProfiles) -> Profile | None:
    """Most frequent profile of the group's devices with this family; else the one of the family's name."""
    rows = connection.execute(select(devices.c.profile).where(devices.c.grp == group, devices.c.active))
    found = (profiles.named(name) for name, _ in Counter(rows.scalars()).most_common())
    fitting = (p for p in found if p is not None and (p.model.name == family or p.config(family)))
    return next(fitting, None) or profiles.named(family)

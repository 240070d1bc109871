"""Pushes a profile: its scores are compared, its version is signed, and its rollout is drafted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from feature_store.version_store import VersionStore
from model_service.models.bundle_files import BundleFiles
from model_service.registry.bundle_store import bundle_of_version, starting_bundle_of
from model_service.registry.database import Registry
from model_service.registry.registry_tables import devices
from model_service.rollout import rollout_store
from model_service.rollout.profile_rollouts import draft_profiles, queued_behind
from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring
from model_service.trust.profile_signing import PushedVersion, sign_profile
from model_service.trust.repository import TrustRepository
from schemas.errors import RegistryError
from schemas.profile import Profile
from schemas.profile_changes import Authority, Scored
from schemas.version_names import VersionName

Golden = Callable[[BundleFiles], Scored | None]
"""From a model to what scores its golden windows; None: it has none that fit one profile."""


@dataclass(frozen=True)
class DraftedRollout:
    """A rollout that a push drafted.

    Attributes:
        behind: Id of the rollout that must end first; empty: none is active.
    """

    rollout_id: str
    group: str
    behind: str


@dataclass(frozen=True)
class ProfilePush:
    """What a push did.

    Attributes:
        rollouts: Drafted now; none where each group has one, or runs it.
        drafted: False: no model service ever ran here, so nothing could be drafted.
    """

    signed: PushedVersion
    rollouts: tuple[DraftedRollout, ...]
    drafted: bool


def push_profile(
    settings: ModelSettings,
    profile: Profile,
    groups: Sequence[str],
    authority: Authority,
    keyring: Keyring | None,
    golden: Golden,
    actor: str,
) -> ProfilePush:
    """Make a profile the next version of its name, and draft its rollout in each group. A repeat is harmless.

    Args:
        settings: Settings of the stack.
        profile: The content.
        groups: Rollout groups that it is for.
        authority: ``policy``: the policy role signs as well.
        keyring: Holds the keys; None: those on this machine.
        golden: Scores a model's golden windows, as a device does.
        actor: Who pushes.

    Raises:
        ProfileError: It cannot follow the newest version, or the policy role must sign it and does not.
        RegistryError: There is no such group.
        OperatorError: A key is not available.
    """
    if not settings.has_registry:
        scored = _together([golden(starting_bundle_of(profile.model.family))])
        return ProfilePush(sign_profile(settings, profile, groups, authority, keyring, scored), (), False)
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        with registry.reading() as connection:
            _require_groups(connection, settings, groups)
            scored = scored_in_force(connection, settings, profile.model.family, groups, golden)
        # Step 1: sign. A crash after it leaves a version that no channel names; the repeat drafts it.
        signed = sign_profile(settings, profile, groups, authority, keyring, scored)
        # Step 2: the drafts, which the engine finds.
        with registry.transaction() as connection:
            drafted = _draft(connection, settings, signed.version, actor)
    return ProfilePush(signed, drafted, True)


def scored_in_force(
    connection: Connection, settings: ModelSettings, family: str, groups: Sequence[str], golden: Golden
) -> Scored | None:
    """What scores the golden windows of all models that devices of these groups run; None: one has none."""
    return _together([golden(bundle) for bundle in bundles_in_force(connection, settings, family, groups)])


def bundles_in_force(
    connection: Connection, settings: ModelSettings, family: str, groups: Sequence[str]
) -> list[BundleFiles]:
    """The models that devices of these groups run, each once."""
    completed = (rollout_store.last_completed(connection, group).get(family) for group in groups)
    versions = {None if release is None else release.version for release in completed}
    start = starting_bundle_of(family)
    return [
        start
        if version in (None, start.manifest.version)
        else bundle_of_version(connection, settings.artifacts, family, version)
        for version in sorted(versions, key=str)
    ]


def _require_groups(connection: Connection, settings: ModelSettings, groups: Sequence[str]) -> None:
    """Refuse a group that has no devices and is not in the policy: a misspelt one reaches nobody."""
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts)
    known = {*connection.execute(select(devices.c.grp).distinct()).scalars(), *repo.policy().canary}
    if unknown := sorted(set(groups) - known):
        raise RegistryError(f"no group '{unknown[0]}'; there are: {', '.join(sorted(known))}")


def _draft(
    connection: Connection, settings: ModelSettings, version: VersionName, actor: str
) -> tuple[DraftedRollout, ...]:
    store = VersionStore(settings.lake_root)
    signed = store.signed(version)
    if signed is None:
        return ()
    follows = signed.statement.follows
    before = store.signed(VersionName(version.name, follows)) if follows else None
    followed = None if before is None else before.statement
    drafts = draft_profiles(connection, signed.statement, followed, actor, time.time())
    return tuple(
        DraftedRollout(draft.rollout_id, draft.group, queued_behind(connection, draft.group))
        for draft in drafts
    )


def _together(scored: Sequence[Scored | None]) -> Scored | None:
    """What scores the golden windows of several models; None: one of them has none."""
    known = [one for one in scored if one is not None]
    if not known or len(known) < len(scored):
        return None

    def scores(profile: Profile) -> NDArray[np.float64]:
        return np.concatenate([one(profile) for one in known])

    return scores

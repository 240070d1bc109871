"""Signs versions of profiles, and bounds of what an operator may sign, into lake and repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.version_store import VersionStore
from model_service.settings import ModelSettings
from model_service.trust.founding import add_delegations
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import CryptoSigner, newer, sign, target_file
from model_service.trust.online import OnlineSigner
from model_service.trust.policy import publish_document
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import OFFLINE_LIFETIME, PROFILE_CHANNEL_PLAN, PROFILES_PLAN, plans
from schemas.channel_documents import POLICY_ROLE
from schemas.errors import ProfileError, ProfileVersionError
from schemas.instants import utc_now
from schemas.profile import Profile
from schemas.profile_bounds import BOUNDS_PATH, DEFAULT_BOUNDS, ProfileBounds, ValueLimits
from schemas.profile_changes import Authority, ProfileVerdict, Scored, judge
from schemas.profile_statement import (
    PROFILES_ROLE,
    SignedVersion,
    VersionKey,
    VersionSignature,
    VersionStatement,
)
from schemas.profile_versions import ProfileVersion
from schemas.version_chain import LONGEST, version_path
from schemas.version_names import VersionName

FIRST = ProfileVerdict(True, "policy", ("it is the first version of its name",))
"""Verdict on a profile that follows none: it says what may leave devices, and what they do."""


@dataclass(frozen=True)
class PushedVersion:
    """What a push did.

    Attributes:
        version: The newest version, which holds the pushed content.
        verdict: On the change that it makes.
        is_new: False: the newest version had this content already.
    """

    version: VersionName
    verdict: ProfileVerdict
    is_new: bool


def sign_profile(
    settings: ModelSettings,
    profile: Profile,
    groups: Iterable[str],
    authority: Authority,
    keyring: Keyring | None = None,
    scored: Scored | None = None,
    now: Callable[[], datetime] = utc_now,
) -> PushedVersion:
    """Make a profile the next version of its name: signed, in the lake, a target. A repeat changes nothing.

    Args:
        settings: Settings of the stack.
        profile: The content.
        groups: Rollout groups that it may be delivered to.
        authority: ``policy``: the policy role signs as well.
        keyring: Holds the keys; None: those on this machine.
        scored: Scores golden windows, for a change of ranges.
        now: Clock of what is issued.

    Raises:
        ProfileError: It cannot follow the newest version, or the policy role must sign it and does not.
        OperatorError: A key is not available.
    """
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    store, keys = VersionStore(settings.lake_root), keyring or Keyring(settings)
    _add_role(repo, settings, keys)
    with repo.locked() as published:
        # Step 1: the lake's keys and bounds. A crash after it leaves keys that signed nothing yet.
        bounds = _register(published, repo, store)
        newest = store.newest(profile.name)
        before = None if newest is None else store.version(newest)
        if before is not None and before.profile == profile:
            _publish(settings, repo, published, store, before.name, keys)
            return PushedVersion(before.name, ProfileVerdict(True, "operator"), is_new=False)
        verdict = FIRST if before is None else judge(before.profile, profile, bounds, scored)
        if authority == "operator" and _chain(store, newest) > LONGEST:
            reason = f"{LONGEST} versions have followed the last that it signed, and devices verify no more"
            verdict = ProfileVerdict(verdict.compatible, "policy", (*verdict.reasons, reason))
        _require(verdict, profile, authority)
        statement = _statement(profile, before, tuple(groups), bounds, now())
        signed = _signed(published, profile, statement, authority, keys)
        # Step 2: the lake: from here on workers judge by it. A crash after it: the repeat publishes it.
        Lake.open(settings.lake_root)
        store.put(signed)
        if before is None:
            _register_name(settings, profile)
        # Step 3: the target.
        _publish(settings, repo, published, store, signed.statement.version, keys)
    return PushedVersion(signed.statement.version, verdict, is_new=True)


def published_bounds(repo: TrustRepository) -> ProfileBounds:
    """Bounds in force; those that ship where the policy role has signed none."""
    data = repo.document(BOUNDS_PATH)
    return DEFAULT_BOUNDS if data is None else ProfileBounds.model_validate_json(data)


def set_bounds(
    settings: ModelSettings,
    limits: Mapping[str, ValueLimits],
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> ProfileBounds:
    """Publish the bounds with changes; limits replace those of the same pattern, and come before all others.

    Raises:
        OperatorError: The policy key is not available.
    """
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    with repo.locked() as published:
        before, at = published_bounds(repo), now()
        others = {pattern: found for pattern, found in before.limits.items() if pattern not in limits}
        bounds = ProfileBounds(
            seq=before.seq + 1, limits={**limits, **others}, issued=at, expires=at + OFFLINE_LIFETIME
        )
        data = bounds.model_dump_json().encode()
        publish_document(
            repo, published, BOUNDS_PATH, data, keyring or Keyring(settings), OnlineSigner.load(settings)
        )
    VersionStore(settings.lake_root).add_bounds(bounds)
    return bounds


def _add_role(repo: TrustRepository, settings: ModelSettings, keys: Keyring) -> None:
    missing = [p for p in (PROFILES_PLAN, PROFILE_CHANNEL_PLAN) if p.name not in repo.versions()]
    if missing:
        add_delegations(repo, keys, OnlineSigner.load(settings), missing)


def _register(published: PublishedState, repo: TrustRepository, store: VersionStore) -> ProfileBounds:
    """Tell the lake which keys may sign, and the bounds in force; returns these."""
    for role in (PROFILES_ROLE, POLICY_ROLE):
        for key_id in published.targets.get_delegated_role(role).keyids:
            public = published.targets.get_key(key_id).keyval["public"]
            store.add_key(key_id, VersionKey(role, str(public)))
    bounds = published_bounds(repo)
    store.add_bounds(bounds)
    return bounds


def _chain(store: VersionStore, newest: VersionName | None) -> int:
    """Length of the chain of a further version, from the last of the policy role on; 0: it is the first."""
    keys, length, name = store.keys(), 0, newest
    while name is not None and length < LONGEST:
        signed = store.signed(name)
        length += 1
        if signed is None or "policy" in signed.signed_by(keys) or not signed.statement.follows:
            break
        name = VersionName(name.name, signed.statement.follows)
    return length + 1 if newest is not None else 0


def _require(verdict: ProfileVerdict, profile: Profile, authority: Authority) -> None:
    if not verdict.compatible:
        raise ProfileError(f"{profile.name} cannot follow its newest version: {'; '.join(verdict.reasons)}")
    if verdict.authority == "policy" and authority != "policy":
        reasons = "; ".join(verdict.reasons)
        raise ProfileError(
            f"the policy role must sign this version of {profile.name} (`push --policy`): {reasons}"
        )


def _statement(
    profile: Profile,
    before: ProfileVersion | None,
    groups: tuple[str, ...],
    bounds: ProfileBounds,
    at: datetime,
) -> VersionStatement:
    follows = 0 if before is None else before.number
    return VersionStatement(
        name=profile.name,
        number=follows + 1,
        sha256=hashlib.sha256(profile.canonical_form()).hexdigest(),
        groups=groups,
        follows=follows,
        bounds=bounds.seq,
        issued=at,
    )


def _signed(
    published: PublishedState,
    profile: Profile,
    statement: VersionStatement,
    authority: Authority,
    keys: Keyring,
) -> SignedVersion:
    roles = (PROFILES_ROLE, POLICY_ROLE) if authority == "policy" else (PROFILES_ROLE,)
    signers = [s for role in roles for s in _quorum(published, role, keys)]
    data = statement.signed_bytes()
    signatures = tuple(_signature(signer, data) for signer in signers)
    return SignedVersion(statement, profile.canonical_form(), signatures)


def _quorum(published: PublishedState, role: str, keys: Keyring) -> list[CryptoSigner]:
    return keys.quorum(published.targets, role, plans(published.roles)[role].keys)


def _signature(signer: CryptoSigner, data: bytes) -> VersionSignature:
    made = signer.sign(data)
    return VersionSignature(made.keyid, made.signature)


def _register_name(settings: ModelSettings, profile: Profile) -> None:
    """Make the profile's table, and let rows that name no version be judged: by the first one.

    A name that is registered already stays as it is: its devices of release 0.2.0 are judged by that.
    """
    registry = ProfileRegistry(Lake.open(settings.lake_root))
    if profile.name not in registry.profiles():
        registry.register(profile)


def _publish(
    settings: ModelSettings,
    repo: TrustRepository,
    published: PublishedState,
    store: VersionStore,
    name: VersionName,
    keys: Keyring,
) -> None:
    """Make a stored version a target, unless it is one."""
    path, signed = version_path(name), store.signed(name)
    if signed is None:
        raise ProfileVersionError(f"{name} is not in the lake")
    data = json.dumps(signed.to_json(), sort_keys=True, separators=(",", ":")).encode()
    entry = target_file(path, data)
    role = newer(published.roles[PROFILES_ROLE], repo.now(), OFFLINE_LIFETIME)
    if role.targets.get(path) == entry:
        return
    role.targets[path] = entry
    files = {repo.target_file(path, entry.hashes["sha256"]): data}
    signed_role = sign(role, _quorum(published, PROFILES_ROLE, keys))
    OnlineSigner.load(settings).publish(repo, published, {PROFILES_ROLE: signed_role}, files)

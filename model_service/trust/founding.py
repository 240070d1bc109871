"""Creates the first version of every role, and the delegations that are added later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring, public_key
from model_service.trust.keys import new_passphrase
from model_service.trust.metadata import (
    CryptoSigner,
    DelegatedRole,
    Delegations,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    meta_file,
    newer,
    sign,
    stamp,
    target_file,
)
from model_service.trust.online import Lifetimes, OnlineSigner, write_root
from model_service.trust.policy import first_policy, policy_bytes
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import OFFLINE_LIFETIME, TOP_LEVEL, TOP_LEVEL_KEYS, RolePlan, delegated
from schemas.channel_documents import POLICY_PATH, POLICY_ROLE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from schemas.cohorts import SaltedShare


def create_repository(
    settings: ModelSettings, families: Iterable[str], groups: Mapping[str, SaltedShare], now: datetime
) -> None:
    """Make all keys and the first metadata in an empty folder.

    Metadata refer to each other by version and digest, so they are made from the leaves up: delegated roles,
    targets, snapshot, timestamp. The root names keys alone.
    """
    keyring = Keyring(settings, passphrase=new_passphrase(settings.offline_keys))
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts)
    settings.proposals.mkdir(parents=True, exist_ok=True)
    plans = delegated(families)
    keys = {
        plan.name: [keyring.get_or_make(location) for location in plan.keys] for plan in (*TOP_LEVEL, *plans)
    }
    policy = policy_bytes(first_policy(groups, now))
    document = target_file(POLICY_PATH, policy)
    repo.files.put(repo.target_file(POLICY_PATH, document.hashes["sha256"]), policy)
    files: dict[str, bytes] = {}
    for plan in plans:
        role = Targets()
        stamp(role, now, plan.lifetime)
        if plan.name == POLICY_ROLE:
            role.targets[POLICY_PATH] = document
        files[plan.name] = sign(role, keys[plan.name])
    targets = Targets(delegations=Delegations({}, {}))
    stamp(targets, now, OFFLINE_LIFETIME)
    for plan in plans:
        delegate(targets, plan, keys[plan.name])
    files[TARGETS] = sign(targets, keys[TARGETS][:2])  # the threshold: two of the three keys
    lifetimes = Lifetimes.of(settings)
    snapshot = Snapshot(meta={f"{name}.json": meta_file(1, data) for name, data in files.items()})
    stamp(snapshot, now, lifetimes.snapshot)
    files[SNAPSHOT] = sign(snapshot, keys[SNAPSHOT])
    timestamp = Timestamp(snapshot_meta=meta_file(1, files[SNAPSHOT]))
    stamp(timestamp, now, lifetimes.timestamp)
    for name, data in files.items():
        repo.files.put(repo.metadata / f"1.{name}.json", data)
    write_root(repo, 1, sign(_first_root(keys, now), keys[ROOT][:2]))
    repo.files.put(repo.metadata / "timestamp.json", sign(timestamp, keys[TIMESTAMP]))


def delegate(targets: Targets, plan: RolePlan, keys: Iterable[CryptoSigner]) -> None:
    """Add a terminating delegation to the targets."""
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise ValueError("these targets have no delegations")
    delegations.roles[plan.name] = DelegatedRole(plan.name, [], plan.threshold, True, list(plan.paths))
    for signer, location in zip(keys, plan.keys, strict=True):
        targets.add_key(public_key(signer, location), plan.name)


def add_delegations(
    repo: TrustRepository, keyring: Keyring, online: OnlineSigner, plans: Iterable[RolePlan]
) -> None:
    """Publish new targets that delegate to further roles, and the first, empty version of each role.

    Raises:
        OperatorError: Two of the targets keys are not available.
    """
    with repo.locked() as published:
        now = repo.now()
        targets = newer(published.targets, now, OFFLINE_LIFETIME)
        files: dict[str, bytes] = {}
        for plan in plans:
            if plan.name in published.roles:
                continue
            keys = [keyring.get_or_make(location) for location in plan.keys]
            delegate(targets, plan, keys)
            role = Targets()
            stamp(role, now, plan.lifetime)
            files[plan.name] = sign(role, keys)
        if files:
            signers = keyring.quorum(published.root, TARGETS, TOP_LEVEL_KEYS[TARGETS])
            online.publish(repo, published, {TARGETS: sign(targets, signers), **files})


def _first_root(keys: Mapping[str, list[CryptoSigner]], now: datetime) -> Root:
    root = Root(consistent_snapshot=True)
    stamp(root, now, OFFLINE_LIFETIME)
    for plan in TOP_LEVEL:
        for signer, location in zip(keys[plan.name], plan.keys, strict=True):
            root.add_key(public_key(signer, location), plan.name)
        root.roles[plan.name].threshold = plan.threshold
    return root

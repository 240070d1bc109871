"""The fleet policy: canary pools, floors and revocations, signed by an offline key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import newer, sign, target_file
from model_service.trust.online import OnlineSigner
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import OFFLINE_LIFETIME, plans
from schemas.channel_documents import POLICY_PATH, POLICY_ROLE, FleetPolicy
from schemas.cohorts import SaltedShare
from schemas.errors import RegistryError
from schemas.instants import utc_now


def first_policy(groups: Mapping[str, SaltedShare], now: datetime) -> FleetPolicy:
    """A policy that has canary pools and nothing else."""
    return FleetPolicy(seq=1, canary=dict(groups), issued=now, expires=now + OFFLINE_LIFETIME)


def policy_bytes(policy: FleetPolicy) -> bytes:
    """The bytes of a policy that are signed."""
    return policy.model_dump_json().encode()


def set_policy(
    settings: ModelSettings,
    *,
    canary: Mapping[str, SaltedShare] | None = None,
    floors: Mapping[str, int] | None = None,
    revoke: Iterable[str] = (),
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> FleetPolicy:
    """Publish the policy with changes. Pools and floors replace those of the same name; floors only rise.

    Args:
        settings: Settings of the stack.
        canary: Canary pools, by group.
        floors: Lowest major, by family.
        revoke: Digests of artifacts that must not be installed any more.
        keyring: Holds the policy key; None: the keys on this machine.
        now: Clock of what is issued.

    Raises:
        RegistryError: A floor would fall.
        OperatorError: The policy key is not available.
    """
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    online = OnlineSigner.load(settings)
    with repo.locked() as published:
        before = repo.policy()
        for family, floor in (floors or {}).items():
            if floor < before.floors.get(family, 0):
                raise RegistryError(f"the floor of {family} is {before.floors[family]}: it never falls")
        at = now()
        policy = before.model_copy(
            update={
                "seq": before.seq + 1,
                "canary": {**before.canary, **(canary or {})},
                "floors": {**before.floors, **(floors or {})},
                "revoked": tuple(dict.fromkeys((*before.revoked, *revoke))),
                "issued": at,
                "expires": at + OFFLINE_LIFETIME,
            }
        )
        publish_policy(
            repo,
            published,
            FleetPolicy.model_validate(policy.model_dump()),
            keyring or Keyring(settings),
            online,
        )
    return policy


def publish_policy(
    repo: TrustRepository,
    published: PublishedState,
    policy: FleetPolicy,
    keyring: Keyring,
    online: OnlineSigner,
) -> None:
    """Sign and publish a policy. Call it within ``repo.locked()``."""
    publish_document(repo, published, POLICY_PATH, policy_bytes(policy), keyring, online)


def publish_document(
    repo: TrustRepository,
    published: PublishedState,
    path: str,
    data: bytes,
    keyring: Keyring,
    online: OnlineSigner,
) -> None:
    """Sign and publish a document of the policy role. Call it within ``repo.locked()``.

    Raises:
        OperatorError: The policy key is not available.
    """
    role = newer(published.roles[POLICY_ROLE], repo.now(), OFFLINE_LIFETIME)
    entry = target_file(path, data)
    role.targets[path] = entry
    locations = plans(published.roles)[POLICY_ROLE].keys
    signers = keyring.quorum(published.targets, POLICY_ROLE, locations)
    files = {repo.target_file(path, entry.hashes["sha256"]): data}
    online.publish(repo, published, {POLICY_ROLE: sign(role, signers)}, files)

"""Renews metadata before they expire, with the keys that are available."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import newer, sign
from model_service.trust.online import OnlineSigner
from model_service.trust.policy import publish_policy
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import OFFLINE_LIFETIME, RENEW_WITHIN, plans
from schemas.channel_documents import POLICY_ROLE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from schemas.instants import utc_now


def renew(
    settings: ModelSettings,
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
    *,
    everything: bool = False,
) -> list[str]:
    """Renew what expires within 90 days, and snapshot and timestamp in any case.

    Args:
        settings: Settings of the stack.
        keyring: Available keys; None: those on this machine.
        now: Clock of what is issued.
        everything: Renew all roles, whether due or not.

    Returns:
        Names of the renewed roles.

    Raises:
        OperatorError: A role is due and too few of its keys are available.
    """
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    keys, online = keyring or Keyring(settings), OnlineSigner.load(settings)
    renewed: list[str] = []
    at = now()
    with repo.locked() as published:
        root = None
        if everything or published.root.expires - at < RENEW_WITHIN:
            following = newer(published.root, at, OFFLINE_LIFETIME)
            root = sign(following, keys.quorum(published.root, ROOT, plans(())[ROOT].keys))
            renewed.append(ROOT)
        files = _due(published, keys, at, everything=everything)
        online.publish(repo, published, files, root=root)
        renewed += [*files, SNAPSHOT, TIMESTAMP]
    # The policy's document and role change together, so they are a publication of their own.
    with repo.locked() as published:
        policy = repo.policy()
        if everything or policy.expires - at < RENEW_WITHIN:
            renewed_policy = policy.model_copy(
                update={"seq": policy.seq + 1, "issued": at, "expires": at + OFFLINE_LIFETIME}
            )
            publish_policy(repo, published, renewed_policy, keys, online)
            renewed.append(POLICY_ROLE)
    return renewed


def _due(published: PublishedState, keys: Keyring, at: datetime, *, everything: bool) -> dict[str, bytes]:
    """New files of targets and delegated roles that are due; the policy role is renewed with its document."""
    files: dict[str, bytes] = {}
    known = plans(published.roles)
    for name, role in published.roles.items():
        if name == POLICY_ROLE or not (everything or role.expires - at < RENEW_WITHIN):
            continue
        delegator = published.root if name == TARGETS else published.targets
        signers = keys.quorum(delegator, name, known[name].keys)
        files[name] = sign(newer(role, at, known[name].lifetime), signers)
    return files

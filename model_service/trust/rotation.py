"""Replaces a key by a new one, in the root or in the targets, and signs again what the key has signed.

What is visible at any moment verifies by the root and targets that are visible with it, so no reader gets a
half-done rotation. The new key is written to disk before metadata list it, and renamed to its final name
afterwards: if the process is killed at any moment, the same call completes its work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from model_service.settings import ModelSettings
from model_service.trust.keyring import NEXT, Keyring, holder, public_key
from model_service.trust.keys import load_online_key
from model_service.trust.metadata import CryptoSigner, Delegator, newer, sign
from model_service.trust.online import Lifetimes, OnlineSigner
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ENGINE, OFFLINE_LIFETIME, TOP_LEVEL_KEYS, KeyLocation, RolePlan, plans
from schemas.channel_documents import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from schemas.durable import DISK
from schemas.errors import RegistryError
from schemas.instants import utc_now

_TOP = frozenset(TOP_LEVEL_KEYS)


def rotate(
    settings: ModelSettings,
    role: str,
    held_by: str,
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> str:
    """Replace one key of a role. A device that has the new root or targets does not accept the old key.

    Args:
        settings: Settings of the stack.
        role: Such as ``root``, ``timestamp``, ``channels-broad`` or ``models-machine``.
        held_by: Holder as ``status`` names it: a process, or an offline key such as ``root-2``.
        keyring: Available keys; None: those on this machine.
        now: Clock of what is issued.

    Returns:
        Id of the new key.

    Raises:
        RegistryError: There is no such role or holder.
        OperatorError: Too few other keys are available.
    """
    keys = keyring or Keyring(settings)
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    with repo.locked() as published:
        plan = plans(published.roles).get(role)
        location = next((p for p in plan.keys if p.holder == held_by), None) if plan is not None else None
        if plan is None or location is None:
            raise RegistryError(f"no key of role {role} is held by {held_by}; see `edgeloop trust status`")
        # Step 1: the new key, on disk.
        new = keys.get_or_make(location, NEXT)
        delegator: Delegator = published.root if role in _TOP else published.targets
        if new.public_key.keyid not in delegator.get_delegated_role(role).keyids:
            # Step 2: metadata that list the new key, and those signed with it, in one publication.
            rotation = _Rotation(repo, published, settings, keys, plan, location, new)
            if role in _TOP:
                rotation.in_root()
            else:
                rotation.in_targets()
        # Step 3: the final name. A process that holds the old key ends at its next signature, and its restart
        # loads the new one.
        path = keys.path(location)
        DISK.rename(path.with_name(path.name + NEXT), path)
    OnlineSigner.load(settings).renew_if_due(repo, now())
    return str(new.public_key.keyid)


@dataclass(frozen=True)
class _Rotation:
    repo: TrustRepository
    published: PublishedState
    settings: ModelSettings
    keys: Keyring
    plan: RolePlan
    location: KeyLocation
    new: CryptoSigner

    def in_root(self) -> None:
        """Replace a key of a top-level role: a new root, signed by enough keys of the old and of the new."""
        published, now, role = self.published, self.repo.now(), self.plan.name
        root = newer(published.root, now, OFFLINE_LIFETIME)
        self._swap(root)
        signers = self.keys.quorum(published.root, ROOT, TOP_LEVEL_KEYS[ROOT])
        if role == ROOT:
            signers.append(self.new)  # readers verify a root by the one before it and by itself
        files: dict[str, bytes] = {}
        if role == TARGETS:
            old = self.keys.quorum(published.root, TARGETS, self.plan.keys)
            files[TARGETS] = sign(newer(published.targets, now, OFFLINE_LIFETIME), [*old, self.new])
        online, lost = self._online()
        online.publish(self.repo, published, files, root=sign(root, signers), root_first=lost)

    def in_targets(self) -> None:
        """Replace a key of a delegated role: new targets, and the role's next version under its new keys."""
        published, now, role = self.published, self.repo.now(), self.plan.name
        targets = newer(published.targets, now, OFFLINE_LIFETIME)
        self._swap(targets)
        signers = self.keys.quorum(published.root, TARGETS, TOP_LEVEL_KEYS[TARGETS])
        following = newer(published.roles[role], now, self.plan.lifetime)
        own = self.keys.quorum(targets, role, self.plan.keys, [self.new])
        files = {TARGETS: sign(targets, signers), role: sign(following, own)}
        OnlineSigner.load(self.settings).publish(self.repo, published, files)

    def _swap(self, delegator: Delegator) -> None:
        role = self.plan.name
        for key_id in list(delegator.get_delegated_role(role).keyids):
            if holder(delegator.get_key(key_id)) == self.location.holder:
                delegator.revoke_key(key_id, role)
        delegator.add_key(public_key(self.new, self.location), role)

    def _online(self) -> tuple[OnlineSigner, bool]:
        """Signer with the old and the new key, or the new one alone; and whether the old one is lost."""
        role, lifetimes = self.plan.name, Lifetimes.of(self.settings)
        if role not in {SNAPSHOT, TIMESTAMP}:
            return OnlineSigner.load(self.settings), False
        if self.keys.holds(self.location, self.published.root.get_delegated_role(role).keyids):
            folder = self.settings.keys / ENGINE
            pair = load_online_key(folder, SNAPSHOT), load_online_key(folder, TIMESTAMP)
            return OnlineSigner(*pair, lifetimes, also=[self.new]), False
        other = load_online_key(self.settings.keys / ENGINE, SNAPSHOT if role == TIMESTAMP else TIMESTAMP)
        return OnlineSigner(other, other, lifetimes, also=[self.new]), True

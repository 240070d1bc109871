"""Raises metadata versions above those that devices know: the trust step after a restore.

A device never takes metadata of a lower version than it has verified. So a repository that was set back must
sign everything anew above the highest version that any device reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring
from model_service.trust.metadata import Snapshot, Targets, Timestamp, newer, sign
from model_service.trust.online import OnlineSigner, write_root
from model_service.trust.policy import publish_policy
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import OFFLINE_LIFETIME, plans
from schemas.channel_documents import POLICY_ROLE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from schemas.errors import OperatorError
from schemas.instants import utc_now

LARGEST_LEAD = 10**9
"""A version further ahead of ours is no honest device's, and is ignored: versions must not run out."""
_Part = TypeVar("_Part", Snapshot, Targets, Timestamp)


@dataclass(frozen=True)
class RaisedVersions:
    """What a trust step did.

    Attributes:
        raised: New version by role.
        waiting: By role that could not be raised: the keys that are missing.
    """

    raised: Mapping[str, int]
    waiting: Mapping[str, str]


def raise_versions(
    settings: ModelSettings,
    known: Mapping[str, int],
    margin: int = 0,
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> RaisedVersions:
    """Sign every role anew above the versions that devices know.

    Roles whose keys are online are raised in any case, by ``margin`` at least: devices that have not reported
    since may know more. Roles with offline keys only where a device knows a higher version.

    Args:
        settings: Settings of the stack.
        known: Highest version that any device reports, by role.
        margin: Least rise of the online roles.
        keyring: Available keys; None: those on this machine.
        now: Clock of what is issued.

    Returns:
        What was raised, and which roles wait for offline keys.
    """
    repo = TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)
    plausible = _plausible(repo.versions(), known)
    step = _Step(repo, keyring or Keyring(settings), OnlineSigner.load(settings), plausible, margin)
    with repo.locked() as published:
        step.raise_root(published)
    with repo.locked() as published:
        step.raise_roles(published)
    with repo.locked() as published:
        step.raise_policy(published)
    versions = repo.versions()
    raised = {name: versions[name] for name in step.done}
    return RaisedVersions(raised, step.waiting)


def behind(versions: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """Roles of which a device knows a higher version than is published, with that version."""
    return {name: n for name, n in _plausible(versions, known).items() if n > versions[name]}


def _plausible(versions: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    return {
        name: n for name, n in known.items() if name in versions and 0 < n <= versions[name] + LARGEST_LEAD
    }


class _Step:
    """One trust step under way."""

    def __init__(
        self,
        repo: TrustRepository,
        keyring: Keyring,
        online: OnlineSigner,
        known: Mapping[str, int],
        margin: int,
    ) -> None:
        self._repo, self._keyring, self._online = repo, keyring, online
        self._known, self._margin = known, margin
        self.done: list[str] = []
        self.waiting: dict[str, str] = {}

    def raise_root(self, published: PublishedState) -> None:
        """Roots form a chain: each missing version is signed by the keys of the one before it."""
        root, highest = published.root, self._known.get(ROOT, 0)
        if root.version >= highest:
            return
        try:
            signers = self._keyring.quorum(root, ROOT, plans(())[ROOT].keys)
        except OperatorError as exc:
            self.waiting[ROOT] = str(exc)
            return
        # One more than any device has: those that know a root of that number keep it, and follow the next.
        while root.version <= highest:
            root = newer(root, self._repo.now(), OFFLINE_LIFETIME)
            write_root(self._repo, root.version, sign(root, signers))
        self.done.append(ROOT)

    def raise_roles(self, published: PublishedState) -> None:
        """Targets and delegated roles, then snapshot and timestamp over them, all in one publication."""
        files: dict[str, bytes] = {}
        known_plans = plans(published.roles)
        for name, role in published.roles.items():
            plan = known_plans[name]
            offline = all(location.offline for location in plan.keys)
            if name == POLICY_ROLE or (offline and self._known.get(name, 0) <= role.version):
                continue
            delegator = published.root if name == TARGETS else published.targets
            try:
                signers = self._keyring.quorum(delegator, name, plan.keys)
            except OperatorError as exc:
                self.waiting[name] = str(exc)
                continue
            following: Targets = newer(role, self._repo.now(), plan.lifetime)
            following.version = self._above(name, role.version)
            files[name] = sign(following, signers)
        self._online.publish(self._repo, self._lifted(published), files)
        self.done += [*files, SNAPSHOT, TIMESTAMP]

    def raise_policy(self, published: PublishedState) -> None:
        """The policy's role and document rise together, with the offline policy key."""
        role = published.roles.get(POLICY_ROLE)
        if role is None or self._known.get(POLICY_ROLE, 0) <= role.version:
            return
        at, policy = self._repo.now(), self._repo.policy()
        gap = self._known[POLICY_ROLE] - role.version
        raised = policy.model_copy(
            update={"seq": policy.seq + gap + 1, "issued": at, "expires": at + OFFLINE_LIFETIME}
        )
        lifted = _with_version(role, self._known[POLICY_ROLE])
        data = {**published.role_bytes, POLICY_ROLE: sign(lifted, ())}
        try:
            publish_policy(
                self._repo, replace(published, role_bytes=data), raised, self._keyring, self._online
            )
        except OperatorError as exc:
            self.waiting[POLICY_ROLE] = str(exc)
        else:
            self.done.append(POLICY_ROLE)

    def _lifted(self, published: PublishedState) -> PublishedState:
        """The published state as if snapshot and timestamp had the highest version that is known."""
        snapshot: Snapshot = _with_version(
            published.snapshot, self._above(SNAPSHOT, published.snapshot.version) - 1
        )
        timestamp: Timestamp = _with_version(
            published.timestamp, self._above(TIMESTAMP, published.timestamp.version) - 1
        )
        return replace(published, snapshot_bytes=sign(snapshot, ()), timestamp_bytes=sign(timestamp, ()))

    def _above(self, name: str, version: int) -> int:
        return max(version + self._margin, self._known.get(name, 0)) + 1


def _with_version(part: _Part, version: int) -> _Part:
    lifted = newer(part, utc_now(), OFFLINE_LIFETIME)
    lifted.version = version
    return lifted

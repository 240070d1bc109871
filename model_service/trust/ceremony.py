"""The key ceremony: creates the repository of a stack, and makes the later changes that need offline keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

from feature_store.process_lock import exclusive
from model_service.settings import ModelSettings
from model_service.trust.founding import add_delegations, create_repository
from model_service.trust.keyring import Keyring
from model_service.trust.keys import PASSPHRASE_FILE
from model_service.trust.metadata_renewal import renew
from model_service.trust.online import OnlineSigner
from model_service.trust.policy import set_policy
from model_service.trust.published_files import require_unfounded, was_founded
from model_service.trust.repository import TrustRepository
from model_service.trust.role_status import KeyStatus, RoleStatus, status
from model_service.trust.roles import model_plan
from model_service.trust.rotation import rotate
from schemas.channel_documents import model_role
from schemas.cohorts import SaltedShare
from schemas.durable import DISK
from schemas.instants import utc_now

__all__ = [
    "KeyStatus",
    "RoleStatus",
    "add_family",
    "add_group",
    "hint",
    "init",
    "is_initialised",
    "open_repository",
    "renew",
    "rotate",
    "set_policy",
    "status",
]

_STAGING, _COMPLETE, _LOCK = ".trust-init", "complete", "trust-init.lock"


def is_initialised(settings: ModelSettings) -> bool:
    """Whether the stack has a repository, also one that lost files: a second one would lock out devices."""
    return was_founded(settings.repository) and not (settings.root / _STAGING / _COMPLETE).exists()


def open_repository(settings: ModelSettings, now: Callable[[], datetime] = utc_now) -> TrustRepository:
    """The stack's repository."""
    return TrustRepository(settings.repository, settings.proposals, settings.artifacts, now)


def init(
    settings: ModelSettings,
    families: Iterable[str],
    groups: Mapping[str, SaltedShare],
    report_progress: Callable[[str], None] = lambda _line: None,
    now: Callable[[], datetime] = utc_now,
) -> str:
    """Make keys and the first metadata; where these exist, add the families and groups that they lack.

    Everything is written to a staging folder and then moved into place, the timestamp last: if the process is
    killed at any moment, the next call completes its work.

    Args:
        settings: Settings of the stack.
        families: Model families; each gets a role of two keys.
        groups: By rollout group, its canary pool.
        report_progress: Called with a line of text before each step.
        now: Clock of what is issued.

    Returns:
        Where the offline keys are and how to move them away, for people.

    Raises:
        OperatorError: Families or groups must be added, and the offline keys are not available.
        DamagedFileError: The repository is gone while its keys are there.
    """
    settings.root.mkdir(parents=True, exist_ok=True)
    with exclusive(settings.root / _LOCK):
        if not is_initialised(settings):
            staging = settings.root / _STAGING
            if not (staging / _COMPLETE).exists():
                require_unfounded(settings.repository, settings.keys)
                shutil.rmtree(staging, ignore_errors=True)
                report_progress("trust: making root, targets, policy and process keys")
                create_repository(settings.model_copy(update={"root": staging}), families, groups, now())
                (staging / _COMPLETE).touch()
                DISK.sync_folder(staging)
            _move_into_place(staging, settings.root)
            report_progress("trust: the repository is signed")
        shutil.rmtree(settings.root / _STAGING, ignore_errors=True)
        repo = open_repository(settings, now)
        for family in families:
            if model_role(family) not in repo.versions():
                report_progress(f"trust: adding family {family}")
                add_family(settings, family, now=now)
        for group, pool in groups.items():
            if group not in repo.policy().canary:
                report_progress(f"trust: adding group {group}")
                add_group(settings, group, pool, now=now)
    return hint(settings)


def add_family(
    settings: ModelSettings,
    family: str,
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> None:
    """Delegate ``models/<family>/*`` to keys of trainer and gate, which are made where they do not exist yet.

    Raises:
        OperatorError: Two of the targets keys are not available.
    """
    repo = open_repository(settings, now)
    add_delegations(repo, keyring or Keyring(settings), OnlineSigner.load(settings), [model_plan(family)])


def add_group(
    settings: ModelSettings,
    group: str,
    pool: SaltedShare,
    keyring: Keyring | None = None,
    now: Callable[[], datetime] = utc_now,
) -> None:
    """Add the group's canary pool to the policy.

    Raises:
        OperatorError: The policy key is not available.
    """
    set_policy(settings, canary={group: pool}, keyring=keyring, now=now)


def hint(settings: ModelSettings) -> str:
    """Where the offline keys are, and how to move them away, for people."""
    folder = settings.offline_keys
    return (
        f"Offline keys (root-1..3, targets-1..3, policy, person, operator) lie encrypted in {folder}; the "
        f"passphrase is in {folder / PASSPHRASE_FILE}. Take both away, apart from each other: the passphrase "
        "into your password store, each numbered key to a medium of its own (two of three are enough to "
        "sign). Devices and processes never need them; `edgeloop trust rotate|renew|policy --offline-keys "
        "FOLDER` does."
    )


def _move_into_place(staging: Path, root: Path) -> None:
    # Readers start from the timestamp: while it is missing there is no repository, so it is moved last.
    files = [p for p in staging.rglob("*") if p.is_file() and p.name != _COMPLETE]
    for file in sorted(files, key=lambda p: (p.name == "timestamp.json", p)):
        target = root / file.relative_to(staging)
        private = file.stat().st_mode & 0o077 == 0
        DISK.make_folder(target.parent, private=private)
        DISK.rename(file, target)
